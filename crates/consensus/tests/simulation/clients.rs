//! Those who use the replicas: writers with a key each, readers, owners of checks, and rivals for a lock.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::{CheckDefinition, CheckKind, Command, KvWrite, NodeDefinition, ServiceDefinition, Status};

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// The node and the services that the checks belong to.
    Setup,
    /// The key's writer writes a number greater than all before.
    Write { key: u64, value: u64 },
    /// Somebody reads a key, of which `least` had been seen.
    Read { key: u64, least: u64 },
    /// The owner of a check renews it.
    Renew,
    /// A rival takes the lock.
    Take { rival: u64 },
    /// It is given back, if it still is what it was at an index.
    Give { rival: u64, index: u64 },
}

/// The key that rivals compete for.
pub const LOCK: &str = "lock";
pub const KEYS: u64 = 3;
pub const TTL: Duration = Duration::from_secs(3);
/// How often a check is renewed, at every replica that runs.
pub const RENEW_EVERY: Duration = Duration::from_millis(700);

pub fn key_name(key: u64) -> String {
    format!("k{key}")
}

pub fn write(key: u64, value: u64) -> Command {
    put(key_name(key), value.to_string(), None)
}

pub fn take(rival: u64) -> Command {
    put(LOCK.into(), rival.to_string(), Some(0))
}

pub fn give(index: u64) -> Command {
    Command::KvDelete { key: LOCK.into(), cas: Some(index) }
}

fn put(key: String, value: String, cas: Option<u64>) -> Command {
    Command::KvPut(KvWrite { key, value: value.into_bytes(), flags: 0, cas })
}

pub fn renew() -> Command {
    Command::UpdateCheck { node: "n".into(), id: "c".into(), status: Status::Passing, output: String::new() }
}

/// The number under a key; 0 when there is none.
pub fn value_of(registry: &registry::Registry, key: u64) -> u64 {
    let text = registry.kv(&key_name(key)).map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub fn setup() -> [Command; 2] {
    let node = NodeDefinition {
        name: "n".into(),
        id: String::new(),
        address: "127.0.0.1".into(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
    };
    let service = ServiceDefinition { id: "s".into(), name: "s".into(), ..ServiceDefinition::default() };
    let check = CheckDefinition {
        id: "c".into(),
        service_id: Some("s".into()),
        status: Status::Passing,
        kind: CheckKind::Ttl(TTL),
        ..CheckDefinition::default()
    };
    let register = Command::RegisterService { node: "n".into(), service, checks: vec![check], replace_checks: false };
    [Command::RegisterNode(node), register]
}
