//! Element types, and how their bits split into sign, exponent and mantissa.

use crate::error::{CodecError, Result};

/// What the bits of one coded element mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// IEEE-like float: sign bit on top, then the exponent, then the mantissa.
    Float {
        /// Width of the exponent field.
        exponent_bits: u32,
        /// Width of the mantissa field.
        mantissa_bits: u32,
    },
    /// Two's-complement integer.
    Signed,
    /// Unsigned integer, or bits without arithmetic meaning.
    Unsigned,
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $bits:literal, $layout:expr;)*) => {
        /// Element type of a tensor: every one that safetensors knows.
        ///
        /// Sub-byte types are coded as bytes; complex ones as pairs of floats.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Dtype { $($(#[$doc])* $name = $code,)* }

        impl Dtype {
            /// All element types, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The byte that names this type in a frame and a manifest.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Inverse of [`Dtype::code`].
            ///
            /// # Errors
            /// `Unsupported` for a code that a newer format added.
            pub fn from_code(code: u8) -> Result<Self> {
                match code {
                    $($code => Ok(Self::$name),)*
                    _ => Err(CodecError::Unsupported {
                        what: "dtype code",
                        found: code.into(),
                        known: Self::ALL.len() as u64 - 1,
                    }),
                }
            }

            /// The name as safetensors writes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Inverse of [`Dtype::name`].
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }

            /// Width of one element of the tensor's shape, in bits.
            pub const fn shape_bits(self) -> u64 {
                match self { $(Self::$name => $bits,)* }
            }

            /// Width of one *coded* element, in bytes: 1, 2, 4 or 8. Shapes do not matter to the codec.
            pub const fn word_bytes(self) -> usize {
                match self {
                    Self::C64 => 4,
                    _ => match self.shape_bits() {
                        64 => 8,
                        32 => 4,
                        16 => 2,
                        _ => 1,
                    },
                }
            }

            /// What the bits of one coded element mean.
            pub const fn layout(self) -> Layout {
                match self { $(Self::$name => $layout,)* }
            }
        }
    };
}

const fn float(exponent_bits: u32, mantissa_bits: u32) -> Layout {
    Layout::Float {
        exponent_bits,
        mantissa_bits,
    }
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = 0, "BOOL", 8, Layout::Unsigned;
    /// Unsigned 8-bit integer.
    U8 = 1, "U8", 8, Layout::Unsigned;
    /// Signed 8-bit integer.
    I8 = 2, "I8", 8, Layout::Signed;
    /// 8-bit float, 5 exponent bits.
    F8E5M2 = 3, "F8_E5M2", 8, float(5, 2);
    /// 8-bit float, 4 exponent bits.
    F8E4M3 = 4, "F8_E4M3", 8, float(4, 3);
    /// 8-bit power-of-two scale.
    F8E8M0 = 5, "F8_E8M0", 8, Layout::Unsigned;
    /// Signed 16-bit integer.
    I16 = 6, "I16", 16, Layout::Signed;
    /// Unsigned 16-bit integer.
    U16 = 7, "U16", 16, Layout::Unsigned;
    /// IEEE half precision.
    F16 = 8, "F16", 16, float(5, 10);
    /// bfloat16.
    BF16 = 9, "BF16", 16, float(8, 7);
    /// Signed 32-bit integer.
    I32 = 10, "I32", 32, Layout::Signed;
    /// Unsigned 32-bit integer.
    U32 = 11, "U32", 32, Layout::Unsigned;
    /// IEEE single precision.
    F32 = 12, "F32", 32, float(8, 23);
    /// Signed 64-bit integer.
    I64 = 13, "I64", 64, Layout::Signed;
    /// Unsigned 64-bit integer.
    U64 = 14, "U64", 64, Layout::Unsigned;
    /// IEEE double precision.
    F64 = 15, "F64", 64, float(11, 52);
    /// Complex of two IEEE singles.
    C64 = 16, "C64", 64, float(8, 23);
    /// 4-bit float, two a byte.
    F4 = 17, "F4", 4, Layout::Unsigned;
    /// 6-bit float with 2 exponent bits, packed.
    F6E2M3 = 18, "F6_E2M3", 6, Layout::Unsigned;
    /// 6-bit float with 3 exponent bits, packed.
    F6E3M2 = 19, "F6_E3M2", 6, Layout::Unsigned;
    /// 8-bit float, 4 exponent bits, no infinities, no negative zero.
    F8E4M3Fnuz = 20, "F8_E4M3FNUZ", 8, float(4, 3);
    /// 8-bit float, 5 exponent bits, no infinities, no negative zero.
    F8E5M2Fnuz = 21, "F8_E5M2FNUZ", 8, float(5, 2);
}

impl Dtype {
    /// Bytes of one whole tile.
    pub const fn tile_bytes(self) -> usize {
        self.word_bytes() * crate::constants::TILE_ELEMS
    }

    /// Elements of one whole slice: the most that one frame holds.
    pub const fn slice_elems(self) -> usize {
        let fitting = crate::constants::SLICE_BYTES / self.word_bytes();
        if fitting < crate::constants::SLICE_ELEMS {
            fitting
        } else {
            crate::constants::SLICE_ELEMS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: codes and names are two spellings of one type, and fields fill the word.
    #[test]
    fn codes_names_and_fields_agree() {
        for (i, &dtype) in Dtype::ALL.iter().enumerate() {
            assert_eq!(dtype.code() as usize, i);
            assert_eq!(Dtype::from_code(dtype.code()), Ok(dtype));
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            if let Layout::Float {
                exponent_bits,
                mantissa_bits,
            } = dtype.layout()
            {
                assert_eq!(
                    (1 + exponent_bits + mantissa_bits) as usize,
                    8 * dtype.word_bytes(),
                    "{dtype:?}"
                );
            }
        }
        assert!(Dtype::from_code(200).is_err());
    }
}
