//! What a replica does when the membership changes.
//!
//! A change is joint (decision 0010): while an arc has two sets of homes, what is acknowledged or shown at level causal
//! is on disk at a majority of both. A new home compares with those in charge, by the same passes as ever
//! (`passes.rs`), and counts, and says that it has copied, once it has been through with a majority of them that are
//! whole themselves and act on the change. A home that is no longer in charge hands what it holds on, and drops it
//! then.
//!
//! Nodes compare the epochs of their views. What comes from a newer view waits until that view is here; what comes from
//! an older one is acted on, and answered under our epoch, so that its sender gets our view before it counts the answer
//! (decision 0066).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use membership::{Epoch, NodeId, Position, ReplicaSets, Ring, View, is_majority};
use replication::{LogPosition, RegisterKey};
use stdx::{Instant, TraceContext};

use crate::io::{Event, Outbox};
use crate::message::{Body, Message, Record};
use crate::peer::Peer;
use crate::reconcile::{Extent, Pass, Question, ranges_of};
use crate::replica::Replica;
use crate::rules::Rule;
use crate::tenure::Tenure;
use crate::version::{Actor, VersionVector};

/// Messages of a newer view that wait for it; more are let go, and sent again by their senders.
const AHEAD_MAX: usize = 256;
/// How often a peer is sent the same view, or asked for its own, at most.
const VIEW_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Keys that are dropped in one beat.
const RELEASE_STEP: usize = 512;

/// What a replica knows of views and arcs.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    /// The arcs that are ours, in ring order.
    pub tenures: Vec<Tenure>,
    /// The epoch that was acted on last, and the record that says so first; none in a new log.
    acted_on: Option<(Epoch, LogPosition)>,
    /// The newest record of the tenures.
    logged: LogPosition,
    /// Arcs that are not ours, of which we hold keys.
    foreign: Vec<Foreign>,
    /// What came from newer views.
    ahead: Vec<(NodeId, Message, TraceContext)>,
    /// Which view a peer was told of last, and when.
    told: BTreeMap<NodeId, (Epoch, Instant)>,
}

/// An arc of which others are the homes, and some keys still here.
#[derive(Debug)]
struct Foreign {
    low: Position,
    high: Position,
    epoch: Epoch,
    /// Homes in charge that hold now what we do.
    handed: BTreeSet<NodeId>,
}

impl Replica {
    /// The changes for which this node holds, on its disk, all that they make it a home of, and has not said so. To be
    /// noted in the view.
    pub fn copied_changes(&self) -> Vec<Epoch> {
        let mine = |id: Epoch| {
            let arcs = self.view.arcs_of_change(id, &self.ring);
            arcs.into_iter().filter(|arc| arc.awaits(self.me)).map(|arc| arc.high).collect::<Vec<Position>>()
        };
        let unsaid = self.view.pending.iter().filter(|pending| !pending.copied.contains(&self.me));
        unsaid
            .map(|pending| (pending.id, mine(pending.id)))
            .filter(|(_, highs)| !highs.is_empty() && highs.iter().all(|high| self.is_copied(*high)))
            .map(|(id, _)| id)
            .collect()
    }

    /// Whether keys or hints are here that are for others to keep: a node that has left may end once there are none.
    pub fn is_released(&self) -> bool {
        self.homes.foreign.is_empty() && self.hints.is_empty()
    }

    /// Whether the view in force is older than one that this replica acted on before its restart. Until it is told a
    /// newer one, it takes part in nothing.
    pub fn awaits_newer_view(&self) -> bool {
        self.homes.acted_on.is_some_and(|(epoch, _)| self.view.epoch < epoch)
    }

    pub(crate) fn is_copied(&self, high: Position) -> bool {
        let copied = self.tenure_of(high).is_some_and(|tenure| tenure.copied);
        copied && self.homes.logged <= self.synced
    }

    pub(crate) fn restore_homes(&mut self, position: LogPosition, epoch: Epoch, tenures: Vec<Tenure>) {
        self.homes.acted_on = Some((epoch, position));
        (self.homes.logged, self.homes.tenures) = (position, tenures);
    }

    /// Whether this record of ours says how things are.
    pub(crate) fn are_current_homes(&self, position: LogPosition) -> bool {
        self.homes.logged == position
    }

