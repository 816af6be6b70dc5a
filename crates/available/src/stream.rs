//! How stamps reach the other homes, and how a replica knows that it has received all of them.
//!
//! A replica's stamps have rising Lamport counters. It sends each to the key's other homes at once, again until it is
//! confirmed, and with it a [`Claim`]: that nothing else it stamped for that home lies in an interval of
//! counters. A home
//! that has joined the intervals up to a *mark* has received everything that the other stamped for it up to there. Two
//! things rest on it:
//! - a causal read is answered by one replica if its marks reach what the session has seen;
//! - a dot below the mark that is not there is gone, whatever late copy of it arrives: so tombstones can be dropped.
//!
//! Marks are asked of the present homes. What somebody brings who is a home no more, they cannot speak for: so whoever
//! takes it adds a stamp of its own to the key, and what rests on it rests on that (decision 0084).
//!
//! A stamp is synced before it leaves. So nothing is known anywhere of a stamp that its own replica could still lose
//! with a crash, and after a restart it knows from its log what it stamped, and from each peer's mark what it owes.

use membership::{NodeId, Position};
use replication::{LogPosition, RegisterKey};
use stdx::TraceContext;

use crate::io::{Event, Outbox};
use crate::message::{Body, Claim, Record};
use crate::reconcile::PAGE_BYTES_MAX;
use crate::replica::{Later, Replica, Timer};
use crate::rules::Rule;
use crate::state::State;
use crate::version::Actor;

/// States that are sent again in one message at most.
const PAGE_MAX: usize = 64;
/// How much further than on disk a mark may be. After a restart so much is sent again.
const MARK_STEP: u64 = 4_096;

impl Replica {
    /// Heeds who it is that speaks; false if it is to be ignored.
    pub(crate) fn meet(&mut self, from: NodeId, actor: Actor, start: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        if start < peer.start {
            // A process that is gone; or one that does not know yet that it was replaced.
            return false;
        }
        let reborn = peer.actor.is_some_and(|known| known != actor);
        if start > peer.start || peer.actor.is_none() {
            peer.restarted(start);
        }
        peer.actor = Some(actor);
        if reborn {
            // What it stamped before it lost its log may be known to others only: until we have compared with all
            // homes again, our marks do not show that nothing is missing.
            self.generation += 1;
            let now = self.now;
            self.peers.values_mut().for_each(|peer| peer.pass_at = now);
            self.hand_on_again(from);
        }
        true
    }

