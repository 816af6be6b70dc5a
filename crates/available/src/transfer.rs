//! What moves beside requests: how much of it there may be, and how far it is when homes change.
//!
//! A node's budget is shared with the transfer of registers (`replication::transfer`), and what it is charged with is
//! the same: bytes, and for each key that goes to a new home the work on it. It bounds what this node asks for, and
//! what it sends unasked: by passes of its own, and where a peer is owed more than a page (`stream.rs`), as a new home
//! is all that we ever stamped for its arcs. What others ask of it is charged to them. Questions are never held back,
//! only states.
//!
//! A pass of a node that is to become a home of arcs ends by comparing fingerprints of each of them
//! (`Pass::check`). Nothing depends on how that comes out: each state was checked against the fingerprint by which it
//! was asked for, and with writes under way the two sides differ all the time. It is told to people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::{Epoch, NodeId, Position};
use replication::RegisterKey;
use stdx::{Budget, Instant};

use crate::io::Outbox;
use crate::peer::Peer;
use crate::reconcile::{Answer, Pass};
use crate::replica::Replica;
use crate::state::State;

/// What a state's key and its part of a frame cost on the way, in bytes.
const ENTRY_BYTES: usize = 64;
/// What the work on a key costs that goes to a new home, as if it were so many bytes: as for registers.
const WORK_BYTES: usize = 4 * 1024;
/// What is paid for sooner than this is not waited for: pages of a few keys follow each other at once.
pub(crate) const WAIT_MIN: Duration = Duration::from_millis(1);

/// All that moves beside requests.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    budget: Budget,
    /// Nodes that copy now, as far as the view tells: they share the rate, since they draw on the same sources.
    sharers: u64,
    keys: u64,
    bytes: u64,
    /// Who was asked last for states of arcs that are to be copied, and until when others wait for its answer.
    asked: Option<(NodeId, Instant)>,
    /// Of arcs that are to be copied, by the tokens at their ends: which homes were seen to hold the same in the end.
    agreed: BTreeMap<(Position, Epoch), BTreeSet<NodeId>>,
}

/// How far the copying of arcs is that a change makes this node a home of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStatus {
    /// Arcs to copy.
    pub arcs: usize,
    /// Of these, how many are copied and on disk.
    pub arcs_copied: usize,
    /// Of those that are copied, how many were counted and fingerprinted on both sides since the start, and were the
    /// same. It can be less while there are writes.
    pub arcs_verified: usize,
    /// Keys that came in for such arcs since the start, whichever way they came.
    pub keys: u64,
    /// Bytes of their states.
    pub bytes: u64,
}

impl Replica {
    /// What this node may move beside requests, and what of it is spent. Where others draw on the same, as registers
    /// do, the shell gives it before each input and takes it back from [`Replica::budget`].
    pub fn set_budget(&mut self, budget: Budget) {
        self.transfer.budget = budget;
    }

    /// What is left of it.
    pub fn budget(&self) -> Budget {
        self.transfer.budget
    }

    /// How far the copying is.
    pub fn copy_status(&self) -> CopyStatus {
        let arcs: Vec<&membership::Arc> = self.ring.arcs().iter().filter(|arc| arc.awaits(self.me)).collect();
        let copied = || arcs.iter().filter(|arc| self.is_copied(arc.high));
        CopyStatus {
            arcs: arcs.len(),
            arcs_copied: copied().count(),
            arcs_verified: copied().filter(|arc| self.agreed_homes(arc.high, arc.epoch) > 0).count(),
            keys: self.transfer.keys,
            bytes: self.transfer.bytes,
        }
    }

    /// How many homes of the arc were seen to hold the same as we did when a pass with them ended.
    pub(crate) fn agreed_homes(&self, high: Position, epoch: Epoch) -> usize {
        self.transfer.agreed.get(&(high, epoch)).map_or(0, BTreeSet::len)
    }

