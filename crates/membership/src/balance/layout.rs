//! A ring that tokens are tried out on: what each member owns and holds, and what a change would do to that.

use crate::replica_set::{self, ReplicaSet};
use crate::{Member, Position};

/// The circle, as a number.
pub(super) const CIRCLE: f64 = 18_446_744_073_709_551_616.0;
/// From this load on, as a multiple of its due share, each excess counts many times over.
pub(super) const TOO_FULL: f64 = 1.04;
/// How many times over.
const TOO_FULL_WEIGHS: f64 = 30.0;
/// What copies count, beside what is owned: what is owned has a bar, and decides who coordinates.
const HELD_WEIGHS: f64 = 0.3;
/// Halvings by which the best place between two is found.
const HALVINGS: u32 = 40;

/// A member's loads, in positions, beside what is due to it.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub tokens: usize,
    pub owned: f64,
    pub held: f64,
    pub owned_due: f64,
    pub held_due: f64,
}

impl Load {
    /// What a member owns, as a multiple of what is due to it.
    pub fn owned_ratio(&self) -> f64 {
        self.owned / self.owned_due
    }

    /// What it holds, as a multiple of what is due.
    pub fn held_ratio(&self) -> f64 {
        self.held / self.held_due
    }
}

/// What a change would add to members' loads.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub owned: Vec<(usize, f64)>,
    pub held: Vec<(usize, f64)>,
}

/// Tokens in the order of the circle, each with its owner's index, and what follows from them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub tokens: Vec<(Position, usize)>,
    /// Who holds the arc that ends at each token.
    pub sets: Vec<ReplicaSet>,
    pub loads: Vec<Load>,
    zone_of: Vec<Option<usize>>,
    zones: usize,
    replication: usize,
}

impl Layout {
    pub fn new(members: &[Member], replication: usize) -> Layout {
        let mut tokens: Vec<(Position, usize)> = Vec::new();
        for (at, member) in members.iter().enumerate() {
            tokens.extend(member.tokens.iter().map(|token| (*token, at)));
        }
        tokens.sort_unstable();
        tokens.dedup_by_key(|token| token.0);
        let (zone_of, zones) = replica_set::number_zones(members.iter().map(|member| member.zone.as_deref()));
        let weights: Vec<f64> = members.iter().map(|member| f64::from(member.weight.max(1))).collect();
        let loads = due_shares(&weights, &zone_of, zones, replication);
        let mut layout = Layout { tokens, sets: Vec::new(), loads, zone_of, zones, replication };
        layout.sets = (0..layout.tokens.len()).map(|at| layout.set_at(at)).collect();
        for at in 0..layout.tokens.len() {
            let arc = layout.arc(at) as f64;
            layout.loads[layout.tokens[at].1].tokens += 1;
            layout.loads[layout.tokens[at].1].owned += arc;
            for member in &layout.sets[at].members {
                layout.loads[*member].held += arc;
            }
        }
        layout
    }

    /// The length of the arc that ends at a token.
    pub fn arc(&self, at: usize) -> u64 {
        match self.tokens.len() {
            1 => u64::MAX,
            _ => self.low(at).distance_to(self.tokens[at].0),
        }
    }

    /// Where the arc that ends at a token begins.
    pub fn low(&self, at: usize) -> Position {
        self.tokens[self.before(at)].0
    }

    /// The token before one.
    pub fn before(&self, at: usize) -> usize {
        (at + self.tokens.len() - 1) % self.tokens.len()
    }

    /// The token after one.
    pub fn after(&self, at: usize) -> usize {
        (at + 1) % self.tokens.len()
    }

    /// The token whose arc holds a position.
    pub fn place_of(&self, position: Position) -> usize {
        self.tokens.partition_point(|token| token.0 < position) % self.tokens.len()
    }

    pub fn is_taken(&self, position: Position) -> bool {
        self.tokens.binary_search_by_key(&position, |token| token.0).is_ok()
    }

    pub fn tokens_of(&self, member: usize) -> Vec<Position> {
        self.tokens.iter().filter(|token| token.1 == member).map(|token| token.0).collect()
    }

    fn set_at(&self, at: usize) -> ReplicaSet {
        let count = self.tokens.len();
        self.set_of((0..count).map(|step| self.tokens[(at + step) % count].1))
    }

    fn set_of(&self, tokens: impl Iterator<Item = usize>) -> ReplicaSet {
        replica_set::walk(tokens, |member| self.zone_of[member], self.replication, self.zones)
    }

    /// The tokens before `at` whose walk comes by it: those whose sets a change there can change.
    fn walks_by(&self, at: usize) -> impl Iterator<Item = usize> {
        let count = self.tokens.len();
        // A walk from further back looks at no fewer tokens, so the first that does not come by is the last to ask.
        (1..count)
            .map(move |back| (back, (at + count - back) % count))
            .take_while(|(back, j)| self.sets[*j].walked > *back)
            .map(|(_, j)| j)
    }

