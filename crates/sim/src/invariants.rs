//! What must hold after every event. Each function states one sentence and says, when it is broken, by what.

mod copying;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Bound, RangeBounds as _, RangeInclusive};

use membership::{Arc, Epoch, NodeId, ReplicaSets, View};
use replication::{
    Ballot, Outcome, REQUESTS_AGE_MAX_MS, REQUESTS_MAX, RegisterKey, Remembered, RequestId, State, Version,
};

use crate::node::TakenBack;

/// A broken invariant: its name, and both sides of the contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.found)
    }
}

/// A register's replica sets through the epochs of its arc, and what was accepted and chosen on it, seen from outside
/// of all nodes.
#[derive(Debug, Default)]
struct Register {
    /// The arc epochs so far with their sets, oldest first.
    history: Vec<(Epoch, ReplicaSets)>,
    /// What was accepted at each ballot.
    accepted: BTreeMap<Ballot, State>,
    /// In which arc epoch each node first accepted (or copied) it.
    since: BTreeMap<(Ballot, NodeId), Epoch>,
    /// The nodes whose disks hold it.
    durable: BTreeMap<Ballot, BTreeSet<NodeId>>,
    /// By node, of the ballots that its disk holds and the arc epochs in which it accepted them, those after which it
    /// accepted no higher ballot in that epoch or an earlier one: so epochs grow with ballots.
    newest: BTreeMap<NodeId, BTreeMap<Ballot, Epoch>>,
    /// Before which arc epoch a node that was to become a replica anew gave up what it had accepted.
    given_up: BTreeMap<(Ballot, NodeId), Epoch>,
    /// The arc epochs in which a node's vote stood that gave it up, and took the same again later.
    stood: BTreeMap<(Ballot, NodeId), Vec<RangeInclusive<Epoch>>>,
    /// The ballots at which something was chosen.
    chosen: BTreeSet<Ballot>,
    /// Up to where each coordinator has confirmed the register's arc, in which arc epoch.
    confirmed: BTreeMap<(NodeId, Epoch), u64>,
    /// The nodes that have copied it, as far as they have not given it up again.
    copies: BTreeMap<NodeId, copying::Copied>,
    /// The highest ballot of a tombstone that was dropped, and the arc epoch in which it was.
    dropped: (Ballot, Epoch),
}

/// A range of arc epochs.
type Epochs = (Bound<Epoch>, Bound<Epoch>);

/// The observer of all registers and of all views.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    registers: BTreeMap<RegisterKey, Register>,
    /// The newest view that each node's disk says it acts on.
    reached: BTreeMap<NodeId, Epoch>,
    /// The clock that is furthest ahead, in milliseconds: what is remembered lapses by it.
    pub wall_ms: u64,
}

