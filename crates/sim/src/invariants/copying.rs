//! What must hold of those who become replicas of an arc, from the moment at which they say that they hold it, and of
//! those whose votes they rely on. A change of an arc is safe by these sentences; each is nearer to the rule that it
//! rests on than the harm, which takes further coincidences to be seen by a client.

use std::collections::BTreeMap;
use std::ops::Bound;

use membership::{Epoch, NodeId};
use replication::Ballot;

use super::{Register, Violation};

/// A newcomer's complete copy of a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// The arc epoch that it was made for: that of the change.
    pub epoch: Epoch,
    /// The counter up to which the newcomer refused what others propose when the copy was complete. It only grows.
    pub floor: u64,
}

impl Register {
    /// Node `node`, whose disk says that it acts on view `reached`, takes `ballot` in the arc epoch `epoch`.
    pub fn voted_in(&self, node: NodeId, ballot: Ballot, epoch: Epoch, reached: Epoch) -> Result<(), Violation> {
        // What is written again (when a log is cleaned) is no vote. Epoch 0: it has no such arc, and counts nowhere.
        if self.since.contains_key(&(ballot, node)) || epoch == Epoch(0) {
            return Ok(());
        }
        let newest = self.history.iter().map(|(past, _)| *past).filter(|past| *past <= reached).max();
        invariant_no_vote_in_an_epoch_that_was_left((node, ballot), epoch, newest.unwrap_or_default())
    }

    /// A newcomer says that its copy is complete.
    pub fn note_copied(
        &mut self,
        node: NodeId,
        copied: Copied,
        reached: &BTreeMap<NodeId, Epoch>,
    ) -> Result<(), Violation> {
        self.copies.insert(node, copied);
        let before = (Bound::Unbounded, Bound::Excluded(copied.epoch));
        let chosen = self.chosen.iter().rev().find(|ballot| self.is_chosen(**ballot, reached, before));
        if let Some(chosen) = chosen.filter(|chosen| **chosen > self.dropped.0) {
            invariant_a_copy_holds_what_was_chosen(node, *chosen, self.highest_taken(node))?;
        }
        self.expect_settled(node, copied.epoch)?;
        self.expect_floor(node, copied)
    }

    /// `ballot` is chosen: who copied the register for a later arc epoch must hold it.
    pub fn expect_held_by_copies(&self, ballot: Ballot, reached: &BTreeMap<NodeId, Epoch>) -> Result<(), Violation> {
        for (node, copied) in &self.copies {
            let before = (Bound::Unbounded, Bound::Excluded(copied.epoch));
            let held = self.highest_taken(*node);
            if held < ballot && ballot > self.dropped.0 && self.is_chosen(ballot, reached, before) {
                invariant_a_copy_holds_what_was_chosen(*node, ballot, held)?;
            }
        }
        Ok(())
    }

    /// A confirmation of the arc epoch `epoch` has ended: who copied the register for a later one must keep it.
    pub fn expect_floors_of_copies(&self, epoch: Epoch) -> Result<(), Violation> {
        let later = self.copies.iter().filter(|(_, copied)| copied.epoch > epoch);
        later.into_iter().try_for_each(|(node, copied)| self.expect_floor(*node, *copied))
    }

    fn expect_floor(&self, node: NodeId, copied: Copied) -> Result<(), Violation> {
        let earlier = self.confirmed.iter().filter(|((_, epoch), _)| *epoch < copied.epoch);
        match earlier.max_by_key(|(_, up_to)| **up_to) {
            Some(((by, _), up_to)) => invariant_a_copy_keeps_what_was_promised((node, copied.floor), (*by, *up_to)),
            None => Ok(()),
        }
    }

    fn expect_settled(&self, node: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let held = self.highest_taken(node);
        let overtaken = self.chosen.last().is_some_and(|chosen| *chosen >= held);
        let earlier = self.confirmed.iter().filter(|((by, of), _)| *of < epoch && *by != held.node);
        match earlier.max_by_key(|(_, up_to)| **up_to) {
            Some(((by, _), up_to)) if !overtaken => {
                invariant_a_newcomer_counts_for_nothing_below_a_confirmation((node, held), (*by, *up_to))
            }
            _ => Ok(()),
        }
    }

