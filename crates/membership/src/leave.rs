//! Who may leave while some members cannot be reached, and what is given up where they are gone for good.

use std::collections::BTreeSet;

use crate::change::{ArcLoss, ChangeError, newcomers};
use crate::ring::is_majority;
use crate::{Epoch, NodeId, View};

/// A leave that has begun, or is complete already because nobody had to copy anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The view in which it has begun.
    pub view: View,
    /// Its number; none if it is complete.
    pub id: Option<Epoch>,
    /// Those of the leavers who are given up with what only they hold; the others hand over.
    pub lost: BTreeSet<NodeId>,
    /// The arcs that may lose something by that.
    pub losses: Vec<ArcLoss>,
}

impl AsRef<View> for Leaving {
    fn as_ref(&self) -> &View {
        &self.view
    }
}

impl View {
    /// The view in which `nodes` are leaving, if the change can end while only the `reachable` can be reached.
    ///
    /// Everybody hands over. Only by `force` are nodes given up, and only those of `nodes` who cannot be reached and
    /// whose arcs have no majority without them. A majority that is missing because of others is not made up for so:
    /// these others may come back, with what they hold.
    ///
    /// # Errors
    /// They cannot leave, or not now; or some arc would have nobody to copy from, or nobody to copy to.
    pub fn begin_leave_among(
        &self,
        nodes: BTreeSet<NodeId>,
        force: bool,
        reachable: impl Fn(NodeId) -> bool,
    ) -> Result<Leaving, ChangeError> {
        self.check_leavers(&nodes)?;
        let moves = self.moves_of_leave(&nodes);
        let mut losses = if force { self.arcs_without_majority(&reachable) } else { Vec::new() };
        let away = losses.iter().flat_map(|loss| loss.unreachable.iter().copied());
        let lost: BTreeSet<NodeId> = away.filter(|node| nodes.contains(node)).collect();
        losses.retain(|loss| loss.unreachable.iter().any(|node| lost.contains(node)));
        let view = self.begin_leave_giving_up(nodes, lost.clone(), moves)?;
        let id = view.pending.last().map(|pending| pending.id).filter(|id| *id == view.epoch);
        if let Some(id) = id {
            view.check_can_end(id, &reachable)?;
        }
        Ok(Leaving { view, id, lost, losses })
    }

    /// Change `id` ends by itself: each arc that it moves has a majority to copy from, and whoever is to copy is there.
    fn check_can_end(&self, id: Epoch, reachable: impl Fn(NodeId) -> bool) -> Result<(), ChangeError> {
        let ring = self.ring();
        let arcs = self.arcs_of_change(id, &ring);
        let without: Vec<_> = arcs.iter().filter(|arc| !is_majority(&arc.replicas, &reachable)).collect();
        if !without.is_empty() {
            let replicas = without.iter().flat_map(|arc| arc.replicas.iter().copied());
            let away: BTreeSet<NodeId> = replicas.filter(|node| !reachable(*node)).collect();
            let share: f64 = without.iter().map(|arc| arc.share()).sum();
            return Err(ChangeError::NoMajority {
                arcs: without.len(),
                share_ppm: (share * 1e6) as u32,
                away: self.names_of(away),
            });
        }
        let awaited = newcomers(&arcs).into_iter().filter(|node| !reachable(*node));
        match self.names_of(awaited) {
            away if away.is_empty() => Ok(()),
            away => Err(ChangeError::AwaitsAbsent { away }),
        }
    }

    /// What people call these nodes, in order of their names: by their identities, if they are no members.
    pub fn names_of(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.name_of(node)).collect();
        names.sort_unstable();
        names
    }

    /// What people call a node: by its identity, if it is no member.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        self.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterId, Member, Position};

    /// n1 to n`members` at 100, 200 and so on, three copies.
    fn view(members: u64) -> View {
        let member = |id: u64| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            weight: 1,
            tokens: vec![Position(id * 100)],
        };
        let base = View::forming(ClusterId(1), 3, members as usize, 9);
        View { epoch: Epoch(1), members: (1..=members).map(member).collect(), ..base }
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn all_but(away: &[u64]) -> impl Fn(NodeId) -> bool {
        |node| !away.contains(&node.0)
    }

    fn away_of(refused: Result<Leaving, ChangeError>) -> Vec<String> {
        match refused {
            Err(ChangeError::NoMajority { away, .. } | ChangeError::AwaitsAbsent { away }) => away,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_away_is_taken_out_while_it_is_the_only_one() {
        let leaving = view(5).begin_leave_among(nodes(&[1]), false, all_but(&[1])).expect("four are there");
        assert_eq!((leaving.lost, leaving.losses), (nodes(&[]), Vec::new()));
        assert!(leaving.view.is_leaving(NodeId(1)));
    }

    #[test]
    fn a_leave_that_an_arc_would_not_survive_is_refused_for_the_dead_and_the_living() {
        let five = view(5);
        for leaver in 1..=5 {
            let away = away_of(five.begin_leave_among(nodes(&[leaver]), false, all_but(&[1, 2])));
            assert!(away == ["n1", "n2"] || away == ["n2"] || away == ["n1"], "n{leaver}: {away:?}");
        }
        let text = five.begin_leave_among(nodes(&[1]), false, all_but(&[1, 2])).expect_err("refused").to_string();
        assert!(
            text.contains("% of all keys) have no majority of replicas that can be reached (n1, n2 cannot)"),
            "{text}"
        );
    }

    #[test]
    fn force_gives_up_the_lost_that_are_named_and_nobody_else() {
        let six = view(6);
        let given_up = six.begin_leave_among(nodes(&[1, 2]), true, all_but(&[1, 2])).expect("four are left");
        assert_eq!(given_up.lost, nodes(&[1, 2]));
        let ends: Vec<u64> = given_up.losses.iter().map(|loss| loss.high.0).collect();
        assert_eq!(ends, [100, 600], "n1 n2 n3, and n6 n1 n2");

        let both = six.begin_leave_among(nodes(&[1, 2, 5]), true, all_but(&[1, 2])).expect("three are left");
        assert_eq!(both.lost, nodes(&[1, 2]), "n5 lives and hands over");
        let described = both.view.describe(&both.view.pending[0].change);
        assert_eq!(described, "n5 leaving; n1, n2 given up");

        let apart = view(9).begin_leave_among(nodes(&[1, 5]), true, all_but(&[1, 5])).expect("no arc has both");
        assert_eq!(apart.lost, nodes(&[]), "every arc has a majority: others hold all that they held");
    }

    #[test]
    fn force_does_not_make_up_for_those_that_are_not_named() {
        let refused = view(5).begin_leave_among(nodes(&[4]), true, all_but(&[1, 2]));
        assert_eq!(away_of(refused), ["n1", "n2"], "n4 lives: nothing is lost by it");
        let refused = view(5).begin_leave_among(nodes(&[1]), true, all_but(&[1, 2]));
        assert_eq!(away_of(refused), ["n2"], "n2 may come back");
    }

    #[test]
    fn nobody_is_waited_for_who_is_not_there() {
        let view = View { replication: 5, ..view(8) };
        let refused = view.begin_leave_among(nodes(&[1]), false, all_but(&[1, 6]));
        assert_eq!(refused, Err(ChangeError::AwaitsAbsent { away: vec!["n6".to_owned()] }));
        view.begin_leave_among(nodes(&[1, 6]), false, all_but(&[1, 6])).expect("both at once");
    }
}
