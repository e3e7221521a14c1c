//! The interleaved rANS coder, one lane at a time: the definition, and the fallback everywhere.
//!
//! With `f` the symbol's frequency, `c` the sum of those before it and `b` the probability bits:
//!
//! ```text
//! encode   if x ≥ f·2^(31−b−signs): emit low 16 bits, x ← x >> 16;   x ← 2x + sign, if signed;   x ← (x / f)·2^b + c + x mod f
//! decode   s ← slot(x mod 2^b);  x ← f·(x >> b) + x mod 2^b − c;   sign ← x mod 2, x ← x >> 1, if signed;
//!          if x < 2^15: x ← x·2^16 + next word
//! ```
//!
//! `t` raw bits are a symbol with `b = t`, `f = 1` and `c` the bits. The encoder runs from the last operation to the first,
//! so that the decoder reads states and words forwards.

use crate::constants::{MAX_LANES, STATE_LOW};

/// One step of one lane, as the encoder takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) start: u16,
    pub(crate) freq: u16,
    pub(crate) prob_bits: u8,
    /// 0 without a sign, else 2 + the sign.
    pub(crate) sign: u8,
    pub(crate) lane: u8,
}

/// Encodes `steps`, which are in decoding order.
///
/// `states` holds the initial states and receives the final ones. Returns the words in decoding order.
pub(crate) fn encode(steps: &[Step], states: &mut [u32]) -> Vec<u16> {
    let mut words = Vec::with_capacity(steps.len() / 8);
    for step in steps.iter().rev() {
        let state = &mut states[usize::from(step.lane)];
        let freq = u32::from(step.freq);
        let signs = u32::from(step.sign >> 1);
        let mut x = *state;
        if u64::from(x) >= u64::from(freq) << (31 - u32::from(step.prob_bits) - signs) {
            #[expect(clippy::cast_possible_truncation, reason = "the low word is what is emitted")]
            words.push(x as u16);
            x >>= 16;
        }
        x = x << signs | u32::from(step.sign & 1);
        *state = ((x / freq) << step.prob_bits) + u32::from(step.start) + x % freq;
    }
    words.reverse();
    words
}

/// The lanes of a decoder in the middle of a stream.
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    states: [u32; MAX_LANES],
    words: &'a [u8],
    missing_words: bool,
}

impl<'a> Lanes<'a> {
    /// Starts at `states` with little-endian `words`.
    pub(crate) fn new(states: [u32; MAX_LANES], words: &'a [u8]) -> Self {
        Self {
            states,
            words,
            missing_words: false,
        }
    }

    /// All states, and the words that are left: where a vector variant takes over.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn parts(&self) -> ([u32; MAX_LANES], &'a [u8]) {
        (self.states, self.words)
    }

    /// Goes on from where a vector variant left off.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn resume(&mut self, states: [u32; MAX_LANES], words: &'a [u8]) {
        self.states = states;
        self.words = words;
    }

    /// The slot of the lane's next symbol, out of `2^prob_bits`.
    #[inline(always)]
    pub(crate) fn slot(&self, lane: usize, prob_bits: u32) -> u32 {
        self.states[lane] & ((1 << prob_bits) - 1)
    }

    /// Leaves a symbol behind whose frequency is `freq` and whose first slot lies `within` below the current one; the lane
    /// is to be renormalised before its next symbol.
    #[inline(always)]
    pub(crate) fn leave(&mut self, lane: usize, prob_bits: u32, freq: u32, within: u32) {
        self.states[lane] = freq * (self.states[lane] >> prob_bits) + within;
    }

    /// Takes a sign, before the lane is renormalised.
    #[inline(always)]
    pub(crate) fn sign(&mut self, lane: usize) -> u64 {
        let sign = self.states[lane] & 1;
        self.states[lane] >>= 1;
        sign.into()
    }

    /// Brings the lane back to its range.
    #[inline(always)]
    pub(crate) fn renormalise(&mut self, lane: usize) {
        if self.states[lane] < STATE_LOW {
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
            self.states[lane] = self.states[lane] << 16 | u32::from(word);
        }
    }

    /// Takes `bits` (at most 15) raw bits, and renormalises.
    #[inline(always)]
    pub(crate) fn raw(&mut self, lane: usize, bits: u32) -> u64 {
        let value = self.slot(lane, bits);
        self.states[lane] >>= bits;
        self.renormalise(lane);
        value.into()
    }

    /// The last states, if exactly all words were used.
    pub(crate) fn finish(self) -> Option<[u32; MAX_LANES]> {
        (self.words.is_empty() && !self.missing_words).then_some(self.states)
    }
}
