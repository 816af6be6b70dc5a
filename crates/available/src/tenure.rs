//! What a home knows of its arcs as they change: since when it holds them, and with whom it has compared them since.
//!
//! Marks are kept by actor ("everything that it stamped for me up to here is here"), and say nothing of an arc that was
//! not ours when the stamps were made. So each arc that a change has touched has a [`Tenure`]: in an arc that was
//! *gained*, an actor's mark counts only once we have compared with its node since; of those who stamped before and are
//! gone, be it that their node forgot them, we *inherit* how far the homes had come with whom we compared. The tenures
//! are on disk.

use std::collections::BTreeSet;

use membership::{Arc, Epoch, NodeId, Position};

use crate::version::{Actor, VersionVector};

/// One arc of which this node is a home, or is to become one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// Where the arc begins, excluded.
    pub low: Position,
    /// Where it ends, included.
    pub high: Position,
    /// Its epoch: that of the last change of its homes or ends.
    pub epoch: Epoch,
    /// Whether we became a home of it by a change, rather than when the ring formed.
    pub gained: bool,
    /// Whether all is here that it takes to count as a home.
    pub copied: bool,
    /// Homes in charge, whole themselves, with which we have compared in this epoch.
    pub sources: BTreeSet<NodeId>,
    /// Nodes with which we have compared in this epoch: each held then what the other did.
    pub compared: BTreeSet<NodeId>,
    /// Of a gained arc: actors with whose nodes we have compared since we gained it, while they stamped as these and
    /// held all that they had stamped so. It says nothing of who stamped there before and forgot it.
    pub known: BTreeSet<Actor>,
    /// Of a gained arc: everything that an actor stamped up to here is here, or gone.
    pub inherited: VersionVector,
}

impl Tenure {
    /// Whether it is of exactly this arc in this epoch.
    pub(crate) fn is_of(&self, arc: &Arc) -> bool {
        (self.low, self.high, self.epoch) == (arc.low, arc.high, arc.epoch)
    }

    /// Whether the position lies in the arc.
    pub(crate) fn contains(&self, position: Position) -> bool {
        position.in_arc(self.low, self.high)
    }

    /// The tenure of an arc that has changed, from those held `before` and how far we have come by `marks`; `first`
    /// if none
    /// is known since the log is new.
    pub(crate) fn follow(before: &[Tenure], arc: &Arc, me: NodeId, first: bool, marks: &VersionVector) -> Tenure {
        let (old, held) = cover(before, arc);
        let awaits = arc.awaits(me);
        // Who is to become a home was none just now, though it may have missed the view that said so.
        //
        // A new log of a node that is in charge has lost what it had. Its marks begin anew with those who are homes
        // still,
        // and say nothing of those who were.
        let gained = if first { arc.epoch > Epoch(1) } else { awaits || !held || old.iter().any(|t| t.gained) };
        let copied = !awaits && (first || (held && old.iter().all(|tenure| tenure.copied)));
        let mut tenure = Tenure { low: arc.low, high: arc.high, epoch: arc.epoch, gained, copied, ..Tenure::default() };
        if held && !awaits {
            let mut olds = old.iter().filter(|tenure| tenure.gained);
            if let Some(one) = olds.next() {
                (tenure.known, tenure.inherited) = (one.known.clone(), one.inherited.clone());
            }
            for other in olds {
                tenure.known.retain(|actor| other.known.contains(actor));
                tenure.inherited = tenure.inherited.common(&other.inherited);
            }
            // Of a part that was ours all along, marks tell; what another part inherited says nothing of it.
            if old.iter().any(|tenure| !tenure.gained) {
                tenure.inherited = tenure.inherited.common(marks);
            }
        }
        tenure
    }
}

/// The tenures that parts of the arc lay in, and whether they cover it.
fn cover<'a>(before: &'a [Tenure], arc: &Arc) -> (Vec<&'a Tenure>, bool) {
    let width = |low: Position, high: Position| match low.distance_to(high) {
        0 => 1 << 64,
        distance => u128::from(distance),
    };
    let (mut found, mut at) = (Vec::new(), 0u128);
    while at < width(arc.low, arc.high) {
        // The first position of the arc that is not covered yet.
        let position = Position(arc.low.0.wrapping_add(at as u64).wrapping_add(1));
        let Some(tenure) = before.iter().find(|tenure| tenure.contains(position)) else { return (found, false) };
        at += u128::from(position.distance_to(tenure.high)) + 1;
        found.push(tenure);
    }
    (found, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn arc(low: u64, high: u64, epoch: u64, replicas: &[u64], next: Option<&[u64]>) -> Arc {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>().into();
        let (low, high, epoch) = (Position(low), Position(high), Epoch(epoch));
        Arc { low, high, replicas: nodes(replicas), next: next.map(nodes), epoch }
    }

    /// How far we have come with one who has left.
    fn marks() -> VersionVector {
        [(actor(9), 3)].into_iter().collect()
    }

    fn actor(id: u64) -> Actor {
        Actor { node: NodeId(id), birth: 1 }
    }

    fn inherits(low: u64, high: u64, counter: u64, known: &[u64]) -> Tenure {
        Tenure {
            known: known.iter().map(|id| actor(*id)).collect(),
            inherited: [(actor(9), counter)].into_iter().collect(),
            ..Tenure::follow(&[], &arc(low, high, 2, &[2, 3, 4], Some(&[1, 2, 3])), ME, false, &marks())
        }
    }

    #[test]
    fn a_part_of_an_arc_that_was_not_ours_makes_it_gained() {
        let first = Tenure::follow(&[], &arc(10, 20, 1, &[1, 2, 3], None), ME, true, &marks());
        assert!(!first.gained && first.copied);
        let before = [first];
        let within = Tenure::follow(&before, &arc(10, 15, 2, &[1, 2, 3], Some(&[1, 2, 4])), ME, false, &marks());
        assert!(!within.gained && within.copied);
        let beyond = Tenure::follow(&before, &arc(10, 21, 2, &[1, 2, 3], None), ME, false, &marks());
        assert!(beyond.gained && !beyond.copied, "position 21 was not ours");
        let wrapping = Tenure::follow(&before, &arc(20, 10, 2, &[1, 2, 3], None), ME, false, &marks());
        assert!(wrapping.gained, "all but the old arc");
    }

    #[test]
    fn of_joined_arcs_what_is_known_of_both_is_known() {
        let before = [inherits(10, 20, 7, &[2, 3]), inherits(20, 30, 5, &[3, 4])];
        let joined = Tenure::follow(&before, &arc(10, 30, 3, &[1, 2, 3], None), ME, false, &marks());
        assert!(joined.gained && !joined.copied, "neither was copied");
        assert_eq!(joined.known, BTreeSet::from([actor(3)]));
        assert_eq!(joined.inherited.counter_max(), 5);
        let ours = Tenure::follow(&[], &arc(20, 30, 1, &[1, 2, 3], None), ME, true, &marks());
        let before = [inherits(10, 20, 7, &[2, 3]), ours];
        let mixed = Tenure::follow(&before, &arc(10, 30, 3, &[1, 2, 3], None), ME, false, &marks());
        assert_eq!(mixed.inherited.counter_max(), 3, "of a part that was always ours, no more than marks say");
    }

    #[test]
    fn a_lone_token_is_the_whole_circle() {
        let before = [Tenure::follow(&[], &arc(5, 5, 1, &[1], None), ME, true, &marks())];
        assert!(!Tenure::follow(&before, &arc(7, 7, 2, &[1], None), ME, false, &marks()).gained);
    }
}
