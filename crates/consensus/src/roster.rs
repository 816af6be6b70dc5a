use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A replica, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity, drawn with its data.
    pub id: u64,
    /// What people call it. A new identity with the same name takes the old one's place.
    pub name: String,
    /// Where other replicas reach it (`host:port`).
    pub peer: String,
    /// Where its HTTP API is reached (`host:port`).
    pub http: String,
}

/// The replicas, agreed on like everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Those that are known, by identity. Who of them votes is in Raft's configuration.
    pub members: BTreeMap<u64, Member>,
    /// How many founded it.
    pub expected: usize,
    /// Whether so many have voted at some time; before that nothing is acknowledged.
    pub formed: bool,
    /// Identities that were taken out. They never come back.
    pub removed: BTreeSet<u64>,
}
