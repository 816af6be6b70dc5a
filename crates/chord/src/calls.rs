use std::collections::BTreeMap;

use membership::NodeId;
use stdx::Instant;

use crate::message::{Body, CallId, Peer};

/// Why a question was asked, and so what its answer or its failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Join, first step: who comes after me?
    JoinFind,
    /// Join, second step: the future successor's list. `fallback` is the one to return to when this one, its
    /// predecessor, does not answer; `walked` counts such steps back.
    /// `dead` is that predecessor, once it has not answered.
    JoinPull { walked: u32, fallback: Option<Peer>, dead: Option<Peer> },
    /// Stabilize, first step: the head of the list.
    Head,
    /// Stabilize, second step: a better successor.
    Better,
    /// Rectify: is the predecessor whose place `candidate` claims still there?
    Rectify { candidate: Peer },
    /// Who is the finger of this index?
    Finger { index: u32 },
    /// A member without successors asks a seed for its place.
    Rejoin,
}

/// A question that is not answered yet.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) to: Peer,
    pub(crate) purpose: Purpose,
    pub(crate) body: Body,
    pub(crate) attempts_left: u32,
    /// When this transmission counts as unanswered.
    pub(crate) deadline: Instant,
}

/// The open questions of one member, at most one of each purpose.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    next: u64,
    open: BTreeMap<CallId, Call>,
}

impl Calls {
    /// `first` is drawn at random: a member that comes back under its old identifier must not take an answer to its
    /// former self for its own.
    pub(crate) fn new(first: u64) -> Calls {
        Calls { next: first, open: BTreeMap::new() }
    }

    pub(crate) fn fresh_id(&mut self) -> CallId {
        self.next = self.next.wrapping_add(1);
        CallId(self.next)
    }

    pub(crate) fn insert(&mut self, id: CallId, call: Call) {
        self.open.insert(id, call);
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn any(&self, wanted: impl Fn(&Purpose) -> bool) -> bool {
        self.open.values().any(|call| wanted(&call.purpose))
    }

    pub(crate) fn get(&self, id: CallId) -> Option<&Call> {
        self.open.get(&id)
    }

    pub(crate) fn purposes_mut(&mut self) -> impl Iterator<Item = &mut Purpose> {
        self.open.values_mut().map(|call| &mut call.purpose)
    }

    pub(crate) fn get_mut(&mut self, id: CallId) -> Option<&mut Call> {
        self.open.get_mut(&id)
    }

    pub(crate) fn take(&mut self, id: CallId) -> Option<Call> {
        self.open.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (CallId, &Call)> {
        self.open.iter().map(|(id, call)| (*id, call))
    }

    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    pub(crate) fn due(&self, now: Instant) -> Vec<CallId> {
        self.open.iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect()
    }

    pub(crate) fn to_node(&self, node: NodeId) -> Vec<CallId> {
        self.open.iter().filter(|(_, call)| call.to.node == node).map(|(id, _)| *id).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(|call| call.deadline).min()
    }
}
