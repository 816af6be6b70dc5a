//! What a settled fleet must be able to do: an ideal ring, lookups that end at the owner, an answer to every question.

use std::time::Duration;

use chord::{NextHop, Peer};
use membership::Position;
use replication::{Change, Condition, Operation, RequestId, Terms, Value as Stored, Write};

use super::{Counts, RING_IDEAL_MAX, SETTLE_MAX, World};
use crate::client::{Drawn, KeyKind, Purpose};
use crate::invariants::Violation;
use crate::{ring_host, ring_watch};

/// Positions that are looked up from every member, besides the keys.
const LOOKUPS: usize = 8;
/// How long fingers are given between two looks at them.
const LOOKUP_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// When the ring is ideal, fingers must be right within this time.
const FINGERS_MAX: Duration = Duration::from_secs(60);
/// After the faults, everything that was under way has arrived after this time.
const STRAGGLERS_MAX: Duration = Duration::from_secs(2);
/// Within this time each replica has scanned what its peers hold: once a minute, and at most half a minute late.
const SCANNED_MAX: Duration = Duration::from_secs(100);
/// Writes to each key while all disks are full.
const WRITES_WHILE_FULL: usize = 6;

impl<C: chord::Rules> World<C> {
    /// Everybody is a member and every pointer is right, within the time that repair may take.
    pub(super) fn expect_ideal_ring(&mut self, otherwise: &str) -> Result<(), Violation> {
        let all_are_in = |world: &World<C>| world.watch.members() == world.present_tokens();
        self.run_until(|world| all_are_in(world) && world.watch.ideal().is_ok(), RING_IDEAL_MAX)?;
        if !all_are_in(self) {
            let found = format!("{otherwise}: {} of {} are members", self.watch.members(), self.present_tokens());
            return Err(Violation { invariant: "the_ring_becomes_ideal", found });
        }
        self.watch.ideal().map_err(|violation| {
            let found = format!("{otherwise} within {RING_IDEAL_MAX:?}: {violation}");
            Violation { invariant: "the_ring_becomes_ideal", found }
        })
    }

    /// What every join must have left behind: each key is claimed by its successor, the ring's arcs at both their ends,
    /// and fingers are right. They are fixed one after the other, so it takes its time.
    pub(super) fn expect_joined_well(&mut self) -> Result<(), Violation> {
        let mut keys: Vec<Position> = self.keys.iter().map(|(key, _)| key.position).collect();
        let tokens = self.nodes.iter().filter(|node| !node.gone).flat_map(|node| &node.tokens);
        keys.extend(tokens.flat_map(|token| [*token, Position(token.0.wrapping_add(1))]));
        let end = self.now + FINGERS_MAX;
        loop {
            let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
            let checked = ring_watch::joined_well(running.flat_map(|running| running.ring.members()), &keys);
            if checked.is_ok() || self.now >= end {
                return checked;
            }
            let next = self.now + LOOKUP_AGAIN_AFTER;
            self.run_until(|world| world.now >= next, FINGERS_MAX)?;
        }
    }

    /// If a member heard from one that is gone since `ghosts` of them had been heard, the ring may be out of order once
    /// more, and is to heal. Otherwise nothing may have put it out of order.
    pub(super) fn expect_ghosts_forgotten(&mut self, ghosts: u64) -> Result<(), Violation> {
        if self.watch.ghosts == ghosts {
            return Ok(());
        }
        self.expect_ideal_ring("the ring has not healed from the notice of one that is gone")
    }

    /// Every key is at its successor: the one node whose member claims it is a replica of it, and a quorum of these
    /// holds the last state that was chosen.
    ///
    /// Where a replica's disk is gone and nobody has taken its place, what one other alone had accepted beside it is
    /// held by that other alone. No decision is made without that one, so nothing is lost; but nobody is bound to read
    /// the register, and whoever lags finds out by scanning, now and then (seed 10384).
    pub(super) fn expect_keys_at_successor(&mut self) -> Result<(), Violation> {
        self.keys_at_successor(false)?;
        self.run_until(|world| world.keys_at_successor(true).is_ok(), SCANNED_MAX)?;
        self.keys_at_successor(true)
    }

