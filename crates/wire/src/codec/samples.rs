//! Proptest strategies for everything that is encoded. Each enum's strategy names every variant.

use std::collections::BTreeSet;

use available::{Actor, Context, Dot, Known, Listing, ListingPage, VersionVector};
use bytes::Bytes;
use chord::NextHop;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use replication::{
    ArcPrint, Ballot, Body, Change, Condition, Effect, LedgerPosition, LockCall, Message, Operation, Outcome, Receipt,
    Record, Refusal, RegisterKey, Remembered, RequestId, RequestMemory, RoundId, Scan, ScanEntry, ScanOutcome,
    ScanPage, State, Terms, Value, Version, Write,
};
use stdx::TraceContext;

use crate::http::Durability;
use crate::node::{Finding, Frame, HeldRegister, Hello, Inquiry, LookupBy, OperationCall, Payload, ScanCall, Sender};

/// Numbers of every length of varint.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
}

/// Short ones, mostly; now and then one that is long enough to be shared.
fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 4090..4100)].prop_map(Bytes::from)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn key() -> impl Strategy<Value = RegisterKey> {
    (any::<u64>(), any::<u32>(), bytes()).prop_map(|(position, bucket, key)| RegisterKey {
        position: Position(position),
        bucket: BucketId(bucket),
        key,
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (number(), node()).prop_map(|(counter, node)| Ballot { counter, node })
}

fn version() -> impl Strategy<Value = Version> {
    (ballot(), any::<u32>()).prop_map(|(ballot, index)| Version { ballot, index })
}

fn value() -> impl Strategy<Value = Value> {
    (bytes(), bytes()).prop_map(|(body, content_type)| Value { body, content_type })
}

fn request() -> impl Strategy<Value = RequestId> {
    any::<u128>().prop_map(RequestId)
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        version().prop_map(Effect::Created),
        version().prop_map(Effect::Replaced),
        version().prop_map(Effect::Deleted),
        option::of(version()).prop_map(Effect::ConditionFailed),
        Just(Effect::Unfit),
        number().prop_map(Effect::FencedOff),
        (number(), number()).prop_map(|(fence, ends_ms)| Effect::Granted { fence, ends_ms }),
        (any::<u32>(), number()).prop_map(|(place, ends_ms)| Effect::Held { place, ends_ms }),
        Just(Effect::Released),
        Just(Effect::NotHeld),
    ]
}

fn state() -> impl Strategy<Value = State> {
    let remembered = (request(), number(), effect()).prop_map(|(request, first_sent_ms, effect)| Remembered {
        request,
        first_sent_ms,
        effect,
    });
    (version(), option::of(value()), vec(remembered, 0..4), number(), number(), number()).prop_map(
        |(version, value, entries, horizon_ms, fence, ends_ms)| State {
            version,
            value,
            requests: RequestMemory { entries, horizon_ms },
            fence,
            ends_ms,
        },
    )
}

fn round() -> impl Strategy<Value = RoundId> {
    number().prop_map(RoundId)
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        (round(), key(), ballot()).prop_map(|(round, key, ballot)| Body::Prepare { round, key, ballot }),
        (round(), ballot(), state())
            .prop_map(|(round, ballot, state)| Body::Promise { round, accepted: (ballot, state) }),
        (round(), key(), ballot(), state(), ballot()).prop_map(|(round, key, ballot, state, next)| Body::Accept {
            round,
            key,
            ballot,
            state,
            next
        }),
        round().prop_map(|round| Body::Accepted { round }),
        (round(), number(), any::<bool>()).prop_map(|(round, seen, disk_full)| Body::Nack { round, seen, disk_full }),
        (round(), key(), ballot()).prop_map(|(round, key, known)| Body::Query { round, key, known }),
        (round(), ballot(), option::of(state())).prop_map(|(round, ballot, state)| Body::Report {
            round,
            ballot,
            state
        }),
        (key(), ballot(), state()).prop_map(|(key, ballot, state)| Body::Learn { key, ballot, state }),
        (round(), option::of(key())).prop_map(|(round, after)| Body::Digest { round, after }),
        (round(), vec((key(), ballot()), 0..4), any::<bool>()).prop_map(|(round, entries, more)| Body::DigestPage {
            round,
            entries,
            more
        }),
        (round(), number(), number(), number(), ledger_position(), option::of(key())).prop_map(
            |(round, arc, up_to, since, position, after)| Body::Confirm {
                round,
                arc: Position(arc),
                up_to,
                since,
                position,
                after,
            },
        ),
        (round(), ledger_position(), vec((key(), ballot()), 0..4), any::<bool>())
            .prop_map(|(round, position, entries, more)| Body::Confirmed { round, position, entries, more },),
        option::of(view()).prop_map(|view| Body::OtherEpoch { view: view.map(std::sync::Arc::new) }),
        copying(),
        number().prop_map(|incarnation| Body::Fenced { incarnation }),
        (round(), any::<u64>(), number(), vec((key(), ballot()), 0..4))
            .prop_map(|(round, arc, up_to, keys)| { Body::Collect { round, arc: Position(arc), up_to, keys } }),
        (round(), vec(any::<u32>(), 0..4), number()).prop_map(|(round, refused, floor)| Body::Collectable {
            round,
            refused,
            floor
        }),
        (any::<u64>(), number(), vec((key(), ballot()), 0..4)).prop_map(|(arc, up_to, keys)| Body::Collected {
            arc: Position(arc),
            up_to,
            keys
        }),
    ];
    (number(), number(), body).prop_map(|(epoch, counter, body)| Message { epoch: Epoch(epoch), counter, body })
}

