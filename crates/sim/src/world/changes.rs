//! Changes of membership: what people, discovery and the nodes' shells do about them.

use std::collections::BTreeSet;
use std::time::Duration;

use membership::{ChangeError, Epoch, Member, NodeId, Position, View};
use replication::{AllBut, Event, Input, RegisterKey, Replica};

use super::{Happening, World};
use crate::invariants::{Registers, Violation, invariant_no_arc_without_its_majority};
use crate::joining::newcomer;
use crate::node::SimNode;

/// Nodes that a run sets up in all; past it nobody joins any more.
const NODES_MAX: usize = 10;
/// How often a node looks whether it has copied what it was to copy.
const HOUSE_EVERY: Duration = Duration::from_millis(25);
/// Where nodes are forgetful, one in so many that act on a view loses power,
const FORGETS_ONE_IN: u64 = 4;
/// within this time, in microseconds: some have acted on it for a while, and their disk says so.
const FORGETS_WITHIN_US: u64 = 20_000;
/// When faults have stopped, changes under way must be complete within this time.
const CHANGES_MAX: Duration = Duration::from_secs(20);

impl<C: chord::Rules> World<C> {
    /// Somebody adds a node, removes one or two, or thinks better of it.
    pub(super) fn change(&mut self) {
        self.plan_fault(self.swarm.changes_every, |_| Happening::Change);
        if self.calm {
            return;
        }
        let abandoned = self.view.pending.first().map(|pending| pending.id);
        let abandoned = abandoned.filter(|_| self.prng.below(self.swarm.abandon_one_in) == 0);
        match (abandoned, self.prng.below(5)) {
            (Some(id), _) => self.publish(self.view.abandon(id)),
            (None, 0..=2) if self.nodes.len() < NODES_MAX => self.join(),
            _ => self.leave(),
        }
    }

    fn join(&mut self) {
        let newcomer = self.newcomer();
        self.log.push(self.now, format_args!("node {} is to join", newcomer.id.0));
        let next = self.view.begin_join(newcomer.clone());
        self.set_up(newcomer.id, next);
    }

    fn leave(&mut self) {
        let mut nodes = BTreeSet::new();
        for _ in 0..if self.prng.one_in(4) { 2 } else { 1 } {
            let at = self.prng.index(self.view.members.len());
            nodes.insert(self.view.members[at].id);
        }
        self.log.push(self.now, format_args!("{nodes:?} are to leave"));
        self.publish(self.view.begin_leave(nodes, false));
    }

    /// A node that lost its disk comes back as another one, in its place. What stands in the way is given up.
    pub(super) fn replace(&mut self, gone: NodeId) {
        for _ in 0..4 {
            if self.view.member(gone).is_none() {
                return;
            }
            let newcomer = Member { name: format!("n{}", gone.0), ..self.newcomer() };
            let next = self.view.begin_replace(gone, newcomer.clone());
            match next {
                Err(ChangeError::Overlaps { with, .. }) => self.publish(self.view.abandon(with)),
                next => {
                    self.log.push(self.now, format_args!("node {} replaces {}", newcomer.id.0, gone.0));
                    return self.set_up(newcomer.id, next);
                }
            }
        }
    }

    fn newcomer(&mut self) -> Member {
        let id = self.nodes.iter().map(|node| node.id.0).max().unwrap_or(0) + 1;
        newcomer(&self.view, NodeId(id), self.swarm.tokens, &mut self.prng)
    }

    /// Publishes the view in which a new node enters, and starts it.
    fn set_up(&mut self, id: NodeId, next: Result<View, ChangeError>) {
        let Ok(view) = next else { return self.publish(next) };
        self.nodes.push(SimNode::new(id, &view, self.planted, &mut self.prng));
        self.backlog.push(std::collections::VecDeque::new());
        self.publish(Ok(view));
        let node = self.nodes.len() - 1;
        let after = Duration::from_millis(self.prng.below(60));
        self.at(after, Happening::Start { node });
    }

    /// Discovery takes a new view, by compare-and-set; news of it travels to everybody, at different speeds.
    fn publish(&mut self, next: Result<View, ChangeError>) {
        let view = match next {
            Ok(view) if view == self.view => return,
            Ok(view) => view,
            Err(refusal) => return self.log.push(self.now, format_args!("refused: {refusal}")),
        };
        self.bound_lies();
        let sound =
            view.validate().map_err(|error| Violation { invariant: "views_are_sound", found: error.to_string() });
        self.note(sound);
        let count = |view: &View| view.pending.len() as u64;
        self.counts.changes_begun += u64::from(view.pending.last().is_some_and(|pending| pending.id == view.epoch));
        let left: u64 = view.pending.iter().filter(|pending| pending.id < view.epoch).count() as u64;
        self.counts.changes_done += count(&self.view) - left.min(count(&self.view));
        self.log.push(self.now, format_args!("view {} {:?}", view.epoch, view.pending));
        self.view = view;
        self.note_view();
        for node in 0..self.nodes.len() {
            let after = self.news_delay();
            self.at(after, Happening::ViewNews { node });
        }
        for client in 0..self.clients.len() {
            let after = self.news_delay();
            self.at(after, Happening::GatewayNews { client });
        }
    }

