//! The registry behind a Consul-compatible API: nodes, services, checks and the KV store as one deterministic state
//! machine.
//!
//! [`Registry::apply`] takes a [`Command`] at a point in time and changes the state; the shell then asks
//! [`Registry::take_changes`] whom to wake, and [`Registry::next_timeout`] when to send [`Command::Tick`]. Reads are
//! plain methods; each has a [`Watch`] whose index says whether its answer may have changed.
//!
//! What it is *not*: it has no clock, no socket and no disk, does not know HTTP or the API's JSON, and has no sessions,
//! no access lists and no prepared queries. The only serde here is the snapshot's.
//!
//! Source: Consul's HTTP API documentation (agent checks, catalog, health, KV, blocking queries).
//!
//! Invariants, each tested after every command of random runs:
//! - no watch's index ever goes back, not by a deletion and not by a restart from a snapshot;
//! - a command that changes what a watch shows raises that watch's index, and names it in the changes;
//! - a command about one service changes the index of no other service (nor of another key or prefix);
//! - renewing a check that passes changes no index;
//! - the number of services, checks, keys and remembered deletions is bounded.
//!
//! ```
//! use registry::{Answer, Command, KvWrite, Registry, Watch};
//! use stdx::Instant;
//!
//! let mut registry = Registry::new();
//! let create = Command::KvPut(KvWrite { key: "k".into(), value: b"v".to_vec(), flags: 0, cas: Some(0) });
//! let waiting_for = Watch::Key("k".into());
//! assert_eq!(registry.index_of(&waiting_for), 1);
//! assert_eq!(registry.apply(Instant::ZERO, create.clone()), Answer::Done);
//! assert!(registry.take_changes().contains(&waiting_for));
//! assert_eq!(registry.index_of(&waiting_for), 2);
//! assert_eq!(registry.apply(Instant::ZERO, create), Answer::NotSwapped);
//! ```

mod catalog;
mod command;
mod deadlines;
mod kv;
mod machine;
mod model;
mod snapshot;
mod watch;

pub use command::{Answer, Command, KvWrite, Refusal};
pub use kv::KvEntry;
pub use machine::{Limits, Registry};
pub use model::{Check, CheckDefinition, Node, NodeDefinition, Service, ServiceDefinition, Status, Weights};
pub use snapshot::SnapshotError;
pub use watch::Watch;

#[cfg(test)]
mod machine_test;
#[cfg(test)]
mod property_test;
