use bytes::{BufMut, Bytes, BytesMut};
use membership::{BucketId, ClusterId, Epoch, NodeId, Position};
use proptest::prelude::*;
use replication::{
    ArcPrint, Ballot, Body, Change, Condition, Effect, LedgerPosition, LockCall, Message, Operation, Outcome, Receipt,
    Record, RegisterKey, Remembered, RequestId, RequestMemory, RoundId, Scan, ScanEntry, ScanOutcome, ScanPage, State,
    Terms, Value, Version, Write,
};
use stdx::TraceContext;

use super::bytes_io::{Reader, Writer};
use super::{
    AVAILABLE_RECORD_FORMAT, CodecError, RECORD_FORMAT, SHARED_BYTES_MIN, decode, decode_log_record, decode_record,
    encode, encode_log_record, encode_record, samples,
};
use crate::frame::{self, FRAME_BYTES_MAX, HEADER_BYTES, PREFIX_BYTES};
use crate::http::Durability;
use crate::node::{
    AvailableCall, Finding, Frame, HeldRegister, Hello, Inquiry, LogRecord, LookupBy, OperationCall, PROTOCOL, Payload,
    ScanCall, Sender,
};

fn encoded(frame: &Frame) -> Bytes {
    let mut out = BytesMut::new();
    encode(frame, &mut out);
    out.freeze()
}

