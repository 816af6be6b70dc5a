//! The registry behind a Consul-compatible API: nodes, services, checks, the KV store, sessions, events and access
//! lists as one deterministic state machine.
//!
//! [`Registry::apply`] takes a [`Command`] at a point in time and changes the state; the shell then asks
//! [`Registry::take_changes`] whom to wake, and [`Registry::next_timeout`] when to send [`Command::Tick`]. Reads are
//! plain methods; each has a [`Watch`] whose index says whether its answer may have changed.
//!
//! Every change is one [`Command`], which can be written down (serde): it holds whatever is drawn by chance, and the
//! time comes beside it. The same commands at the same times give the same registry, also from a snapshot on
//! ([`Registry::from_image`]); so replicas that agree on the commands agree on everything. A copy
//! (`Clone`) shares what it has in common with its original: readers look at one while the next command is applied.
//!
//! What it is *not*: it has no clock, no socket and no disk, does not know HTTP or the API's JSON, asks nobody whether
//! a service is well (the shell does, and says so by [`Command::CheckResult`]), and has no prepared queries.
//!
//! Source: Consul's HTTP API documentation (agent checks, catalog, health, KV, sessions, transactions,
//! access lists, filters, blocking queries).
//!
//! Invariants, each tested after every command of random runs:
//! - no watch's index ever goes back, not by a deletion and not by a restart from a snapshot;
//! - a command that changes what a watch shows raises that watch's index, and names it in the changes;
//! - a command about one service changes the index of no other service (nor of another key or prefix);
//! - renewing a check that passes changes no index;
//! - a lock is held by a session that lives; a session's node is there and its checks are not critical;
//! - a transaction that fails changes nothing;
//! - a replica that begins from a snapshot never differs from one that has applied everything;
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

mod acl;
mod acl_rules;
mod apply;
mod catalog;
mod command;
mod deadlines;
mod event;
pub mod filter;
mod filter_parse;
mod kv;
mod machine;
mod map;
mod model;
mod session;
mod snapshot;
mod txn;
mod txn_apply;
mod watch;

pub use acl::{ANONYMOUS, Authorizer, GLOBAL_MANAGEMENT, Policy, Token};
pub use acl_rules::{Access, Resource, Rules, RulesError};
pub use command::{Answer, Command, KvLock, KvWrite, Refusal};
pub use event::Event;
pub use kv::KvEntry;
pub use machine::{Limits, Registry};
pub use model::{
    Check, CheckDefinition, CheckKind, HttpCheck, Node, NodeDefinition, Service, ServiceDefinition, Status, Thresholds,
    Weights,
};
pub use session::{Behavior, Session, SessionDefinition};
pub use snapshot::SnapshotError;
pub use txn::{TxnError, TxnOp, TxnResult, Verb};
pub use watch::Watch;

#[cfg(test)]
mod filter_test;
#[cfg(test)]
mod machine_test;
#[cfg(test)]
mod property_test;
#[cfg(test)]
mod session_test;
