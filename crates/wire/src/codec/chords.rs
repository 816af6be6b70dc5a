//! Chord's messages.

use chord::{Body, CallId, Envelope, NextHop, Peer};
use membership::{NodeId, Position};

use super::bytes_io::{Reader, Writer};
use super::error::CodecError;

const PEER_BYTES: usize = 16;

fn write_peer(w: &mut Writer<'_>, peer: &Peer) {
    w.fixed_u64(peer.position.0);
    w.fixed_u64(peer.node.0);
}

fn read_peer(r: &mut Reader) -> Result<Peer, CodecError> {
    Ok(Peer { position: Position(r.fixed_u64()?), node: NodeId(r.fixed_u64()?) })
}

pub(super) fn write_envelope(w: &mut Writer<'_>, envelope: &Envelope) {
    write_peer(w, &envelope.from);
    write_peer(w, &envelope.to);
    match &envelope.body {
        Body::Pull { call } => {
            w.u8(1);
            w.varint(call.0);
        }
        Body::Pulled { call, predecessor, successors } => {
            w.u8(2);
            w.varint(call.0);
            w.option(predecessor.as_ref(), write_peer);
            w.list(successors, write_peer);
        }
        Body::Notify => w.u8(3),
        Body::Ping { call } => {
            w.u8(4);
            w.varint(call.0);
        }
        Body::Pong { call } => {
            w.u8(5);
            w.varint(call.0);
        }
        Body::FindSuccessor { call, target, origin, hops } => {
            w.u8(6);
            w.varint(call.0);
            w.fixed_u64(target.0);
            write_peer(w, origin);
            w.varint(u64::from(*hops));
        }
        Body::Found { call, successor, hops } => {
            w.u8(7);
            w.varint(call.0);
            write_peer(w, successor);
            w.varint(u64::from(*hops));
        }
    }
}

pub(super) fn read_envelope(r: &mut Reader) -> Result<Envelope, CodecError> {
    let (from, to) = (read_peer(r)?, read_peer(r)?);
    let body = match r.u8()? {
        1 => Body::Pull { call: read_call(r)? },
        2 => Body::Pulled {
            call: read_call(r)?,
            predecessor: r.option(read_peer)?,
            successors: r.list(PEER_BYTES, read_peer)?,
        },
        3 => Body::Notify,
        4 => Body::Ping { call: read_call(r)? },
        5 => Body::Pong { call: read_call(r)? },
        6 => Body::FindSuccessor {
            call: read_call(r)?,
            target: Position(r.fixed_u64()?),
            origin: read_peer(r)?,
            hops: r.varint_u32()?,
        },
        7 => Body::Found { call: read_call(r)?, successor: read_peer(r)?, hops: r.varint_u32()? },
        tag => return Err(CodecError::UnknownTag { noun: "chord message", tag }),
    };
    Ok(Envelope { from, to, body })
}

fn read_call(r: &mut Reader) -> Result<CallId, CodecError> {
    r.varint().map(CallId)
}

pub(super) fn write_next_hop(w: &mut Writer<'_>, hop: &NextHop) {
    let (tag, peer) = match hop {
        NextHop::Owner(peer) => (1, peer),
        NextHop::Ask(peer) => (2, peer),
    };
    w.u8(tag);
    write_peer(w, peer);
}

pub(super) fn read_next_hop(r: &mut Reader) -> Result<NextHop, CodecError> {
    match r.u8()? {
        1 => read_peer(r).map(NextHop::Owner),
        2 => read_peer(r).map(NextHop::Ask),
        tag => Err(CodecError::UnknownTag { noun: "next hop", tag }),
    }
}
