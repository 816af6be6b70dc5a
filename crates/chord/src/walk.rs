//! The walk of one lookup over the ring's fingers: pure.
//!
//! Each member asked names the next, nearer to the target, until one names the owner. A member that does not answer, or
//! that leads in a circle (a ring under repair can), is not asked again, and the walk begins anew at another node.

use std::collections::BTreeSet;

use membership::{NodeId, Position};

use crate::message::{NextHop, Peer};

/// Members asked at most. A ring of 2^64 positions needs 64 in the worst case; one that needs more is broken.
pub const HOPS_MAX: usize = 64;
/// Beginnings at most: the first, and one for each failure that is put up with.
pub const BEGINNINGS_MAX: usize = 4;

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The node.
    pub node: NodeId,
    /// At which of its tokens; none at the beginning, where any will do.
    pub at: Option<Position>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this member.
    Ask(Ask),
    /// The owner is found.
    Found(Peer),
    /// There is nobody left to ask, or the walk is too long.
    GiveUp,
}

/// One lookup.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Nodes to begin at, in order.
    starts: Vec<NodeId>,
    /// Nodes that did not answer.
    silent: BTreeSet<NodeId>,
    /// Positions asked since the last beginning.
    asked: BTreeSet<Position>,
    beginnings: usize,
    hops: usize,
    hops_max: usize,
    /// Whether an owner is believed only when it says so itself.
    confirming: bool,
}

impl Walk {
    /// A walk that begins at the first of `starts`, and turns to the others when it fails.
    pub fn new(starts: Vec<NodeId>) -> Walk {
        Walk {
            starts,
            silent: BTreeSet::new(),
            asked: BTreeSet::new(),
            beginnings: 0,
            hops: 0,
            hops_max: HOPS_MAX,
            confirming: false,
        }
    }

    /// The same with another bound than [`HOPS_MAX`]: a walk by neighbours passes through half the ring.
    pub fn with_hops_max(self, hops_max: usize) -> Walk {
        Walk { hops_max, ..self }
    }

    /// The same, but whoever is named as the owner is asked as well, and only its own word counts. In a ring that
    /// changes, the member before it may not know yet that somebody came in between, or that it is dead.
    pub fn confirming(self) -> Walk {
        Walk { confirming: true, ..self }
    }

    /// The first step.
    pub fn begin(&mut self) -> Step {
        self.asked.clear();
        let next = self.starts.iter().copied().find(|node| !self.silent.contains(node));
        match next {
            Some(node) if self.beginnings < BEGINNINGS_MAX => {
                self.beginnings += 1;
                // A walk that went in a circle from here would do so again.
                self.starts.retain(|start| *start != node);
                self.ask(Ask { node, at: None })
            }
            _ => Step::GiveUp,
        }
    }

    /// The asked member answered: the way, or that it is no member (yet).
    pub fn answered(&mut self, asked: Ask, hop: Option<NextHop>) -> Step {
        match hop {
            Some(NextHop::Owner(owner)) if self.confirming && asked.at != Some(owner.position) => {
                let fresh = !self.silent.contains(&owner.node) && self.asked.insert(owner.position);
                if fresh { self.ask(Ask { node: owner.node, at: Some(owner.position) }) } else { self.begin() }
            }
            Some(NextHop::Owner(owner)) => Step::Found(owner),
            Some(NextHop::Ask(peer)) if !self.silent.contains(&peer.node) && self.asked.insert(peer.position) => {
                self.ask(Ask { node: peer.node, at: Some(peer.position) })
            }
            Some(NextHop::Ask(_)) => self.begin(),
            None => self.failed(asked),
        }
    }

    /// The asked member did not answer.
    pub fn failed(&mut self, asked: Ask) -> Step {
        self.silent.insert(asked.node);
        self.begin()
    }

    fn ask(&mut self, ask: Ask) -> Step {
        if self.hops == self.hops_max {
            return Step::GiveUp;
        }
        self.hops += 1;
        Step::Ask(ask)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn peer(position: u64) -> Peer {
        Peer { position: Position(position), node: NodeId(position / 100) }
    }

    /// Walks a ring whose members answer from a table by node; a node without an entry does not answer.
    fn walk(starts: &[u64], table: &BTreeMap<u64, Option<NextHop>>) -> (Vec<u64>, Step) {
        let mut walk = Walk::new(starts.iter().map(|node| NodeId(*node)).collect());
        let (mut asked, mut step) = (Vec::new(), walk.begin());
        while let Step::Ask(ask) = step {
            asked.push(ask.node.0);
            step = match table.get(&ask.node.0) {
                Some(hop) => walk.answered(ask, *hop),
                None => walk.failed(ask),
            };
        }
        (asked, step)
    }

    #[test]
    fn a_walk_follows_the_fingers_to_the_owner() {
        let table = BTreeMap::from([
            (1, Some(NextHop::Ask(peer(400)))),
            (4, Some(NextHop::Ask(peer(600)))),
            (6, Some(NextHop::Owner(peer(700)))),
        ]);
        assert_eq!(walk(&[1], &table), (vec![1, 4, 6], Step::Found(peer(700))));
    }

    #[test]
    fn an_owner_is_asked_itself_when_its_word_is_wanted() {
        let mut walk = Walk::new(vec![NodeId(1)]).confirming();
        let first = Ask { node: NodeId(1), at: None };
        assert_eq!(walk.begin(), Step::Ask(first));
        let owner = Ask { node: NodeId(7), at: Some(Position(700)) };
        assert_eq!(walk.answered(first, Some(NextHop::Owner(peer(700)))), Step::Ask(owner));
        assert_eq!(walk.clone().answered(owner, Some(NextHop::Owner(peer(700)))), Step::Found(peer(700)));
        let nearer = Ask { node: NodeId(6), at: Some(Position(600)) };
        assert_eq!(walk.answered(owner, Some(NextHop::Ask(peer(600)))), Step::Ask(nearer), "somebody came in between");
    }

    #[test]
    fn a_dead_finger_is_gone_round_from_another_beginning() {
        let table = BTreeMap::from([(1, Some(NextHop::Ask(peer(400)))), (2, Some(NextHop::Owner(peer(700))))]);
        assert_eq!(walk(&[1, 2], &table), (vec![1, 4, 2], Step::Found(peer(700))));
    }

    #[test]
    fn a_circle_is_left() {
        let table = BTreeMap::from([
            (1, Some(NextHop::Ask(peer(400)))),
            (4, Some(NextHop::Ask(peer(500)))),
            (5, Some(NextHop::Ask(peer(400)))),
            (2, None),
            (3, Some(NextHop::Owner(peer(700)))),
        ]);
        assert_eq!(walk(&[1, 2, 3], &table), (vec![1, 4, 5, 2, 3], Step::Found(peer(700))));
    }

    #[test]
    fn it_gives_up_when_nobody_answers() {
        assert_eq!(walk(&[], &BTreeMap::new()), (vec![], Step::GiveUp));
        let (asked, step) = walk(&[1, 2, 3, 4, 5, 6], &BTreeMap::new());
        assert_eq!((asked.len(), step), (BEGINNINGS_MAX, Step::GiveUp));
    }

    #[test]
    fn no_walk_is_longer_than_its_bound() {
        let endless = (1..1_000).map(|node| (node, Some(NextHop::Ask(peer((node + 1) * 100))))).collect();
        let (asked, step) = walk(&[1], &endless);
        assert_eq!((asked.len(), step), (HOPS_MAX, Step::GiveUp));
    }
}
