//! Dropping the registers of deleted keys, for good.
//!
//! A deletion leaves a *tombstone*: a register without a value. It can go once nothing older than it can ever be seen
//! again, wherever that may still lie: then a register that is absent says the same as the tombstone.
//!
//! 1. *The memory lapses.* A tombstone still tells retries from new requests. When all that it remembers is older than
//!    a retry may be, a round agrees on the tombstone without its memory; a clock only says when to propose that. One
//!    that holds a fencing token stays for ever, for tokens must never go back.
//! 2. *All agree.* A replica that knows the bare tombstone to be chosen at `b` asks *all* replicas of its arc,
//!    with a floor `f` that is at least `b`. Who holds exactly that tombstone on its disk, or nothing, and has
//!    promised nothing above `f`, agrees: from then on it refuses every ballot up to `f`, whoever proposes it, and
//!    takes nothing up to `f` that others teach it, if it holds nothing.
//! 3. *All drop.* When every replica has agreed, each may drop what it holds at `b`, whenever it hears of it.
//!
//! Why nothing comes back. Once all have agreed, each replica of the arc holds the tombstone, nothing, or something
//! above `f`; and no ballot up to `f` can be accepted by any of them: the floor stands against it, and after a restart
//! the ceiling. A promise that was given before, with an older state in it, is of a ballot up to `f` (else its giver
//! had not agreed; a giver that has forgotten it in a restart agrees only to floors above its ceiling), and so wins no
//! further promise. A question that was asked before may be answered with an older state: whoever has one open does not
//! agree. One that is asked later finds the tombstone at a majority, since it was chosen, or a majority that holds
//! nothing.
//!
//! Nothing is collected while the arc changes. A later newcomer copies from replicas that have agreed; and what it may
//! hold from an earlier membership it gives up before it copies ([`Replica::clear_awaited`]).
//!
//! An absent register has a time: whatever it may have been lies at or below the floors that stand here against
//! everybody ([`Replica::floor_of_absence`]).

use std::collections::{BTreeMap, BTreeSet};

use membership::{Epoch, NodeId, Position};
use stdx::TraceContext;

use crate::acceptor::Register;
use crate::confirm::NOBODY;
use crate::io::{Event, Outbox};
use crate::message::{Body, LogPosition, RoundId, State};
use crate::replica::Replica;
use crate::round::{Waiting, is_quorum};
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, RegisterKey};

/// Tombstones that are looked at in one pass.
const LOOKED_AT_MAX: usize = 4_096;
/// Rounds and queries that one pass begins.
const BEGUN_AT_ONCE_MAX: usize = 256;
/// Tombstones of one arc that are agreed on together.
pub(crate) const AGREED_AT_ONCE_MAX: usize = 256;
/// A replica that is not an arc's first one looks at it in one pass of so many: for what the first one no longer holds
/// while others still do.
const OTHERS_LOOK_EVERY: u64 = 4;

/// What this replica collects.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Collections {
    /// The question under way of each arc, by its upper end.
    arcs: BTreeMap<Position, Collection>,
    /// The floor that some replica of the arc asked for.
    floors_needed: BTreeMap<Position, u64>,
    /// Tombstones of which it was asked whether they are chosen, in an earlier pass.
    asked: BTreeSet<(RegisterKey, Ballot)>,
    /// Where the next pass goes on.
    after: Option<RegisterKey>,
    passes: u64,
    /// How many tombstones were dropped since the start.
    dropped: u64,
}

/// A question whether tombstones can go.
#[derive(Clone, Debug, Hash)]
struct Collection {
    round: RoundId,
    epoch: Epoch,
    up_to: u64,
    keys: Vec<(RegisterKey, Ballot)>,
    /// Which of them each replica did not agree to.
    answers: BTreeMap<NodeId, BTreeSet<u32>>,
}

/// What a pass found to do.
#[derive(Default)]
struct Found {
    /// To be settled by a round: their memory lapses, or they are not chosen yet.
    rounds: Vec<RegisterKey>,
    /// To be asked for.
    queries: Vec<RegisterKey>,
    /// To be agreed on, by arc.
    batches: BTreeMap<Position, Vec<(RegisterKey, Ballot)>>,
}

impl State {
    /// Whether the state says no more than an absent register does.
    pub fn is_bare(&self) -> bool {
        let memory = &self.requests;
        let remembers = !memory.entries.is_empty() || memory.horizon_ms != 0;
        self.value.is_none() && !remembers && self.fence == 0 && self.ends_ms == 0
    }