    fn news_delay(&mut self) -> Duration {
        self.swarm.news_max.mul_f64(self.prng.unit())
    }

    /// The observer is told the new view.
    pub(super) fn note_view(&mut self) {
        let ring = self.view.ring();
        for (key, _) in &self.keys {
            let arc = ring.arc_of(key.position).expect("a formed ring has tokens");
            if let Err(violation) = self.registers.view(key, arc) {
                self.violation.get_or_insert(violation);
            }
        }
        let nodes = &self.nodes;
        let has_disk = |id| nodes.iter().any(|node| node.id == id && !node.gone);
        let checked = invariant_no_arc_without_its_majority(&self.view, has_disk);
        self.note(checked);
    }

    pub(super) fn view_news(&mut self, node: usize) {
        if !self.set_aside(node, || Happening::ViewNews { node }) {
            self.handle(node, Input::View(self.view.clone()));
        }
    }

    /// The view that a node finds when it starts: discovery's, or when that cannot be reached the last one that it
    /// kept. None: it belongs to the ring no more.
    pub(super) fn view_at_start(&mut self, node: usize) -> Option<View> {
        let forgot = std::mem::take(&mut self.nodes[node].forgot) && !self.calm;
        let kept = forgot || (!self.calm && self.prng.one_in(3));
        let view = if kept { self.nodes[node].kept_views[0].clone() } else { self.view.clone() };
        let belongs = view.member(self.nodes[node].id).is_some();
        if !belongs {
            self.retire(node);
            return None;
        }
        if kept {
            let after = self.news_delay();
            self.at(after, Happening::ViewNews { node });
        }
        Some(view)
    }

    /// A node acts on another view.
    pub(super) fn took_view(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_ref() else { return };
        let (view, id) = (running.replica.view().clone(), self.nodes[node].id);
        self.log.push(self.now, format_args!("node {} acts on view {}", node + 1, view.epoch));
        for (key, _) in &self.keys {
            let checked = running.replica.arc_of(key.position).map_or(Ok(()), |arc| self.registers.acts_on(key, arc));
            if let Err(violation) = checked {
                self.violation.get_or_insert(violation);
            }
        }
        let belongs = view.member(id).is_some();
        let [last, before] = &mut self.nodes[node].kept_views;
        *before = std::mem::replace(last, view.clone());
        if self.swarm.forgetful && !self.calm && self.prng.one_in(FORGETS_ONE_IN) {
            let after = Duration::from_micros(self.prng.below(FORGETS_WITHIN_US));
            self.at(after, Happening::Forget { node });
        }
        if !belongs {
            let after = Duration::from_millis(self.prng.below(100));
            return self.at(after, Happening::Retire { node });
        }
        self.follow_tokens(node, &view);
        let incarnation = self.nodes[node].incarnation;
        self.at(HOUSE_EVERY, Happening::KeepHouse { node, incarnation });
    }

    /// A node loses power, and will start in the view before the one that it has acted on.
    pub(super) fn forget(&mut self, node: usize) {
        if !self.calm && self.nodes[node].running.is_some() {
            self.crash(node, false);
            let [last, before] = &mut self.nodes[node].kept_views;
            last.clone_from(before);
            self.nodes[node].forgot = true;
        }
    }

    /// A node takes its places in the ring where its view has them now.
    fn follow_tokens(&mut self, node: usize, view: &View) {
        let tokens = view.member(self.nodes[node].id).map(|member| member.tokens.clone()).unwrap_or_default();
        let before = std::mem::replace(&mut self.nodes[node].tokens, tokens);
        let after = &self.nodes[node].tokens;
        let gone: Vec<Position> = before.iter().copied().filter(|token| !after.contains(token)).collect();
        if gone.is_empty() && before.len() == after.len() {
            return;
        }
        self.counts.tokens_moved += gone.len() as u64;
        self.log.push(self.now, format_args!("node {} has its tokens at {after:?}", node + 1));
        if self.watch.left(&gone) {
            self.log.push(self.now, format_args!("ring: too many have moved"));
        }
        let (now, seeds) = (self.now_at(node), self.everyone());
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let effects = running.ring.follow(now, view, &seeds, &mut self.prng);
        self.carry_out_ring(node, effects);
    }

