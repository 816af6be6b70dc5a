//! Changes of membership in the fleet of both contracts. A change is over when both cores of each node that it concerns
//! have copied what it makes them homes of; who has left ends when neither has anything to hand on.

use std::collections::BTreeSet;
use std::time::Duration;

use membership::{ChangeError, Epoch, Member, NodeId, View};

use super::node::{Cores, Node};
use super::world::{Happening, World, id_of};
use crate::invariants::Violation;
use crate::joining::{is_replacement, newcomer};

/// Nodes that a run sets up in all; past it nobody joins any more.
const NODES_MAX: usize = 11;
/// How often a node looks whether it has copied what it was to copy, or has nothing left.
const HOUSE_EVERY: Duration = Duration::from_millis(25);
/// One change in so many is abandoned.
const ABANDONED_ONE_IN: u64 = 5;
/// How long news of a view takes at most.
const NEWS_MAX: Duration = Duration::from_millis(120);

impl World {
    /// Somebody adds a node, removes one, or thinks better of it.
    pub(super) fn change(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.changes_every, Happening::Change);
        // Who is replaced never comes back, so that change cannot be given up.
        let first = self.view.pending.first().filter(|pending| !is_replacement(&pending.change));
        match first.map(|pending| pending.id) {
            Some(id) if self.prng.one_in(ABANDONED_ONE_IN) => self.publish(self.view.abandon(id)),
            _ if self.prng.one_in(2) && self.nodes.len() < NODES_MAX => {
                let newcomer = self.newcomer();
                self.log.push(self.now, format_args!("node {} is to join", newcomer.id.0));
                let next = self.view.begin_join(newcomer);
                self.set_up(next);
            }
            _ => {
                let at = self.prng.index(self.view.members.len());
                let nodes = BTreeSet::from([self.view.members[at].id]);
                self.log.push(self.now, format_args!("{nodes:?} is to leave"));
                self.publish(self.view.begin_leave(nodes, false));
            }
        }
    }

    /// A node's disk is lost for good: another one takes its place. What stands in the way is given up. Only one at a
    /// time, since what a majority forgets is lost.
    pub(super) fn lose_disk(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.lose_disk_every, Happening::LoseDisk);
        if self.nodes.len() >= NODES_MAX || self.view.pending.iter().any(|pending| is_replacement(&pending.change)) {
            return;
        }
        let at = self.prng.index(self.view.members.len());
        let lost = self.view.members[at].id;
        if self.view.is_joining(lost) {
            return;
        }
        let newcomer = Member { name: format!("n{}", lost.0), ..self.newcomer() };
        let mut next = self.view.begin_replace(lost, newcomer.clone());
        while let Err(ChangeError::Overlaps { with, .. }) = next {
            self.publish(self.view.abandon(with));
            next = self.view.begin_replace(lost, newcomer.clone());
        }
        if next.is_ok() {
            self.counts.faults += 1;
            self.counts.disks_lost += 1;
            self.log.push(self.now, format_args!("node {} replaces {}", newcomer.id.0, lost.0));
            self.retire(lost.0 as usize - 1);
        }
        self.set_up(next);
    }

    fn newcomer(&mut self) -> Member {
        newcomer(&self.view, id_of(self.nodes.len()), self.swarm.tokens, &mut self.prng)
    }

    /// Publishes the view in which the next node enters, and starts that.
    fn set_up(&mut self, next: Result<View, ChangeError>) {
        let Ok(view) = next else { return self.publish(next) };
        let node = self.nodes.len();
        self.nodes.push(Node::new(id_of(node), &view, self.planted));
        self.publish(Ok(view));
        let after = Duration::from_millis(self.prng.below(60));
        self.at(after, Happening::Start { node });
    }

    /// Discovery takes a new view; news of it travels to everybody, at different speeds.
    fn publish(&mut self, next: Result<View, ChangeError>) {
        let view = match next {
            Ok(view) if view == self.view => return,
            Ok(view) => view,
            Err(refusal) => return self.log.push(self.now, format_args!("refused: {refusal}")),
        };
        if let Err(error) = view.validate() {
            let found = error.to_string();
            self.violation.get_or_insert(Violation { invariant: "views_are_sound", found });
        }
        self.counts.changes += u64::from(view.pending.len() < self.view.pending.len());
        self.log.push(self.now, format_args!("view {} {:?}", view.epoch, view.pending));
        self.ring_before = std::mem::replace(&mut self.ring, view.ring());
        self.view = view;
        for node in 0..self.nodes.len() {
            self.plan_news(node);
        }
    }

    fn plan_news(&mut self, node: usize) {
        let after = NEWS_MAX.mul_f64(self.prng.unit());
        self.at(after, Happening::ViewNews { node });
    }

    /// A node hears of the newest view, and tells both of its cores.
    pub(super) fn view_news(&mut self, node: usize) {
        let view = self.view.clone();
        self.feed(node, replication::Input::View(view.clone()), available::Input::View(view));
    }

    /// The view that a node finds when it starts: discovery's, or the last one that it kept itself.
    pub(super) fn view_at_start(&mut self, node: usize) -> View {
        if self.swarm.changes_every.is_some() && !self.calm && self.prng.one_in(3) {
            self.plan_news(node);
            return self.nodes[node].kept.clone();
        }
        self.view.clone()
    }

    /// Whether both cores act on another view than before: then the shell keeps that, and looks after what follows.
    pub(super) fn note_view_of(&mut self, node: usize) {
        let Some(cores) = self.nodes[node].running.as_ref() else { return };
        let view = cores.view();
        if view.epoch <= self.nodes[node].kept.epoch {
            return;
        }
        self.nodes[node].kept = view.clone();
        self.log.push(self.now, format_args!("node {} acts on view {}", node + 1, self.nodes[node].kept.epoch));
        self.at(HOUSE_EVERY, Happening::KeepHouse { node });
    }

    /// As the shell does it from time to time: tells discovery which changes this node has done its part for, and ends
    /// the node if it has left and has nothing more to hand on.
    pub(super) fn keep_house(&mut self, node: usize) {
        if self.nodes[node].gone {
            return;
        }
        let Some(cores) = self.nodes[node].running.as_ref() else {
            return self.at(HOUSE_EVERY, Happening::KeepHouse { node });
        };
        let left = cores.view().member(id_of(node)).is_none() && cores.view().epoch > Epoch(1);
        if left && cores.available.is_released() && !cores.await_newer_view() {
            return self.retire(node);
        }
        let busy = left || cores.is_copying();
        for change in cores.copied_changes() {
            let after = NEWS_MAX.mul_f64(self.prng.unit());
            self.at(after, Happening::NoteCopied { node: id_of(node), change });
        }
        if busy {
            self.at(HOUSE_EVERY, Happening::KeepHouse { node });
        }
    }

    pub(super) fn note_copied(&mut self, node: NodeId, change: Epoch) {
        self.publish(self.view.note_copied(change, node));
    }

    /// A node ends for good, its disk with it.
    fn retire(&mut self, node: usize) {
        self.log.push(self.now, format_args!("node {} is gone", node + 1));
        self.nodes[node].crash(&mut self.prng);
        self.nodes[node].gone = true;
        self.tell_of_loss(node);
    }

    /// Whether every change is complete, everybody who belongs acts on it, and everybody else has ended.
    pub(super) fn changes_are_over(&self) -> bool {
        let acts = |cores: &Cores| cores.view().epoch == self.view.epoch;
        self.view.pending.is_empty()
            && self.nodes.iter().enumerate().all(|(at, node)| match self.view.member(id_of(at)) {
                Some(_) => node.running.as_ref().is_some_and(acts),
                None => node.gone,
            })
    }
}

impl Cores {
    /// The older one of the views that the two act on.
    fn view(&self) -> &View {
        let (ordered, available) = (self.ordered.view(), self.available.view());
        if ordered.epoch < available.epoch { ordered } else { available }
    }

    fn await_newer_view(&self) -> bool {
        self.ordered.awaits_newer_view() || self.available.awaits_newer_view()
    }

    fn is_copying(&self) -> bool {
        self.ordered.transfer_status().arcs > 0 || self.available.copy_status().arcs > 0
    }

    /// The changes for which both have copied all that they were to copy.
    fn copied_changes(&self) -> Vec<Epoch> {
        let available = self.available.copied_changes();
        let mut changes = self.ordered.copied_changes();
        changes.retain(|change| available.contains(change));
        changes
    }
}
