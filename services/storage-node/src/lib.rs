//! A storage node: a member of the Chord ring that keeps registers, replicates them and coordinates operations on them.
//!
//! All decisions are taken by the cores (`replication`, `chord`), which the simulator runs too. Here are their socket,
//! disk and clock: one loop takes in frames, finished syncs, changes of the fleet and timers, calls the cores, and
//! carries out what they want.
//!
//! What it is *not*: it does not speak HTTP to clients (the gateway does) and does not decide who belongs to the ring
//! (the view in discovery does).
//!
//! Invariants:
//! - nothing is said that vouches for a record before the record is synced (the core holds it back);
//! - one process uses a data directory; a directory of another cluster or node is refused;
//! - a node that lost its data, or found it damaged at its start, or started on a copy of it or on an older state of
//!   it, comes back as a new member: it must not vote as if it remembered;
//! - a member that is away for longer than the grace period is taken out of the ring, so that its keys have all their
//!   copies again; one that was taken out comes back as a new member;
//! - damage that is found while the node runs is mended from memory; nothing that is damaged is ever read as absent;
//! - when the disk fails, the process ends.

mod absences;
mod available_keys;
mod cleaning;
mod doubt;
mod host;
mod http;
mod node_loop;
mod recent_requests;
mod scrub;
mod serve;
mod span_book;
mod start;
mod status;
mod sweep;
mod timings;

pub use node_loop::Parting;
pub use scrub::{BYTES_PER_SECOND_DEFAULT, ScrubStatus};
pub use serve::{Config, Farewell, Node, StartError, run};
pub use start::RETIRED_FILE;
pub use status::{Copying, State, Status};
