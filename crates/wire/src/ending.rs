//! When a value of an available bucket ends.
//!
//! The core of available keys orders nothing by a wall clock and knows of no ends. So an end stands behind the value's
//! media type, in a form that no media type has: gateways write it and do not show what is over; the homes of the key
//! propose its deletion.

use bytes::{BufMut, Bytes, BytesMut};

/// Between the media type and the end: no header holds this byte.
const MARK: u8 = 0;

/// A media type with the end of its value, milliseconds of the Unix epoch; none for never.
pub fn with_end(content_type: &[u8], ends_ms: Option<u64>) -> Bytes {
    let Some(ends_ms) = ends_ms else { return Bytes::copy_from_slice(content_type) };
    let mut out = BytesMut::with_capacity(content_type.len() + 9);
    out.put_slice(content_type);
    out.put_u8(MARK);
    out.put_u64_le(ends_ms);
    out.freeze()
}

/// The media type, and the end if there is one.
pub fn split_end(stored: &[u8]) -> (&[u8], Option<u64>) {
    match stored.split_last_chunk::<8>() {
        Some(([content_type @ .., MARK], end)) => (content_type, Some(u64::from_le_bytes(*end))),
        _ => (stored, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_comes_back_with_its_media_type() {
        for content_type in [&b""[..], b"text/plain", b"a", b"application/x-very-long; charset=utf-8"] {
            for ends_ms in [None, Some(0), Some(1_700_000_000_000), Some(u64::MAX)] {
                assert_eq!(split_end(&with_end(content_type, ends_ms)), (content_type, ends_ms));
            }
        }
    }

    #[test]
    fn bytes_of_another_form_are_a_media_type() {
        for stored in [&b""[..], &[0; 8], b"12345678", b"text/plain"] {
            assert_eq!(split_end(stored), (stored, None));
        }
    }
}
