//! The Rust clients of discovery and of the gateway, for services, the chaos programs and the command line.
//!
//! - [`consul`]: a small typed client of the Consul HTTP API. It uses documented calls only, so a real Consul can stand
//!   in our discovery's place.
//! - [`registration`]: keeps one service registered and its TTL check fresh.
//! - [`fleet`]: the view of the ring and the nodes' addresses, followed by blocking queries.
//! - [`gateway`]: the HTTP client of the gateway.
//! - [`backup`]: a bucket to a file, and back.
//! - [`ring_forming`]: how a storage node enters the ring's view, and how it gets its incarnation.
//!
//! What this crate is *not*: it decides nothing about ownership (that is `membership`), and nothing about who is alive
//! (connections tell). Discovery is needed to start and to change the membership, never to read or write data.
//!
//! Invariants: no call waits longer than its stated bound; a directory keeps the last fleet it knew when discovery is
//! gone, and never goes back to an older epoch of the same cluster.
//!
//! Source: Consul's HTTP API documentation (blocking queries, consistency modes, KV store, agent checks).

mod backoff;
pub mod backup;
pub mod consul;
mod consul_line;
mod consul_types;
pub mod fleet;
mod fleet_cache;
pub mod gateway;
pub mod registration;
pub mod ring_changes;
pub mod ring_forming;
