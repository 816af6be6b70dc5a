//! Turns messages and log records into bytes and back.
//!
//! Integers that are mostly small are varints, identities are eight bytes, byte strings carry their length, enum
//! variants are one tag byte. Tags are only appended, never reused.

mod available;
#[cfg(test)]
mod available_test;
mod bytes_io;
mod chords;
#[cfg(test)]
mod codec_test;
mod error;
mod inquiries;
mod operations;
mod registers;
#[cfg(test)]
mod samples;
mod scans;
mod tenures;

use bytes::{Bytes, BytesMut};
use membership::{ClusterId, NodeId, Position};
use replication::Record;
use stdx::TraceContext;

use crate::frame::{self, FRAME_VERSION, PREFIX_BYTES};
use crate::http::Durability;
use crate::node::{AvailableCall, Frame, Hello, LogRecord, LookupBy, OperationCall, Payload, ScanCall, Sender};

pub use bytes_io::SHARED_BYTES_MIN;
use bytes_io::{Reader, Writer};
pub use error::CodecError;

/// The format of log records; the first byte of each. 2 brought fencing tokens and the ends of values.
pub const RECORD_FORMAT: u8 = 2;
/// The same for log records of available keys: it tells one kind from the other.
pub const AVAILABLE_RECORD_FORMAT: u8 = 0x81;

/// Appends one whole frame, length prefix included, to `out`.
///
/// A message longer than [`frame::FRAME_BYTES_MAX`] is encoded too, and refused by every receiver: whoever sends
/// checks the length.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    let start = out.len();
    let mut writer = Writer::new(out);
    writer.fixed_u64(0);
    const { assert!(PREFIX_BYTES == 8, "the prefix is one u64 wide") };
    writer.u8(FRAME_VERSION);
    writer.u8(kind(&frame.payload));
    writer.fixed_u128(frame.context.trace_id);
    writer.fixed_u64(frame.context.span_id);
    writer.u8(frame.context.flags);
    write_payload(&mut writer, &frame.payload);
    drop(writer);
    frame::seal(out, start);
}

/// Reads exactly one whole frame, as [`encode`] wrote it.
///
/// Byte strings of [`SHARED_BYTES_MIN`] or more share `bytes`' memory.
///
/// # Errors
/// Any [`CodecError`]; nothing of the frame is to be used then, nor of the stream it came from.
pub fn decode(bytes: Bytes) -> Result<Frame, CodecError> {
    let mut reader = Reader(frame::open(bytes)?);
    let theirs = reader.u8()?;
    if theirs != FRAME_VERSION {
        return Err(CodecError::OtherVersion { theirs, ours: FRAME_VERSION });
    }
    let kind = reader.u8()?;
    let context = TraceContext { trace_id: reader.fixed_u128()?, span_id: reader.fixed_u64()?, flags: reader.u8()? };
    let payload = read_payload(&mut reader, kind)?;
    reader.finish()?;
    Ok(Frame { context, payload })
}

/// A log record as bytes, its format byte first. The log adds length and checksum.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut writer = Writer::new(&mut out);
    writer.u8(RECORD_FORMAT);
    registers::write_record(&mut writer, record);
    drop(writer);
    out.into()
}

/// Reads a log record back.
///
/// # Errors
/// Any [`CodecError`]: the record is damaged, or of another format.
pub fn decode_record(bytes: &[u8]) -> Result<Record, CodecError> {
    let mut reader = Reader(Bytes::copy_from_slice(bytes));
    let theirs = reader.u8()?;
    if theirs != RECORD_FORMAT {
        return Err(CodecError::OtherVersion { theirs, ours: RECORD_FORMAT });
    }
    let record = registers::read_record(&mut reader)?;
    reader.finish()?;
    Ok(record)
}

/// A log record of available keys as bytes, its format byte first. The log adds length and checksum.
pub fn encode_available_record(record: &::available::Record) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut writer = Writer::new(&mut out);
    writer.u8(AVAILABLE_RECORD_FORMAT);
    available::write_record(&mut writer, record);
    drop(writer);
    out.into()
}

/// Reads a log record of available keys back.
///
/// # Errors
/// Any [`CodecError`]: the record is damaged, or of another format.
pub fn decode_available_record(bytes: &[u8]) -> Result<::available::Record, CodecError> {
    let mut reader = Reader(Bytes::copy_from_slice(bytes));
    let theirs = reader.u8()?;
    if theirs != AVAILABLE_RECORD_FORMAT {
        return Err(CodecError::OtherVersion { theirs, ours: AVAILABLE_RECORD_FORMAT });
    }
    let record = available::read_record(&mut reader)?;
    reader.finish()?;
    Ok(record)
}

/// A record of either kind as bytes.
pub fn encode_log_record(record: &LogRecord) -> Vec<u8> {
    match record {
        LogRecord::Register(record) => encode_record(record),
        LogRecord::Available(record) => encode_available_record(record),
    }
}

