use serde::{Deserialize, Serialize};

use crate::command::{KvLock, KvWrite};
use crate::kv::KvEntry;
use crate::model::{Check, CheckDefinition, Node, NodeDefinition, Service, ServiceDefinition};

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// Writes a pair; with `cas` only if its modify index is that one.
    KvSet(KvWrite),
    /// Writes a pair and takes its lock.
    KvLock(KvLock),
    /// Writes a pair and gives its lock back.
    KvUnlock(KvLock),
    /// Gives a pair, which must be there.
    KvGet(String),
    /// Gives a pair, or one without a value.
    KvGetOrEmpty(String),
    /// Gives all pairs under a prefix.
    KvGetTree(String),
    /// Fails unless the pair has this modify index.
    KvCheckIndex {
        /// Its key.
        key: String,
        /// The index.
        index: u64,
    },
    /// Fails unless this session holds the pair's lock.
    KvCheckSession {
        /// Its key.
        key: String,
        /// The session.
        session: String,
    },
    /// Fails if there is such a pair.
    KvCheckNotExists(String),
    /// Deletes a pair; with `cas` only if its modify index is that one.
    KvDelete {
        /// Its key.
        key: String,
        /// The index.
        cas: Option<u64>,
    },
    /// Deletes all pairs under a prefix.
    KvDeleteTree(String),
    /// Something with a node.
    Node(Verb, NodeDefinition),
    /// Something with an instance on a node.
    Service(Verb, String, ServiceDefinition),
    /// Something with a check on a node.
    Check(Verb, String, CheckDefinition),
    /// Ends a session.
    SessionDelete(String),
}

impl TxnOp {
    /// Whether it changes nothing whatever there is.
    pub fn only_reads(&self) -> bool {
        match self {
            TxnOp::KvGet(_)
            | TxnOp::KvGetOrEmpty(_)
            | TxnOp::KvGetTree(_)
            | TxnOp::KvCheckIndex { .. }
            | TxnOp::KvCheckSession { .. }
            | TxnOp::KvCheckNotExists(_) => true,
            TxnOp::Node(verb, _) | TxnOp::Service(verb, ..) | TxnOp::Check(verb, ..) => *verb == Verb::Get,
            _ => false,
        }
    }
}

/// What is done with a thing of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// It is given; it must be there.
    Get,
    /// It is written.
    Set,
    /// It is written if its modify index is this one; 0: only if it is not there.
    Cas(u64),
    /// It is removed, if it is there.
    Delete,
    /// It is removed if its modify index is this one.
    DeleteCas(u64),
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A pair. Without its value where it was written.
    Kv {
        /// Its key.
        key: String,
        /// The pair.
        entry: KvEntry,
    },
    /// A node.
    Node(Node),
    /// An instance.
    Service {
        /// Its node.
        node: String,
        /// The instance.
        service: Service,
    },
    /// A check.
    Check {
        /// Its node.
        node: String,
        /// The check.
        check: Check,
    },
}

/// Why an operation could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnError {
    /// Its place in the transaction, from 0.
    pub op: usize,
    /// Why, in Consul's words.
    pub what: String,
}