impl Registers {
    /// The ring has a new view: what are the register's sets now?
    pub fn view(&mut self, key: &RegisterKey, arc: &Arc) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        match register.history.last() {
            Some((epoch, sets)) if *epoch == arc.epoch => invariant_one_owner_set_per_arc_epoch(key, arc, sets),
            _ => {
                register.history.push((arc.epoch, arc.sets()));
                Ok(())
            }
        }
    }

    /// A node acts on some view: its sets must be those that the ring once gave the arc's epoch.
    pub fn acts_on(&self, key: &RegisterKey, arc: &Arc) -> Result<(), Violation> {
        let history = self.registers.get(key).map(|register| register.history.as_slice()).unwrap_or_default();
        let known = history.iter().find(|(epoch, _)| *epoch == arc.epoch);
        known.map_or(Ok(()), |(_, sets)| invariant_one_owner_set_per_arc_epoch(key, arc, sets))
    }

    /// Node `node` accepted (or learned, or copied) `state` at `ballot`, in the arc epoch `epoch`.
    pub fn accepted(
        &mut self,
        key: &RegisterKey,
        (ballot, state): (Ballot, &State),
        (node, epoch): (NodeId, Epoch),
    ) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        let reached = self.reached.get(&node).copied().unwrap_or_default();
        register.voted_in(node, ballot, epoch, reached)?;
        register.note_since((ballot, node), epoch);
        match register.accepted.get(&ballot) {
            Some(other) => invariant_one_state_per_ballot(ballot, other, state),
            None => {
                invariant_a_request_acts_once(state)?;
                if let Some(before) = register.chosen.range(..ballot).next_back() {
                    let older = (*before, &register.accepted[before]);
                    invariant_a_deleted_value_never_comes_back(older, (ballot, state))?;
                    invariant_a_later_write_has_a_later_time(older, (ballot, state))?;
                }
                register.accepted.insert(ballot, state.clone());
                Ok(())
            }
        }
    }

    /// Node `node`'s disk holds what it accepted at `ballot`. A quorum of disks makes it chosen.
    pub fn durable(&mut self, key: &RegisterKey, ballot: Ballot, node: NodeId) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        register.durable.entry(ballot).or_default().insert(node);
        register.note_newest(ballot, node);
        register.note_chosen(ballot, &self.reached, (Bound::Unbounded, Bound::Unbounded), self.wall_ms)
    }

    /// A replica of the register's arc accepted (or learned, or copied) `state`, in the arc epoch `epoch`.
    pub fn taken_by_replica(
        &self,
        key: &RegisterKey,
        (ballot, state): (Ballot, &State),
        epoch: Epoch,
    ) -> Result<(), Violation> {
        let dropped = self.registers.get(key).map(|register| register.dropped).unwrap_or_default();
        match epoch >= dropped.1 && !state.is_bare() {
            true => invariant_nothing_below_a_dropped_tombstone_is_taken(ballot, dropped.0),
            false => Ok(()),
        }
    }

    /// A node dropped the tombstone that it held at `ballot`, in the arc epoch `epoch`.
    pub fn dropped(&mut self, key: &RegisterKey, ballot: Ballot, epoch: Epoch) -> Result<(), Violation> {
        let Some(register) = self.registers.get_mut(key) else { return Ok(()) };
        register.dropped = register.dropped.max((ballot, epoch));
        if let Some(state) = register.accepted.get(&ballot) {
            invariant_nothing_that_counts_is_dropped(ballot, state, self.wall_ms)?;
        }
        let sets = register.history.iter().find(|(known, _)| *known == epoch).map(|(_, sets)| sets);
        let members = sets.into_iter().flat_map(ReplicaSets::iter);
        let held = members.filter_map(|node| Some((node, register.newest_durable(node)?)));
        invariant_a_tombstone_goes_only_when_nobody_holds_older(ballot, held)
    }

    /// Node `node` gave up what it had accepted, before it acted in the arc epoch `epoch`.
    pub fn taken_back(&mut self, node: NodeId, taken: &TakenBack, epoch: Epoch) {
        for (key, register) in &mut self.registers {
            match taken {
                TakenBack::Register(dropped, up_to) if dropped == key => register.forget(node, *up_to),
                TakenBack::Arc(low, high) if key.position.in_arc(*low, *high) => register.give_up(node, epoch),
                TakenBack::Register(..) | TakenBack::Arc(..) => {}
            }
        }
    }

    /// Node `node` was started again, and its log gave back this vote: where it had given it up since, that was lost
    /// with what was not synced (seed 8201).
    pub fn found_at_start(&mut self, key: &RegisterKey, ballot: Ballot, node: NodeId) {
        if let Some(register) = self.registers.get_mut(key) {
            register.given_up.remove(&(ballot, node));
        }
    }

    /// Node `node` was started again, and its log gave back this as the newest of the register.
    pub fn remembered(&self, key: &RegisterKey, node: NodeId, held: Option<Ballot>) -> Result<(), Violation> {
        let newest = self.registers.get(key).and_then(|register| register.newest_durable(node));
        invariant_a_restart_remembers_what_was_durable(key, newest, held)
    }

    /// Node `node`'s disk says that it acts on the view `epoch`, and so on no earlier one.
    pub fn reached(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let reached = self.reached.entry(node).or_default();
        let before = *reached;
        if epoch <= before {
            return Ok(());
        }
        *reached = epoch;
        for register in self.registers.values_mut() {
            // Only in an arc epoch that it had not reached so far can its word make a difference.
            let met = (Bound::Excluded(before), Bound::Included(epoch));
            if !register.history.iter().any(|(arc_epoch, _)| met.contains(arc_epoch)) {
                continue;
            }
            let held: Vec<Ballot> =
                register.durable.iter().filter(|(_, nodes)| nodes.contains(&node)).map(|(ballot, _)| *ballot).collect();
            for ballot in held {
                register.note_chosen(ballot, &self.reached, met, self.wall_ms)?;
            }
        }
        Ok(())
    }

    /// Coordinator `node` has confirmed the register's arc up to this counter, in the arc epoch `epoch`.
    pub fn confirmed(
        &mut self,
        key: &RegisterKey,
        (node, epoch): (NodeId, Epoch),
        up_to: u64,
    ) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        let confirmed = register.confirmed.entry((node, epoch)).or_default();
        *confirmed = (*confirmed).max(up_to);
        register.expect_floors_of_copies(epoch)
    }

    /// Newcomer `node` has copied the register, for the arc epoch `epoch`, and refuses what others propose up to
    /// `floor`.
    pub fn copied(&mut self, key: &RegisterKey, (node, epoch): (NodeId, Epoch), floor: u64) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        register.note_copied(node, copying::Copied { epoch, floor }, &self.reached)
    }

    /// The nodes whose members claim the register, and what each node holds of it, unless it is too early to ask.
    pub fn at_successor(
        &self,
        key: &RegisterKey,
        sets: &ReplicaSets,
        claimed: &[NodeId],
        held: Option<&BTreeMap<NodeId, Ballot>>,
    ) -> Result<(), Violation> {
        let register = self.registers.get(key);
        let chosen = register.and_then(|register| register.chosen.last().copied()).unwrap_or_default();
        let dropped = register.map_or(Ballot::ZERO, |register| register.dropped.0);
        // Of a tombstone that all have dropped nothing is left to hold.
        let chosen = if chosen <= dropped { Ballot::ZERO } else { chosen };
        let holds = |node: NodeId| held.is_none_or(|held| held.get(&node).is_some_and(|held| *held >= chosen));
        invariant_every_key_is_at_its_successor(key, claimed, sets, holds)
    }

    /// A client was told that its write is done.
    pub fn acknowledged(&self, key: &RegisterKey, request: RequestId) -> Result<(), Violation> {
        let register = self.registers.get(key);
        let chosen =
            register.into_iter().flat_map(|held| held.chosen.iter().rev().map(|ballot| &held.accepted[ballot]));
        invariant_an_acknowledged_write_is_on_a_majority_of_disks(chosen, request)
    }
}

