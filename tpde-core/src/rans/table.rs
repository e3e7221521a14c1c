//! Static probability tables: built from counts, sent as quarter-octave logarithms, expanded in integers.

use crate::bits::{BitReader, BitWriter};
use crate::constants::{MAX_PROB_BITS, MAX_SYMBOLS};
use crate::cost::{self, COST_SHIFT};
use crate::error::{Result, corrupt};

/// Quantised logarithm of each symbol's probability: 0 is absent, `q ≥ 1` means about `2^((q − 1) / 4 − 16)`.
pub(crate) type Logs = Vec<u8>;

/// The logarithm that stands for probability 1.
const TOP_LOG: u8 = 65;
/// `256 · 2^(i / 4)`, rounded.
const QUARTER_OCTAVES: [u64; 4] = [256, 304, 362, 431];
/// What the first symbol's logarithm is predicted to be.
const FIRST_LOG: i32 = 57;
/// Widest order of the exp-Golomb code of the logarithms.
const MAX_ORDER: u32 = 3;

/// A symbol as the encoder needs it: `freq − 1` in bits 0–11, cumulative in 12–23, probability bits in 24–31.
pub(crate) type EncodeEntry = u32;
/// A slot as the decoder needs it: symbol in bits 0–7, `freq − 1` in 8–19, `slot − cumulative` in 20–31.
pub(crate) type DecodeEntry = u32;

/// Probabilities of one alphabet, summing to `2^prob_bits`.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    prob_bits: u32,
    freqs: Vec<u16>,
}

impl Table {
    /// Scales integer weights to frequencies that sum to `2^prob_bits`; a positive weight gets at least 1.
    ///
    /// What rounding leaves over goes to the most frequent symbol (the first of equals); what it takes too much is
    /// taken from the most frequent one step at a time. At least one weight must be positive.
    pub(crate) fn from_weights(weights: &[u64], prob_bits: u32) -> Self {
        debug_assert!(weights.len() <= MAX_SYMBOLS && prob_bits <= MAX_PROB_BITS);
        let whole = 1u64 << prob_bits;
        let total: u128 = weights.iter().map(|&w| u128::from(w)).sum();
        debug_assert!(total > 0);
        #[expect(clippy::cast_possible_truncation, reason = "a share of at most 2^12")]
        let mut freqs: Vec<u16> = weights
            .iter()
            .map(|&w| {
                if w == 0 {
                    0
                } else {
                    ((u128::from(w) << prob_bits) / total).max(1) as u16
                }
            })
            .collect();
        let largest = |freqs: &[u16]| {
            let mut best = 0;
            for (i, &f) in freqs.iter().enumerate() {
                if f > freqs[best] {
                    best = i;
                }
            }
            best
        };
        let mut sum: u64 = freqs.iter().map(|&f| u64::from(f)).sum();
        while sum > whole {
            let i = largest(&freqs);
            freqs[i] -= 1;
            sum -= 1;
        }
        let i = largest(&freqs);
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^12")]
        let rest = (whole - sum) as u16;
        freqs[i] += rest;
        Self { prob_bits, freqs }
    }

    /// The table that quantised logarithms stand for. At least one must not be 0.
    pub(crate) fn from_logs(logs: &[u8], prob_bits: u32) -> Self {
        let weight = |&q: &u8| match q {
            0 => 0,
            _ => QUARTER_OCTAVES[usize::from((q - 1) & 3)] << ((q - 1) >> 2),
        };
        let weights: Vec<u64> = logs.iter().map(weight).collect();
        Self::from_weights(&weights, prob_bits)
    }

    /// Whether the table can code `symbol`.
    pub(crate) fn has(&self, symbol: usize) -> bool {
        self.freqs.get(symbol).is_some_and(|&f| f > 0)
    }

    /// Frequency of every symbol.
    pub(crate) fn frequencies(&self) -> &[u16] {
        &self.freqs
    }

