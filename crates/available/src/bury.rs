//! How tombstones go away: when all homes hold them, and never by age.
//!
//! The home with the smallest id asks the others whether each holds exactly this tombstone *and* has received all that
//! its actors stamped up to it. If all do, all drop it. From then on nothing brings back what it buried: a late copy
//! of it names dots below every home's marks, and such dots are gone if they are not there (`stream.rs`). The marks
//! that this rests on are put on disk before a home says yes.
//!
//! A tombstone also carries the memory of its key's requests, so it stays until those are old enough to be forgotten,
//! and until no node keeps a hint as old as they are. That is the one use of age here, and it only keeps things longer.

use std::collections::{BTreeMap, BTreeSet};

use membership::NodeId;
use replication::{LogPosition, RegisterKey};
use stdx::TraceContext;

use crate::io::{Event, Outbox};
use crate::message::{Body, Record};
use crate::replica::Replica;
use crate::rules::Rule;
use crate::version::{Actor, VersionVector};

/// Tombstones that are looked at in one beat.
const LOOKED_AT_MAX: usize = 64;

impl Replica {
    /// Asks the other homes about some tombstones.
    pub(crate) fn bury(&mut self, out: &mut Outbox) {
        if self.graves.is_empty() {
            return;
        }
        let after = match self.grave_last.take() {
            Some(last) => (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        let some: Vec<RegisterKey> = self.graves.range(after).take(LOOKED_AT_MAX).cloned().collect();
        self.grave_last = if some.len() == LOOKED_AT_MAX { some.last().cloned() } else { None };
        let mut questions: BTreeMap<NodeId, Vec<(RegisterKey, VersionVector)>> = BTreeMap::new();
        for key in some {
            let homes = self.homes(key.position);
            // While homes change, it is not settled who all are.
            if self.sets_of(key.position).next.is_some() {
                continue;
            }
            let ours = homes.iter().min() == Some(&self.me);
            let Some(vector) = self.held_tombstone(&key).filter(|_| ours) else { continue };
            if !self.may_bury(&key, &vector) {
                continue;
            }
            self.buried_by.insert(key.clone(), (vector.clone(), BTreeSet::new()));
            for home in homes.iter().filter(|home| **home != self.me) {
                questions.entry(*home).or_default().push((key.clone(), vector.clone()));
            }
        }
        for (home, keys) in questions {
            self.tell(home, Body::Bury { keys }, LogPosition(0), TraceContext::NONE, out);
        }
    }

    /// The tombstone that is held of the key, if one is.
    fn held_tombstone(&self, key: &RegisterKey) -> Option<VersionVector> {
        let held = self.table.get(key).filter(|held| held.logged <= self.synced)?;
        let state = &held.state;
        // A client that had seen the key before its last tombstone was dropped still names what that buried. Our marks
        // are past it, so it needs no tombstone to stay gone.
        let lone_are_gone = state.context.dots().iter().all(|dot| self.is_gone(key.position, *dot));
        (state.is_tombstone() && lone_are_gone).then(|| state.context.vector.clone())
    }

    /// Whether we hold exactly this tombstone, all that could bring back what it buries, and no request that may come
    /// again.
    fn may_bury(&self, key: &RegisterKey, vector: &VersionVector) -> bool {
        let hints_from_ms = self.hints_from_ms();
        let old = |first_sent_ms: u64| {
            first_sent_ms.saturating_add(self.config.memory_ms) < self.wall_ms && first_sent_ms < hints_from_ms
        };
        let forgotten = self.table.get(key).is_some_and(|held| held.state.past.iter().all(|p| old(p.first_sent_ms)));
        forgotten && self.holds_exactly(key, vector)
    }

    /// Whether we hold exactly this tombstone, and all that could bring back what it buries.
    fn holds_exactly(&self, key: &RegisterKey, vector: &VersionVector) -> bool {
        let known = |(actor, counter): (Actor, u64)| self.is_known(key.position, actor, counter);
        (!self.rules.keep(Rule::BuriedEarly) || vector.iter().all(known))
            && self.held_tombstone(key).as_ref() == Some(vector)
    }

    /// Puts on disk what burying rests on; up to where the log must be synced for it.
    fn log_marks_of(&mut self, key: &RegisterKey, vector: &VersionVector, out: &mut Outbox) -> LogPosition {
        let mut wait = LogPosition(0);
        let held = self.table.get(key).map_or(&[][..], |held| held.state.context.dots());
        let lone: Vec<(Actor, u64)> = held.iter().map(|dot| (dot.actor, dot.counter)).collect();
        for (actor, counter) in vector.iter().chain(lone) {
            if actor != self.actor && self.marks_logged.get(&actor).copied().unwrap_or(0) < counter {
                wait = self.log_mark(actor, out);
            }
        }
        wait
    }

    pub(crate) fn handle_bury(&mut self, from: NodeId, keys: Vec<(RegisterKey, VersionVector)>, out: &mut Outbox) {
        let mut wait = LogPosition(0);
        let mut yes = Vec::new();
        for (key, vector) in keys {
            let settled = self.sets_of(key.position).next.is_none() && self.is_home(key.position);
            if settled && self.may_bury(&key, &vector) {
                wait = wait.max(self.log_marks_of(&key, &vector, out)).max(self.logged(&key));
                yes.push((key, vector));
            }
        }
        if !yes.is_empty() {
            self.tell(from, Body::Buried { keys: yes }, wait, TraceContext::NONE, out);
        }
    }

    pub(crate) fn handle_buried(&mut self, from: NodeId, keys: Vec<(RegisterKey, VersionVector)>, out: &mut Outbox) {
        let mut drops: BTreeMap<NodeId, Vec<(RegisterKey, VersionVector)>> = BTreeMap::new();
        let mut own = Vec::new();
        for (key, vector) in keys {
            let homes = self.homes(key.position);
            let Some((_, by)) = self.buried_by.get_mut(&key).filter(|(asked, _)| *asked == vector) else {
                continue;
            };
            by.insert(from);
            let need = if self.rules.keep(Rule::BuriedEarly) { homes.len() } else { Self::majority(&homes) };
            if by.len() + 1 < need {
                continue;
            }
            self.buried_by.remove(&key);
            for home in homes.iter().filter(|home| **home != self.me) {
                drops.entry(*home).or_default().push((key.clone(), vector.clone()));
            }
            own.push((key, vector));
        }
        self.handle_drop(own, out);
        for (home, keys) in drops {
            self.tell(home, Body::Drop { keys }, LogPosition(0), TraceContext::NONE, out);
        }
    }

    /// All homes hold these tombstones.
    pub(crate) fn handle_drop(&mut self, keys: Vec<(RegisterKey, VersionVector)>, out: &mut Outbox) {
        let mut count = 0;
        for (key, vector) in keys {
            if !self.holds_exactly(&key, &vector) {
                continue;
            }
            self.log_marks_of(&key, &vector, out);
            self.log(Record::Dropped(key.clone()), out);
            self.buried_max = self.buried_max.max(vector.counter_max());
            self.table.remove(&key);
            self.graves.remove(&key);
            count += 1;
        }
        if count > 0 {
            out.events.push(Event::Buried { count });
        }
    }
}
