//! Who has been away for so long that others should hold what it held.
//!
//! Pure: it is told who is there, and the time. It proposes; discovery's word on the absent one, and the view's rules
//! for leaving, come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::{NodeId, View};
use stdx::Instant;

/// Since when each member is away, as this node sees it.
#[derive(Debug)]
pub(crate) struct Absences {
    /// A member that is away for a shorter time keeps its place. None: for any time.
    grace: Option<Duration>,
    since: BTreeMap<NodeId, Instant>,
}

impl Absences {
    pub fn new(grace: Option<Duration>) -> Absences {
        Absences { grace, since: BTreeMap::new() }
    }

    /// Takes note of who is up at `now`, which is to say connected; who has been away for longest, if that is longer
    /// than the grace period.
    ///
    /// A node that sees no majority of the members is the one that is away: it begins to count anew. While a change is
    /// pending nobody is proposed, so that the ring gives up one member at a time.
    pub fn look(&mut self, view: &View, me: NodeId, is_up: impl Fn(NodeId) -> bool, now: Instant) -> Option<NodeId> {
        let grace = self.grace?;
        let is_there = |id: &NodeId| *id == me || is_up(*id);
        let members = || view.members.iter().map(|member| member.id);
        let there = members().filter(is_there).count();
        if !view.is_formed() || there * 2 <= view.members.len() {
            self.since.clear();
            return None;
        }
        let away: BTreeSet<NodeId> = members().filter(|id| !is_there(id)).collect();
        self.since.retain(|id, _| away.contains(id));
        for id in away {
            self.since.entry(id).or_insert(now);
        }
        let (longest, since) = self.since.iter().min_by_key(|(_, since)| **since)?;
        (view.pending.is_empty() && now.since(*since) > grace).then_some(*longest)
    }
}

#[cfg(test)]
mod tests {
    use membership::{ClusterId, Epoch, Member, Position};

    use super::*;

    const ME: NodeId = NodeId(1);
    const GRACE: Duration = Duration::from_secs(300);

    fn view(members: u64) -> View {
        let member = |number| Member {
            id: NodeId(number),
            name: format!("n{number}"),
            zone: None,
            weight: 1,
            tokens: vec![Position(number * 1_000)],
        };
        let base = View::forming(ClusterId(1), 3, members as usize, 0);
        View { epoch: Epoch(1), members: (1..=members).map(member).collect(), ..base }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn all_but(away: &[u64]) -> impl Fn(NodeId) -> bool {
        |id| !away.contains(&id.0)
    }

    #[test]
    fn a_member_is_given_up_after_the_grace_period_and_not_before() {
        let (view, mut absences) = (view(5), Absences::new(Some(GRACE)));
        assert_eq!(absences.look(&view, ME, all_but(&[3]), at(0)), None);
        assert_eq!(absences.look(&view, ME, all_but(&[3]), at(300)), None);
        assert_eq!(absences.look(&view, ME, all_but(&[3, 4]), at(301)), Some(NodeId(3)));
    }

    #[test]
    fn who_came_back_in_between_begins_anew() {
        let (view, mut absences) = (view(5), Absences::new(Some(GRACE)));
        absences.look(&view, ME, all_but(&[3]), at(0));
        absences.look(&view, ME, all_but(&[]), at(200));
        assert_eq!(absences.look(&view, ME, all_but(&[3]), at(400)), None);
        assert_eq!(absences.look(&view, ME, all_but(&[3]), at(701)), Some(NodeId(3)));
    }

    #[test]
    fn a_node_that_sees_no_majority_gives_up_nobody() {
        let (view, mut absences) = (view(4), Absences::new(Some(GRACE)));
        assert_eq!(absences.look(&view, ME, all_but(&[3, 4]), at(0)), None);
        assert_eq!(absences.look(&view, ME, all_but(&[3, 4]), at(900)), None);
        // When it is connected again the absences begin then, and not when it was cut off.
        assert_eq!(absences.look(&view, ME, all_but(&[4]), at(901)), None);
        assert_eq!(absences.look(&view, ME, all_but(&[4]), at(1_202)), Some(NodeId(4)));
    }

    #[test]
    fn nobody_is_given_up_while_a_change_is_pending_or_without_a_grace_period() {
        let (plain, mut absences) = (view(5), Absences::new(Some(GRACE)));
        let pending = plain.begin_leave(BTreeSet::from([NodeId(5)]), false).expect("five can spare one");
        absences.look(&pending, ME, all_but(&[3]), at(0));
        assert_eq!(absences.look(&pending, ME, all_but(&[3]), at(400)), None);
        assert_eq!(absences.look(&plain, ME, all_but(&[3]), at(401)), Some(NodeId(3)));
        let mut never = Absences::new(None);
        never.look(&plain, ME, all_but(&[3]), at(0));
        assert_eq!(never.look(&plain, ME, all_but(&[3]), at(1_000_000)), None);
    }
}