impl Register {
    /// The node took the ballot in this arc epoch. What it had voted before it gave that up stands in the epochs then.
    fn note_since(&mut self, vote: (Ballot, NodeId), epoch: Epoch) {
        let Some(before) = self.given_up.remove(&vote) else {
            self.since.entry(vote).or_insert(epoch);
            return;
        };
        if let Some(since) = self.since.insert(vote, epoch) {
            self.stood.entry(vote).or_default().push(since..=Epoch(before.0.saturating_sub(1)));
        }
    }

    /// Whether what is accepted at `ballot` is chosen in some arc epoch: a quorum of its sets holds it on disk since
    /// that epoch or before, held nothing newer when that epoch came, and acts on that epoch. `among` are the epochs to
    /// try.
    fn is_chosen(&self, ballot: Ballot, reached: &BTreeMap<NodeId, Epoch>, among: Epochs) -> bool {
        let Some(holders) = self.durable.get(&ballot) else { return false };
        let since = |node: NodeId| self.since.get(&(ballot, node)).copied().unwrap_or_default();
        // What does not depend on the epoch is asked once a holder, not once an epoch.
        let mut votes: Vec<(NodeId, RangeInclusive<Epoch>)> = Vec::new();
        for node in holders {
            let acts_on = reached.get(node).copied().unwrap_or_default();
            let newest = self.newer_since(ballot, *node).map_or(acts_on, |newer| newer.min(acts_on));
            let given_up = self.given_up.get(&(ballot, *node));
            let until = given_up.map_or(newest, |before| newest.min(Epoch(before.0.saturating_sub(1))));
            votes.push((*node, since(*node)..=until));
            let stood = self.stood.get(&(ballot, *node)).into_iter().flatten();
            votes.extend(stood.map(|epochs| (*node, *epochs.start()..=acts_on.min(*epochs.end()))));
        }
        self.history.iter().enumerate().filter(|(_, (epoch, _))| among.contains(epoch)).any(|(at, (epoch, sets))| {
            sets.is_quorum(|node| {
                votes.iter().filter(|(holder, _)| *holder == node).any(|(_, epochs)| {
                    // Who was out of the sets in between may have dropped it.
                    let between = self.history[..at].iter().rev().take_while(|(past, _)| past >= epochs.start());
                    epochs.contains(epoch) && between.into_iter().all(|(_, sets)| sets.contains(node))
                })
            })
        })
    }

