//! What must hold after every event. Each function states one sentence and says, when it is broken, by what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use replication::{Ballot, RegisterKey, RequestId, State};

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

/// Everything that was ever accepted and chosen on one register, seen from outside of all nodes.
#[derive(Debug, Default)]
struct Register {
    /// What was accepted at each ballot.
    accepted: BTreeMap<Ballot, State>,
    /// The nodes whose disks hold it.
    durable: BTreeMap<Ballot, Vec<usize>>,
    /// The ballots at which something was chosen.
    chosen: BTreeSet<Ballot>,
}

/// The observer of all registers.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    registers: BTreeMap<RegisterKey, Register>,
}

impl Registers {
    /// Node `node` accepted (or learned) `state` at `ballot`.
    pub fn accepted(&mut self, key: &RegisterKey, ballot: Ballot, state: &State) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        match register.accepted.get(&ballot) {
            Some(other) => invariant_one_state_per_ballot(ballot, other, state),
            None => {
                invariant_a_request_acts_once(state)?;
                register.accepted.insert(ballot, state.clone());
                Ok(())
            }
        }
    }

    /// Node `node`'s disk holds what it accepted at `ballot`. A majority of disks makes it chosen.
    pub fn durable(
        &mut self,
        key: &RegisterKey,
        ballot: Ballot,
        node: usize,
        majority: usize,
    ) -> Result<(), Violation> {
        let register = self.registers.entry(key.clone()).or_default();
        let disks = register.durable.entry(ballot).or_default();
        if !disks.contains(&node) {
            disks.push(node);
        }
        if disks.len() < majority || register.chosen.contains(&ballot) {
            return Ok(());
        }
        // To extend each other is transitive, so the neighbours stand for all.
        let state = &register.accepted[&ballot];
        if let Some(before) = register.chosen.range(..ballot).next_back() {
            invariant_chosen_states_extend_each_other(&register.accepted[before], state)?;
        }
        if let Some(after) = register.chosen.range(ballot..).next() {
            invariant_chosen_states_extend_each_other(state, &register.accepted[after])?;
        }
        register.chosen.insert(ballot);
        Ok(())
    }

    /// A client was told that its write is done.
    pub fn acknowledged(&self, key: &RegisterKey, request: RequestId) -> Result<(), Violation> {
        let register = self.registers.get(key);
        let chosen =
            register.into_iter().flat_map(|held| held.chosen.iter().rev().map(|ballot| &held.accepted[ballot]));
        invariant_an_acknowledged_write_is_on_a_majority_of_disks(chosen, request)
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

/// Of two chosen states, the one with the higher ballot contains every request of the other, in the same order and with
/// the same effect.
fn invariant_chosen_states_extend_each_other(older: &State, newer: &State) -> Result<(), Violation> {
    if newer.fence < older.fence {
        let found = format!("the greatest token was {}, and is {} at a higher ballot", older.fence, newer.fence);
        return Err(Violation { invariant: "a_fence_never_shrinks", found });
    }
    let (before, after) = (&older.requests.entries, &newer.requests.entries);
    // What was pushed out of the memory cannot be compared; runs stay below its bound.
    if newer.requests.horizon_ms > 0 || after.starts_with(before) {
        return Ok(());
    }
    let missing = before.iter().find(|entry| !after.contains(entry)).map_or(0, |entry| entry.request.0);
    let found =
        format!("version {} was chosen, then version {} without request {missing:x}", older.version, newer.version);
    Err(Violation { invariant: "chosen_states_extend_each_other", found })
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
