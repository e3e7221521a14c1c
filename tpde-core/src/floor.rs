//! What an ideal adaptive code would pay for a slice: the mark that `explain` and the size tests measure against.
//!
//! Nothing here is on a coded path: floats may be used as floats.
//!
//! Symbols of one class of the base's exponent are predicted from those before them (Dirichlet, α = 0.05, over the symbols
//! that occur and two more), so the code pays for learning its tables and for nothing else: no headers, no restarts, no
//! rounding of probabilities. Residuals beyond 128 ulps are a bit length and raw bits.

use crate::classes::Classes;
use crate::constants::MAX_CLASSES;
use crate::dtype::Layout;
use crate::error::Result;
use crate::frame::{Base, Given, Slice, check_slice, fit_classes};
use crate::ordinal::{Residual, Word};
use crate::tile::{Against, Relation, fresh, virtual_base};
use rayon::prelude::*;
use std::collections::HashMap;

const ALPHA: f64 = 0.05;
/// Magnitudes below this are symbols of their own.
const DIRECT: u64 = 128;

/// Counts of signed symbols by class, and raw bits beside them.
#[derive(Default)]
struct Counted {
    symbols: HashMap<(u8, i32), u64>,
    raw_bits: u64,
    /// Whether all of it can be coded so.
    codable: bool,
}

impl Counted {
    fn plus(mut self, other: Self) -> Self {
        for (symbol, count) in other.symbols {
            *self.symbols.entry(symbol).or_default() += count;
        }
        self.raw_bits += other.raw_bits;
        self.codable &= other.codable;
        self
    }

    fn bits(&self) -> f64 {
        if !self.codable {
            return f64::INFINITY;
        }
        let mut by_class: Vec<Vec<u64>> = vec![Vec::new(); MAX_CLASSES];
        for (&(class, _), &count) in &self.symbols {
            by_class[usize::from(class)].push(count);
        }
        by_class.iter().map(|counts| adaptive_bits(counts)).sum::<f64>() + self.raw_bits as f64
    }
}

/// What the adaptive code pays for symbols that occur so often, whatever their order.
fn adaptive_bits(counts: &[u64]) -> f64 {
    let alphabet = ALPHA * (counts.len() + 2) as f64;
    let total: u64 = counts.iter().sum();
    let symbols: f64 = counts
        .iter()
        .map(|&n| ln_gamma(n as f64 + ALPHA) - ln_gamma(ALPHA))
        .sum();
    (ln_gamma(total as f64 + alphabet) - ln_gamma(alphabet) - symbols) / std::f64::consts::LN_2
}

/// ln Γ(x) for x > 0: Stirling's series above 10, the recurrence below.
fn ln_gamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 10.0 {
        below += x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - below
}

/// Bytes that an ideal adaptive code pays for a slice, the cheaper of coding it against its base and alone.
///
/// * `bytes`, `base`, `given`: as for [`encode_frame`](crate::encode_frame).
///
/// # Errors
/// `Invalid` if lengths or dtypes do not fit: a bug in the caller.
///
/// Cost: one pass over the slice, slower than encoding it.
pub fn floor_bytes(
    slice: Slice,
    bytes: &[u8],
    base: Option<Base<'_>>,
    given: Option<Given<'_>>,
) -> Result<f64> {
    check_slice(slice, bytes, base.map(|b| b.bytes), given)?;
    let bits = match slice.dtype.word_bytes() {
        1 => bits::<u8>(slice, bytes, base, given),
        2 => bits::<u16>(slice, bytes, base, given),
        4 => bits::<u32>(slice, bytes, base, given),
        _ => bits::<u64>(slice, bytes, base, given),
    };
    Ok(bits / 8.0)
}

fn bits<W: Word>(slice: Slice, bytes: &[u8], base: Option<Base<'_>>, given: Option<Given<'_>>) -> f64 {
    let layout = slice.dtype.layout();
    let scale = given.filter(|g| g.relation == Relation::Scale);
    let scale_classes = scale.map(|g| fit_classes::<W>(g.bytes, slice.dtype));
    let is_float = matches!(layout, Layout::Float { .. });
    let alone = count(bytes.len() / W::BYTES, |counted, i| {
        if W::BYTES == 1 && !is_float {
            // A byte is a symbol as it is.
            counted.add(0, bytes[i].into(), 0, true);
            return true;
        }
        let (number, _, raw_bits) = fresh::split(W::load(bytes, i), 0, layout);
        counted.raw_bits += u64::from(raw_bits);
        let class = match (scale_classes, scale) {
            (Some(classes), Some(given)) => classes.of(W::load(given.bytes, i), layout),
            _ => 0,
        };
        counted.add(class, number, 0, is_float);
        true
    })
    .bits();
    let relation = given.map(|g| g.relation).filter(|&r| r != Relation::Scale);
    if base.is_none() && relation.is_none() {
        return alone;
    }
    let mut made = Vec::new();
    let against = match (relation, given) {
        (Some(relation), Some(given)) => {
            made.resize(bytes.len(), 0);
            virtual_base(relation, base.map(|b| b.bytes), given.bytes, layout, &mut made);
            Against::related(Some(relation), &made, given.bytes, layout)
        }
        _ => Against::plain(base.map_or(bytes, |b| b.bytes), layout),
    };
    let classes: Classes = fit_classes::<W>(against.base, slice.dtype);
    let delta = count(bytes.len() / W::BYTES, |counted, i| {
        let Some(Residual { magnitude, sign }) = against.residual(i, W::load(bytes, i)) else {
            return false;
        };
        counted.add(
            classes.of(W::load(against.base, i), layout),
            magnitude,
            sign,
            false,
        );
        true
    })
    .bits();
    alone.min(delta)
}

