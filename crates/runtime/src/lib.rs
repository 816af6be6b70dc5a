//! The shells' common parts: connections between nodes, the thread that owns the log, and the clock.
//!
//! - [`Peers`] keeps persistent TCP connections, says who is up, and carries frames and calls over them. A connection
//!   that breaks fails every call that waits on it at once: that is what makes failover instant.
//! - [`LogThread`] owns the log: group commit on a thread of its own, and the conversation by which the log is cleaned.
//! - [`Clock`] turns the machine's clocks into what the cores take as arguments.
//!
//! What this crate is *not*: it takes no decision that a simulation would want to see. Retries, hedges, quorums and
//! ownership belong to the cores and services; a lost frame is simply lost here, and said to be so where that is known.
//!
//! Invariants, each with a test:
//! - nothing here waits for a peer: what a slow peer does not take is refused to the sender, bounded by [`Limits`];
//! - a call ends by its deadline, and at once when its connection breaks;
//! - no byte that a stranger sends does more than close the stranger's own connection;
//! - another cluster, another protocol, a wrong node and an outdated incarnation get no frame and send none.

mod clock;
mod log_thread;
#[cfg(test)]
mod log_thread_test;
mod peers;

pub use clock::Clock;
pub use log_thread::{LogEvent, LogThread};
pub use peers::{CallError, ConnectError, ConnectionId, Limits, PeerEvent, Peers};