    /// The same as a record made from memory, if it stands at `through` or before.
    pub(crate) fn homes_through(&self, through: LogPosition) -> Option<(LogPosition, Record)> {
        let (logged, tenures) = (self.homes.logged, self.homes.tenures.clone());
        let stands_there = logged > LogPosition(0) && logged <= through;
        stands_there.then_some((logged, Record::Homes { epoch: self.view.epoch, tenures }))
    }

    /// The record was written again, there.
    pub(crate) fn homes_moved(&mut self, position: LogPosition) {
        self.homes.logged = position;
    }

    /// What we know of the arc that the position lies in; none if it is not ours.
    pub(crate) fn tenure_of(&self, position: Position) -> Option<&Tenure> {
        let tenures = &self.homes.tenures;
        let at = tenures.partition_point(|tenure| tenure.high < position);
        tenures.get(at).or_else(|| tenures.first()).filter(|tenure| tenure.contains(position))
    }

    /// Whether we and the node have been compared since the arc last changed: then each holds what the other had.
    pub(crate) fn is_compared(&self, position: Position, node: NodeId) -> bool {
        // One of the first epoch is as it was when the ring formed.
        self.tenure_of(position).is_some_and(|tenure| tenure.epoch <= Epoch(1) || tenure.compared.contains(&node))
    }

    /// Whether everything that the actor stamped of these keys, up to the counter, is here or gone.
    pub(crate) fn is_known(&self, position: Position, actor: Actor, counter: u64) -> bool {
        let marked = actor == self.actor || counter <= self.mark(actor);
        let Some(tenure) = self.tenure_of(position) else { return marked };
        if !tenure.gained || !self.rules.keep(Rule::MarksOfNewArcs) {
            return marked;
        }
        let known = if actor == self.actor { tenure.copied } else { tenure.known.contains(&actor) };
        (known && marked) || counter <= tenure.inherited.get(actor)
    }

    /// Whether we count as a home of these keys: what we hold is all that we ever told anybody we hold, and of an arc
    /// that we were not a home of before, all that a majority of those in charge held.
    pub(crate) fn counts_at(&self, position: Position) -> bool {
        let Some(tenure) = self.tenure_of(position) else { return false };
        if !tenure.copied && self.rules.keep(Rule::CountedBeforeCopy) {
            return false;
        }
        let passed = |home: &NodeId| *home == self.me || self.is_gone_for_good(*home) || self.has_passed(*home);
        self.whole || self.homes(position).iter().all(passed)
    }

    /// Whether this node counts as a home of the keys there; for the observer of a simulation.
    pub fn counts(&self, position: Position) -> bool {
        self.counts_at(position)
    }

    /// The arc that the position lies in, by the view that is acted on; none if no view is.
    pub fn arc_of(&self, position: Position) -> Option<&membership::Arc> {
        self.ring.arc_of(position)
    }

    /// Whether we count in every arc that we are in charge of.
    pub(crate) fn counts_everywhere(&self) -> bool {
        let in_charge = |tenure: &&Tenure| self.homes(tenure.high).contains(&self.me);
        self.homes.tenures.iter().filter(in_charge).all(|tenure| tenure.copied)
    }

