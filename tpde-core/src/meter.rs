//! Where the bits of a stream go: what a decoder reports while it decodes, for `explain` and for size tests.

use crate::cost::{bits, log2};

/// What a bit of a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Which elements change (SPARSE).
    Positions,
    /// Symbols of magnitudes (SPARSE, DENSE).
    Magnitudes,
    /// Signs of residuals.
    Signs,
    /// Low bits of wide magnitudes and numbers.
    LowBits,
    /// Symbols of exponents, and of whole integers (FRESH).
    Exponents,
    /// Mantissas with their signs (FRESH).
    Mantissas,
}

impl Kind {
    /// All kinds, in the order of the declaration.
    pub const ALL: [Self; 6] = [
        Self::Positions,
        Self::Magnitudes,
        Self::Signs,
        Self::LowBits,
        Self::Exponents,
        Self::Mantissas,
    ];
}

/// Listens to a decoder.
pub(crate) trait Meter {
    /// Whether anything comes of what is reported; if not, a decoder need not report it.
    const LISTENS: bool;
    /// A symbol with frequency `freq` out of `2^prob_bits`.
    fn symbol(&mut self, kind: Kind, prob_bits: u32, freq: u32);
    /// Bits that no model helps with.
    fn bits(&mut self, kind: Kind, count: u32);
}

/// Listens to nothing, and costs nothing.
pub(crate) struct NoMeter;

impl Meter for NoMeter {
    const LISTENS: bool = false;

    #[inline(always)]
    fn symbol(&mut self, _: Kind, _: u32, _: u32) {}
    #[inline(always)]
    fn bits(&mut self, _: Kind, _: u32) {}
}

/// Sums the information of every kind, in 1/65536 bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) by_kind: [u64; Kind::ALL.len()],
}

impl Tally {
    /// The sum of two.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        for (sum, part) in self.by_kind.iter_mut().zip(other.by_kind) {
            *sum += part;
        }
        self
    }
}

impl Meter for Tally {
    const LISTENS: bool = true;

    fn symbol(&mut self, kind: Kind, prob_bits: u32, freq: u32) {
        self.by_kind[kind as usize] += bits(prob_bits.into()) - log2(freq.into());
    }

    fn bits(&mut self, kind: Kind, count: u32) {
        self.by_kind[kind as usize] += bits(count.into());
    }
}
