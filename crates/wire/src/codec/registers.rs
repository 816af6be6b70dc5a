//! What replicas say to each other, and what they keep on disk.

use std::sync::Arc;

use membership::{BucketId, Epoch, NodeId, Position, View};
use replication::{
    ArcPrint, Ballot, Body, LedgerPosition, Message, Record, RegisterKey, Remembered, RequestId, RequestMemory,
    RoundId, State, Value, Version,
};

use super::bytes_io::{Reader, Writer};
use super::error::CodecError;
use super::operations::{read_effect, write_effect};

/// The shortest remembered request: id, time, and an effect without a version.
const REMEMBERED_BYTES_MIN: usize = 16 + 1 + 1;
/// The shortest key: position, bucket, empty key.
pub(super) const KEY_BYTES_MIN: usize = 8 + 1 + 1;
/// The shortest entry of a digest: position, bucket, empty key, ballot.
const DIGEST_ENTRY_BYTES_MIN: usize = 8 + 1 + 1 + 9;

pub(super) fn write_message(w: &mut Writer<'_>, message: &Message) {
    w.varint(message.epoch.0);
    w.varint(message.counter);
    match &message.body {
        Body::Prepare { round, key, ballot } => {
            begin(w, 1, *round);
            write_key(w, key);
            write_ballot(w, ballot);
        }
        Body::Promise { round, accepted: (ballot, state) } => {
            begin(w, 2, *round);
            write_ballot(w, ballot);
            write_state(w, state);
        }
        Body::Accept { round, key, ballot, state, next } => {
            begin(w, 3, *round);
            write_key(w, key);
            write_ballot(w, ballot);
            write_state(w, state);
            write_ballot(w, next);
        }
        Body::Accepted { round } => begin(w, 4, *round),
        Body::Nack { round, seen, disk_full } => {
            begin(w, 5, *round);
            w.varint(*seen);
            w.bool(*disk_full);
        }
        Body::Query { round, key, known } => {
            begin(w, 6, *round);
            write_key(w, key);
            write_ballot(w, known);
        }
        Body::Report { round, ballot, state } => {
            begin(w, 7, *round);
            write_ballot(w, ballot);
            w.option(state.as_ref(), write_state);
        }
        Body::Learn { key, ballot, state } => {
            w.u8(8);
            write_key(w, key);
            write_ballot(w, ballot);
            write_state(w, state);
        }
        Body::Digest { round, after } => {
            begin(w, 9, *round);
            w.option(after.as_ref(), write_key);
        }
        Body::DigestPage { round, entries, more } => {
            begin(w, 10, *round);
            write_entries(w, entries, *more);
        }
        Body::OtherEpoch { view: None } => w.u8(11),
        Body::OtherEpoch { view: Some(view) } => {
            w.u8(14);
            write_view(w, view);
        }
        Body::Fenced { incarnation } => {
            w.u8(19);
            w.varint(*incarnation);
        }
        Body::Confirm { .. } | Body::Confirmed { .. } => write_confirming(w, &message.body),
        Body::Collect { .. } | Body::Collectable { .. } | Body::Collected { .. } => write_collecting(w, &message.body),
        copying => write_copying(w, copying),
    }
}

/// What confirmations of arcs say.
fn write_confirming(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::Confirm { round, arc, up_to, since, position, after } => {
            begin(w, 12, *round);
            w.fixed_u64(arc.0);
            w.varint(*up_to);
            w.varint(*since);
            write_ledger_position(w, *position);
            w.option(after.as_ref(), write_key);
        }
        Body::Confirmed { round, position, entries, more } => {
            begin(w, 13, *round);
            write_ledger_position(w, *position);
            write_entries(w, entries, *more);
        }
        other => unreachable!("not of a confirmation: {other:?}"),
    }
}

/// What is said before the registers of deleted keys are dropped.
fn write_collecting(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::Collect { round, arc, up_to, keys } => {
            begin(w, 20, *round);
            write_floor_and_keys(w, *arc, *up_to, keys);
        }
        Body::Collectable { round, refused, floor } => {
            begin(w, 21, *round);
            w.list(refused, |w, place| w.varint(u64::from(*place)));
            w.varint(*floor);
        }
        Body::Collected { arc, up_to, keys } => {
            w.u8(22);
            write_floor_and_keys(w, *arc, *up_to, keys);
        }
        other => unreachable!("not of a collection: {other:?}"),
    }
}

fn write_floor_and_keys(w: &mut Writer<'_>, arc: Position, up_to: u64, keys: &[(RegisterKey, Ballot)]) {
    w.fixed_u64(arc.0);
    w.varint(up_to);
    write_ballots(w, keys);
}

fn read_collecting(r: &mut Reader, tag: u8) -> Result<Body, CodecError> {
    Ok(match tag {
        20 => Body::Collect {
            round: read_round(r)?,
            arc: Position(r.fixed_u64()?),
            up_to: r.varint()?,
            keys: read_ballots(r)?,
        },
        21 => Body::Collectable { round: read_round(r)?, refused: r.list(1, Reader::varint_u32)?, floor: r.varint()? },
        _ => Body::Collected { arc: Position(r.fixed_u64()?), up_to: r.varint()?, keys: read_ballots(r)? },
    })
}

