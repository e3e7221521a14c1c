//! Tables of change masks, eight elements a symbol, derived from one byte of log-odds.
//!
//! Elements of one class change almost independently, so one probability says everything. A log-odds byte `o` stands for
//! `p / (1 − p) = 2^((o − 224) / 16)`; `o = 0` says that nothing changes and nothing is coded. Two alphabets:
//!
//! * **sparse** (`o ≤ 146`, p below 3.3 %): ten symbols: no change, element 0 … 7 alone, and an escape behind which the
//!   whole byte follows raw. 256 symbols at 12 bits would waste a sixteenth of the code space on bytes that never come.
//! * **full**: the byte itself.

use crate::constants::MAX_PROB_BITS;
use crate::rans::table::Table;

/// Log-odds that stand for even odds.
const EVEN: u32 = 224;
/// The highest log-odds of the sparse alphabet.
const SPARSE_MAX: u8 = 146;
/// The escape of the sparse alphabet.
pub(crate) const ESCAPE: u8 = 9;
/// `65536 · 2^(i / 16)`, rounded.
const SIXTEENTH_OCTAVES: [u64; 16] = [
    65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752, 92682, 96785, 101070, 105545, 110218, 115098,
    120194, 125515,
];
const ONE: u64 = 1 << 32;

/// Whether masks with these log-odds use the ten-symbol alphabet.
pub(crate) fn is_sparse(log_odds: u8) -> bool {
    log_odds <= SPARSE_MAX
}

/// Probability of a change, in 1/2^32, of log-odds `o ≥ 1`.
fn change_probability(log_odds: u8) -> u64 {
    let o = u32::from(log_odds);
    let distance = o.abs_diff(EVEN);
    // 2^(distance / 16) in 1/65536.
    let ratio = SIXTEENTH_OCTAVES[(distance % 16) as usize] << (distance / 16);
    let smaller = (1u64 << 48) / ((1 << 16) + ratio);
    if o <= EVEN { smaller } else { ONE - smaller }
}

/// Product of two fractions of 2^32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "both are at most 2^32, so their product is at most 2^64"
)]
fn times(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 32) as u64
}

/// The table of masks with log-odds `o ≥ 1`.
pub(crate) fn mask_table(log_odds: u8) -> Table {
    let p = change_probability(log_odds);
    // Probability of one given byte with k ones.
    let mut by_ones = [0u64; 9];
    for (ones, weight) in by_ones.iter_mut().enumerate() {
        let mut w = ONE;
        for i in 0..8 {
            w = times(w, if i < ones { p } else { ONE - p });
        }
        *weight = w.max(1);
    }
    let weights: Vec<u64> = if is_sparse(log_odds) {
        let escape = ONE.saturating_sub(by_ones[0] + 8 * by_ones[1]).max(1);
        [by_ones[0]]
            .into_iter()
            .chain([by_ones[1]; 8])
            .chain([escape])
            .collect()
    } else {
        (0..=u8::MAX)
            .map(|byte| by_ones[byte.count_ones() as usize])
            .collect()
    };
    Table::from_weights(&weights, MAX_PROB_BITS)
}

/// The symbol of a mask byte in the table of `log_odds`.
#[inline]
pub(crate) fn symbol_of(byte: u8, log_odds: u8) -> u8 {
    if !is_sparse(log_odds) {
        return byte;
    }
    match byte.count_ones() {
        0 => 0,
        #[expect(clippy::cast_possible_truncation, reason = "below 8")]
        1 => 1 + byte.trailing_zeros() as u8,
        _ => ESCAPE,
    }
}

/// The log-odds nearest to `changed` of `count`; 0 if nothing changed.
pub(crate) fn log_odds_of(changed: u64, count: u64) -> u8 {
    if changed == 0 {
        return 0;
    }
    // The table's probability is monotone in the log-odds: the best cost lies beside the first that is too likely.
    let above = (1..=u8::MAX)
        .find(|&o| u128::from(change_probability(o)) * u128::from(count) >= u128::from(changed) << 32);
    let above = above.unwrap_or(u8::MAX);
    let cost = |o: u8| {
        let p = change_probability(o);
        changed * (32 * 65536 - crate::cost::log2(p.max(1)))
            + (count - changed) * (32 * 65536 - crate::cost::log2((ONE - p).max(1)))
    };
    if above > 1 && cost(above - 1) < cost(above) {
        above - 1
    } else {
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: every log-odds byte gives a table that codes every mask byte; probabilities rise with it.
    #[test]
    fn every_table_codes_every_byte() {
        for o in 1..=u8::MAX {
            let table = mask_table(o);
            for byte in 0..=u8::MAX {
                assert!(table.has(symbol_of(byte, o).into()), "{o} {byte}");
            }
            if o > 1 {
                assert!(change_probability(o) > change_probability(o - 1));
            }
        }
        assert_eq!(change_probability(224), ONE / 2);
    }

    /// Promise: the derived table is within 5 % of the entropy from 0.1 % to 60 % changed.
    #[test]
    fn derived_tables_are_close_to_the_entropy() {
        for (changed, count) in [(1u64, 1000u64), (20, 1000), (45, 1000), (200, 1000), (600, 1000)] {
            let o = log_odds_of(changed, count);
            let p = changed as f64 / count as f64;
            // Expected counts of each symbol among 8 M elements.
            let mut counts = vec![0u32; 256];
            let mut raw = 0.0;
            for byte in 0..=255u8 {
                let k = byte.count_ones() as i32;
                let share = p.powi(k) * (1.0 - p).powi(8 - k) * 1e6;
                let symbol = symbol_of(byte, o);
                counts[usize::from(symbol)] += share.round() as u32;
                if is_sparse(o) && symbol == ESCAPE {
                    raw += 8.0 * share;
                }
            }
            let cost = mask_table(o).cost(&counts).unwrap() as f64 / 65536.0 + raw;
            let ideal = 8e6 * -(p * p.log2() + (1.0 - p) * (1.0 - p).log2());
            assert!(cost < 1.05 * ideal, "p {p}: {cost} {ideal}");
        }
    }
}
