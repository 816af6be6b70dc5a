use crate::model::{CheckDefinition, NodeDefinition, ServiceDefinition, Status};

/// What the registry is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a node known, or changes what is known of it.
    RegisterNode(NodeDefinition),
    /// Removes a node with its services and checks; one that is not there too.
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
    /// Writes a pair.
    KvPut(KvWrite),
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
    /// Time has passed: turn overdue checks critical, deregister the services that were critical for too long.
    Tick,
}

/// A write of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvWrite {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// A number that means something to its writer.
    pub flags: u64,
    /// Only if its modify index is this one; 0: only if there is no such pair.
    pub cas: Option<u64>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done, or there was nothing to do.
    Done,
    /// Another write came before this compare-and-set: nothing was changed.
    NotSwapped,
    /// It cannot be done: nothing was changed.
    Refused(Refusal),
}

/// Why a command cannot be done. The words are those that Consul's clients look for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// A bound is reached; something must be removed first.
    #[error("the registry is full: it holds at most {most} {what}; remove some first")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        most: usize,
    },
}