/// Wraps what a checksum covers, so that only what comes after the checksum's test is tested.
fn sealed(covered: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(covered.len() as u32);
    out.put_u32_le(crc32c::crc32c(covered));
    out.put_slice(covered);
    out.freeze()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back_as_they_were(frame in samples::frame()) {
        prop_assert_eq!(decode(encoded(&frame)), Ok(frame));
    }

    #[test]
    fn records_come_back_as_they_were(record in samples::record()) {
        prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
    }

    #[test]
    fn a_stream_of_frames_is_cut_where_they_end(
        frames in prop::collection::vec(samples::frame(), 1..4),
        cut in 1usize..64,
    ) {
        let mut all = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut all));
        let mut stream = BytesMut::new();
        let mut seen = Vec::new();
        for piece in all.chunks(cut) {
            stream.extend_from_slice(piece);
            while let Some(bytes) = frame::split(&mut stream).expect("the lengths are right") {
                seen.push(decode(bytes).expect("the frames are whole"));
            }
        }
        prop_assert!(stream.is_empty());
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn noise_is_an_error_and_never_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_record(&noise);
        let _ = decode(Bytes::from(noise.clone()));
        let _ = frame::split(&mut BytesMut::from(&noise[..]));
    }

    /// Noise behind a right checksum, version and kind gets all the way to the bodies.
    #[test]
    fn noise_in_a_body_is_no_panic_and_what_decodes_is_canonical(
        kind in 1u8..=13,
        tags in prop::collection::vec(0u8..23, 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let covered = [&[1, kind], &[0; 25][..], &tags, &noise].concat();
        let bytes = sealed(&covered);
        if let Ok(frame) = decode(bytes.clone()) {
            // Contexts of available keys are sets: noise may name them in another order.
            let is_set = (10..=12).contains(&kind);
            prop_assert!(is_set || encoded(&frame) == bytes, "two encodings of one message");
            prop_assert_eq!(decode(encoded(&frame)), Ok(frame));
        }
        for format in [RECORD_FORMAT, AVAILABLE_RECORD_FORMAT] {
            let _ = decode_log_record(&[&[format], &tags[..], &noise].concat());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(frame in samples::frame(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encoded(&frame).to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(decode(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn varints_have_one_form(value in any::<u64>(), shift in 0u32..64) {
        let value = value >> shift;
        let mut out = BytesMut::new();
        Writer::new(&mut out).varint(value);
        Writer::new(&mut out).signed(value as i64);
        let mut reader = Reader(out.freeze());
        prop_assert_eq!(reader.varint(), Ok(value));
        prop_assert_eq!(reader.signed(), Ok(value as i64));
        prop_assert_eq!(reader.finish(), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_anywhere_it_is_an_error(frame in samples::frame(), record in samples::record()) {
        let bytes = encoded(&frame);
        for length in 0..bytes.len() {
            prop_assert_eq!(decode(bytes.slice(..length)), Err(CodecError::Truncated), "cut at {}", length);
        }
        // The same with a right length and checksum, so that the body itself notices.
        for length in 2..bytes.len() - PREFIX_BYTES {
            let cut = decode(sealed(&bytes[PREFIX_BYTES..PREFIX_BYTES + length]));
            prop_assert!(cut.is_err(), "cut at {} of the body", length);
        }
        let bytes = encode_record(&record);
        for length in 0..bytes.len() {
            prop_assert!(decode_record(&bytes[..length]).is_err(), "a record cut at {}", length);
        }
    }
}

#[test]
fn each_way_of_being_wrong_has_its_error() {
    let whole = encoded(&Frame { context: TraceContext::NONE, payload: Payload::Ping });
    let mut longer = whole.to_vec();
    longer.push(0);
    assert_eq!(decode(Bytes::from(longer)), Err(CodecError::TrailingBytes(1)));
    assert_eq!(decode(sealed(&[&whole[PREFIX_BYTES..], &[0]].concat())), Err(CodecError::TrailingBytes(1)));

    let mut damaged = whole.to_vec();
    damaged[PREFIX_BYTES + 5] ^= 1;
    assert_eq!(decode(Bytes::from(damaged)), Err(CodecError::Checksum));

    let mut covered = whole[PREFIX_BYTES..].to_vec();
    covered[0] = 9;
    assert_eq!(decode(sealed(&covered)), Err(CodecError::OtherVersion { theirs: 9, ours: 1 }));
    covered[..2].copy_from_slice(&[1, 77]);
    assert_eq!(decode(sealed(&covered)), Err(CodecError::UnknownTag { noun: "kind of frame", tag: 77 }));

    assert_eq!(decode_record(&[1, 2, 0]), Err(CodecError::OtherVersion { theirs: 1, ours: 2 }));
    assert_eq!(decode_record(&[2, 2, 0x80, 0x00]), Err(CodecError::Number), "a longer form of zero");
    assert_eq!(decode_record(&[2, 2, 0, 0]), Err(CodecError::TrailingBytes(1)));
    let past_64_bits = [&[2, 2][..], &[0xff; 9], &[2]].concat();
    assert_eq!(decode_record(&past_64_bits), Err(CodecError::Number));
}

#[test]
fn a_claimed_length_is_checked_before_it_is_believed() {
    let claims = |length: u32| frame::split(&mut BytesMut::from(&length.to_le_bytes()[..]));
    let whole = u32::MAX as usize + PREFIX_BYTES;
    assert_eq!(claims(u32::MAX), Err(CodecError::Oversize { bytes: whole, bytes_max: FRAME_BYTES_MAX }));
    assert_eq!(claims((FRAME_BYTES_MAX - PREFIX_BYTES) as u32), Ok(None), "the longest one is waited for");
    assert!(claims((FRAME_BYTES_MAX - PREFIX_BYTES + 1) as u32).is_err());
    assert_eq!(claims(HEADER_BYTES as u32 - 1), Err(CodecError::Truncated), "no frame is that short");

    // A list of a billion voters in a body of a few bytes: an OperationReply to call 0, outcome unknown, epoch 0.
    let covered = [&[1, 5], &[0; 25][..], &[0, 5, 0], &[0x80, 0x94, 0xeb, 0xdc, 0x03]].concat();
    assert_eq!(decode(sealed(&covered)), Err(CodecError::ListLength { entries: 1_000_000_000 }));
    // A key of four gigabytes.
    let covered = [&[1, 4], &[0; 25][..], &[0, 0, 1], &[0; 9], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert_eq!(decode(sealed(&covered)), Err(CodecError::Truncated));
}

#[test]
fn large_strings_share_the_frames_memory_and_small_ones_do_not() {
    let frame = |length: usize| Frame {
        context: TraceContext::NONE,
        payload: Payload::Operation(OperationCall {
            call: 1,
            deadline_ms: 1,
            operation: Operation::Write(Write {
                key: key(),
                request: RequestId(1),
                first_sent_ms: 0,
                retry: false,
                condition: Condition::Always,
                change: Change::Append(Bytes::from(vec![7; length])),
                terms: Terms::default(),
            }),
        }),
    };
    let appended_within = |length: usize| {
        let bytes = encoded(&frame(length));
        let decoded = decode(bytes.clone()).expect("it is whole");
        let Payload::Operation(OperationCall { operation: Operation::Write(write), .. }) = decoded.payload else {
            panic!("an operation came back as something else");
        };
        let Change::Append(appended) = write.change else { panic!("an append came back as something else") };
        assert!(!bytes.as_ptr_range().contains(&write.key.key.as_ptr()), "a kept key must not keep the frame");
        bytes.as_ptr_range().contains(&appended.as_ptr())
    };
    assert!(appended_within(SHARED_BYTES_MIN));
    assert!(!appended_within(SHARED_BYTES_MIN - 1));
}

fn key() -> RegisterKey {
    RegisterKey { position: Position(0x1122_3344_5566_7788), bucket: BucketId(3), key: Bytes::from_static(b"k") }
}

fn ballot(counter: u64) -> Ballot {
    Ballot { counter, node: NodeId(0xa1) }
}

fn state() -> State {
    let version = Version { ballot: ballot(300), index: 1 };
    let remembered = Remembered { request: RequestId(5), first_sent_ms: 1000, effect: Effect::Created(version) };
    State {
        version,
        value: Some(Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() }),
        requests: RequestMemory { entries: vec![remembered], horizon_ms: 9 },
        fence: 130,
        ends_ms: 5,
    }
}

fn check_golden(name: &str, payload: Payload, golden: &str) {
    let frame = Frame { context: TraceContext { trace_id: 1, span_id: 2, flags: 1 }, payload };
    let bytes = encoded(&frame);
    // The header is the same in all but the kind; it is pinned once, by the ping.
    let shown = if name == "ping" { &bytes[..] } else { &bytes[PREFIX_BYTES + HEADER_BYTES..] };
    assert_eq!(hex(shown), golden.replace([' ', '\n'], ""), "the bytes of {name} changed: that breaks running fleets");
    assert_eq!(decode(bytes), Ok(frame));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const KEY: &str = "8877665544332211 03 016b";
const STATE: &str = "ac02a10000000000000001 01 0176 00 09
    01 05000000000000000000000000000000 e807 01ac02a10000000000000001 8201 05";
const PEER: &str = "0700000000000000 a100000000000000";

#[test]
fn golden_bytes_of_control_frames() {
    check_golden("ping", Payload::Ping, "1b000000 ae0c62cc 01 09 01000000000000000000000000000000 0200000000000000 01");
    check_golden("go away", Payload::GoAway, "");
    let hello = |sender| Payload::Hello(Hello { protocol: PROTOCOL, cluster: ClusterId(0xc1), sender });
    let node = Sender::Node { id: NodeId(0xa1), incarnation: 130, name: "n1".into() };
    check_golden("hello of a node", hello(node), "08 c100000000000000 01 a100000000000000 8201 026e31");
    let client = Sender::Client { name: "g".into() };
    check_golden("hello of a client", hello(client), "08 c100000000000000 02 0167");
    let peer = chord::Peer { position: Position(7), node: NodeId(0xa1) };
    check_golden(
        "lookup",
        Payload::Lookup { call: 4, target: Position(8), at: Some(Position(9)), by: LookupBy::Neighbours },
        "04 0800000000000000 01 0900000000000000 01",
    );
    check_golden(
        "lookup reply",
        Payload::LookupReply { call: 4, hop: Some(chord::NextHop::Ask(peer)) },
        &format!("04 01 02 {PEER}"),
    );
}

#[test]
fn golden_bytes_of_replica_messages() {
    let check = |name: &str, body: Body, golden: &str| {
        let message = Message { epoch: Epoch(2), counter: 128, body };
        check_golden(name, Payload::Replica(message), &format!("02 8001 {golden}"));
    };
    let round = RoundId(6);
    let ballot_9 = "09 a100000000000000";
    check("prepare", Body::Prepare { round, key: key(), ballot: ballot(9) }, &format!("01 06 {KEY} {ballot_9}"));
    check("promise", Body::Promise { round, accepted: (ballot(9), state()) }, &format!("02 06 {ballot_9} {STATE}"));
    check(
        "accept",
        Body::Accept { round, key: key(), ballot: ballot(9), state: state(), next: ballot(9) },
        &format!("03 06 {KEY} {ballot_9} {STATE} {ballot_9}"),
    );
    check("accepted", Body::Accepted { round }, "04 06");
    check("nack", Body::Nack { round, seen: 7, disk_full: true }, "05 06 07 01");
    check("query", Body::Query { round, key: key(), known: ballot(9) }, &format!("06 06 {KEY} {ballot_9}"));
    check("report", Body::Report { round, ballot: ballot(9), state: None }, &format!("07 06 {ballot_9} 00"));
    check(
        "learn",
        Body::Learn { key: key(), ballot: ballot(9), state: state() },
        &format!("08 {KEY} {ballot_9} {STATE}"),
    );
    check("digest", Body::Digest { round, after: Some(key()) }, &format!("09 06 01 {KEY}"));
    let entries = vec![(key(), ballot(9))];
    check("digest page", Body::DigestPage { round, entries, more: true }, &format!("0a 06 01 {KEY} {ballot_9} 01"));
    let position = LedgerPosition { start: 130, count: 5 };
    check(
        "confirm",
        Body::Confirm { round, arc: Position(8), up_to: 9, since: 3, position, after: Some(key()) },
        &format!("0c 06 0800000000000000 09 03 8201 05 01 {KEY}"),
    );
    let entries = vec![(key(), ballot(9))];
    check(
        "confirmed",
        Body::Confirmed { round, position, entries, more: false },
        &format!("0d 06 8201 05 01 {KEY} {ballot_9} 00"),
    );
    check("other epoch", Body::OtherEpoch { view: None }, "0b");
    let view = std::sync::Arc::new(membership::View::forming(ClusterId(1), 1, 1, 0));
    let text = crate::view::to_json(&view);
    let view = Body::OtherEpoch { view: Some(view) };
    check("a newer view", view, &format!("0e 8701 {}", hex(text.as_bytes())));
    let high = Position(7);
    let end = "0700000000000000";
    check("copy", Body::Copy { round, high, after: Some(key()) }, &format!("0f 06 {end} 01 {KEY}"));
    let entries = vec![(key(), ballot(9))];
    let page = Body::CopyPage { round, entries, more: false, held: ArcPrint { registers: 5, print: 9 }, floor: 300 };
    check("copy page", page, &format!("10 06 01 {KEY} {ballot_9} 00 05 0900000000000000 ac02"));
    check("fetch", Body::Fetch { round, high, keys: vec![key()] }, &format!("11 06 {end} 01 {KEY}"));
    let entries = vec![(key(), ballot(9), state())];
    check("fetched", Body::Fetched { round, entries }, &format!("12 06 01 {KEY} {ballot_9} {STATE}"));
    check("fenced", Body::Fenced { incarnation: 5 }, "13 05");
    let (arc, keys) = (Position(7), vec![(key(), ballot(9))]);
    let collect = Body::Collect { round, arc, up_to: 300, keys: keys.clone() };
    check("collect", collect, &format!("14 06 {end} ac02 01 {KEY} {ballot_9}"));
    check("collectable", Body::Collectable { round, refused: vec![0, 130], floor: 300 }, "15 06 02 00 8201 ac02");
    check("collected", Body::Collected { arc, up_to: 300, keys }, &format!("16 {end} ac02 01 {KEY} {ballot_9}"));
}

#[test]
fn golden_bytes_of_chord_messages() {
    let peer = chord::Peer { position: Position(7), node: NodeId(0xa1) };
    let check = |name: &str, body: chord::Body, golden: &str| {
        let envelope = chord::Envelope { from: peer, to: peer, body };
        check_golden(name, Payload::Chord(envelope), &format!("{PEER} {PEER} {golden}"));
    };
    let call = chord::CallId(3);
    check("pull", chord::Body::Pull { call }, "01 03");
    check(
        "pulled",
        chord::Body::Pulled { call, predecessor: None, successors: vec![peer] },
        &format!("02 03 00 01 {PEER}"),
    );
    check("notify", chord::Body::Notify, "03");
    check("chord ping", chord::Body::Ping { call }, "04 03");
    check("chord pong", chord::Body::Pong { call }, "05 03");
    check(
        "find successor",
        chord::Body::FindSuccessor { call, target: Position(8), origin: peer, hops: 2 },
        &format!("06 03 0800000000000000 {PEER} 02"),
    );
    check("found", chord::Body::Found { call, successor: peer, hops: 2 }, &format!("07 03 {PEER} 02"));
}

#[test]
fn golden_bytes_of_operations() {
    let check = |name: &str, operation: Operation, golden: &str| {
        let call = OperationCall { call: 4, deadline_ms: 1000, operation };
        check_golden(name, Payload::Operation(call), &format!("04 e807 {golden}"));
    };
    let write = |condition, change| {
        let (request, first_sent_ms) = (RequestId(5), 1000);
        let terms = Terms { fence: Some(130), ttl_ms: None };
        Operation::Write(Write { key: key(), request, first_sent_ms, retry: true, condition, change, terms })
    };
    let start = format!("02 {KEY} 05000000000000000000000000000000 e807 01");
    let terms = "01 8201 00";
    check("read", Operation::Read { key: key() }, &format!("01 {KEY}"));
    let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::from_static(b"t") };
    check("put", write(Condition::Always, Change::Put(value)), &format!("{start} 01 01 0176 0174 {terms}"));
    let matches = Condition::Matches(Version { ballot: ballot(9), index: 0 });
    check("delete", write(matches, Change::Delete), &format!("{start} 02 09a100000000000000 00 02 {terms}"));
    check("add", write(Condition::Exists, Change::Add(-3)), &format!("{start} 03 03 05 {terms}"));
    let append = Change::Append(Bytes::from_static(b"v"));
    check("append", write(Condition::Absent, append), &format!("{start} 04 04 0176 {terms}"));
    check("touch", write(Condition::Always, Change::Touch), &format!("{start} 01 05 {terms}"));
    let lock = |call| write(Condition::Always, Change::Lock(call));
    let acquire = LockCall::Acquire { owner: Bytes::from_static(b"o"), ttl_ms: 130, wait_ms: 5 };
    check("acquire", lock(acquire), &format!("{start} 01 06 016f 8201 05 {terms}"));
    check("renew", lock(LockCall::Renew { fence: 130, ttl_ms: 5 }), &format!("{start} 01 07 8201 05 {terms}"));
    check("release", lock(LockCall::Release { fence: 130 }), &format!("{start} 01 08 8201 {terms}"));
    check(
        "outcome",
        Operation::Outcome { key: key(), request: RequestId(5) },
        &format!("03 {KEY} 05000000000000000000000000000000"),
    );
    let read = Box::new(Operation::Read { key: key() });
    check(
        "a session's read",
        Operation::InSession { since: ballot(130), sequential: true, operation: read },
        &format!("04 8201 a100000000000000 01 01 {KEY}"),
    );
}

#[test]
fn golden_bytes_of_outcomes_and_records() {
    let check = |name: &str, outcome: Outcome, golden: &str| {
        let receipt = Receipt { epoch: Epoch(2), voters: vec![NodeId(0xa1)], rounds: 1, time: ballot(130) };
        let reply = Payload::OperationReply { call: 4, outcome, receipt };
        check_golden(name, reply, &format!("04 {golden} 02 01 a100000000000000 01 8201 a100000000000000"));
    };
    let version = Version { ballot: ballot(9), index: 0 };
    let version_9 = "09 a100000000000000 00";
    let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() };
    check("value", Outcome::Value(Some((version, value.clone()))), &format!("01 01 {version_9} 0176 00"));
    let done = |effect, value| Outcome::Done { effect, value };
    check("created", done(Effect::Created(version), None), &format!("02 01 {version_9} 00"));
    check("replaced", done(Effect::Replaced(version), Some(value)), &format!("02 02 {version_9} 01 0176 00"));
    check("deleted", done(Effect::Deleted(version), None), &format!("02 03 {version_9} 00"));
    check("failed", done(Effect::ConditionFailed(None), None), "02 04 00 00");
    check("unfit", done(Effect::Unfit, None), "02 05 00");
    check("fenced off", done(Effect::FencedOff(130), None), "02 06 8201 00");
    check("granted", done(Effect::Granted { fence: 130, ends_ms: 5 }, None), "02 07 8201 05 00");
    check("held", done(Effect::Held { place: 130, ends_ms: 5 }, None), "02 08 8201 05 00");
    check("released", done(Effect::Released, None), "02 09 00");
    check("not held", done(Effect::NotHeld, None), "02 0a 00");
    check("remembered", Outcome::Remembered(None), "03 00");
    use replication::Refusal;
    check("not a replica", Outcome::Refused(Refusal::NotReplica(Epoch(1))), "04 01 01");
    check("no quorum", Outcome::Refused(Refusal::NoQuorum), "04 02");
    check("overloaded", Outcome::Refused(Refusal::Overloaded), "04 03");
    check("disk full", Outcome::Refused(Refusal::DiskFull), "04 04");
    check("draining", Outcome::Refused(Refusal::Draining), "04 05");
    check("too old", Outcome::Refused(Refusal::TooOld), "04 06");
    check("unknown", Outcome::Unknown, "05");

    let record = |record: Record, golden: &str| {
        let bytes = encode_record(&record);
        assert_eq!(
            hex(&bytes),
            golden.replace([' ', '\n'], ""),
            "the record's bytes changed: old logs become unreadable"
        );
        assert_eq!(decode_record(&bytes), Ok(record));
    };
    record(
        Record::Accepted { key: key(), ballot: ballot(9), state: state() },
        &format!("02 01 {KEY} 09a100000000000000 {STATE}"),
    );
    record(Record::Ceiling(300), "02 02 ac02");
    record(Record::Epoch(Epoch(3)), "02 03 03");
    record(Record::Dropped { key: key(), ballot: ballot(9) }, &format!("02 04 {KEY} 09a100000000000000"));
    let cleared = Record::Cleared { low: Position(7), high: Position(8) };
    record(cleared, "02 05 0700000000000000 0800000000000000");
}

#[test]
fn golden_bytes_of_frames_about_available_keys() {
    let actor = available::Actor { node: NodeId(0xa1), birth: 1 };
    let body = available::Body::Hints { from_ms: 5 };
    let message = available::Message { epoch: Epoch(2), clock: 128, actor, start: 3, body };
    check_golden(
        "available",
        Payload::Available { durability: Durability::Disk, message },
        "00 02 8001 a100000000000000 01 03 10 05",
    );
    let seen = [(actor, 300)].into_iter().collect();
    let past = available::Past { session: 7, bound: 9, seen, epoch: Epoch(2) };
    let operation = available::Operation {
        key: key(),
        level: available::Level::Causal,
        past,
        stand_in: false,
        action: available::Action::Read { kind: available::Kind::Counter },
    };
    check_golden(
        "available operation",
        Payload::AvailableOperation(AvailableCall {
            call: 4,
            deadline_ms: 5,
            durability: Durability::Memory,
            operation,
        }),
        &format!("04 05 01 {KEY} 01 0700000000000000 02 09 01 a100000000000000 01 ac02 00 01 02"),
    );
    let receipt = available::Receipt { epoch: Epoch(2), voters: vec![NodeId(0xa1)], rounds: 1 };
    check_golden(
        "available reply",
        Payload::AvailableReply { call: 4, outcome: available::Outcome::Unknown, receipt },
        "04 05 02 01 a100000000000000 01",
    );
}

#[test]
fn golden_bytes_of_scans_and_listings() {
    let (bucket, prefix) = (BucketId(3), Bytes::from_static(b"k"));
    let (from, to) = (Position(7), Position(9));
    let scan = Scan {
        bucket,
        prefix: prefix.clone(),
        from,
        to,
        after: Some(key()),
        cut: 5,
        keep: true,
        values: false,
        entries_max: 300,
        since: 6,
    };
    check_golden(
        "scan",
        Payload::Scan(ScanCall { call: 4, deadline_ms: 5, scan }),
        &format!("04 05 03 016b 0700000000000000 0900000000000000 01 {KEY} 0500000000000000 01 00 ac02 06"),
    );
    let version = Version { ballot: ballot(300), index: 1 };
    let value = Some(Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() });
    let entries = vec![ScanEntry { key: key(), version, size: 1, ends_ms: 2, value }];
    let page = ScanPage { cut: 5, time: 300, epoch: Epoch(2), through: to, entries, more: true };
    check_golden(
        "scan reply",
        Payload::ScanReply { call: 4, outcome: ScanOutcome::Page(page) },
        &format!("04 01 0500000000000000 ac02 02 0900000000000000 01 {KEY} ac02a10000000000000001 01 02 01 0176 00 01"),
    );
    check_golden("cut gone", Payload::ScanReply { call: 4, outcome: ScanOutcome::Gone }, "04 02");
    let refused = ScanOutcome::Refused(replication::Refusal::NotReplica(Epoch(3)));
    check_golden("scan refused", Payload::ScanReply { call: 4, outcome: refused }, "04 03 01 03");
    let listing = available::Listing { bucket, prefix, from, to, after: None, epoch: Epoch(2) };
    check_golden(
        "list",
        Payload::List { call: 4, durability: Durability::Memory, listing },
        "04 01 03 016b 0700000000000000 0900000000000000 00 02",
    );
    let page = available::ListingPage { keys: vec![key()], more: false, counts: true };
    check_golden("list reply", Payload::ListReply { call: 4, listed: Ok(page) }, &format!("04 01 01 {KEY} 00 01"));
    check_golden("no home", Payload::ListReply { call: 4, listed: Err(Epoch(3)) }, "04 02 03");
}

#[test]
fn inquiries_have_the_documented_form() {
    let ask = |inquiry| Payload::Inquiry { call: 4, inquiry };
    check_golden("inquiry: register", ask(Inquiry::Register(key())), &format!("04 01 {KEY}"));
    let available = ask(Inquiry::Available(Durability::Memory, key()));
    check_golden("inquiry: available", available, &format!("04 02 01 {KEY}"));
    let request = ask(Inquiry::Request(RequestId(5)));
    check_golden("inquiry: request", request, "04 03 05000000000000000000000000000000");
    let tell = |finding| Payload::InquiryReply { call: 4, finding };
    let version = Version { ballot: ballot(300), index: 1 };
    let held = HeldRegister { epoch: Epoch(2), replica: true, ballot: ballot(300), version, size: Some(9) };
    let (b, v) = ("ac02a100000000000000", "ac02a10000000000000001");
    check_golden("finding: register", tell(Finding::Register(held)), &format!("04 01 02 01 {b} {v} 01 09"));
    let actor = available::Actor { node: NodeId(0xa1), birth: 2 };
    let dot = available::Dot { counter: 3, actor };
    let known = available::Known {
        epoch: Epoch(2),
        home: true,
        counts: false,
        context: available::Context::of(dot),
        alive: vec![dot],
        alive_count: 1,
        tombstone: false,
        stable: true,
        owes: vec![NodeId(0xa1)],
        hints: 4,
        compared_ms: vec![(NodeId(0xa1), 5)],
    };
    let (n, d) = ("a100000000000000", "a100000000000000 02 03");
    check_golden(
        "finding: available",
        tell(Finding::Available(known)),
        &format!("04 02 02 01 00 00 01 {d} 00 01 {d} 01 00 01 01 {n} 04 01 {n} 05"),
    );
    check_golden("finding: request", tell(Finding::Request(vec![key()])), &format!("04 03 01 {KEY}"));
}

#[test]
fn records_of_the_two_kinds_are_told_apart() {
    let records = [
        LogRecord::Register(Record::Ceiling(300)),
        LogRecord::Available(available::Record::Ceiling(300)),
        LogRecord::Available(available::Record::Whole),
    ];
    for record in records {
        let bytes = encode_log_record(&record);
        assert_eq!(decode_log_record(&bytes), Ok(record));
    }
    assert_eq!(hex(&encode_log_record(&LogRecord::Available(available::Record::Whole))), "8106");
    assert_eq!(decode_log_record(&[3, 1]), Err(CodecError::OtherVersion { theirs: 3, ours: 2 }));
    assert_eq!(decode_log_record(&[]), Err(CodecError::Truncated));
}
