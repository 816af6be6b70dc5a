//! The acceptor's half of confirming an arc: floors, and what was accepted since a coordinator last asked.
//!
//! A floor is a counter that a coordinator was promised: from then on this replica refuses every prepare and accept of
//! the arc up to it, from all *other* coordinators, and from earlier starts of the same one. Floors are in memory only:
//! after a restart the ceiling, which lies above every floor that was promised, stands in for them.
//!
//! A promise outlives the arc epoch in which it was made: there it becomes a floor against everybody, its owner too,
//! who starts its rounds again at higher ballots. What was accepted is counted anew in each arc epoch.

use std::collections::{BTreeMap, VecDeque};

use membership::{NodeId, Position, Ring};

use crate::types::{Ballot, RegisterKey};

/// Acceptances that are remembered for each arc; a coordinator that asks for older ones compares the whole arc.
const ACCEPTANCES_MAX: usize = 1_024;

/// A place in an acceptor's record of what it accepted. Only the acceptor that gave it out can read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerPosition {
    /// Which start of the acceptor: the counter that it began above. Another start's positions mean nothing.
    pub start: u64,
    /// How many acceptances came before, and 1; 0 for a place before everything that is held.
    pub count: u64,
}

/// A promised floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Floor {
    up_to: u64,
    /// Ballots of the coordinator itself up to here are of an earlier start of it, which it has forgotten.
    since: u64,
}

#[derive(Clone, Debug, Default, Hash)]
struct ArcLedger {
    /// What was promised in earlier arc epochs, by this replica or by those that it copied the arc from.
    inherited: u64,
    /// Up to where everybody is refused, for tombstones were collected.
    collected: u64,
    floors: BTreeMap<NodeId, Floor>,
    acceptances: VecDeque<(RegisterKey, Ballot)>,
    /// How many acceptances were forgotten at the front.
    forgotten: u64,
}

/// What this replica promised and accepted, arc by arc; an arc is named by its upper end.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Ledger(BTreeMap<Position, ArcLedger>);

impl Ledger {
    /// The floor that stands against a ballot, if one does.
    pub fn bar(&self, arc: Position, ballot: Ballot) -> Option<u64> {
        let ledger = self.0.get(&arc)?;
        let against = ledger.floors.iter().filter(|(owner, floor)| {
            ballot.counter <= floor.up_to && (**owner != ballot.node || ballot.counter <= floor.since)
        });
        let all = ledger.against_all();
        let against_all = (ballot.counter <= all).then_some(all);
        against.map(|(_, floor)| floor.up_to).chain(against_all).max()
    }

    /// The floor of the arc that stands against everybody.
    pub fn against_all(&self, arc: Position) -> u64 {
        self.0.get(&arc).map_or(0, ArcLedger::against_all)
    }

    /// The floor of the arc that stands against everybody but `owner`, to whom it may have been promised.
    pub fn against_others(&self, arc: Position, owner: NodeId) -> u64 {
        let promised = self.0.get(&arc).and_then(|ledger| ledger.floors.get(&owner)).map_or(0, |floor| floor.up_to);
        promised.max(self.against_all(arc))
    }

    /// Promises to refuse everything up to here, whoever proposes it.
    pub fn refuse_up_to(&mut self, arc: Position, floor: u64) {
        let ledger = self.0.entry(arc).or_default();
        ledger.collected = ledger.collected.max(floor);
    }

    /// The highest floor of the arc, whoever it was promised to.
    pub fn highest(&self, arc: Position) -> u64 {
        self.0.get(&arc).map_or(0, ArcLedger::highest)
    }

    /// Takes over a floor that holds against everybody.
    pub fn inherit(&mut self, arc: Position, floor: u64) {
        let ledger = self.0.entry(arc).or_default();
        ledger.inherited = ledger.inherited.max(floor);
    }

    /// Promises a floor to `owner`, who began above `since`.
    pub fn promise(&mut self, arc: Position, owner: NodeId, up_to: u64, since: u64) {
        let floor = self.0.entry(arc).or_default().floors.entry(owner).or_insert(Floor { up_to: 0, since: 0 });
        floor.up_to = floor.up_to.max(up_to);
        floor.since = floor.since.max(since);
    }

