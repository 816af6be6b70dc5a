use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is said about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Who sets its state.
    pub kind: CheckKind,
    /// How often an active check asks; zero for the others.
    pub interval: Duration,
    /// How long an active check waits for its answer; zero for the others.
    pub timeout: Duration,
    /// How many answers must differ from the state before it changes.
    pub thresholds: Thresholds,
    /// How long after it has turned critical its instance is deregistered; none for never.
    pub deregister_after: Option<Duration>,
}

/// Who sets a check's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// Whoever registered it, by registering it again.
    #[default]
    External,
    /// Its owner renews it; this long after the last renewal it turns critical.
    Ttl(Duration),
    /// The shell asks a web server.
    Http(HttpCheck),
    /// The shell opens a connection to `host:port`.
    Tcp {
        /// Where to.
        address: String,
    },
    /// The shell asks by the gRPC health protocol.
    Grpc {
        /// `host:port`, or `host:port/service`.
        target: String,
        /// Whether over TLS.
        tls: bool,
        /// Whether any certificate will do.
        tls_skip_verify: bool,
    },
    /// It follows the checks of another instance, or of another node.
    Alias {
        /// The node; empty for the check's own.
        node: String,
        /// The instance; none for the whole node.
        service: Option<String>,
    },
}

impl CheckKind {
    /// Whether the shell asks somebody for its state.
    pub fn is_active(&self) -> bool {
        matches!(self, CheckKind::Http(_) | CheckKind::Tcp { .. } | CheckKind::Grpc { .. })
    }

    /// Consul's word.
    pub fn word(&self) -> &'static str {
        match self {
            CheckKind::External => "",
            CheckKind::Ttl(_) => "ttl",
            CheckKind::Http(_) => "http",
            CheckKind::Tcp { .. } => "tcp",
            CheckKind::Grpc { .. } => "grpc",
            CheckKind::Alias { .. } => "alias",
        }
    }
}

/// What a web server is asked. 2xx passes, 429 warns, everything else is critical.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The whole address.
    pub url: String,
    /// `GET` when empty.
    pub method: String,
    /// Fields of the head.
    pub header: BTreeMap<String, Vec<String>>,
    /// What is sent.
    pub body: String,
    /// Whether any certificate will do.
    pub tls_skip_verify: bool,
    /// Whether an answer that points elsewhere is the answer.
    pub disable_redirects: bool,
}

/// How many answers in a row it takes to change a state. Zero as Consul has it: the first one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Good answers until it passes.
    pub success_before_passing: u32,
    /// Bad answers until it warns; at least as small as `failures_before_critical`.
    pub failures_before_warning: u32,
    /// Bad answers until it is critical.
    pub failures_before_critical: u32,
}

/// The states of a check, worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// All is well.
    Passing,
    /// It works, but somebody should look.
    Warning,
    /// It does not work, or has not been heard of in time. Nobody is trusted before the first answer.
    #[default]
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
