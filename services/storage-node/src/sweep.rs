//! Values of available buckets whose time is up, and what a cache must let go of for want of room: which deletions a
//! home of their keys proposes.
//!
//! A deletion is an ordinary write. It names the one write whose value it ends, so that a newer value stays whatever a
//! clock says; its request is that write's, marked, so that the homes of a key that propose the same deletion make it
//! once. The first home proposes it, the others only when it has not: nobody depends on any one node.

use available::{Action, Change, Context, Entry, EntryBody, Held, Kind, Level, Operation, Past, Range, Table, Write};
use membership::{NodeId, Position};
use replication::{RegisterKey, RequestId};
use wire::ending;
use wire::http::ALWAYS_BUCKETS;

/// Keys looked at in one go.
const KEYS_MAX: usize = 4_096;
/// Deletions proposed in one go.
const DELETIONS_MAX: usize = 256;
/// How much longer the next home waits than the one before it, in milliseconds.
const TURN_MS: u64 = 5_000;
/// What the keys in memory may take at one node, about, in bytes, before those of the bucket `cache` are let go of.
const CACHE_BYTES_MAX: usize = 128 << 20;
/// Tells a deletion's request from that of the write which it ends.
const MARK: u128 = 0x656e_6465_645f_656e_6465_645f_656e_6465;

/// Goes through a table, some keys at a time.
#[derive(Debug)]
pub(crate) struct Sweep {
    next: u64,
    cache_bytes_max: usize,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep { next: 0, cache_bytes_max: CACHE_BYTES_MAX }
    }
}

impl Sweep {
    /// The deletions that are due among the next keys. `homes` are those of a position.
    pub fn next(
        &mut self,
        table: &Table,
        me: NodeId,
        homes: impl Fn(Position) -> std::sync::Arc<[NodeId]>,
        wall_ms: u64,
    ) -> Vec<Operation> {
        let crowded = table.bytes() > self.cache_bytes_max;
        let mut deletions = Vec::new();
        let mut cached: Vec<(&RegisterKey, &Held, &Entry)> = Vec::new();
        let mut next = 0;
        for (looked, (key, held)) in table.range(Range { first: self.next, last: u64::MAX }).enumerate() {
            if looked == KEYS_MAX || deletions.len() >= DELETIONS_MAX {
                next = key.position.0;
                break;
            }
            let homes = homes(key.position);
            let Some(turn) = homes.iter().position(|home| *home == me) else { continue };
            for entry in &held.state.entries {
                let over = ends_ms(entry).is_some_and(|ends_ms| wall_ms >= ends_ms + turn as u64 * TURN_MS);
                if over {
                    deletions.push(deletion(key, held, entry, wall_ms));
                } else if crowded && turn == 0 && is_cached(key, entry) {
                    cached.push((key, held, entry));
                }
            }
        }
        self.next = next;
        // Of those seen, the ones that were written longest ago: an eighth of them at a time.
        cached.sort_by_key(|(_, _, entry)| entry.dot.counter);
        let most = (cached.len() / 8).min(DELETIONS_MAX);
        deletions.extend(cached.into_iter().take(most).map(|(key, held, entry)| deletion(key, held, entry, wall_ms)));
        deletions
    }
}

fn ends_ms(entry: &Entry) -> Option<u64> {
    match &entry.body {
        EntryBody::Value(value) => ending::split_end(&value.content_type).1,
        EntryBody::Amount(_) | EntryBody::Element(_) | EntryBody::Field { .. } | EntryBody::Deleted => None,
    }
}

fn is_cached(key: &RegisterKey, entry: &Entry) -> bool {
    let cache = ALWAYS_BUCKETS.iter().any(|(name, id)| *name == "cache" && *id == key.bucket.0);
    cache && matches!(entry.body, EntryBody::Value(_))
}