    /// Remembers that a ballot was accepted.
    pub fn note(&mut self, arc: Position, key: RegisterKey, ballot: Ballot) {
        let ledger = self.0.entry(arc).or_default();
        ledger.acceptances.push_back((key, ballot));
        if ledger.acceptances.len() > ACCEPTANCES_MAX {
            ledger.acceptances.pop_front();
            ledger.forgotten += 1;
        }
    }

    /// How many acceptances of the arc there were.
    pub fn count(&self, arc: Position) -> u64 {
        self.0.get(&arc).map_or(0, |ledger| ledger.forgotten + ledger.acceptances.len() as u64)
    }

    /// The registers that others than `owner` (since its start above `since`) had this replica accept after the first
    /// `count` acceptances, each with the highest such ballot. None if that is not remembered any more.
    pub fn accepted_since(
        &self,
        arc: Position,
        count: u64,
        owner: NodeId,
        since: u64,
    ) -> Option<BTreeMap<RegisterKey, Ballot>> {
        let mut registers = BTreeMap::new();
        let Some(ledger) = self.0.get(&arc) else { return Some(registers) };
        let skip = count.checked_sub(ledger.forgotten)?;
        for (key, ballot) in ledger.acceptances.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            if ballot.node != owner || ballot.counter <= since {
                let highest = registers.entry(key.clone()).or_insert(*ballot);
                *highest = (*highest).max(*ballot);
            }
        }
        Some(registers)
    }

    /// Another ring is in force. An arc with an epoch of its own inherits the floors of what it is made of; whether it
    /// does is a rule's matter.
    pub fn follow(&mut self, before: &Ring, after: &Ring, inherits: bool) {
        let mut old = std::mem::take(&mut self.0);
        let highest: BTreeMap<Position, u64> = old.iter().map(|(high, ledger)| (*high, ledger.highest())).collect();
        for arc in after.arcs() {
            let was = before.arc_of(arc.high).filter(|was| was.high == arc.high && was.epoch == arc.epoch);
            if was.is_some() {
                self.0.extend(old.remove_entry(&arc.high));
                continue;
            }
            // What it is made of: the old arc around its end, and those that end within it.
            let parts = before.arcs_ending_in(arc.low, arc.high).chain(before.arc_of(arc.high));
            let inherited = parts.filter_map(|part| highest.get(&part.high).copied()).max().unwrap_or(0);
            if inherits && inherited > 0 {
                self.inherit(arc.high, inherited);
            }
        }
    }
}

impl ArcLedger {
    fn highest(&self) -> u64 {
        self.floors.values().map(|floor| floor.up_to).chain([self.against_all()]).max().unwrap_or(0)
    }

