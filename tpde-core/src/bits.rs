//! A stream of bits, least significant first.

use crate::error::{Result, corrupt};

/// Appends values of 0 to 64 bits.
#[derive(Debug, Default, Clone)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// Appends the low `bits` bits of `value`; the rest of `value` must be zero.
    #[inline]
    pub(crate) fn put(&mut self, value: u64, bits: u32) {
        debug_assert!(bits == 64 || value >> bits == 0);
        if bits > 32 {
            self.put(value & 0xffff_ffff, 32);
            self.put(value >> 32, bits - 32);
            return;
        }
        // At most 7 pending bits and 32 new ones: no overflow.
        self.pending |= value << self.pending_bits;
        self.pending_bits += bits;
        let whole = (self.pending_bits / 8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..whole]);
        self.pending >>= 8 * whole;
        self.pending_bits %= 8;
    }

    /// Bits written so far.
    pub(crate) fn len_bits(&self) -> usize {
        self.bytes.len() * 8 + self.pending_bits as usize
    }

    /// Everything written, padded with zero bits to a whole byte.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer than eight bits are pending"
    )]
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Reads values of 0 to 64 bits. Past the end it yields zeros and remembers, so that a hot loop checks once.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    pos_bits: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos_bits: 0 }
    }

    /// The next `bits` bits.
    #[inline]
    pub(crate) fn get(&mut self, bits: u32) -> u64 {
        if bits > 32 {
            let low = self.get(32);
            return low | self.get(bits - 32) << 32;
        }
        let at = self.pos_bits / 8;
        let word = match self.bytes.get(at..at + 8) {
            Some(eight) => {
                let mut word = [0u8; 8];
                word.copy_from_slice(eight);
                u64::from_le_bytes(word)
            }
            None => self.tail_word(at),
        };
        let value = (word >> (self.pos_bits % 8)) & ((1u64 << bits) - 1);
        self.pos_bits += bits as usize;
        value
    }

    #[cold]
    fn tail_word(&self, at: usize) -> u64 {
        let rest = self.bytes.get(at..).unwrap_or(&[]);
        let mut word = [0u8; 8];
        word[..rest.len()].copy_from_slice(rest);
        u64::from_le_bytes(word)
    }

    /// Checks that the reads so far stayed within `total_bits`, left less than `slack_bits`, and that what they left
    /// is zero.
    ///
    /// # Errors
    /// `Corrupt` if bits are missing or left over.
    pub(crate) fn end(mut self, total_bits: usize, slack_bits: usize, what: &'static str) -> Result<()> {
        let mut left = match total_bits.checked_sub(self.pos_bits) {
            Some(left) if left < slack_bits.max(1) => left,
            _ => {
                return Err(corrupt(
                    what,
                    format!("{} of {total_bits} bits were used", self.pos_bits),
                ));
            }
        };
        while left > 0 {
            let step = left.min(32);
            #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
            if self.get(step as u32) != 0 {
                return Err(corrupt(what, "padding bits are not zero"));
            }
            left -= step;
        }
        Ok(())
    }

    /// Offset of the first byte that no read has touched.
    pub(crate) fn next_byte(&self) -> usize {
        self.pos_bits.div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: what is put comes out, at every width and alignment; one bit less is noticed.
        #[test]
        fn round_trip(items in prop::collection::vec((any::<u64>(), 0u32..=64), 0..60)) {
            let mut w = BitWriter::default();
            let cut = |v: u64, n: u32| if n == 64 { v } else { v & ((1 << n) - 1) };
            for &(v, n) in &items {
                w.put(cut(v, n), n);
            }
            let total = w.len_bits();
            let bytes = w.into_bytes();
            let mut r = BitReader::new(&bytes);
            for &(v, n) in &items {
                prop_assert_eq!(r.get(n), cut(v, n));
            }
            prop_assert!(r.end(bytes.len() * 8, 8, "bits").is_ok());
            if total > 0 {
                let mut short = BitReader::new(&bytes[..bytes.len() - 1]);
                for &(_, n) in &items {
                    short.get(n);
                }
                prop_assert!(short.end(bytes.len() * 8 - 8, 8, "bits").is_err());
            }
        }
    }
}
