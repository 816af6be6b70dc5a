//! How records and segment heads lie on the disk. All numbers are little-endian.
//!
//! A segment is a head of [`SEGMENT_HEAD`] bytes, frames without gaps, then zeros to its end. A frame is `magic u32,
//! crc u32, len u32, lag u32, sequence u64, body`; the crc covers the log id and everything after itself, so a frame of
//! another log, or of another place in this one, is not valid here.

use crc32c::{crc32c, crc32c_append};

use crate::log::SegmentId;

/// A frame without its body, in bytes.
pub(crate) const FRAME_HEAD: usize = 24;
/// The head of a segment, in bytes: less than a sector, so a crash writes it whole or not at all.
pub(crate) const SEGMENT_HEAD: usize = 40;
/// The format that this program writes and reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

const FRAME_MAGIC: [u8; 4] = [0xe7, b'r', b'e', b'c'];
const SEGMENT_MAGIC: [u8; 8] = *b"everring";
const BLANK_CHUNK: usize = 4096;

/// How many bytes of a segment a record with a body of `body_len` bytes takes.
pub const fn framed_len(body_len: u64) -> u64 {
    body_len + FRAME_HEAD as u64
}

/// What a frame says beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The record's number.
    pub sequence: u64,
    /// The last record that was durable when this one was appended; less than `sequence`.
    pub flushed: u64,
}

/// A valid frame, found at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub stamp: Stamp,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The bytes that it takes.
    pub fn len(&self) -> usize {
        FRAME_HEAD + self.body.len()
    }
}

/// Appends a record's frame to `out`.
pub(crate) fn encode(log_id: u64, stamp: Stamp, body: &[u8], out: &mut Vec<u8>) {
    let body_len = u32::try_from(body.len()).expect("the caller refuses bodies that do not fit in a segment");
    let lag = u32::try_from(stamp.sequence - stamp.flushed).expect("the bound on unflushed bytes bounds their number");
    let start = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&body_len.to_le_bytes());
    out.extend_from_slice(&lag.to_le_bytes());
    out.extend_from_slice(&stamp.sequence.to_le_bytes());
    out.extend_from_slice(body);
    let crc = frame_crc(log_id, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The frame at the start of `bytes`, if a valid one is there.
pub(crate) fn decode(log_id: u64, bytes: &[u8]) -> Option<Frame<'_>> {
    let len = claimed_len(bytes)?;
    let frame = bytes.get(..len)?;
    let stamp = claimed_stamp(frame)?;
    (frame_crc(log_id, &frame[8..]) == u32_at(frame, 4)).then_some(Frame { stamp, body: &frame[FRAME_HEAD..] })
}

/// The length of the frame that seems to start here; unchecked, and perhaps longer than `bytes`.
pub(crate) fn claimed_len(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < FRAME_HEAD || bytes[..4] != FRAME_MAGIC {
        return None;
    }
    Some(FRAME_HEAD + u32_at(bytes, 8) as usize)
}

/// Whether some valid frame in `bytes` was written when the record `sequence` was already durable.
pub(crate) fn vouches_for(log_id: u64, sequence: u64, bytes: &[u8]) -> bool {
    // Values may hold anything, also many things that look like frames: the cheap tests come before the checksum.
    let sequence_max = sequence.saturating_add(bytes.len() as u64 / FRAME_HEAD as u64 + 1);
    bytes.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, window)| **window == FRAME_MAGIC).any(|(at, _)| {
        let later = |stamp: Stamp| stamp.flushed >= sequence && stamp.sequence <= sequence_max;
        claimed_stamp(&bytes[at..]).is_some_and(later) && decode(log_id, &bytes[at..]).is_some()
    })
}

/// Whether all bytes are zero, as preallocation leaves them.
pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(BLANK_CHUNK).all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// The length of `bytes` without the zeros at its end.
pub(crate) fn written_len(bytes: &[u8]) -> usize {
    let blank: usize = bytes.rchunks(BLANK_CHUNK).take_while(|chunk| is_blank(chunk)).map(<[u8]>::len).sum();
    bytes[..bytes.len() - blank].iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub version: u32,
    pub log_id: u64,
    pub segment: SegmentId,
    /// The number of its first record, also when it has none yet.
    pub first_sequence: u64,
}

impl SegmentHead {
    pub fn encode(&self) -> [u8; SEGMENT_HEAD] {
        let mut bytes = [0; SEGMENT_HEAD];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = head_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The head in `bytes`, if it is one of ours, of whatever version.
    pub fn decode(bytes: &[u8; SEGMENT_HEAD]) -> Option<SegmentHead> {
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 12) != head_crc(bytes) {
            return None;
        }
        Some(SegmentHead {
            version: u32_at(bytes, 8),
            log_id: u64_at(bytes, 16),
            segment: SegmentId(u64_at(bytes, 24)),
            first_sequence: u64_at(bytes, 32),
        })
    }
}

fn head_crc(bytes: &[u8; SEGMENT_HEAD]) -> u32 {
    crc32c_append(crc32c(&bytes[..12]), &bytes[16..])
}

fn frame_crc(log_id: u64, covered: &[u8]) -> u32 {
    crc32c_append(crc32c(&log_id.to_le_bytes()), covered)
}

/// The stamp in a frame's head; none where no frame could have it. `bytes` may be shorter than a head.
fn claimed_stamp(bytes: &[u8]) -> Option<Stamp> {
    if bytes.len() < FRAME_HEAD {
        return None;
    }
    let (lag, sequence) = (u64::from(u32_at(bytes, 12)), u64_at(bytes, 16));
    (1 <= lag && lag <= sequence).then(|| Stamp { sequence, flushed: sequence - lag })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { sequence: 9, flushed: 7 };

    #[test]
    fn a_frame_comes_back_only_for_its_log() {
        let mut bytes = Vec::new();
        encode(5, STAMP, b"body", &mut bytes);
        assert_eq!(bytes.len() as u64, framed_len(4));
        assert_eq!(decode(5, &bytes), Some(Frame { stamp: STAMP, body: b"body" }));
        assert_eq!(decode(6, &bytes), None, "another log's frame is nothing here");
        assert_eq!(decode(5, &bytes[..bytes.len() - 1]), None);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(5, &bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_head_comes_back_only_whole() {
        let head = SegmentHead { version: 1, log_id: 2, segment: SegmentId(3), first_sequence: 4 };
        let mut bytes = head.encode();
        assert_eq!(SegmentHead::decode(&bytes), Some(head));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHead::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn only_a_frame_written_after_the_flush_vouches() {
        let mut bytes = vec![0xaa; 13];
        encode(5, STAMP, b"body", &mut bytes);
        assert!(vouches_for(5, 7, &bytes));
        assert!(!vouches_for(5, 8, &bytes), "8 was in the same batch as 9");
        assert!(!vouches_for(6, 7, &bytes));
        assert!(!vouches_for(5, 7, &bytes[..bytes.len() - 1]));
    }

    #[test]
    fn blank_is_zeros_only() {
        let mut bytes = vec![0; 10_000];
        assert!(is_blank(&bytes) && is_blank(&[]));
        bytes[9_999] = 1;
        assert!(!is_blank(&bytes));
        assert_eq!(written_len(&bytes), 10_000);
        bytes[9_999] = 0;
        bytes[77] = 1;
        assert_eq!(written_len(&bytes), 78);
        assert_eq!(written_len(&bytes[78..]), 0);
    }
}
