//! What a tile is coded against: its base, or what a *given* tensor makes of it (docs/format.md §4.9).
//!
//! ```text
//! plain     base
//! rounded   an f32 given its bf16 rounding lies in a cell of 2^16 ulps: only the place in the cell is coded
//! cast      a bf16 against the rounding of the f32 given: normally nothing is left to code
//! ```

use crate::dtype::{Dtype, Layout};
use crate::error::{Result, corrupt};
use crate::ordinal::{Residual, Word, apply, from_ordinal, residual, to_ordinal};

/// How a tensor relates to the one that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Relation {
    /// The tensor is F32, the given one BF16: its rounding to nearest (a master and its weight).
    Rounded = 1,
    /// Both have the same float dtype, the given one tells the scale (a first moment and its second).
    Scale = 2,
    /// The tensor is BF16, the given one F32: the tensor is normally its rounding to nearest (a weight and its master).
    Cast = 3,
}

impl Relation {
    /// All relations, by code.
    pub const ALL: [Self; 3] = [Self::Rounded, Self::Scale, Self::Cast];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&r| r as u8 == code)
    }

    /// Whether a tensor of `dtype` can stand in this relation.
    pub fn fits(self, dtype: Dtype) -> bool {
        match self {
            Self::Rounded => dtype == Dtype::F32,
            Self::Cast => dtype == Dtype::BF16,
            Self::Scale => matches!(dtype.layout(), Layout::Float { .. }),
        }
    }

    /// The dtype of the tensor that is given to one of `dtype`.
    pub fn given_dtype(self, dtype: Dtype) -> Dtype {
        match self {
            Self::Rounded => Dtype::BF16,
            Self::Cast => Dtype::F32,
            Self::Scale => dtype,
        }
    }

    /// Lower-case name, as in the documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rounded => "rounded",
            Self::Scale => "scale",
            Self::Cast => "cast",
        }
    }

    /// Bits of a magnitude under this relation, for words of `width` bits.
    pub(crate) fn magnitude_width(relation: Option<Self>, width: u32) -> u32 {
        match relation {
            Some(Self::Rounded) => CELL_BITS,
            _ => width,
        }
    }
}

/// log2 of the f32 ordinals that round to one bf16.
const CELL_BITS: u32 = 16;
const HALF_CELL: i64 = 1 << (CELL_BITS - 1);
/// Ordinals of a cell, both ends included.
const CELL: i64 = (1 << CELL_BITS) + 1;

/// What one tile is coded against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Against<'a> {
    /// Words of the tile's own width: the base, virtual where the relation says so.
    pub(crate) base: &'a [u8],
    /// The given tile, with [`Relation::Rounded`].
    rounding: Option<&'a [u8]>,
    layout: Layout,
}

impl<'a> Against<'a> {
    /// The base as it is.
    pub(crate) fn plain(base: &'a [u8], layout: Layout) -> Self {
        Self {
            base,
            rounding: None,
            layout,
        }
    }

    /// `base` is the virtual one, of [`virtual_base`].
    pub(crate) fn related(
        relation: Option<Relation>,
        base: &'a [u8],
        given: &'a [u8],
        layout: Layout,
    ) -> Self {
        Self {
            base,
            rounding: (relation == Some(Relation::Rounded)).then_some(given),
            layout,
        }
    }

    /// The way from the base to `new`, element `i`; `None` outside the cell.
    #[inline(always)]
    pub(crate) fn residual<W: Word>(&self, i: usize, new: W) -> Option<Residual> {
        let base = W::load(self.base, i);
        let Some(given) = self.rounding else {
            return Some(residual(new, base, self.layout));
        };
        let centre = centre(u16::load(given, i), self.layout);
        let ordinal = signed(new, self.layout);
        if (ordinal - centre).abs() > HALF_CELL {
            return None;
        }
        let mut d = ordinal - signed(base, self.layout);
        if d > HALF_CELL {
            d -= CELL;
        } else if d < -HALF_CELL {
            d += CELL;
        }
        Some(Residual {
            magnitude: d.unsigned_abs(),
            sign: u64::from(d < 0),
        })
    }

    /// Inverse of [`Against::residual`].
    ///
    /// # Errors
    /// `Corrupt` if the magnitude is one that no residual has.
    #[inline(always)]
    pub(crate) fn apply<W: Word>(&self, i: usize, residual: Residual) -> Result<W> {
        let base = W::load(self.base, i);
        let Some(given) = self.rounding else {
            if residual.magnitude > 1 << (W::BITS - 1) {
                return Err(too_far(residual.magnitude, W::BITS));
            }
            return Ok(apply(base, residual, self.layout));
        };
        let centre = centre(u16::load(given, i), self.layout);
        let Some(magnitude) = i64::try_from(residual.magnitude).ok().filter(|&m| m <= HALF_CELL) else {
            return Err(too_far(residual.magnitude, CELL_BITS));
        };
        let mut y = signed(base, self.layout) + if residual.sign == 1 { -magnitude } else { magnitude };
        if y < centre - HALF_CELL {
            y += CELL;
        } else if y > centre + HALF_CELL {
            y -= CELL;
        }
        Ok(from_ordinal(W::narrow(y.cast_unsigned()), self.layout))
    }
}

