//! The envelope of a message on a byte stream.
//!
//! ```text
//! u32 length | u32 crc32c | u8 version | u8 kind | 16 trace id, 8 span id, 1 flags | body
//!            |            |<------------------ length bytes, covered by the checksum ---->|
//! ```
//!
//! All fixed-width integers are little-endian. The length is checked against [`FRAME_BYTES_MAX`] before anything is
//! allocated by it.

use bytes::{Bytes, BytesMut};

use crate::codec::CodecError;

/// The format's version. A receiver that meets another one closes the connection.
pub const FRAME_VERSION: u8 = 1;
/// The length and checksum fields.
pub const PREFIX_BYTES: usize = 8;
/// Version, kind and trace context.
pub const HEADER_BYTES: usize = 27;
/// The longest whole frame, prefix included: room for the largest value (1 MiB) several times over.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// The whole length (prefix included) of the frame at the start of `stream`, or none when its prefix has not come in
/// yet.
///
/// # Errors
/// [`CodecError::Oversize`] and [`CodecError::Truncated`] for a length that no frame has. The stream cannot be followed
/// any further.
pub fn whole_length(stream: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, CodecError> {
    let Some(field) = stream.first_chunk::<4>() else { return Ok(None) };
    let claimed = u32::from_le_bytes(*field) as usize;
    let whole = claimed.saturating_add(PREFIX_BYTES);
    if whole > frame_bytes_max {
        return Err(CodecError::Oversize { bytes: whole, bytes_max: frame_bytes_max });
    }
    if claimed < HEADER_BYTES {
        return Err(CodecError::Truncated);
    }
    Ok(Some(whole))
}

/// Cuts the next whole frame, prefix included, off the front of `stream`; none when it has not all come in yet.
///
/// # Errors
/// As [`whole_length`].
pub fn split(stream: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
    match whole_length(stream, FRAME_BYTES_MAX)? {
        Some(whole) if whole <= stream.len() => Ok(Some(stream.split_to(whole).freeze())),
        _ => Ok(None),
    }
}

/// Fills in length and checksum of the frame that began at `start` and now ends the buffer.
pub(crate) fn seal(out: &mut BytesMut, start: usize) {
    let covered = start + PREFIX_BYTES;
    // A length past 32 bits saturates, and so is past every receiver's bound, too.
    let length = u32::try_from(out.len() - covered).unwrap_or(u32::MAX);
    let checksum = crc32c::crc32c(&out[covered..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..covered].copy_from_slice(&checksum.to_le_bytes());
}

/// Checks length and checksum of exactly one frame and returns what they cover.
pub(crate) fn open(mut frame: Bytes) -> Result<Bytes, CodecError> {
    let whole = whole_length(&frame, FRAME_BYTES_MAX)?.ok_or(CodecError::Truncated)?;
    if frame.len() < whole {
        return Err(CodecError::Truncated);
    }
    if frame.len() > whole {
        return Err(CodecError::TrailingBytes(frame.len() - whole));
    }
    let prefix = frame.split_to(PREFIX_BYTES);
    let claimed = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    if crc32c::crc32c(&frame) != claimed {
        return Err(CodecError::Checksum);
    }
    Ok(frame)
}