    /// The arc epoch in which the node accepted something newer than `ballot`, if it did: from the next one on it holds
    /// that, and no longer what it had accepted at `ballot`.
    fn newer_since(&self, ballot: Ballot, node: NodeId) -> Option<Epoch> {
        let newer = self.newest.get(&node)?.range((Bound::Excluded(ballot), Bound::Unbounded)).next();
        newer.map(|(_, epoch)| *epoch)
    }

    /// The newest that the node's disk holds, and that it has not given up.
    fn newest_durable(&self, node: NodeId) -> Option<Ballot> {
        let holds = |ballot: &Ballot, holders: &BTreeSet<NodeId>| {
            holders.contains(&node) && !self.given_up.contains_key(&(*ballot, node))
        };
        self.durable.iter().rev().find(|(ballot, holders)| holds(ballot, holders)).map(|(ballot, _)| *ballot)
    }

    /// The node dropped what it held up to this ballot.
    fn forget(&mut self, node: NodeId, up_to: Ballot) {
        self.since.retain(|(ballot, holder), _| *holder != node || *ballot > up_to);
        self.stood.retain(|(ballot, holder), _| *holder != node || *ballot > up_to);
        if let Some(newest) = self.newest.get_mut(&node) {
            newest.retain(|ballot, _| *ballot > up_to);
        }
        for holders in self.durable.range_mut(..=up_to).map(|(_, holders)| holders) {
            holders.remove(&node);
        }
    }

    /// The node gives up all that it holds before it acts in the arc epoch `epoch`. In earlier ones its votes stand.
    fn give_up(&mut self, node: NodeId, epoch: Epoch) {
        let held: Vec<Ballot> =
            self.since.keys().filter(|(_, holder)| *holder == node).map(|(ballot, _)| *ballot).collect();
        for ballot in held {
            let newer = self.newer_since(ballot, node).map_or(epoch, |newer| epoch.min(Epoch(newer.0 + 1)));
            self.given_up.entry((ballot, node)).or_insert(newer);
        }
        self.newest.remove(&node);
        self.copies.remove(&node);
    }