    /// What coding `counts` with this table costs; `None` if a symbol that occurs is absent.
    pub(crate) fn cost(&self, counts: &[u32]) -> Option<u64> {
        let mut cost = 0;
        for (symbol, &count) in counts.iter().enumerate() {
            if count > 0 {
                if !self.has(symbol) {
                    return None;
                }
                let price = cost::bits(self.prob_bits.into()) - cost::log2(self.freqs[symbol].into());
                cost += u64::from(count) * price;
            }
        }
        Some(cost)
    }

    /// One entry per symbol; entries of absent symbols are meaningless.
    pub(crate) fn encode_entries(&self) -> Vec<EncodeEntry> {
        let mut cumulative = 0u32;
        let entry = |&freq: &u16| {
            let freq = u32::from(freq);
            let entry = freq.saturating_sub(1) | cumulative << 12 | self.prob_bits << 24;
            cumulative += freq;
            entry
        };
        self.freqs.iter().map(entry).collect()
    }

    /// One entry per slot: `2^prob_bits` of them.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 256 symbols and 2^12 slots"
    )]
    pub(crate) fn decode_entries(&self) -> Vec<DecodeEntry> {
        let mut entries = Vec::with_capacity(1 << self.prob_bits);
        for (symbol, &freq) in self.freqs.iter().enumerate() {
            let freq = u32::from(freq);
            entries.extend((0..freq).map(|within| symbol as u32 | (freq - 1) << 8 | within << 20));
        }
        entries
    }
}

/// The quantised logarithms of the shares of `counts`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 1..=65")]
pub(crate) fn quantise(counts: &[u32]) -> Logs {
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let log = |&count: &u32| {
        if count == 0 {
            return 0;
        }
        let share = (16u64 << COST_SHIFT) + cost::log2(count.into());
        let share = share.saturating_sub(cost::log2(total));
        let quarters = (4 * share + (1 << (COST_SHIFT - 1))) >> COST_SHIFT;
        (quarters.min(u64::from(TOP_LOG) - 1) + 1) as u8
    };
    counts.iter().map(log).collect()
}

/// The differences that are sent: 0 for an absent symbol, else one more than the zigzag of the step from the last one.
fn steps(logs: &[u8]) -> impl Iterator<Item = u64> {
    let mut last = FIRST_LOG;
    logs.iter().map(move |&q| {
        if q == 0 {
            return 0;
        }
        let step = i32::from(q) - last;
        last = q.into();
        u64::from(((step << 1) ^ (step >> 31)).cast_unsigned()) + 1
    })
}

fn golomb_bits(value: u64, order: u32) -> u32 {
    let log2 = 63 - (value + (1 << order)).leading_zeros();
    2 * log2 + 1 - order
}

fn span(logs: &[u8]) -> std::ops::RangeInclusive<usize> {
    let first = logs.iter().position(|&q| q > 0).unwrap_or(0);
    let last = logs.iter().rposition(|&q| q > 0).unwrap_or(0);
    first..=last
}

fn best_order(logs: &[u8]) -> (u32, u64) {
    let bits = |order| steps(logs).map(|s| u64::from(golomb_bits(s, order))).sum::<u64>();
    (0..=MAX_ORDER)
        .map(|order| (order, bits(order)))
        .min_by_key(|&(_, bits)| bits)
        .unwrap_or((0, 0))
}

/// Bits that [`write_logs`] takes.
pub(crate) fn logs_bits(logs: &[u8]) -> u64 {
    18 + best_order(&logs[span(logs)]).1
}

/// Writes logarithms: first and last present symbol (8 bits each), order (2 bits), then a step a symbol.
pub(crate) fn write_logs(logs: &[u8], w: &mut BitWriter) {
    let span = span(logs);
    let (order, _) = best_order(&logs[span.clone()]);
    w.put(*span.start() as u64, 8);
    w.put(*span.end() as u64, 8);
    w.put(order.into(), 2);
    for step in steps(&logs[span]) {
        let value = step + (1 << order);
        let log2 = 63 - value.leading_zeros();
        w.put(0, log2 - order);
        w.put(1, 1);
        w.put(value & ((1 << log2) - 1), log2);
    }
}

