//! Clients' operations and how they ended.

use membership::{Epoch, NodeId};
use replication::{Change, Condition, Effect, LockCall, Operation, Outcome, Receipt, Refusal, RequestId, Terms, Write};

use super::bytes_io::{Reader, Writer};
use super::error::CodecError;
use super::registers::{
    read_ballot, read_key, read_value, read_version, write_ballot, write_key, write_value, write_version,
};

const NODE_ID_BYTES: usize = 8;

pub(super) fn write_operation(w: &mut Writer<'_>, operation: &Operation) {
    match operation {
        Operation::Read { key } => {
            w.u8(1);
            write_key(w, key);
        }
        Operation::Write(write) => {
            w.u8(2);
            write_write(w, write);
        }
        Operation::Outcome { key, request } => {
            w.u8(3);
            write_key(w, key);
            w.fixed_u128(request.0);
        }
        Operation::InSession { since, sequential, operation } => {
            w.u8(4);
            write_ballot(w, since);
            w.bool(*sequential);
            write_operation(w, operation);
        }
    }
}

pub(super) fn read_operation(r: &mut Reader) -> Result<Operation, CodecError> {
    match r.u8()? {
        4 => {
            let (since, sequential) = (read_ballot(r)?, r.bool()?);
            // No session within a session: a reader's stack must not be the sender's to spend.
            let tag = r.u8()?;
            Ok(Operation::InSession { since, sequential, operation: Box::new(read_plain_operation(r, tag)?) })
        }
        tag => read_plain_operation(r, tag),
    }
}

fn read_plain_operation(r: &mut Reader, tag: u8) -> Result<Operation, CodecError> {
    Ok(match tag {
        1 => Operation::Read { key: read_key(r)? },
        2 => Operation::Write(read_write(r)?),
        3 => Operation::Outcome { key: read_key(r)?, request: RequestId(r.fixed_u128()?) },
        tag => return Err(CodecError::UnknownTag { noun: "operation", tag }),
    })
}

fn write_write(w: &mut Writer<'_>, write: &Write) {
    write_key(w, &write.key);
    w.fixed_u128(write.request.0);
    w.varint(write.first_sent_ms);
    w.bool(write.retry);
    match &write.condition {
        Condition::Always => w.u8(1),
        Condition::Matches(version) => {
            w.u8(2);
            write_version(w, version);
        }
        Condition::Exists => w.u8(3),
        Condition::Absent => w.u8(4),
    }
    match &write.change {
        Change::Put(value) => {
            w.u8(1);
            write_value(w, value);
        }
        Change::Delete => w.u8(2),
        Change::Add(by) => {
            w.u8(3);
            w.signed(*by);
        }
        Change::Append(bytes) => {
            w.u8(4);
            w.bytes(bytes);
        }
        Change::Touch => w.u8(5),
        Change::Lock(LockCall::Acquire { owner, ttl_ms, wait_ms }) => {
            w.u8(6);
            w.bytes(owner);
            w.varint(*ttl_ms);
            w.varint(*wait_ms);
        }
        Change::Lock(LockCall::Renew { fence, ttl_ms }) => {
            w.u8(7);
            w.varint(*fence);
            w.varint(*ttl_ms);
        }
        Change::Lock(LockCall::Release { fence }) => {
            w.u8(8);
            w.varint(*fence);
        }
    }
    w.option(write.terms.fence.as_ref(), |w, fence| w.varint(*fence));
    w.option(write.terms.ttl_ms.as_ref(), |w, ttl_ms| w.varint(*ttl_ms));
}

fn read_write(r: &mut Reader) -> Result<Write, CodecError> {
    Ok(Write {
        key: read_key(r)?,
        request: RequestId(r.fixed_u128()?),
        first_sent_ms: r.varint()?,
        retry: r.bool()?,
        condition: match r.u8()? {
            1 => Condition::Always,
            2 => Condition::Matches(read_version(r)?),
            3 => Condition::Exists,
            4 => Condition::Absent,
            tag => return Err(CodecError::UnknownTag { noun: "condition", tag }),
        },
        change: match r.u8()? {
            1 => Change::Put(read_value(r)?),
            2 => Change::Delete,
            3 => Change::Add(r.signed()?),
            4 => Change::Append(r.bytes()?),
            5 => Change::Touch,
            6 => Change::Lock(LockCall::Acquire { owner: r.bytes()?, ttl_ms: r.varint()?, wait_ms: r.varint()? }),
            7 => Change::Lock(LockCall::Renew { fence: r.varint()?, ttl_ms: r.varint()? }),
            8 => Change::Lock(LockCall::Release { fence: r.varint()? }),
            tag => return Err(CodecError::UnknownTag { noun: "change", tag }),
        },
        terms: Terms { fence: r.option(Reader::varint)?, ttl_ms: r.option(Reader::varint)? },
    })
}

