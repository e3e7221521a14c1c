//! A segment of a block in memory, and the one behind it.

use super::words::{VECTOR, dwords};
use crate::constants::SEGMENT_ELEMS;
use std::arch::x86_64::*;

/// Bytes of a segment.
pub(super) const SEGMENT_BYTES: usize = 2 * SEGMENT_ELEMS;
/// Vectors that are asked for at a time: with that, the next segment is there when this one is done.
const ASKED: usize = 5;

/// A segment of the block.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub(super) base: &'a [u8; SEGMENT_BYTES],
    pub(super) out: &'a mut [u8; SEGMENT_BYTES],
    /// Elements of the block before it.
    pub(super) elems: usize,
    /// Bytes of the next segment that were asked for.
    asked_bytes: usize,
}

impl<'a> Segment<'a> {
    pub(super) fn new(base: &'a [u8; SEGMENT_BYTES], out: &'a mut [u8; SEGMENT_BYTES], elems: usize) -> Self {
        Self {
            base,
            out,
            elems,
            asked_bytes: 0,
        }
    }

    /// The pairs of words, as they stand in `out`, that `elems` lie in.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn pairs(&self, elems: __m512i) -> __m512i {
        // SAFETY: the number of a pair lies within the segment, and a pair has four bytes, the scale; a gather needs no
        // alignment.
        unsafe { _mm512_i32gather_epi32::<4>(number(elems), self.out.as_ptr().cast()) }
    }

    /// Sets those of the lanes of `mask`, which must differ.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn set_pairs(&mut self, mask: __mmask16, elems: __m512i, pairs: __m512i) {
        // SAFETY: as for a gather.
        unsafe {
            _mm512_mask_i32scatter_epi32::<4>(self.out.as_mut_ptr().cast(), mask, number(elems), pairs);
        }
    }

    /// Asks memory for some more of the next segment, whether there is one or not; to be called once a round.
    ///
    /// A segment is read and written in one go and then worked on for long: asking bit by bit keeps memory busy meanwhile.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn ask_ahead(&mut self) {
        if self.asked_bytes < SEGMENT_BYTES {
            for _ in 0..ASKED {
                let ahead = SEGMENT_BYTES + self.asked_bytes;
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_T0>(self.out.as_ptr().wrapping_add(ahead).cast());
                self.asked_bytes += VECTOR;
            }
        }
    }
}

/// The number of the pair that an element lies in, made one of the segment's whatever `elems` holds.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn number(elems: __m512i) -> __m512i {
    const LAST: usize = SEGMENT_BYTES / 4 - 1;
    _mm512_and_si512(_mm512_srli_epi32::<1>(elems), dwords(LAST))
}
