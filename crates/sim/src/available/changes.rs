//! Changes of membership in the fleet of available keys: what people, discovery and the nodes' shells do about them.

use std::collections::BTreeSet;
use std::time::Duration;

use available::{Input, Replica};
use membership::{ChangeError, Epoch, Member, NodeId, View};

use super::disks::End;
use super::node::Node;
use super::world::{Happening, World};
use crate::clock::Clock;
use crate::invariants::Violation;
use crate::joining::{is_replacement, newcomer};

/// Nodes that a run sets up in all; past it nobody joins any more.
pub(super) const NODES_MAX: usize = 9;
/// How often a node looks whether it has copied what it was to copy, or has nothing left.
const HOUSE_EVERY: Duration = Duration::from_millis(25);
/// One change in so many is abandoned.
const ABANDONED_ONE_IN: u64 = 5;
/// How long news of a view takes at most.
const NEWS_MAX: Duration = Duration::from_millis(120);

impl World {
    /// Somebody adds a node, removes one, or thinks better of it.
    pub(super) fn change(&mut self) {
        self.plan_fault(self.swarm.changes_every, |_| Happening::Change);
        if self.calm {
            return;
        }
        let abandoned = self.view.pending.first().map(|pending| (pending.id, pending.change.clone()));
        match abandoned {
            Some((id, change)) if !is_replacement(&change) && self.prng.one_in(ABANDONED_ONE_IN) => {
                self.publish(self.view.abandon(id));
            }
            _ if self.prng.one_in(2) && self.nodes.len() < NODES_MAX => {
                let newcomer = self.newcomer();
                self.log.push(self.now, format_args!("node {} is to join", newcomer.id.0));
                let next = self.view.begin_join(newcomer.clone());
                self.set_up(newcomer.id, next);
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
    pub(super) fn replace_one(&mut self) {
        if self.nodes.len() >= NODES_MAX || self.view.pending.iter().any(|pending| is_replacement(&pending.change)) {
            return;
        }
        let at = self.prng.index(self.view.members.len());
        let gone = self.view.members[at].id;
        if self.view.is_joining(gone) {
            return;
        }
        self.set_up_in_place_of(gone);
    }

    /// Sets another node up in the place of one whose disk is lost; false if that has to be tried again.
    pub(super) fn set_up_in_place_of(&mut self, gone: NodeId) -> bool {
        for _ in 0..4 {
            let newcomer = Member { name: format!("n{}", gone.0), ..self.newcomer() };
            match self.view.begin_replace(gone, newcomer.clone()) {
                Err(ChangeError::Overlaps { with, .. }) => self.publish(self.view.abandon(with)),
                next => {
                    self.log.push(self.now, format_args!("node {} replaces {}", newcomer.id.0, gone.0));
                    let begun = next.is_ok();
                    if begun {
                        self.counts.faults += 1;
                        self.disks_lost += 1;
                        self.retire(gone.0 as usize - 1);
                    }
                    self.set_up(newcomer.id, next);
                    return begun;
                }
            }
        }
        false
    }

    fn newcomer(&mut self) -> Member {
        let id = NodeId(self.nodes.len() as u64 + 1);
        newcomer(&self.view, id, self.swarm.tokens, &mut self.prng)
    }

    /// Publishes the view in which a new node enters, and starts it.
    fn set_up(&mut self, id: NodeId, next: Result<View, ChangeError>) {
        let Ok(view) = next else { return self.publish(next) };
        self.nodes.push(Node::new(id, &view, self.planted, Clock::RIGHT, self.disk_prng.fork()));
        self.backlog.push(std::collections::VecDeque::new());
        self.publish(Ok(view));
        let node = self.nodes.len() - 1;
        let after = Duration::from_millis(self.prng.below(60));
        self.at(after, Happening::Start { node });
    }

    /// Discovery takes a new view; news of it travels to everybody, at different speeds.
    pub(super) fn publish(&mut self, next: Result<View, ChangeError>) {
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
            let after = NEWS_MAX.mul_f64(self.prng.unit());
            self.at(after, Happening::ViewNews { node });
        }
    }

    pub(super) fn view_news(&mut self, node: usize) {
        if !self.held_back(node, || Happening::ViewNews { node }) {
            self.feed(node, Input::View(self.view.clone()));
        }
    }

    /// The view that a node finds when it starts: discovery's, or the last one that it kept itself.
    pub(super) fn view_at_start(&mut self, node: usize) -> View {
        if self.swarm.changes_every.is_none() {
            return self.view.clone();
        }
        let kept = !self.calm && self.prng.one_in(3);
        if kept {
            self.at(NEWS_MAX, Happening::ViewNews { node });
            return self.nodes[node].kept.clone();
        }
        self.view.clone()
    }

    /// Whether the node acts on another view than before: then its shell keeps that, and looks after what follows.
    pub(super) fn note_view_of(&mut self, node: usize) {
        let Some(replica) = self.nodes[node].running.as_ref() else { return };
        if replica.view().epoch <= self.nodes[node].kept.epoch {
            return;
        }
        let view = replica.view().clone();
        self.log.push(self.now, format_args!("node {} acts on view {}", node + 1, view.epoch));
        self.nodes[node].kept = view;
        self.at(HOUSE_EVERY, Happening::KeepHouse { node });
    }

    /// As the shell does it from time to time: tells discovery which changes this node has done its part for, and ends
    /// the node if it has left and has nothing more to hand on.
    pub(super) fn keep_house(&mut self, node: usize) {
        if self.nodes[node].gone || self.held_back(node, || Happening::KeepHouse { node }) {
            return;
        }
        let id = NodeId(node as u64 + 1);
        let Some(replica) = self.nodes[node].running.as_ref() else {
            return self.at(HOUSE_EVERY, Happening::KeepHouse { node });
        };
        let left = replica.view().member(id).is_none() && replica.view().epoch > Epoch(1);
        let (changes, busy) = (replica.copied_changes(), replica.copy_status().arcs > 0 || left);
        if left && replica.is_released() && !replica.awaits_newer_view() {
            return self.retire(node);
        }
        for change in changes {
            let after = NEWS_MAX.mul_f64(self.prng.unit());
            self.at(after, Happening::NoteCopied { node: id, change });
        }
        if busy {
            self.at(HOUSE_EVERY, Happening::KeepHouse { node });
        }
    }

    pub(super) fn note_copied(&mut self, node: NodeId, change: Epoch) {
        self.publish(self.view.note_copied(change, node));
    }

    /// A node ends for good, its disk with it.
    pub(super) fn retire(&mut self, node: usize) {
        if self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("node {} is gone", node + 1));
        if self.nodes[node].running.is_some() {
            self.stop(node, End::PowerLost);
        }
        self.nodes[node].lose_disk();
        self.nodes[node].gone = true;
    }

    /// Whether every change is complete, everybody who belongs acts on it, and everybody else has ended.
    pub(super) fn changes_are_over(&self) -> bool {
        let belongs = |node: &&Node| self.view.member(node.id).is_some();
        let acts = |replica: &Replica| replica.view().epoch == self.view.epoch;
        self.view.pending.is_empty()
            && self.nodes.iter().filter(belongs).all(|node| node.running.as_ref().is_some_and(acts))
            && self.nodes.iter().filter(|node| !belongs(node)).all(|node| node.gone)
    }
}
