//! What a vector variant needs to know of a frame, in the form in which it looks it up.

use crate::classes::{ClassMap, Classes};
use crate::constants::MAX_CLASSES;
use crate::dtype::Layout;
use crate::rans::table::DecodeEntry;
use crate::token::TokenShape;

/// Floats of 16 bits: where their exponent lies, and which class it gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floats16 {
    pub(super) mantissa_bits: u32,
    /// The class origin, or the lowest one above which every exponent is of the last class.
    pub(super) origin: u32,
}

impl Floats16 {
    /// BF16 and F16; other words have no vector variant.
    pub(crate) fn of(layout: Layout, classes: Classes) -> Option<Self> {
        match layout {
            Layout::Float {
                exponent_bits,
                mantissa_bits: mantissa_bits @ (7 | 10),
            } if exponent_bits + mantissa_bits == 15 => Some(Self {
                mantissa_bits,
                // Fits the 16 bits of a word above the mantissa, and lies at least 15 above every exponent.
                origin: classes.origin.min((2 << exponent_bits) - 1),
            }),
            _ => None,
        }
    }
}

/// What SPARSE looks up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sparse16<'a> {
    pub(crate) floats: Floats16,
    /// Change probability by class, in 1/65536.
    pub(crate) odds: [u16; MAX_CLASSES],
    pub(crate) magnitudes: Option<TokenLookup<'a>>,
}

/// One set of token tables as a lookup: `entries[offsets[class] + slot]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenLookup<'a> {
    pub(super) shape: TokenShape,
    pub(super) prob_bits: u32,
    pub(super) offsets: [u32; MAX_CLASSES],
    pub(super) entries: &'a [DecodeEntry],
}

impl<'a> TokenLookup<'a> {
    /// * `entries`: those of all tables, one table of `2^prob_bits` after another.
    ///
    /// `None` if a class has no table there: then there is nothing to look up.
    pub(crate) fn new(
        shape: TokenShape,
        map: &ClassMap,
        prob_bits: u32,
        entries: &'a [DecodeEntry],
    ) -> Option<Self> {
        let offsets = map.table_of.map(|table| u32::from(table) << prob_bits);
        let fit = |&offset: &u32| (offset as usize + (1 << prob_bits)) <= entries.len();
        offsets.iter().all(fit).then_some(Self {
            shape,
            prob_bits,
            offsets,
            entries,
        })
    }
}