/// Questions and answers of a copy.
fn copying() -> impl Strategy<Value = Body> {
    prop_oneof![
        (round(), any::<u64>(), option::of(key())).prop_map(|(round, high, after)| Body::Copy {
            round,
            high: Position(high),
            after
        }),
        (round(), vec((key(), ballot()), 0..4), any::<bool>(), number(), any::<u64>(), number()).prop_map(
            |(round, entries, more, registers, print, floor)| {
                Body::CopyPage { round, entries, more, held: ArcPrint { registers, print }, floor }
            }
        ),
        (round(), any::<u64>(), vec(key(), 0..4)).prop_map(|(round, high, keys)| Body::Fetch {
            round,
            high: Position(high),
            keys
        }),
        (round(), vec((key(), ballot(), state()), 0..4)).prop_map(|(round, entries)| Body::Fetched { round, entries }),
    ]
}

fn ledger_position() -> impl Strategy<Value = LedgerPosition> {
    (number(), number()).prop_map(|(start, count)| LedgerPosition { start, count })
}

/// A formed ring of a few members, with one more joining, one leaving, or neither.
fn view() -> impl Strategy<Value = View> {
    (4u64..7, 0..3, number()).prop_map(|(count, change, cluster)| {
        let member = |id: u64| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            weight: id as u32,
            tokens: vec![Position(id << 60), Position(id)],
        };
        let base = View::forming(ClusterId(cluster), 3, count as usize, 0);
        let formed = View { epoch: Epoch(1), members: (1..=count).map(member).collect(), ..base };
        match change {
            0 => formed,
            1 => formed.begin_join(member(9)).expect("its tokens are free"),
            _ => formed.begin_leave(BTreeSet::from([NodeId(2)]), false).expect("it can be spared"),
        }
    })
}

pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (key(), ballot(), state()).prop_map(|(key, ballot, state)| Record::Accepted { key, ballot, state }),
        number().prop_map(Record::Ceiling),
        number().prop_map(|epoch| Record::Epoch(Epoch(epoch))),
        (key(), ballot()).prop_map(|(key, ballot)| Record::Dropped { key, ballot }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(low, high)| Record::Cleared { low: Position(low), high: Position(high) }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let condition = prop_oneof![
        Just(Condition::Always),
        version().prop_map(Condition::Matches),
        Just(Condition::Exists),
        Just(Condition::Absent),
    ];
    let change = prop_oneof![
        value().prop_map(Change::Put),
        Just(Change::Delete),
        any::<i64>().prop_map(Change::Add),
        bytes().prop_map(Change::Append),
        Just(Change::Touch),
        lock_call().prop_map(Change::Lock),
    ];
    let terms = (option::of(number()), option::of(number())).prop_map(|(fence, ttl_ms)| Terms { fence, ttl_ms });
    let write = (key(), request(), number(), any::<bool>(), condition, change, terms).prop_map(
        |(key, request, first_sent_ms, retry, condition, change, terms)| Write {
            key,
            request,
            first_sent_ms,
            retry,
            condition,
            change,
            terms,
        },
    );
    let plain = prop_oneof![
        key().prop_map(|key| Operation::Read { key }),
        write.prop_map(Operation::Write),
        (key(), request()).prop_map(|(key, request)| Operation::Outcome { key, request }),
    ];
    (plain, option::of((ballot(), any::<bool>()))).prop_map(|(operation, session)| match session {
        None => operation,
        Some((since, sequential)) => Operation::InSession { since, sequential, operation: Box::new(operation) },
    })
}