/// Reads a record of either kind back; its first byte says which.
///
/// # Errors
/// Any [`CodecError`]: the record is damaged, or of another format.
pub fn decode_log_record(bytes: &[u8]) -> Result<LogRecord, CodecError> {
    match bytes.first() {
        Some(&AVAILABLE_RECORD_FORMAT) => decode_available_record(bytes).map(LogRecord::Available),
        _ => decode_record(bytes).map(LogRecord::Register),
    }
}

/// An operation on an available key as bytes, without a frame around it.
pub fn encode_available_operation(operation: &::available::Operation) -> Bytes {
    let mut out = BytesMut::new();
    available::write_operation(&mut Writer::new(&mut out), operation);
    out.freeze()
}

/// Reads what [`encode_available_operation`] wrote.
///
/// # Errors
/// Any [`CodecError`].
pub fn decode_available_operation(bytes: Bytes) -> Result<::available::Operation, CodecError> {
    let mut reader = Reader(bytes);
    let operation = available::read_operation(&mut reader)?;
    reader.finish()?;
    Ok(operation)
}

/// The end of an operation on an available key as bytes, with its receipt, without a frame around it.
pub fn encode_available_answer(outcome: &::available::Outcome, receipt: &::available::Receipt) -> Bytes {
    let mut out = BytesMut::new();
    available::write_outcome(&mut Writer::new(&mut out), outcome);
    available::write_receipt(&mut Writer::new(&mut out), receipt);
    out.freeze()
}

/// Reads what [`encode_available_answer`] wrote.
///
/// # Errors
/// Any [`CodecError`].
pub fn decode_available_answer(bytes: Bytes) -> Result<(::available::Outcome, ::available::Receipt), CodecError> {
    let mut reader = Reader(bytes);
    let answer = (available::read_outcome(&mut reader)?, available::read_receipt(&mut reader)?);
    reader.finish()?;
    Ok(answer)
}

/// What somebody has seen of an available key, as bytes.
pub fn encode_available_context(context: &::available::Context) -> Bytes {
    let mut out = BytesMut::new();
    available::write_context(&mut Writer::new(&mut out), context);
    out.freeze()
}

/// Reads what [`encode_available_context`] wrote.
///
/// # Errors
/// Any [`CodecError`].
pub fn decode_available_context(bytes: Bytes) -> Result<::available::Context, CodecError> {
    let mut reader = Reader(bytes);
    let context = available::read_context(&mut reader)?;
    reader.finish()?;
    Ok(context)
}

/// A message between replicas of available keys as bytes, without a frame around it.
pub fn encode_available_message(message: &::available::Message) -> Bytes {
    let mut out = BytesMut::new();
    available::write_message(&mut Writer::new(&mut out), message);
    out.freeze()
}