/// The tag of a message that belongs to a round, and the round.
fn begin(w: &mut Writer<'_>, tag: u8, round: RoundId) {
    w.u8(tag);
    w.varint(round.0);
}

fn write_entries(w: &mut Writer<'_>, entries: &[(RegisterKey, Ballot)], more: bool) {
    write_ballots(w, entries);
    w.bool(more);
}

/// Registers, each with a ballot.
fn write_ballots(w: &mut Writer<'_>, entries: &[(RegisterKey, Ballot)]) {
    w.list(entries, |w, (key, ballot)| {
        write_key(w, key);
        write_ballot(w, ballot);
    });
}

fn read_ballots(r: &mut Reader) -> Result<Vec<(RegisterKey, Ballot)>, CodecError> {
    r.list(DIGEST_ENTRY_BYTES_MIN, |r| Ok((read_key(r)?, read_ballot(r)?)))
}

pub(super) fn read_message(r: &mut Reader) -> Result<Message, CodecError> {
    let epoch = Epoch(r.varint()?);
    let counter = r.varint()?;
    let body = match r.u8()? {
        1 => Body::Prepare { round: read_round(r)?, key: read_key(r)?, ballot: read_ballot(r)? },
        2 => Body::Promise { round: read_round(r)?, accepted: (read_ballot(r)?, read_state(r)?) },
        3 => Body::Accept {
            round: read_round(r)?,
            key: read_key(r)?,
            ballot: read_ballot(r)?,
            state: read_state(r)?,
            next: read_ballot(r)?,
        },
        4 => Body::Accepted { round: read_round(r)? },
        5 => Body::Nack { round: read_round(r)?, seen: r.varint()?, disk_full: r.bool()? },
        6 => Body::Query { round: read_round(r)?, key: read_key(r)?, known: read_ballot(r)? },
        7 => Body::Report { round: read_round(r)?, ballot: read_ballot(r)?, state: r.option(read_state)? },
        8 => Body::Learn { key: read_key(r)?, ballot: read_ballot(r)?, state: read_state(r)? },
        9 => Body::Digest { round: read_round(r)?, after: r.option(read_key)? },
        10 => Body::DigestPage { round: read_round(r)?, entries: read_ballots(r)?, more: r.bool()? },
        11 => Body::OtherEpoch { view: None },
        12 => Body::Confirm {
            round: read_round(r)?,
            arc: Position(r.fixed_u64()?),
            up_to: r.varint()?,
            since: r.varint()?,
            position: read_ledger_position(r)?,
            after: r.option(read_key)?,
        },
        13 => Body::Confirmed {
            round: read_round(r)?,
            position: read_ledger_position(r)?,
            entries: read_ballots(r)?,
            more: r.bool()?,
        },
        14 => Body::OtherEpoch { view: Some(read_view(r)?) },
        tag @ 15..=18 => read_copying(r, tag)?,
        19 => Body::Fenced { incarnation: r.varint()? },
        tag @ 20..=22 => read_collecting(r, tag)?,
        tag => return Err(CodecError::UnknownTag { noun: "replica message", tag }),
    };
    Ok(Message { epoch, counter, body })
}

/// The messages by which a newcomer copies an arc.
fn write_copying(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::Copy { round, high, after } => {
            begin(w, 15, *round);
            w.fixed_u64(high.0);
            w.option(after.as_ref(), write_key);
        }
        Body::CopyPage { round, entries, more, held, floor } => {
            begin(w, 16, *round);
            write_entries(w, entries, *more);
            w.varint(held.registers);
            w.fixed_u64(held.print);
            w.varint(*floor);
        }
        Body::Fetch { round, high, keys } => {
            begin(w, 17, *round);
            w.fixed_u64(high.0);
            w.list(keys, write_key);
        }
        Body::Fetched { round, entries } => {
            begin(w, 18, *round);
            w.list(entries, |w, (key, ballot, state)| {
                write_key(w, key);
                write_ballot(w, ballot);
                write_state(w, state);
            });
        }
        other => unreachable!("written by write_message: {other:?}"),
    }
}

fn read_copying(r: &mut Reader, tag: u8) -> Result<Body, CodecError> {
    let round = read_round(r)?;
    Ok(match tag {
        15 => Body::Copy { round, high: Position(r.fixed_u64()?), after: r.option(read_key)? },
        16 => Body::CopyPage {
            round,
            entries: read_ballots(r)?,
            more: r.bool()?,
            held: ArcPrint { registers: r.varint()?, print: r.fixed_u64()? },
            floor: r.varint()?,
        },
        17 => Body::Fetch { round, high: Position(r.fixed_u64()?), keys: r.list(KEY_BYTES_MIN, read_key)? },
        _ => Body::Fetched {
            round,
            entries: r.list(DIGEST_ENTRY_BYTES_MIN, |r| Ok((read_key(r)?, read_ballot(r)?, read_state(r)?)))?,
        },
    })
}