    /// A view is in force.
    pub(crate) fn transfer_follow_view(&mut self) {
        self.transfer.sharers = self.view.copiers(&self.ring).len() as u64;
        let ring = &self.ring;
        let is_there =
            |high: Position, epoch| ring.arc_of(high).is_some_and(|arc| (arc.high, arc.epoch) == (high, epoch));
        self.transfer.agreed.retain(|(high, epoch), _| is_there(*high, *epoch));
    }

    /// A pass with the node has ended.
    pub(crate) fn note_agreed(&mut self, node: NodeId, pass: &Pass) {
        let agreed = pass.agreed();
        for tenure in self.homes.tenures.iter().filter(|tenure| tenure.epoch <= pass.epoch) {
            if agreed.contains(&tenure.high) {
                self.transfer.agreed.entry((tenure.high, tenure.epoch)).or_default().insert(node);
            }
        }
    }

    /// Whether the position lies in an arc that we are to copy.
    pub(crate) fn is_copying(&self, position: Position) -> bool {
        self.tenure_of(position).is_some_and(|tenure| !tenure.copied)
    }

    /// A state has come in of an arc that we are to copy; whether it is of a key that was not here.
    pub(crate) fn note_copied_key(&mut self, state: &State, is_new: bool) {
        self.transfer.keys += u64::from(is_new);
        self.transfer.bytes += state.size() as u64;
    }

    /// States of arcs that are to be copied are asked for from one home at a time: the others have the same ones, and
    /// what has come by then need not come from them. Until when others are to wait at most; none if nobody is asked.
    pub(crate) fn another_is_asked(&self, node: NodeId) -> Option<Instant> {
        let other = self.transfer.asked.filter(|(asked, until)| *asked != node && *until > self.now);
        other.map(|(_, until)| until)
    }

    /// The node is asked for states of arcs that are to be copied.
    pub(crate) fn note_asked(&mut self, node: NodeId, until: Instant) {
        self.transfer.asked = Some((node, until));
    }

    /// The node has answered, or will not: those who waited for it go on.
    pub(crate) fn let_others_ask(&mut self, node: NodeId, out: &mut Outbox) {
        if self.transfer.asked.is_none_or(|(asked, _)| asked != node) {
            return;
        }
        self.transfer.asked = None;
        let waits = |peer: &Peer| peer.pass.as_ref().is_some_and(|pass| pass.is_copy() && pass.moves_states());
        let waiting: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| waits(peer)).map(|(node, _)| *node).collect();
        for other in waiting {
            self.drive(other, out);
        }
    }

    /// Until when what was moved is to be paid for before more is; none if that is not worth a wait.
    pub(crate) fn must_wait(&self) -> Option<Instant> {
        let until = self.transfer.budget.spent_until(self.now);
        until.filter(|until| until.since(self.now) >= WAIT_MIN)
    }

    /// Charges the budget with states that were moved.
    pub(crate) fn pay_for_states<'a>(&mut self, states: impl Iterator<Item = &'a (RegisterKey, State)>) {
        let cost = |(key, state): &(RegisterKey, State)| {
            let moves = self.is_copying(key.position) || !self.is_home(key.position);
            ENTRY_BYTES + key.key.len() + state.size() + if moves { WORK_BYTES } else { 0 }
        };
        let bytes = states.map(cost).sum();
        self.pay(bytes);
    }

    /// Charges the budget with answers about ranges.
    pub(crate) fn pay_for_answers(&mut self, answers: &[Answer]) {
        let cost = |answer: &Answer| match answer {
            Answer::Same => 1,
            Answer::Parts(prints) => 1 + 12 * prints.len(),
            Answer::Leaf(hashes) => 1 + 8 * hashes.len(),
        };
        self.pay(ENTRY_BYTES + answers.iter().map(cost).sum::<usize>());
    }

    fn pay(&mut self, bytes: usize) {
        let shared = (bytes as u64).saturating_mul(self.transfer.sharers.max(1));
        self.transfer.budget.pay(self.now, shared);
    }
}