fn lock_call() -> impl Strategy<Value = LockCall> {
    prop_oneof![
        (bytes(), number(), number()).prop_map(|(owner, ttl_ms, wait_ms)| LockCall::Acquire { owner, ttl_ms, wait_ms }),
        (number(), number()).prop_map(|(fence, ttl_ms)| LockCall::Renew { fence, ttl_ms }),
        number().prop_map(|fence| LockCall::Release { fence }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        number().prop_map(|epoch| Refusal::NotReplica(Epoch(epoch))),
        Just(Refusal::NoQuorum),
        Just(Refusal::Overloaded),
        Just(Refusal::DiskFull),
        Just(Refusal::Draining),
        Just(Refusal::TooOld),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        option::of((version(), value())).prop_map(Outcome::Value),
        (effect(), option::of(value())).prop_map(|(effect, value)| Outcome::Done { effect, value }),
        option::of(effect()).prop_map(Outcome::Remembered),
        refusal().prop_map(Outcome::Refused),
        Just(Outcome::Unknown),
    ]
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (number(), vec(node(), 0..5), any::<u32>(), ballot()).prop_map(|(epoch, voters, rounds, time)| Receipt {
        epoch: Epoch(epoch),
        voters,
        rounds,
        time,
    })
}

fn peer() -> impl Strategy<Value = chord::Peer> {
    (any::<u64>(), node()).prop_map(|(position, node)| chord::Peer { position: Position(position), node })
}

fn call() -> impl Strategy<Value = chord::CallId> {
    number().prop_map(chord::CallId)
}

fn envelope() -> impl Strategy<Value = chord::Envelope> {
    use chord::Body;
    let body = prop_oneof![
        call().prop_map(|call| Body::Pull { call }),
        (call(), option::of(peer()), vec(peer(), 0..5)).prop_map(|(call, predecessor, successors)| Body::Pulled {
            call,
            predecessor,
            successors
        }),
        Just(Body::Notify),
        call().prop_map(|call| Body::Ping { call }),
        call().prop_map(|call| Body::Pong { call }),
        (call(), any::<u64>(), peer(), any::<u32>()).prop_map(|(call, target, origin, hops)| Body::FindSuccessor {
            call,
            target: Position(target),
            origin,
            hops
        }),
        (call(), peer(), any::<u32>()).prop_map(|(call, successor, hops)| Body::Found { call, successor, hops }),
    ];
    (peer(), peer(), body).prop_map(|(from, to, body)| chord::Envelope { from, to, body })
}

fn hello() -> impl Strategy<Value = Hello> {
    let sender = prop_oneof![
        (node(), number(), ".{0,12}").prop_map(|(id, incarnation, name)| Sender::Node { id, incarnation, name }),
        ".{0,12}".prop_map(|name| Sender::Client { name }),
    ];
    (any::<u16>(), any::<u64>(), sender).prop_map(|(protocol, cluster, sender)| Hello {
        protocol,
        cluster: ClusterId(cluster),
        sender,
    })
}

fn scan() -> impl Strategy<Value = Scan> {
    let stretch = (any::<u64>(), any::<u64>(), option::of(key()), any::<u64>());
    (any::<u32>(), bytes(), stretch, any::<(bool, bool)>(), any::<u32>(), number()).prop_map(
        |(bucket, prefix, (from, to, after, cut), (keep, values), entries_max, since)| Scan {
            bucket: BucketId(bucket),
            prefix,
            from: Position(from),
            to: Position(to),
            after,
            cut,
            keep,
            values,
            entries_max,
            since,
        },
    )
}

fn scan_outcome() -> impl Strategy<Value = ScanOutcome> {
    let entry = (key(), version(), number(), number(), option::of(value()));
    let entry = entry.prop_map(|(key, version, size, ends_ms, value)| ScanEntry { key, version, size, ends_ms, value });
    let page = (any::<(u64, u64)>(), number(), number(), vec(entry, 0..4), any::<bool>());
    let page = page.prop_map(|((cut, through), time, epoch, entries, more)| ScanPage {
        cut,
        time,
        epoch: Epoch(epoch),
        through: Position(through),
        entries,
        more,
    });
    prop_oneof![
        3 => page.prop_map(ScanOutcome::Page),
        1 => Just(ScanOutcome::Gone),
        1 => refusal().prop_map(ScanOutcome::Refused),
    ]
}

fn listing() -> impl Strategy<Value = Listing> {
    (any::<u32>(), bytes(), any::<(u64, u64)>(), option::of(key()), number()).prop_map(
        |(bucket, prefix, (from, to), after, epoch)| Listing {
            bucket: BucketId(bucket),
            prefix,
            from: Position(from),
            to: Position(to),
            after,
            epoch: Epoch(epoch),
        },
    )
}

fn listed() -> impl Strategy<Value = Result<ListingPage, Epoch>> {
    let page = (vec(key(), 0..4), any::<bool>(), any::<bool>()).prop_map(|(keys, more, counts)| ListingPage {
        keys,
        more,
        counts,
    });
    prop_oneof![3 => page.prop_map(Ok), 1 => number().prop_map(|epoch| Err(Epoch(epoch)))]
}

fn inquiry() -> impl Strategy<Value = Inquiry> {
    prop_oneof![
        key().prop_map(Inquiry::Register),
        key().prop_map(|key| Inquiry::Available(Durability::Disk, key)),
        any::<u128>().prop_map(|request| Inquiry::Request(RequestId(request))),
    ]
}

fn finding() -> impl Strategy<Value = Finding> {
    let held = (number(), any::<bool>(), ballot(), version(), option::of(number()));
    let held = held.prop_map(|(epoch, replica, ballot, version, size)| {
        Finding::Register(HeldRegister { epoch: Epoch(epoch), replica, ballot, version, size })
    });
    let dots = vec((number(), any::<u64>(), number()), 0..4).prop_map(|dots| {
        let dot = |(counter, node, birth)| Dot { counter, actor: Actor { node: NodeId(node), birth } };
        dots.into_iter().map(dot).collect::<Vec<_>>()
    });
    let flags = any::<(bool, bool, bool, bool)>();
    let nodes = vec((any::<u64>(), number()), 0..4);
    let known = (number(), flags, dots, nodes, number()).prop_map(
        |(epoch, (home, counts, tombstone, stable), dots, nodes, hints)| {
            let compared_ms: Vec<_> = nodes.into_iter().map(|(node, ms)| (NodeId(node), ms)).collect();
            Finding::Available(Known {
                epoch: Epoch(epoch),
                home,
                counts,
                context: Context::new(VersionVector::new(), dots.iter().copied()),
                alive_count: dots.len() as u64,
                alive: dots,
                tombstone,
                stable,
                owes: compared_ms.iter().map(|(node, _)| *node).collect(),
                hints,
                compared_ms,
            })
        },
    );
    prop_oneof![held, known, vec(key(), 0..4).prop_map(Finding::Request)]
}

pub(super) fn frame() -> impl Strategy<Value = Frame> {
    let hop = prop_oneof![peer().prop_map(NextHop::Owner), peer().prop_map(NextHop::Ask)];
    let payload = prop_oneof![
        1 => hello().prop_map(Payload::Hello),
        4 => message().prop_map(Payload::Replica),
        2 => envelope().prop_map(Payload::Chord),
        2 => (number(), any::<u32>(), operation()).prop_map(|(call, deadline_ms, operation)| Payload::Operation(
            OperationCall { call, deadline_ms, operation }
        )),
        2 => (number(), outcome(), receipt())
            .prop_map(|(call, outcome, receipt)| Payload::OperationReply { call, outcome, receipt }),
        1 => (number(), any::<u64>(), option::of(any::<u64>()), any::<bool>()).prop_map(|(call, target, at, walk)| {
            let by = if walk { LookupBy::Neighbours } else { LookupBy::Fingers };
            Payload::Lookup { call, target: Position(target), at: at.map(Position), by }
        }),
        1 => (number(), option::of(hop)).prop_map(|(call, hop)| Payload::LookupReply { call, hop }),
        1 => (number(), any::<u32>(), scan())
            .prop_map(|(call, deadline_ms, scan)| Payload::Scan(ScanCall { call, deadline_ms, scan })),
        1 => (number(), scan_outcome()).prop_map(|(call, outcome)| Payload::ScanReply { call, outcome }),
        1 => (number(), any::<bool>(), listing()).prop_map(|(call, memory, listing)| {
            let durability = if memory { Durability::Memory } else { Durability::Disk };
            Payload::List { call, durability, listing }
        }),
        1 => (number(), listed()).prop_map(|(call, listed)| Payload::ListReply { call, listed }),
        1 => (number(), inquiry()).prop_map(|(call, inquiry)| Payload::Inquiry { call, inquiry }),
        1 => (number(), finding()).prop_map(|(call, finding)| Payload::InquiryReply { call, finding }),
        1 => Just(Payload::GoAway),
        1 => Just(Payload::Ping),
    ];
    let context = (any::<u128>(), any::<u64>(), any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceContext {
        trace_id,
        span_id,
        flags,
    });
    (context, payload).prop_map(|(context, payload)| Frame { context, payload })
}
