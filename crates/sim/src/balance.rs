//! How even the load is: the tokens that members choose, from few members to many, while they come and go.

use std::collections::BTreeMap;

use membership::{Member, NodeId, Position, choose_tokens, load_ratios, tokens_after_leave, tokens_of_weight};
use stdx::Prng;

/// Copies of each key.
const REPLICATION: usize = 3;
/// Keys that are placed, for each member.
const KEYS_PER_NODE: usize = 10_000;

/// Loads as multiples of what is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// Members.
    pub nodes: usize,
    /// The fullest member, by its share of the circle.
    pub by_arc: f64,
    /// The fullest member, by keys placed at random.
    pub by_keys: f64,
    /// The fullest member, copies included, by its share of the circle.
    pub with_copies: f64,
    /// The most tokens that a member has.
    pub tokens_max: usize,
    /// The most that a change moved, as a multiple of its own share.
    pub moved_over_ideal: f64,
}

/// Members that come and go, under weights of their own.
#[derive(Debug)]
pub struct Ringful {
    members: Vec<Member>,
    weights: &'static [u32],
    next: u64,
    prng: Prng,
}

impl Ringful {
    /// `nodes` members that joined one after the other, with these weights in turn.
    pub fn of(nodes: usize, weights: &'static [u32], seed: u64) -> Ringful {
        let mut ring = Ringful { members: Vec::new(), weights, next: 1, prng: Prng::from_seed(seed) };
        for _ in 0..nodes {
            ring.join();
        }
        ring
    }

    fn join(&mut self) {
        let weight = self.weights[self.next as usize % self.weights.len()];
        let id = NodeId(self.next);
        self.next += 1;
        let mut member = Member { id, name: id.to_string(), zone: None, weight, tokens: Vec::new() };
        let count = tokens_of_weight(weight);
        member.tokens = choose_tokens(&self.members, REPLICATION, &member, count, &mut self.prng);
        self.members.push(member);
    }

    /// Members join and leave at random, so many times in all; never fewer than 3 are left. Answers the most that a
    /// leave moved, as a multiple of the leaver's share.
    pub fn change(&mut self, times: usize) -> f64 {
        let mut most = 1.0f64;
        for _ in 0..times {
            if self.prng.one_in(2) && self.members.len() > REPLICATION {
                most = most.max(self.leave());
            } else {
                self.join();
            }
        }
        most
    }

    fn leave(&mut self) -> f64 {
        let at = self.prng.index(self.members.len());
        let (leaver, before) = (self.members[at].id, owners(&self.members));
        let after = tokens_after_leave(&self.members, REPLICATION, leaver, &mut self.prng);
        self.members.remove(at);
        for (member, (_, tokens)) in self.members.iter_mut().zip(after) {
            member.tokens = tokens;
        }
        let after = owners(&self.members);
        let (mut own, mut moved) = (0.0, 0.0);
        let ends: Vec<Position> =
            before.keys().chain(after.keys()).copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        for (at, end) in ends.iter().enumerate() {
            let arc = ends[(at + ends.len() - 1) % ends.len()].distance_to(*end) as f64;
            let (was, is) = (owner(&before, *end), owner(&after, *end));
            own += if was == Some(leaver) { arc } else { 0.0 };
            moved += if was == is { 0.0 } else { arc };
        }
        moved / own
    }

    /// How even the load is now.
    pub fn balance(&mut self, moved_over_ideal: f64) -> Balance {
        let ratios = load_ratios(&self.members, REPLICATION);
        let worst = |of: fn(&(f64, f64)) -> f64| ratios.iter().map(of).fold(0.0, f64::max);
        Balance {
            nodes: self.members.len(),
            by_arc: worst(|ratio| ratio.0),
            with_copies: worst(|ratio| ratio.1),
            by_keys: self.by_keys(),
            tokens_max: self.members.iter().map(|member| member.tokens.len()).max().unwrap_or(0),
            moved_over_ideal,
        }
    }

    fn by_keys(&mut self) -> f64 {
        let mut tokens: Vec<(Position, usize)> = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            tokens.extend(member.tokens.iter().map(|token| (*token, at)));
        }
        tokens.sort_unstable();
        let keys = KEYS_PER_NODE * self.members.len();
        let mut counts = vec![0u64; self.members.len()];
        for _ in 0..keys {
            let key = Position(self.prng.next_u64());
            counts[tokens[tokens.partition_point(|token| token.0 < key) % tokens.len()].1] += 1;
        }
        let weights: f64 = self.members.iter().map(|member| f64::from(member.weight)).sum();
        let due = |member: &Member| keys as f64 * f64::from(member.weight) / weights;
        self.members.iter().zip(counts).map(|(member, count)| count as f64 / due(member)).fold(0.0, f64::max)
    }
}

fn owners(members: &[Member]) -> BTreeMap<Position, NodeId> {
    members.iter().flat_map(|member| member.tokens.iter().map(|token| (*token, member.id))).collect()
}

fn owner(owners: &BTreeMap<Position, NodeId>, at: Position) -> Option<NodeId> {
    owners.range(at..).next().or_else(|| owners.iter().next()).map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_even_as_arcs() {
        let balance = Ringful::of(20, &[1], 1).balance(1.0);
        assert!(balance.by_arc <= 1.10 && balance.by_keys <= 1.10, "{balance:?}");
        assert!(balance.by_keys > 1.0 && balance.tokens_max == membership::TOKENS, "{balance:?}");
    }
}
