//! One rANS stream on the wire: symbols, and the raw bits that go with them.
//!
//! ```text
//! varint words | L × u32 states | words × u16 | raw bytes …
//! ```
//!
//! The first `15·L` raw bits ride in the low bits of the encoder's initial states, so a stream's fixed cost is about two
//! bytes a lane instead of four. They come out last, which is why raw bits are read after all symbols.

use crate::arch::scalar::{SymbolDecoder, encode_symbols};
use crate::bits::{BitReader, BitWriter};
use crate::constants::{MAX_LANES, STATE_HIGH, STATE_LOW, STATE_PAYLOAD_BITS};
use crate::error::{Result, corrupt};
use crate::rans::table::{DecodeEntry, EncodeEntry};
use crate::wire::{Reader, Writer};

const WHAT: &str = "rANS stream";

/// Lanes of a stream over `elems` elements: all 32 from 2048 elements on, one below 128.
pub(crate) fn lanes_for(elems: usize) -> usize {
    let log2 = elems.max(1).ilog2();
    (1 << log2.saturating_sub(6)).min(MAX_LANES)
}

/// Symbols and raw bits in decoding order, on their way into a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamWriter {
    entries: Vec<EncodeEntry>,
    raw: BitWriter,
}

impl StreamWriter {
    pub(crate) fn symbol(&mut self, entry: EncodeEntry) {
        self.entries.push(entry);
    }

    pub(crate) fn raw(&mut self, value: u64, bits: u32) {
        self.raw.put(value, bits);
    }

    /// Pads with `entry` until the symbols fill all lanes.
    pub(crate) fn pad_symbols(&mut self, entry: EncodeEntry, lanes: usize) {
        self.entries
            .resize(self.entries.len().next_multiple_of(lanes), entry);
    }

    /// Writes the stream, with `between` put between the words and the raw bytes.
    pub(crate) fn finish(self, lanes: usize, between: &[u8], w: &mut Writer) {
        let raw_bits = self.raw.len_bits();
        let raw = self.raw.into_bytes();
        let mut payload = BitReader::new(&raw);
        #[expect(clippy::cast_possible_truncation, reason = "15 bits")]
        let mut states: Vec<u32> = (0..lanes)
            .map(|_| STATE_LOW | payload.get(STATE_PAYLOAD_BITS) as u32)
            .collect();
        let words = encode_symbols(&self.entries, &mut states);
        w.varint(words.len() as u64);
        for state in states {
            w.u32(state);
        }
        for word in words {
            w.u16(word);
        }
        w.raw(between);
        let carried = lanes * STATE_PAYLOAD_BITS as usize;
        if carried >= raw_bits {
            return;
        }
        if carried.is_multiple_of(8) {
            w.raw(&raw[carried / 8..]);
            return;
        }
        let mut rest = BitWriter::default();
        for at in (carried..raw_bits).step_by(8) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
            let bits = (raw_bits - at).min(8) as u32;
            rest.put(payload.get(bits), bits);
        }
        w.raw(&rest.into_bytes());
    }
}

/// A stream being read: first all symbols, then the raw bits.
#[derive(Debug)]
pub(crate) struct StreamReader<'a> {
    decoder: SymbolDecoder<'a>,
}

impl<'a> StreamReader<'a> {
    /// Reads the states and words; `r` stands behind them afterwards.
    pub(crate) fn new(r: &mut Reader<'a>, lanes: usize) -> Result<Self> {
        let words = r.count(2, WHAT)?;
        let mut states = [0u32; MAX_LANES];
        for state in &mut states[..lanes] {
            *state = r.u32(WHAT)?;
            if !(STATE_LOW..STATE_HIGH).contains(state) {
                return Err(corrupt(WHAT, format!("lane state {state:#010x}")));
            }
        }
        let words = r.take(2 * words, WHAT)?;
        Ok(Self {
            decoder: SymbolDecoder::new(&states[..lanes], words),
        })
    }

    /// The next symbol.
    #[inline(always)]
    pub(crate) fn symbol(&mut self, table: &[DecodeEntry]) -> u8 {
        self.decoder.next(table)
    }