/// A view travels in the form in which discovery holds it.
pub(super) fn write_view(w: &mut Writer<'_>, view: &Arc<View>) {
    w.bytes(crate::view::to_json(view).as_bytes());
}

pub(super) fn read_view(r: &mut Reader) -> Result<Arc<View>, CodecError> {
    let text = r.text()?;
    crate::view::from_json(&text).map(Arc::new).map_err(|_| CodecError::View)
}

pub(super) fn write_record(w: &mut Writer<'_>, record: &Record) {
    match record {
        Record::Accepted { key, ballot, state } => {
            w.u8(1);
            write_key(w, key);
            write_ballot(w, ballot);
            write_state(w, state);
        }
        Record::Ceiling(counter) => {
            w.u8(2);
            w.varint(*counter);
        }
        Record::Epoch(epoch) => {
            w.u8(3);
            w.varint(epoch.0);
        }
        Record::Dropped { key, ballot } => {
            w.u8(4);
            write_key(w, key);
            write_ballot(w, ballot);
        }
        Record::Cleared { low, high } => {
            w.u8(5);
            w.fixed_u64(low.0);
            w.fixed_u64(high.0);
        }
    }
}

pub(super) fn read_record(r: &mut Reader) -> Result<Record, CodecError> {
    match r.u8()? {
        1 => Ok(Record::Accepted { key: read_key(r)?, ballot: read_ballot(r)?, state: read_state(r)? }),
        2 => r.varint().map(Record::Ceiling),
        3 => r.varint().map(|epoch| Record::Epoch(Epoch(epoch))),
        4 => Ok(Record::Dropped { key: read_key(r)?, ballot: read_ballot(r)? }),
        5 => Ok(Record::Cleared { low: Position(r.fixed_u64()?), high: Position(r.fixed_u64()?) }),
        tag => Err(CodecError::UnknownTag { noun: "log record", tag }),
    }
}

fn write_ledger_position(w: &mut Writer<'_>, position: LedgerPosition) {
    w.varint(position.start);
    w.varint(position.count);
}

fn read_ledger_position(r: &mut Reader) -> Result<LedgerPosition, CodecError> {
    Ok(LedgerPosition { start: r.varint()?, count: r.varint()? })
}

fn read_round(r: &mut Reader) -> Result<RoundId, CodecError> {
    r.varint().map(RoundId)
}

pub(super) fn write_key(w: &mut Writer<'_>, key: &RegisterKey) {
    w.fixed_u64(key.position.0);
    w.varint(u64::from(key.bucket.0));
    w.bytes(&key.key);
}

pub(super) fn read_key(r: &mut Reader) -> Result<RegisterKey, CodecError> {
    Ok(RegisterKey { position: Position(r.fixed_u64()?), bucket: BucketId(r.varint_u32()?), key: r.bytes()? })
}

pub(super) fn write_ballot(w: &mut Writer<'_>, ballot: &Ballot) {
    w.varint(ballot.counter);
    w.fixed_u64(ballot.node.0);
}

pub(super) fn read_ballot(r: &mut Reader) -> Result<Ballot, CodecError> {
    Ok(Ballot { counter: r.varint()?, node: NodeId(r.fixed_u64()?) })
}

pub(super) fn write_version(w: &mut Writer<'_>, version: &Version) {
    write_ballot(w, &version.ballot);
    w.varint(u64::from(version.index));
}

pub(super) fn read_version(r: &mut Reader) -> Result<Version, CodecError> {
    Ok(Version { ballot: read_ballot(r)?, index: r.varint_u32()? })
}

pub(super) fn write_value(w: &mut Writer<'_>, value: &Value) {
    w.bytes(&value.body);
    w.bytes(&value.content_type);
}

pub(super) fn read_value(r: &mut Reader) -> Result<Value, CodecError> {
    Ok(Value { body: r.bytes()?, content_type: r.bytes()? })
}

fn write_state(w: &mut Writer<'_>, state: &State) {
    write_version(w, &state.version);
    w.option(state.value.as_ref(), write_value);
    w.varint(state.requests.horizon_ms);
    w.list(&state.requests.entries, |w, entry| {
        w.fixed_u128(entry.request.0);
        w.varint(entry.first_sent_ms);
        write_effect(w, &entry.effect);
    });
    w.varint(state.fence);
    w.varint(state.ends_ms);
}

fn read_state(r: &mut Reader) -> Result<State, CodecError> {
    let version = read_version(r)?;
    let value = r.option(read_value)?;
    let horizon_ms = r.varint()?;
    let entries = r.list(REMEMBERED_BYTES_MIN, |r| {
        Ok(Remembered { request: RequestId(r.fixed_u128()?), first_sent_ms: r.varint()?, effect: read_effect(r)? })
    })?;
    let requests = RequestMemory { entries, horizon_ms };
    Ok(State { version, value, requests, fence: r.varint()?, ends_ms: r.varint()? })
}
