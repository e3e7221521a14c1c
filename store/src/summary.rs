//! One line about one record of a run, and the compact list of such lines that slots and rollups carry.
//!
//! The list is stored as the difference to its neighbour wherever neighbours resemble each other:
//! ```text
//! varint count · varint seq of the first · per record:
//!   u8 kind · 32 manifest · 8 fingerprint · zigzag varint differences of step, time, raw bytes, stored bytes,
//!   tensors, new tensors · varint bytes of what the kind has to say · that
//! ```
//! Sequence numbers are contiguous, so only the first is stored. Manifest ids are whole: a garbage collector or a
//! restore then needs the newest slot and the rollups, never a read per commit.

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::action::{Action, MAX_DETAILS_LEN};
use crate::ids::{Fingerprint, ManifestId};

/// Bytes of a fingerprint that a summary keeps; the slot itself has all of it.
pub const SHORT_FINGERPRINT_LEN: usize = 8;

/// Least bytes of one summary in a list.
const MIN_SUMMARY_LEN: usize = 1 + 32 + SHORT_FINGERPRINT_LEN + 6 + 1;

/// Most bytes of one summary in a list.
pub(crate) const MAX_SUMMARY_LEN: usize = 1 + 32 + SHORT_FINGERPRINT_LEN + 6 * 10 + 2 + MAX_DETAILS_LEN;

/// A number of files or tensors as totals and reports hold it; the highest that they can say, above that.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// How much a checkpoint holds, and how much of it was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Bytes of its files.
    pub raw_bytes: u64,
    /// Bytes that this commit added to the store.
    pub stored_bytes: u64,
    /// Tensors in it.
    pub tensors: u32,
    /// Tensors that the store did not hold before.
    pub new_tensors: u32,
}

/// One line about one record of a run. What adds no checkpoint has zeros where one would be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its place in the run, from 0.
    pub seq: u64,
    /// The training step.
    pub step: u64,
    /// When it was committed, in milliseconds since 1970, by the writer's clock.
    pub created_unix_ms: u64,
    /// The checkpoint.
    pub manifest: ManifestId,
    /// The first bytes of its fingerprint.
    pub fingerprint: [u8; SHORT_FINGERPRINT_LEN],
    /// Its sizes.
    pub totals: Totals,
    /// What the record does.
    pub action: Action,
}

/// The part of a fingerprint that a summary keeps.
pub(crate) fn short(fingerprint: &Fingerprint) -> [u8; SHORT_FINGERPRINT_LEN] {
    let mut short = [0; SHORT_FINGERPRINT_LEN];
    short.copy_from_slice(&fingerprint.as_bytes()[..SHORT_FINGERPRINT_LEN]);
    short
}

/// The numbers that are stored as differences, in their order on the wire.
fn columns(s: &Summary) -> [u64; 6] {
    [
        s.step,
        s.created_unix_ms,
        s.totals.raw_bytes,
        s.totals.stored_bytes,
        u64::from(s.totals.tensors),
        u64::from(s.totals.new_tensors),
    ]
}

/// Wrapping difference, small in both directions.
pub(crate) fn zigzag(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from).cast_signed();
    (difference.cast_unsigned() << 1) ^ (difference >> 63).cast_unsigned()
}

/// Inverse of [`zigzag`] for the same `from`.
pub(crate) fn unzigzag(from: u64, coded: u64) -> u64 {
    from.wrapping_add((coded >> 1) ^ (coded & 1).wrapping_neg())
}

/// Appends `list`, whose sequence numbers must be contiguous.
pub(crate) fn write_list(w: &mut Writer, list: &[Summary]) {
    w.varint(list.len() as u64);
    let Some(first) = list.first() else {
        return;
    };
    w.varint(first.seq);
    let mut before = [0u64; 6];
    for s in list {
        w.u8(s.action.code());
        w.raw(s.manifest.as_bytes());
        w.raw(&s.fingerprint);
        let now = columns(s);
        for (from, to) in before.iter().zip(now) {
            w.varint(zigzag(*from, to));
        }
        s.action.write_details(w);
        before = now;
    }
}

/// Reads a list of at most `most` summaries. Inverse of [`write_list`].
pub(crate) fn read_list(r: &mut Reader<'_>, most: usize) -> Result<Vec<Summary>, CodecError> {
    const WHAT: &str = "list of summaries";
    let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
    let count = r.count(MIN_SUMMARY_LEN, WHAT)?;
    if count > most {
        return Err(corrupt(format!("{count} commits, the limit is {most}")));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let first = r.varint(WHAT)?;
    if first.checked_add(count as u64).is_none() {
        return Err(corrupt(format!("{count} commits from {first} on")));
    }
    let narrow = |v: u64| u32::try_from(v).map_err(|_| corrupt(format!("{v} tensors are above the limit")));
    let mut before = [0u64; 6];
    let mut list = Vec::with_capacity(count);
    for seq in first..first + count as u64 {
        let code = r.u8(WHAT)?;
        let manifest = ManifestId::from_bytes(r.array(WHAT)?);
        let fingerprint = r.array(WHAT)?;
        for column in &mut before {
            *column = unzigzag(*column, r.varint(WHAT)?);
        }
        let [
            step,
            created_unix_ms,
            raw_bytes,
            stored_bytes,
            tensors,
            new_tensors,
        ] = before;
        let action = Action::read_details(code, r)?;
        list.push(Summary {
            seq,
            step,
            created_unix_ms,
            manifest,
            fingerprint,
            totals: Totals {
                raw_bytes,
                stored_bytes,
                tensors: narrow(tensors)?,
                new_tensors: narrow(new_tensors)?,
            },
            action,
        });
    }
    Ok(list)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::action::tests::any_action;
    use proptest::prelude::*;

    prop_compose! {
        /// Any numbers at all under one sequence number.
        fn any_summary()(n in any::<[u64; 4]>(), t in any::<[u32; 2]>(), id in any::<[u8; 32]>(), fingerprint in any::<[u8; 8]>(), action in any_action()) -> Summary {
            Summary {
                seq: 0,
                step: n[0],
                created_unix_ms: n[1],
                manifest: ManifestId::from_bytes(id),
                fingerprint,
                totals: Totals { raw_bytes: n[2], stored_bytes: n[3], tensors: t[0], new_tensors: t[1] },
                action,
            }
        }
    }

    /// Contiguous summaries from `first` on.
    pub(crate) fn any_list(
        first: u64,
        len: impl Into<prop::collection::SizeRange>,
    ) -> impl Strategy<Value = Vec<Summary>> {
        prop::collection::vec(any_summary(), len).prop_map(move |mut list| {
            for (seq, s) in (first..).zip(&mut list) {
                s.seq = seq;
            }
            list
        })
    }

    proptest! {
        /// Promise: a list survives the way through bytes.
        #[test]
        fn round_trip(list in any_list(77, 0..9)) {
            let mut w = Writer::new();
            write_list(&mut w, &list);
            let bytes = w.into_bytes();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(read_list(&mut r, 9)?, list);
            r.end("list")?;
        }

        /// Promise: differences wrap, so no pair of numbers is out of reach.
        #[test]
        fn zigzag_inverts(from: u64, to: u64) {
            prop_assert_eq!(unzigzag(from, zigzag(from, to)), to);
        }

        /// Promise: no bytes make the reader panic or allocate beyond them.
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_list(&mut Reader::new(&bytes), 256);
        }
    }
}
