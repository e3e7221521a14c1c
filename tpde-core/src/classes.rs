//! Classes: what the base's exponent says about an element, in at most sixteen values.
//!
//! A change of given size is many ulps for a small weight and none for a large one, so the exponent of the base decides
//! how likely a change is. The highest exponents get a class each, downwards from an origin that the encoder chooses (one
//! Inf must not waste the classes); everything below the last class shares it. A map merges classes that behave alike.

use crate::constants::MAX_CLASSES;
use crate::dtype::Layout;
use crate::error::{Result, corrupt};
use crate::ordinal::{Word, exponent};
use crate::wire::{Reader, Writer};

/// The class of exponent `e` is `origin − e`, clamped to 0 … 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classes {
    pub(crate) origin: u32,
}

impl Classes {
    /// Puts the origin at the highest exponent, leaving out at most one element in 1024 above it.
    pub(crate) fn fit(exponent_counts: &[u64]) -> Self {
        let total: u64 = exponent_counts.iter().sum();
        let mut above = 0;
        for (e, &count) in exponent_counts.iter().enumerate().rev() {
            above += count;
            if above * 1024 > total {
                #[expect(clippy::cast_possible_truncation, reason = "at most 2048 exponents")]
                return Self { origin: e as u32 };
            }
        }
        Self { origin: 0 }
    }

    #[inline(always)]
    pub(crate) fn of<W: Word>(self, base: W, layout: Layout) -> usize {
        (self.origin.saturating_sub(exponent(base, layout)) as usize).min(MAX_CLASSES - 1)
    }
}

/// Which table each class uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassMap {
    pub(crate) table_of: [u8; MAX_CLASSES],
}

impl ClassMap {
    /// Two classes a byte, low half first.
    pub(crate) fn write(&self, w: &mut Writer) {
        for pair in self.table_of.chunks(2) {
            w.u8(pair[0] | pair[1] << 4);
        }
    }

    /// Reads a map onto `tables` tables.
    pub(crate) fn read(r: &mut Reader<'_>, tables: usize) -> Result<Self> {
        let mut table_of = [0; MAX_CLASSES];
        for pair in table_of.chunks_mut(2) {
            let byte = r.u8("class map")?;
            pair[0] = byte & 15;
            pair[1] = byte >> 4;
        }
        match table_of.iter().find(|&&t| usize::from(t) >= tables) {
            Some(t) => Err(corrupt("class map", format!("table {t} of {tables}"))),
            None => Ok(Self { table_of }),
        }
    }
}

/// Merges classes by cost: starts with one table a class and joins the cheapest pair while that pays or `most` tables
/// are exceeded. Classes whose histogram is empty follow the table before them.
///
/// `cost` is the price of coding a histogram with a table of its own, the table included. Returns the map and the merged
/// histograms.
pub(crate) fn merge_classes(
    histograms: &[Vec<u32>],
    most: usize,
    cost: impl Fn(&[u32]) -> u64,
) -> (ClassMap, Vec<Vec<u32>>) {
    struct Group {
        histogram: Vec<u32>,
        classes: Vec<usize>,
        cost: u64,
    }
    let join = |a: &[u32], b: &[u32]| a.iter().zip(b).map(|(x, y)| x + y).collect::<Vec<u32>>();
    let mut groups: Vec<Group> = histograms
        .iter()
        .enumerate()
        .filter(|(_, h)| h.iter().any(|&c| c > 0))
        .map(|(class, h)| Group {
            histogram: h.clone(),
            classes: vec![class],
            cost: cost(h),
        })
        .collect();
    // gains[i][j], j < i: what joining i and j changes.
    let gain = |groups: &[Group], i: usize, j: usize| {
        let joined = cost(&join(&groups[i].histogram, &groups[j].histogram));
        i128::from(joined) - i128::from(groups[i].cost) - i128::from(groups[j].cost)
    };
    let mut gains: Vec<Vec<i128>> = (0..groups.len())
        .map(|i| (0..i).map(|j| gain(&groups, i, j)).collect())
        .collect();
    loop {
        let pairs = (0..groups.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let Some((i, j)) = pairs.min_by_key(|&(i, j)| gains[i][j]) else {
            break;
        };
        if gains[i][j] >= 0 && groups.len() <= most {
            break;
        }
        let taken = groups.remove(i);
        gains.remove(i);
        gains.iter_mut().skip(i).for_each(|row| {
            row.remove(i);
        });
        groups[j].histogram = join(&groups[j].histogram, &taken.histogram);
        groups[j].classes.extend(taken.classes);
        groups[j].cost = cost(&groups[j].histogram);
        for k in 0..groups.len() {
            if k != j {
                gains[k.max(j)][k.min(j)] = gain(&groups, k.max(j), k.min(j));
            }
        }
    }
    groups.sort_by_key(|g| g.classes.iter().copied().min());
    let mut table_of = [0u8; MAX_CLASSES];
    let mut last = 0;
    for (class, slot) in table_of.iter_mut().enumerate() {
        #[expect(clippy::cast_possible_truncation, reason = "at most sixteen groups")]
        if let Some(t) = groups.iter().position(|g| g.classes.contains(&class)) {
            last = t as u8;
        }
        *slot = last;
    }
    (
        ClassMap { table_of },
        groups.into_iter().map(|g| g.histogram).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost;

    /// Promise: alike classes share a table, different ones do not, and the limit holds.
    #[test]
    fn merging_follows_the_cost() {
        let mut histograms = vec![vec![0u32; 4]; MAX_CLASSES];
        for (class, h) in histograms.iter_mut().enumerate().take(6) {
            *h = if class % 2 == 0 {
                vec![900_000, 1000, 10, 0]
            } else {
                vec![1000, 2000, 500_000, 7]
            };
        }
        let price = |h: &[u32]| cost::entropy(h) + cost::bits(60);
        let (map, merged) = merge_classes(&histograms, 16, price);
        assert_eq!(merged.len(), 2);
        assert_eq!(map.table_of[..6], [0, 1, 0, 1, 0, 1]);
        assert_eq!(merged[0], vec![2_700_000, 3000, 30, 0]);
        assert_eq!(merge_classes(&histograms, 1, price).1.len(), 1);
    }

    /// Promise: a few Infs do not move the origin.
    #[test]
    fn outliers_do_not_move_the_origin() {
        let mut counts = vec![0u64; 256];
        counts[120] = 100_000;
        counts[255] = 3;
        assert_eq!(Classes::fit(&counts).origin, 120);
        counts[255] = 1000;
        assert_eq!(Classes::fit(&counts).origin, 255);
    }
}
