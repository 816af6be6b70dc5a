//! Faults.

use std::time::Duration;

use super::{Happening, World};
use crate::planted::Planted;

/// What a full disk has left for what is not preallocated, in bytes: nothing that a segment would fit in.
const ROOM_LEFT: u64 = 512;

impl<C: chord::Rules> World<C> {
    /// Plans the next fault of a kind, exponentially distributed around its mean.
    pub(super) fn plan_fault(&mut self, every: Option<Duration>, fault: impl Fn(&mut World<C>) -> Happening) {
        if let Some(mean) = every {
            let after = mean.mul_f64(-(1.0 - self.prng.unit()).ln());
            let happening = fault(self);
            self.at(after, happening);
        }
    }

    pub(super) fn crash(&mut self, node: usize, planned: bool) {
        if planned {
            self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
        }
        if self.calm || self.nodes[node].running.is_none() {
            return;
        }
        self.counts.faults += 1;
        match if planned { self.prng.below(4) } else { 1 } {
            // The process is killed; the machine goes on.
            0 => {
                self.log.push(self.now, format_args!("kill node {}", node + 1));
                self.nodes[node].kill();
                self.after_crash(node);
            }
            // The power will fail within one of the next calls to the disk, whatever that does.
            1 if planned => {
                self.log.push(self.now, format_args!("doom node {}", node + 1));
                self.nodes[node].doomed = true;
                let calls = self.prng.below(6);
                self.nodes[node].disk.crash_after(calls);
            }
            _ => self.lose_power(node),
        }
    }

    fn lose_power(&mut self, node: usize) {
        self.log.push(self.now, format_args!("crash node {}", node + 1));
        self.nodes[node].pull_plug(&mut self.prng);
        self.after_crash(node);
    }

    /// The disk failed under a node: its process ends, and with the power everything unsynced.
    pub(super) fn disk_failed(&mut self, node: usize) {
        self.log.push(self.now, format_args!("disk of node {} fails", node + 1));
        if self.nodes[node].doomed || self.prng.one_in(2) {
            self.nodes[node].pull_plug(&mut self.prng);
        } else {
            self.nodes[node].kill();
        }
        self.after_crash(node);
    }

