//! Disks of the fleet of available keys that say that they have synced, and have not: what they owe goes with the
//! power.
//!
//! Discovery knows how far each log was synced, as far as the node could tell. A start that finds less has forgotten
//! something, and another node takes the place of its own (decision 0073). One node at a time, and the next only when
//! the one before has been replaced: what a majority forgets is lost, and no fleet claims otherwise.

use std::time::Duration;

use stdx::{Instant, Prng};
use store::identity::Doubt;
use store::{LogConfig, SimDisk};
use wire::node::LogRecord;

use super::changes::NODES_MAX;
use super::disks::{End, Spoiled};
use super::node::Node;
use super::world::{Happening, World};
use crate::node_log::lose_syncs;

/// How often a node tells discovery how far its log is synced; in production every 5 s.
const TELL_EVERY: Duration = Duration::from_millis(40);
/// For how long a disk lies at most.
const LYING_MAX_MS: u64 = 300;

/// What a node's disk has said, and who knows.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// Whether the disk says at the moment that it syncs, and does not.
    lies: bool,
    /// The last position that discovery was told of, and when.
    told: (u64, Instant),
}

impl Word {
    /// What is synced, as the disk says: discovery is told from time to time.
    pub fn note_synced(&mut self, now: Instant, through: u64) {
        if now.since(self.told.1) >= TELL_EVERY {
            self.told = (self.told.0.max(through), now);
        }
    }

    /// The doubt that a log raises which ends here.
    pub fn doubt(&self, end: u64) -> Option<Doubt> {
        Doubt::of_end(end, Some(self.told.0))
    }

    /// What becomes of the disk when the power fails. True: it lied, and something that it said was synced is gone.
    pub fn lose_power(&mut self, disk: &mut SimDisk, config: &LogConfig, prng: &mut Prng) -> bool {
        if std::mem::take(&mut self.lies) {
            return lose_syncs::<LogRecord>(disk, config, self.told.0, prng);
        }
        disk.crash();
        false
    }

    /// The disk lies from now on.
    fn begin_lying(&mut self, disk: &SimDisk) {
        disk.set_honest(false);
        self.lies = true;
    }

    /// The disk does what it owes, if it lied.
    fn end_lying(&mut self, disk: &SimDisk) {
        if std::mem::take(&mut self.lies) {
            disk.set_honest(true);
            disk.settle();
        }
    }
}

impl Node {
    /// Whether its disk lies at the moment.
    fn lies(&self) -> bool {
        self.word.lies
    }
}

impl World {
    /// A node's disk begins to lie. Some time later it loses power.
    pub(super) fn begin_lie(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.disks.lies_every, |_| Happening::Lie);
        let nodes = self.nodes.len();
        let node = self.disk_prng.index(nodes);
        if nodes >= NODES_MAX || !self.is_mended() || self.nodes[node].running.is_none() {
            return;
        }
        self.counts.faults += 1;
        self.log.push(self.now, format_args!("the disk of node {} lies", node + 1));
        let at = &mut self.nodes[node];
        at.word.begin_lying(&at.disk);
        self.spoiled = Some(Spoiled { node, segment: None });
        let after = Duration::from_millis(5 + self.disk_prng.below(LYING_MAX_MS));
        self.at(after, Happening::LoseLies { node });
    }

    /// The power fails where a disk lies.
    pub(super) fn lose_lies(&mut self, node: usize) {
        if !self.nodes[node].lies() {
            return;
        }
        if self.nodes[node].running.is_some() {
            return self.crash_as(node, End::PowerLost);
        }
        // Its process was down already, and is started again by whatever ended it.
        self.pull_plug(node);
    }

    /// A node's power fails. If its disk owed syncs and lost none that shows, there is nothing to be mended.
    pub(super) fn pull_plug(&mut self, node: usize) {
        let lied = self.nodes[node].lies();
        let lost = self.nodes[node].pull_plug(self.swarm.disks.segment_bytes, &mut self.prng);
        self.counts.syncs_lost += u64::from(lost);
        if lied && !lost {
            self.spoiled = None;
        }
    }

    /// Faults are over: disks do what they owe.
    pub(super) fn end_lies(&mut self) {
        for node in &mut self.nodes {
            if node.lies() {
                node.word.end_lying(&node.disk);
                self.spoiled = None;
            }
        }
    }
}
