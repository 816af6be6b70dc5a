//! What must hold of the replicas of available keys after each event, seen from outside of all nodes. Each sentence is
//! nearer to the rule that it rests on than the harm, which takes further coincidences to be seen by a client.

use std::collections::{BTreeMap, BTreeSet};

use available::{Action, Context, Dot, EntryBody, Level, Operation, Outcome, Record, Replica, State};
use membership::{Arc, Epoch, NodeId};
use replication::RegisterKey;

use super::node::Node;
use super::world::World;
use crate::invariants::Violation;

/// What is known of one key.
#[derive(Debug, Default)]
struct Known {
    /// Causal writes that were acknowledged, each with the epoch of the view in which that was done.
    acknowledged: Vec<(Dot, Epoch)>,
    /// New homes that count, each with the arc epoch of the change that makes it one.
    copies: BTreeMap<NodeId, Epoch>,
    /// The tombstones that nodes hold.
    tombstones: BTreeMap<NodeId, Context>,
    /// Dots that were buried: no home has them, or will have them again.
    buried: Vec<Context>,
}

/// The observer of all replicas.
#[derive(Debug, Default)]
pub(super) struct Watch {
    keys: BTreeMap<RegisterKey, Known>,
}

impl World {
    /// The observer is told what a node has done.
    pub(super) fn observe(&mut self, node: usize, effects: &available::Effects) {
        let at = (node, self.nodes.as_slice());
        let mut checked = self.watch.wrote(at, effects.persist.iter().map(|(_, record)| record));
        for answer in &effects.answers {
            let Some((client, serial, _)) = self.tickets.get(&answer.ticket) else { continue };
            let asked = &self.clients[*client];
            if let Some(current) = asked.current.as_ref().filter(|_| asked.serial == *serial) {
                let told = self.watch.answered(at, &current.operation, &answer.outcome);
                checked = checked.and(told);
            }
        }
        if let Err(violation) = checked.and(self.watch.done(at)) {
            self.violation.get_or_insert(violation);
        }
    }
}

