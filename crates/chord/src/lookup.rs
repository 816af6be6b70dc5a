//! Lookup and the finger table that makes it short (Chord 2001, section 4.3).

use membership::Position;
use stdx::Instant;

use crate::calls::Purpose;
use crate::io::Outbox;
use crate::member::Chord;
use crate::message::{Body, CallId, NextHop, Peer};
use crate::rules::Rules;

impl<R: Rules> Chord<R> {
    /// The next step towards `target`.
    ///
    /// `without` is passed over as a step, though not as the answer: a newcomer that was a member before is still in
    /// lists, and its own question must not be passed to it. `wary` passes over nodes whose connection broke, where
    /// there are others; a newcomer's lookup is not wary, since a wrong suspicion would give it a wrong successor.
    pub(crate) fn route(&self, target: Position, without: Option<Peer>, wary: bool) -> NextHop {
        let me = self.me.position;
        let suspect = |peer: &Peer| wary && self.suspects.contains_key(&peer.node);
        let usable = |peer: &&Peer| Some(**peer) != without && !suspect(peer);
        if target == me {
            return NextHop::Owner(self.me);
        }
        match self.successors.first() {
            None => return NextHop::Owner(self.me),
            Some(head) if target.in_arc(me, head.position) && !suspect(head) => return NextHop::Owner(*head),
            Some(_) => {}
        }
        let first = self.successors.iter().find(usable);
        let Some(first) = first.or_else(|| self.successors.iter().find(|peer| Some(**peer) != without)) else {
            // Only the asker and we are left, and the target lies behind the asker.
            return NextHop::Owner(self.me);
        };
        if target.in_arc(me, first.position) {
            return NextHop::Owner(*first);
        }
        let known = self.successors.iter().chain(self.fingers.distinct()).filter(usable);
        let before = known.filter(|peer| peer.position.between(me, target));
        NextHop::Ask(*before.max_by_key(|peer| me.distance_to(peer.position)).unwrap_or(first))
    }

    pub(crate) fn handle_find_successor(
        &mut self,
        call: CallId,
        target: Position,
        origin: Peer,
        hops: u32,
        out: &mut Outbox,
    ) {
        if origin.position == self.me.position || hops >= self.config.hops_max {
            return;
        }
        let hops = hops + 1;
        match self.route(target, Some(origin), false) {
            NextHop::Owner(successor) => self.send(origin, Body::Found { call, successor, hops }, out),
            NextHop::Ask(next) => self.send(next, Body::FindSuccessor { call, target, origin, hops }, out),
        }
    }

    /// Looks up one finger. Those up to the head of the list are the head; one lookup settles all entries up to the
    /// distance of what it finds, so a full turn takes as many lookups as there are distinct fingers.
    pub(crate) fn fix_finger(&mut self, now: Instant, out: &mut Outbox) {
        let Some(head) = self.successors.first() else {
            self.fingers.cut(0);
            return;
        };
        if !R::FIX_FINGERS || self.calls.any(|purpose| matches!(purpose, Purpose::Finger { .. })) {
            return;
        }
        // All entries up to the head's are the head. Whoever was thought to be one of them is never asked for again, so
        // it would stay for ever, dead or passed by.
        self.fingers.set(0, *head);
        let first = self.fingers.last_index_of(*head) + 1;
        let index = if self.finger_next < 64 { self.finger_next.max(first) } else { first };
        if index >= 64 {
            self.fingers.cut(0);
            return;
        }
        match self.route(self.fingers.start(index), None, true) {
            NextHop::Owner(peer) => self.handle_finger_found(index, peer),
            NextHop::Ask(peer) => self.ask(now, peer, Purpose::Finger { index }, out),
        }
    }

    pub(crate) fn handle_finger_found(&mut self, index: u32, peer: Peer) {
        self.fingers.set(index, peer);
        let settled = self.fingers.distinct().contains(&peer);
        self.finger_next = if settled { self.fingers.last_index_of(peer) + 1 } else { 0 };
    }
}
