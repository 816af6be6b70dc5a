//! How even the load is: the tokens that members choose, from few members to many, while they come and go.

use std::collections::BTreeSet;

use membership::{
    ClusterId, Epoch, Member, NodeId, Position, Ring, View, choose_tokens, load_ratios, tokens_after_leave,
    tokens_of_weight,
};
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
}

/// What changes cost, and what the ring was like meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Changed {
    /// The most that a change gave to another owner, as a multiple of what came or went by right: a newcomer's due
    /// share, what a leaver owned.
    pub moved_over_ideal: f64,
    /// The most copies that a change had made, as a multiple of those that a newcomer holds, or a leaver held.
    pub copied_over_ideal: f64,
    /// The fullest member after any of the changes, by its share of the circle.
    pub by_arc_worst: f64,
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

    fn leave(&mut self) -> NodeId {
        let leaver = self.members[self.prng.index(self.members.len())].id;
        let after = tokens_after_leave(&self.members, REPLICATION, leaver);
        self.members.retain(|member| member.id != leaver);
        for (member, (_, tokens)) in self.members.iter_mut().zip(after) {
            member.tokens = tokens;
        }
        leaver
    }

    /// Members join and leave at random, so many times in all; never fewer than 3 are left.
    pub fn change(&mut self, times: usize) -> Changed {
        let mut changed = Changed { moved_over_ideal: 0.0, copied_over_ideal: 0.0, by_arc_worst: 0.0 };
        for _ in 0..times {
            let before = self.ring();
            let (moved, copied) = if self.prng.one_in(2) && self.members.len() > REPLICATION {
                let leaver = self.leave();
                let (owned, held) = loads_of(&before, leaver);
                let (moved, copied) = moved(&before, &self.ring());
                (moved / owned, copied / held)
            } else {
                self.join();
                let after = self.ring();
                let (moved, copied) = moved(&before, &after);
                let newcomer = self.members.last().map_or(NodeId(0), |member| member.id);
                let held = loads_of(&after, newcomer).1;
                (moved / self.due_to_the_last(), copied / held)
            };
            changed.moved_over_ideal = changed.moved_over_ideal.max(moved);
            changed.copied_over_ideal = changed.copied_over_ideal.max(copied);
            let fullest = load_ratios(&self.members, REPLICATION).into_iter().map(|ratio| ratio.0).fold(0.0, f64::max);
            changed.by_arc_worst = changed.by_arc_worst.max(fullest);
        }
        changed
    }

    /// The share of the circle that is due to the last one that came.
    fn due_to_the_last(&self) -> f64 {
        let total: u32 = self.members.iter().map(|member| member.weight).sum();
        self.members.last().map_or(1.0, |member| f64::from(member.weight) / f64::from(total))
    }

    fn ring(&self) -> Ring {
        let members = self.members.clone();
        View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), REPLICATION, self.members.len(), 0) }.ring()
    }

    /// How even the load is now.
    pub fn balance(&mut self) -> Balance {
        let ratios = load_ratios(&self.members, REPLICATION);
        let worst = |of: fn(&(f64, f64)) -> f64| ratios.iter().map(of).fold(0.0, f64::max);
        Balance {
            nodes: self.members.len(),
            by_arc: worst(|ratio| ratio.0),
            with_copies: worst(|ratio| ratio.1),
            by_keys: self.by_keys(),
            tokens_max: self.members.iter().map(|member| member.tokens.len()).max().unwrap_or(0),
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

/// The shares of the circle that a node owns, and holds with others.
fn loads_of(ring: &Ring, node: NodeId) -> (f64, f64) {
    let mut loads = (0.0, 0.0);
    for arc in ring.arcs() {
        let length = length(arc.low, arc.high);
        loads.0 += if arc.replicas.first() == Some(&node) { length } else { 0.0 };
        loads.1 += if arc.replicas.contains(&node) { length } else { 0.0 };
    }
    loads
}

/// The share of the circle that has another owner, and the shares, summed, that somebody holds who did not.
fn moved(before: &Ring, after: &Ring) -> (f64, f64) {
    let ends: BTreeSet<Position> = before.arcs().iter().chain(after.arcs()).map(|arc| arc.high).collect();
    let Some(mut low) = ends.last().copied() else { return (0.0, 0.0) };
    let (mut owned, mut copied) = (0.0, 0.0);
    for end in ends {
        let (was, is) = (before.replicas_of(end), after.replicas_of(end));
        let length = length(low, end);
        owned += if was.first() == is.first() { 0.0 } else { length };
        copied += length * is.iter().filter(|node| !was.contains(node)).count() as f64;
        low = end;
    }
    (owned, copied)
}

fn length(low: Position, high: Position) -> f64 {
    low.distance_to(high) as f64 / 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_even_as_arcs() {
        let balance = Ringful::of(20, &[1], 1).balance();
        assert!(balance.by_arc <= 1.10 && balance.by_keys <= 1.10, "{balance:?}");
        assert!(balance.by_keys > 1.0 && balance.tokens_max == membership::TOKENS, "{balance:?}");
    }

    #[test]
    fn changes_move_little_more_than_what_comes_and_goes() {
        for (nodes, weights) in [(5, &[1][..]), (12, &[1, 2, 4])] {
            let mut ring = Ringful::of(nodes, weights, 2);
            let changed = ring.change(60);
            assert!(changed.by_arc_worst <= 1.10, "{nodes}: {changed:?}");
            assert!((1.0..=1.10).contains(&changed.moved_over_ideal), "{nodes}: {changed:?}");
            let balance = ring.balance();
            assert!(balance.by_keys <= 1.10 && balance.tokens_max <= membership::TOKENS_MAX, "{balance:?}");
        }
    }

    #[test]
    fn what_moves_is_counted_from_one_ring_to_the_next() {
        let mut ring = Ringful::of(4, &[1], 3);
        let before = ring.ring();
        ring.join();
        let after = ring.ring();
        let (owned, copied) = moved(&before, &after);
        let (owns, holds) = loads_of(&after, NodeId(5));
        assert!((owned - owns).abs() < 1e-9 && (copied - holds).abs() < 1e-9, "only what the newcomer has moves");
        assert_eq!(moved(&after, &after), (0.0, 0.0));
    }
}
