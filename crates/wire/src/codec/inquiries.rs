//! Questions about what one node holds, and their answers.

use ::available::{Dot, Known};
use membership::{Epoch, NodeId};
use replication::{RegisterKey, RequestId};

use super::available::{ACTOR_BYTES_MIN, read_context, read_dot, write_context, write_dot};
use super::bytes_io::{Reader, Writer};
use super::error::CodecError;
use super::registers::{KEY_BYTES_MIN, read_ballot, read_key, read_version, write_ballot, write_key, write_version};
use super::{read_durability, write_durability};
use crate::node::{Finding, HeldRegister, Inquiry};

pub(super) fn write_inquiry(w: &mut Writer<'_>, call: u64, inquiry: &Inquiry) {
    w.varint(call);
    match inquiry {
        Inquiry::Register(key) => {
            w.u8(1);
            write_key(w, key);
        }
        Inquiry::Available(durability, key) => {
            w.u8(2);
            write_durability(w, *durability);
            write_key(w, key);
        }
        Inquiry::Request(request) => {
            w.u8(3);
            w.fixed_u128(request.0);
        }
    }
}

pub(super) fn read_inquiry(r: &mut Reader) -> Result<Inquiry, CodecError> {
    Ok(match r.u8()? {
        1 => Inquiry::Register(read_key(r)?),
        2 => Inquiry::Available(read_durability(r)?, read_key(r)?),
        3 => Inquiry::Request(RequestId(r.fixed_u128()?)),
        tag => return Err(CodecError::UnknownTag { noun: "inquiry", tag }),
    })
}

pub(super) fn write_finding(w: &mut Writer<'_>, call: u64, finding: &Finding) {
    w.varint(call);
    match finding {
        Finding::Register(held) => {
            w.u8(1);
            w.varint(held.epoch.0);
            w.bool(held.replica);
            write_ballot(w, &held.ballot);
            write_version(w, &held.version);
            w.option(held.size, Writer::varint);
        }
        Finding::Available(known) => {
            w.u8(2);
            write_known(w, known);
        }
        Finding::Request(keys) => {
            w.u8(3);
            w.list(keys, |w, key: &RegisterKey| write_key(w, key));
        }
    }
}

pub(super) fn read_finding(r: &mut Reader) -> Result<Finding, CodecError> {
    Ok(match r.u8()? {
        1 => Finding::Register(HeldRegister {
            epoch: Epoch(r.varint()?),
            replica: r.bool()?,
            ballot: read_ballot(r)?,
            version: read_version(r)?,
            size: r.option(Reader::varint)?,
        }),
        2 => Finding::Available(read_known(r)?),
        3 => Finding::Request(r.list(KEY_BYTES_MIN, read_key)?),
        tag => return Err(CodecError::UnknownTag { noun: "finding", tag }),
    })
}

fn write_known(w: &mut Writer<'_>, known: &Known) {
    w.varint(known.epoch.0);
    w.bool(known.home);
    w.bool(known.counts);
    write_context(w, &known.context);
    w.list(&known.alive, |w, dot: &Dot| write_dot(w, *dot));
    w.varint(known.alive_count);
    w.bool(known.tombstone);
    w.bool(known.stable);
    w.list(&known.owes, |w, node: &NodeId| w.fixed_u64(node.0));
    w.varint(known.hints);
    w.list(&known.compared_ms, |w, (node, ms): &(NodeId, u64)| {
        w.fixed_u64(node.0);
        w.varint(*ms);
    });
}

fn read_known(r: &mut Reader) -> Result<Known, CodecError> {
    Ok(Known {
        epoch: Epoch(r.varint()?),
        home: r.bool()?,
        counts: r.bool()?,
        context: read_context(r)?,
        alive: r.list(1 + ACTOR_BYTES_MIN, read_dot)?,
        alive_count: r.varint()?,
        tombstone: r.bool()?,
        stable: r.bool()?,
        owes: r.list(8, |r| r.fixed_u64().map(NodeId))?,
        hints: r.varint()?,
        compared_ms: r.list(9, |r| Ok((NodeId(r.fixed_u64()?), r.varint()?)))?,
    })
}