    /// What happens when `me` gets a token that cuts `piece` off the arc of the token at `at`.
    pub fn insertion(&self, at: usize, piece: f64, me: usize) -> Change {
        let count = self.tokens.len();
        let mut change = Change::default();
        change.owned.extend([(self.tokens[at].1, -piece), (me, piece)]);
        let ours = std::iter::once(me).chain((0..count).map(|step| self.tokens[(at + step) % count].1));
        change.moved(&self.sets[at].members, &self.set_of(ours).members, piece);
        for j in self.walks_by(at) {
            let before = (at + count - j) % count;
            let walk = (0..=count).map(|step| match step {
                step if step < before => self.tokens[(j + step) % count].1,
                step if step == before => me,
                step => self.tokens[(j + step - 1) % count].1,
            });
            change.moved(&self.sets[j].members, &self.set_of(walk).members, self.arc(j) as f64);
        }
        change
    }

    /// What happens when the token at `at` falls away.
    fn loss(&self, at: usize) -> Change {
        let count = self.tokens.len();
        let mut change = Change::default();
        let arc = self.arc(at) as f64;
        let next = self.after(at);
        change.owned.extend([(self.tokens[at].1, -arc), (self.tokens[next].1, arc)]);
        change.moved(&self.sets[at].members, &self.sets[next].members, arc);
        for j in self.walks_by(at) {
            let walk = (0..count).map(|step| (j + step) % count).filter(|place| *place != at).map(|p| self.tokens[p].1);
            change.moved(&self.sets[j].members, &self.set_of(walk).members, self.arc(j) as f64);
        }
        change
    }

    /// What happens when the token at `at` moves on by one position: what lies between it and the next changes hands
    /// and nothing else does, since the order of the tokens stays.
    pub fn shifting(&self, at: usize) -> Change {
        let mut change = Change::default();
        let next = self.after(at);
        change.owned.extend([(self.tokens[next].1, -1.0), (self.tokens[at].1, 1.0)]);
        change.moved(&self.sets[next].members, &self.sets[at].members, 1.0);
        change
    }

    /// How much worse a change makes things; less than 0 when it makes them better.
    pub fn cost_of(&self, change: &Change) -> f64 {
        let owned = change.owned.iter().map(|(member, by)| {
            let Load { owned, owned_due, .. } = self.loads[*member];
            badness((owned + by) / owned_due) - badness(owned / owned_due)
        });
        let held = change.held.iter().map(|(member, by)| {
            let Load { held, held_due, .. } = self.loads[*member];
            ((held + by) / held_due - 1.0).powi(2) - (held / held_due - 1.0).powi(2)
        });
        owned.sum::<f64>() + HELD_WEIGHS * held.sum::<f64>()
    }

    /// How far the token at `at` should move, by -`back` to `on`, for the least cost; and by how much that is less. The
    /// cost is convex in the distance, so the place where its slope changes sign is the best.
    pub fn best_shift(&self, at: usize, back: u64, on: u64) -> (i128, f64) {
        if self.tokens.len() < 2 || self.tokens[at].1 == self.tokens[self.after(at)].1 {
            return (0, 0.0);
        }
        let change = self.shifting(at);
        let slope = |by: f64| {
            let owned = change.owned.iter().map(|(member, sign)| {
                let Load { owned, owned_due, .. } = self.loads[*member];
                slope((owned + sign * by) / owned_due) * sign / owned_due
            });
            let held = change.held.iter().map(|(member, sign)| {
                let Load { held, held_due, .. } = self.loads[*member];
                2.0 * ((held + sign * by) / held_due - 1.0) * sign / held_due
            });
            owned.sum::<f64>() + HELD_WEIGHS * held.sum::<f64>()
        };
        let (mut low, mut high) = (-(back as f64), on as f64);
        let by = if slope(low) >= 0.0 {
            low
        } else if slope(high) <= 0.0 {
            high
        } else {
            for _ in 0..HALVINGS {
                let middle = (low + high) / 2.0;
                match slope(middle) > 0.0 {
                    true => high = middle,
                    false => low = middle,
                }
            }
            (low + high) / 2.0
        };
        let by = (by as i128).clamp(-i128::from(back), i128::from(on));
        (by, self.cost_of(&change.times(by as f64)))
    }

    /// Moves the token at `at`, which must not reach another one.
    pub fn shift(&mut self, at: usize, by: i128) {
        let change = self.shifting(at).times(by as f64);
        self.tokens[at].0 = Position((i128::from(self.tokens[at].0.0) + by) as u64);
        self.settle(&change, &[]);
        // Past the end of the circle it becomes the first, or the last.
        if !self.tokens.is_sorted() {
            let mut both: Vec<_> = self.tokens.drain(..).zip(self.sets.drain(..)).collect();
            both.sort_unstable_by_key(|(token, _)| *token);
            (self.tokens, self.sets) = both.into_iter().unzip();
        }
    }