    fn note_newest(&mut self, ballot: Ballot, node: NodeId) {
        let Some(epoch) = self.since.get(&(ballot, node)).copied() else { return };
        if self.given_up.contains_key(&(ballot, node)) {
            return;
        }
        if self.newer_since(ballot, node).is_some_and(|newer| newer <= epoch) {
            return;
        }
        let newest = self.newest.entry(node).or_default();
        newest.retain(|other, since| *other > ballot || *since < epoch);
        newest.insert(ballot, epoch);
    }

    fn note_chosen(
        &mut self,
        ballot: Ballot,
        reached: &BTreeMap<NodeId, Epoch>,
        among: Epochs,
        wall_ms: u64,
    ) -> Result<(), Violation> {
        if self.chosen.contains(&ballot) || !self.is_chosen(ballot, reached, among) {
            return Ok(());
        }
        // To extend each other is transitive, so the neighbours stand for all.
        let state = &self.accepted[&ballot];
        if let Some(before) = self.chosen.range(..ballot).next_back() {
            invariant_chosen_states_extend_each_other(&self.accepted[before], state, wall_ms)?;
            invariant_a_deleted_value_never_comes_back((*before, &self.accepted[before]), (ballot, state))?;
            invariant_a_later_write_has_a_later_time((*before, &self.accepted[before]), (ballot, state))?;
        }
        match self.chosen.range(ballot..).next() {
            Some(after) => invariant_chosen_states_extend_each_other(state, &self.accepted[after], wall_ms)?,
            // The same state at a higher ballot is nothing new: what a coordinator found chosen already it need not
            // finish anew (seed 7747).
            None if self.chosen.range(..ballot).next_back().is_some_and(|before| self.accepted[before] == *state) => {}
            // Below another chosen ballot nobody can see it as the last word.
            None => invariant_nothing_new_is_chosen_below_a_confirmation(ballot, &self.confirmed)?,
        }
        self.chosen.insert(ballot);
        self.expect_held_by_copies(ballot, reached)
    }
}

/// Nodes for which an arc has one epoch agree on its replica sets, whatever else they know.
fn invariant_one_owner_set_per_arc_epoch(key: &RegisterKey, arc: &Arc, known: &ReplicaSets) -> Result<(), Violation> {
    if arc.sets() == *known {
        return Ok(());
    }
    let found = format!("epoch {} of {} has the sets {:?} and {known:?}", arc.epoch, key.position, arc.sets());
    Err(Violation { invariant: "one_owner_set_per_arc_epoch", found })
}

/// One node claims a key, that one is a replica of it, and a quorum of the replicas holds its last chosen state.
///
/// The successor itself may lag until it is asked: a quorum is what every answer is made of.
fn invariant_every_key_is_at_its_successor(
    key: &RegisterKey,
    claimed: &[NodeId],
    sets: &ReplicaSets,
    holds: impl Fn(NodeId) -> bool,
) -> Result<(), Violation> {
    match claimed {
        [successor] if sets.contains(*successor) && sets.is_quorum(&holds) => Ok(()),
        claimed => {
            let held = if sets.is_quorum(holds) { "held by a quorum" } else { "not held by a quorum" };
            let found = format!("{} is claimed by {claimed:?}, and {held} of {sets:?}", key.position);
            Err(Violation { invariant: "every_key_is_at_its_successor", found })
        }
    }
}

/// What a node's disk has held, its next start under the same identity finds.
fn invariant_a_restart_remembers_what_was_durable(
    key: &RegisterKey,
    durable: Option<Ballot>,
    held: Option<Ballot>,
) -> Result<(), Violation> {
    if durable <= held {
        return Ok(());
    }
    let found = format!("the register at {} was durable at {durable:?}, and is found at {held:?}", key.position);
    Err(Violation { invariant: "a_restart_remembers_what_was_durable", found })
}