    /// The same now; of arcs that lack a replica, what is held is asked for only once they had time to be scanned.
    fn keys_at_successor(&self, scanned: bool) -> Result<(), Violation> {
        let ring = self.view.ring();
        for key in self.plain_keys() {
            let key = &self.keys[key].0;
            let Some(arc) = ring.arc_of(key.position) else { continue };
            let running = || {
                self.nodes.iter().filter(|node| !node.gone).filter_map(|node| Some((node.id, node.running.as_ref()?)))
            };
            let claims = |members: &ring_host::RingHost<C>| {
                members.members().any(|member| member.next_hop(key.position) == NextHop::Owner(member.me()))
            };
            let claimed = running().filter(|(_, running)| claims(&running.ring)).map(|(id, _)| id).collect::<Vec<_>>();
            let whole = arc.sets().iter().all(|node| self.lives(node));
            let held = running().map(|(id, running)| (id, running.replica.inspect(key).0)).collect();
            let held = Some(&held).filter(|_| whole || scanned);
            self.registers.at_successor(key, &arc.sets(), &claimed, held)?;
        }
        Ok(())
    }

    /// From every member, the way to every key leads to its owner. Fingers may lead to the dead for a while after the
    /// ring is ideal.
    pub(super) fn look_up_everything(&mut self) -> Result<(), Violation> {
        let mut targets: Vec<Position> = self.keys.iter().map(|(key, _)| key.position).collect();
        targets.extend((0..LOOKUPS).map(|_| Position(self.prng.next_u64())));
        let end = self.now + RING_IDEAL_MAX;
        loop {
            let found = self.look_up(&targets);
            if found.is_ok() || self.now >= end {
                return found;
            }
            let next = self.now + LOOKUP_AGAIN_AFTER;
            self.run_until(|world| world.now >= next, RING_IDEAL_MAX)?;
        }
    }

    fn look_up(&self, targets: &[Position]) -> Result<(), Violation> {
        let live = self.nodes.iter().filter(|node| !node.gone);
        let mut tokens: Vec<Position> = live.flat_map(|node| node.tokens.iter().copied()).collect();
        tokens.sort_unstable();
        for target in targets {
            let owner = tokens.iter().find(|token| *token >= target).or(tokens.first()).copied();
            for from in &tokens {
                let found = self.walk(*from, *target);
                if found.clone().ok() != owner {
                    let found = format!("from {from} to {target}: {found:?}, and the owner is {owner:?}");
                    return Err(Violation { invariant: "every_lookup_reaches_the_owner", found });
                }
            }
        }
        Ok(())
    }

    /// The owner that the members name, step by step; the way so far when it does not end.
    fn walk(&self, from: Position, target: Position) -> Result<Position, Vec<Position>> {
        let mut way = vec![from];
        while way.len() <= self.view.members.iter().map(|member| member.tokens.len()).sum() {
            let at = way[way.len() - 1];
            let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
            let mut members = running.flat_map(|running| running.ring.members());
            match members.find(|member| member.me().position == at).map(|member| member.next_hop(target)) {
                Some(NextHop::Owner(Peer { position, .. })) => return Ok(position),
                Some(NextHop::Ask(Peer { position, .. })) => way.push(position),
                None => return Err(way),
            }
        }
        Err(way)
    }

    /// Every write that ended unknown is asked after, once nothing of it can still be under way.
    pub(super) fn ask_for_unknown_ends(&mut self) -> Result<(), Violation> {
        let end = self.now + STRAGGLERS_MAX;
        self.run_until(|world| world.now >= end, STRAGGLERS_MAX)?;
        let lines: Vec<u64> = self.recorder.unknown.keys().copied().collect();
        for line in lines {
            if let Some(drawn) = self.outcome_query(line) {
                self.expect_answer(drawn, "what became of a write")?;
            }
        }
        Ok(())
    }

    /// A last read of every key: it must be answered, and what it says closes the history.
    pub(super) fn read_everything(&mut self) -> Result<(), Violation> {
        for key in self.plain_keys() {
            let drawn = self.read_of(key);
            self.expect_answer(drawn, "a final read")?;
        }
        Ok(())
    }