    /// All symbols are read: turns to the raw bits, of which `rest` holds those that no state carried.
    ///
    /// # Errors
    /// `Corrupt` if the words were not used up exactly or a lane did not come back to its initial range.
    pub(crate) fn into_raw(self, rest: &[u8]) -> Result<RawBits> {
        let states = self
            .decoder
            .finish()
            .ok_or_else(|| corrupt(WHAT, "words do not match the symbols"))?;
        let mut payload = BitWriter::default();
        for &state in states {
            if state >> STATE_PAYLOAD_BITS != 1 {
                return Err(corrupt(WHAT, "a lane did not return to its initial state"));
            }
            payload.put((state & (STATE_LOW - 1)).into(), STATE_PAYLOAD_BITS);
        }
        let carried_bits = payload.len_bits();
        let mut bytes;
        if carried_bits.is_multiple_of(8) {
            bytes = payload.into_bytes();
            bytes.extend_from_slice(rest);
        } else {
            for &byte in rest {
                payload.put(byte.into(), 8);
            }
            bytes = payload.into_bytes();
        }
        Ok(RawBits {
            bytes,
            carried_bits,
            rest_bits: 8 * rest.len(),
        })
    }
}

/// The raw bits of one stream.
#[derive(Debug)]
pub(crate) struct RawBits {
    bytes: Vec<u8>,
    carried_bits: usize,
    rest_bits: usize,
}

impl RawBits {
    pub(crate) fn reader(&self) -> BitReader<'_> {
        BitReader::new(&self.bytes)
    }

    /// Checks that `reader`, which came from here, used up the bits exactly.
    ///
    /// # Errors
    /// `Corrupt` if bits are missing, left over, or a padding bit is set.
    pub(crate) fn end(&self, reader: BitReader<'_>) -> Result<()> {
        let slack = if self.rest_bits == 0 {
            self.carried_bits + 1
        } else {
            8
        };
        reader.end(self.carried_bits + self.rest_bits, slack, WHAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rans::table::{Table, quantise};
    use proptest::prelude::*;

    proptest! {
        /// Promise: symbols and raw bits come back for any lane count; every truncation and flip is an error or
        /// at least never a panic.
        #[test]
        fn round_trip(symbols in prop::collection::vec(0u8..40, 0..3000), raws in prop::collection::vec(0u64..1024, 0..600),
                      lane_log2 in 0u32..=5, flip in any::<prop::sample::Index>()) {
            let mut counts = vec![1u32; 40];
            symbols.iter().for_each(|&s| counts[usize::from(s)] += 1);
            let table = Table::from_logs(&quantise(&counts), 11);
            let lanes = 1 << lane_log2;
            let encode = table.encode_entries();
            let mut s = StreamWriter::default();
            symbols.iter().for_each(|&x| s.symbol(encode[usize::from(x)]));
            raws.iter().for_each(|&v| s.raw(v, 10));
            let mut w = Writer::new();
            s.finish(lanes, b"between", &mut w);
            let bytes = w.into_bytes();
            let decode = table.decode_entries();
            let read = |bytes: &[u8]| -> Result<(Vec<u8>, Vec<u64>)> {
                let mut r = Reader::new(bytes);
                let mut s = StreamReader::new(&mut r, lanes)?;
                let got = symbols.iter().map(|_| s.symbol(&decode)).collect();
                r.take(7, "between")?;
                let raw = s.into_raw(r.take(r.left(), "raw")?)?;
                let mut reader = raw.reader();
                let values = raws.iter().map(|_| reader.get(10)).collect();
                raw.end(reader)?;
                Ok((got, values))
            };
            let (got, values) = read(&bytes).unwrap();
            prop_assert_eq!(&got, &symbols);
            prop_assert_eq!(&values, &raws);
            prop_assert!(read(&bytes[..bytes.len() - 1]).is_err());
            let mut flipped = bytes.clone();
            flipped[flip.index(bytes.len())] ^= 1;
            let _ = read(&flipped);
        }
    }
}
