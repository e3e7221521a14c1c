//! Vectors of words: between memory and registers, and what a 16-bit float says.

use crate::arch::floats::Floats16;
use crate::constants::{MAX_CLASSES, MAX_LANES};
use std::arch::x86_64::*;

/// Bytes of a vector.
pub(super) const VECTOR: usize = 64;

#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn load(bytes: &[u8; VECTOR]) -> __m512i {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn store(v: __m512i, bytes: &mut [u8; VECTOR]) {
    // SAFETY: the array is as long as the vector, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

/// Fewer bytes than a vector has, and zeros.
#[cold]
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn load_part(bytes: &[u8]) -> __m512i {
    let mut padded = [0; VECTOR];
    padded[..bytes.len()].copy_from_slice(bytes);
    load(&padded)
}

#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn load_dwords(dwords: &[u32; MAX_LANES]) -> [__m512i; 2] {
    // SAFETY: the array is as long as two vectors, and the loads need no alignment.
    unsafe {
        [
            _mm512_loadu_si512(dwords.as_ptr().cast()),
            _mm512_loadu_si512(dwords.as_ptr().add(16).cast()),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn store_dwords(v: [__m512i; 2], dwords: &mut [u32; MAX_LANES]) {
    // SAFETY: the array is as long as two vectors, and the stores need no alignment.
    unsafe {
        _mm512_storeu_si512(dwords.as_mut_ptr().cast(), v[0]);
        _mm512_storeu_si512(dwords.as_mut_ptr().add(16).cast(), v[1]);
    }
}

/// Puts the lanes of `v` that `mask` names at the front of `to`, and anything behind them.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn compress(mask: __mmask16, v: __m512i, to: &mut [u32; 16]) {
    let front = _mm512_maskz_compress_epi32(mask, v);
    // SAFETY: the array is as long as the vector, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), front) }
}

/// A small number in every dword.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn dwords(number: usize) -> __m512i {
    debug_assert!(i32::try_from(number).is_ok());
    #[expect(clippy::cast_possible_truncation, reason = "callers have small ones")]
    let number = number as i32;
    _mm512_set1_epi32(number)
}

/// Words to dwords: the low half of the vector, and the high half.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn as_dwords(words: __m512i) -> [__m512i; 2] {
    [
        _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)),
        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(words)),
    ]
}

/// The low words of dwords beside those of other dwords, which become the high words.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn pair(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high))
}

/// The high words of dwords beside those of other dwords, which stay the high words.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn pair_high(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(low), high)
}

/// Both words of dwords, as dwords.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn apart(pairs: __m512i) -> [__m512i; 2] {
    [
        _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)),
        _mm512_srli_epi32::<16>(pairs),
    ]
}

/// Float words to ordinals, and back.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn ordinal(words: __m512i) -> __m512i {
    let signs = _mm512_srai_epi16::<15>(words);
    _mm512_xor_si512(words, _mm512_and_si512(signs, _mm512_set1_epi16(0x7fff)))
}

/// Looks a number of 16 bits up by the class of a float of `MANTISSA` bits: 7 of BF16 or 10 of F16.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByClass<const MANTISSA: u32> {
    /// In the low bytes: an exponent not below the highest, and not below the origin or as high as can be.
    top: __m512i,
    /// In the low bytes: the distance from there at which nothing changes any more.
    last: __m512i,
    /// By that distance, twice.
    values: __m512i,
}

impl<const MANTISSA: u32> ByClass<MANTISSA> {
    /// An origin above all exponents leaves out the first classes, not the last values.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn new(floats: Floats16, values: &[u16; MAX_CLASSES]) -> Self {
        let top = floats.origin.min(0xff);
        let skipped = (floats.origin - top) as usize;
        let mut bytes = [0; VECTOR];
        for (distance, bytes) in bytes.chunks_exact_mut(2).enumerate() {
            let class = (distance % MAX_CLASSES + skipped).min(MAX_CLASSES - 1);
            bytes.copy_from_slice(&values[class].to_le_bytes());
        }
        let byte = |number: usize| dwords(number << 16 | number);
        Self {
            top: byte(top as usize),
            last: byte(MAX_CLASSES - 1),
            values: load(&bytes),
        }
    }

    /// The distance of every word, below 16.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn distances(&self, words: __m512i) -> __m512i {
        // The exponent comes to the low byte; of BF16 it fills it.
        let turned = if MANTISSA == 7 {
            _mm512_shldi_epi16::<9>(words, words)
        } else {
            _mm512_and_si512(_mm512_srli_epi16::<10>(words), _mm512_set1_epi16(0x1f))
        };
        _mm512_min_epu8(_mm512_subs_epu8(self.top, turned), self.last)
    }

    /// The numbers of distances, which lie in the low four bits of words.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn at(&self, distances: __m512i) -> __m512i {
        _mm512_permutexvar_epi16(distances, self.values)
    }

    /// The number of every word.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn of(&self, words: __m512i) -> __m512i {
        self.at(self.distances(words))
    }
}