    /// The highest ballot that the node has accepted, learned or copied, and not given up.
    fn highest_taken(&self, node: NodeId) -> Ballot {
        let taken = self.since.keys().rev().filter(|(_, holder)| *holder == node);
        taken
            .map(|(ballot, _)| *ballot)
            .find(|ballot| !self.given_up.contains_key(&(*ballot, node)))
            .unwrap_or_default()
    }
}

/// Once a node's disk says that it acts on a view, it accepts nothing in an arc epoch that ended before that view, be
/// it that it was started again in between: newcomers have copied what it held then, and count on it.
fn invariant_no_vote_in_an_epoch_that_was_left(
    (node, ballot): (NodeId, Ballot),
    epoch: Epoch,
    reached: Epoch,
) -> Result<(), Violation> {
    if epoch >= reached {
        return Ok(());
    }
    let found = format!("{node} takes {ballot} in the arc epoch {epoch}, and has acted in {reached}");
    Err(Violation { invariant: "no_vote_in_an_epoch_that_was_left", found })
}

/// A newcomer that says that it holds a register has what was chosen of it before its change, or something newer.
fn invariant_a_copy_holds_what_was_chosen(node: NodeId, chosen: Ballot, held: Ballot) -> Result<(), Violation> {
    if held >= chosen {
        return Ok(());
    }
    let found = format!("{node} has copied up to {held}, and {chosen} was chosen before its change");
    Err(Violation { invariant: "a_copy_holds_what_was_chosen", found })
}

/// A newcomer that says that it holds a register refuses all that a coordinator has confirmed before its change: with
/// it a majority can consist of replicas that have promised nothing.
fn invariant_a_copy_keeps_what_was_promised(
    (node, floor): (NodeId, u64),
    (by, up_to): (NodeId, u64),
) -> Result<(), Violation> {
    if floor >= up_to {
        return Ok(());
    }
    let found = format!("{node} has copied, and refuses up to {floor}; {by} had confirmed up to {up_to} before");
    Err(Violation { invariant: "a_copy_keeps_what_was_promised", found })
}

