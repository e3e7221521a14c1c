//! How far two tensors of one shape lie apart, for people.
//!
//! Nothing here is on a coded path: floats may be compared as floats.

use crate::dtype::{Dtype, Layout};
use crate::error::{CodecError, Result};
use crate::ordinal::{Word, residual};
use half::{bf16, f16};
use rayon::prelude::*;

/// Running totals of a comparison; totals of parts add up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Comparison {
    /// Elements compared.
    pub elems: u64,
    /// Elements whose bits differ.
    pub changed: u64,
    /// Largest distance, in ulps (floats) or units (integers).
    pub max_ulp: u64,
    /// Sum of squared differences over finite pairs.
    pub squared_distance: f64,
    /// Sum of squared old values over the same pairs.
    pub squared_norm: f64,
}

impl Comparison {
    /// Adds the totals of another part.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            elems: self.elems + other.elems,
            changed: self.changed + other.changed,
            max_ulp: self.max_ulp.max(other.max_ulp),
            squared_distance: self.squared_distance + other.squared_distance,
            squared_norm: self.squared_norm + other.squared_norm,
        }
    }

    /// Share of the elements that differ, 0 to 1; 0 for no elements.
    pub fn changed_share(&self) -> f64 {
        if self.elems == 0 {
            0.0
        } else {
            self.changed as f64 / self.elems as f64
        }
    }

    /// Length of the difference over the length of the old tensor; infinite if the old one is all zeros and they differ.
    pub fn relative_l2(&self) -> f64 {
        if self.squared_distance == 0.0 {
            0.0
        } else {
            (self.squared_distance / self.squared_norm).sqrt()
        }
    }
}

/// Compares `new` with `old`, element by element.
///
/// * `old`, `new`: whole coded elements of `dtype`, little-endian, of equal length. Elements where either side is NaN or
///   infinite count as changed (if their bits differ) but not in the sums.
///
/// # Errors
/// `Invalid` if the lengths differ or are not whole elements.
pub fn compare(dtype: Dtype, old: &[u8], new: &[u8]) -> Result<Comparison> {
    if old.len() != new.len() || !old.len().is_multiple_of(dtype.word_bytes()) {
        let detail = format!("{} and {} bytes of {}", old.len(), new.len(), dtype.name());
        return Err(CodecError::Invalid { detail });
    }
    Ok(match dtype.word_bytes() {
        1 => compare_words::<u8>(dtype, old, new),
        2 => compare_words::<u16>(dtype, old, new),
        4 => compare_words::<u32>(dtype, old, new),
        _ => compare_words::<u64>(dtype, old, new),
    })
}

fn compare_words<W: Word>(dtype: Dtype, old: &[u8], new: &[u8]) -> Comparison {
    let layout = dtype.layout();
    old.par_chunks(dtype.tile_bytes())
        .zip(new.par_chunks(dtype.tile_bytes()))
        .map(|(old, new)| {
            let mut total = Comparison::default();
            for i in 0..old.len() / W::BYTES {
                let (a, b) = (W::load(old, i), W::load(new, i));
                total.elems += 1;
                if a != b {
                    total.changed += 1;
                    total.max_ulp = total.max_ulp.max(residual(b, a, layout).magnitude);
                }
                let (a, b) = (value(a.widen(), dtype), value(b.widen(), dtype));
                if a.is_finite() && b.is_finite() {
                    total.squared_distance += (b - a) * (b - a);
                    total.squared_norm += a * a;
                }
            }
            total
        })
        .collect::<Vec<_>>()
        .into_iter()
        // In order, so that the sums do not depend on the threads.
        .fold(Comparison::default(), Comparison::plus)
}

/// The number that the bits of one coded element stand for; packed sub-byte elements count as their byte.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each dtype's bits fit its own width"
)]
fn value(bits: u64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::BF16 => bf16::from_bits(bits as u16).to_f64(),
        Dtype::F16 => f16::from_bits(bits as u16).to_f64(),
        Dtype::F32 | Dtype::C64 => f32::from_bits(bits as u32).into(),
        Dtype::F64 => f64::from_bits(bits),
        Dtype::I8 => (bits as u8).cast_signed().into(),
        Dtype::I16 => (bits as u16).cast_signed().into(),
        Dtype::I32 => (bits as u32).cast_signed().into(),
        Dtype::I64 => bits.cast_signed() as f64,
        Dtype::F8E4M3 if bits & 0x7f == 0x7f => f64::NAN,
        Dtype::F8E4M3 => small_float(bits, 4, 3, 7),
        Dtype::F8E5M2 if bits & 0x7c == 0x7c => f64::NAN,
        Dtype::F8E5M2 => small_float(bits, 5, 2, 15),
        Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz if bits == 0x80 => f64::NAN,
        Dtype::F8E4M3Fnuz => small_float(bits, 4, 3, 8),
        Dtype::F8E5M2Fnuz => small_float(bits, 5, 2, 16),
        Dtype::F8E8M0 if bits == 0xff => f64::NAN,
        Dtype::F8E8M0 => 2f64.powi(bits as i32 - 127),
        _ => bits as f64,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an exponent field of at most five bits"
)]
fn small_float(bits: u64, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let exponent = (bits >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let mantissa = (bits & ((1 << mantissa_bits) - 1)) as f64 / f64::from(1 << mantissa_bits);
    let size = match exponent {
        0 => mantissa * 2f64.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
    };
    if bits >> (exponent_bits + mantissa_bits) & 1 == 1 {
        -size
    } else {
        size
    }
}

/// Whether distances of this dtype are in ulps (floats) or in units (integers).
pub fn counts_ulps(dtype: Dtype) -> bool {
    matches!(dtype.layout(), Layout::Float { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the figures are those of arithmetic on the values.
    #[test]
    fn figures_are_right() -> Result<()> {
        let bytes = |v: [f32; 4]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let old = bytes([1.0, 2.0, 2.0, f32::NAN]);
        let new = bytes([1.0, 2.5, f32::from_bits(2.0f32.to_bits() + 3), f32::NAN]);
        let c = compare(Dtype::F32, &old, &new)?;
        assert_eq!((c.elems, c.changed, c.max_ulp), (4, 2, 1 << 21));
        assert!((c.relative_l2() - 0.5 / 3.0).abs() < 1e-6);
        assert!(compare(Dtype::F32, &old, &new[..4]).is_err());
        assert_eq!(value(0x38, Dtype::F8E4M3), 1.0);
        assert_eq!(value(0xbc, Dtype::F8E5M2), -1.0);
        assert_eq!(value(0x01, Dtype::F8E4M3), 2f64.powi(-9));
        Ok(())
    }
}
