use serde::{Deserialize, Serialize};
use stdx::Instant;

use crate::command::{KvLock, KvWrite, Outcome, Refusal};
use crate::machine::Limits;
use crate::map::{Map, Set, under};

/// A pair of the KV store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// Its value.
    #[serde(with = "crate::map::bytes")]
    pub value: Vec<u8>,
    /// A number that means something to its writer.
    pub flags: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// The session that holds its lock.
    pub session: Option<String>,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which it last changed.
    pub modify_index: u64,
}

/// The pairs, and the indexes at which others were deleted.
///
/// Without the latter the index of a prefix would go back when its youngest pair is deleted. They are bounded: the
/// oldest are merged into one `floor` for all keys, which may tell a reader of a change that was none, but never hides
/// one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kv {
    entries: Map<String, KvEntry>,
    /// The keys that each session holds.
    held: Map<String, Set<String>>,
    tombstones: Map<String, u64>,
    floor: u64,
    /// Sum of the keys' and values' lengths.
    bytes: usize,
    /// Keys whose lock nobody gets before this time (nanoseconds): its last holder may not have noticed yet that its
    /// session is gone.
    lock_delays: Map<String, u64>,
}

/// What a KV command did: its outcome, and the keys whose pairs changed.
pub(crate) type KvChange = (Outcome, Vec<String>);

fn unchanged(outcome: Outcome) -> KvChange {
    (outcome, Vec::new())
}