    fn has_passed(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.passed > 0)
    }

    /// Whether the node's data is known to be lost, so that there is nothing to get from it.
    pub(crate) fn is_gone_for_good(&self, node: NodeId) -> bool {
        use membership::Change;
        self.view.pending.iter().any(|pending| match &pending.change {
            Change::Replace { gone, .. } => *gone == node,
            Change::Leave { lost, .. } => lost.contains(&node),
            Change::Join { .. } => false,
        })
    }

    /// Whether those for whom `holds` is true are enough that nobody can overlook what they hold: a majority of the
    /// homes in charge, and of the next ones.
    pub(crate) fn is_quorum(&self, sets: &ReplicaSets, holds: impl Fn(NodeId) -> bool) -> bool {
        if self.rules.keep(Rule::OldMajorityOnly) { sets.is_quorum(holds) } else { is_majority(&sets.current, holds) }
    }

    /// All records are restored: acts on the view that the shell gave, unless a newer one was acted on before.
    pub(crate) fn begin_in_view(&mut self, out: &mut Outbox) {
        if self.awaits_newer_view() {
            // We are nobody's home until then; what we know of our arcs stays for the view that comes.
            self.ring = Ring::default();
            return;
        }
        if self.view.is_formed() {
            self.follow_view(out);
        }
    }

    /// Takes a view, if it is a newer one of this ring.
    pub(crate) fn handle_view(&mut self, view: View, out: &mut Outbox) -> bool {
        let foreign = self.view.is_formed() && view.cluster != self.view.cluster;
        let acted_on = self.homes.acted_on.map_or(Epoch(0), |(epoch, _)| epoch);
        if view.epoch <= self.view.epoch || view.epoch < acted_on || foreign || view.validate().is_err() {
            return false;
        }
        self.ring = view.ring();
        self.view = view;
        self.meet_peers();
        if self.view.is_formed() {
            self.follow_view(out);
        }
        let ahead = std::mem::take(&mut self.homes.ahead);
        for (from, message, context) in ahead {
            self.handle_message(from, message, context, out);
        }
        true
    }

    fn follow_view(&mut self, out: &mut Outbox) {
        let first = self.homes.acted_on.is_none();
        let before = std::mem::take(&mut self.homes.tenures);
        let ring = std::mem::take(&mut self.ring);
        let marks: VersionVector = self.marks.iter().map(|(actor, counter)| (*actor, *counter)).collect();
        let ours = ring.arcs().iter().filter(|arc| arc.is_held_by(self.me));
        let tenures: Vec<Tenure> = ours
            .map(|arc| match before.iter().find(|tenure| tenure.is_of(arc)) {
                Some(same) => same.clone(),
                None => Tenure::follow(&before, arc, self.me, first, &marks),
            })
            .collect();
        let in_charge = ring.arcs().iter().any(|arc| arc.replicas.contains(&self.me));
        self.ring = ring;
        let changed = tenures != before;
        self.homes.tenures = tenures;
        if first && !in_charge && !self.whole {
            // Nobody was ever told that we hold anything.
            self.whole = true;
            self.log(Record::Whole, out);
        }
        if changed || self.homes.acted_on.is_none_or(|(epoch, _)| epoch != self.view.epoch) {
            self.log_homes(out);
        }
        if changed && !first {
            // What a home that is one no more had stamped may be known to others only: until all have been compared
            // with again, marks do not show that nothing is missing.
            self.generation += 1;
            // Nor is it known which tombstones were dropped from what is new here.
            self.buried_max = self.buried_max.max(self.clock);
            let now = self.now;
            self.peers.values_mut().for_each(|peer| peer.pass_at = now);
        }
        if !first {
            // Also where we are no home: others are homes now of what we owe and hand on.
            self.restart_owed();
            self.restart_rounds(out);
        }
        self.buried_by.clear();
        self.find_foreign();
        self.transfer_follow_view();
    }

    fn log_homes(&mut self, out: &mut Outbox) {
        let (epoch, tenures) = (self.view.epoch, self.homes.tenures.clone());
        let position = self.log(Record::Homes { epoch, tenures }, out);
        self.homes.logged = position;
        if self.homes.acted_on.is_none_or(|(before, _)| before != epoch) {
            self.homes.acted_on = Some((epoch, position));
        }
    }

    /// Where the log says which view we act on: nothing is said in it before that is on disk.
    pub(crate) fn view_logged(&self) -> LogPosition {
        self.homes.acted_on.map_or(LogPosition(0), |(_, position)| position)
    }

    /// Writes that wait are waited for by the arc's present sets; what is owed is owed to homes alone.
    fn restart_owed(&mut self) {
        let waiting: Vec<(u64, RegisterKey)> =
            self.waiting.iter().map(|(counter, waiting)| (*counter, waiting.key.clone())).collect();
        let ring = std::mem::take(&mut self.ring);
        // Where we are a home no more we owe all the same, until the arc is handed on: else we would claim that a home
        // has what it lacks.
        for (node, peer) in &mut self.peers {
            peer.stop_owing(|key| ring.sets_of(key.position).contains(*node));
        }
        for (counter, key) in &waiting {
            let sets = ring.sets_of(key.position);
            if let Some(waiting) = self.waiting.get_mut(counter) {
                waiting.sets = sets.clone();
            }
            if self.unsynced.contains(counter) {
                continue;
            }
            let have = self.waiting.get(counter).map(|waiting| waiting.have.clone()).unwrap_or_default();
            for node in sets.iter().filter(|node| *node != self.me && !have.contains(node)) {
                if let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.known) {
                    peer.owe(key, *counter, *counter);
                }
            }
        }
        self.ring = ring;
    }

    /// Arcs that are not ours and that we hold keys of.
    fn find_foreign(&mut self) {
        let before = std::mem::take(&mut self.homes.foreign);
        let me = self.me;
        let early = !self.rules.keep(Rule::DroppedBeforeSwitch);
        let goes = |arc: &&membership::Arc| match &arc.next {
            Some(next) if early => !next.contains(&me),
            _ => !arc.is_held_by(me),
        };
        for arc in self.ring.arcs().iter().filter(goes) {
            let held = ranges_of(arc.low, arc.high).into_iter().any(|range| self.table.range(range).next().is_some());
            if !held {
                continue;
            }
            let same = before.iter().find(|old| (old.low, old.high, old.epoch) == (arc.low, arc.high, arc.epoch));
            let handed = same.map(|old| old.handed.clone()).unwrap_or_default();
            self.homes.foreign.push(Foreign { low: arc.low, high: arc.high, epoch: arc.epoch, handed });
        }
        if !self.homes.foreign.is_empty() {
            let (now, epoch) = (self.now, self.view.epoch);
            for peer in self.peers.values_mut() {
                peer.pass = peer.pass.take().filter(|pass| pass.epoch == epoch);
                peer.pass_at = now;
            }
        }
    }

    /// The node has lost what it held, also what we had handed on to it.
    pub(crate) fn hand_on_again(&mut self, node: NodeId) {
        for foreign in &mut self.homes.foreign {
            foreign.handed.remove(&node);
        }
    }

    /// Drops keys of arcs that the homes in charge hold as we do: all of them, since we owe each what we stamped for
    /// it.
    pub(crate) fn release(&mut self, out: &mut Outbox) {
        let safe = |foreign: &Foreign| {
            let homes = self.ring.replicas_of(foreign.high);
            let planted = !self.rules.keep(Rule::DroppedUnhanded) || !self.rules.keep(Rule::DroppedBeforeSwitch);
            planted || homes.iter().all(|home| foreign.handed.contains(home) || self.is_gone_for_good(*home))
        };
        let Some(at) = self.homes.foreign.iter().position(safe) else { return };
        let ranges = ranges_of(self.homes.foreign[at].low, self.homes.foreign[at].high);
        let all = ranges.into_iter().flat_map(|range| self.table.range(range)).map(|(key, _)| key.clone());
        let keys: Vec<RegisterKey> = all.take(RELEASE_STEP).collect();
        for key in &keys {
            self.log(Record::Dropped(key.clone()), out);
            self.table.remove(key);
            self.graves.remove(key);
        }
        if keys.len() < RELEASE_STEP {
            self.homes.foreign.remove(at);
        }
        if !keys.is_empty() {
            out.events.push(Event::Released { keys: keys.len() });
        }
    }

    /// The arcs about which we compare with the node, those of which both are homes. One
    /// that it is only to become a home of is left to it. And those that we hold and are no home of: they are handed
    /// on, once to each home, since nothing is added to them any more.
    pub(crate) fn arcs_to_compare(&self, node: NodeId) -> (Vec<Extent>, Vec<Extent>) {
        let me = self.me;
        let both = |arc: &&membership::Arc| {
            arc.is_held_by(me) && arc.is_held_by(node) && (arc.awaits(me) || !arc.awaits(node))
        };
        let shared = self.ring.arcs().iter().filter(both);
        let arcs = shared.map(|arc| (arc.low, arc.high)).collect();
        let handed = self.homes.foreign.iter().filter(|foreign| {
            let arc = self.ring.arc_of(foreign.high).filter(|_| !foreign.handed.contains(&node));
            arc.is_some_and(|arc| !arc.is_held_by(me) && arc.replicas.contains(&node))
        });
        (arcs, handed.map(|foreign| (foreign.low, foreign.high)).collect())
    }

    /// Whether there is nothing to compare with the node.
    pub(crate) fn has_nothing_with(&self, node: NodeId) -> bool {
        self.shared_with_none(node) && self.arcs_to_compare(node).1.is_empty()
    }

    /// What an answer about these ranges says of us: whether we have all that we are to hold of what we are in charge
    /// of, and how far we have come with whom.
    pub(crate) fn standing(&self, ranges: &[Question]) -> (bool, VersionVector) {
        let asked = |tenure: &&Tenure| {
            let touches = |question: &Question| {
                let first = Position(question.range.first);
                tenure.contains(first) || ranges_of(tenure.low, tenure.high).iter().any(|r| r.meets(question.range))
            };
            ranges.iter().any(touches)
        };
        let (mut whole, mut marks) = (true, None::<VersionVector>);
        for tenure in self.homes.tenures.iter().filter(asked) {
            if self.homes(tenure.high).contains(&self.me) {
                whole &= self.counts_at(tenure.high);
            }
            let known = self.known_marks(tenure);
            marks = Some(marks.map_or_else(|| known.clone(), |marks| marks.common(&known)));
        }
        (whole, marks.unwrap_or_default())
    }

    /// Everything that an actor stamped of this arc up to here is here, or gone.
    fn known_marks(&self, tenure: &Tenure) -> VersionVector {
        let counts = |actor: Actor| !tenure.gained || tenure.known.contains(&actor);
        let mut marks: VersionVector =
            self.marks.iter().filter(|(actor, _)| counts(**actor)).map(|(actor, counter)| (*actor, *counter)).collect();
        if tenure.gained {
            marks.merge(&tenure.inherited);
        }
        if tenure.copied {
            // What we have stamped is in the table from then on. What lies above the ceiling may yet be stamped, after
            // a restart, wherever others have moved our clock.
            marks.include(self.actor, self.clock.min(self.ceiling()));
        }
        marks
    }

    /// A pass with the node is through: each of us holds now what the other held when it began.
    pub(crate) fn compared_with(&mut self, node: NodeId, pass: &Pass, out: &mut Outbox) {
        // One that had dropped what it had stamped, and is about to get it back, does not vouch for its own stamps.
        let actor = self.peers.get(&node).and_then(|peer| peer.actor).unwrap_or_default();
        let vouches = pass.marks.get(actor) > 0;
        self.note_agreed(node, pass);
        let (mut news, mut again) = (false, false);
        for at in 0..self.homes.tenures.len() {
            let tenure = &mut self.homes.tenures[at];
            if tenure.epoch > pass.epoch || !pass.arcs.contains(&tenure.high) {
                continue;
            }
            let heeded = tenure.epoch > Epoch(1);
            news |= tenure.compared.insert(node) && heeded;
            if tenure.gained {
                if vouches {
                    tenure.known.insert(actor);
                }
                again |= !tenure.known.contains(&actor);
                tenure.inherited.merge(&pass.marks);
            }
            if pass.whole {
                news |= tenure.sources.insert(node) && heeded;
            }
            let high = tenure.high;
            if !tenure.copied && self.has_copied(high) {
                self.homes.tenures[at].copied = true;
                news = true;
                let keys = self.keys_in(high);
                let verified_with = self.agreed_homes(high, self.homes.tenures[at].epoch);
                out.events.push(Event::ArcCopied { high, keys, verified_with });
            }
        }
        let mut handed = Vec::new();
        for foreign in self.homes.foreign.iter_mut().filter(|foreign| foreign.epoch <= pass.epoch) {
            if pass.arcs.contains(&foreign.high) {
                foreign.handed.insert(node);
                handed.push((foreign.low, foreign.high));
            }
        }
        self.owe_no_more(node, &handed, out);
        let soon = self.now + self.config.resend * 4;
        if let Some(peer) = self.peers.get_mut(&node).filter(|_| again) {
            peer.pass_at = peer.pass_at.min(soon);
        }
        if news {
            self.buried_max = self.buried_max.max(self.clock);
            self.log_homes(out);
        }
    }

    /// How many keys are held of one of our arcs.
    fn keys_in(&self, high: Position) -> u64 {
        let Some(tenure) = self.tenure_of(high) else { return 0 };
        let ranges = ranges_of(tenure.low, tenure.high);
        ranges.into_iter().map(|range| self.table.range(range).count() as u64).sum()
    }

    /// The node has all that we hold of these arcs, of which we stamp nothing any more.
    fn owe_no_more(&mut self, node: NodeId, arcs: &[Extent], out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&node).filter(|_| !arcs.is_empty()) else { return };
        let within = |key: &RegisterKey| arcs.iter().any(|(low, high)| key.position.in_arc(*low, *high));
        let delivered: Vec<(u64, RegisterKey)> =
            peer.owed().filter(|(_, key)| within(key)).map(|(counter, key)| (counter, key.clone())).collect();
        for (counter, key) in delivered {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.delivered(&key, counter);
            }
            self.delivered(node, &key, counter, out);
        }
    }

    /// Whether enough of the homes in charge have been compared with.
    fn has_copied(&self, high: Position) -> bool {
        let Some(tenure) = self.tenure_of(high) else { return false };
        let homes = self.homes(high);
        if !self.rules.keep(Rule::CopiedFromOne) {
            return !tenure.compared.is_empty();
        }
        if homes.contains(&self.me) {
            // We are in charge without having copied: our memory is lost, and what we had acknowledged with it.
            return homes
                .iter()
                .all(|home| *home == self.me || tenure.compared.contains(home) || self.is_gone_for_good(*home));
        }
        is_majority(&homes, |home| tenure.sources.contains(&home))
    }

    /// Whether a message is to be acted on, by its sender's view: one of a newer view waits for that.
    pub(crate) fn is_in_time(
        &mut self,
        from: NodeId,
        message: &Message,
        context: TraceContext,
        out: &mut Outbox,
    ) -> bool {
        if message.epoch == self.view.epoch || matches!(message.body, Body::OtherEpoch { .. }) {
            return true;
        }
        out.events.push(Event::EpochDiffers { peer: from });
        let ahead = message.epoch > self.view.epoch;
        if ahead
            && !self.rules.keep(Rule::CopiedFromOldView)
            && matches!(message.body, Body::Ask { .. } | Body::Want { .. })
        {
            return true;
        }
        if ahead && self.homes.ahead.len() < AHEAD_MAX {
            self.homes.ahead.push((from, message.clone(), context));
        }
        self.tell_of_view(from, ahead, out);
        let of_both = matches!(message.body, Body::Bury { .. } | Body::Buried { .. } | Body::Drop { .. });
        !ahead && !of_both
    }

    /// Sends the peer our view, or asks it for its own if that is `newer`; not twice at a time.
    fn tell_of_view(&mut self, to: NodeId, newer: bool, out: &mut Outbox) {
        let (epoch, now) = (self.view.epoch, self.now);
        let told = self.homes.told.get(&to);
        if told.is_some_and(|(told, at)| *told == epoch && now.since(*at) < VIEW_AGAIN_AFTER) {
            return;
        }
        self.homes.told.insert(to, (epoch, now));
        let view = (!newer && !self.awaits_newer_view()).then(|| Arc::new(self.view.clone()));
        self.tell(to, Body::OtherEpoch { view }, LogPosition(0), TraceContext::NONE, out);
    }

    pub(crate) fn handle_other_epoch(
        &mut self,
        from: NodeId,
        theirs: Epoch,
        view: Option<Arc<View>>,
        out: &mut Outbox,
    ) {
        match view {
            Some(view) => {
                let view = Arc::unwrap_or_clone(view);
                if self.handle_view(view.clone(), out) {
                    out.events.push(Event::ViewLearned(view));
                }
            }
            None if theirs < self.view.epoch => self.tell_of_view(from, false, out),
            None => {}
        }
    }

    /// Those with whom we share keys, those that may take our hints, and those who hand on to us what they hold.
    pub(crate) fn meet_peers(&mut self) {
        for member in &self.view.members {
            if member.id != self.me {
                self.peers.entry(member.id).or_insert_with(Peer::new);
            }
        }
    }
}
