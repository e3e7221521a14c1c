//! The groups of a segment that still go on, pass after pass.
//!
//! ```text
//! first pass   base ─▶ out; distances, a dword a group ─┐
//! next pass    list: starts, distances ─────────────────┴▶ chances ─▶ first changes ─▶ changes
//!                     ▲                                                     │
//!                     └── groups that go on behind theirs, pressed together ┘
//! ```
//!
//! Distances (which stand for classes) move with their group, so nothing of the base is read twice but the words that change.
//! What needs no state, the chances, is made one batch ahead of what does, the symbols, so that neither waits for the other. A
//! list is pressed together in place: 32 groups are read before what stays of them is written, at most where they were.

use super::firsts::{Chances, GROUPS_BYTES, chances, copy_groups, in_order, take_firsts};
use super::lanes::Vectors;
use super::segment::Segment;
use super::words::{ByClass, compress, dwords, load_dwords};
use crate::constants::{GROUP_ELEMS, MAX_LANES, SEGMENT_ELEMS};
use std::arch::x86_64::*;

/// Groups of a segment.
const GROUPS: usize = SEGMENT_ELEMS / GROUP_ELEMS;
/// Groups that share vectors.
const BATCH: usize = 32;

/// One dword a group or change, and room for the vector that the last one is part of.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct List([u32; GROUPS + BATCH]);

impl List {
    const EMPTY: Self = Self([0; GROUPS + BATCH]);

    /// Those from `at` on, which is no further than the last group's.
    #[inline]
    pub(super) fn batch(&self, at: usize) -> &[u32; BATCH] {
        let (batches, _) = self.0[at..].as_chunks();
        &batches[0]
    }

    #[inline]
    fn half(&mut self, at: usize) -> &mut [u32; BATCH / 2] {
        let (halves, _) = self.0[at..at + BATCH / 2].as_chunks_mut();
        &mut halves[0]
    }
}

/// What is known of a batch before its symbols.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    /// Elements of the segment from which the groups go on.
    starts: [__m512i; 2],
    /// Of their elements, four bits each.
    distances: [__m512i; 2],
    chances: Chances,
}

/// The batch whose symbols are taken, and the one that is made ready.
pub(super) type Batches = [Batch; 2];

impl Batch {
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn empty() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            starts: [zero; 2],
            distances: [zero; 2],
            chances: [zero; GROUP_ELEMS],
        }
    }
}

/// Groups of a segment that still go on, and the changes that one pass over them found.
#[derive(Debug)]
pub(super) struct Lists {
    /// Elements of the segment from which the groups go on.
    starts: List,
    /// Of their elements, four bits each.
    distances: List,
    /// How many groups.
    groups: usize,
    /// Elements of the segment that change, as a pass finds them.
    pub(super) changes: List,
    /// How many changes.
    pub(super) changed: usize,
}

impl Lists {
    pub(super) const EMPTY: Self = Self {
        starts: List::EMPTY,
        distances: List::EMPTY,
        groups: 0,
        changes: List::EMPTY,
        changed: 0,
    };

    /// A pass over all groups of a segment, which is copied on the way.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn first_pass<const N: usize, const MANTISSA: u32>(
        &mut self,
        lanes: &mut Vectors<'_, N>,
        count: usize,
        odds: &ByClass<MANTISSA>,
        segment: &mut Segment<'_>,
        batches: &mut Batches,
    ) {
        (self.groups, self.changed) = (0, 0);
        let half = dwords(BATCH / 2 * GROUP_ELEMS);
        let mut low = _mm512_slli_epi32::<3>(in_order());
        for number in 0..=GROUPS / BATCH {
            segment.ask_ahead();
            let (base, _) = segment.base.as_chunks::<GROUPS_BYTES>();
            let (out, _) = segment.out.as_chunks_mut::<GROUPS_BYTES>();
            if number < GROUPS / BATCH {
                let batch = &mut batches[number % 2];
                batch.starts = [low, _mm512_add_epi32(low, half)];
                for half in 0..2 {
                    let at = 2 * number + half;
                    batch.distances[half] = copy_groups(&base[at], &mut out[at], odds);
                }
                chances::<N, MANTISSA, false>(odds, batch.distances, batch.starts, &mut batch.chances);
                low = _mm512_add_epi32(batch.starts[1], half);
            }
            if number > 0 {
                self.take::<N, MANTISSA, false>(lanes, count, &batches[(number + 1) % 2], BATCH);
            }
        }
    }

    /// A pass over the groups that go on.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    pub(super) fn next_pass<const N: usize, const MANTISSA: u32>(
        &mut self,
        lanes: &mut Vectors<'_, N>,
        count: usize,
        odds: &ByClass<MANTISSA>,
        segment: &mut Segment<'_>,
        batches: &mut Batches,
    ) {
        let groups = self.groups;
        (self.groups, self.changed) = (0, 0);
        let within = dwords(GROUP_ELEMS - 1);
        let last = groups.div_ceil(BATCH);
        for number in 0..=last {
            segment.ask_ahead();
            if number < last {
                let batch = &mut batches[number % 2];
                batch.starts = load_dwords(self.starts.batch(number * BATCH));
                batch.distances = load_dwords(self.distances.batch(number * BATCH));
                let places = batch.starts.map(|starts| _mm512_and_si512(starts, within));
                chances::<N, MANTISSA, true>(odds, batch.distances, places, &mut batch.chances);
            }
            if number > 0 {
                let left = (groups - (number - 1) * BATCH).min(BATCH);
                self.take::<N, MANTISSA, true>(lanes, count, &batches[(number + 1) % 2], left);
            }
        }
    }

    /// Takes where groups first change; lists the changes, and the groups that go on behind theirs.
    #[inline]
    #[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
    fn take<const N: usize, const MANTISSA: u32, const GO_ON: bool>(
        &mut self,
        lanes: &mut Vectors<'_, N>,
        count: usize,
        batch: &Batch,
        groups: usize,
    ) {
        let last = dwords(GROUP_ELEMS - 1);
        let firsts = take_firsts::<N, MANTISSA, GO_ON>(lanes, count, &batch.chances, groups);
        // Locals, so that a bound is checked once.
        let (mut kept, mut changed) = (self.groups, self.changed);
        for half in 0..2 {
            let (found, places) = (firsts.found[half], firsts.places[half]);
            let elems = _mm512_or_si512(_mm512_andnot_si512(last, batch.starts[half]), places);
            compress(found, elems, self.changes.half(changed));
            changed += found.count_ones() as usize;
            let goes_on = _mm512_cmplt_epu32_mask(places, last);
            let next = _mm512_add_epi32(elems, _mm512_set1_epi32(1));
            compress(goes_on, next, self.starts.half(kept));
            compress(goes_on, batch.distances[half], self.distances.half(kept));
            kept += goes_on.count_ones() as usize;
        }
        (self.groups, self.changed) = (kept, changed);
    }
}

const _: () = assert!(BATCH == MAX_LANES);