impl Kv {
    pub(crate) fn get(&self, key: &str) -> Option<&KvEntry> {
        self.entries.get(key)
    }

    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        under(&self.entries, prefix)
    }

    /// The index of one key: of its pair, or of its deletion.
    pub(crate) fn index_of_key(&self, key: &str) -> u64 {
        match self.entries.get(key) {
            Some(entry) => entry.modify_index,
            None => self.tombstones.get(key).copied().unwrap_or(0).max(self.floor),
        }
    }

    /// The youngest change or deletion under a prefix.
    pub(crate) fn index_of_prefix(&self, prefix: &str) -> u64 {
        let live = self.under(prefix).map(|(_, entry)| entry.modify_index).max().unwrap_or(0);
        let dead = under(&self.tombstones, prefix).map(|(_, index)| *index).max().unwrap_or(0);
        live.max(dead).max(self.floor)
    }

    /// Writes a pair at index `at`, whoever holds its lock. The same value again is no change, as in Consul.
    pub(crate) fn put(&mut self, write: KvWrite, at: u64, limits: &Limits) -> KvChange {
        let present = self.entries.get(&write.key);
        let swaps = write.cas.is_none_or(|index| present.map_or(0, |entry| entry.modify_index) == index);
        if !swaps {
            return unchanged(Outcome::NotSwapped);
        }
        let (lock_index, session) = present.map_or((0, None), |entry| (entry.lock_index, entry.session.clone()));
        self.store(write, lock_index, session, at, limits)
    }

    /// Writes a pair and takes its lock for a session, which exists. Whoever holds it already may write again.
    pub(crate) fn lock(&mut self, lock: KvLock, now: Instant, at: u64, limits: &Limits) -> KvChange {
        if self.is_delayed(&lock.key, now) {
            return unchanged(Outcome::LockDelayed);
        }
        let present = self.entries.get(&lock.key);
        let lock_index = present.map_or(0, |entry| entry.lock_index);
        let lock_index = match present.and_then(|entry| entry.session.as_ref()) {
            Some(holder) if *holder == lock.session => lock_index,
            Some(_) => return unchanged(Outcome::NotSwapped),
            None => lock_index + 1,
        };
        let session = Some(lock.session.clone());
        self.store(lock.write(), lock_index, session, at, limits)
    }

    /// Writes a pair and gives its lock back, if `lock.session` holds it.
    pub(crate) fn unlock(&mut self, lock: KvLock, at: u64, limits: &Limits) -> KvChange {
        let held = self.entries.get(&lock.key).filter(|entry| entry.session.as_ref() == Some(&lock.session));
        let Some(lock_index) = held.map(|entry| entry.lock_index) else { return unchanged(Outcome::NotSwapped) };
        self.store(lock.write(), lock_index, None, at, limits)
    }

    fn store(
        &mut self,
        write: KvWrite,
        lock_index: u64,
        session: Option<String>,
        at: u64,
        limits: &Limits,
    ) -> KvChange {
        let present = self.entries.get(&write.key);
        let is_same = |entry: &KvEntry| {
            entry.value == write.value
                && entry.flags == write.flags
                && entry.lock_index == lock_index
                && entry.session == session
        };
        if present.is_some_and(is_same) {
            return unchanged(Outcome::Done);
        }
        let size = write.key.len() + write.value.len();
        let size_before = present.map_or(0, |entry| write.key.len() + entry.value.len());
        if present.is_none() && self.entries.size() >= limits.keys_max {
            return unchanged(Outcome::Refused(Refusal::full("keys", limits.keys_max)));
        }
        if self.bytes - size_before + size > limits.kv_bytes_max {
            let full = Refusal::full("bytes of keys and values", limits.kv_bytes_max);
            return unchanged(Outcome::Refused(full));
        }
        self.bytes = self.bytes - size_before + size;
        let create_index = present.map_or(at, |entry| entry.create_index);
        let holder_before = present.and_then(|entry| entry.session.clone());
        let KvWrite { key, value, flags, .. } = write;
        self.hold(&key, holder_before.as_ref(), session.as_ref());
        let entry = KvEntry { value, flags, lock_index, session, create_index, modify_index: at };
        self.tombstones.remove_mut(&key);
        self.entries.insert_mut(key.clone(), entry);
        (Outcome::Done, vec![key])
    }

    /// Deletes a pair at index `at`. Without such a pair there is nothing to do, whatever was compared.
    pub(crate) fn delete(&mut self, key: &str, cas: Option<u64>, at: u64, limits: &Limits) -> KvChange {
        let Some(entry) = self.entries.get(key) else { return unchanged(Outcome::Done) };
        if cas.is_some_and(|index| index != entry.modify_index) {
            return unchanged(Outcome::NotSwapped);
        }
        self.remove(key, at);
        self.forget_old_tombstones(limits);
        (Outcome::Done, vec![key.to_owned()])
    }

    /// Deletes all pairs under a prefix at index `at`.
    pub(crate) fn delete_tree(&mut self, prefix: &str, at: u64, limits: &Limits) -> KvChange {
        let keys: Vec<String> = self.under(prefix).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key, at);
        }
        self.forget_old_tombstones(limits);
        (Outcome::Done, keys)
    }

    /// A session is gone: its locks are given back, or their pairs deleted, and nobody gets them before `free_at`.
    pub(crate) fn session_gone(
        &mut self,
        session: &str,
        deletes: bool,
        now: Instant,
        free_at: Instant,
        at: u64,
        limits: &Limits,
    ) -> Vec<String> {
        let keys: Vec<String> = self.held.get(session).into_iter().flat_map(Set::iter).cloned().collect();
        self.held.remove_mut(session);
        self.forget_old_delays(now);
        for key in &keys {
            if free_at > now {
                self.lock_delays.insert_mut(key.clone(), free_at.as_nanos());
            }
            if deletes {
                self.remove(key, at);
            } else if let Some(entry) = self.entries.get_mut(key) {
                entry.session = None;
                entry.modify_index = at;
            }
        }
        self.forget_old_tombstones(limits);
        keys
    }

    /// Whether the list of a session's keys has this one.
    #[cfg(test)]
    pub(crate) fn holds(&self, session: &str, key: &str) -> bool {
        self.held.get(session).is_some_and(|keys| keys.contains(key))
    }

    pub(crate) fn is_delayed(&self, key: &str, now: Instant) -> bool {
        self.lock_delays.get(key).is_some_and(|until| *until > now.as_nanos())
    }

    fn forget_old_delays(&mut self, now: Instant) {
        let over = self.lock_delays.iter().filter(|(_, until)| **until <= now.as_nanos());
        for key in over.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.lock_delays.remove_mut(&key);
        }
    }

    /// Notes that a key's lock goes from one session to another.
    fn hold(&mut self, key: &str, before: Option<&String>, after: Option<&String>) {
        if before == after {
            return;
        }
        if let Some(session) = before
            && let Some(mut keys) = self.held.get(session).cloned()
        {
            keys.remove_mut(key);
            if keys.is_empty() {
                self.held.remove_mut(session);
            } else {
                self.held.insert_mut(session.clone(), keys);
            }
        }
        if let Some(session) = after {
            let mut keys = self.held.get(session).cloned().unwrap_or_default();
            keys.insert_mut(key.to_owned());
            self.held.insert_mut(session.clone(), keys);
        }
    }

    fn remove(&mut self, key: &str, at: u64) {
        if let Some(entry) = self.entries.get(key).cloned() {
            self.bytes -= key.len() + entry.value.len();
            self.hold(key, entry.session.as_ref(), None);
            self.entries.remove_mut(key);
            self.tombstones.insert_mut(key.to_owned(), at);
        }
    }

    /// Past the bound, the older half goes: so that this is not done again at the next deletion.
    fn forget_old_tombstones(&mut self, limits: &Limits) {
        if self.tombstones.size() <= limits.tombstones_max {
            return;
        }
        let mut indexes: Vec<u64> = self.tombstones.values().copied().collect();
        indexes.sort_unstable();
        self.floor = self.floor.max(indexes[indexes.len() / 2]);
        let forgotten = self.tombstones.iter().filter(|(_, index)| **index <= self.floor);
        for key in forgotten.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.tombstones.remove_mut(&key);
        }
    }
}
