//! Stabilize and rectify (Zave's operations of these names): the periodic repair of the successor list and of the
//! predecessor.

use stdx::Instant;

use crate::calls::Purpose;
use crate::io::{Event, Outbox};
use crate::member::Chord;
use crate::message::{Body, Peer};
use crate::rules::Rules;
use crate::successors::{list_from, nearest_before};

impl<R: Rules> Chord<R> {
    /// Begins a round: ask the head of the list for its predecessor and its list. A round that is still going on is
    /// left to finish.
    pub(crate) fn stabilize(&mut self, now: Instant, out: &mut Outbox) {
        if self.calls.any(|purpose| matches!(purpose, Purpose::Head | Purpose::Better | Purpose::Rejoin)) {
            return;
        }
        if let Some(head) = self.successors.first() {
            self.ask(now, *head, Purpose::Head, out);
        } else if let Some(before) = self.predecessor {
            // Alone, a member is its own successor, and stabilize reads its own predecessor.
            self.consider(now, before, out);
        } else if R::HEAL_FROM_LISTS && !self.seeds.is_empty() {
            let seed = self.seeds[self.prng.index(self.seeds.len())];
            self.ask(now, seed, Purpose::Rejoin, out);
        }
    }

    /// The head lives: its list, behind it, is ours. Then look for somebody between us and it.
    pub(crate) fn handle_head_pulled(
        &mut self,
        now: Instant,
        head: Peer,
        before: Option<Peer>,
        list: &[Peer],
        out: &mut Outbox,
    ) {
        if self.successors.first() != Some(&head) {
            return;
        }
        self.successors = list_from::<R>(self.me, head, list, self.config.successors);
        let mut better = before.filter(|peer| peer.position.between(self.me.position, head.position));
        if R::HEAL_FROM_LISTS {
            better = better
                .or_else(|| nearest_before(self.me, head, list))
                .or_else(|| nearest_before(self.me, head, &self.seeds));
        }
        match better {
            Some(better) => self.consider(now, better, out),
            None => self.notify(out),
        }
    }

    /// `better` seems to lie between us and our head: adopt it once it has answered for itself.
    pub(crate) fn consider(&mut self, now: Instant, better: Peer, out: &mut Outbox) {
        if R::LIVENESS_ON_STABILIZE {
            self.ask(now, better, Purpose::Better, out);
        } else {
            let behind = self.successors.clone();
            self.handle_better_pulled(better, &behind, out);
        }
    }

    pub(crate) fn handle_better_pulled(&mut self, better: Peer, list: &[Peer], out: &mut Outbox) {
        let nearer = match self.successors.first() {
            Some(head) => better.position.between(self.me.position, head.position),
            None => better.position != self.me.position,
        };
        if nearer {
            self.successors = list_from::<R>(self.me, better, list, self.config.successors);
            out.events.push(Event::SuccessorChanged(Some(better)));
        }
        self.notify(out);
    }

    /// The head is silent: drop it and go on with the next, in the same round.
    pub(crate) fn handle_head_unanswered(&mut self, now: Instant, head: Peer, out: &mut Outbox) {
        if self.successors.first() == Some(&head) {
            self.successors.remove(0);
            out.events.push(Event::SuccessorDropped(head));
            out.events.push(Event::SuccessorChanged(self.successors.first().copied()));
        }
        self.stabilize(now, out);
    }

    /// The end of a round: tell the head that we come before it.
    pub(crate) fn notify(&self, out: &mut Outbox) {
        if let Some(head) = self.successors.first() {
            self.send(*head, Body::Notify, out);
        }
    }

    /// `candidate` believes that it comes before us. It does when it is nearer than the predecessor, or that one is
    /// dead.
    pub(crate) fn rectify(&mut self, now: Instant, candidate: Peer, out: &mut Outbox) {
        let Some(before) = self.predecessor else {
            self.adopt_predecessor(candidate, out);
            return;
        };
        if candidate == before {
            return;
        }
        if candidate.position.between(before.position, self.me.position) {
            self.adopt_predecessor(candidate, out);
        } else if R::LIVENESS_ON_RECTIFY {
            let mut pinging = false;
            for purpose in self.calls.purposes_mut() {
                if let Purpose::Rectify { candidate: waiting } = purpose {
                    pinging = true;
                    // Of several that claim the place, the nearest gets it.
                    if candidate.position.between(waiting.position, self.me.position) {
                        *waiting = candidate;
                    }
                }
            }
            if !pinging {
                self.ask(now, before, Purpose::Rectify { candidate }, out);
            }
        }
    }

    pub(crate) fn adopt_predecessor(&mut self, peer: Peer, out: &mut Outbox) {
        self.predecessor = Some(peer);
        out.events.push(Event::PredecessorChanged(peer));
    }
}
