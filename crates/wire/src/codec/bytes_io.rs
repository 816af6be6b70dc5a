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

/// Appends to a buffer. Cannot fail: bounds are the receiver's matter.
pub(super) struct Writer<'a>(pub(super) &'a mut BytesMut);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    /// Eight bytes; for identities, which are spread over the whole range.
    pub(super) fn fixed_u64(&mut self, value: u64) {
        self.0.put_u64_le(value);
    }

    pub(super) fn fixed_u128(&mut self, value: u128) {
        self.0.put_u128_le(value);
    }

    /// LEB128: seven bits a byte, lowest first; for counters and lengths, which are mostly small.
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
    }

    /// Zigzag, then varint: numbers near zero are short on both sides of it.
    pub(super) fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.0.put_slice(value);
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
        for value in values {
            write(self, value);
        }
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

    pub(super) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            // The tenth byte has room for one bit; a last byte of zero says the same in a longer form. One number, one
            // form.
            if (index == VARINT_BYTES_MAX - 1 && byte > 1) || (index > 0 && byte == 0) {
                return Err(CodecError::Number);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Number)
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
