//! Logs and disks of the fleet of available keys: syncs, room, cleaning, and what goes wrong with them.

use std::time::Duration;

use available::{Input, Replica};
use replication::{LogPosition, Record as OtherRecord};
use store::SegmentId;
use wire::node::LogRecord;

use super::swarm::Theme;
use super::world::{Happening, World};
use crate::invariants::Violation;

/// How often a full disk is looked at again; as the log's thread does it.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How soon it is noticed that a disk is full.
const FULL_NOTICED: Duration = Duration::from_micros(200);
/// What a full disk has left for what is not preallocated, in bytes: nothing that a segment would fit in.
const ROOM_LEFT: u64 = 512;
/// Bytes of its log that a node reads again at a time.
const SCRUB_BYTES: u64 = 2_048;
/// How soon the replacement of a node that was given up is tried again.
const REPLACE_AGAIN: Duration = Duration::from_millis(50);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is killed; the machine goes on.
    Killed,
    /// The power fails.
    PowerLost,
}

/// What a disk has lost, or will have lost when its power fails, and what is not mended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoiled {
    /// Whose disk.
    pub node: usize,
    /// Where a bit has flipped; none where syncs are owed or lost.
    pub segment: Option<SegmentId>,
}

impl World {
    /// Hands records to a node's log. Now and then those of the other contract are numbered in between.
    pub(super) fn persist(&mut self, node: usize, records: Vec<(LogPosition, available::Record)>) {
        let (shared, at) = (self.swarm.disks.shared_log, &mut self.nodes[node]);
        let Some(log) = at.log.as_mut() else { return };
        if !records.is_empty() {
            log.persist(records.into_iter().map(|(at, record)| (at, LogRecord::Available(record))).collect());
            if shared && at.disk_prng.one_in(3) {
                let next = log.end + 1;
                let others = LogRecord::Register(OtherRecord::Ceiling(next));
                log.persist(vec![(LogPosition(next), others)]);
            }
        }
        self.drive_log(node, FULL_NOTICED);
    }

    /// Appends what waits, and sees to the next sync and the next look for room.
    fn drive_log(&mut self, node: usize, look_after: Duration) {
        let incarnation = self.nodes[node].incarnation;
        if self.nodes[node].commit().is_err() {
            return self.disk_failed(node);
        }
        let Some(log) = self.nodes[node].log.as_mut() else { return };
        let (sync, look) = (log.begin_sync(), log.begin_look());
        if sync {
            let wait = self.sync_length(node);
            self.at(wait, Happening::Synced { node, incarnation });
        }
        if look {
            self.at(look_after, Happening::Look { node, incarnation });
        }
    }

    /// Whether what a node said to itself is lost, since it was started anew, or has to wait.
    fn set_aside(&mut self, node: usize, incarnation: u64, what: impl FnOnce() -> Happening) -> bool {
        let at = &self.nodes[node];
        at.incarnation != incarnation || at.running.is_none() || self.held_back(node, what)
    }

    pub(super) fn synced(&mut self, node: usize, incarnation: u64) {
        if self.set_aside(node, incarnation, || Happening::Synced { node, incarnation }) {
            return;
        }
        let dropping = |world: &World| world.nodes[node].log.as_ref().is_some_and(|log| log.dropping.is_some());
        let before = dropping(self);
        let Ok(position) = self.nodes[node].synced() else { return self.disk_failed(node) };
        self.nodes[node].word.note_synced(self.now, position.0);
        self.counts.segments_cleaned += u64::from(before && !dropping(self));
        self.feed(node, Input::Synced(position));
    }

    pub(super) fn look_for_room(&mut self, node: usize, incarnation: u64) {
        if self.set_aside(node, incarnation, || Happening::Look { node, incarnation }) {
            return;
        }
        let Some(log) = self.nodes[node].log.as_mut() else { return };
        log.looking = false;
        let Ok(change) = log.look_for_room() else { return self.disk_failed(node) };
        if let Some(full) = change {
            self.counts.disks_full += u64::from(full);
            self.log.push(self.now, format_args!("node {} full: {full}", node + 1));
            self.feed(node, Input::DiskFull(full));
        }
        self.drive_log(node, FULL_RETRY);
    }