pub(super) fn write_effect(w: &mut Writer<'_>, effect: &Effect) {
    match effect {
        Effect::Created(version) => {
            w.u8(1);
            write_version(w, version);
        }
        Effect::Replaced(version) => {
            w.u8(2);
            write_version(w, version);
        }
        Effect::Deleted(version) => {
            w.u8(3);
            write_version(w, version);
        }
        Effect::ConditionFailed(version) => {
            w.u8(4);
            w.option(version.as_ref(), write_version);
        }
        Effect::Unfit => w.u8(5),
        Effect::FencedOff(fence) => {
            w.u8(6);
            w.varint(*fence);
        }
        Effect::Granted { fence, ends_ms } => {
            w.u8(7);
            w.varint(*fence);
            w.varint(*ends_ms);
        }
        Effect::Held { place, ends_ms } => {
            w.u8(8);
            w.varint(u64::from(*place));
            w.varint(*ends_ms);
        }
        Effect::Released => w.u8(9),
        Effect::NotHeld => w.u8(10),
    }
}

pub(super) fn read_effect(r: &mut Reader) -> Result<Effect, CodecError> {
    Ok(match r.u8()? {
        1 => Effect::Created(read_version(r)?),
        2 => Effect::Replaced(read_version(r)?),
        3 => Effect::Deleted(read_version(r)?),
        4 => Effect::ConditionFailed(r.option(read_version)?),
        5 => Effect::Unfit,
        6 => Effect::FencedOff(r.varint()?),
        7 => Effect::Granted { fence: r.varint()?, ends_ms: r.varint()? },
        8 => Effect::Held { place: r.varint_u32()?, ends_ms: r.varint()? },
        9 => Effect::Released,
        10 => Effect::NotHeld,
        tag => return Err(CodecError::UnknownTag { noun: "effect", tag }),
    })
}

pub(super) fn write_outcome(w: &mut Writer<'_>, outcome: &Outcome) {
    match outcome {
        Outcome::Value(found) => {
            w.u8(1);
            w.option(found.as_ref(), |w, (version, value)| {
                write_version(w, version);
                write_value(w, value);
            });
        }
        Outcome::Done { effect, value } => {
            w.u8(2);
            write_effect(w, effect);
            w.option(value.as_ref(), write_value);
        }
        Outcome::Remembered(effect) => {
            w.u8(3);
            w.option(effect.as_ref(), write_effect);
        }
        Outcome::Refused(refusal) => {
            w.u8(4);
            write_refusal(w, refusal);
        }
        Outcome::Unknown => w.u8(5),
    }
}

pub(super) fn read_outcome(r: &mut Reader) -> Result<Outcome, CodecError> {
    Ok(match r.u8()? {
        1 => Outcome::Value(r.option(|r| Ok((read_version(r)?, read_value(r)?)))?),
        2 => Outcome::Done { effect: read_effect(r)?, value: r.option(read_value)? },
        3 => Outcome::Remembered(r.option(read_effect)?),
        4 => Outcome::Refused(read_refusal(r)?),
        5 => Outcome::Unknown,
        tag => return Err(CodecError::UnknownTag { noun: "outcome", tag }),
    })
}

pub(super) fn write_refusal(w: &mut Writer<'_>, refusal: &Refusal) {
    match refusal {
        Refusal::NotReplica(epoch) => {
            w.u8(1);
            w.varint(epoch.0);
        }
        Refusal::NoQuorum => w.u8(2),
        Refusal::Overloaded => w.u8(3),
        Refusal::DiskFull => w.u8(4),
        Refusal::Draining => w.u8(5),
        Refusal::TooOld => w.u8(6),
    }
}

pub(super) fn read_refusal(r: &mut Reader) -> Result<Refusal, CodecError> {
    Ok(match r.u8()? {
        1 => Refusal::NotReplica(Epoch(r.varint()?)),
        2 => Refusal::NoQuorum,
        3 => Refusal::Overloaded,
        4 => Refusal::DiskFull,
        5 => Refusal::Draining,
        6 => Refusal::TooOld,
        tag => return Err(CodecError::UnknownTag { noun: "refusal", tag }),
    })
}

pub(super) fn write_receipt(w: &mut Writer<'_>, receipt: &Receipt) {
    w.varint(receipt.epoch.0);
    w.list(&receipt.voters, |w, node| w.fixed_u64(node.0));
    w.varint(u64::from(receipt.rounds));
    write_ballot(w, &receipt.time);
}

pub(super) fn read_receipt(r: &mut Reader) -> Result<Receipt, CodecError> {
    Ok(Receipt {
        epoch: Epoch(r.varint()?),
        voters: r.list(NODE_ID_BYTES, |r| r.fixed_u64().map(NodeId))?,
        rounds: r.varint_u32()?,
        time: read_ballot(r)?,
    })
}