/// Of the replicas in charge of an arc, a majority has its disk.
pub(crate) fn invariant_no_arc_without_its_majority(
    view: &View,
    has_disk: impl Fn(NodeId) -> bool,
) -> Result<(), Violation> {
    match view.arcs_without_majority(has_disk).first() {
        None => Ok(()),
        Some(loss) => {
            let found = format!("the arc to {} has only {:?} in epoch {}", loss.high, loss.reachable, view.epoch);
            Err(Violation { invariant: "no_arc_without_its_majority", found })
        }
    }
}

/// At one ballot, one state only: a ballot belongs to one coordinator, which proposes once.
fn invariant_one_state_per_ballot(ballot: Ballot, one: &State, other: &State) -> Result<(), Violation> {
    if one == other {
        return Ok(());
    }
    let found = format!("ballot {ballot} carries version {} and version {}", one.version, other.version);
    Err(Violation { invariant: "one_state_per_ballot", found })
}

/// A state contains each request at most once.
fn invariant_a_request_acts_once(state: &State) -> Result<(), Violation> {
    let mut requests: Vec<RequestId> = state.requests.entries.iter().map(|entry| entry.request).collect();
    requests.sort_unstable();
    match requests.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let found = format!("request {:x} is contained twice in version {}", pair[0].0, state.version);
            Err(Violation { invariant: "a_request_acts_once", found })
        }
    }
}

/// Whether a request may still be sent again. Its own words: the judge must not go by the rule that it judges.
fn is_young(entry: &Remembered, wall_ms: u64) -> bool {
    entry.first_sent_ms + REQUESTS_AGE_MAX_MS >= wall_ms
}

/// What is dropped holds no value, has seen no fencing token, and remembers no request that may still be sent again.
fn invariant_nothing_that_counts_is_dropped(ballot: Ballot, state: &State, wall_ms: u64) -> Result<(), Violation> {
    let found = match state.requests.entries.iter().find(|entry| is_young(entry, wall_ms)) {
        Some(entry) => format!("{ballot} is dropped, and remembers request {:x}", entry.request.0),
        None if state.fence > 0 => format!("{ballot} is dropped, and has seen the token {}", state.fence),
        None if state.value.is_some() => format!("{ballot} is dropped, and holds version {}", state.version),
        None => return Ok(()),
    };
    Err(Violation { invariant: "nothing_that_counts_is_dropped", found })
}

/// When a tombstone is dropped, each replica of its arc has it, or something newer, or nothing on its disk.
fn invariant_a_tombstone_goes_only_when_nobody_holds_older(
    dropped: Ballot,
    mut held: impl Iterator<Item = (NodeId, Ballot)>,
) -> Result<(), Violation> {
    let Some((node, ballot)) = held.find(|(_, ballot)| *ballot < dropped) else { return Ok(()) };
    let found = format!("a tombstone of {dropped} is dropped, and {node} holds what was accepted at {ballot}");
    Err(Violation { invariant: "a_tombstone_goes_only_when_nobody_holds_older", found })
}

/// Where a tombstone was dropped, nothing older is accepted any more.
fn invariant_nothing_below_a_dropped_tombstone_is_taken(ballot: Ballot, dropped: Ballot) -> Result<(), Violation> {
    if ballot >= dropped {
        return Ok(());
    }
    let found = format!("{ballot} is taken, though a tombstone of {dropped} was dropped");
    Err(Violation { invariant: "nothing_below_a_dropped_tombstone_is_taken", found })
}

/// Once a deletion is chosen, no state of a higher ballot holds a value that was written before.
fn invariant_a_deleted_value_never_comes_back(
    (deleted, older): (Ballot, &State),
    (ballot, newer): (Ballot, &State),
) -> Result<(), Violation> {
    if older.value.is_some() || newer.value.is_none() || newer.version.ballot > deleted {
        return Ok(());
    }
    let found = format!("version {} was deleted at {deleted}, and is back at {ballot}", newer.version);
    Err(Violation { invariant: "a_deleted_value_never_comes_back", found })
}