    pub(crate) fn handle_found(&mut self, node: NodeId, out: &mut Outbox) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.down = false;
            peer.resend_at = now;
            self.send_beat(node, true, out);
        }
    }

    /// A stamp of ours is on disk.
    pub(crate) fn stamp_leaves(
        &mut self,
        counter: u64,
        key: &RegisterKey,
        state: State,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        self.unsynced.remove(&counter);
        let (sets, me) = (self.sets_of(key.position), self.me);
        for home in sets.iter().filter(|home| *home != me) {
            let id = self.next_number();
            let ceiling = self.ceiling();
            let now = self.now;
            let resend = self.config.resend;
            let Some(peer) = self.peers.get_mut(&home) else { continue };
            let mut claim = None;
            if peer.known {
                if !peer.owes() {
                    peer.resend_at = now + resend;
                }
                peer.owe(key, counter, counter);
                if counter > peer.said {
                    claim = (counter <= ceiling).then_some(Claim { low: peer.said, high: counter });
                    peer.said = counter;
                }
            }
            peer.sent(id, vec![(counter, key.clone())]);
            let entries = vec![(key.clone(), state.clone())];
            self.tell(home, Body::Store { id, claim, entries }, LogPosition(0), context, out);
        }
        self.written(counter, self.me, out);
    }

    /// States from a peer: they are merged, and confirmed once they are on disk.
    pub(crate) fn handle_store(
        &mut self,
        from: NodeId,
        actor: Actor,
        (id, claim): (u64, Option<Claim>),
        entries: Vec<(RegisterKey, State)>,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        if self.disk_full || entries.iter().any(|(key, _)| !self.takes_from(from, key.position)) {
            return;
        }
        let wait = self.take_states(from, entries, out);
        match claim {
            Some(claim) => self.after(wait, Later::Claimed { from, actor, claim }, out),
            None => self.note_sender(from),
        }
        // The mark is that of the moment at which this leaves; an older one does no harm.
        let mark = self.mark(actor);
        self.tell(from, Body::Stored { id, mark, of: actor }, wait, context, out);
    }

    /// Merges states that a peer sent; up to where the log must be synced for them to be on disk.
    pub(crate) fn take_states(
        &mut self,
        from: NodeId,
        entries: Vec<(RegisterKey, State)>,
        out: &mut Outbox,
    ) -> LogPosition {
        let (mut wait, mut outdated, mut buried) = (LogPosition(0), Vec::new(), Vec::new());
        for (key, incoming) in entries {
            if self.table.get(&key).is_none() && self.is_all_gone(key.position, &incoming) {
                // We held that once, and it went everywhere. The sender is behind: its entries are gone, or its
                // tombstone may be dropped.
                if incoming.is_tombstone() {
                    buried.push((key, incoming.context.vector.clone()));
                } else {
                    let mut gone = incoming.clone();
                    gone.entries.clear();
                    outdated.push((key, gone));
                    out.events.push(Event::StaleRefused);
                }
                continue;
            }
            // Of an arc that is to be copied: where the log had the key before, if it did.
            let copied = self.is_copying(key.position).then(|| self.table.get(&key).map(|held| held.logged));
            let stale = self.merge(from, &key, &incoming, out);
            let logged = self.logged(&key);
            wait = wait.max(logged);
            if let Some(before) = copied
                && logged > before.unwrap_or(LogPosition(0))
            {
                self.note_copied_key(&incoming, before.is_none());
            }
            if stale {
                out.events.push(Event::StaleRefused);
                outdated.push((key.clone(), self.state_of(&key, incoming.kind)));
            }
        }
        if !outdated.is_empty() {
            let id = self.next_number();
            self.tell(from, Body::Store { id, claim: None, entries: outdated }, wait, TraceContext::NONE, out);
        }
        if !buried.is_empty() {
            self.tell(from, Body::Drop { keys: buried }, LogPosition(0), TraceContext::NONE, out);
        }
        wait
    }

    /// Whether all that the state knows of was here before, so that of a key that is absent here nothing is left.
    fn is_all_gone(&self, position: Position, incoming: &State) -> bool {
        let known = |(actor, counter): (Actor, u64)| self.is_known(position, actor, counter);
        self.rules.keep(Rule::GoneForgotten)
            && !incoming.is_blank()
            && incoming.context.vector.iter().all(known)
            && incoming.context.dots().iter().all(|dot| self.is_gone(position, *dot))
            && incoming.entries.iter().all(|entry| self.is_gone(position, entry.dot))
    }

    pub(crate) fn handle_stored(&mut self, from: NodeId, id: u64, mark: u64, of: Actor, out: &mut Outbox) {
        let me = self.actor;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if of != me {
            return;
        }
        if peer.known {
            peer.ack(mark);
        }
        let delivered = peer.confirm(id);
        for (counter, key) in &delivered {
            peer.delivered(key, *counter);
        }
        for (counter, key) in delivered {
            self.delivered(from, &key, counter, out);
        }
        self.round_stored(from, id, out);
        self.pass_stored(from, id, out);
    }

    /// A peer's states up to a claim are on disk.
    pub(crate) fn take_claim(&mut self, from: NodeId, actor: Actor, claim: Claim, out: &mut Outbox) {
        let mark = self.mark(actor);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.actor != Some(actor) {
            return;
        }
        let risen = peer.claim(mark, claim);
        self.marks.insert(actor, risen);
        let logged = self.marks_logged.get(&actor).copied().unwrap_or(0);
        if risen >= logged.saturating_add(MARK_STEP) {
            self.log_mark(actor, out);
        }
    }

    /// Puts a mark on disk; where.
    pub(crate) fn log_mark(&mut self, actor: Actor, out: &mut Outbox) -> LogPosition {
        let counter = self.mark(actor);
        self.marks_logged.insert(actor, counter);
        self.log(Record::Mark { actor, counter }, out)
    }

    pub(crate) fn handle_beat(
        &mut self,
        from: NodeId,
        actor: Actor,
        claim: Option<Claim>,
        (mark, of): (u64, Actor),
        ask: bool,
        out: &mut Outbox,
    ) {
        if of != self.actor {
            // It does not know us yet: now it will.
            self.send_beat(from, true, out);
            return;
        }
        if let Some(claim) = claim {
            self.take_claim(from, actor, claim, out);
        }
        if !self.peers.get(&from).is_some_and(|peer| peer.known) {
            self.learn_what_is_owed(from, mark);
        }
        let theirs = self.mark(actor);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.ack(mark);
            peer.confirm_later(mark, theirs);
        }
        self.delivered_up_to(from, out);
        if ask {
            self.send_beat(from, false, out);
        }
    }

    /// A peer has started, or we have: it has everything that we stamped for it up to `mark`.
    fn learn_what_is_owed(&mut self, from: NodeId, mark: u64) {
        let me = self.actor;
        let owed: Vec<(RegisterKey, u64)> = self
            .table
            .iter()
            .map(|(key, held)| (key, held.state.context.vector.get(me)))
            .filter(|(key, own)| *own > mark && self.sets_of(key.position).contains(from))
            .map(|(key, own)| (key.clone(), own))
            .collect();
        let (now, said) = (self.now, self.clock);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.known = true;
        peer.ack(mark);
        peer.said = said;
        peer.resend_at = now;
        for (key, own) in owed {
            // Which of our earlier stamps of the key it lacks is not known any more.
            peer.owe(&key, own, mark + 1);
        }
    }

    /// Up to where we can claim that the peer lacks nothing but what it is sent.
    fn claim_for(&self, to: NodeId) -> Option<Claim> {
        let peer = self.peers.get(&to).filter(|peer| peer.known)?;
        let mut high = self.clock.min(self.ceiling());
        if self.rules.keep(Rule::ClaimedFalsely) {
            let unsynced = self.unsynced.first().map_or(u64::MAX, |counter| counter - 1);
            let lacking = peer.lacks_from().map_or(u64::MAX, |counter| counter - 1);
            high = high.min(unsynced).min(lacking);
        }
        (high > peer.acked).then_some(Claim { low: peer.acked, high })
    }

    pub(crate) fn send_beat(&mut self, to: NodeId, ask: bool, out: &mut Outbox) {
        let claim = self.claim_for(to);
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let of = peer.actor.unwrap_or_default();
        let mark = self.marks.get(&of).copied().unwrap_or(0);
        peer.told = (mark, claim.map_or(peer.told.1, |claim| claim.high));
        if let Some(claim) = claim {
            peer.said = peer.said.max(claim.high);
        }
        self.tell(to, Body::Beat { claim, mark, of, ask }, LogPosition(0), TraceContext::NONE, out);
    }

    /// Looks after the peers: what they are owed, and what they may want to know.
    pub(crate) fn beat(&mut self, out: &mut Outbox) {
        self.raise_ceiling(out);
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            self.look_after(node, out);
            self.pass_on(node, out);
        }
        self.deliver_hints(out);
        self.tell_of_hints(out);
        self.bury(out);
        self.become_whole(out);
        self.release(out);
    }

    pub(crate) fn look_after(&mut self, node: NodeId, out: &mut Outbox) {
        if self.shared_with_none(node) && self.peers.get(&node).is_none_or(|peer| !peer.owes()) {
            return;
        }
        let (now, resend, wait) = (self.now, self.config.resend, self.must_wait());
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.down {
            return;
        }
        if !peer.known {
            if peer.asked_at <= now {
                peer.asked_at = now + resend;
                self.send_beat(node, true, out);
            }
            return;
        }
        if peer.owes() && peer.resend_at <= now {
            // Who is owed more than a page was away, or is new here: a new home is owed all that we ever stamped of its
            // arcs. That is part of the transfer. A message that was lost is not held up by it.
            match wait.filter(|_| peer.owed().nth(PAGE_MAX).is_some()) {
                Some(until) => {
                    peer.resend_at = until;
                    self.at(until, Timer::Owed(node));
                }
                None => {
                    peer.resend_at = now + resend;
                    self.send_owed(node, out);
                }
            }
        }
        let claim = self.claim_for(node);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let mark = peer.actor.map_or(0, |actor| self.marks.get(&actor).copied().unwrap_or(0));
        let news = claim.is_some_and(|claim| claim.high > peer.told.1) || mark > peer.told.0;
        // What it was told may have been lost: while it has not come as far as we claimed, it is told again.
        let lagging = claim.is_some() && peer.asked_at <= now;
        if news || lagging {
            peer.asked_at = now + resend;
            self.send_beat(node, lagging, out);
        }
    }

    pub(crate) fn shared_with_none(&self, node: NodeId) -> bool {
        !self.ring.arcs().iter().any(|arc| arc.is_held_by(self.me) && arc.is_held_by(node))
    }

    /// Sends what a peer lacks again, a page of it.
    fn send_owed(&mut self, node: NodeId, out: &mut Outbox) {
        let Some(peer) = self.peers.get(&node) else { return };
        let keys: Vec<RegisterKey> = peer.owed().take(PAGE_MAX).map(|(_, key)| key.clone()).collect();
        let (mut entries, mut stamps, mut wait, mut bytes) = (Vec::new(), Vec::new(), LogPosition(0), 0);
        for key in keys {
            let Some(held) = self.table.get(&key) else { continue };
            bytes += held.state.size();
            if bytes > PAGE_BYTES_MAX && !entries.is_empty() {
                break;
            }
            wait = wait.max(held.logged);
            stamps.push((held.state.context.vector.get(self.actor), key.clone()));
            entries.push((key, held.state.clone()));
        }
        if entries.is_empty() {
            return;
        }
        let id = self.next_number();
        self.pay_for_states(entries.iter());
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.sent(id, stamps);
        }
        self.tell(node, Body::Store { id, claim: None, entries }, wait, TraceContext::NONE, out);
    }
}
