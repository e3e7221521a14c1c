//! Where 32 groups first change, from what their elements' chances are.
//!
//! With `S_0 = 2^14`, `f_j = 1 + ⌊(S_j − 9 + j)·p_j / 2^16⌋` and `S_{j+1} = S_j − f_j`, element j is the first that changes if
//! `S_{j+1} ≤ slot < S_j`, none if `slot < S_8`. In words of 16 bits:
//!
//! ```text
//! T_j = S_j − 9 + j        T_{j+1} = T_j − mulhi(T_j, p_j)
//! D_j = slot − S_j         modulo 2^16: below 2^14 if S_j ≤ slot, at least 2^15 if not
//! place = how many of D_1 … D_8 are at least 2^15;   within = min(slot, D_1, … D_8);   f = within − max(D_0, … D_8)
//! ```
//!
//! The chain of the `T_j` needs no state, so those of several rounds overlap; the minimum and the maximum need no comparison.

use super::lanes::{Masks, Vectors, first};
use super::words::{ByClass, VECTOR, apart, dwords, load, pair, pair_high, store};
use crate::constants::GROUP_ELEMS;
use crate::rans::change::FIRST_BITS;
use std::arch::x86_64::*;

/// `S_1 … S_8` of 32 groups: of group i in the low word of dword i, of group 16 + i in the high one.
pub(super) type Chances = [__m512i; GROUP_ELEMS];

/// Bytes of 16 groups in memory.
pub(super) const GROUPS_BYTES: usize = 4 * VECTOR;
/// All slots.
const WHOLE: i16 = 1 << FIRST_BITS;

/// The places of the first changes of 32 groups, 8 for none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Firsts {
    pub(super) places: [__m512i; 2],
    pub(super) found: Masks<2>,
}

/// Where the dword of each group stands once four vectors are packed, 128 bits of each beside one another.
const ORDER: [u8; VECTOR] = {
    let mut bytes = [0; VECTOR];
    let mut group = 0;
    while group < 16 {
        bytes[4 * group as usize] = 4 * (group % 4) + group / 4;
        group += 1;
    }
    bytes
};

/// Copies 16 groups from `base` to `out`; the distances of their elements ([`ByClass`]), four bits each, a dword a group.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn copy_groups<const MANTISSA: u32>(
    base: &[u8; GROUPS_BYTES],
    out: &mut [u8; GROUPS_BYTES],
    odds: &ByClass<MANTISSA>,
) -> __m512i {
    let (base, _) = base.as_chunks::<VECTOR>();
    let (out, _) = out.as_chunks_mut::<VECTOR>();
    let mut pairs = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        let words = load(&base[i]);
        store(words, &mut out[i]);
        pairs[i] = _mm512_madd_epi16(odds.distances(words), _mm512_set1_epi32(16 << 16 | 1));
    }
    let front = _mm512_packus_epi32(pairs[0], pairs[1]);
    let back = _mm512_packus_epi32(pairs[2], pairs[3]);
    _mm512_permutexvar_epi32(load(&ORDER), _mm512_packus_epi16(front, back))
}

/// The chances of 32 groups.
///
/// The constants, here and where symbols are taken, give every caller a copy of its own, which becomes part of it: a call
/// would pass vectors through memory.
///
/// * `distances`: as of [`copy_groups`].
/// * `starts`: the first element of each group that can still change, dwords below 8; only read with `GO_ON`, else all are 0.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn chances<const N: usize, const MANTISSA: u32, const GO_ON: bool>(
    odds: &ByClass<MANTISSA>,
    distances: [__m512i; 2],
    starts: [__m512i; 2],
    chances: &mut Chances,
) {
    // Elements before the start take nothing from T: it is that of the start until then.
    let starts = pair(starts[0], starts[1]);
    let mut t = _mm512_set1_epi16(WHOLE - 9);
    if GO_ON {
        t = _mm512_add_epi16(t, starts);
    }
    let one = _mm512_set1_epi16(1);
    let mut at = _mm512_setzero_si512();
    // 9 − (j + 1)
    let mut left = _mm512_set1_epi16(8);
    let mut four = pair(distances[0], distances[1]);
    for (j, chance) in chances.iter_mut().enumerate() {
        if j == 4 {
            four = pair_high(distances[0], distances[1]);
        }
        let p = odds.at(four);
        four = _mm512_srli_epi16::<4>(four);
        let step = if GO_ON && j < GROUP_ELEMS - 1 {
            _mm512_maskz_mulhi_epu16(_mm512_cmple_epu16_mask(starts, at), t, p)
        } else {
            _mm512_mulhi_epu16(t, p)
        };
        t = _mm512_sub_epi16(t, step);
        *chance = _mm512_add_epi16(t, left);
        left = _mm512_sub_epi16(left, one);
        at = _mm512_add_epi16(at, one);
    }
}

