//! Which keys the latest writes that this node took were of, by request id: a hint of where to ask what became of one.
//!
//! What became of a write is remembered beside its key, and only there. A client that lost its answer may know no more
//! than the id that it sent. So each node keeps for the latest requests which keys they were of. It decides nothing:
//! whoever is told a key asks the key's replicas for the request.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use membership::{BucketId, Position};
use replication::{REQUESTS_AGE_MAX_MS, RegisterKey, RequestId};

/// Requests that are kept at most; past it, the one that came first is forgotten.
const RECENT_MAX: usize = 32_768;
/// Of one state the latest requests are looked at, until one is known already. A round brings up to 64 at once.
const LOOKED_AT_MAX: usize = 64;
/// Keys of one request that are told at most.
const TOLD_MAX: usize = 16;

/// The latest requests.
#[derive(Debug, Default)]
pub(crate) struct RecentRequests {
    known: BTreeSet<(RequestId, RegisterKey)>,
    order: VecDeque<(RequestId, RegisterKey)>,
    /// When the latest of them was first received, by a gateway's clock.
    latest_ms: u64,
}

impl RecentRequests {
    /// The keys that the request was of.
    pub fn find(&self, request: RequestId) -> impl Iterator<Item = &RegisterKey> {
        let least = RegisterKey { position: Position(0), bucket: BucketId(0), key: Bytes::new() };
        let from = self.known.range((request, least)..);
        from.take_while(move |(known, _)| *known == request).map(|(_, key)| key).take(TOLD_MAX)
    }

    /// Notes a request. False if it is known already.
    pub fn note(&mut self, request: RequestId, first_sent_ms: u64, key: &RegisterKey) -> bool {
        self.latest_ms = self.latest_ms.max(first_sent_ms);
        // What is copied from elsewhere may be long over, and is not to push out what is not.
        if first_sent_ms.saturating_add(REQUESTS_AGE_MAX_MS) < self.latest_ms {
            return true;
        }
        // A copy, for the key that came may keep a whole frame in memory.
        let entry = (request, RegisterKey { key: Bytes::copy_from_slice(&key.key), ..key.clone() });
        if !self.known.insert(entry.clone()) {
            return false;
        }
        self.order.push_back(entry);
        if self.order.len() > RECENT_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.known.remove(&first);
        }
        true
    }

    /// Notes what a register's record holds.
    pub fn take_register(&mut self, record: &replication::Record) {
        if let replication::Record::Accepted { key, state, .. } = record {
            let latest = state.requests.entries.iter().rev();
            self.note_latest(key, latest.map(|entry| (entry.request, entry.first_sent_ms)));
        }
    }

    /// Notes what an available key's record holds.
    pub fn take_available(&mut self, record: &available::Record) {
        if let available::Record::Held { key, state } = record {
            self.note_state(key, state);
        }
    }

    /// Notes what is held of an available key.
    pub fn note_state(&mut self, key: &RegisterKey, state: &available::State) {
        self.note_latest(key, state.entries.iter().rev().map(|entry| (entry.request, entry.first_sent_ms)));
        self.note_latest(key, state.past.iter().rev().map(|past| (past.request, past.first_sent_ms)));
    }

    /// Notes requests, the latest first, until one is known already.
    fn note_latest(&mut self, key: &RegisterKey, latest: impl Iterator<Item = (RequestId, u64)>) {
        for (request, first_sent_ms) in latest.take(LOOKED_AT_MAX) {
            if !self.note(request, first_sent_ms, key) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from_static(b"k") }
    }

    #[test]
    fn a_request_is_found_by_each_of_its_keys() {
        let mut recent = RecentRequests::default();
        assert!(recent.note(RequestId(7), 1, &key(1)) && recent.note(RequestId(7), 1, &key(2)));
        recent.note(RequestId(8), 1, &key(3));
        assert!(!recent.note(RequestId(7), 1, &key(2)));
        assert_eq!(recent.find(RequestId(7)).cloned().collect::<Vec<_>>(), [key(1), key(2)]);
        assert_eq!(recent.find(RequestId(9)).count(), 0);
    }

    #[test]
    fn the_first_is_forgotten_for_room_and_what_is_long_over_takes_none() {
        let mut recent = RecentRequests::default();
        for id in 0..=RECENT_MAX as u128 {
            recent.note(RequestId(id), REQUESTS_AGE_MAX_MS * 2, &key(1));
        }
        assert_eq!((recent.find(RequestId(0)).count(), recent.find(RequestId(1)).count()), (0, 1));
        recent.note(RequestId(1 << 100), REQUESTS_AGE_MAX_MS - 1, &key(1));
        assert_eq!((recent.find(RequestId(1 << 100)).count(), recent.find(RequestId(1)).count()), (0, 1));
        assert_eq!((recent.known.len(), recent.order.len()), (RECENT_MAX, RECENT_MAX));
    }
}
