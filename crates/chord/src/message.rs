//! What ring members say to each other. Ten bodies; every question carries the asker's [`CallId`] and every answer
//! returns it, so that a late, repeated or forged answer is recognised by the asker's table of open calls alone.

use std::fmt;

use membership::{NodeId, Position};

/// One ring member: one token of a node. A node with sixteen tokens is sixteen members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its place on the circle, which is its identity in the ring: no two members share one.
    pub position: Position,
    /// The node that holds the token; where to send.
    pub node: NodeId,
}

/// Numbers a member's questions; an answer to a question that is not open is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A message between two members. The shell takes it to `to.node` and hands it to the token at `to.position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub from: Peer,
    /// The receiver.
    pub to: Peer,
    /// What it says.
    pub body: Body,
}

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Tell me your predecessor and your successor list: what stabilize and the second step of join read.
    Pull {
        /// The asker's call.
        call: CallId,
    },
    /// The answer to [`Body::Pull`]. Only a member answers.
    Pulled {
        /// The call it answers.
        call: CallId,
        /// Who it believes comes before it.
        predecessor: Option<Peer>,
        /// Who it believes comes after it, nearest first; empty when it is alone.
        successors: Vec<Peer>,
    },
    /// I believe that I am your predecessor: rectify. Not answered.
    Notify,
    /// Are you there?
    Ping {
        /// The asker's call.
        call: CallId,
    },
    /// I am. Only a member answers.
    Pong {
        /// The call it answers.
        call: CallId,
    },
    /// Who is the first member at or after `target`? Passed on from member to member; the last answers `origin`.
    FindSuccessor {
        /// The origin's call.
        call: CallId,
        /// The point asked for.
        target: Position,
        /// Who wants to know.
        origin: Peer,
        /// How many members have received it before this one.
        hops: u32,
    },
    /// The answer to [`Body::FindSuccessor`], straight to its origin.
    Found {
        /// The origin's call.
        call: CallId,
        /// The first member at or after the target, as far as the answerer knows.
        successor: Peer,
        /// How many members received the question, the answerer included.
        hops: u32,
    },
}

/// What a member knows about the way to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// This is the first member at or after the position, as far as the asked member knows.
    Owner(Peer),
    /// Ask this member: of those known, it is the nearest before the position.
    Ask(Peer),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.node)
    }
}
