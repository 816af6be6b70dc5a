use std::sync::Arc as Shared;

use crate::replica_set::{number_zones, walk};
use crate::view::View;
use crate::{Epoch, NodeId, Position};

/// Whose votes decide on the keys of an arc.
///
/// While a change of the arc is pending there are two sets, and a decision needs a majority of each (Lamport, Malkhi
/// and Zhou, "Reconfiguring a state machine", 2010, call the overlap of configurations that; Raft's joint consensus is
/// the same rule).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaSets {
    /// The set in charge, owner first.
    pub current: Shared<[NodeId]>,
    /// The set that will be in charge once its new members hold the data; none while nothing changes.
    pub next: Option<Shared<[NodeId]>>,
}

/// An arc of the ring, (`low`, `high`], with its replica sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arc {
    /// The token before, excluded.
    pub low: Position,
    /// The token at its end, included.
    pub high: Position,
    /// The first R distinct nodes clockwise from `high` that are in charge; the first is the owner, and coordinates by
    /// habit.
    pub replicas: Shared<[NodeId]>,
    /// While a change is pending: the replica set that it leads to.
    pub next: Option<Shared<[NodeId]>>,
    /// The view's epoch in which the arc got these sets and ends. Nodes with one arc epoch agree on both, whatever else
    /// in their views differs.
    pub epoch: Epoch,
}

/// A view's tokens in ring order with each arc's replica sets worked out: what a lookup by table needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    arcs: Vec<Arc>,
}

impl ReplicaSets {
    /// The sets of nobody.
    pub fn none() -> ReplicaSets {
        ReplicaSets { current: Shared::from([]), next: None }
    }

    /// Whether `node` belongs to one of the sets.
    pub fn contains(&self, node: NodeId) -> bool {
        self.current.contains(&node) || self.next.iter().any(|next| next.contains(&node))
    }

    /// Everybody in the sets, once each: those in charge first, by habit the owner before all.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        let newcomers = self.next.iter().flat_map(|next| next.iter().copied());
        self.current.iter().copied().chain(newcomers.filter(|node| !self.current.contains(node)))
    }

    /// Whether the nodes for which `says_yes` holds decide: a majority of the set in charge, and of the next one.
    pub fn is_quorum(&self, says_yes: impl Fn(NodeId) -> bool) -> bool {
        is_majority(&self.current, &says_yes) && self.next.iter().all(|next| is_majority(next, &says_yes))
    }

    /// The members of the next set that are not in charge yet: who must copy.
    pub fn newcomers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.iter().filter(|node| !self.current.contains(node))
    }
}

/// Whether more than half of `set` says yes. A set that was lost as a whole has nobody left to ask.
pub fn is_majority(set: &[NodeId], says_yes: impl Fn(NodeId) -> bool) -> bool {
    set.is_empty() || set.iter().filter(|node| says_yes(**node)).count() * 2 > set.len()
}

impl Arc {
    /// Whose votes decide on its keys.
    pub fn sets(&self) -> ReplicaSets {
        ReplicaSets { current: Shared::clone(&self.replicas), next: self.next.clone() }
    }

    /// Whether `position` lies in it.
    pub fn contains(&self, position: Position) -> bool {
        position.in_arc(self.low, self.high)
    }

    /// Whether `node` is a replica of it, now or next.
    pub fn is_held_by(&self, node: NodeId) -> bool {
        self.replicas.contains(&node) || self.next.iter().any(|next| next.contains(&node))
    }

    /// Whether `node` is to be a replica of it and is none yet.
    pub fn awaits(&self, node: NodeId) -> bool {
        !self.replicas.contains(&node) && self.next.iter().any(|next| next.contains(&node))
    }

    /// How much of the circle it covers, 0 to 1.
    pub fn share(&self) -> f64 {
        // A lone token's arc is the whole circle, which the difference of its ends does not show.
        if self.low == self.high { 1.0 } else { self.low.distance_to(self.high) as f64 / 2f64.powi(64) }
    }
}

