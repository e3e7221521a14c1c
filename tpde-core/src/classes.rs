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

/// Which table each class uses: tables follow the classes, neighbours may share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassMap {
    pub(crate) table_of: [u8; MAX_CLASSES],
}

impl ClassMap {
    /// All classes use one table.
    pub(crate) const ONE: Self = Self {
        table_of: [0; MAX_CLASSES],
    };

    /// Number of tables.
    pub(crate) fn tables(&self) -> usize {
        usize::from(self.table_of[MAX_CLASSES - 1]) + 1
    }

    /// A bit a class: whether it leaves the table of the class before.
    pub(crate) fn write(&self, w: &mut Writer) {
        let steps = (1..MAX_CLASSES).filter(|&k| self.table_of[k] > self.table_of[k - 1]);
        w.u16(steps.fold(0, |bits, k| bits | 1 << k));
    }

    /// Inverse of [`ClassMap::write`].
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let bits = r.u16("class map")?;
        if bits & 1 != 0 {
            return Err(corrupt("class map", format!("bits {bits:#06x}")));
        }
        let mut map = Self::ONE;
        for k in 1..MAX_CLASSES {
            let step = (bits >> k & 1) as u8;
            map.table_of[k] = map.table_of[k - 1] + step;
        }
        Ok(map)
    }
}

/// Merges neighbouring classes by cost: starts with one table a class and joins the cheapest pair of neighbours while that
/// pays or `most` tables are exceeded. Classes whose histogram is empty follow the table before them.
///
/// `cost` is the price of coding a histogram with a table of its own, the table included. Returns the map and the merged
/// histograms, none if all are empty.
pub(crate) fn merge_classes(
    histograms: &[Vec<u32>],
    most: usize,
    cost: impl Fn(&[u32]) -> u64,
) -> (ClassMap, Vec<Vec<u32>>) {
    struct Group {
        histogram: Vec<u32>,
        first_class: usize,
        cost: u64,
    }
    let join = |a: &Group, b: &Group| -> Vec<u32> {
        a.histogram.iter().zip(&b.histogram).map(|(x, y)| x + y).collect()
    };
    let mut groups: Vec<Group> = histograms
        .iter()
        .enumerate()
        .filter(|(_, h)| h.iter().any(|&c| c > 0))
        .map(|(first_class, h)| Group {
            histogram: h.clone(),
            first_class,
            cost: cost(h),
        })
        .collect();
    let gain = |a: &Group, b: &Group| i128::from(cost(&join(a, b))) - i128::from(a.cost) - i128::from(b.cost);
    // gains[i]: what joining group i + 1 to group i changes.
    let mut gains: Vec<i128> = groups.windows(2).map(|pair| gain(&pair[0], &pair[1])).collect();
    while let Some(i) = (0..gains.len()).min_by_key(|&i| gains[i]) {
        if gains[i] >= 0 && groups.len() <= most {
            break;
        }
        let taken = groups.remove(i + 1);
        gains.remove(i);
        groups[i].histogram = join(&groups[i], &taken);
        groups[i].cost = cost(&groups[i].histogram);
        if i > 0 {
            gains[i - 1] = gain(&groups[i - 1], &groups[i]);
        }
        if i < gains.len() {
            gains[i] = gain(&groups[i], &groups[i + 1]);
        }
    }
    let mut map = ClassMap::ONE;
    for (class, table) in map.table_of.iter_mut().enumerate() {
        let before = groups.iter().filter(|g| g.first_class <= class).count();
        #[expect(clippy::cast_possible_truncation, reason = "at most sixteen groups")]
        let number = before.saturating_sub(1) as u8;
        *table = number;
    }
    (map, groups.into_iter().map(|g| g.histogram).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost;

    /// Promise: alike neighbours share a table, different ones do not, the limit holds, and the map survives the wire.
    #[test]
    fn merging_follows_the_cost() {
        let mut histograms = vec![vec![0u32; 4]; MAX_CLASSES];
        for (class, h) in histograms.iter_mut().enumerate().skip(1).take(6) {
            *h = if class < 4 {
                vec![900_000, 1000, 10, 0]
            } else {
                vec![1000, 2000, 500_000, 7]
            };
        }
        let price = |h: &[u32]| cost::entropy(h) + cost::bits(60);
        let (map, merged) = merge_classes(&histograms, 16, price);
        assert_eq!(merged.len(), 2);
        assert_eq!(map.table_of, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(merged[0], vec![2_700_000, 3000, 30, 0]);
        assert_eq!(merge_classes(&histograms, 1, price).1.len(), 1);
        let mut w = Writer::new();
        map.write(&mut w);
        assert_eq!(ClassMap::read(&mut Reader::new(&w.into_bytes())).unwrap(), map);
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
