//! What a tile would need, counted once: the basis of every choice of mode and table.

use super::encode::Origins;
use crate::constants::{MAX_CLASSES, MAX_SYMBOLS};
use crate::cost;
use crate::dtype::Layout;
use crate::ordinal::{Residual, Word, residual};
use crate::tile::{Against, Mode, Relation, fresh};
use crate::token::TokenShape;

/// Which other tensors decoding reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) base: bool,
    pub(crate) given: bool,
}

impl Reads {
    /// What a tile of `mode` reads in a frame with this relation.
    pub(crate) fn of(mode: Mode, relation: Option<Relation>, has_base: bool) -> Self {
        let against = mode.needs_base();
        Self {
            base: against && has_base && relation != Some(Relation::Cast),
            given: match relation {
                Some(Relation::Cast) => against,
                Some(Relation::Rounded) => against && mode != Mode::Same,
                Some(Relation::Scale) => mode == Mode::Fresh,
                None => false,
            },
        }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            base: self.base || other.base,
            given: self.given || other.given,
        }
    }
}

/// What one tile would need.
pub(super) struct TileCounts {
    /// Equal to what SAME copies.
    pub(super) same: bool,
    /// Whether SPARSE and DENSE can code it: no element lies outside its cell.
    codable: bool,
    /// Elements and changed elements by class.
    pub(super) elems: [u32; MAX_CLASSES],
    pub(super) changed: [u32; MAX_CLASSES],
    /// Magnitude symbols by class; symbol 0 (unchanged) included.
    pub(super) magnitudes: Vec<Vec<u32>>,
    /// Signs and low bits of the magnitudes.
    delta_raw_bits: u64,
    /// Exponent symbols by class of the scale.
    pub(super) fresh: Vec<Vec<u32>>,
    fresh_raw_bits: u64,
    /// Elements that differ from the base, and the largest distance.
    pub(super) differing: u64,
    pub(super) max_ulp: u64,
}

impl TileCounts {
    fn changed_elems(&self) -> u64 {
        self.changed.iter().map(|&c| u64::from(c)).sum()
    }

    /// What DENSE and SPARSE would about cost, in 1/65536 bit.
    pub(super) fn delta_cost(&self) -> u64 {
        self.magnitudes.iter().map(|h| cost::entropy(h)).sum::<u64>() + cost::bits(self.delta_raw_bits)
    }

    /// What FRESH would about cost, in 1/65536 bit.
    pub(super) fn fresh_cost(&self) -> u64 {
        self.fresh.iter().map(|h| cost::entropy(h)).sum::<u64>() + cost::bits(self.fresh_raw_bits)
    }

    /// The modes of `plan` worth encoding: what is clearly dearer by entropy is left out. From a sixth changed on, SPARSE saves
    /// under 1 % and takes a device twice as long as DENSE.
    pub(super) fn candidates(&self, plan: &[Mode]) -> Vec<Mode> {
        if self.same {
            return vec![Mode::Same];
        }
        let total: u64 = self.elems.iter().map(|&c| u64::from(c)).sum();
        let changed = self.changed_elems();
        let delta = self.codable && self.delta_cost() <= self.fresh_cost();
        let alone = plan.len() <= 2;
        let worth = |mode: &Mode| match mode {
            Mode::Sparse => self.codable && (alone || delta && changed * 6 < total),
            Mode::Dense => self.codable && (alone || delta && changed * 8 > total),
            Mode::Fresh => alone || !delta || !plan.contains(&Mode::Dense),
            Mode::Same | Mode::Raw => false,
        };
        plan.iter().copied().filter(worth).collect()
    }
}

/// Counts one tile.
///
/// * `distant`: the true base, where `against` has a virtual one.
/// * `scale`: the tile that tells FRESH the scale.
#[expect(clippy::too_many_arguments, reason = "all that a tile is coded with, once")]
pub(super) fn count_tile<W: Word>(
    new: &[u8],
    against: Against<'_>,
    distant: Option<&[u8]>,
    scale: Option<&[u8]>,
    same: bool,
    origins: Origins,
    layout: Layout,
    (magnitude_shape, fresh_shape): (TokenShape, TokenShape),
) -> TileCounts {
    let mut counts = TileCounts {
        same,
        codable: true,
        elems: [0; MAX_CLASSES],
        changed: [0; MAX_CLASSES],
        magnitudes: Vec::new(),
        delta_raw_bits: 0,
        fresh: Vec::new(),
        fresh_raw_bits: 0,
        differing: 0,
        max_ulp: 0,
    };
    if same {
        return counts;
    }
    counts.magnitudes = vec![vec![0; magnitude_shape.symbols()]; MAX_CLASSES];
    counts.fresh = vec![vec![0; MAX_SYMBOLS]; if scale.is_some() { MAX_CLASSES } else { 1 }];
    for i in 0..new.len() / W::BYTES {
        let word = W::load(new, i);
        let base = W::load(against.base, i);
        let class = origins.classes.of(base, layout);
        let distance = match distant {
            Some(distant) => residual(word, W::load(distant, i), layout).magnitude,
            None => residual(word, base, layout).magnitude,
        };
        counts.differing += u64::from(distance != 0);
        counts.max_ulp = counts.max_ulp.max(distance);
        counts.elems[class] += 1;
        match against.residual(i, word) {
            Some(Residual { magnitude, .. }) => {
                let token = magnitude_shape.split(magnitude);
                counts.magnitudes[class][token.symbol as usize] += 1;
                if magnitude != 0 {
                    counts.changed[class] += 1;
                    counts.delta_raw_bits += 1 + u64::from(token.raw_bits);
                }
            }
            None => counts.codable = false,
        }
        let (number, _, raw_bits) = fresh::split(word, origins.fresh, layout);
        let token = fresh_shape.split(number);
        let scale_class = match (origins.scale, scale) {
            (Some(classes), Some(scale)) => classes.of(W::load(scale, i), layout),
            _ => 0,
        };
        counts.fresh[scale_class][token.symbol as usize] += 1;
        counts.fresh_raw_bits += u64::from(raw_bits + token.raw_bits);
    }
    counts
}
