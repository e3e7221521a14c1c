//! Tokens: a wide number as a small symbol and raw low bits.
//!
//! Numbers below `2^direct` are their own symbol. Above, a symbol names the bit length and the `top` bits below the leading
//! one; the remaining low bits, which are nearly uniform, follow raw. With `direct = 2, top = 1`:
//!
//! ```text
//! number  0  1  2  3  4-5  6-7  8-11  12-15  16-23 …
//! symbol  0  1  2  3   4    5     6      7      8  …
//! raw     0  0  0  0   1    1     2      2      3  …  bits
//! ```

use crate::constants::MAX_SYMBOLS;
use crate::error::{Result, corrupt};
use crate::wire::{Reader, Writer};

/// How numbers of up to `width` bits become symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenShape {
    direct: u32,
    top: u32,
    width: u32,
}

/// A symbol, and the low bits that it leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) symbol: u32,
    pub(crate) raw: u64,
    pub(crate) raw_bits: u32,
}

impl TokenShape {
    /// A shape, if it is one: `top ≤ direct ≤ width` and at most 256 symbols.
    pub(crate) fn new(direct: u32, top: u32, width: u32) -> Option<Self> {
        let shape = Self { direct, top, width };
        (direct <= 8 && top <= direct && direct <= width && shape.symbols() <= MAX_SYMBOLS).then_some(shape)
    }

    /// The shape that this encoder uses for magnitudes of `width` bits.
    pub(crate) fn for_magnitudes(width: u32) -> Self {
        let (direct, top) = match width {
            ..=8 => (7, 0),
            9..=16 => (5, 2),
            17..=32 => (4, 2),
            _ => (4, 1),
        };
        Self {
            direct: direct.min(width),
            top,
            width,
        }
    }

    /// Direct bits, top bits and width.
    pub(crate) fn parts(self) -> (u32, u32, u32) {
        (self.direct, self.top, self.width)
    }

    /// Size of the alphabet.
    pub(crate) fn symbols(self) -> usize {
        (1usize << self.direct) + ((self.width - self.direct) as usize) * (1usize << self.top)
    }

    /// The token of `number`.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "numbers below 2^direct and top bits are small"
    )]
    pub(crate) fn split(self, number: u64) -> Token {
        if number < 1 << self.direct {
            return Token {
                symbol: number as u32,
                raw: 0,
                raw_bits: 0,
            };
        }
        let log2 = 63 - number.leading_zeros();
        let raw_bits = log2 - self.top;
        let top = (number >> raw_bits) as u32 & ((1 << self.top) - 1);
        let symbol = (1 << self.direct) + ((log2 - self.direct) << self.top) + top;
        Token {
            symbol,
            raw: number & ((1 << raw_bits) - 1),
            raw_bits,
        }
    }

    /// Raw bits that follow `symbol`.
    #[inline(always)]
    pub(crate) fn raw_bits(self, symbol: u32) -> u32 {
        if symbol < 1 << self.direct {
            return 0;
        }
        self.direct + ((symbol - (1 << self.direct)) >> self.top) - self.top
    }

    /// Inverse of [`TokenShape::split`]: `raw` holds [`TokenShape::raw_bits`] bits.
    #[inline(always)]
    pub(crate) fn join(self, symbol: u32, raw: u64) -> u64 {
        if symbol < 1 << self.direct {
            return symbol.into();
        }
        let top = (symbol - (1 << self.direct)) & ((1 << self.top) - 1);
        ((1u64 << self.top) | u64::from(top)) << self.raw_bits(symbol) | raw
    }

    /// Writes the shape as one byte; the width is the dtype's and not repeated.
    #[expect(clippy::cast_possible_truncation, reason = "both are at most 8")]
    pub(crate) fn write(self, w: &mut Writer) {
        w.u8((self.direct | self.top << 4) as u8);
    }

    /// Reads a shape for numbers of `width` bits.
    pub(crate) fn read(r: &mut Reader<'_>, width: u32) -> Result<Self> {
        let byte = r.u8("token shape")?;
        Self::new(u32::from(byte & 15), u32::from(byte >> 4), width)
            .ok_or_else(|| corrupt("token shape", format!("byte {byte:#04x} for {width} bits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: split and join are inverse, symbols stay in the alphabet, for every shape and edge number.
    #[test]
    fn every_shape_every_edge() {
        for width in [4, 7, 8, 11, 16, 32, 64] {
            let most = if width == 64 { u64::MAX } else { (1 << width) - 1 };
            for direct in 0..=8 {
                for top in 0..=direct {
                    let Some(shape) = TokenShape::new(direct, top, width) else {
                        continue;
                    };
                    let edges = (0..64).flat_map(|i| [1u64 << i, (1 << i) - 1, (1 << i) + 1, 3 << i]);
                    for number in (0..600).chain(edges).chain([most]).filter(|&n| n <= most) {
                        let token = shape.split(number);
                        assert!((token.symbol as usize) < shape.symbols());
                        assert_eq!(shape.raw_bits(token.symbol), token.raw_bits);
                        assert_eq!(shape.join(token.symbol, token.raw), number, "{shape:?}");
                    }
                }
            }
        }
    }
}