    /// As the shell does it from time to time: tells discovery which changes this node has done its part for.
    pub(super) fn keep_house(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation
            || self.set_aside(node, || Happening::KeepHouse { node, incarnation })
        {
            return;
        }
        let Some(running) = self.nodes[node].running.as_ref() else { return };
        let (changes, waits) = (running.replica.copied_changes(), running.replica.transfer_status().arcs > 0);
        let id = self.nodes[node].id;
        for change in changes {
            let after = self.news_delay();
            self.at(after, Happening::NoteCopied { node: id, change });
        }
        if waits {
            self.at(HOUSE_EVERY, Happening::KeepHouse { node, incarnation });
        }
    }

    pub(super) fn note_copied(&mut self, node: NodeId, change: Epoch) {
        self.publish(self.view.note_copied(change, node));
    }

    pub(super) fn take_event(&mut self, node: usize, event: &Event) {
        match event {
            Event::ArcCopied { high, .. } => {
                self.counts.arcs_copied += 1;
                self.note_of_arc(node, *high, |registers, key, by, replica| {
                    registers.copied(key, by, replica.floor_against_others(key))
                });
            }
            Event::ArcConfirmed { high, up_to } => {
                self.counts.arcs_confirmed += 1;
                self.note_of_arc(node, *high, |registers, key, by, _| registers.confirmed(key, by, *up_to));
            }
            Event::Released { registers } => {
                self.counts.released += registers;
                self.log.push(self.now, format_args!("node {} drops {registers}", node + 1));
            }
            Event::Collected { registers } => {
                self.counts.collected += registers;
                self.log.push(self.now, format_args!("node {} drops {registers} tombstones", node + 1));
            }
            Event::Superseded { by } => {
                self.log.push(self.now, format_args!("node {} has a twin, start {by}", node + 1));
                self.counts.twins_fenced += u64::from(!self.calm);
                self.retire(node);
                self.find_latest(self.nodes[node].id);
            }
            _ => {}
        }
    }

    /// Tells the observer something of each key of a node's arc, with the node and its arc epoch.
    fn note_of_arc(
        &mut self,
        node: usize,
        high: Position,
        tell: impl Fn(&mut Registers, &RegisterKey, (NodeId, Epoch), &Replica<AllBut>) -> Result<(), Violation>,
    ) {
        let SimNode { id, running: Some(running), .. } = &self.nodes[node] else { return };
        let replica = &running.replica;
        let checked = self.keys.iter().try_for_each(|(key, _)| {
            let arc = replica.arc_of(key.position).filter(|arc| arc.high == high);
            arc.map_or(Ok(()), |arc| tell(&mut self.registers, key, (*id, arc.epoch), replica))
        });
        self.note(checked);
    }

    /// The connections of an older start are gone; those to the latest one are not.
    fn find_latest(&mut self, id: NodeId) {
        let latest = (0..self.nodes.len()).filter(|node| self.nodes[*node].id == id && !self.nodes[*node].gone);
        for found in latest.collect::<Vec<_>>() {
            for node in (0..self.nodes.len()).filter(|node| *node != found) {
                self.at(Duration::from_millis(6), Happening::PeerFound { node, found });
            }
        }
    }

    /// A node belongs to the ring no more, and ends.
    pub(super) fn retire(&mut self, node: usize) {
        if self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("node {} retires", node + 1));
        self.nodes[node].kill();
        self.nodes[node].gone = true;
        self.after_crash(node);
    }

    /// A member of the ring that never comes back.
    pub(super) fn lost_member(&self) -> Option<NodeId> {
        self.view.members.iter().map(|member| member.id).find(|id| !self.lives(*id))
    }

    /// Faults are over: what was begun gets done, and everybody hears of it.
    pub(super) fn expect_changes_complete(&mut self) -> Result<(), Violation> {
        let replaced = self.swarm.changes_every.is_some() || self.swarm.rot_every.is_some();
        for _ in 0..self.nodes.len() {
            let Some(gone) = self.lost_member().filter(|_| replaced) else { break };
            self.replace(gone);
            if self.swarm.lies_every.is_none() {
                break;
            }
            // Of two whose disks lied one may have had to give way to the other.
            self.run_until(|world| world.view.pending.is_empty(), CHANGES_MAX)?;
        }
        // One that the faults left down may find only now, as it starts, that it is to be replaced.
        let done = |world: &World<C>| {
            let newest = world.view.epoch;
            let mut running = world.nodes.iter().filter(|node| !node.gone);
            world.view.pending.is_empty()
                && running.all(|node| node.acting_epoch() == Some(newest))
                && !(replaced && world.lost_member().is_some())
        };
        self.run_until(done, CHANGES_MAX)?;
        if done(self) {
            let end = self.now + self.swarm.news_max;
            return self.run_until(|world| world.now >= end, CHANGES_MAX);
        }
        let found = format!("{:?} is under way {CHANGES_MAX:?} after the faults stopped", self.view.pending);
        Err(Violation { invariant: "every_change_completes", found })
    }
}