    /// Fills all disks at once: reads go on; a write is done, or refused as what it is, or unknown, when the disks
    /// filled up under it; and it is done again when there is room.
    pub(super) fn run_out_of_room(&mut self) -> Result<(), Violation> {
        if self.swarm.fill_every.is_none() {
            return Ok(());
        }
        for node in 0..self.nodes.len() {
            self.fill_disk(node);
        }
        for _ in 0..WRITES_WHILE_FULL {
            for key in self.plain_keys() {
                let before = self.counts;
                let drawn = self.write_of(key);
                self.begin_operation(0, drawn);
                self.run_until(World::idle, SETTLE_MAX)?;
                let ends = |counts: &Counts| counts.disk_refusals + counts.answered + counts.unknown;
                if ends(&self.counts) == ends(&before) {
                    let found = format!("a write of k{key} to full disks was not refused for them");
                    return Err(Violation { invariant: "a_full_fleet_refuses_writes", found });
                }
            }
        }
        let read = self.read_everything();
        // Where a log's reserve is used up to the last byte, even finishing what was begun must wait for room.
        let exhausted = self.nodes.iter().filter_map(|node| node.running.as_ref()).any(|r| !r.log.waiting.is_empty());
        if !exhausted {
            read?;
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.set_capacity(u64::MAX);
        }
        let now = self.now;
        self.run_until(|world| world.now.since(now) > Duration::from_secs(1), SETTLE_MAX)?;
        for key in self.plain_keys() {
            let drawn = self.write_of(key);
            self.expect_answer(drawn, "a write with room again")?;
        }
        self.ask_for_unknown_ends()?;
        self.read_everything()
    }

    /// The keys that are neither locks nor guarded by one.
    fn plain_keys(&self) -> Vec<usize> {
        let plain = |kind: KeyKind| !matches!(kind, KeyKind::Lock | KeyKind::Guarded);
        (0..self.keys.len()).filter(|key| plain(self.keys[*key].1)).collect()
    }

    fn read_of(&self, key: usize) -> Drawn {
        let operation = Operation::Read { key: self.keys[key].0.clone() };
        let (function, input) = (history::Function::Read, history::Value::Null);
        Drawn { key, operation, function, input, purpose: Purpose::History, sequential: false }
    }

    /// A large write, so that a log fills up soon; keys whose values are computed are only added to.
    fn write_of(&self, key: usize) -> Drawn {
        let serial = self.serial_last + 1;
        let (register, kind) = self.keys[key].clone();
        let request = RequestId(u128::from(serial) << 64);
        let text = format!("w{serial}");
        let (change, function, input) = match kind {
            KeyKind::Register => {
                let padding = "x".repeat(self.swarm.segment_bytes as usize / 16);
                let text = format!("{text}{padding}");
                let body = bytes::Bytes::from(text.clone());
                let put = Change::Put(Stored { body, content_type: bytes::Bytes::new() });
                (put, history::Function::Write, history::Value::from(text))
            }
            KeyKind::Counter => (Change::Add(1), history::Function::Add, history::Value::from(1)),
            KeyKind::Lock | KeyKind::Guarded => unreachable!("only plain keys are written here"),
            KeyKind::Journal => {
                let append = Change::Append(bytes::Bytes::from(text.clone()));
                (append, history::Function::Append, history::Value::from(text))
            }
        };
        let (first_sent_ms, retry, condition) = (self.wall_ms(), false, Condition::Always);
        let terms = Terms::default();
        let write = Write { key: register, request, first_sent_ms, retry, condition, change, terms };
        let operation = Operation::Write(write);
        Drawn { key, operation, function, input, purpose: Purpose::History, sequential: false }
    }

    fn expect_answer(&mut self, drawn: Drawn, what: &str) -> Result<(), Violation> {
        let (key, answered) = (drawn.key, self.counts.answered);
        self.begin_operation(0, drawn);
        self.run_until(World::idle, SETTLE_MAX)?;
        if self.counts.answered == answered {
            let found = format!("{what} of k{key} was not answered, though all is calm");
            return Err(Violation { invariant: "a_calm_fleet_answers", found });
        }
        Ok(())
    }
}