#[cold]
fn too_far(magnitude: u64, bits: u32) -> crate::error::CodecError {
    corrupt("residual", format!("{magnitude} ulps in {bits} bits"))
}

/// The ordinal of an f32 as a signed number.
#[inline(always)]
fn signed<W: Word>(word: W, layout: Layout) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "f32 words are narrow")]
    let ordinal = to_ordinal(word, layout).widen() as u32;
    i64::from(ordinal.cast_signed())
}

/// The ordinal in the middle of the cell that rounds to `given`.
#[inline(always)]
fn centre(given: u16, layout: Layout) -> i64 {
    signed(u32::from(given) << 16, layout)
}

/// Turns a tile of a base into the virtual base that `relation` makes of it and of the `given` tile.
///
/// * `base`: the base tile, or `None` in an anchor; not read under [`Relation::Cast`].
/// * `out`: overwritten.
pub(crate) fn virtual_base(
    relation: Relation,
    base: Option<&[u8]>,
    given: &[u8],
    layout: Layout,
    out: &mut [u8],
) {
    match relation {
        Relation::Rounded => {
            for i in 0..out.len() / 4 {
                let centre = centre(u16::load(given, i), layout);
                let ordinal = base.map_or(centre, |base| {
                    let from_low = signed(u32::load(base, i), layout) - (centre - HALF_CELL);
                    centre - HALF_CELL + (from_low & ((1 << CELL_BITS) - 1))
                });
                from_ordinal(u32::narrow(ordinal.cast_unsigned()), layout).store(out, i);
            }
        }
        Relation::Cast => {
            for i in 0..out.len() / 2 {
                round_to_bf16(u32::load(given, i)).store(out, i);
            }
        }
        Relation::Scale => match base {
            Some(base) => out.copy_from_slice(base),
            None => out.fill(0),
        },
    }
}

/// Rounds the bits of an f32 to nearest, ties to even; NaNs are bits like any other.
#[inline(always)]
fn round_to_bf16(word: u32) -> u16 {
    (word.wrapping_add(0x7fff + (word >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: an f32 comes back from its place in the cell of its rounding, whatever the base; magnitudes fit.
        #[test]
        fn a_master_comes_back(new in any::<f32>(), base in any::<u32>(), anchor in any::<bool>(), near in -70_000i32..70_000) {
            prop_assume!(!new.is_nan());
            let layout = Dtype::F32.layout();
            let given = half::bf16::from_f32(new).to_le_bytes();
            for base in [base, new.to_bits().wrapping_add_signed(near)] {
                let base = base.to_le_bytes();
                let mut virt = [0; 4];
                virtual_base(Relation::Rounded, (!anchor).then_some(&base), &given, layout, &mut virt);
                let against = Against::related(Some(Relation::Rounded), &virt, &given, layout);
                let d = against.residual(0, new.to_bits()).unwrap();
                prop_assert!(d.magnitude <= 1 << 15);
                prop_assert_eq!(against.apply::<u32>(0, d).unwrap(), new.to_bits());
            }
        }

        /// Promise: the cast is what rounding to nearest even gives.
        #[test]
        fn a_weight_is_its_masters_rounding(master in any::<f32>()) {
            prop_assume!(!master.is_nan());
            prop_assert_eq!(round_to_bf16(master.to_bits()), half::bf16::from_f32(master).to_bits());
        }
    }

    /// Promise: small steps stay small, also across the edge of a cell.
    #[test]
    fn small_steps_stay_small() {
        let layout = Dtype::F32.layout();
        for value in [1.0f32, -1.0, 1.003_906_2, 3.1e-20, -7.5] {
            for step in -40_000i32..=40_000 {
                let new = f32::from_bits(value.to_bits().wrapping_add_signed(step));
                let given = half::bf16::from_f32(new).to_le_bytes();
                let base = value.to_bits().to_le_bytes();
                let mut virt = [0; 4];
                virtual_base(Relation::Rounded, Some(&base), &given, layout, &mut virt);
                let against = Against::related(Some(Relation::Rounded), &virt, &given, layout);
                let d = against.residual(0, new.to_bits()).unwrap();
                assert!(
                    d.magnitude <= u64::from(step.unsigned_abs()) + 1,
                    "{value} {step} {d:?}"
                );
                assert_eq!(against.apply::<u32>(0, d).unwrap(), new.to_bits());
            }
        }
    }
}
