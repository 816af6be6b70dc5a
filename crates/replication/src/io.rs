//! The core's two faces: what it is told, and what it wants done.

use membership::{NodeId, Position, View};
use stdx::{Instant, TraceContext};

use crate::cut::{Scan, ScanOutcome};
use crate::message::{LogPosition, Message, Record};
use crate::transfer::ArcPrint;
use crate::types::{Operation, Outcome, Receipt};

/// Names a client operation at this node until it is answered; chosen by the shell, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's operation, to coordinate. Answered exactly once, by `deadline` at the latest.
    Operation {
        /// Whom to answer.
        ticket: Ticket,
        /// What to do.
        operation: Operation,
        /// When the client stops waiting.
        deadline: Instant,
        /// The shell's wall clock, milliseconds of the Unix epoch; ages the request memory, orders nothing.
        wall_ms: u64,
        /// The trace it belongs to.
        context: TraceContext,
    },
    /// A question about a bucket's keys on a stretch of the ring. Answered exactly once, by `deadline` at the latest.
    Scan {
        /// Whom to answer.
        ticket: Ticket,
        /// What is wanted.
        scan: Scan,
        /// When the asker stops waiting.
        deadline: Instant,
        /// The trace it belongs to.
        context: TraceContext,
    },
    /// A message from another replica.
    Message {
        /// The sender.
        from: NodeId,
        /// The number of the sender's start; of two processes with one identity the later one is heeded.
        incarnation: u64,
        /// What it says.
        message: Message,
        /// The trace it belongs to.
        context: TraceContext,
    },
    /// Everything up to this log position is durable.
    Synced(LogPosition),
    /// The disk is full (true): take no more writes; or has room again (false).
    DiskFull(bool),
    /// The connection to a node broke: do not wait for its answers.
    PeerLost(NodeId),
    /// A node can be reached (again).
    PeerFound(NodeId),
    /// A newer view.
    View(View),
    /// End values whose time is up by the shell's wall clock, milliseconds of the Unix epoch, though nobody asks for
    /// them. Once in a while is enough: whoever does ask finds them over anyway.
    EndDue {
        /// The clock.
        wall_ms: u64,
    },
    /// Look for registers of deleted keys that can go; by the shell's wall clock, milliseconds of the Unix epoch. Each
    /// such input is one pass, so the shell sets the pace.
    Collect {
        /// The clock.
        wall_ms: u64,
    },
    /// A timer may have run out.
    Tick,
    /// Finish what is in flight and take nothing new.
    Drain,
}

/// A message to another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The receiver; never the sender itself.
    pub to: NodeId,
    /// What to say.
    pub message: Message,
    /// The trace it belongs to.
    pub context: TraceContext,
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which operation.
    pub ticket: Ticket,
    /// How it ended.
    pub outcome: Outcome,
    /// How that came about.
    pub receipt: Receipt,
}

/// What happened that people may want to see; nothing depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Catching up after a restart: this many registers are known to lag.
    CatchUp {
        /// Registers still to be fetched.
        remaining: usize,
    },
    /// All registers are as new as a majority's.
    CaughtUp,
    /// A ballot was refused and the round starts again.
    Contention {
        /// The refusing replica.
        by: NodeId,
    },
    /// A peer holds another view.
    EpochDiffers {
        /// The peer.
        peer: NodeId,
    },
    /// A newer view was taken from a peer: others of this process may want it too.
    ViewLearned(View),
    /// An arc's data was copied from a majority of its replicas.
    ArcCopied {
        /// The token at its end.
        high: Position,
        /// What is held of it here now.
        held: ArcPrint,
        /// What the last source held when it had told all: the same, unless writes were under way.
        at_source: ArcPrint,
    },
    /// An arc is confirmed: nothing that others propose at a counter up to this one is chosen from now on.
    ArcConfirmed {
        /// The token at its end.
        high: Position,
        /// Up to which counter.
        up_to: u64,
    },
    /// Registers of arcs that are not ours any more were dropped.
    Released {
        /// How many.
        registers: u64,
    },
    /// Registers of deleted keys were dropped for good.
    Collected {
        /// How many.
        registers: u64,
    },
    /// A peer spoke that is older than another process of its identity.
    PeerFenced {
        /// The identity.
        peer: NodeId,
        /// The older start.
        incarnation: u64,
    },
    /// A later start of this very node is at work: this process must end, and takes part in nothing any more.
    Superseded {
        /// The later start's number.
        by: u64,
    },
}

/// What the core wants done. The core only pushes; the shell only drains.
///
/// The shell's rule is fixed: append `persist` to the log in order, then send, then answer, then ask
/// [`crate::Replica::next_timeout`]. A message or answer that vouches for a record is held back by the core itself
/// until [`Input::Synced`] covers it, so the shell may send all it is given at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    pub(crate) persist: Vec<(LogPosition, Record)>,
    pub(crate) send: Vec<Envelope>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) scans: Vec<(Ticket, ScanOutcome)>,
    pub(crate) events: Vec<Event>,
}

/// An outbox's contents, handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Records to append, with their positions: consecutive, each position once.
    pub persist: Vec<(LogPosition, Record)>,
    /// Messages to send.
    pub send: Vec<Envelope>,
    /// Operations to answer.
    pub answers: Vec<Answer>,
    /// Scans to answer.
    pub scans: Vec<(Ticket, ScanOutcome)>,
    /// What to tell people.
    pub events: Vec<Event>,
}

impl Outbox {
    /// Takes everything out, for the shell.
    pub fn drain(&mut self) -> Effects {
        Effects {
            persist: std::mem::take(&mut self.persist),
            send: std::mem::take(&mut self.send),
            answers: std::mem::take(&mut self.answers),
            scans: std::mem::take(&mut self.scans),
            events: std::mem::take(&mut self.events),
        }
    }
}
