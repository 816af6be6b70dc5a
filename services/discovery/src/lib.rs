//! Discovery: who is there, who is well, and the small KV store that holds the ring's view; in the shapes of Consul's
//! HTTP API, so that ordinary Consul clients can use it.
//!
//! The state machine is the `registry` crate, and what its replicas agree on is decided in `consensus`; here are the
//! sockets, the disk and the clock. What is *not* here: Connect,
//! prepared queries, configuration entries, peering, other datacenters. Those calls answer 501 with a sentence, and
//! nothing answers with a made-up success.
//!
//! Sources: Consul's HTTP API documentation (agent, catalog, health, kv, status; blocking queries; consistency modes).
//!
//! Invariants:
//! - a registration or KV write is acknowledged, and shown to any reader, only once it is on a majority's disks;
//! - a read shows all that was acknowledged before it began, unless it asked for `stale`;
//! - every read of the catalogue, of health and of the KV store carries an `X-Consul-Index` of at least 1, also when
//!   what was asked for does not exist;
//! - a blocking query is woken by changes of what it shows and by nothing else, and ends within its wait time and
//!   jitter;
//! - one data directory is used by one process.

mod access;
mod acl;
mod agent;
mod agreement;
mod api;
mod check_input;
mod checker;
mod dns;
mod endpoint;
mod host;
mod input;
mod kv;
mod page;
mod params;
mod peers;
mod raft_calls;
mod reads;
mod render;
mod reply;
mod serve;
mod session;
mod shapes;
mod shown;
mod snapshot;
mod tls;
mod txn;
mod units;
mod writes;

pub use access::AclConfig;
pub use serve::{Config, Discovery, Replicas, StartError, run};
pub use tls::{TlsConfig, TlsError};
