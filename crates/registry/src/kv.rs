use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::command::{Answer, KvWrite, Refusal};
use crate::machine::Limits;

/// A pair of the KV store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// Its value.
    #[serde(with = "crate::snapshot::base64_bytes")]
    pub value: Vec<u8>,
    /// A number that means something to its writer.
    pub flags: u64,
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
    entries: BTreeMap<String, KvEntry>,
    tombstones: BTreeMap<String, u64>,
    floor: u64,
    /// Sum of the keys' and values' lengths.
    bytes: usize,
}

/// What a KV command did.
pub(crate) struct KvChange {
    pub(crate) answer: Answer,
    /// The keys whose pairs changed; empty if the command changed nothing.
    pub(crate) keys: Vec<String>,
}

impl KvChange {
    fn none(answer: Answer) -> KvChange {
        KvChange { answer, keys: Vec::new() }
    }
}

impl Kv {
    pub(crate) fn get(&self, key: &str) -> Option<&KvEntry> {
        self.entries.get(key)
    }

    pub(crate) fn under(&self, prefix: &str) -> impl Iterator<Item = (&String, &KvEntry)> {
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

    /// Writes a pair at index `at`. The same value again is no change, as in Consul.
    pub(crate) fn put(&mut self, write: KvWrite, at: u64, limits: &Limits) -> KvChange {
        let present = self.entries.get(&write.key);
        let swaps = write.cas.is_none_or(|index| present.map_or(0, |entry| entry.modify_index) == index);
        if !swaps {
            return KvChange::none(Answer::NotSwapped);
        }
        if present.is_some_and(|entry| entry.value == write.value && entry.flags == write.flags) {
            return KvChange::none(Answer::Done);
        }
        let size = write.key.len() + write.value.len();
        let size_before = present.map_or(0, |entry| write.key.len() + entry.value.len());
        if present.is_none() && self.entries.len() >= limits.keys_max {
            return KvChange::none(Answer::Refused(Refusal::Full { what: "keys", most: limits.keys_max }));
        }
        if self.bytes - size_before + size > limits.kv_bytes_max {
            let full = Refusal::Full { what: "bytes of keys and values", most: limits.kv_bytes_max };
            return KvChange::none(Answer::Refused(full));
        }
        self.bytes = self.bytes - size_before + size;
        let create_index = present.map_or(at, |entry| entry.create_index);
        let entry = KvEntry { value: write.value, flags: write.flags, create_index, modify_index: at };
        self.tombstones.remove(&write.key);
        self.entries.insert(write.key.clone(), entry);
        KvChange { answer: Answer::Done, keys: vec![write.key] }
    }

    /// Deletes a pair at index `at`. Without such a pair there is nothing to do, whatever was compared.
    pub(crate) fn delete(&mut self, key: &str, cas: Option<u64>, at: u64, limits: &Limits) -> KvChange {
        let Some(entry) = self.entries.get(key) else { return KvChange::none(Answer::Done) };
        if cas.is_some_and(|index| index != entry.modify_index) {
            return KvChange::none(Answer::NotSwapped);
        }
        self.remove(key, at);
        self.forget_old_tombstones(limits);
        KvChange { answer: Answer::Done, keys: vec![key.to_owned()] }
    }

    /// Deletes all pairs under a prefix at index `at`.
    pub(crate) fn delete_tree(&mut self, prefix: &str, at: u64, limits: &Limits) -> KvChange {
        let keys: Vec<String> = self.under(prefix).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key, at);
        }
        self.forget_old_tombstones(limits);
        KvChange { answer: Answer::Done, keys }
    }

    fn remove(&mut self, key: &str, at: u64) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= key.len() + entry.value.len();
            self.tombstones.insert(key.to_owned(), at);
        }
    }

    /// Past the bound, the older half goes: so that this is not done again at the next deletion.
    fn forget_old_tombstones(&mut self, limits: &Limits) {
        if self.tombstones.len() <= limits.tombstones_max {
            return;
        }
        let mut indexes: Vec<u64> = self.tombstones.values().copied().collect();
        indexes.sort_unstable();
        self.floor = self.floor.max(indexes[indexes.len() / 2]);
        let floor = self.floor;
        self.tombstones.retain(|_, index| *index > floor);
    }
}

/// The part of a map whose keys start with `prefix`.
fn under<'a, V>(map: &'a BTreeMap<String, V>, prefix: &str) -> impl Iterator<Item = (&'a String, &'a V)> {
    let prefix = prefix.to_owned();
    map.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(&prefix))
        .collect::<Vec<_>>()
        .into_iter()
}
