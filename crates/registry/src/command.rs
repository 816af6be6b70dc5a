use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::acl::{Policy, Token};
use crate::event::Event;
use crate::model::{CheckDefinition, NodeDefinition, ServiceDefinition, Status};
use crate::session::SessionDefinition;
use crate::txn::{TxnError, TxnOp, TxnResult};

/// What the registry is asked to do. Whatever is drawn (ids) is in it, and the time comes beside it: the same commands
/// at the same times give the same registry, wherever they are applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a node known, or changes what is known of it.
    RegisterNode(NodeDefinition),
    /// Removes a node with its services, checks and sessions; one that is not there too.
    DeregisterNode {
        /// Its name.
        node: String,
    },
    /// Registers an instance of a service with its checks. A check that it already had keeps its state.
    RegisterService {
        /// The node it runs on, which must be known.
        node: String,
        /// The instance.
        service: ServiceDefinition,
        /// Its checks; each must name the instance.
        checks: Vec<CheckDefinition>,
        /// Whether checks that it had and that are not named now go away.
        replace_checks: bool,
    },
    /// Removes an instance with its checks.
    DeregisterService {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
    },
    /// Registers a check, of an instance or of a node, in the state it is defined with.
    RegisterCheck {
        /// Its node.
        node: String,
        /// The check.
        check: CheckDefinition,
    },
    /// Removes a check.
    DeregisterCheck {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
    },
    /// Renews a TTL check in a state.
    UpdateCheck {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
        /// The state.
        status: Status,
        /// What it says.
        output: String,
    },
    /// What asking for an active check has found. It is dropped when there is no such check any more.
    CheckResult {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
        /// The state.
        status: Status,
        /// What it says.
        output: String,
    },
    /// Writes a pair.
    KvPut(KvWrite),
    /// Writes a pair and takes its lock.
    KvLock(KvLock),
    /// Writes a pair and gives its lock back.
    KvUnlock(KvLock),
    /// Deletes a pair.
    KvDelete {
        /// Its key.
        key: String,
        /// Only if its modify index is this one. 0 never matches a pair that exists.
        cas: Option<u64>,
    },
    /// Deletes all pairs under a prefix.
    KvDeleteTree {
        /// The prefix.
        prefix: String,
    },
    /// Begins a session.
    CreateSession(SessionDefinition),
    /// Renews a session.
    RenewSession {
        /// Its id.
        id: String,
    },
    /// Ends a session; one that is not there too.
    DestroySession {
        /// Its id.
        id: String,
    },
    /// Tells an event to whoever listens.
    FireEvent(Event),
    /// Does several things or none of them.
    Txn(Vec<TxnOp>),
    /// Creates or changes a policy of the access lists.
    SetPolicy(Policy),
    /// Removes a policy.
    DeletePolicy {
        /// Its id.
        id: String,
    },
    /// Creates or changes a token of the access lists.
    SetToken(Token),
    /// Removes a token.
    DeleteToken {
        /// Its accessor id.
        accessor: String,
    },
    /// Creates the first token that may do everything; refused once there was one.
    BootstrapAcl(Token),
    /// Replaces everything by what a snapshot holds; the index goes on, and every reader is woken.
    Restore {
        /// What [`crate::Registry::encode`] gave.
        #[serde(with = "crate::map::bytes")]
        snapshot: Vec<u8>,
    },
    /// Nobody could renew anything for a while: each check and session gets its whole time anew.
    GiveTime,
    /// Time has passed: turn overdue checks critical, deregister the services that were critical for too long, end the
    /// sessions that nobody renewed.
    Tick,
}

/// A write of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvWrite {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(with = "crate::map::bytes")]
    pub value: Vec<u8>,
    /// A number that means something to its writer.
    pub flags: u64,
    /// Only if its modify index is this one; 0: only if there is no such pair.
    pub cas: Option<u64>,
}

/// A write of a pair that takes or gives back its lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvLock {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(with = "crate::map::bytes")]
    pub value: Vec<u8>,
    /// A number that means something to its writer.
    pub flags: u64,
    /// The session that locks.
    pub session: String,
}

impl KvLock {
    /// The write alone.
    pub(crate) fn write(self) -> KvWrite {
        KvWrite { key: self.key, value: self.value, flags: self.flags, cas: None }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It was done, or there was nothing to do.
    Done,
    /// Another write came before this compare-and-set, or another session holds the lock: nothing was changed.
    NotSwapped,
    /// It cannot be done: nothing was changed.
    Refused(Refusal),
    /// The transaction was done; what its operations gave.
    Txn(Vec<TxnResult>),
    /// The transaction was not done; why, operation by operation.
    TxnFailed(Vec<TxnError>),
}

/// What became of one change of the KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    NotSwapped,
    /// The last holder's session ended a short while ago.
    LockDelayed,
    Refused(Refusal),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Done => Answer::Done,
            Outcome::NotSwapped | Outcome::LockDelayed => Answer::NotSwapped,
            Outcome::Refused(refusal) => Answer::Refused(refusal),
        }
    }
}

/// Why a command cannot be done. The words are those that Consul's clients look for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// No such node.
    #[error("Unknown node {0:?}")]
    UnknownNode(String),
    /// No such instance. Clients register again when they see it.
    #[error("Unknown service ID {0:?}. Ensure that the service ID is passed, not the service name.")]
    UnknownService(String),
    /// No such check. Clients register again when they see it.
    #[error("Unknown check ID {0:?}. Ensure that the check ID is passed, not the check name.")]
    UnknownCheck(String),
    /// The check is not renewed by its owner.
    #[error("CheckID {0:?} does not have associated TTL")]
    NoTtl(String),
    /// No such session to lock with.
    #[error("invalid session {0:?}")]
    UnknownSession(String),
    /// No such session to renew.
    #[error("Session id '{0}' not found")]
    NoSession(String),
    /// A session cannot live on a node that is not there.
    #[error("Missing node registration")]
    NoNodeForSession,
    /// A session cannot hang on a check that is not there.
    #[error("Missing check '{0}' registration")]
    NoCheckForSession(String),
    /// A session cannot begin while one of its checks is critical.
    #[error("Check '{0}' is in critical state")]
    CheckCritical(String),
    /// What the access lists cannot take.
    #[error("{0}")]
    Acl(String),
    /// The bytes are no snapshot of this registry.
    #[error("the snapshot cannot be restored: {0}")]
    Snapshot(String),
    /// A bound is reached; something must be removed first.
    #[error("the registry is full: it holds at most {most} {what}; remove some first")]
    Full {
        /// What there is too much of.
        what: Cow<'static, str>,
        /// The bound.
        most: usize,
    },
}

impl Refusal {
    pub(crate) fn full(what: &'static str, most: usize) -> Refusal {
        Refusal::Full { what: Cow::Borrowed(what), most }
    }
}