    pub(super) fn clean(&mut self, node: usize, incarnation: u64) {
        if self.set_aside(node, incarnation, || Happening::Clean { node, incarnation }) {
            return;
        }
        if let Some(every) = self.swarm.disks.clean_every {
            self.at(every, Happening::Clean { node, incarnation });
        }
        self.clean_log(node);
    }

    fn clean_log(&mut self, node: usize) {
        match self.nodes[node].clean(self.swarm.disks.segment_bytes) {
            Ok(None) => {}
            Ok(Some(effects)) => {
                self.log.push(self.now, format_args!("node {} copies {}", node + 1, effects.persist.len()));
                self.carry_out(node, effects);
            }
            Err(_) => self.disk_failed(node),
        }
    }

    /// What a start sets going.
    pub(super) fn begin_with_disk(&mut self, node: usize) {
        let incarnation = self.nodes[node].incarnation;
        if let Some(every) = self.swarm.disks.clean_every {
            self.at(every, Happening::Clean { node, incarnation });
        }
        if self.swarm.disks.rot_every.is_some() {
            self.at(self.swarm.disks.scrub_every, Happening::Scrub { node, incarnation });
        }
    }

    pub(super) fn crash_as(&mut self, node: usize, end: End) {
        self.log.push(self.now, format_args!("crash node {}: {end:?}", node + 1));
        let away = self.downtime();
        self.stop(node, end);
        self.at(away, Happening::Start { node });
    }

    pub(super) fn downtime(&mut self) -> Duration {
        Duration::from_nanos(1_000_000 + self.prng.below(self.swarm.downtime_max.as_nanos() as u64))
    }

    pub(super) fn lose_power(&mut self, node: usize) {
        if !self.calm && self.nodes[node].running.is_some() {
            self.crash_as(node, End::PowerLost);
        }
    }

    /// The disk failed under a node: its process ends, and perhaps with the power everything unsynced.
    pub(super) fn disk_failed(&mut self, node: usize) {
        self.log.push(self.now, format_args!("disk of node {} fails", node + 1));
        let at = &mut self.nodes[node];
        let end = if at.doomed || at.disk_prng.one_in(2) { End::PowerLost } else { End::Killed };
        self.stop(node, end);
        let away = self.downtime();
        self.at(away, Happening::Start { node });
    }

