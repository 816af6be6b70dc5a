//! What nodes are told, and carrying out what they want.

use std::time::Duration;

use bytes::Bytes;
use membership::NodeId;
use replication::{Effects, Input, LogPosition, Message, Record, Rule, Rules as _};
use stdx::TraceContext;
use wire::node::Payload;

use super::clients::{decoded, encoded};
use super::{Happening, World};
use crate::invariants::Violation;
use crate::network::Place;
use crate::node::{Durable, TakenBack};
use crate::node_log::{DiskFailed, StartFailed};
use crate::planted::Planted;
use crate::ring_host::RingEffects;
use crate::words::{RingWords, Words};

/// How often a full disk is looked at again; as the log's thread does it.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How often discovery tells a node who belongs to the ring.
const SEEDS_EVERY: Duration = Duration::from_millis(800);

impl<C: chord::Rules> World<C> {
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() || self.nodes[node].gone {
            return;
        }
        if self.is_outdated(node) {
            // Discovery has let a later start in: what lies here is a copy.
            return self.retire(node);
        }
        if let Some(doubt) = self.doubt_before(node) {
            return self.set_doubted_aside(node, doubt);
        }
        self.log.push(self.now, format_args!("start node {}", node + 1));
        if !self.calm && self.prng.one_in(10) {
            // The power may fail again while the log is being read.
            self.nodes[node].doomed = true;
            self.nodes[node].disk.crash_after(self.prng.below(8));
        }
        let (now, ring) = (self.now_at(node), self.swarm.ring);
        let config = (self.swarm.segment_bytes, ring);
        let Some(view) = self.view_at_start(node) else { return };
        let started = self.nodes[node].start(now, &view, config, &mut self.prng);
        let (effects, held) = match started {
            Ok(started) => started,
            Err(StartFailed::Disk) => {
                self.nodes[node].pull_plug(&mut self.prng);
                return self.at(Duration::from_millis(5), Happening::Start { node });
            }
            Err(StartFailed::Damaged(found)) => return self.found_damaged(node, found),
            Err(StartFailed::Log(found)) => {
                return self.note(Err(Violation { invariant: "a_crash_leaves_a_log_that_opens", found }));
            }
        };
        if let Some(doubt) = self.doubt_of_end(node) {
            return self.set_doubted_aside(node, doubt);
        }
        self.expect_remembered(node, &held);
        for durable in held {
            // What is found on the disk is on the disk, be it that nobody was told of its sync.
            if let Durable::Accepted(key, ballot) = &durable {
                self.registers.found_at_start(key, *ballot, self.nodes[node].id);
            }
            self.note_durable(node, durable);
        }
        self.took_view(node);
        self.carry_out(node, effects);
        self.enter_ring(node);
        let incarnation = self.nodes[node].incarnation;
        if let Some(every) = self.swarm.clean_every {
            self.at(every, Happening::Clean { node, incarnation });
        }
        if self.swarm.rot_every.is_some() {
            self.at(self.swarm.scrub_every, Happening::Scrub { node, incarnation });
        }
        if let Some(every) = self.swarm.collect_every {
            self.at(every, Happening::Collect { node, incarnation });
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let after = Duration::from_micros(100 + self.prng.below(3_000));
            self.at(after, Happening::PeerFound { node: other, found: node });
        }
    }

    fn note_durable(&mut self, node: usize, durable: Durable) {
        if self.is_outdated(node) {
            // The node's disk is the one of its latest start.
            return;
        }
        let id = self.nodes[node].id;
        let checked = match durable {
            Durable::Accepted(key, ballot) => self.registers.durable(&key, ballot, id),
            Durable::Acting(epoch) => self.registers.reached(id, epoch),
        };
        self.note(checked);
    }

    fn enter_ring(&mut self, node: usize) {
        let (now, seeds) = (self.now_at(node), self.everyone());
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let effects = running.ring.enter(now, &seeds, &mut self.prng);
        self.carry_out_ring(node, effects);
        let incarnation = self.nodes[node].incarnation;
        self.at(SEEDS_EVERY, Happening::Seeds { node, incarnation });
    }

    /// Whether what happens to a node must wait, or is lost on it.
    pub(super) fn set_aside(&mut self, node: usize, happening: impl Fn() -> Happening) -> bool {
        if self.nodes[node].running.is_none() {
            return true;
        }
        if self.nodes[node].paused_until.is_some() {
            self.backlog[node].push_back(happening());
            return true;
        }
        false
    }

    /// The same for what a node said to itself: it is also lost when the node was started anew since.
    pub(super) fn set_aside_own(&mut self, node: usize, incarnation: u64, happening: Happening) -> bool {
        self.nodes[node].incarnation != incarnation || self.set_aside(node, || happening.clone())
    }

    pub(super) fn arrive(&mut self, from: (NodeId, u64), to: usize, bytes: Bytes) {
        if self.set_aside(to, || Happening::Arrive { from, to, bytes: bytes.clone() }) {
            return;
        }
        match decoded(bytes) {
            Payload::Replica(message) => {
                let (from, incarnation) = from;
                let Message { epoch, .. } = message;
                self.log
                    .push(self.now, format_args!("node {} from {} e{epoch} {}", to + 1, from.0, Words(&message.body)));
                self.handle(to, Input::Message { from, incarnation, message, context: TraceContext::NONE });
            }
            Payload::Chord(envelope) => {
                self.log.push(self.now, format_args!("{}", RingWords(&envelope)));
                self.watch.arrived(&envelope);
                let now = self.now_at(to);
                let Some(running) = self.nodes[to].running.as_mut() else { return };
                let effects = running.ring.message(now, envelope);
                self.carry_out_ring(to, effects);
            }
            other => unreachable!("nodes say nothing else to each other: {other:?}"),
        }
    }

    pub(super) fn tick(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Tick { node, incarnation }) {
            return;
        }
        let (time, now) = (self.now, self.now_at(node));
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        // One that an earlier timer took the place of is nothing any more.
        if running.tick_at.is_none_or(|at| at > time) {
            return;
        }
        // While its cores are being told, none of what they want meanwhile is another tick at this moment.
        self.handle(node, Input::Tick);
        let due = |at| at <= now;
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        if running.ring.next_timeout().is_some_and(due) {
            let effects = running.ring.tick(now);
            if self.watch.gives_up(now, &self.nodes[node].tokens) {
                self.log.push(time, format_args!("ring: node {} takes a living one for dead", node + 1));
            }
            self.carry_out_ring(node, effects);
        }
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.tick_at = None;
        }
        self.arm(node);
    }

    pub(super) fn tell_seeds(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Seeds { node, incarnation }) {
            return;
        }
        let (now, seeds) = (self.now_at(node), self.everyone());
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let effects = running.ring.seeds(now, &seeds);
        self.carry_out_ring(node, effects);
        self.at(SEEDS_EVERY, Happening::Seeds { node, incarnation });
    }

    pub(super) fn peer_lost(&mut self, node: usize, lost: usize, incarnation: u64) {
        // A connection to a later start is another one.
        if self.nodes[lost].incarnation != incarnation {
            return;
        }
        if self.set_aside(node, || Happening::PeerLost { node, lost, incarnation }) {
            return;
        }
        let (time, now, id) = (self.now, self.now_at(node), self.nodes[lost].id);
        self.log.push(time, format_args!("node {} lost node {}", node + 1, lost + 1));
        self.handle(node, Input::PeerLost(id));
        if self.watch.told_lost(&self.nodes[node].tokens, id) {
            self.log.push(time, format_args!("ring: node {} lost a living one", node + 1));
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let effects = running.ring.lost(now, id);
        self.carry_out_ring(node, effects);
    }

    pub(super) fn peer_found(&mut self, node: usize, found: usize) {
        if !self.set_aside(node, || Happening::PeerFound { node, found }) {
            self.handle(node, Input::PeerFound(self.nodes[found].id));
        }
    }

    pub(super) fn synced(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Synced { node, incarnation }) {
            return;
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        running.log.syncing = false;
        let dropping = running.log.dropping.is_some();
        let Ok(through) = running.log.flush() else { return self.disk_failed(node) };
        self.counts.syncs += 1;
        self.counts.segments_cleaned += u64::from(dropping && running.log.dropping.is_none());
        let mut durable = Vec::new();
        while running.unsynced.front().is_some_and(|(position, ..)| position.0 <= through) {
            durable.extend(running.unsynced.pop_front());
        }
        for (_, durable) in durable {
            self.note_durable(node, durable);
        }
        self.nodes[node].note_synced(self.now, through);
        self.log.push(self.now, format_args!("node {} synced {through}", node + 1));
        self.handle(node, Input::Synced(LogPosition(through)));
    }

    pub(super) fn look_for_room(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Look { node, incarnation }) {
            return;
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        running.log.looking = false;
        let Ok(change) = running.log.look_for_room() else { return self.disk_failed(node) };
        if let Some(full) = change {
            self.counts.disks_full += u64::from(full);
            self.log.push(self.now, format_args!("node {} full: {full}", node + 1));
            self.handle(node, Input::DiskFull(full));
        }
        self.drive_log(node, FULL_RETRY);
    }

    /// A restart gives back what was durable. (Who was out of a set in between may have dropped it, so this looks
    /// at rings that have not changed.)
    fn expect_remembered(&mut self, node: usize, held: &[Durable]) {
        if self.counts.changes_begun > 0 || self.has(Planted::Amnesia) || !self.rules.keeps(Rule::FenceTwins) {
            return;
        }
        let id = self.nodes[node].id;
        let checked = self.keys.iter().try_for_each(|(key, _)| {
            let remembered = held.iter().filter_map(|durable| match durable {
                Durable::Accepted(of, ballot) if of == key => Some(*ballot),
                Durable::Accepted(..) | Durable::Acting(_) => None,
            });
            self.registers.remembered(key, id, remembered.max())
        });
        self.note(checked);
    }

    pub(super) fn clean(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Clean { node, incarnation }) {
            return;
        }
        if let Some(every) = self.swarm.clean_every {
            self.at(every, Happening::Clean { node, incarnation });
        }
        if self.nodes[node].running.is_some() && !self.calm {
            let wall_ms = self.wall_ms_of(node);
            self.handle(node, Input::EndDue { wall_ms });
        }
        self.clean_log(node);
    }

    pub(super) fn clean_log(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        match running.clean(self.swarm.segment_bytes) {
            Ok(None) => {}
            Ok(Some(effects)) => {
                self.log.push(self.now, format_args!("node {} copies {}", node + 1, effects.persist.len()));
                self.carry_out(node, effects);
            }
            Err(DiskFailed) => self.disk_failed(node),
        }
    }

    pub(super) fn collect(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Collect { node, incarnation }) {
            return;
        }
        if let Some(every) = self.swarm.collect_every {
            self.at(every, Happening::Collect { node, incarnation });
        }
        let wall_ms = self.wall_ms_of(node);
        self.handle(node, Input::Collect { wall_ms });
    }

    pub(super) fn handle(&mut self, node: usize, input: Input) {
        let now = self.now_at(node);
        let acting = self.nodes[node].acting_epoch();
        let effects = self.nodes[node].handle(now, input);
        if self.nodes[node].acting_epoch() != acting {
            self.took_view(node);
        }
        self.carry_out(node, effects);
    }

    /// Persist, then send, then answer; as the shell does it.
    fn carry_out(&mut self, node: usize, effects: Effects) {
        self.persist(node, effects.persist);
        if self.nodes[node].running.is_none() {
            // The disk failed under it.
            return;
        }
        self.counts.messages += effects.send.len() as u64;
        for envelope in effects.send {
            self.send(node, envelope.to, Payload::Replica(envelope.message));
        }
        for answer in effects.answers {
            self.send_answer(node, answer);
        }
        for event in effects.events {
            self.take_event(node, &event);
        }
        self.arm(node);
    }

    pub(super) fn carry_out_ring(&mut self, node: usize, effects: RingEffects) {
        let (time, now) = (self.now, self.now_at(node));
        for envelope in effects.send {
            self.watch.sent(now, &envelope);
            self.send(node, envelope.to.node, Payload::Chord(envelope));
        }
        for position in &effects.created {
            self.log.push(time, format_args!("ring {position} begins a ring"));
        }
        if self.watch.created(&effects.created) {
            self.log.push(time, format_args!("ring: it is a second one"));
        }
        let Some(running) = self.nodes[node].running.as_ref() else { return };
        let checked = self.watch.touched(running.ring.members());
        self.note(checked);
        self.arm(node);
    }

    fn send(&mut self, node: usize, to: NodeId, payload: Payload) {
        let from = (self.nodes[node].id, self.nodes[node].incarnation);
        let to = self.index_of(to);
        let bytes = encoded(payload);
        for fate in self.network.fates(&self.swarm, Place::Node(node), Place::Node(to)) {
            self.at(fate, Happening::Arrive { from, to, bytes: bytes.clone() });
        }
    }

    fn persist(&mut self, node: usize, records: Vec<(LogPosition, Record)>) {
        if records.is_empty() {
            return;
        }
        for (_, record) in &records {
            if let Some(taken) = TakenBack::of(record) {
                let running = self.nodes[node].running.as_ref();
                let arc = running.and_then(|running| running.replica.arc_of(taken.position()));
                let epoch = arc.map(|arc| arc.epoch).unwrap_or_default();
                if let Record::Dropped { key, ballot } = record {
                    let checked = self.registers.dropped(key, *ballot, epoch);
                    self.note(checked);
                }
                self.registers.taken_back(self.nodes[node].id, &taken, epoch);
            }
            if let Record::Accepted { key, ballot, state } = record {
                let running = self.nodes[node].running.as_ref();
                let arc = running.and_then(|running| running.replica.arc_of(key.position));
                let by = (self.nodes[node].id, arc.map(|arc| arc.epoch).unwrap_or_default());
                let replica = arc.filter(|arc| arc.is_held_by(by.0)).map(|arc| arc.epoch);
                if let Some(epoch) = replica {
                    let checked = self.registers.taken_by_replica(key, (*ballot, state), epoch);
                    self.note(checked);
                }
                let checked = self.registers.accepted(key, (*ballot, state), by);
                self.note(checked);
            }
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        running.log.persist(records);
        self.drive_log(node, Duration::from_micros(200));
    }

    /// Appends what waits, and sees to the next sync and the next look for room.
    fn drive_log(&mut self, node: usize, look_after: Duration) {
        let incarnation = self.nodes[node].incarnation;
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        if running.commit().is_err() {
            return self.disk_failed(node);
        }
        let (sync, look) = (running.log.begin_sync(), running.log.begin_look());
        if sync {
            let length = self.sync_length(node);
            self.at(length, Happening::Synced { node, incarnation });
        }
        if look {
            self.at(look_after, Happening::Look { node, incarnation });
        }
    }

    fn arm(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_ref() else { return };
        let due = [running.replica.next_timeout(), running.ring.next_timeout()].into_iter().flatten().min();
        let Some(due) = due.map(|due| self.nodes[node].clock.when(due)) else { return };
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        if running.tick_at.is_some_and(|at| at <= due) {
            return;
        }
        running.tick_at = Some(due);
        let incarnation = self.nodes[node].incarnation;
        self.at(due.since(self.now), Happening::Tick { node, incarnation });
    }
}