/// What is accepted above a chosen ballot is that state, or was written at a later time: the order of a register's
/// ballots is that of its times.
fn invariant_a_later_write_has_a_later_time(
    (chosen, older): (Ballot, &State),
    (ballot, newer): (Ballot, &State),
) -> Result<(), Violation> {
    let time = older.time(chosen);
    // A register whose tombstone was dropped begins anew.
    let dropped = older.is_bare() && newer.value.is_none() && newer.version == Version::default();
    if newer.version == older.version || newer.version.ballot > time || dropped {
        return Ok(());
    }
    let found =
        format!("version {} is accepted at {ballot}, but what was chosen at {chosen} is of {time}", newer.version);
    Err(Violation { invariant: "a_later_write_has_a_later_time", found })
}

/// Of two chosen states, the one with the higher ballot contains every request of the other, in the same order and with
/// the same effect; but for those that are older than a retry may be.
fn invariant_chosen_states_extend_each_other(older: &State, newer: &State, wall_ms: u64) -> Result<(), Violation> {
    if newer.fence < older.fence {
        let found = format!("the greatest token was {}, and is {} at a higher ballot", older.fence, newer.fence);
        return Err(Violation { invariant: "a_fence_never_shrinks", found });
    }
    let (before, after) = (&older.requests.entries, &newer.requests.entries);
    // What was pushed out of the memory for room cannot be compared; runs stay below its bound. (Its horizon moves for
    // what is old, too.)
    if after.len() >= REQUESTS_MAX {
        return Ok(());
    }
    let (kept, gone): (Vec<&Remembered>, Vec<&Remembered>) = before.iter().partition(|entry| after.contains(entry));
    let in_order = after.iter().zip(&kept).all(|(after, before)| after == *before);
    let early = gone.iter().find(|entry| is_young(entry, wall_ms));
    if in_order && early.is_none() {
        return Ok(());
    }
    let missing = early.map_or(0, |entry| entry.request.0);
    let found =
        format!("version {} was chosen, then version {} without request {missing:x}", older.version, newer.version);
    Err(Violation { invariant: "chosen_states_extend_each_other", found })
}

/// Once a coordinator has confirmed an arc up to a counter, nothing of others becomes the arc's last word at or below
/// it, in whatever arc epoch: reads of the old state have been answered at that counter.
fn invariant_nothing_new_is_chosen_below_a_confirmation(
    ballot: Ballot,
    confirmed: &BTreeMap<(NodeId, Epoch), u64>,
) -> Result<(), Violation> {
    let broken = confirmed.iter().find(|((node, _), up_to)| *node != ballot.node && ballot.counter <= **up_to);
    let Some(((node, _), up_to)) = broken else { return Ok(()) };
    let found = format!("ballot {ballot} is chosen, but {node} had confirmed its arc up to {up_to}");
    Err(Violation { invariant: "nothing_new_is_chosen_below_a_confirmation", found })
}

/// Whoever is shown a write goes on from its time, or a later one.
pub(crate) fn invariant_an_answer_is_no_earlier_than_what_it_shows(
    outcome: &Outcome,
    time: Ballot,
) -> Result<(), Violation> {
    let Outcome::Value(Some((version, _))) = outcome else { return Ok(()) };
    if time >= version.ballot {
        return Ok(());
    }
    let found = format!("version {version} is shown at the time {time}");
    Err(Violation { invariant: "an_answer_is_no_earlier_than_what_it_shows", found })
}

/// What a client was told is done lies on a majority of disks.
fn invariant_an_acknowledged_write_is_on_a_majority_of_disks<'a>(
    mut chosen: impl Iterator<Item = &'a State>,
    request: RequestId,
) -> Result<(), Violation> {
    if chosen.any(|state| state.requests.find(request).is_some()) {
        return Ok(());
    }
    let found = format!("request {:x} was acknowledged, but no chosen state contains it", request.0);
    Err(Violation { invariant: "an_acknowledged_write_is_on_a_majority_of_disks", found })
}