    /// Whether the rules take the state for a bare one.
    pub(crate) fn says_nothing(&self, rules: impl Rules) -> bool {
        if rules.keeps(Rule::AgreeOnLapse) { self.is_bare() } else { self.is_collectable() }
    }

    /// Whether a tombstone's memory is over by a clock that shows `wall_ms`.
    pub(crate) fn has_lapsed(&self, wall_ms: u64) -> bool {
        self.is_collectable() && !self.is_bare() && self.requests.has_lapsed(wall_ms)
    }

    /// Whether the register may go some day: it holds neither a value nor a fencing token.
    pub(crate) fn is_collectable(&self) -> bool {
        self.value.is_none() && self.fence == 0
    }
}

impl<R: Rules> Replica<R> {
    /// Tombstones that are held and will be collected some day.
    pub fn tombstones(&self) -> usize {
        self.acceptor.tombstones().len()
    }

    /// Tombstones that were dropped here since the start.
    pub fn tombstones_dropped(&self) -> u64 {
        self.collections.dropped
    }

    /// One pass: looks at the next tombstones and begins what is due. What a lost message leaves undone, a later pass
    /// does.
    pub(crate) fn collect(&mut self, wall_ms: u64, out: &mut Outbox) {
        if self.disk_full || self.draining {
            return;
        }
        let Found { rounds, queries, batches } = self.look_for_tombstones(wall_ms);
        for key in rounds {
            let waiting = Waiting { wall_ms, ticket: Some(NOBODY), ..Waiting::internal(&key) };
            self.in_a_round(&key, waiting, out);
        }
        for key in queries {
            let waiting = Waiting { wall_ms, ticket: Some(NOBODY), ..Waiting::internal(&key) };
            self.begin_query(key, waiting, out);
        }
        self.collections.arcs.clear();
        for (arc, keys) in batches {
            self.begin_collection(arc, keys, out);
        }
    }

    fn look_for_tombstones(&mut self, wall_ms: u64) -> Found {
        self.collections.passes += 1;
        let others_too = self.collections.passes.is_multiple_of(OTHERS_LOOK_EVERY);
        if self.collections.asked.len() > LOOKED_AT_MAX {
            self.collections.asked.clear();
        }
        let after = self.collections.after.take();
        let looked: Vec<RegisterKey> = self.acceptor.tombstones_after(after).take(LOOKED_AT_MAX).cloned().collect();
        if looked.len() == LOOKED_AT_MAX {
            self.collections.after = looked.last().cloned();
        }
        let mut found = Found::default();
        for key in looked {
            let Some(arc) = self.ring.arc_of(key.position).filter(|arc| arc.next.is_none()) else { continue };
            let away = arc.replicas.iter().any(|node| self.down.contains(node));
            let all_here = arc.is_held_by(self.me) && !(away && self.rules.keeps(Rule::CollectFromAll));
            let first = arc.replicas.first() == Some(&self.me);
            if !all_here || !(first || others_too) || self.lanes.contains_key(&key) {
                continue;
            }
            let Some(held) = self.acceptor.register(&key) else { continue };
            let begun = found.rounds.len() + found.queries.len();
            if !held.state.says_nothing(self.rules) {
                if held.state.has_lapsed(wall_ms) && begun < BEGUN_AT_ONCE_MAX {
                    found.rounds.push(key);
                }
            } else if held.chosen == held.accepted {
                let batch = found.batches.entry(arc.high).or_default();
                if batch.len() < AGREED_AT_ONCE_MAX {
                    batch.push((key, held.accepted));
                }
            } else if begun < BEGUN_AT_ONCE_MAX {
                // First a question; if that did not show it to be chosen, a round makes it so.
                match self.collections.asked.insert((key.clone(), held.accepted)) {
                    true => found.queries.push(key),
                    false => found.rounds.push(key),
                }
            }
        }
        found
    }

