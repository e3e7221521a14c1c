//! DENSE, 64 elements at a time.
//!
//! ```text
//! base     word 2l | 2l + 1 of 32 dwords = lane l of two rounds; a vector holds 16 lanes
//! rounds   r: the low words, r + 1: the high words
//! ```
//!
//! The tail, fewer than 64 elements, is the scalar code's.

use super::lanes::Vectors;
use super::tokens::Tokens;
use super::words::{ByClass, VECTOR, apart, load, ordinal, pair, store};
use crate::arch::floats::{Floats16, TokenLookup};
use crate::arch::scalar::Lanes;
use std::arch::x86_64::*;

/// See [`dense16`](crate::arch::dense16).
pub(in crate::arch) fn dense(
    lanes: &mut Lanes<'_>,
    floats: Floats16,
    magnitudes: TokenLookup<'_>,
    base: &[u8],
    out: &mut [u8],
) -> usize {
    if !super::is_available() {
        return 0;
    }
    let rounds = match floats.mantissa_bits {
        7 => rounds::<7>,
        _ => rounds::<10>,
    };
    // SAFETY: this machine has the instructions.
    let elems = unsafe { rounds(lanes, floats, magnitudes, base, out) };
    elems.unwrap_or(0)
}

/// `None`, and `lanes` as they were, if something is wrong.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn rounds<const MANTISSA: u32>(
    stream: &mut Lanes<'_>,
    floats: Floats16,
    magnitudes: TokenLookup<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    #[expect(clippy::cast_possible_truncation, reason = "offsets below 2^14 entries")]
    let offsets = ByClass::<MANTISSA>::new(floats, &magnitudes.offsets.map(|offset| offset as u16));
    let tokens = Tokens::new(magnitudes);
    let mut lanes = Vectors::<2>::new(stream);
    let mut largest = _mm512_setzero_si512();
    let mut elems = 0;
    let zero = _mm512_setzero_si512();
    let one = _mm512_set1_epi32(1);
    let (base, _) = base.as_chunks::<{ 2 * VECTOR }>();
    let (out, _) = out.as_chunks_mut::<{ 2 * VECTOR }>();
    for (base, out) in base.iter().zip(out) {
        let (base, _) = base.as_chunks::<VECTOR>();
        let (out, _) = out.as_chunks_mut::<VECTOR>();
        let words = [load(&base[0]), load(&base[1])];
        let tables = [apart(offsets.of(words[0])), apart(offsets.of(words[1]))];
        // The round of the low words, then that of the high ones.
        let mut residuals = [[zero; 2]; 2];
        for (round, residuals) in residuals.iter_mut().enumerate() {
            let offsets = [tables[0][round], tables[1][round]];
            let numbers = tokens.take(&mut lanes, offsets, [!0; 2], [one; 2]);
            for (half, residual) in residuals.iter_mut().enumerate() {
                let magnitude = numbers.magnitudes[half];
                largest = _mm512_max_epu32(largest, magnitude);
                *residual = _mm512_mask_sub_epi32(magnitude, numbers.negative[half], zero, magnitude);
            }
        }
        for (half, out) in out.iter_mut().enumerate() {
            let residual = pair(residuals[0][half], residuals[1][half]);
            let sum = _mm512_add_epi16(ordinal(words[half]), residual);
            store(ordinal(sum), out);
        }
        elems += VECTOR;
    }
    let fits = _mm512_cmpgt_epu32_mask(largest, _mm512_set1_epi32(1 << 15)) == 0;
    (fits && lanes.leave(stream)).then_some(elems)
}