/// What a newcomer holds when it says that it holds a register is chosen, or overtaken by what is, or lies above all
/// that was confirmed before its change: else it could become chosen by the change's end alone.
fn invariant_a_newcomer_counts_for_nothing_below_a_confirmation(
    (node, held): (NodeId, Ballot),
    (by, up_to): (NodeId, u64),
) -> Result<(), Violation> {
    if held.counter > up_to || held == Ballot::ZERO {
        return Ok(());
    }
    let found = format!("{node} counts for {held}, which is not chosen, and {by} had confirmed up to {up_to} before");
    Err(Violation { invariant: "a_newcomer_counts_for_nothing_below_a_confirmation", found })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use membership::{Arc, BucketId, Position};
    use replication::{RegisterKey, State};

    use super::super::Registers;
    use super::*;

    const OLD: Epoch = Epoch(1);
    const CHANGE: Epoch = Epoch(2);
    const NEWCOMER: NodeId = NodeId(4);

    fn key() -> RegisterKey {
        RegisterKey { position: Position(5), bucket: BucketId(1), key: Bytes::from_static(b"k") }
    }

    fn ballot(counter: u64) -> Ballot {
        Ballot { counter, node: NodeId(1) }
    }

    /// Nodes 1, 2 and 3 are in charge; in epoch 2, node 4 is to take the place of 3.
    fn changing() -> Registers {
        let nodes = |ids: [u64; 3]| ids.map(NodeId).to_vec().into();
        let arc = |epoch, next| Arc { low: Position(0), high: Position(9), replicas: nodes([1, 2, 3]), next, epoch };
        let mut registers = Registers::default();
        registers.view(&key(), &arc(OLD, None)).expect("it is the first");
        registers.view(&key(), &arc(CHANGE, Some(nodes([1, 2, 4])))).expect("it is another epoch");
        registers
    }

    fn takes(registers: &mut Registers, counter: u64, by: (NodeId, Epoch)) -> Result<(), Violation> {
        registers.accepted(&key(), (ballot(counter), &State::default()), by)?;
        registers.reached(by.0, by.1)?;
        registers.durable(&key(), ballot(counter), by.0)
    }

    fn broken(checked: Result<(), Violation>) -> &'static str {
        checked.expect_err("it is broken").invariant
    }

    #[test]
    fn a_copy_that_lacks_what_was_chosen_before_its_change_is_none() {
        let mut registers = changing();
        for node in [1, 2] {
            takes(&mut registers, 7, (NodeId(node), OLD)).expect("it is a vote");
        }
        let copied = |registers: &mut Registers| registers.copied(&key(), (NEWCOMER, CHANGE), 10);
        assert_eq!(broken(copied(&mut registers)), "a_copy_holds_what_was_chosen");
        takes(&mut registers, 7, (NEWCOMER, CHANGE)).expect("it is copied");
        copied(&mut registers).expect("it holds what was chosen");
    }

    #[test]
    fn what_is_chosen_behind_a_copy_is_noticed_when_it_is_chosen() {
        let mut registers = changing();
        registers.copied(&key(), (NEWCOMER, CHANGE), 10).expect("nothing was chosen");
        takes(&mut registers, 7, (NodeId(1), OLD)).expect("one is no majority");
        assert_eq!(broken(takes(&mut registers, 7, (NodeId(2), OLD))), "a_copy_holds_what_was_chosen");
        // By the majorities of the change itself more may be chosen, with whom the newcomer need not be.
        let mut registers = changing();
        registers.copied(&key(), (NEWCOMER, CHANGE), 10).expect("nothing was chosen");
        for node in [1, 2] {
            takes(&mut registers, 7, (NodeId(node), CHANGE)).expect("it is a vote of the change");
        }
    }

    #[test]
    fn a_copy_keeps_what_was_promised_to_a_confirmation_of_the_old_epoch() {
        let mut registers = changing();
        registers.confirmed(&key(), (NodeId(2), OLD), 11).expect("nobody has copied");
        let copied = registers.copied(&key(), (NEWCOMER, CHANGE), 10);
        assert_eq!(broken(copied), "a_copy_keeps_what_was_promised");
        let mut registers = changing();
        registers.copied(&key(), (NEWCOMER, CHANGE), 10).expect("nothing was confirmed");
        registers.confirmed(&key(), (NodeId(2), CHANGE), 12).expect("those who promised are a majority of both");
        registers.confirmed(&key(), (NodeId(2), OLD), 10).expect("it refuses that");
        let late = registers.confirmed(&key(), (NodeId(2), OLD), 11);
        assert_eq!(broken(late), "a_copy_keeps_what_was_promised");
    }

    #[test]
    fn a_newcomer_holds_nothing_unsettled_below_a_confirmation() {
        let unsettled = |counter: u64| {
            let mut registers = changing();
            takes(&mut registers, counter, (NodeId(1), OLD)).expect("one is no majority");
            registers.confirmed(&key(), (NodeId(2), OLD), 8).expect("nobody has copied");
            takes(&mut registers, counter, (NEWCOMER, CHANGE)).expect("it is copied");
            registers.copied(&key(), (NEWCOMER, CHANGE), 10)
        };
        assert_eq!(broken(unsettled(8)), "a_newcomer_counts_for_nothing_below_a_confirmation");
        unsettled(9).expect("it may yet be chosen");
    }

    #[test]
    fn a_node_that_has_acted_in_an_epoch_votes_in_no_earlier_one() {
        let mut registers = changing();
        takes(&mut registers, 7, (NodeId(1), OLD)).expect("it is a vote");
        registers.reached(NodeId(1), CHANGE).expect("nothing is chosen by it");
        takes(&mut registers, 7, (NodeId(1), OLD)).expect("a record that is written again is no vote");
        let late = takes(&mut registers, 8, (NodeId(1), OLD));
        assert_eq!(broken(late), "no_vote_in_an_epoch_that_was_left");
        takes(&mut registers, 8, (NodeId(1), CHANGE)).expect("it is a vote");
    }
}
