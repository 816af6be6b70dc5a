use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is said about a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDefinition {
    /// Unique.
    pub name: String,
    /// A UUID, or empty.
    pub id: String,
    /// Its address; instances without one of their own are reached there.
    pub address: String,
    /// Addresses by network (`lan`, `wan`).
    pub tagged_addresses: BTreeMap<String, String>,
    /// Free pairs.
    pub meta: BTreeMap<String, String>,
}

/// What is said about an instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    /// Unique on its node.
    pub id: String,
    /// The name that all instances share.
    pub name: String,
    /// Free words.
    pub tags: Vec<String>,
    /// Free pairs.
    pub meta: BTreeMap<String, String>,
    /// Its own address; empty means its node's.
    pub address: String,
    /// Its port; 0 when it has none.
    pub port: u16,
    /// Addresses and ports by network.
    pub tagged_addresses: BTreeMap<String, (String, u16)>,
    /// Its share of the load by state, for DNS.
    pub weights: Weights,
    /// Whether others may change its tags in the catalogue.
    pub enable_tag_override: bool,
}

/// An instance's share of the load, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// While it passes.
    pub passing: u32,
    /// While it warns.
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { passing: 1, warning: 1 }
    }
}

/// What is said about a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// Unique on its node.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Free text for people.
    pub notes: String,
    /// The instance it belongs to; none for a check of the whole node.
    pub service_id: Option<String>,
    /// The state it starts in.
    pub status: Status,
    /// What it says at the start.
    pub output: String,
    /// How long after its last renewal it turns critical; none if somebody else sets its state.
    pub ttl: Option<Duration>,
    /// How long after it has turned critical its instance is deregistered; none for never.
    pub deregister_after: Option<Duration>,
}

/// The states of a check, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// All is well.
    Passing,
    /// It works, but somebody should look.
    Warning,
    /// It does not work, or has not been heard of in time.
    Critical,
}

impl Status {
    /// The state that Consul calls `word`.
    pub fn parse(word: &str) -> Option<Status> {
        match word {
            "passing" => Some(Status::Passing),
            "warning" => Some(Status::Warning),
            "critical" => Some(Status::Critical),
            _ => None,
        }
    }
}

/// Consul's word.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Passing => "passing",
            Status::Warning => "warning",
            Status::Critical => "critical",
        })
    }
}

/// A node of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What was said about it.
    pub definition: NodeDefinition,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which it last changed.
    pub modify_index: u64,
}

/// An instance of a service in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What was said about it.
    pub definition: ServiceDefinition,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which it last changed.
    pub modify_index: u64,
}

/// A check with its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was said about it. Its `status` and `output` are those it started with.
    pub definition: CheckDefinition,
    /// Its state now.
    pub status: Status,
    /// What it said last.
    pub output: String,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which its definition or its state last changed.
    pub modify_index: u64,
}
