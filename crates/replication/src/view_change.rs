//! What a replica does when the membership changes: takes newer views and passes them on, starts rounds again that
//! belong to an older arc epoch, refuses what comes from another one, and drops what is not its any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use membership::{Epoch, NodeId, Position, Ring, View};
use stdx::{Instant, TraceContext};

use crate::io::{Event, Outbox};
use crate::message::{Body, LogPosition, RoundId};
use crate::replica::{Replica, Timer};
use crate::round::{Phase, Waiting};
use crate::rules::{Rule, Rules};
use crate::types::{Outcome, Receipt, Refusal, RegisterKey};

/// How often a peer is sent the same view at most: a view is large, and what is refused for it may come in thousands.
const VIEW_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Registers that are looked at in one go for those to be dropped.
const RELEASE_STEP: usize = 128;
/// The pause before the first go.
const RELEASE_AFTER: Duration = Duration::from_millis(2);
/// The pause between two goes: nobody waits for it, and when a change ends all old replicas are at it at once.
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// What a replica knows of its peers' views and starts.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Membership {
    /// The number of this start; 0 when the shell did not say.
    incarnation: u64,
    /// Whether a later start of this node is at work.
    pub superseded: bool,
    /// The latest start that was heard of, of each peer.
    known: BTreeMap<NodeId, u64>,
    /// Which view a peer was sent last, and when.
    told: BTreeMap<NodeId, (Epoch, Instant)>,
    /// Where looking for registers to drop goes on.
    release_after: Option<RegisterKey>,
    /// When it does.
    release_at: Option<Instant>,
    /// How many were dropped by this pass.
    released: u64,
}

