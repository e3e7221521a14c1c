//! A round of tokens: symbols, signs and low bits of a round.
//!
//! An entry is `symbol | (f − 1) << 8 | within << 20`, found at `offset of the table + slot` by a gather.

use super::lanes::{Masks, Vectors};
use crate::arch::floats::TokenLookup;
use std::arch::x86_64::*;

/// What a round gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers<const N: usize> {
    /// Below 2^16.
    pub(super) magnitudes: [__m512i; N],
    /// Lanes with a negative sign.
    pub(super) negative: Masks<N>,
}

/// A set of tables, ready for rounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens<'a> {
    lookup: TokenLookup<'a>,
    slots: __m512i,
    /// The index of the last entry.
    last: __m512i,
    prob_bits: __m512i,
    /// The first symbol that is not its own number.
    escape: __m512i,
    top_bits: __m512i,
    top: __m512i,
    leading: __m512i,
    /// Low bits of the first symbol that is not its own number.
    fewest_low: __m512i,
}

impl<'a> Tokens<'a> {
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn new(lookup: TokenLookup<'a>) -> Self {
        let (direct, top, _) = lookup.shape.parts();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 2^14 entries, and not none"
        )]
        let last = (lookup.entries.len() - 1) as u32;
        let all = |v: u32| _mm512_set1_epi32(v.cast_signed());
        Self {
            lookup,
            last: all(last),
            slots: all((1 << lookup.prob_bits) - 1),
            prob_bits: all(lookup.prob_bits),
            escape: all(1 << direct),
            top_bits: all(top),
            top: all((1 << top) - 1),
            leading: all(1 << top),
            fewest_low: all(direct - top),
        }
    }

    /// One token in every lane of `taking`.
    ///
    /// * `offsets`: where each lane's table starts: one of the lookup's.
    /// * `signed`: 1 in lanes whose symbol carries a sign if it is not 0, else 0.
    ///
    /// The low bits of numbers of 16 bits are 15 at most, so they are taken at once.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn take<const N: usize>(
        &self,
        lanes: &mut Vectors<'_, N>,
        offsets: [__m512i; N],
        taking: Masks<N>,
        signed: [__m512i; N],
    ) -> Numbers<N> {
        let mut symbols = [_mm512_setzero_si512(); N];
        let mut negative = [0; N];
        for half in 0..N {
            let x = lanes.states[half];
            let entry = self.look_up(offsets[half], _mm512_and_si512(x, self.slots));
            let freq = _mm512_and_si512(_mm512_srli_epi32::<8>(entry), _mm512_set1_epi32(0xfff));
            let above = _mm512_srlv_epi32(x, self.prob_bits);
            let times = _mm512_mullo_epi32(_mm512_add_epi32(freq, _mm512_set1_epi32(1)), above);
            let next = _mm512_add_epi32(times, _mm512_srli_epi32::<20>(entry));
            let symbol = _mm512_and_si512(entry, _mm512_set1_epi32(0xff));
            let signs = _mm512_min_epu32(symbol, signed[half]);
            negative[half] = _mm512_test_epi32_mask(next, signs);
            lanes.states[half] = _mm512_mask_srlv_epi32(x, taking[half], next, signs);
            symbols[half] = symbol;
        }
        lanes.renormalise(taking);
        let mut open = [0; N];
        for half in 0..N {
            open[half] = _mm512_mask_cmpge_epu32_mask(taking[half], symbols[half], self.escape);
        }
        let magnitudes = if open == [0; N] {
            symbols
        } else {
            self.low_bits(lanes, symbols, open)
        };
        Numbers { magnitudes, negative }
    }

    /// Step 3 of a round, and the numbers.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    fn low_bits<const N: usize>(
        &self,
        lanes: &mut Vectors<'_, N>,
        symbols: [__m512i; N],
        open: Masks<N>,
    ) -> [__m512i; N] {
        let mut numbers = symbols;
        for half in 0..N {
            let x = lanes.states[half];
            let beyond = _mm512_sub_epi32(symbols[half], self.escape);
            let count = _mm512_add_epi32(_mm512_srlv_epi32(beyond, self.top_bits), self.fewest_low);
            let top = _mm512_or_si512(_mm512_and_si512(beyond, self.top), self.leading);
            let shifted = _mm512_sllv_epi32(top, count);
            let low = _mm512_andnot_si512(_mm512_sllv_epi32(_mm512_set1_epi32(-1), count), x);
            numbers[half] = _mm512_mask_or_epi32(symbols[half], open[half], shifted, low);
            lanes.states[half] = _mm512_mask_srlv_epi32(x, open[half], x, count);
        }
        lanes.renormalise(open);
        numbers
    }

    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    fn look_up(&self, offsets: __m512i, slots: __m512i) -> __m512i {
        // An offset is one of the lookup's, so nothing is cut off here; the minimum makes the gather sound by itself.
        let index = _mm512_min_epu32(_mm512_add_epi32(offsets, slots), self.last);
        // SAFETY: every index is at most that of the last entry; an entry has four bytes, the scale.
        unsafe { _mm512_i32gather_epi32::<4>(index, self.lookup.entries.as_ptr().cast()) }
    }
}
