//! Which element of a group changes first: one symbol that says where, or that none does.
//!
//! Elements of one class change almost independently of each other and of their neighbours, so a probability a class says
//! everything. Eight elements in a row form a group; the chance that the first change is element `j` is
//! `p_j · Π_{i<j} (1 − p_i)`, an interval of the code space that both sides compute in integers from the classes of the
//! base. Where little changes, one symbol passes over eight elements at the cost of what they could have said.
//!
//! ```text
//! slots   0 ……………… S_m │ S_m … S_{m−1} │ …… │ S_2 … S_1 │ S_1 … 2^14
//!         none changes │ m−1 is first  │    │ 1 is first │ 0 is first
//! ```
//!
//! A probability is sent as one byte of log-odds: `p / (1 − p) = 2^((o − 224) / 16)`, `o ≥ 1`.

use crate::constants::GROUP_ELEMS;
use crate::cost::log2;

/// Probability bits of a first change: no table is stored, so they may be fine.
pub(crate) const FIRST_BITS: u32 = 14;

/// Log-odds that stand for even odds.
const EVEN: u32 = 224;
/// `65536 · 2^(i / 16)`, rounded.
const SIXTEENTH_OCTAVES: [u64; 16] = [
    65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752, 92682, 96785, 101070, 105545, 110218, 115098,
    120194, 125515,
];
const ONE: u64 = 1 << 32;
const WHOLE: u32 = 1 << FIRST_BITS;

/// Probability of a change, in 1/65536, of log-odds `o ≥ 1`: at least 4 of them.
pub(crate) fn change_probability(log_odds: u8) -> u16 {
    let o = u32::from(log_odds);
    let distance = o.abs_diff(EVEN);
    // 2^(distance / 16) in 1/65536.
    let ratio = SIXTEENTH_OCTAVES[(distance % 16) as usize] << (distance / 16);
    let smaller = (1u64 << 48) / ((1 << 16) + ratio);
    let p = if o <= EVEN { smaller } else { ONE - smaller };
    #[expect(clippy::cast_possible_truncation, reason = "a fraction below one of 2^16")]
    let upper = (p >> 16) as u16;
    upper
}

/// Slots of "element `at` changes first" out of the `left` that the elements before it left over.
///
/// At least 1, and at least `8 − at` stay for what follows: `left ≥ 9 − at` holds for the next element again.
#[inline(always)]
pub(crate) fn slots(left: u32, at: usize, probability: u16) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "at is below 8")]
    let spared = (GROUP_ELEMS + 1 - at) as u32;
    1 + (((left - spared) * u32::from(probability)) >> 16)
}

/// Where a group first changes, as a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirstChange {
    /// The element's place in its group.
    pub(crate) at: Option<usize>,
    /// Its first slot.
    pub(crate) start: u32,
    /// Its number of slots.
    pub(crate) freq: u32,
}

impl FirstChange {
    /// The symbol that says that `at` (at or after `from`) changes first.
    #[inline(always)]
    pub(crate) fn of(at: Option<usize>, probabilities: &[u16], from: usize) -> Self {
        let mut left = WHOLE;
        for (j, &p) in probabilities.iter().enumerate().skip(from) {
            let freq = slots(left, j, p);
            left -= freq;
            if Some(j) == at {
                return Self {
                    at,
                    start: left,
                    freq,
                };
            }
        }
        Self {
            at: None,
            start: 0,
            freq: left,
        }
    }

    /// The symbol that `slot` belongs to.
    #[inline(always)]
    pub(crate) fn of_slot(slot: u32, probabilities: &[u16], from: usize) -> Self {
        let mut left = WHOLE;
        for (j, &p) in probabilities.iter().enumerate().skip(from) {
            let freq = slots(left, j, p);
            left -= freq;
            if slot >= left {
                return Self {
                    at: Some(j),
                    start: left,
                    freq,
                };
            }
        }
        Self {
            at: None,
            start: 0,
            freq: left,
        }
    }
}

/// The log-odds that code `changed` of `count` changes most cheaply.
pub(crate) fn log_odds_of(changed: u64, count: u64) -> u8 {
    // What the first element of a group gives a change: the others give it the same share of what is left.
    let share = |o: u8| u64::from(slots(WHOLE, 0, change_probability(o)));
    let above = (1..=u8::MAX)
        .find(|&o| share(o) * count >= changed * u64::from(WHOLE))
        .unwrap_or(u8::MAX);
    [above.saturating_sub(1).max(1), above]
        .into_iter()
        .min_by_key(|&o| change_cost(share(o), changed, count))
        .unwrap_or(above)
}

fn change_cost(share: u64, changed: u64, count: u64) -> u64 {
    let whole = log2(WHOLE.into());
    changed * (whole - log2(share)) + (count - changed) * (whole - log2(u64::from(WHOLE) - share))
}

/// What coding `changed` of `count` changes costs with the best log-odds.
pub(crate) fn best_cost(changed: u64, count: u64) -> u64 {
    let o = log_odds_of(changed, count);
    change_cost(slots(WHOLE, 0, change_probability(o)).into(), changed, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Promise: every log-odds byte gives a probability, and they rise with it.
    #[test]
    fn probabilities_rise() {
        for o in 2..=u8::MAX {
            assert!(change_probability(o) >= change_probability(o - 1));
        }
        assert_eq!(change_probability(224), 1 << 15);
        assert_eq!((change_probability(1), change_probability(255)), (4, 51_968));
    }

    proptest! {
        /// Promise: for any probabilities, lengths and starts every symbol has slots, they tile the code space, and a slot
        /// leads back to its symbol.
        #[test]
        fn symbols_tile_the_slots(p in prop::collection::vec(1u16.., 1..=8), from in 0usize..8) {
            prop_assume!(from < p.len());
            let mut covered = 0;
            for at in (from..p.len()).map(Some).chain([None]) {
                let symbol = FirstChange::of(at, &p, from);
                prop_assert_eq!(symbol.at, at);
                prop_assert!(symbol.freq >= 1);
                for slot in [symbol.start, symbol.start + symbol.freq - 1] {
                    prop_assert_eq!(FirstChange::of_slot(slot, &p, from), symbol);
                }
                covered += symbol.freq;
            }
            prop_assert_eq!(covered, WHOLE);
        }
    }

    /// Promise: the code is within 1 % of the entropy from 0.1 % to 60 % changed, by its own probabilities.
    #[test]
    fn close_to_the_entropy() {
        for changed in [1u64, 3, 12, 20, 45, 200, 600] {
            let p = changed as f64 / 1000.0;
            let probabilities = [change_probability(log_odds_of(changed, 1000)); 8];
            let bits = |s: FirstChange| 14.0 - f64::from(s.freq).log2();
            // Expected cost of the rest of a group from element `from` on.
            let mut cost = [0.0; 9];
            for from in (0..8).rev() {
                let mut none = 1.0;
                let mut sum = 0.0;
                for at in from..8 {
                    let symbol = FirstChange::of(Some(at), &probabilities, from);
                    sum += none * p * (bits(symbol) + cost[at + 1]);
                    none *= 1.0 - p;
                }
                cost[from] = sum + none * bits(FirstChange::of(None, &probabilities, from));
            }
            let ideal = -8.0 * (p * p.log2() + (1.0 - p) * (1.0 - p).log2());
            assert!(cost[0] < 1.01 * ideal, "p {p}: {} {ideal}", cost[0]);
        }
    }
}