/// Reads what [`encode_available_message`] wrote.
///
/// # Errors
/// Any [`CodecError`].
pub fn decode_available_message(bytes: Bytes) -> Result<::available::Message, CodecError> {
    let mut reader = Reader(bytes);
    let message = available::read_message(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

fn kind(payload: &Payload) -> u8 {
    match payload {
        Payload::Hello(_) => 1,
        Payload::Replica(_) => 2,
        Payload::Chord(_) => 3,
        Payload::Operation(_) => 4,
        Payload::OperationReply { .. } => 5,
        Payload::Lookup { .. } => 6,
        Payload::LookupReply { .. } => 7,
        Payload::GoAway => 8,
        Payload::Ping => 9,
        Payload::Available { .. } => 10,
        Payload::AvailableOperation(_) => 11,
        Payload::AvailableReply { .. } => 12,
        Payload::Scan(_) => 17,
        Payload::ScanReply { .. } => 18,
        Payload::List { .. } => 19,
        Payload::ListReply { .. } => 20,
        Payload::Inquiry { .. } => 21,
        Payload::InquiryReply { .. } => 22,
    }
}

fn write_payload(w: &mut Writer<'_>, payload: &Payload) {
    match payload {
        Payload::Hello(hello) => write_hello(w, hello),
        Payload::Replica(message) => registers::write_message(w, message),
        Payload::Chord(envelope) => chords::write_envelope(w, envelope),
        Payload::Operation(OperationCall { call, deadline_ms, operation }) => {
            w.varint(*call);
            w.varint(u64::from(*deadline_ms));
            operations::write_operation(w, operation);
        }
        Payload::OperationReply { call, outcome, receipt } => {
            w.varint(*call);
            operations::write_outcome(w, outcome);
            operations::write_receipt(w, receipt);
        }
        Payload::Lookup { call, target, at, by } => {
            w.varint(*call);
            w.fixed_u64(target.0);
            w.option(*at, |w, at| w.fixed_u64(at.0));
            w.u8(match by {
                LookupBy::Fingers => 0,
                LookupBy::Neighbours => 1,
            });
        }
        Payload::LookupReply { call, hop } => {
            w.varint(*call);
            w.option(hop.as_ref(), chords::write_next_hop);
        }
        Payload::GoAway | Payload::Ping => {}
        Payload::Available { durability, message } => {
            write_durability(w, *durability);
            available::write_message(w, message);
        }
        Payload::AvailableOperation(AvailableCall { call, deadline_ms, durability, operation }) => {
            w.varint(*call);
            w.varint(u64::from(*deadline_ms));
            write_durability(w, *durability);
            available::write_operation(w, operation);
        }
        Payload::AvailableReply { call, outcome, receipt } => {
            w.varint(*call);
            available::write_outcome(w, outcome);
            available::write_receipt(w, receipt);
        }
        Payload::Scan(ScanCall { call, deadline_ms, scan }) => {
            w.varint(*call);
            w.varint(u64::from(*deadline_ms));
            scans::write_scan(w, scan);
        }
        Payload::ScanReply { call, outcome } => {
            w.varint(*call);
            scans::write_scan_outcome(w, outcome);
        }
        Payload::List { call, durability, listing } => {
            w.varint(*call);
            write_durability(w, *durability);
            scans::write_listing(w, listing);
        }
        Payload::ListReply { call, listed } => {
            w.varint(*call);
            scans::write_listed(w, listed);
        }
        Payload::Inquiry { call, inquiry } => inquiries::write_inquiry(w, *call, inquiry),
        Payload::InquiryReply { call, finding } => inquiries::write_finding(w, *call, finding),
    }
}

fn read_payload(r: &mut Reader, kind: u8) -> Result<Payload, CodecError> {
    Ok(match kind {
        1 => Payload::Hello(read_hello(r)?),
        2 => Payload::Replica(registers::read_message(r)?),
        3 => Payload::Chord(chords::read_envelope(r)?),
        4 => Payload::Operation(OperationCall {
            call: r.varint()?,
            deadline_ms: r.varint_u32()?,
            operation: operations::read_operation(r)?,
        }),
        5 => Payload::OperationReply {
            call: r.varint()?,
            outcome: operations::read_outcome(r)?,
            receipt: operations::read_receipt(r)?,
        },
        6 => Payload::Lookup {
            call: r.varint()?,
            target: Position(r.fixed_u64()?),
            at: r.option(|r| r.fixed_u64().map(Position))?,
            by: match r.u8()? {
                0 => LookupBy::Fingers,
                1 => LookupBy::Neighbours,
                tag => return Err(CodecError::UnknownTag { noun: "way of looking up", tag }),
            },
        },
        7 => Payload::LookupReply { call: r.varint()?, hop: r.option(chords::read_next_hop)? },
        8 => Payload::GoAway,
        9 => Payload::Ping,
        10 => Payload::Available { durability: read_durability(r)?, message: available::read_message(r)? },
        11 => Payload::AvailableOperation(AvailableCall {
            call: r.varint()?,
            deadline_ms: r.varint_u32()?,
            durability: read_durability(r)?,
            operation: available::read_operation(r)?,
        }),
        12 => Payload::AvailableReply {
            call: r.varint()?,
            outcome: available::read_outcome(r)?,
            receipt: available::read_receipt(r)?,
        },
        17 => Payload::Scan(ScanCall { call: r.varint()?, deadline_ms: r.varint_u32()?, scan: scans::read_scan(r)? }),
        18 => Payload::ScanReply { call: r.varint()?, outcome: scans::read_scan_outcome(r)? },
        19 => Payload::List { call: r.varint()?, durability: read_durability(r)?, listing: scans::read_listing(r)? },
        20 => Payload::ListReply { call: r.varint()?, listed: scans::read_listed(r)? },
        21 => Payload::Inquiry { call: r.varint()?, inquiry: inquiries::read_inquiry(r)? },
        22 => Payload::InquiryReply { call: r.varint()?, finding: inquiries::read_finding(r)? },
        tag => return Err(CodecError::UnknownTag { noun: "kind of frame", tag }),
    })
}

fn write_durability(w: &mut Writer<'_>, durability: Durability) {
    w.u8(match durability {
        Durability::Disk => 0,
        Durability::Memory => 1,
    });
}

fn read_durability(r: &mut Reader) -> Result<Durability, CodecError> {
    match r.u8()? {
        0 => Ok(Durability::Disk),
        1 => Ok(Durability::Memory),
        tag => Err(CodecError::UnknownTag { noun: "durability", tag }),
    }
}

fn write_hello(w: &mut Writer<'_>, hello: &Hello) {
    w.varint(u64::from(hello.protocol));
    w.fixed_u64(hello.cluster.0);
    match &hello.sender {
        Sender::Node { id, incarnation, name } => {
            w.u8(1);
            w.fixed_u64(id.0);
            w.varint(*incarnation);
            w.bytes(name.as_bytes());
        }
        Sender::Client { name } => {
            w.u8(2);
            w.bytes(name.as_bytes());
        }
    }
}

fn read_hello(r: &mut Reader) -> Result<Hello, CodecError> {
    let protocol = u16::try_from(r.varint()?).map_err(|_| CodecError::Number)?;
    let cluster = ClusterId(r.fixed_u64()?);
    let sender = match r.u8()? {
        1 => Sender::Node { id: NodeId(r.fixed_u64()?), incarnation: r.varint()?, name: r.text()? },
        2 => Sender::Client { name: r.text()? },
        tag => return Err(CodecError::UnknownTag { noun: "sender", tag }),
    };
    Ok(Hello { protocol, cluster, sender })
}
