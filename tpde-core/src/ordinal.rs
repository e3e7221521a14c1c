//! Ordinals: the float's bits as an integer that orders as the float does, and residuals between them.
//!
//! A sign-magnitude float becomes a two's-complement integer; neighbouring floats become neighbouring integers, so
//! the difference of two ordinals counts the representable numbers between them (ulps). The map is a bijection on bits:
//! NaN payloads and −0 (which maps to −1) survive.

use crate::dtype::Layout;

/// An unsigned machine word of the width of one coded element.
pub(crate) trait Word: Copy + Eq + Send + Sync + 'static {
    /// Width in bytes.
    const BYTES: usize;
    /// Width in bits.
    const BITS: u32;

    /// Reads the word at element `index` of little-endian `bytes`.
    fn load(bytes: &[u8], index: usize) -> Self;
    /// Writes the word at element `index` of little-endian `bytes`.
    fn store(self, bytes: &mut [u8], index: usize);
    /// Zero-extends.
    fn widen(self) -> u64;
    /// Keeps the low bits.
    fn narrow(wide: u64) -> Self;
    /// Modular sum.
    fn add(self, other: Self) -> Self;
    /// Modular difference.
    fn sub(self, other: Self) -> Self;
    /// All ones if the top bit is set, else zero.
    fn sign_mask(self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Everything but the top bit.
    fn below_sign(self) -> Self;
}

macro_rules! word {
    ($unsigned:ty, $signed:ty) => {
        impl Word for $unsigned {
            const BYTES: usize = size_of::<$unsigned>();
            const BITS: u32 = <$unsigned>::BITS;

            #[inline(always)]
            fn load(bytes: &[u8], index: usize) -> Self {
                let at = index * Self::BYTES;
                let mut word = [0u8; size_of::<$unsigned>()];
                word.copy_from_slice(&bytes[at..at + Self::BYTES]);
                Self::from_le_bytes(word)
            }
            #[inline(always)]
            fn store(self, bytes: &mut [u8], index: usize) {
                let at = index * Self::BYTES;
                bytes[at..at + Self::BYTES].copy_from_slice(&self.to_le_bytes());
            }
            #[inline(always)]
            fn widen(self) -> u64 {
                self.into()
            }
            #[inline(always)]
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the low bits are asked for; 64 have none to lose"
            )]
            fn narrow(wide: u64) -> Self {
                wide as Self
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn sign_mask(self) -> Self {
                (self.cast_signed() >> (Self::BITS - 1)).cast_unsigned()
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline(always)]
            fn below_sign(self) -> Self {
                self & (Self::MAX >> 1)
            }
        }
    };
}

word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

/// The ordinal of `bits`.
///
/// Floats: sign-magnitude to two's complement. Integers: themselves (wrapping differences need no order).
#[inline(always)]
pub(crate) fn to_ordinal<W: Word>(bits: W, layout: Layout) -> W {
    match layout {
        Layout::Float { .. } => bits.xor(bits.sign_mask().below_sign()),
        Layout::Signed | Layout::Unsigned => bits,
    }
}

/// Inverse of [`to_ordinal`]; the map is its own inverse.
#[inline(always)]
pub(crate) fn from_ordinal<W: Word>(ordinal: W, layout: Layout) -> W {
    to_ordinal(ordinal, layout)
}

/// A residual split into its magnitude in ulps and its sign (1: downwards).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Residual {
    /// Distance in ulps, at most 2^(width − 1).
    pub(crate) magnitude: u64,
    /// 1 if the new value is below the base, else 0.
    pub(crate) sign: u64,
}

/// The way from `base` to `new`, modulo the width of the format.
#[inline(always)]
pub(crate) fn residual<W: Word>(new: W, base: W, layout: Layout) -> Residual {
    let difference = to_ordinal(new, layout).sub(to_ordinal(base, layout));
    let mask = difference.sign_mask();
    let magnitude = difference.xor(mask).sub(mask);
    Residual {
        magnitude: magnitude.widen(),
        sign: mask.widen() & 1,
    }
}

/// Inverse of [`residual`]: the word that lies `residual` away from `base`.
#[inline(always)]
pub(crate) fn apply<W: Word>(base: W, residual: Residual, layout: Layout) -> W {
    let mask = W::narrow(residual.sign.wrapping_neg());
    let difference = W::narrow(residual.magnitude).xor(mask).sub(mask);
    from_ordinal(to_ordinal(base, layout).add(difference), layout)
}

/// The exponent of a float, or the bit length of an integer's magnitude: what decides how likely a change is.
#[inline(always)]
pub(crate) fn exponent<W: Word>(bits: W, layout: Layout) -> u32 {
    match layout {
        Layout::Float {
            exponent_bits,
            mantissa_bits,
        } => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an exponent field has at most 11 bits"
            )]
            let field = (bits.widen() >> mantissa_bits) as u32;
            field & ((1 << exponent_bits) - 1)
        }
        Layout::Signed => 64 - bits.xor(bits.sign_mask()).widen().leading_zeros(),
        Layout::Unsigned => 64 - bits.widen().leading_zeros(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    /// Promise: residual and apply are inverse for every pair of 8-bit words of every layout.
    #[test]
    fn all_pairs_of_bytes() {
        for layout in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::I8, Dtype::U8].map(Dtype::layout) {
            for base in 0..=u8::MAX {
                for new in 0..=u8::MAX {
                    assert_eq!(apply(base, residual(new, base, layout), layout), new);
                }
            }
        }
    }

    /// Promise: ordinals order as the floats do, and −0 stays apart from 0.
    #[test]
    fn ordinals_keep_the_order() {
        let layout = Dtype::F32.layout();
        let values = [
            -f32::INFINITY,
            -2.0,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            -0.0,
            0.0,
            1e-45,
            0.5,
            f32::INFINITY,
        ];
        let ordinals = values.map(|v| to_ordinal(v.to_bits(), layout).cast_signed());
        assert!(ordinals.is_sorted_by(|a, b| a < b), "{ordinals:?}");
        assert_eq!(
            residual(0u32, 0x8000_0000, layout),
            Residual {
                magnitude: 1,
                sign: 0
            }
        );
    }
}
