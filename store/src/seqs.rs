//! Sets of commits, by their sequence numbers, as few ranges.

use std::ops::RangeInclusive;

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

/// Most ranges of one set on the wire: what is longer takes more than one record.
pub const MAX_RANGES: usize = 192;

/// Most bytes of a set on the wire.
pub(crate) const MAX_SEQS_LEN: usize = 2 + MAX_RANGES * 20;

const WHAT: &str = "set of commits";

/// A set of sequence numbers: ascending ranges with a gap between any two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeqSet(Vec<RangeInclusive<u64>>);

impl FromIterator<u64> for SeqSet {
    /// Takes numbers in any order.
    fn from_iter<I: IntoIterator<Item = u64>>(seqs: I) -> Self {
        let mut seqs: Vec<u64> = seqs.into_iter().collect();
        seqs.sort_unstable();
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for seq in seqs {
            match ranges.last_mut() {
                Some(last) if seq <= *last.end() => {}
                Some(last) if seq == last.end().saturating_add(1) => *last = *last.start()..=seq,
                _ => ranges.push(seq..=seq),
            }
        }
        Self(ranges)
    }
}

impl SeqSet {
    /// Whether `seq` is in it.
    pub fn contains(&self, seq: u64) -> bool {
        let at = self.0.partition_point(|range| *range.end() < seq);
        self.0.get(at).is_some_and(|range| range.contains(&seq))
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its ranges, ascending.
    pub fn ranges(&self) -> &[RangeInclusive<u64>] {
        &self.0
    }

    /// The largest number in it.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| *range.end())
    }

    /// The set in parts that each fit one record.
    pub fn parts(&self) -> impl Iterator<Item = Self> {
        self.0.chunks(MAX_RANGES).map(|ranges| Self(ranges.to_vec()))
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.varint(self.0.len() as u64);
        let mut next = 0u64;
        for range in &self.0 {
            w.varint(range.start() - next);
            w.varint(range.end() - range.start());
            next = range.end().saturating_add(2);
        }
    }

    /// Inverse of [`SeqSet::write`].
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let beyond = || CodecError::Corrupt {
            what: WHAT,
            detail: "it goes beyond all sequence numbers".to_owned(),
        };
        let count = r.size(MAX_RANGES, WHAT)?;
        let mut ranges = Vec::with_capacity(count);
        let mut next = Some(0u64);
        for _ in 0..count {
            let gap = r.varint(WHAT)?;
            let start = next.and_then(|next| next.checked_add(gap)).ok_or_else(beyond)?;
            let end = start.checked_add(r.varint(WHAT)?).ok_or_else(beyond)?;
            next = end.checked_add(2);
            ranges.push(start..=end);
        }
        Ok(Self(ranges))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any set that fits one record.
    pub(crate) fn any_seqs() -> impl Strategy<Value = SeqSet> {
        prop::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..20)
            .prop_map(|seqs| seqs.into_iter().collect())
    }

    proptest! {
        /// Promise: a set holds exactly what was put in, and survives the way through bytes; a cut is an error.
        #[test]
        fn round_trip(seqs in prop::collection::vec(prop_oneof![0u64..40, (u64::MAX - 3)..=u64::MAX, any::<u64>()], 0..20)) {
            let set: SeqSet = seqs.iter().copied().collect();
            for seq in seqs.iter().flat_map(|&s| [s, s.saturating_add(1), s.saturating_sub(1)]) {
                prop_assert_eq!(set.contains(seq), seqs.contains(&seq), "{}", seq);
            }
            prop_assert_eq!(set.last(), seqs.iter().copied().max());
            let mut w = Writer::new();
            set.write(&mut w);
            let bytes = w.into_bytes();
            prop_assert!(bytes.len() <= MAX_SEQS_LEN);
            prop_assert_eq!(&SeqSet::read(&mut Reader::new(&bytes))?, &set);
            for cut in 0..bytes.len() {
                prop_assert!(SeqSet::read(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }

        /// Promise: no bytes make the reader panic.
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = SeqSet::read(&mut Reader::new(&bytes));
        }
    }

    /// Promise: a set too large for one record is cut into records that together hold it.
    #[test]
    fn parts() {
        let set: SeqSet = (0..1000).map(|i| 2 * i).collect();
        let parts: Vec<SeqSet> = set.parts().collect();
        assert_eq!(parts.len(), 1000usize.div_ceil(MAX_RANGES));
        assert!((0..2000).all(|s| set.contains(s) == parts.iter().any(|p| p.contains(s))));
    }
}