impl<R: Rules> Replica<R> {
    /// Says which start of the node this is, before it begins: peers that know of a later one do not heed it.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.membership.incarnation = incarnation;
    }

    /// Whether the view in force is older than one that this replica acted on before its restart. Until it is told a
    /// newer one, it takes part in nothing.
    pub fn awaits_newer_view(&self) -> bool {
        self.rules.keeps(Rule::KeepEpoch) && self.view.epoch < self.acceptor.epoch()
    }

    /// The records are restored: acts on the view that the shell gave, unless a newer one was acted on before.
    pub(crate) fn begin_in_view(&mut self, out: &mut Outbox) {
        if self.awaits_newer_view() {
            self.ring = Ring::default();
        } else {
            self.clear_awaited(out);
            self.acceptor.note_epoch(self.view.epoch, &mut out.persist);
            self.transfer_follow_view(out);
            self.release_start();
        }
    }

    /// Takes a view, if it is a newer one of this ring.
    pub(crate) fn handle_view(&mut self, view: View, out: &mut Outbox) -> bool {
        let newer =
            view.epoch > self.view.epoch && (view.epoch >= self.acceptor.epoch() || !self.rules.keeps(Rule::KeepEpoch));
        let foreign = self.view.is_formed() && view.cluster != self.view.cluster;
        if !newer || foreign || !view.is_formed() || view.validate().is_err() {
            return false;
        }
        let first = !self.view.is_formed() || self.awaits_newer_view();
        let before = std::mem::replace(&mut self.ring, view.ring());
        self.view = view;
        // Before the epoch: a log that says that it was acted on says what was given up for it.
        self.clear_awaited(out);
        self.acceptor.note_epoch(self.view.epoch, &mut out.persist);
        // First, since what starts again looks at what is confirmed.
        self.follow_confirmations(&before, out);
        self.restart_rounds(out);
        self.transfer_follow_view(out);
        self.release_start();
        if first {
            self.catch_up_start(out);
        }
        true
    }

    /// Rounds belong to one arc epoch: votes of one must not count in another, nor promises. What they were for starts
    /// again in the arc's new epoch, or ends if the arc is not ours any more.
    fn restart_rounds(&mut self, out: &mut Outbox) {
        let moved = |key: &RegisterKey, epoch| self.sets_of(key).1 != epoch;
        let rounds: Vec<RoundId> =
            self.rounds.iter().filter(|(_, round)| moved(&round.key, round.epoch)).map(|(id, _)| *id).collect();
        let mut keys = BTreeSet::new();
        let mut reads: Vec<(RegisterKey, Waiting)> = Vec::new();
        for id in rounds {
            let Some(round) = self.forget_round(id) else { continue };
            keys.insert(round.key.clone());
            if matches!(round.phase, Phase::Querying { .. }) {
                reads.extend(round.waiting.into_iter().map(|waiting| (round.key.clone(), waiting)));
            } else {
                let queue = &mut self.lanes.entry(round.key).or_default().queue;
                round.waiting.into_iter().rev().for_each(|waiting| queue.push_front(waiting));
            }
        }
        for (key, waiting) in reads {
            if self.holds(&key) {
                self.begin_query(key, waiting, out);
            } else {
                self.end_elsewhere(waiting, out);
            }
        }
        for key in keys {
            if !self.holds(&key) {
                let queue = self.lanes.get_mut(&key).map(|lane| std::mem::take(&mut lane.queue));
                queue.into_iter().flatten().for_each(|waiting| self.end_elsewhere(waiting, out));
            }
            self.advance_lane(&key, out);
        }
    }

    /// Ends an operation on an arc that is not ours any more.
    pub(crate) fn end_elsewhere(&mut self, waiting: Waiting, out: &mut Outbox) {
        let Some(ticket) = waiting.ticket else { return self.catch_up_repaired(false, out) };
        let outcome = match waiting.proposed {
            true => Outcome::Unknown,
            false => Outcome::Refused(Refusal::NotReplica(self.view.epoch)),
        };
        self.answer(ticket, outcome, Receipt { epoch: self.view.epoch, ..Receipt::default() }, out);
    }

    /// The epoch here of the arc that a question is about: none if there is no such arc here. None at all for what is
    /// about no arc, or is an answer; an answer is told by its round, which belongs to one epoch.
    pub(crate) fn arc_epoch_asked(&self, body: &Body) -> Option<Option<Epoch>> {
        let arc = match body {
            Body::Prepare { key, .. }
            | Body::Accept { key, .. }
            | Body::Query { key, .. }
            | Body::Learn { key, .. } => self.ring.arc_of(key.position),
            Body::Copy { high, .. }
            | Body::Fetch { high, .. }
            | Body::Confirm { arc: high, .. }
            | Body::Collect { arc: high, .. }
            | Body::Collected { arc: high, .. } => self.ring.arc_of(*high).filter(|arc| arc.high == *high),
            _ => return None,
        };
        Some(arc.map(|arc| arc.epoch))
    }

    /// Whether such a question must be of our own arc epoch.
    pub(crate) fn refuses_other_epoch(&self, body: &Body) -> bool {
        match body {
            Body::Copy { .. } | Body::Fetch { .. } => self.rules.keeps(Rule::CopyFromNewEpoch),
            _ => self.rules.keeps(Rule::RefuseOtherEpoch),
        }
    }

    /// Tells the asker which view is held here: all of it if ours is the newer one.
    pub(crate) fn refuse_other_epoch(
        &mut self,
        from: NodeId,
        (theirs, ours): (Epoch, Option<Epoch>),
        context: TraceContext,
        out: &mut Outbox,
    ) {
        out.events.push(Event::EpochDiffers { peer: from });
        let view = if ours.is_some_and(|ours| ours > theirs) { self.view_for(from) } else { None };
        self.tell((from, self.view.epoch), Body::OtherEpoch { view }, LogPosition(0), context, out);
    }

    pub(crate) fn handle_other_epoch(
        &mut self,
        from: NodeId,
        theirs: Epoch,
        view: Option<Arc<View>>,
        out: &mut Outbox,
    ) {
        out.events.push(Event::EpochDiffers { peer: from });
        if let Some(view) = view {
            let view = Arc::unwrap_or_clone(view);
            if self.handle_view(view.clone(), out) {
                out.events.push(Event::ViewLearned(view));
            }
        } else if theirs < self.view.epoch
            && !self.awaits_newer_view()
            && let Some(view) = self.view_for(from)
        {
            let body = Body::OtherEpoch { view: Some(view) };
            self.tell((from, self.view.epoch), body, LogPosition(0), TraceContext::NONE, out);
        }
    }

    /// Our view, unless the peer was sent it a moment ago.
    fn view_for(&mut self, peer: NodeId) -> Option<Arc<View>> {
        let (epoch, now) = (self.view.epoch, self.now);
        let told = self.membership.told.get(&peer);
        if told.is_some_and(|(told, at)| *told == epoch && now.since(*at) < VIEW_AGAIN_AFTER) {
            return None;
        }
        self.membership.told.insert(peer, (epoch, now));
        Some(Arc::new(self.view.clone()))
    }

    /// Whether a message of this start of a peer counts.
    pub(crate) fn is_heeded(
        &mut self,
        from: NodeId,
        incarnation: u64,
        context: TraceContext,
        out: &mut Outbox,
    ) -> bool {
        let latest = self.membership.known.entry(from).or_insert(incarnation);
        if incarnation >= *latest || !self.rules.keeps(Rule::FenceTwins) {
            *latest = incarnation.max(*latest);
            return true;
        }
        let by = *latest;
        out.events.push(Event::PeerFenced { peer: from, incarnation });
        self.tell((from, self.view.epoch), Body::Fenced { incarnation: by }, LogPosition(0), context, out);
        false
    }

    pub(crate) fn handle_fenced(&mut self, by: u64, out: &mut Outbox) {
        if by > self.membership.incarnation && self.membership.incarnation > 0 {
            self.membership.superseded = true;
            out.events.push(Event::Superseded { by });
        }
    }

    /// Whether a later start of this node was heard of. Then it takes part in nothing any more.
    pub fn is_superseded(&self) -> bool {
        self.membership.superseded
    }

    /// Begins to look for registers that are not ours any more.
    fn release_start(&mut self) {
        self.membership.release_after = None;
        if let Some(at) = self.membership.release_at.take() {
            self.timers.remove(&(at, Timer::Release));
        }
        self.release_later(RELEASE_AFTER);
    }

    fn release_later(&mut self, pause: Duration) {
        let at = self.now + pause;
        self.membership.release_at = Some(at);
        self.timers.insert((at, Timer::Release));
    }

    /// Looks at the next registers and drops those that other nodes are in charge of now.
    ///
    /// The view in force says that their new set is in charge, and that set became so only after each of its new
    /// members had copied the arc from a majority.
    pub(crate) fn release_continue(&mut self, out: &mut Outbox) {
        self.membership.release_at = None;
        if !self.view.is_formed() || self.awaits_newer_view() {
            return;
        }
        let (ring, me) = (&self.ring, self.me);
        let goes = |position: Position| {
            // A view that is formed has an arc for each position.
            ring.arc_of(position).map_or((false, Position(u64::MAX)), |arc| match &arc.next {
                Some(next) if !self.rules.keeps(Rule::ReleaseAfterSwitch) => (!next.contains(&me), arc.high),
                _ => (!arc.is_held_by(me), arc.high),
            })
        };
        let after = self.membership.release_after.take();
        let (gone, more) = self.acceptor.release(after, RELEASE_STEP, goes);
        self.membership.released += gone;
        if more.is_some() {
            self.membership.release_after = more;
            self.release_later(RELEASE_PAUSE);
        } else if self.membership.released > 0 {
            out.events.push(Event::Released { registers: std::mem::take(&mut self.membership.released) });
        }
    }
}