    fn begin_collection(&mut self, arc: Position, keys: Vec<(RegisterKey, Ballot)>, out: &mut Outbox) {
        let Some(known) = self.ring.arc_of(arc) else { return };
        let (sets, epoch) = (known.sets(), known.epoch);
        let promised = |(key, ballot): &(RegisterKey, Ballot)| {
            self.acceptor.register(key).map_or(0, Register::latest).max(ballot.counter)
        };
        // No higher than need be: whatever lies below is refused from now on, also the promises for next writes that
        // the arc's coordinators hold.
        let needed = self.collections.floors_needed.remove(&arc).unwrap_or(0);
        let up_to = keys.iter().map(promised).max().unwrap_or(0).max(needed).max(self.floor_against_all(arc));
        let round = self.next_round_id();
        let collection = Collection { round, epoch, up_to, keys: keys.clone(), answers: BTreeMap::new() };
        self.collections.arcs.insert(arc, collection);
        for node in sets.iter() {
            let body = Body::Collect { round, arc, up_to, keys: keys.clone() };
            self.tell((node, epoch), body, LogPosition(0), TraceContext::NONE, out);
        }
    }

    /// Answers as a replica of the arc whether these tombstones may go, and refuses everything up to the floor from now
    /// on if one of them may. Which may not; the floor that would be needed; and how far the log must be synced before
    /// this is said.
    pub(crate) fn agree_to_collect(
        &mut self,
        arc: Position,
        up_to: u64,
        keys: &[(RegisterKey, Ballot)],
    ) -> Option<(Vec<u32>, u64, LogPosition)> {
        let known = self.ring.arc_of(arc).filter(|known| known.high == arc && known.next.is_none())?;
        if !known.is_held_by(self.me) || self.disk_full {
            return None;
        }
        let mut needed = if self.rules.keeps(Rule::FloorBeforeDrop) { self.floor_against_all(arc) } else { 0 };
        let mut refused = Vec::new();
        for (at, (key, ballot)) in keys.iter().enumerate() {
            needed = needed.max(self.acceptor.register(key).map_or(0, Register::latest));
            let ours = self.arc_end(key) == arc;
            let open = self.lanes.contains_key(key);
            if !ours || open || !self.acceptor.is_at_rest(self.rules, key, *ballot, up_to) {
                refused.push(at as u32);
            }
        }
        if self.rules.keeps(Rule::FloorBeforeDrop) {
            // Promises that a restart made this replica forget, or that it gave up with a register, lie below the
            // floors that stand: a lower one does not cover them.
            if self.floor_against_all(arc) > up_to {
                refused = (0..keys.len() as u32).collect();
            } else if refused.len() < keys.len() {
                self.ledger.refuse_up_to(arc, up_to);
            }
        }
        // All that led to what is held here, be it nothing, is on disk before this is said.
        Some((refused, needed, self.acceptor.log_end()))
    }

    pub(crate) fn handle_collectable(
        &mut self,
        from: NodeId,
        round: RoundId,
        (refused, needed): (Vec<u32>, u64),
        out: &mut Outbox,
    ) {
        let asked = self.collections.arcs.iter_mut().find(|(_, collection)| collection.round == round);
        let Some((arc, collection)) = asked else { return };
        let (arc, epoch) = (*arc, collection.epoch);
        let Some(known) = self.ring.arc_of(arc).filter(|known| known.high == arc && known.epoch == epoch) else {
            return;
        };
        let sets = known.sets();
        // No counter lies above that of the message that told it.
        let needed = needed.min(self.acceptor.counter());
        if needed > collection.up_to {
            let known = self.collections.floors_needed.entry(arc).or_default();
            *known = (*known).max(needed);
        }
        if !sets.contains(from) {
            return;
        }
        collection.answers.entry(from).or_insert_with(|| refused.into_iter().collect());
        let (rules, from_all) = (self.rules, self.rules.keeps(Rule::CollectFromAll));
        let enough = |yes: &dyn Fn(NodeId) -> bool| {
            if from_all { sets.iter().all(yes) } else { is_quorum(rules, &sets, yes) }
        };
        if !enough(&|node| collection.answers.contains_key(&node)) {
            return;
        }
        let Some(Collection { up_to, keys, answers, .. }) = self.collections.arcs.remove(&arc) else { return };
        let agreed = |at: u32| enough(&|node| answers.get(&node).is_some_and(|refused| !refused.contains(&at)));
        let keys: Vec<_> = (0..).zip(keys).filter(|(at, _)| agreed(*at)).map(|(_, key)| key).collect();
        if keys.is_empty() {
            return;
        }
        for node in sets.iter() {
            let body = Body::Collected { arc, up_to, keys: keys.clone() };
            self.tell((node, epoch), body, LogPosition(0), TraceContext::NONE, out);
        }
    }

