//! Chord's ring maintenance and lookup as a pure state machine: `Chord::handle(now, input, &mut outbox)`.
//!
//! One [`Chord`] value is one *member*: one token of one node. A node with several tokens keeps several values and
//! takes each envelope to the one at `to.position`. All time comes in as `now`, all chance from the generator given
//! to `new`.
//!
//! What this crate is *not*: it opens no socket, reads no clock, holds no address and no data. It does not decide who
//! owns a key: even a correct ring needs a perfect failure detector, which nobody has, so what it says is a routing
//! hint, and ownership is checked by the view's epoch where the data is.
//!
//! Sources. The protocol is Zave's corrected one ("Reasoning about identifier spaces: how to make Chord correct",
//! IEEE TSE 2017, arXiv 1610.01140); lookup and fingers are from Stoica et al. (SIGCOMM 2001). The published protocol
//! of 2001 loses rings for good; it lives on here as the planted bug [`rules::Published2001`].
//!
//! Invariants, each a function of [`invariants`] that the simulation in [`testing`] calls after every event. They hold
//! as long as failure detection is accurate and no member loses its whole successor list between two repairs:
//! - every member has a live successor (or is its own, when it is alone);
//! - the members that can reach themselves form exactly one ring, in the order of the circle;
//! - every other member reaches the ring by its successors;
//! - no member is in its own list, and lists follow the circle.
//!
//! When detection is *not* accurate these may break for a while; then periodic repair, entries of neighbours' lists and
//! the seeds that discovery gives ([`Input::Seeds`]) lead back to the ideal ring, which the simulation checks too.
//!
//! Three departures from the paper, each for a reason:
//! - Lists grow shorter when a dead entry is dropped, where the paper appends an invented entry: nothing reads that
//!   entry.
//! - The paper starts with r + 1 members; here a ring grows from one, whose empty list stands for "my successor is me".
//! - A better successor may also come from a seed or from a list entry that lies before the head, not only from the
//!   head's predecessor. It is asked itself before it is adopted, like any other.
//!
//! For the host: one member of a fleet is told to `Create`, the others to `Join`. When the whole fleet starts anew
//! nobody can let anybody in; [`Event::JoinUnanswered`] says so, and any of them may then `Create`, several too:
//! seeds, given to all from time to time, make one ring of what they begin.
//!
//! ```
//! use chord::{Chord, Config, Input, NextHop, Outbox, Peer};
//! use membership::{NodeId, Position};
//! use stdx::{Instant, Prng};
//!
//! let me = Peer { position: Position(7), node: NodeId(1) };
//! let mut chord = Chord::new(me, Config::default(), Prng::from_seed(1));
//! chord.handle(Instant::ZERO, Input::Create, &mut Outbox::default());
//! assert_eq!(chord.next_hop(Position(42)), NextHop::Owner(me));
//! ```

mod calls;
mod config;
mod fingers;
pub mod invariants;
mod io;
mod join;
mod lookup;
mod member;
mod message;
pub mod rules;
mod stabilize;
mod successors;
pub mod testing;
pub mod walk;

pub use config::{Config, ConfigError};
pub use io::{Effects, Event, Input, Outbox};
pub use member::{CALLS_MAX, Chord, SEEDS_MAX, SUSPECTS_MAX};
pub use message::{Body, CallId, Envelope, NextHop, Peer};
pub use rules::{Correct, Rules};
