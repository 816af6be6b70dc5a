use registry::Command;
use serde::{Deserialize, Serialize};

use crate::roster::Member;

/// What replicas agree on, one by one. JSON: fields are only ever added, with a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Who asked: drawn at each start of a replica. 0: a leader's own, which needs no memory.
    pub(crate) origin: u64,
    /// Counts up in an origin.
    pub(crate) number: u64,
    /// The registry's clock in nanoseconds, as the leader read it.
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// A command for the state machine.
    Command(Box<Command>),
    /// A replica is there, at these addresses.
    Introduce(Member),
    /// A replica must go for good.
    Remove(u64),
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its maps have string keys only, so it is always JSON")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Request, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