fn deletion(key: &RegisterKey, held: &Held, entry: &Entry, wall_ms: u64) -> Operation {
    let kind: Kind = held.state.kind;
    let write = Write {
        key: key.clone(),
        kind,
        request: RequestId(entry.request.0 ^ MARK),
        first_sent_ms: wall_ms,
        context: Some(Context::of(entry.dot)),
        // Just above the write that it ends: whatever is later stays.
        order: entry.order.saturating_add(1),
        firm: false,
        change: Change::Delete,
    };
    let action = Action::Write(write);
    Operation { key: key.clone(), level: Level::Eventual, past: Past::default(), stand_in: false, action }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use available::{Actor, DigestKey, Dot, State};
    use bytes::Bytes;
    use membership::BucketId;
    use replication::{LogPosition, Value};

    use super::*;

    fn key(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(2), key: Bytes::from_static(b"k") }
    }

    fn held(table: &mut Table, position: u64, ends: &[Option<u64>]) {
        let entries = ends.iter().zip(1..).map(|(ends_ms, counter)| Entry {
            dot: Dot { counter, actor: Actor { node: NodeId(1), birth: 1 } },
            request: RequestId(u128::from(counter)),
            first_sent_ms: 0,
            order: counter,
            session: 0,
            existed: false,
            body: EntryBody::Value(Value {
                body: Bytes::from_static(b"v"),
                content_type: ending::with_end(b"text/plain", *ends_ms),
            }),
        });
        let state = State { entries: entries.collect(), ..State::absent(Kind::Value) };
        table.put(&key(position), state, LogPosition(1));
    }

    fn swept(table: &Table, me: u64, wall_ms: u64) -> Vec<(u64, Context)> {
        let homes = |_| -> Arc<[NodeId]> { [1, 2, 3].map(NodeId).into() };
        let operations = Sweep::default().next(table, NodeId(me), homes, wall_ms);
        let named = |operation: Operation| match operation.action {
            Action::Write(Write { context: Some(context), change: Change::Delete, .. }) => {
                (operation.key.position.0, context)
            }
            other => panic!("not a deletion of what was seen: {other:?}"),
        };
        operations.into_iter().map(named).collect()
    }

    #[test]
    fn only_what_is_over_is_ended_and_nothing_beside_it() {
        let mut table = Table::new(DigestKey::new(b"secret"));
        held(&mut table, 5, &[None, Some(1_000), Some(9_000)]);
        held(&mut table, 9, &[None]);
        assert_eq!(swept(&table, 1, 999), []);
        let over = Context::of(Dot { counter: 2, actor: Actor { node: NodeId(1), birth: 1 } });
        assert_eq!(swept(&table, 1, 1_000), [(5, over)]);
    }

    #[test]
    fn the_homes_take_turns_and_who_is_none_proposes_nothing() {
        let mut table = Table::new(DigestKey::new(b"secret"));
        held(&mut table, 5, &[Some(1_000)]);
        assert_eq!(swept(&table, 2, 1_000 + TURN_MS - 1), []);
        assert_eq!(swept(&table, 2, 1_000 + TURN_MS).len(), 1);
        assert_eq!(swept(&table, 3, 1_000 + 2 * TURN_MS).len(), 1);
        assert_eq!(swept(&table, 4, u64::MAX), []);
    }

    #[test]
    fn all_homes_propose_one_request() {
        let mut table = Table::new(DigestKey::new(b"secret"));
        held(&mut table, 5, &[Some(1_000)]);
        let request = |me| {
            let homes = |_| -> Arc<[NodeId]> { [1, 2, 3].map(NodeId).into() };
            let operations = Sweep::default().next(&table, NodeId(me), homes, 100_000);
            match &operations[0].action {
                Action::Write(write) => write.request,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(request(1), request(3));
    }

    #[test]
    fn a_crowded_cache_lets_go_of_what_was_written_first_and_of_nothing_else() {
        let mut table = Table::new(DigestKey::new(b"secret"));
        for position in 0..16 {
            held(&mut table, position, &[None]);
        }
        let cache = ALWAYS_BUCKETS.iter().find(|(name, _)| *name == "cache").expect("it always exists").1;
        for position in 0..16u64 {
            let dot = Dot { counter: 100 - position, actor: Actor { node: NodeId(1), birth: 1 } };
            let body = EntryBody::Value(Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() });
            let (request, order) = (RequestId(u128::from(position)), dot.counter);
            let entry = Entry { dot, request, first_sent_ms: 0, order, session: 0, existed: false, body };
            let state = State { entries: vec![entry], ..State::absent(Kind::LastWriter) };
            table.put(&RegisterKey { bucket: BucketId(cache), ..key(position) }, state, LogPosition(1));
        }
        let homes = |_| -> Arc<[NodeId]> { [1].map(NodeId).into() };
        let evicted = |cache_bytes_max| {
            let mut sweep = Sweep { cache_bytes_max, ..Sweep::default() };
            let operations = sweep.next(&table, NodeId(1), homes, 10);
            operations.iter().map(|one| (one.key.bucket.0, one.key.position.0)).collect::<Vec<_>>()
        };
        assert_eq!(evicted(table.bytes()), []);
        assert_eq!(evicted(1), [(cache, 15), (cache, 14)], "an eighth at a time, the oldest first");
    }

    #[test]
    fn a_large_table_is_gone_through_in_pieces() {
        let mut table = Table::new(DigestKey::new(b"secret"));
        for position in 0..(DELETIONS_MAX as u64 + 10) {
            held(&mut table, position, &[Some(1)]);
        }
        let homes = |_| -> Arc<[NodeId]> { [1].map(NodeId).into() };
        let mut sweep = Sweep::default();
        assert_eq!(sweep.next(&table, NodeId(1), homes, 10).len(), DELETIONS_MAX);
        assert_eq!(sweep.next(&table, NodeId(1), homes, 10).len(), 10);
        assert_eq!(sweep.next(&table, NodeId(1), homes, 10).len(), DELETIONS_MAX, "from the beginning again");
    }
}
