//! The one place where bytes become numbers: little-endian, LEB128 varints, every read checked.
//!
//! A [`Reader`] never allocates; [`Reader::count`] refuses an element count that the remaining bytes cannot
//! hold, so that no caller allocates for a number that a hostile file made up.

use crate::error::{CodecError, Result, corrupt};

/// Longest LEB128 encoding of a `u64`, in bytes.
pub const MAX_VARINT_LEN: usize = 10;

/// Appends primitive values to a byte vector.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything written so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.bytes.push(v);
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, v: u16) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// LEB128, seven bits a byte, low bits first, shortest form.
    #[expect(clippy::cast_possible_truncation, reason = "masked to seven bits")]
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.bytes.push((v as u8 & 0x7f) | 0x80);
            v >>= 7;
        }
        self.bytes.push(v as u8);
    }

    /// A zero byte if the length is odd.
    pub fn pad_to_even(&mut self) {
        if self.bytes.len() % 2 == 1 {
            self.bytes.push(0);
        }
    }

    /// The bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A varint length, then the bytes.
    pub fn prefixed(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }
}

/// Reads primitive values from a byte slice, in order.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    /// Offset of the next byte.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// `Truncated` if fewer are left; `what` names the structure in the message.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(CodecError::Truncated {
                what,
                offset: self.pos,
                needed: n,
                left: self.left(),
            });
        }
        let slice = &self.bytes[self.pos..self.pos + n];
        self.pos += n;
        Ok(slice)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0u8; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A LEB128 varint in its shortest form.
    ///
    /// # Errors
    /// `Truncated`, or `Corrupt` if it is longer than a `u64` or not the shortest form.
    pub fn varint(&mut self, what: &'static str) -> Result<u64> {
        let mut v = 0u64;
        for i in 0..MAX_VARINT_LEN {
            let byte = self.u8(what)?;
            let low = u64::from(byte & 0x7f);
            if i == MAX_VARINT_LEN - 1 && low > 1 {
                break;
            }
            v |= low << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    return Err(corrupt(what, "varint is not in its shortest form"));
                }
                return Ok(v);
            }
        }
        Err(corrupt(what, "varint is longer than 64 bits"))
    }

    /// A varint that must fit the machine's `usize` and be at most `max`.
    ///
    /// # Errors
    /// As [`Reader::varint`]; `Corrupt` above `max`.
    pub fn size(&mut self, max: usize, what: &'static str) -> Result<usize> {
        let v = self.varint(what)?;
        match usize::try_from(v) {
            Ok(n) if n <= max => Ok(n),
            _ => Err(corrupt(what, format!("{v} is above the limit of {max}"))),
        }
    }

    /// A varint count of things of which each takes at least `min_len` bytes of what is left.
    ///
    /// # Errors
    /// As [`Reader::varint`]; `Corrupt` if the rest cannot hold that many, so it is safe to allocate for them.
    pub fn count(&mut self, min_len: usize, what: &'static str) -> Result<usize> {
        let v = self.varint(what)?;
        let most = self.left() / min_len.max(1);
        match usize::try_from(v) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(corrupt(
                what,
                format!("{v} entries cannot fit in {} bytes", self.left()),
            )),
        }
    }

    /// Bytes behind a varint length.
    ///
    /// # Errors
    /// As [`Reader::varint`] and [`Reader::take`].
    pub fn prefixed(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let n = self.varint(what)?;
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        self.take(n, what)
    }

    /// UTF-8 text behind a varint length.
    ///
    /// # Errors
    /// As [`Reader::prefixed`]; `Corrupt` if it is not UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str> {
        let bytes = self.prefixed(what)?;
        std::str::from_utf8(bytes).map_err(|e| corrupt(what, format!("not UTF-8: {e}")))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// `Corrupt` if bytes follow.
    pub fn end(&self, what: &'static str) -> Result<()> {
        if self.left() == 0 {
            return Ok(());
        }
        Err(corrupt(what, format!("{} bytes too many", self.left())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: every value reads back, and every truncation is an error.
    #[test]
    fn round_trip_and_truncation() -> Result<()> {
        for v in [
            0u64,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut w = Writer::new();
            w.varint(v);
            let bytes = w.into_bytes();
            let mut r = Reader::new(&bytes);
            assert_eq!(r.varint("v")?, v);
            r.end("v")?;
            for cut in 0..bytes.len() {
                assert!(Reader::new(&bytes[..cut]).varint("v").is_err());
            }
        }
        Ok(())
    }

    /// Promise: one number has one encoding, so equal structures are equal bytes.
    #[test]
    fn only_the_shortest_form_is_read() {
        for bad in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 11]] {
            assert!(Reader::new(bad).varint("v").is_err(), "{bad:?}");
        }
    }

    /// Promise: a count that the rest cannot hold is refused before anybody allocates.
    #[test]
    fn counts_are_earned() {
        let mut w = Writer::new();
        w.varint(1 << 40);
        w.raw(&[0; 100]);
        let bytes = w.into_bytes();
        assert!(Reader::new(&bytes).count(1, "n").is_err());
    }
}