impl View {
    /// The arcs and their replica sets. Empty while nobody holds a token.
    pub fn ring(&self) -> Ring {
        let settled = Placement::of(self, |_| false);
        let changed = (!self.pending.is_empty()).then(|| Placement::of(self, |_| true));
        let lost = self.lost();
        let mut ends: Vec<Position> = settled.ends().chain(changed.iter().flat_map(Placement::ends)).collect();
        ends.sort_unstable();
        ends.dedup();
        let count = ends.len();
        let arcs = (0..count).map(|at| {
            let (low, high) = (ends[(at + count - 1) % count], ends[at]);
            let before = settled.replicas_at(high);
            let after = changed.as_ref().map(|changed| changed.replicas_at(high)).filter(|after| *after != before);
            // Only where the change takes them out is it sure that nobody waits for the lost.
            let in_charge = |node: &NodeId| after.is_none() || !lost.contains(node);
            let replicas: Vec<NodeId> = before.iter().copied().filter(in_charge).collect();
            let epoch = self.arc_epochs.get(&high).copied().unwrap_or(Epoch(1));
            Arc { low, high, replicas: replicas.into(), next: after.map(Shared::from), epoch }
        });
        Ring { arcs: arcs.collect() }
    }
}

/// Tokens in ring order with their members: the ring as it is, or as some changes would make it.
pub(crate) struct Placement<'a> {
    view: &'a View,
    /// Each token and its member's place in the view's list.
    tokens: Vec<(Position, usize)>,
    zone_of: Vec<Option<usize>>,
    zones: usize,
}

impl<'a> Placement<'a> {
    /// The ring of `view` with those of its pending changes made that `made` picks.
    pub fn of(view: &'a View, made: impl Fn(Epoch) -> bool) -> Placement<'a> {
        let mut tokens = Vec::new();
        for (at, member) in view.members.iter().enumerate().filter(|(_, member)| view.counts(member.id, &made)) {
            tokens.extend(view.tokens_with(member, &made).iter().map(|token| (*token, at)));
        }
        tokens.sort_unstable_by_key(|(token, _)| *token);
        // Zones of members that do not count make the walk longer at most.
        let (zone_of, zones) = number_zones(view.members.iter().map(|member| member.zone.as_deref()));
        Placement { view, tokens, zone_of, zones }
    }

    /// The ends of the arcs.
    pub fn ends(&self) -> impl Iterator<Item = Position> + '_ {
        self.tokens.iter().map(|(token, _)| *token)
    }

    /// The first R distinct nodes clockwise from `position`, in distinct zones as long as there are any.
    pub fn replicas_at(&self, position: Position) -> Vec<NodeId> {
        let count = self.tokens.len();
        let start = self.tokens.partition_point(|(token, _)| *token < position);
        let clockwise = (0..count).map(|step| self.tokens[(start + step) % count].1);
        let found = walk(clockwise, |member| self.zone_of[member], self.view.replication, self.zones);
        found.members.into_iter().map(|member| self.view.members[member].id).collect()
    }
}

impl Ring {
    /// All arcs, in ring order.
    pub fn arcs(&self) -> &[Arc] {
        &self.arcs
    }

    /// The arc that `position` lies in; none while the ring has no token.
    pub fn arc_of(&self, position: Position) -> Option<&Arc> {
        let at = self.arcs.partition_point(|arc| arc.high < position);
        self.arcs.get(at).or_else(|| self.arcs.first())
    }

    /// The arcs whose ends lie in (`low`, `high`].
    pub fn arcs_ending_in(&self, low: Position, high: Position) -> impl Iterator<Item = &Arc> {
        let count = self.arcs.len();
        let start = self.arcs.partition_point(|arc| arc.high <= low);
        (0..count).map(move |step| &self.arcs[(start + step) % count]).take_while(move |arc| arc.high.in_arc(low, high))
    }

    /// The replica set in charge of the arc that `position` lies in, owner first; empty while the ring has no token.
    pub fn replicas_of(&self, position: Position) -> Shared<[NodeId]> {
        self.arc_of(position).map_or_else(|| Shared::from([]), |arc| Shared::clone(&arc.replicas))
    }

    /// Whose votes decide on the keys at `position`.
    pub fn sets_of(&self, position: Position) -> ReplicaSets {
        self.arc_of(position).map_or_else(ReplicaSets::none, Arc::sets)
    }

    /// The share of the circle, 0 to 1, that `node` owns (is first replica of).
    pub fn share_of(&self, node: NodeId) -> f64 {
        self.arcs.iter().filter(|arc| arc.replicas.first() == Some(&node)).map(Arc::share).sum()
    }
}
