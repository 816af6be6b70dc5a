//! The alphabet of the encoding: fixed and variable-length integers, byte strings, options and lists.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::CodecError;

/// From this length on a decoded byte string shares the memory of the message that it came in; a shorter one is a copy.
///
/// Sharing saves a copy of a large value. For a small one it would be a bad bargain: a key of ten bytes, kept for
/// years, would keep alive a message of a megabyte or a whole read buffer.
pub const SHARED_BYTES_MIN: usize = 4096;

/// A varint's longest form.
const VARINT_BYTES_MAX: usize = 10;

/// Bytes that are gathered before they are appended: a hot key's state is thousands of small numbers, and the buffer
/// looks for room at each call.
const GATHERED_BYTES: usize = 128;

/// Appends to a buffer; all of it is there once the writer is dropped. Cannot fail: bounds are the receiver's matter.
pub(super) struct Writer<'a> {
    out: &'a mut BytesMut,
    gathered: [u8; GATHERED_BYTES],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut) -> Writer<'a> {
        Writer { out, gathered: [0; GATHERED_BYTES], len: 0 }
    }

    fn append(&mut self) {
        self.out.put_slice(&self.gathered[..self.len]);
        self.len = 0;
    }

    #[inline]
    fn gather<const LEN: usize>(&mut self, bytes: [u8; LEN]) {
        if self.len + LEN > GATHERED_BYTES {
            self.append();
        }
        self.gathered[self.len..self.len + LEN].copy_from_slice(&bytes);
        self.len += LEN;
    }

    #[inline]
    pub(super) fn u8(&mut self, value: u8) {
        self.gather([value]);
    }

    /// Eight bytes; for identities, which are spread over the whole range.
    #[inline]
    pub(super) fn fixed_u64(&mut self, value: u64) {
        self.gather(value.to_le_bytes());
    }

    #[inline]
    pub(super) fn fixed_u128(&mut self, value: u128) {
        self.gather(value.to_le_bytes());
    }

    /// LEB128: seven bits a byte, lowest first; for counters and lengths, which are mostly small.
    #[inline]
    pub(super) fn varint(&mut self, mut value: u64) {
        if self.len + VARINT_BYTES_MAX > GATHERED_BYTES {
            self.append();
        }
        while value >= 0x80 {
            self.gathered[self.len] = (value as u8) | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.gathered[self.len] = value as u8;
        self.len += 1;
    }

    /// Zigzag, then varint: numbers near zero are short on both sides of it.
    pub(super) fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    #[inline]
    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        if let Some(room) = self.gathered[self.len..].get_mut(..value.len()) {
            room.copy_from_slice(value);
            self.len += value.len();
        } else {
            self.append();
            self.out.put_slice(value);
        }
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
    }

    pub(super) fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.varint(values.len() as u64);
        // About what they take, at once: growing step by step copies what is there already each time.
        self.out.reserve(GATHERED_BYTES + size_of_val(values));
        for value in values {
            write(self, value);
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.append();
    }
}

/// Reads from the front of a message. Every method checks before it takes.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        if self.0.is_empty() {
            return Err(CodecError::Truncated);
        }
        Ok(self.0.get_u8())
    }

    pub(super) fn fixed_u64(&mut self) -> Result<u64, CodecError> {
        if self.0.len() < 8 {
            return Err(CodecError::Truncated);
        }
        Ok(self.0.get_u64_le())
    }

    pub(super) fn fixed_u128(&mut self) -> Result<u128, CodecError> {
        if self.0.len() < 16 {
            return Err(CodecError::Truncated);
        }
        Ok(self.0.get_u128_le())
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for (index, byte) in self.0.iter().copied().take(VARINT_BYTES_MAX).enumerate() {
            // The tenth byte has room for one bit; a last byte of zero says the same in a longer form. One number, one
            // form.
            if (index == VARINT_BYTES_MAX - 1 && byte > 1) || (index > 0 && byte == 0) {
                return Err(CodecError::Number);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0.advance(index + 1);
                return Ok(value);
            }
        }
        Err(if self.0.len() < VARINT_BYTES_MAX { CodecError::Truncated } else { CodecError::Number })
    }

    pub(super) fn varint_u32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.varint()?).map_err(|_| CodecError::Number)
    }

    pub(super) fn signed(&mut self) -> Result<i64, CodecError> {
        let folded = self.varint()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    pub(super) fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(CodecError::UnknownTag { noun: "truth value", tag }),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let length = usize::try_from(self.varint()?).map_err(|_| CodecError::Truncated)?;
        if length > self.0.len() {
            return Err(CodecError::Truncated);
        }
        let shared = self.0.split_to(length);
        Ok(if length < SHARED_BYTES_MIN { Bytes::copy_from_slice(&shared) } else { shared })
    }

    pub(super) fn text(&mut self) -> Result<String, CodecError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| CodecError::Text)
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            tag => Err(CodecError::UnknownTag { noun: "option", tag }),
        }
    }

    /// A list whose entries take at least `entry_bytes_min` bytes each: so the claimed length is checked against what
    /// is there before memory is set aside for it.
    pub(super) fn list<T>(
        &mut self,
        entry_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let entries = self.varint()?;
        if entries > (self.0.len() / entry_bytes_min) as u64 {
            return Err(CodecError::ListLength { entries });
        }
        let mut values = Vec::with_capacity(entries as usize);
        for _ in 0..entries {
            values.push(read(self)?);
        }
        Ok(values)
    }

    pub(super) fn finish(self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::TrailingBytes(left)),
        }
    }
}
