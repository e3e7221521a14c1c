//! What symbols cost, in 1/65536 bit, in integers: the encoder's choices are the same on every machine.

use std::sync::OnceLock;

/// Fixed-point bits in a cost.
pub(crate) const COST_SHIFT: u32 = 16;

/// Turns whole bits into a cost.
pub(crate) const fn bits(n: u64) -> u64 {
    n << COST_SHIFT
}

/// Numbers below this have their logarithm in a table.
const LUT_BITS: u32 = 16;

/// log2 of `n ≥ 1` in 1/65536, rounded down; above 2^16 from the upper 16 bits (off by at most 3/65536).
pub(crate) fn log2(n: u64) -> u64 {
    static LUT: OnceLock<Vec<u32>> = OnceLock::new();
    debug_assert!(n > 0);
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 << 16")]
    let lut = LUT.get_or_init(|| {
        (0..1u64 << LUT_BITS)
            .map(|n| log2_by_squaring(n.max(1)) as u32)
            .collect()
    });
    let shift = (64 - n.leading_zeros()).saturating_sub(LUT_BITS);
    u64::from(lut[usize::try_from(n >> shift).unwrap_or(0)]) + bits(shift.into())
}

/// The logarithm, a bit at a time.
fn log2_by_squaring(n: u64) -> u64 {
    let whole = 63 - n.leading_zeros();
    // Mantissa in [1, 2) with 31 fraction bits.
    let mut m = if whole >= 31 {
        n >> (whole - 31)
    } else {
        n << (31 - whole)
    };
    let mut fraction = 0u64;
    for _ in 0..COST_SHIFT {
        m = (m * m) >> 31;
        fraction <<= 1;
        if m >> 32 != 0 {
            m >>= 1;
            fraction |= 1;
        }
    }
    bits(whole.into()) | fraction
}

/// Entropy of a histogram times its count: what an ideal static coder pays for all its symbols.
pub(crate) fn entropy(counts: &[u32]) -> u64 {
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    if total == 0 {
        return 0;
    }
    let whole = log2(total) as u128 * u128::from(total);
    let parts: u128 = counts
        .iter()
        .filter(|&&c| c > 0)
        .map(|&c| u128::from(c) * u128::from(log2(c.into())))
        .sum();
    u64::try_from(whole.saturating_sub(parts)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the integer logarithm is right to 1/65536 and monotone.
    #[test]
    fn log2_is_right() {
        let mut last = 0;
        for n in (1..5000u64).chain((12..63).map(|i| (1 << i) + 12345)) {
            let got = log2(n) as f64 / 65536.0;
            let want = (n as f64).log2();
            assert!((got - want).abs() < 5e-5, "{n}: {got} {want}");
            assert!(log2(n) >= last);
            last = log2(n);
        }
        assert_eq!(entropy(&[512, 512]), bits(1024));
        assert_eq!(entropy(&[0, 7, 0]), 0);
    }
}
