//! The core's two faces: what it is told, and what it wants done.

use membership::NodeId;

use crate::message::{Envelope, Peer};

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Enter the ring that `contact` belongs to. Tried again, at `contact` or at a seed, until it succeeds.
    Join {
        /// Any member.
        contact: Peer,
    },
    /// Be the first member of a ring. When seeds show that another ring lives, the two become one.
    Create,
    /// A message from another member. One that is not addressed to this member is ignored.
    Message(Envelope),
    /// The connection to a node broke. Questions to it fail at once and routes avoid it until it is heard from; it is
    /// not thereby dead.
    PeerLost(NodeId),
    /// Members that discovery believes to live, the other tokens of this node among them. They replace those given
    /// before; the member's own entry is ignored. Give them anew from time to time: what does not answer is forgotten.
    Seeds(Vec<Peer>),
    /// A timer may have run out: see [`crate::Chord::next_timeout`].
    Tick,
    /// Stop being a member, for good. To the others this is a death like any other: the corrected protocol has no other
    /// way out, and none that could go wrong. Close the connections, so that they need not wait.
    Leave,
}

/// What happened that people may want to see; nothing depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This is a member now.
    Joined {
        /// Its first successor.
        successor: Peer,
    },
    /// Nobody let this one in; it tries again.
    JoinUnanswered {
        /// How many tries failed in a row. A host whose fleet started all at once may now choose one to `Create`.
        tries: u32,
    },
    /// The first successor changed; none when the list ran dry.
    SuccessorChanged(Option<Peer>),
    /// The predecessor changed.
    PredecessorChanged(Peer),
    /// A successor did not answer and was dropped.
    SuccessorDropped(Peer),
    /// No longer a member.
    Left,
}

/// What the core wants done. The core only pushes; the shell only drains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    pub(crate) send: Vec<Envelope>,
    pub(crate) events: Vec<Event>,
}

/// An outbox's contents, handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Messages to send, each at most once; losing one is no harm. `to.node` may be the member's own node, when it
    /// holds several tokens: take those straight to the other token.
    pub send: Vec<Envelope>,
    /// What to tell people.
    pub events: Vec<Event>,
}

impl Outbox {
    /// Takes everything out, for the shell.
    pub fn drain(&mut self) -> Effects {
        Effects { send: std::mem::take(&mut self.send), events: std::mem::take(&mut self.events) }
    }
}