    /// All replicas have agreed: drops what is still as they agreed.
    pub(crate) fn drop_collected(
        &mut self,
        arc: Position,
        up_to: u64,
        keys: &[(RegisterKey, Ballot)],
        out: &mut Outbox,
    ) {
        let known = self.ring.arc_of(arc).filter(|known| known.high == arc && known.next.is_none());
        if self.disk_full || !known.is_some_and(|known| known.is_held_by(self.me)) {
            return;
        }
        if self.rules.keeps(Rule::FloorBeforeDrop) {
            self.ledger.refuse_up_to(arc, up_to);
        }
        let mut dropped = 0;
        for (key, ballot) in keys {
            let ours = self.arc_end(key) == arc;
            let open = self.lanes.contains_key(key);
            if ours && !open && self.acceptor.is_at_rest(self.rules, key, *ballot, up_to) {
                dropped += u64::from(self.acceptor.drop_register(key, &mut out.persist));
                self.collections.asked.remove(&(key.clone(), *ballot));
            }
        }
        self.collections.dropped += dropped;
        if dropped > 0 {
            out.events.push(Event::Collected { registers: dropped });
        }
    }

    /// The floor of the arc that stands here against everybody.
    pub(crate) fn floor_against_all(&self, arc: Position) -> u64 {
        self.acceptor.floor().max(self.ledger.against_all(arc))
    }

    /// The time up to which a register that is absent here may have held something: all replicas of an arc have agreed
    /// to a floor before one of them drops, and it stands in every later start and arc epoch.
    pub(crate) fn floor_of_absence(&self, key: &RegisterKey) -> Ballot {
        let floor = self.floor_against_all(self.arc_end(key));
        if floor == 0 || !self.rules.keeps(Rule::AbsenceHasTime) { Ballot::ZERO } else { Ballot::end_of(floor) }
    }

    /// Whether a state that is known to be chosen is to be taken, when another replica teaches it.
    ///
    /// Where nothing is held, what lies below a floor may be what was deleted and dropped since. (A register that was
    /// merely missed is found by catching up, which asks.)
    pub(crate) fn may_be_taught(&self, key: &RegisterKey, ballot: Ballot, state: &State) -> bool {
        if !self.acceptor.is_absent(key) {
            return true;
        }
        let below = ballot.counter <= self.floor_against_all(self.arc_end(key));
        let stands = self.rules.keeps(Rule::FloorBeforeDrop);
        !state.is_bare() && (!below || !stands)
    }

    /// Before a newer view is acted on: gives up whatever is held of arcs of which this node becomes a new replica. It
    /// may hold what was deleted and collected while others were in charge. They hold all that was ever chosen.
    pub(crate) fn clear_awaited(&mut self, out: &mut Outbox) {
        if !self.rules.keeps(Rule::ClearBeforeCopy) {
            return;
        }
        let acted_on = self.acceptor.epoch();
        let news = self.ring.arcs().iter().filter(|arc| arc.awaits(self.me) && arc.epoch > acted_on);
        for ends in news.map(|arc| (arc.low, arc.high)).collect::<Vec<_>>() {
            self.acceptor.clear_arc(ends, &mut out.persist);
        }
    }
}

impl Collections {
    /// Whether `from`'s answer to this question is still waited for.
    pub(crate) fn waits_for(&self, round: RoundId, from: NodeId) -> bool {
        self.arcs.values().any(|asked| asked.round == round && !asked.answers.contains_key(&from))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use membership::BucketId;

    use super::*;
    use crate::acceptor::Acceptor;
    use crate::rules::Correct;
    use crate::types::Version;

    /// An absent register has the time of the floor, so the floor must lie above the time of what is dropped, which may
    /// be later than its ballot.
    #[test]
    fn a_tombstone_goes_below_no_floor_that_is_older_than_its_time() {
        let ballot = |counter| Ballot { counter, node: NodeId(1) };
        let key = RegisterKey { position: Position(5), bucket: BucketId(1), key: Bytes::from_static(b"k") };
        let state = State { version: Version { ballot: ballot(9), index: 0 }, ..State::default() };
        let mut acceptor = Acceptor::new();
        assert!(acceptor.learn(&key, ballot(2), &state, &mut Vec::new()));
        let at_rest = |up_to| acceptor.is_at_rest(Correct, &key, ballot(2), up_to);
        assert_eq!([2, 8, 9].map(at_rest), [false, false, true]);
    }
}
