//! The interleaved rANS coder, one symbol at a time: the definition, and the fallback everywhere.
//!
//! With `f` the symbol's frequency, `c` the sum of those before it and `b` the probability bits:
//!
//! ```text
//! encode   while x ≥ f·2^(31−b): emit low 16 bits, x ← x >> 16;   x ← (x / f)·2^b + c + x mod f
//! decode   s ← slot(x mod 2^b);  x ← f·(x >> b) + x mod 2^b − c;   if x < 2^15: x ← x·2^16 + next word
//! ```
//!
//! Symbol `i` belongs to lane `i mod L`. The encoder runs from the last symbol to the first, so that the decoder reads
//! states and words forwards.

use crate::constants::STATE_LOW;
use crate::rans::table::{DecodeEntry, EncodeEntry};

/// Encodes `entries` (one per symbol, in decoding order) over `states.len()` lanes.
///
/// `states` holds the initial states and receives the final ones. Returns the words in decoding order.
pub(crate) fn encode_symbols(entries: &[EncodeEntry], states: &mut [u32]) -> Vec<u16> {
    let lanes = states.len();
    let mut words = Vec::with_capacity(entries.len() / 8);
    for (i, &entry) in entries.iter().enumerate().rev() {
        let freq = (entry & 0xfff) + 1;
        let cumulative = (entry >> 12) & 0xfff;
        let prob_bits = entry >> 24;
        let mut x = states[i % lanes];
        if u64::from(x) >= u64::from(freq) << (31 - prob_bits) {
            #[expect(clippy::cast_possible_truncation, reason = "the low word is what is emitted")]
            words.push(x as u16);
            x >>= 16;
        }
        states[i % lanes] = ((x / freq) << prob_bits) + cumulative + x % freq;
    }
    words.reverse();
    words
}

/// A decoder in the middle of a stream.
#[derive(Debug)]
pub(crate) struct SymbolDecoder<'a> {
    states: [u32; crate::constants::MAX_LANES],
    lane_mask: usize,
    next_symbol: usize,
    words: &'a [u8],
    missing_words: bool,
}

impl<'a> SymbolDecoder<'a> {
    /// Starts at `states` (a power of two of lanes) with little-endian `words`.
    pub(crate) fn new(states: &[u32], words: &'a [u8]) -> Self {
        let mut all = [0; crate::constants::MAX_LANES];
        all[..states.len()].copy_from_slice(states);
        Self {
            states: all,
            lane_mask: states.len() - 1,
            next_symbol: 0,
            words,
            missing_words: false,
        }
    }

    /// The next symbol, by the decode entries of its table. Missing words read as zero and are remembered.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the symbol is the entry's low byte"
    )]
    pub(crate) fn next(&mut self, table: &[DecodeEntry]) -> u8 {
        let prob_bits = table.len().trailing_zeros();
        let state = &mut self.states[self.next_symbol & self.lane_mask];
        self.next_symbol += 1;
        let entry = table[*state as usize & (table.len() - 1)];
        let mut x = (((entry >> 8) & 0xfff) + 1) * (*state >> prob_bits) + (entry >> 20);
        if x < STATE_LOW {
            let word = match self.words.split_first_chunk::<2>() {
                Some((word, rest)) => {
                    self.words = rest;
                    u16::from_le_bytes(*word)
                }
                None => {
                    self.missing_words = true;
                    0
                }
            };
            x = x << 16 | u32::from(word);
        }
        *state = x;
        entry as u8
    }

    /// The lanes' last states, if exactly all words were used.
    pub(crate) fn finish(&self) -> Option<&[u32]> {
        (self.words.is_empty() && !self.missing_words).then(|| &self.states[..=self.lane_mask])
    }
}
