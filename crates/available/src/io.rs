//! The core's two faces: what it is told, and what it wants done.

use membership::{NodeId, Position, View};
use replication::{LogPosition, Ticket};
use stdx::{Instant, TraceContext};

use crate::message::{Message, Record};
use crate::operation::{Operation, Outcome, Receipt};

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
    /// A message from another replica.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
        /// The trace it belongs to.
        context: TraceContext,
    },
    /// Everything up to this log position is durable.
    Synced(LogPosition),
    /// The disk is full (true): take no more writes; or has room again (false).
    DiskFull(bool),
    /// The connection to a node broke.
    PeerLost(NodeId),
    /// A node can be reached (again).
    PeerFound(NodeId),
    /// A newer view.
    View(View),
    /// A timer may have run out; the shell's wall clock, as above.
    Tick {
        /// Milliseconds of the Unix epoch.
        wall_ms: u64,
    },
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
    /// A replica that had lost its data has it again, and counts.
    Whole,
    /// A pass of reconciliation with a peer ended.
    Reconciled {
        /// The peer.
        peer: NodeId,
        /// States that were fetched.
        fetched: usize,
        /// States that were sent.
        sent: usize,
    },
    /// A late copy of what is gone was turned away.
    StaleRefused,
    /// Tombstones were dropped here.
    Buried {
        /// How many.
        count: usize,
    },
    /// A peer holds another view.
    EpochDiffers {
        /// The peer.
        peer: NodeId,
    },
    /// A newer view came from a peer, and is in force here.
    ViewLearned(View),
    /// An arc that a change makes us a home of is copied.
    ArcCopied {
        /// The token at its end.
        high: Position,
        /// Keys of it that are held here, tombstones included.
        keys: u64,
        /// How many homes in charge counted and fingerprinted the same at the end of a pass. Where there were writes
        /// meanwhile it can be none.
        verified_with: usize,
    },
    /// Keys were dropped that other nodes are in charge of now.
    Released {
        /// How many.
        keys: usize,
    },
}

/// What the core wants done. The core only pushes; the shell only drains.
///
/// The shell's rule is that of crate `replication`: append `persist` in order, then send, then answer, then ask for the
/// next timeout. Whatever must wait for the disk is held back by the core itself until [`Input::Synced`] covers it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    pub(crate) persist: Vec<(LogPosition, Record)>,
    pub(crate) send: Vec<Envelope>,
    pub(crate) answers: Vec<Answer>,
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
            events: std::mem::take(&mut self.events),
        }
    }
}