impl Counted {
    /// Adds a number: itself if it is small or `whole`, else its bit length and raw bits.
    fn add(&mut self, class: usize, number: u64, sign: u64, whole: bool) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "exponents, small numbers and bit lengths"
        )]
        let (symbol, class) = (number.min(u64::from(u16::MAX)) as i32, class as u8);
        let symbol = if number < DIRECT || whole {
            if sign == 1 { -symbol } else { symbol }
        } else {
            let log2 = number.ilog2();
            self.raw_bits += u64::from(log2) + 1;
            i32::from(i16::MAX) + log2.cast_signed()
        };
        *self.symbols.entry((class, symbol)).or_default() += 1;
    }
}

/// Counts all elements, in parallel.
fn count(elems: usize, add: impl Fn(&mut Counted, usize) -> bool + Sync) -> Counted {
    const PART: usize = 1 << 16;
    let codable = || Counted {
        codable: true,
        ..Counted::default()
    };
    (0..elems.div_ceil(PART))
        .into_par_iter()
        .map(|part| {
            let mut counted = codable();
            for i in part * PART..elems.min((part + 1) * PART) {
                counted.codable &= add(&mut counted, i);
            }
            counted
        })
        .reduce(codable, Counted::plus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::id::TensorId;

    /// Promise: no byte costs more than eight bits and a little for learning, whatever its type; four values cost two.
    #[test]
    fn bytes_of_integers() {
        let mut rng = 1u64;
        let mut dice = || {
            rng = rng
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33).to_le_bytes()[0]
        };
        let any: Vec<u8> = (0..100_000).map(|_| dice()).collect();
        let four: Vec<u8> = any.iter().map(|b| 128 + b % 4).collect();
        for dtype in [Dtype::U8, Dtype::I8] {
            let floor = |bytes: &[u8]| {
                let slice = Slice {
                    dtype,
                    total_elems: bytes.len() as u64,
                    index: 0,
                };
                floor_bytes(slice, bytes, None, None).unwrap()
            };
            assert!((99_000.0..101_000.0).contains(&floor(&any)));
            assert!((24_900.0..25_400.0).contains(&floor(&four)));
        }
    }

    /// Promise: the floor of fair coins is a bit each and a little for learning; of constants next to nothing.
    #[test]
    fn coins_and_constants() {
        let coins = adaptive_bits(&[500_000, 500_000]);
        assert!((1_000_000.0..1_000_030.0).contains(&coins), "{coins}");
        assert!(adaptive_bits(&[1_000_000]) < 4.0);
        for (x, want) in [
            (1.0f64, 0.0),
            (0.5, 0.572_364_942_924_7),
            (5.0, 24f64.ln()),
            (100.0, 359.134_205_369_575),
        ] {
            assert!((ln_gamma(x) - want).abs() < 1e-9, "{x}");
        }
    }

    /// Promise: no frame of a large slice is smaller than the floor by more than what the tables' contexts allow, and none is
    /// far above it.
    #[test]
    fn frames_are_near_the_floor() {
        let base: Vec<u8> = (0..300_000u32)
            .flat_map(|i| (0x3c00 + (i.wrapping_mul(2_654_435_761) >> 22) as u16).to_le_bytes())
            .collect();
        let new: Vec<u8> = base
            .chunks(2)
            .enumerate()
            .flat_map(|(i, w)| {
                let dice = (i as u32 ^ 0x5bd1_e995)
                    .wrapping_mul(0x9e37_79b9)
                    .rotate_left(13)
                    .wrapping_mul(0x85eb_ca6b)
                    >> 24;
                let word = u16::from_le_bytes([w[0], w[1]]);
                match dice {
                    0..8 => word + 1,
                    8..16 => word - 1,
                    _ => word,
                }
                .to_le_bytes()
            })
            .collect();
        let slice = Slice {
            dtype: Dtype::BF16,
            total_elems: 300_000,
            index: 0,
        };
        let base = Some(Base {
            id: TensorId::from_bytes([1; 32]),
            bytes: &base,
        });
        for base in [base, None] {
            let floor = floor_bytes(slice, &new, base, None).unwrap();
            let frame = crate::encode_frame(slice, &new, base, None).unwrap().bytes.len() as f64;
            assert!((0.97..1.06).contains(&(frame / floor)), "{frame} {floor}");
        }
    }
}