    /// Cuts the arc of the token at `at` by a token of `me`; answers where it stands in the order.
    pub fn insert(&mut self, at: usize, position: Position, me: usize) -> usize {
        let change = self.insertion(at, self.low(at).distance_to(position) as f64, me);
        let stale: Vec<Position> = self.walks_by(at).map(|j| self.tokens[j].0).collect();
        let at = self.tokens.partition_point(|token| token.0 < position);
        self.tokens.insert(at, (position, me));
        self.sets.insert(at, ReplicaSet { members: Vec::new(), walked: 0 });
        self.sets[at] = self.set_at(at);
        self.loads[me].tokens += 1;
        self.settle(&change, &stale);
        at
    }

    /// Takes the token at `at` away: its arc falls to the next one's owner.
    pub fn remove(&mut self, at: usize) {
        let change = self.loss(at);
        let stale: Vec<Position> = self.walks_by(at).map(|j| self.tokens[j].0).collect();
        self.loads[self.tokens[at].1].tokens -= 1;
        self.tokens.remove(at);
        self.sets.remove(at);
        self.settle(&change, &stale);
    }

    fn settle(&mut self, change: &Change, stale: &[Position]) {
        for (member, by) in &change.owned {
            self.loads[*member].owned += by;
        }
        for (member, by) in &change.held {
            self.loads[*member].held += by;
        }
        for position in stale {
            let at = self.tokens.partition_point(|token| token.0 < *position);
            self.sets[at] = self.set_at(at);
        }
    }
}

impl Change {
    /// Copies of `length` positions move from one set to another.
    fn moved(&mut self, from: &[usize], to: &[usize], length: f64) {
        for member in from.iter().filter(|member| !to.contains(member)) {
            self.hold(*member, -length);
        }
        for member in to.iter().filter(|member| !from.contains(member)) {
            self.hold(*member, length);
        }
    }

    /// Together with another one.
    pub fn add(&mut self, other: Change) {
        for (member, by) in other.owned {
            match self.owned.iter_mut().find(|owned| owned.0 == member) {
                Some(owned) => owned.1 += by,
                None => self.owned.push((member, by)),
            }
        }
        for (member, by) in other.held {
            self.hold(member, by);
        }
    }

    fn hold(&mut self, member: usize, by: f64) {
        match self.held.iter_mut().find(|held| held.0 == member) {
            Some(held) => held.1 += by,
            None => self.held.push((member, by)),
        }
    }

    pub fn times(mut self, times: f64) -> Change {
        for (_, by) in self.owned.iter_mut().chain(&mut self.held) {
            *by *= times;
        }
        self
    }
}

/// How bad a load is, as a multiple of what is due.
pub(super) fn badness(ratio: f64) -> f64 {
    (ratio - 1.0).powi(2) + TOO_FULL_WEIGHS * (ratio - TOO_FULL).max(0.0).powi(2)
}

/// How much worse each bit more makes it.
fn slope(ratio: f64) -> f64 {
    2.0 * (ratio - 1.0) + 2.0 * TOO_FULL_WEIGHS * (ratio - TOO_FULL).max(0.0)
}

/// What is due to members of these weights. Where there are zones enough, each holds a copy at most, and so it is a
/// zone's copies that its members share; else each member holds one at most, and where a weight would ask for more the
/// others share what is left.
fn due_shares(weights: &[f64], zone_of: &[Option<usize>], zones: usize, replication: usize) -> Vec<Load> {
    let total: f64 = weights.iter().sum();
    let named = zone_of.iter().flatten().max().map_or(0, |zone| zone + 1);
    let mut next = named;
    let group_of: Vec<usize> = zone_of
        .iter()
        .map(|zone| match zone {
            Some(zone) if zones >= replication => *zone,
            _ => {
                next += 1;
                next - 1
            }
        })
        .collect();
    let mut groups = vec![0.0; next];
    for (at, group) in group_of.iter().enumerate() {
        groups[*group] += weights[at];
    }
    let copies = filled(&groups, replication);
    let due = weights.iter().zip(&group_of).map(|(weight, group)| Load {
        tokens: 0,
        owned: 0.0,
        held: 0.0,
        owned_due: CIRCLE * weight / total,
        held_due: CIRCLE * copies[*group] * weight / groups[*group],
    });
    due.collect()
}

/// How `copies` are shared out by weight, when none takes more than one.
fn filled(weights: &[f64], copies: usize) -> Vec<f64> {
    let takers = weights.iter().filter(|weight| **weight > 0.0).count();
    let mut full = vec![false; weights.len()];
    loop {
        let left: f64 = weights.iter().zip(&full).filter(|(_, full)| !**full).map(|(weight, _)| weight).sum();
        let full_now = full.iter().filter(|full| **full).count();
        let each = if left > 0.0 { (copies.min(takers) - full_now) as f64 / left } else { 0.0 };
        let more: Vec<usize> = (0..weights.len()).filter(|at| !full[*at] && weights[*at] * each >= 1.0).collect();
        if more.is_empty() {
            return weights.iter().zip(&full).map(|(weight, full)| if *full { 1.0 } else { weight * each }).collect();
        }
        for at in more {
            full[at] = true;
        }
    }
}