    fn against_all(&self) -> u64 {
        self.inherited.max(self.collected)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use membership::{BucketId, ClusterId, Epoch, Member, View};

    use super::*;

    const ARC: Position = Position(9);

    fn ballot(counter: u64, node: u64) -> Ballot {
        Ballot { counter, node: NodeId(node) }
    }

    fn key(name: u64) -> RegisterKey {
        RegisterKey { position: Position(name), bucket: BucketId(1), key: Bytes::from_static(b"k") }
    }

    #[test]
    fn a_floor_stands_against_others_and_against_an_earlier_start_of_its_owner() {
        let mut ledger = Ledger::default();
        ledger.promise(ARC, NodeId(1), 10, 4);
        assert_eq!(ledger.bar(ARC, ballot(10, 2)), Some(10));
        assert_eq!(ledger.bar(ARC, ballot(11, 2)), None);
        assert_eq!(ledger.bar(ARC, ballot(10, 1)), None, "its owner goes on below it");
        assert_eq!(ledger.bar(ARC, ballot(4, 1)), Some(10), "but not what it sent before it was started again");
        assert_eq!(ledger.bar(Position(1), ballot(1, 2)), None, "another arc");
        ledger.promise(ARC, NodeId(1), 8, 2);
        assert_eq!(ledger.bar(ARC, ballot(10, 2)), Some(10), "a late message lowers nothing");
        assert_eq!(ledger.highest(ARC), 10);
        assert_eq!(ledger.against_all(ARC), 0);
        ledger.refuse_up_to(ARC, 12);
        ledger.refuse_up_to(ARC, 11);
        assert_eq!(ledger.bar(ARC, ballot(12, 1)), Some(12), "what was collected below stands against the owner too");
        assert_eq!(ledger.bar(ARC, ballot(13, 2)), None);
        assert_eq!((ledger.highest(ARC), ledger.against_all(ARC)), (12, 12));
    }

    #[test]
    fn a_floor_outlives_the_arc_epoch_and_the_cutting_of_the_arc() {
        let member = |id: u64, token: u64| {
            let (id, name) = (NodeId(id), format!("n{id}"));
            Member { id, name, zone: None, weight: 1, tokens: vec![Position(token)] }
        };
        let base = View::forming(ClusterId(1), 3, 5, 0);
        let members = (1..=5).map(|id| member(id, id * 100)).collect();
        let one = View { epoch: Epoch(1), members, ..base };
        let mut ledger = Ledger::default();
        let (split, whole) = (Position(300), Position(500));
        ledger.promise(split, NodeId(3), 10, 0);
        ledger.promise(whole, NodeId(5), 7, 0);
        ledger.note(split, key(250), ballot(11, 4));
        ledger.note(whole, key(450), ballot(11, 4));
        let two = one.begin_join(member(6, 250)).expect("it may join");
        ledger.follow(&one.ring(), &two.ring(), true);
        for part in [Position(250), split] {
            assert_eq!(ledger.bar(part, ballot(10, 4)), Some(10), "both parts of the arc inherit it");
            assert_eq!(ledger.bar(part, ballot(10, 3)), Some(10), "and now it stands against its owner too");
            assert_eq!(ledger.bar(part, ballot(11, 4)), None);
            assert_eq!(ledger.count(part), 0, "acceptances are counted anew");
        }
        assert_eq!(ledger.bar(whole, ballot(7, 5)), None, "an arc that did not change is left alone");
        assert_eq!(ledger.count(whole), 1);
        let back = two.abandon(Epoch(2)).expect("it is under way");
        ledger.follow(&two.ring(), &back.ring(), true);
        assert_eq!(ledger.bar(split, ballot(10, 4)), Some(10), "nor is it lost when the parts become one again");
    }

    #[test]
    fn what_others_had_accepted_is_told_from_a_position_on() {
        let mut ledger = Ledger::default();
        ledger.note(ARC, key(1), ballot(1, 1));
        ledger.note(ARC, key(2), ballot(2, 2));
        let count = ledger.count(ARC);
        ledger.note(ARC, key(3), ballot(3, 2));
        ledger.note(ARC, key(3), ballot(5, 3));
        ledger.note(ARC, key(4), ballot(6, 1));
        let told = |count, since| ledger.accepted_since(ARC, count, NodeId(1), since).expect("remembered");
        assert_eq!(told(count, 0), BTreeMap::from([(key(3), ballot(5, 3))]));
        assert_eq!(told(0, 0), BTreeMap::from([(key(2), ballot(2, 2)), (key(3), ballot(5, 3))]));
        assert_eq!(told(0, 1).len(), 3, "what the owner did before it was started again is news to it");
    }

    #[test]
    fn what_is_forgotten_is_not_told_in_part() {
        let mut ledger = Ledger::default();
        for counter in 0..=ACCEPTANCES_MAX as u64 {
            ledger.note(ARC, key(counter), ballot(counter + 1, 2));
        }
        assert_eq!(ledger.accepted_since(ARC, 0, NodeId(1), 0), None);
        assert_eq!(ledger.accepted_since(ARC, 1, NodeId(1), 0).map(|told| told.len()), Some(ACCEPTANCES_MAX));
    }
}
