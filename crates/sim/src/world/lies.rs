//! Disks that say that they have synced, and have not: what they owe goes with the power.
//!
//! Discovery knows how far each log was synced, as far as the node could tell. A start that finds less has forgotten
//! something, and its node joins as a new member (decision 0073). Of each arc at most one replica forgets at a time,
//! and the next does so only when the first has been replaced: more is no fault that a fleet claims to survive.

use std::time::Duration;

use membership::NodeId;

use super::{Happening, World};
use crate::node::SimNode;

impl<C: chord::Rules> World<C> {
    /// One node's disk begins to lie, and perhaps those of others that have no arc in common with it. Some time later
    /// they lose power, all at once.
    pub(super) fn begin_lies(&mut self) {
        self.plan_fault(self.swarm.lies_every, |_| Happening::Lie);
        let is_forgetting = self.nodes.iter().any(|node| node.lost_syncs && !node.gone);
        let is_settled = self.lost_member().is_none() && self.view.pending.is_empty() && !is_forgetting;
        if self.calm || !self.lying.is_empty() || !is_settled {
            return;
        }
        let first = self.any_node();
        for step in 0..self.nodes.len() {
            let node = (first + step) % self.nodes.len();
            let together = self.lying.iter().any(|other| self.have_an_arc_in_common(node, *other));
            if self.nodes[node].running.is_some() && !self.is_outdated(node) && !together {
                self.lying.push(node);
            }
            if self.lying.is_empty() && step == 0 {
                return;
            }
        }
        self.counts.faults += 1;
        for node in self.lying.clone() {
            self.log.push(self.now, format_args!("the disk of node {} lies", node + 1));
            self.nodes[node].disk.set_honest(false);
            self.nodes[node].lied_since = Some(self.nodes[node].noted);
        }
        let after = Duration::from_millis(5 + self.prng.below(300));
        self.at(after, Happening::LoseLies);
    }

    fn have_an_arc_in_common(&self, one: usize, other: usize) -> bool {
        let [one, other] = [self.nodes[one].id, self.nodes[other].id];
        let holds = |replicas: &[NodeId], node: NodeId| replicas.contains(&node);
        self.view.ring().arcs().iter().any(|arc| holds(&arc.replicas, one) && holds(&arc.replicas, other))
    }

    /// The power fails where disks lie.
    pub(super) fn lose_lies(&mut self) {
        let lying = std::mem::take(&mut self.lying);
        for node in lying.iter().copied().filter(|node| self.nodes[*node].lied_since.is_some()).collect::<Vec<_>>() {
            let was_running = self.nodes[node].running.is_some();
            self.log.push(self.now, format_args!("crash node {}, whose disk lied", node + 1));
            self.nodes[node].pull_plug(&mut self.prng);
            if was_running {
                self.after_crash(node);
            }
        }
        let lost = lying.iter().filter(|node| self.nodes[**node].lost_syncs).count() as u64;
        self.counts.syncs_lost += lost;
        self.counts.syncs_lost_together += if lost > 1 { lost } else { 0 };
    }

    /// Another view comes. Of several whose disks lie some may have an arc in common in it, so that one of them goes on
    /// at most, and none if one has lost something already.
    pub(super) fn bound_lies(&mut self) {
        let lost = self.lying.iter().any(|node| self.nodes[*node].lost_syncs);
        let lying: Vec<usize> =
            self.lying.iter().copied().filter(|node| self.nodes[*node].lied_since.is_some()).collect();
        for node in lying.into_iter().skip(usize::from(!lost)) {
            self.nodes[node].end_lies();
        }
    }

    /// Faults are over: disks do what they owe.
    pub(super) fn end_lies(&mut self) {
        self.lying.clear();
        self.nodes.iter_mut().for_each(SimNode::end_lies);
    }
}