impl Watch {
    /// A node writes these records.
    pub fn wrote<'a>(
        &mut self,
        (node, nodes): (usize, &[Node]),
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), Violation> {
        let Some(replica) = nodes[node].running.as_ref() else { return Ok(()) };
        let id = nodes[node].id;
        for record in records {
            match record {
                Record::Held { key, state } => {
                    invariant_a_stamp_lies_above_what_its_session_has_seen(state)?;
                    let known = self.keys.entry(key.clone()).or_default();
                    if state.is_tombstone() {
                        known.tombstones.insert(id, state.context.clone());
                    } else {
                        known.tombstones.remove(&id);
                        known.expect_gone((id, replica), key, state)?;
                    }
                }
                Record::Dropped(key) => {
                    let known = self.keys.entry(key.clone()).or_default();
                    known.dropped((id, replica), key, nodes)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A node has told a client how its operation ended.
    pub fn answered(
        &mut self,
        (node, nodes): (usize, &[Node]),
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let (Action::Write(write), Outcome::Done { .. }) = (&operation.action, outcome) else { return Ok(()) };
        let Some(replica) = nodes[node].running.as_ref() else { return Ok(()) };
        let held = replica.table().get(&write.key).map(|held| &held.state);
        let entry = held.and_then(|state| state.entries.iter().find(|entry| entry.request == write.request));
        let Some(dot) = entry.map(|entry| entry.dot).filter(|_| operation.level == Level::Causal) else {
            return Ok(());
        };
        let epoch = replica.view().epoch;
        let known = self.keys.entry(write.key.clone()).or_default();
        known.acknowledged.push((dot, epoch));
        let later = known.copies.iter().filter(|(_, copied)| **copied > epoch);
        let later: Vec<NodeId> = later.map(|(home, _)| *home).collect();
        later.into_iter().try_for_each(|home| expect_held(home, nodes, &write.key, dot))
    }

    /// A node has done something: does it count by now as a home that it was not before?
    pub fn done(&mut self, (node, nodes): (usize, &[Node])) -> Result<(), Violation> {
        let Some(replica) = nodes[node].running.as_ref().filter(|replica| replica.view().epoch > Epoch(1)) else {
            return Ok(());
        };
        let id = nodes[node].id;
        for (key, known) in &mut self.keys {
            let arc = replica.arc_of(key.position).filter(|arc| arc.is_held_by(id));
            let Some(arc) = arc.filter(|_| replica.counts(key.position)) else {
                known.copies.remove(&id);
                continue;
            };
            if !arc.awaits(id) || known.copies.insert(id, arc.epoch) == Some(arc.epoch) {
                continue;
            }
            let earlier = known.acknowledged.iter().filter(|(_, epoch)| *epoch < arc.epoch);
            earlier.into_iter().try_for_each(|(dot, _)| expect_held(id, nodes, key, *dot))?;
        }
        Ok(())
    }
}

impl Known {
    /// A node in charge has dropped the key's tombstone.
    fn dropped(
        &mut self,
        (id, replica): (NodeId, &Replica),
        key: &RegisterKey,
        nodes: &[Node],
    ) -> Result<(), Violation> {
        let Some(context) = self.tombstones.remove(&id) else { return Ok(()) };
        let in_charge = |arc: &&Arc| arc.replicas.contains(&id) && arc.next.is_none();
        let Some(arc) = replica.arc_of(key.position).filter(in_charge) else { return Ok(()) };
        for home in arc.replicas.iter() {
            let held = running(nodes, *home).and_then(|replica| replica.table().get(key));
            let alive = held.map(|held| alive_of(&held.state, &context)).unwrap_or_default();
            invariant_a_tombstone_goes_only_when_no_home_has_what_it_buries(id, *home, &alive)?;
        }
        self.buried.push(context);
        Ok(())
    }

    /// A node holds this now.
    fn expect_gone(
        &self,
        (id, replica): (NodeId, &Replica),
        key: &RegisterKey,
        state: &State,
    ) -> Result<(), Violation> {
        let in_charge = replica.arc_of(key.position).is_some_and(|arc| arc.replicas.contains(&id));
        if !in_charge || !replica.counts(key.position) {
            return Ok(());
        }
        let alive: BTreeSet<Dot> = self.buried.iter().flat_map(|context| alive_of(state, context)).collect();
        invariant_what_is_buried_never_comes_back(id, &alive)
    }
}

fn running(nodes: &[Node], id: NodeId) -> Option<&Replica> {
    nodes.iter().find(|node| node.id == id).and_then(|node| node.running.as_ref())
}

/// The dots that the context covers and that are alive in the state.
fn alive_of(state: &State, context: &Context) -> BTreeSet<Dot> {
    let alive = state.entries.iter().filter(|entry| entry.body != EntryBody::Deleted);
    alive.map(|entry| entry.dot).filter(|dot| context.covers(*dot)).collect()
}

/// A new home that counts must know of the dot, unless that has been replaced, or buried, where it was.
fn expect_held(home: NodeId, nodes: &[Node], key: &RegisterKey, dot: Dot) -> Result<(), Violation> {
    let Some(replica) = running(nodes, home) else { return Ok(()) };
    let knows = replica.table().get(key).is_some_and(|held| held.state.context.covers(dot));
    let Some(arc) = replica.arc_of(key.position) else { return Ok(()) };
    let shows = |node: &&NodeId| {
        let held = running(nodes, **node).and_then(|replica| replica.table().get(key));
        held.is_some_and(|held| held.state.find(dot).is_some())
    };
    let alive = arc.replicas.iter().filter(shows).count();
    if knows || 2 * alive <= arc.replicas.len() {
        return Ok(());
    }
    let found = format!("{home} counts in the arc epoch {}, and lacks {dot:?}, acknowledged before", arc.epoch);
    Err(Violation { invariant: "a_new_home_that_counts_holds_what_was_acknowledged", found })
}

/// A write is stamped above its place among the writes that it has not seen, and that lies above all that its session
/// has.
fn invariant_a_stamp_lies_above_what_its_session_has_seen(state: &State) -> Result<(), Violation> {
    let Some(entry) = state.entries.iter().find(|entry| entry.order > entry.dot.counter) else { return Ok(()) };
    let found = format!("{:?} has its place at {}", entry.dot, entry.order);
    Err(Violation { invariant: "a_stamp_lies_above_what_its_session_has_seen", found })
}

/// When a home drops a tombstone, none of the homes has alive what it buries.
fn invariant_a_tombstone_goes_only_when_no_home_has_what_it_buries(
    dropping: NodeId,
    home: NodeId,
    alive: &BTreeSet<Dot>,
) -> Result<(), Violation> {
    let Some(dot) = alive.first() else { return Ok(()) };
    let found = format!("{dropping} drops a tombstone, and {home} has {dot:?} alive, which it buries");
    Err(Violation { invariant: "a_tombstone_goes_only_when_no_home_has_what_it_buries", found })
}

/// What a tombstone had buried when it was dropped, no home that counts takes again.
fn invariant_what_is_buried_never_comes_back(home: NodeId, alive: &BTreeSet<Dot>) -> Result<(), Violation> {
    let Some(dot) = alive.first() else { return Ok(()) };
    let found = format!("{home} has {dot:?} alive, which was buried");
    Err(Violation { invariant: "what_is_buried_never_comes_back", found })
}
