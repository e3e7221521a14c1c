//! The lanes of a stream in one vector (up to 16 lanes) or two.
//!
//! ```text
//! states[0]  lanes 0 … 15     one dword each
//! states[1]  lanes 16 … 31
//! words      u16, little-endian, from `words[at_bytes..]`
//! ```

use super::words::{as_dwords, load, load_dwords, load_part, store_dwords};
use crate::arch::scalar::Lanes;
use crate::constants::STATE_LOW;
use std::arch::x86_64::*;

/// Which lanes.
pub(super) type Masks<const N: usize> = [__mmask16; N];

/// The first `count` lanes (at most 16 a vector).
#[inline]
pub(super) fn first<const N: usize>(count: usize) -> Masks<N> {
    let all = (1u64 << count) - 1;
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits a vector")]
    std::array::from_fn(|half| (all >> (16 * half)) as u16)
}

/// The lanes of a decoder in the middle of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vectors<'a, const N: usize> {
    pub(super) states: [__m512i; N],
    words: &'a [u8],
    /// Beyond the end once words are missing.
    at_bytes: usize,
}

impl<'a, const N: usize> Vectors<'a, N> {
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn new(lanes: &Lanes<'a>) -> Self {
        let (states, words) = lanes.parts();
        let vectors = load_dwords(&states);
        Self {
            states: std::array::from_fn(|half| vectors[half]),
            words,
            at_bytes: 0,
        }
    }

    /// Step 2 of a round (docs/format.md §4.4) for the lanes of `taking`.
    ///
    /// Words that are missing read as zeros; [`Vectors::leave`] tells.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn renormalise(&mut self, taking: Masks<N>) {
        let low_bound = _mm512_set1_epi32(STATE_LOW.cast_signed());
        let mut short = [0; N];
        for half in 0..N {
            short[half] = _mm512_mask_cmplt_epu32_mask(taking[half], self.states[half], low_bound);
        }
        let next = self.next_words();
        let mut dealt = [_mm512_setzero_si512(); N];
        let count = if N == 1 {
            dealt[0] = _mm512_maskz_expand_epi32(short[0], as_dwords(next)[0]);
            u32::from(short[0]).count_ones()
        } else {
            let both = _mm512_kunpackw(short[N - 1].into(), short[0].into());
            let spread = as_dwords(_mm512_maskz_expand_epi16(both, next));
            dealt.copy_from_slice(&spread[..N]);
            both.count_ones()
        };
        for half in 0..N {
            let x = self.states[half];
            self.states[half] = _mm512_mask_or_epi32(x, short[half], _mm512_slli_epi32::<16>(x), dealt[half]);
        }
        self.at_bytes += 2 * count as usize;
    }

    /// The next 32 words.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    fn next_words(&self) -> __m512i {
        let rest = self.words.get(self.at_bytes..).unwrap_or_default();
        match rest.first_chunk() {
            Some(whole) => load(whole),
            None => load_part(rest),
        }
    }

    /// Hands the stream back; false, and nothing done, if words were missing.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn leave(self, lanes: &mut Lanes<'a>) -> bool {
        let Some(rest) = self.words.get(self.at_bytes..) else {
            return false;
        };
        let (mut states, _) = lanes.parts();
        let mut vectors = load_dwords(&states);
        vectors[..N].copy_from_slice(&self.states);
        store_dwords(vectors, &mut states);
        lanes.resume(states, rest);
        true
    }
}