    /// A node is down: whoever held a connection to it may notice, and it will be back.
    pub(super) fn after_crash(&mut self, node: usize) {
        self.backlog[node].clear();
        let (id, incarnation) = (self.nodes[node].id, self.nodes[node].incarnation);
        if self.watch.crashed(id) {
            self.log.push(self.now, format_args!("ring: too many are dead"));
        }
        self.break_connections(node);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if self.swarm.resets && !self.prng.one_in(4) {
                let after = Duration::from_micros(50 + self.prng.below(5_000));
                self.at(after, Happening::PeerLost { node: other, lost: node, incarnation });
            }
        }
        let away = Duration::from_nanos(self.prng.below(self.swarm.downtime_max.as_nanos() as u64));
        self.at(away, Happening::Start { node });
    }

    pub(super) fn drawn_pause(&mut self) -> Happening {
        let length = Duration::from_millis(5 + self.prng.below(1_500));
        Happening::Pause { node: self.any_node(), length }
    }

    pub(super) fn pause(&mut self, node: usize, length: Duration) {
        self.plan_fault(self.swarm.pause_every, World::drawn_pause);
        if self.calm || !self.nodes[node].is_working() {
            return;
        }
        self.counts.faults += 1;
        self.log.push(self.now, format_args!("pause node {} for {length:?}", node + 1));
        self.nodes[node].paused_until = Some(self.now + length);
        self.at(length, Happening::Resume { node });
    }

    pub(super) fn resume(&mut self, node: usize) {
        let Some(until) = self.nodes[node].paused_until else { return };
        if !self.calm && self.now < until {
            return;
        }
        self.log.push(self.now, format_args!("resume node {}", node + 1));
        self.nodes[node].paused_until = None;
        for happening in std::mem::take(&mut self.backlog[node]) {
            self.at(Duration::ZERO, happening);
        }
    }

    pub(super) fn partition(&mut self) {
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        let links = self.network.partition(&self.swarm, self.nodes.len());
        self.log.push(self.now, format_args!("cut {links:?}"));
        let length = Duration::from_millis(20 + self.prng.below(800));
        // Some notice by their silent connections, though both ends live.
        for (from, to) in &links {
            if self.swarm.resets && self.prng.one_in(2) {
                let after = length.mul_f64(self.prng.unit());
                let incarnation = self.nodes[*from].incarnation;
                self.at(after, Happening::PeerLost { node: *to, lost: *from, incarnation });
            }
        }
        self.at(length, Happening::Heal { links });
    }

    pub(super) fn heal(&mut self, links: &[(usize, usize)]) {
        self.log.push(self.now, format_args!("heal {links:?}"));
        self.network.heal(links);
        for (from, to) in links {
            let after = Duration::from_micros(100 + self.prng.below(20_000));
            self.at(after, Happening::PeerFound { node: *to, found: *from });
        }
    }

    pub(super) fn power_cut(&mut self) {
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
        for node in 0..self.nodes.len() {
            self.crash(node, false);
        }
    }

    /// One node loses its disk. It forgot what it promised, so it must not come back as the one it was; the planted bug
    /// lets it.
    pub(super) fn lose_disk(&mut self) {
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        let node = self.any_node();
        if self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("node {} loses its disk", node + 1));
        self.nodes[node].pull_plug(&mut self.prng);
        self.nodes[node].disk = store::SimDisk::new(self.prng.next_u64());
        self.nodes[node].gone = !self.has(Planted::Amnesia);
        let id = self.nodes[node].id;
        if self.nodes[node].gone && self.swarm.changes_every.is_some() {
            let after = Duration::from_millis(20 + self.prng.below(800));
            self.at(after, Happening::Replace { gone: id });
        }
        self.after_crash(node);
    }

    pub(super) fn fail_sync(&mut self, node: usize) {
        self.plan_fault(self.swarm.sync_failure_every, |world| Happening::FailSync { node: world.any_node() });
        if !self.calm && self.nodes[node].running.is_some() {
            self.counts.faults += 1;
            self.log.push(self.now, format_args!("node {}'s next sync fails", node + 1));
            self.nodes[node].disk.fail_syncs(1);
        }
    }

    /// A disk fills up, or all of them do.
    pub(super) fn fill(&mut self) {
        self.plan_fault(self.swarm.fill_every, |_| Happening::Fill);
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        let one = self.any_node();
        let all = self.prng.one_in(4);
        let length = Duration::from_millis(50 + self.prng.below(1_500));
        for node in (0..self.nodes.len()).filter(|node| all || *node == one) {
            self.log.push(self.now, format_args!("disk of node {} fills up", node + 1));
            self.fill_disk(node);
            self.at(length, Happening::Empty { node });
        }
    }

    /// Whatever is preallocated stays; nothing more can be.
    pub(super) fn fill_disk(&mut self, node: usize) {
        let disk = &self.nodes[node].disk;
        disk.set_capacity(disk.used_bytes() + ROOM_LEFT);
    }

    /// Faults are over: everybody comes back.
    pub(super) fn settle(&mut self) {
        self.log.push(self.now, format_args!("settle"));
        self.calm = true;
        self.network.settle();
        self.settle_clocks();
        self.end_lies();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.set_capacity(u64::MAX);
            self.nodes[node].disk.fail_syncs(0);
            if self.nodes[node].doomed && self.nodes[node].running.is_some() {
                self.lose_power(node);
            }
            if self.nodes[node].paused_until.is_some() {
                self.at(Duration::ZERO, Happening::Resume { node });
            }
            if self.nodes[node].running.is_none() && !self.nodes[node].gone {
                self.at(Duration::ZERO, Happening::Start { node });
            }
            // Links that were cut carry again.
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.at(Duration::from_millis(1), Happening::PeerFound { node, found: other });
            }
        }
        self.tell_outdated();
    }
}
