//! The gateway: Everring's HTTP interface. It turns requests into operations on registers, has one of the key's
//! replicas coordinate them, and turns the outcome into an answer, or into a typed problem (RFC 9457) within the
//! deadline.
//!
//! - Which replica is asked when is decided by the `dispatch` crate, which is pure; the simulator runs it too.
//! - [`routes`], [`words`], [`range`], [`token`] and [`buckets`] are pure as well: text in, words out.
//! - The rest is shell: [`nodes`] (framed TCP to the storage nodes), `ask` (drives a dispatch), and the handlers
//!   (`records`, `locks`, `watches`, …).
//!
//! What it is *not*: it keeps no data, takes part in no agreement and elects nobody. Any number of gateways may run,
//! and each may die at any moment. It does not judge who is alive: it asks, and moves on.
//!
//! Invariants:
//! - every answer is what was asked for or a problem with a code; never a bare 500, never silence past the deadline;
//! - a write is answered as `not-done` only if surely no replica acted, and as `unknown` if one may have;
//! - what is documented and not offered is refused, and never passed over in silence;
//! - at most [`gateway::IN_FLIGHT_MAX`] requests are in progress; the rest is refused at once.
//!
//! Sources: RFC 9110 (conditions, ranges), RFC 9457 (problems), the Idempotency-Key draft, W3C Trace Context; Dean and
//! Barroso, "The Tail at Scale" (2013), for hedged requests.

mod answers;
mod ask;
mod available_answers;
mod available_ask;
mod available_records;
mod backups;
mod batch;
mod bucket_calls;
pub mod buckets;
mod catalog;
pub mod contexts;
pub mod cursors;
mod explain;
mod first_sight;
pub mod gateway;
mod listing;
mod locks;
mod metrics;
pub mod nodes;
mod pages;
pub mod problem;
pub mod range;
mod records;
mod router_client;
pub mod routes;
mod run;
mod scans;
mod server;
mod statuses;
pub mod token;
mod watches;
pub mod words;

pub use metrics::Metrics;
pub use router_client::RouterClient;
pub use run::{Config, StartError, run};
pub use server::{configure, typed};
