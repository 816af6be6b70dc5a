//! One replica of the registry: what discovery's processes agree on, and how, without a socket or a clock.
//!
//! [`Replica`] wraps a Raft core (the `raft` crate, which does no I/O either) around a [`StateMachine`] and a
//! [`Journal`]. The shell gives it inputs and the time, calls [`Replica::settle`], and does what the [`Output`]s say.
//! The simulation in this crate's tests runs the same code over simulated disks and a simulated network.
//!
//! What is ours here, beside the log's format:
//! - *Proposals act once.* Each carries its origin and number; the agreed state remembers them. So a proposal whose
//!   leader died is given to the next one without a thought, and the client sees a pause, not an error.
//! - *Time is agreed on.* Each entry carries the leader's reading of the *registry's clock*, which goes on only while
//!   there is a leader, and by at most [`Config::clock_step_max`] at a time. A new leader first gives everything that
//!   runs out its whole time anew. So nothing runs out merely because nobody could renew it.
//! - *Joining.* A replica is an identity that is drawn together with its data. Without its data it comes back as
//!   another one, which joins, catches up, and takes the old one's place in one joint change.
//! - *A dead leader is noticed* by its connections, not only by its silence.
//!
//! What it is *not*: it knows no HTTP and no address (but those that it hands on in [`Member`]s), and does not look
//! into commands.
//!
//! Invariants, held by the simulation after every event:
//! - what was answered as done is in every later state of every replica, and nothing acts twice;
//! - one leader a term; replicas that have applied as much are equal, byte for byte; an index never goes back;
//! - a read that was granted sees every command that was answered before the read began;
//! - nothing leaves a replica that vouches for what its disk may still lose;
//! - no check expires that was renewed in time as far as its owner could.
//!
//! Sources: Ongaro's thesis (2014) for Raft, pre-vote (9.6), read index (6.4) and joint consensus (4.3); the `raft`
//! crate's documentation.

mod agreed;
mod codec;
mod config;
mod duties;
mod error;
mod io;
mod journal;
mod pending;
mod replica;
mod request;
mod roster;
mod rules;
mod state_machine;

pub use codec::{Frame, FrameError};
pub use config::Config;
pub use error::{Failure, OpenError};
pub use io::{Input, NotTaken, Output, ReplicaId, Role, Status};
pub use journal::Journal;
pub use replica::Replica;
pub use roster::{Member, Roster};
pub use rules::{Rules, Sound, planted};
pub use state_machine::StateMachine;