/// What slots mean, in words.
#[derive(Debug, Clone, Copy)]
struct Symbols {
    places: __m512i,
    freqs: __m512i,
    within: __m512i,
}

#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn symbols(slots: __m512i, chances: &Chances) -> Symbols {
    let slots = _mm512_and_si512(slots, _mm512_set1_epi16(WHOLE - 1));
    let mut d = [_mm512_setzero_si512(); GROUP_ELEMS];
    let mut signs = _mm512_setzero_si512();
    for j in 0..GROUP_ELEMS {
        d[j] = _mm512_sub_epi16(slots, chances[j]);
        signs = _mm512_shldi_epi16::<1>(signs, d[j]);
    }
    let least = |a, b| _mm512_min_epu16(a, b);
    let most = |a, b| _mm512_max_epu16(a, b);
    let within = least(
        least(least(d[0], d[1]), least(d[2], d[3])),
        least(least(d[4], d[5]), least(d[6], least(d[7], slots))),
    );
    let above = most(
        most(most(d[0], d[1]), most(d[2], d[3])),
        most(
            most(d[4], d[5]),
            most(
                most(d[6], d[7]),
                _mm512_sub_epi16(slots, _mm512_set1_epi16(WHOLE)),
            ),
        ),
    );
    Symbols {
        places: _mm512_popcnt_epi16(signs),
        freqs: _mm512_sub_epi16(within, above),
        within,
    }
}

/// Takes the first changes of `groups` groups (at most 32), in rounds of `count` lanes.
///
/// Two vectors hold 32 lanes, and the round is one. Less than 16 lanes move through their vector, so that each stands at its
/// group.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn take_firsts<const N: usize, const MANTISSA: u32, const GO_ON: bool>(
    lanes: &mut Vectors<'_, N>,
    count: usize,
    chances: &Chances,
    groups: usize,
) -> Firsts {
    let none = dwords(GROUP_ELEMS);
    let mut places = [none; 2];
    if N == 2 {
        let taking = first::<N>(groups);
        let symbols = symbols(pair(lanes.states[0], lanes.states[N - 1]), chances);
        let (freqs, within, found) = (apart(symbols.freqs), apart(symbols.within), apart(symbols.places));
        for half in 0..N {
            step(lanes, half, taking[half], freqs[half], within[half]);
            places[half] = _mm512_mask_mov_epi32(none, taking[half], found[half]);
        }
        lanes.renormalise(taking);
    } else {
        let forward = _mm512_sub_epi32(in_order(), dwords(count));
        let [all, above] = first::<2>(groups);
        for (half, taking) in [all, above].into_iter().enumerate() {
            let mut at = 0;
            while at < 16 && taking >> at != 0 {
                let mut here = first::<N>(count);
                here[0] = here[0] << at & taking;
                let x = lanes.states[0];
                let symbols = symbols(pair(x, x), chances);
                let of = |words| apart(words)[half];
                step(lanes, 0, here[0], of(symbols.freqs), of(symbols.within));
                places[half] = _mm512_mask_mov_epi32(places[half], here[0], of(symbols.places));
                lanes.renormalise(here);
                at += count;
                if count < 16 {
                    lanes.states[0] = _mm512_permutexvar_epi32(forward, lanes.states[0]);
                }
            }
            if at % 16 != 0 {
                let back = _mm512_add_epi32(in_order(), dwords(at));
                lanes.states[0] = _mm512_permutexvar_epi32(back, lanes.states[0]);
            }
        }
    }
    let found = places.map(|places| _mm512_cmplt_epu32_mask(places, none));
    Firsts { places, found }
}

/// Step 1 of a round for one vector of lanes.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
fn step<const N: usize>(
    lanes: &mut Vectors<'_, N>,
    half: usize,
    taking: __mmask16,
    freqs: __m512i,
    within: __m512i,
) {
    let x = lanes.states[half];
    let times = _mm512_mullo_epi32(freqs, _mm512_srli_epi32::<FIRST_BITS>(x));
    lanes.states[half] = _mm512_mask_add_epi32(x, taking, times, within);
}

/// The number of every dword.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bitalg,bmi2,popcnt")]
pub(super) fn in_order() -> __m512i {
    _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
}
