//! The four ways of finding a key's member, on one ideal ring.

use std::fmt;
use std::str::FromStr;

use chord::NextHop;
use membership::Position;

use super::{Crowd, config, index_of};

/// How a key's member is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// By a directory of all keys.
    Index,
    /// By the table of all members: the view.
    Table,
    /// From neighbour to neighbour.
    Neighbours,
    /// By finger tables.
    Fingers,
}

impl Strategy {
    /// All of them, from the one that keeps most to the one that keeps little and is quick all the same.
    pub const ALL: [Strategy; 4] = [Strategy::Index, Strategy::Table, Strategy::Neighbours, Strategy::Fingers];

    /// Its name in `lookup=`.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Index => "index",
            Strategy::Table => "table",
            Strategy::Neighbours => "neighbours",
            Strategy::Fingers => "fingers",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Strategy, String> {
        let known = Strategy::ALL.into_iter().find(|strategy| strategy.name() == text);
        known.ok_or_else(|| format!("{text:?} is none of index, table, neighbours, fingers"))
    }
}

/// What a strategy takes on a ring of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walked {
    /// The strategy.
    pub strategy: Strategy,
    /// Hops from the asker to the owner, the owner included, on average.
    pub hops: f64,
    /// The longest way met.
    pub hops_max: u64,
    /// Entries that each member keeps.
    pub entries: f64,
    /// Lookups that this is measured by.
    pub lookups: u64,
}

/// All strategies on a ring of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Members.
    pub nodes: usize,
    /// By strategy, in the order of [`Strategy::ALL`].
    pub walked: Vec<Walked>,
}

/// Keys for each member, in the directory of all keys.
pub const KEYS_PER_NODE: u64 = 1_000;
/// Steps from neighbour to neighbour that one size is given.
const NEIGHBOUR_STEPS: u64 = 20_000_000;

/// Lays down a ring of `nodes` members and looks up `lookups` random positions from random members by each strategy.
pub fn measure(nodes: usize, lookups: u64, seed: u64) -> Row {
    let mut crowd = Crowd::laid_down(nodes, config(), seed);
    let walked = Strategy::ALL.into_iter().map(|strategy| crowd.walk_many(strategy, lookups)).collect();
    Row { nodes, walked }
}

/// The same by one strategy only.
pub fn measure_one(strategy: Strategy, nodes: usize, lookups: u64, seed: u64) -> Walked {
    Crowd::laid_down(nodes, config(), seed).walk_many(strategy, lookups)
}

impl Crowd {
    /// Looks up random positions from random members.
    pub(crate) fn walk_many(&mut self, strategy: Strategy, lookups: u64) -> Walked {
        let nodes = self.running.len() as u64;
        let lookups = match strategy {
            // Each takes a quarter of the ring.
            Strategy::Neighbours => lookups.min(4 * NEIGHBOUR_STEPS / nodes).max(16),
            _ => lookups,
        };
        let (mut hops, mut longest) = (0, 0);
        for _ in 0..lookups {
            let from = self.running[self.prng.index(self.running.len())];
            let target = Position(self.prng.next_u64());
            let way = self.way(strategy, from, target);
            hops += way;
            longest = longest.max(way);
        }
        let entries = match strategy {
            Strategy::Index => (nodes * KEYS_PER_NODE) as f64,
            Strategy::Table => nodes as f64,
            Strategy::Neighbours => 2.0,
            Strategy::Fingers => self.entries(),
        };
        Walked { strategy, hops: hops as f64 / lookups as f64, hops_max: longest, entries, lookups }
    }

    /// The hops from a member to the owner of a position.
    fn way(&self, strategy: Strategy, from: u32, target: Position) -> u64 {
        let owner = self.owner_after(target);
        let mut at = from;
        let mut hops = 0;
        loop {
            if Some(at) == owner {
                return hops;
            }
            let Some(chord) = self.members[at as usize].as_ref() else { return hops };
            let next = match strategy {
                Strategy::Index | Strategy::Table => return hops + 1,
                Strategy::Neighbours => chord.next_neighbour(target),
                Strategy::Fingers => chord.next_hop(target),
            };
            let (NextHop::Owner(peer) | NextHop::Ask(peer)) = next;
            at = index_of(peer.node);
            hops += 1;
            assert!(hops <= 2 * self.members.len() as u64, "a walk on an ideal ring ends");
        }
    }

    /// Successors, fingers and predecessor of a member, on average over some.
    fn entries(&self) -> f64 {
        let step = (self.running.len() / 1_000).max(1);
        let looked_at = self.running.iter().step_by(step).filter_map(|at| self.members[*at as usize].as_ref());
        let counts: Vec<usize> = looked_at.map(|chord| chord.successors().len() + chord.fingers().len() + 1).collect();
        counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_takes_what_the_literature_says() {
        let row = measure(1 << 10, 2_000, 1);
        let [index, table, neighbours, fingers] = row.walked[..] else { panic!("four strategies") };
        assert!(index.hops <= 1.0 && table.hops <= 1.0 && table.hops > 0.99, "{row:?}");
        assert!((200.0..300.0).contains(&neighbours.hops), "a quarter of the ring: {row:?}");
        assert!(fingers.hops <= 0.5 * 10.0 + 1.0 && fingers.hops > 2.0, "{row:?}");
        assert!(fingers.entries < 32.0 && fingers.hops_max <= 12, "{row:?}");
        assert_eq!(index.entries, 1_024_000.0);
    }

    #[test]
    fn the_smallest_ring_works_too() {
        let row = measure(3, 300, 1);
        for walked in &row.walked {
            // Pointers name their head as an owner, and nobody behind it: so the third member is found by the second.
            let by_pointers = matches!(walked.strategy, Strategy::Neighbours | Strategy::Fingers);
            let (mean, longest) = if by_pointers { (0.5 * 3f64.log2() + 1.0, 2) } else { (1.0, 1) };
            assert!(walked.hops > 0.3 && walked.hops <= mean && walked.hops_max <= longest, "{row:?}");
        }
    }
}