    pub(super) fn fail_sync(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.disks.sync_failure_every, |_| Happening::FailSync);
        let nodes = self.nodes.len();
        let node = self.disk_prng.index(nodes);
        if self.nodes[node].running.is_some() {
            self.counts.faults += 1;
            self.log.push(self.now, format_args!("node {}'s next sync fails", node + 1));
            self.nodes[node].disk.fail_syncs(1);
        }
    }

    /// Whatever is preallocated stays; nothing more can be. Half of the disks are at the end of a segment by then.
    pub(super) fn fill(&mut self, node: usize, full: bool) {
        if self.calm && full {
            return;
        }
        let at = &mut self.nodes[node];
        at.disk.set_capacity(if full { at.disk.used_bytes() + ROOM_LEFT } else { u64::MAX });
        if !full {
            return;
        }
        self.counts.faults += 1;
        self.log.push(self.now, format_args!("disk of node {} fills up", node + 1));
        let length = Duration::from_millis(10 + self.prng.below(400));
        self.at(length, Happening::Fill { node, full: false });
        self.plan_fault(self.swarm.fill_every, |world| Happening::Fill { node: world.any_node(), full: true });
        let at = &mut self.nodes[node];
        let ends = at.disk_prng.one_in(2);
        let sealed = at.log.as_mut().filter(|log| ends && !log.syncing).map(|log| log.seal());
        if matches!(sealed, Some(Err(_))) {
            return self.disk_failed(node);
        }
        self.drive_log(node, FULL_NOTICED);
    }

    /// Only one disk at a time: two of three are a majority, and what a majority forgets is lost.
    pub(super) fn lose_disk(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.lose_disk_every, |_| Happening::LoseDisk);
        if self.swarm.theme == Theme::Replaced {
            return self.replace_one();
        }
        let refilling =
            self.nodes.iter().any(|node| node.emptied && !node.running.as_ref().is_some_and(Replica::is_whole));
        if refilling {
            return;
        }
        let node = self.any_node();
        self.nodes.iter_mut().for_each(|node| node.emptied = false);
        self.counts.faults += 1;
        self.disks_lost += 1;
        self.log.push(self.now, format_args!("node {} loses its disk", node + 1));
        if self.nodes[node].running.is_some() {
            self.stop(node, End::PowerLost);
            let away = Duration::from_millis(1 + self.prng.below(300));
            self.at(away, Happening::Start { node });
        }
        self.nodes[node].lose_disk();
    }

    /// A bit flips in something durable on one node's disk. Never on two nodes before the first is mended: no arc may
    /// lose a majority.
    pub(super) fn rot(&mut self) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.disks.rot_every, |_| Happening::Rot);
        if !self.is_mended() {
            return;
        }
        let nodes = self.nodes.len();
        let node = self.disk_prng.index(nodes);
        let at = &mut self.nodes[node];
        let Some(log) = at.log.as_mut() else { return };
        let (sequence, segment) = match log.rot(&at.disk, &mut self.disk_prng) {
            Ok(Some(rotted)) => rotted,
            Ok(None) => return,
            Err(_) => return self.disk_failed(node),
        };
        self.counts.faults += 1;
        self.counts.bits_rotted += 1;
        self.log.push(self.now, format_args!("a bit of record {sequence} of node {} flips", node + 1));
        self.spoiled = Some(Spoiled { node, segment: Some(segment) });
        if self.disk_prng.one_in(3) {
            // A restart finds it before any scrubbing does.
            let after = Duration::from_micros(self.disk_prng.below(20_000));
            self.at(after, Happening::LosePower { node });
        }
    }

    /// A node reads some of its log again, and mends what it finds.
    pub(super) fn scrub(&mut self, node: usize, incarnation: u64) {
        if self.set_aside(node, incarnation, || Happening::Scrub { node, incarnation }) {
            return;
        }
        self.at(self.swarm.disks.scrub_every, Happening::Scrub { node, incarnation });
        let Some(log) = self.nodes[node].log.as_mut() else { return };
        match log.scrub(SCRUB_BYTES) {
            Ok(None) => {}
            Ok(Some(damage)) => {
                self.counts.damage_scrubbed += 1;
                self.log.push(self.now, format_args!("node {} finds that {damage}", node + 1));
            }
            Err(_) => return self.disk_failed(node),
        }
        if self.nodes[node].log.as_ref().is_some_and(|log| log.has_damage()) {
            self.clean_log(node);
        }
    }

    /// A start finds its log damaged, or shorter than discovery was told: the node has forgotten something that it
    /// vouched for, and comes back as another one.
    pub(super) fn found_damaged(&mut self, node: usize, found: String) {
        if self.spoiled.is_none_or(|spoiled| spoiled.node != node) {
            return self.log_does_not_open(found);
        }
        self.counts.damage_at_start += 1;
        self.log.push(self.now, format_args!("node {} is given up: {found}", node + 1));
        self.retire(node);
        let after = Duration::from_millis(self.prng.below(200));
        self.at(after, Happening::Replace { node });
    }

    pub(super) fn log_does_not_open(&mut self, found: String) {
        self.violation.get_or_insert(Violation { invariant: "a_crash_leaves_a_log_that_opens", found });
    }

    /// A node that was given up is set up anew, as another one in its place.
    pub(super) fn replace(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let joining = self.view.pending.iter().find(|pending| pending.change.newcomer() == Some(id));
        if let Some(joining) = joining.map(|pending| pending.id) {
            // What it was to hold is nobody's yet.
            return self.publish(self.view.abandon(joining));
        }
        if self.view.member(id).is_some() && !self.set_up_in_place_of(id) {
            self.at(REPLACE_AGAIN, Happening::Replace { node });
        }
    }

    /// Whether all that was spoiled is mended: a rotten segment is gone, or its node is and another has taken its
    /// place.
    pub(super) fn is_mended(&mut self) -> bool {
        let Some(Spoiled { node, segment }) = self.spoiled else { return true };
        let at = &self.nodes[node];
        let gone = |segment| at.log.as_ref().is_some_and(|log| log.segments().all(|info| info.id != segment));
        let dropped = segment.is_some_and(gone);
        let replaced = at.gone && self.view.member(at.id).is_none() && self.view.pending.is_empty();
        if dropped || replaced {
            self.spoiled = None;
        }
        self.spoiled.is_none()
    }
}