/// Inverse of [`write_logs`] for an alphabet of `symbols`.
///
/// # Errors
/// `Corrupt` if a symbol lies outside the alphabet, a logarithm outside its range, or none is present.
pub(crate) fn read_logs(r: &mut BitReader<'_>, symbols: usize) -> Result<Logs> {
    const WHAT: &str = "probability table";
    #[expect(clippy::cast_possible_truncation, reason = "8-bit fields")]
    let (first, last) = (r.get(8) as usize, r.get(8) as usize);
    #[expect(clippy::cast_possible_truncation, reason = "2-bit field")]
    let order = r.get(2) as u32;
    if first > last || last >= symbols {
        return Err(corrupt(WHAT, format!("symbols {first}..={last} of {symbols}")));
    }
    let mut logs = vec![0u8; symbols];
    let mut log = i64::from(FIRST_LOG);
    for q in &mut logs[first..=last] {
        let mut log2 = order;
        while r.get(1) == 0 {
            log2 += 1;
            if log2 > 8 {
                return Err(corrupt(WHAT, "a step is too wide"));
            }
        }
        let step = (r.get(log2) | 1 << log2) - (1 << order);
        let Some(zigzag) = step.checked_sub(1) else {
            continue;
        };
        log += (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        *q = match u8::try_from(log) {
            Ok(q @ 1..=TOP_LOG) => q,
            _ => return Err(corrupt(WHAT, format!("logarithm {log}"))),
        };
    }
    if logs[first] == 0 || logs[last] == 0 {
        return Err(corrupt(
            WHAT,
            "the span does not start and end at a symbol that occurs",
        ));
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: a table sent is the table used, sums to its whole, and codes every symbol that occurs.
        #[test]
        fn tables_survive_the_wire(counts in prop::collection::vec(prop_oneof![Just(0u32), 1u32..5, 0u32..1_000_000], 1..256),
                                   prob_bits in 10u32..=12) {
            prop_assume!(counts.iter().any(|&c| c > 0));
            let logs = quantise(&counts);
            let mut w = BitWriter::default();
            write_logs(&logs, &mut w);
            prop_assert_eq!(w.len_bits() as u64, logs_bits(&logs));
            let bytes = w.into_bytes();
            let read = read_logs(&mut BitReader::new(&bytes), counts.len()).unwrap();
            prop_assert_eq!(&read, &logs);
            let table = Table::from_logs(&read, prob_bits);
            prop_assert_eq!(table.freqs.iter().map(|&f| u32::from(f)).sum::<u32>(), 1 << prob_bits);
            prop_assert_eq!(table.decode_entries().len(), 1 << prob_bits);
            let cost = table.cost(&counts);
            prop_assert!(cost.is_some());
        }

        /// Promise: hostile table bytes give an error or a valid table, never a panic.
        #[test]
        fn hostile_tables(bytes in prop::collection::vec(any::<u8>(), 0..80), symbols in 1usize..=256) {
            if let Ok(logs) = read_logs(&mut BitReader::new(&bytes), symbols) {
                prop_assert_eq!(Table::from_logs(&logs, 12).decode_entries().len(), 4096);
            }
        }
    }

    /// Promise: quantising to quarter octaves costs under 0.3 % on a smooth distribution.
    #[test]
    fn quantising_is_cheap() {
        let counts: Vec<u32> = (0..60)
            .map(|i| (200_000.0 * 0.85f64.powi(i)) as u32 + 1)
            .collect();
        let ideal = cost::entropy(&counts);
        let table = Table::from_logs(&quantise(&counts), 12);
        let real = table.cost(&counts).unwrap();
        assert!(real < ideal + ideal / 300, "{real} {ideal}");
    }
}
