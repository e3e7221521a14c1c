//! SPARSE, a segment of 4096 elements at a time.
//!
//! ```text
//! lists     where groups change, pass after pass: base ─▶ out, changes
//! changes   pairs of words, gathered from out ─▶ tokens ─▶ pairs with the changed word, scattered to out
//! ```
//!
//! A pass finds at most one change a group, so pairs of one round differ, and a word changes once, so it still is its base. Those
//! whose sign is a seed are left for the end of the block.
//!
//! The tail, a segment that is not whole, is the scalar code's.

use super::lanes::{Vectors, first};
use super::lists::{Batch, Lists};
use super::segment::{SEGMENT_BYTES, Segment};
use super::tokens::Tokens;
use super::words::{ByClass, apart, load_dwords, ordinal, store_dwords};
use crate::arch::floats::Sparse16;
use crate::arch::scalar::Lanes;
use crate::constants::{MAX_LANES, SEED_BITS, SEGMENT_ELEMS};
use std::arch::x86_64::*;

/// See [`sparse16`](crate::arch::sparse16).
pub(in crate::arch) fn sparse(
    lanes: &mut Lanes<'_>,
    count: usize,
    tables: &Sparse16<'_>,
    base: &[u8],
    out: &mut [u8],
    seeded: &mut Vec<(usize, u64)>,
) -> usize {
    if !super::is_available() {
        return 0;
    }
    let segments = match (count > 16, tables.floats.mantissa_bits) {
        (true, 7) => segments::<2, 7>,
        (true, _) => segments::<2, 10>,
        (false, 7) => segments::<1, 7>,
        (false, _) => segments::<1, 10>,
    };
    // SAFETY: this machine has the instructions.
    let elems = unsafe { segments(lanes, count, tables, base, out, seeded) };
    elems.unwrap_or_else(|| {
        seeded.clear();
        0
    })
}

/// How magnitudes are read and applied.
struct Magnitudes<'a, const MANTISSA: u32> {
    offsets: ByClass<MANTISSA>,
    tokens: Tokens<'a>,
}

impl<const MANTISSA: u32> Magnitudes<'_, MANTISSA> {
    /// Reads the magnitudes of what a pass found and applies those whose sign is known; false if one is wrong.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    fn take<const N: usize>(
        &self,
        lanes: &mut Vectors<'_, N>,
        count: usize,
        lists: &Lists,
        segment: &mut Segment<'_>,
        seeded: &mut Vec<(usize, u64)>,
    ) -> bool {
        let one = _mm512_set1_epi32(1);
        let mut wrong = 0;
        for at in (0..lists.changed).step_by(count) {
            let round = (lists.changed - at).min(count);
            let taking = first::<N>(round);
            let from_seeds = (count * SEED_BITS as usize - seeded.len()).min(round);
            let hidden = first::<N>(from_seeds);
            let elems = load_dwords(lists.changes.batch(at));
            let mut pairs = [_mm512_setzero_si512(); N];
            let (mut words, mut offsets, mut signed) = (pairs, pairs, pairs);
            for half in 0..N {
                pairs[half] = segment.pairs(elems[half]);
                let word = _mm512_srlv_epi32(pairs[half], place(elems[half]));
                words[half] = _mm512_and_si512(word, _mm512_set1_epi32(0xffff));
                // The high words stand for elements that are not there.
                offsets[half] = apart(self.offsets.of(words[half]))[0];
                signed[half] = _mm512_maskz_mov_epi32(!hidden[half], one);
            }
            let numbers = self.tokens.take(lanes, offsets, taking, signed);
            for half in 0..N {
                let magnitude = numbers.magnitudes[half];
                // 1 … 2^15 is right; a number too large may wait for its sign, the scalar code finds it then.
                let less_one = _mm512_sub_epi32(magnitude, one);
                let most = _mm512_set1_epi32((1 << 15) - 1);
                wrong |= _mm512_mask_cmpgt_epu32_mask(taking[half], less_one, most);
                let old = ordinal(words[half]);
                let up = _mm512_add_epi32(old, magnitude);
                let moved = _mm512_mask_sub_epi32(up, numbers.negative[half], old, magnitude);
                // The changed word where it stands in its pair, the other one as it is.
                let place = place(elems[half]);
                let changed = _mm512_sllv_epi32(_mm512_set1_epi32(0xffff), place);
                let value = _mm512_sllv_epi32(ordinal(moved), place);
                let pair = _mm512_ternarylogic_epi32::<0xca>(changed, value, pairs[half]);
                segment.set_pairs(taking[half] & !hidden[half], elems[half], pair);
            }
            segment.ask_ahead();
            if from_seeds > 0 {
                let mut vectors = [_mm512_setzero_si512(); 2];
                vectors[..N].copy_from_slice(&numbers.magnitudes);
                let mut magnitudes = [0; MAX_LANES];
                store_dwords(vectors, &mut magnitudes);
                let elems = lists.changes.batch(at);
                for lane in 0..from_seeds {
                    seeded.push((segment.elems + elems[lane] as usize, magnitudes[lane].into()));
                }
            }
        }
        wrong == 0
    }
}

/// The bits below a word in its pair.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn place(elems: __m512i) -> __m512i {
    _mm512_slli_epi32::<4>(_mm512_and_si512(elems, _mm512_set1_epi32(1)))
}

/// `None`, and `stream` as it was, if something is wrong.
///
/// * `count`: lanes, 32 in two vectors or up to 16 in one.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn segments<const N: usize, const MANTISSA: u32>(
    stream: &mut Lanes<'_>,
    count: usize,
    tables: &Sparse16<'_>,
    base: &[u8],
    out: &mut [u8],
    seeded: &mut Vec<(usize, u64)>,
) -> Option<usize> {
    let odds = ByClass::<MANTISSA>::new(tables.floats, &tables.odds);
    #[expect(clippy::cast_possible_truncation, reason = "offsets below 2^14 entries")]
    let magnitudes = tables.magnitudes.map(|lookup| Magnitudes {
        offsets: ByClass::<MANTISSA>::new(tables.floats, &lookup.offsets.map(|offset| offset as u16)),
        tokens: Tokens::new(lookup),
    });
    let mut lanes = Vectors::<N>::new(stream);
    let mut lists = Lists::EMPTY;
    let mut batches = [Batch::empty(); 2];
    let mut elems = 0;
    let (base, _) = base.as_chunks::<SEGMENT_BYTES>();
    let (out, _) = out.as_chunks_mut::<SEGMENT_BYTES>();
    for (base, out) in base.iter().zip(out) {
        let mut segment = Segment::new(base, out, elems);
        lists.first_pass(&mut lanes, count, &odds, &mut segment, &mut batches);
        while lists.changed > 0 {
            let magnitudes = magnitudes.as_ref()?;
            if !magnitudes.take(&mut lanes, count, &lists, &mut segment, seeded) {
                return None;
            }
            lists.next_pass::<N, MANTISSA>(&mut lanes, count, &odds, &mut segment, &mut batches);
        }
        elems += SEGMENT_ELEMS;
    }
    lanes.leave(stream).then_some(elems)
}
