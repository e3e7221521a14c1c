//! The slot: the create-only record that commits a checkpoint to a run.
//!
//! ```text
//! u8 format · u8 kind · text run · varint seq · 32 manifest · 32 hash of slot seq − 1 (zeros for seq 0)
//! 16 nonce · 32 fingerprint · varints: step, time, raw bytes, stored bytes, tensors, new tensors, max step
//! varint bytes of what the kind has to say · that
//! u8 history codec (0 plain, 1 zstd) · varint plain length · varint length · list of summaries · 32 seal
//! ```
//! The history reaches back to the last sixteenth slot, and from a sixteenth slot back to the last rollup: so one read says what
//! happened lately, two say all since the rollup, and a slot carries 15 summaries on average and not 128.
//! ```text
//! rollup ◄──────── history of slot 272 ──────── 272 ◄─ history of 280 ─ 280
//! ```

use bytes::Bytes;
use tpde_core::CodecError;
use tpde_core::ID_LEN;
use tpde_core::wire::{Reader, Writer};

use crate::action::Action;
use crate::error::{Result, StoreError};
use crate::ids::{Fingerprint, ManifestId, Nonce, SlotHash};
use crate::keys::Key;
use crate::names::RunName;
use crate::objects::Objects;
use crate::rollup::ROLLUP_EVERY;
use crate::seal::{seal, unseal};
use crate::summary::{MAX_SUMMARY_LEN, Summary, Totals, read_list, short, write_list};

/// The newest slot format that this build reads and writes.
const FORMAT: u8 = 1;

/// Most bytes of a history once it is decompressed.
const MAX_HISTORY_LEN: usize = ROLLUP_EVERY * MAX_SUMMARY_LEN;

/// zstd level of the history: small input, written once a commit.
const HISTORY_LEVEL: i32 = 3;

/// Name of the structure in messages.
const WHAT: &str = "slot";

/// One commit of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The run.
    pub run: RunName,
    /// Its place in the run, from 0, without gaps.
    pub seq: u64,
    /// What it does.
    pub action: Action,
    /// The checkpoint.
    pub manifest: ManifestId,
    /// Hash of the stored bytes of slot `seq - 1`; zeros for the first.
    pub previous: SlotHash,
    /// Drawn by the writer for this commit.
    pub nonce: Nonce,
    /// What the checkpoint restores to.
    pub fingerprint: Fingerprint,
    /// The training step.
    pub step: u64,
    /// Time of the commit in milliseconds since 1970, by the writer's clock.
    pub created_unix_ms: u64,
    /// Its sizes.
    pub totals: Totals,
    /// The largest step of the run up to and with this commit.
    pub max_step: u64,
    /// The records from [`history_from`] up to this one, oldest first.
    pub history: Vec<Summary>,
}

/// A slot as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSlot {
    /// What it says.
    pub slot: Slot,
    /// The hash by which the next slot refers to it.
    pub hash: SlotHash,
}

/// Slots between two that carry all records since the newest rollup.
pub const STRIDE: u64 = 16;

/// First record in the history of slot `seq`; `seq` itself for a slot that carries none.
pub const fn history_from(seq: u64) -> u64 {
    let stride = if seq.is_multiple_of(STRIDE) {
        ROLLUP_EVERY as u64
    } else {
        STRIDE
    };
    seq - seq % stride
}

/// Last record of the newest rollup that slot `seq` stands on.
pub const fn rollup_below(seq: u64) -> Option<u64> {
    let every = ROLLUP_EVERY as u64;
    (seq - seq % every).checked_sub(1)
}

/// What stands where the first slot's predecessor would be named.
pub const NO_SLOT: SlotHash = SlotHash::from_bytes([0; ID_LEN]);

impl Slot {
    /// The line about this commit.
    pub fn summary(&self) -> Summary {
        Summary {
            seq: self.seq,
            step: self.step,
            created_unix_ms: self.created_unix_ms,
            manifest: self.manifest,
            fingerprint: short(&self.fingerprint),
            totals: self.totals,
            action: self.action.clone(),
        }
    }

    /// The stored bytes, seal included.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.u8(self.action.code());
        w.prefixed(self.run.as_str().as_bytes());
        w.varint(self.seq);
        w.raw(self.manifest.as_bytes());
        w.raw(self.previous.as_bytes());
        w.raw(self.nonce.as_bytes());
        w.raw(self.fingerprint.as_bytes());
        w.varint(self.step);
        w.varint(self.created_unix_ms);
        w.varint(self.totals.raw_bytes);
        w.varint(self.totals.stored_bytes);
        w.varint(u64::from(self.totals.tensors));
        w.varint(u64::from(self.totals.new_tensors));
        w.varint(self.max_step);
        self.action.write_details(&mut w);
        let mut history = Writer::new();
        write_list(&mut history, &self.history);
        let plain = history.into_bytes();
        match zstd::bulk::compress(&plain, HISTORY_LEVEL) {
            Ok(packed) if packed.len() < plain.len() => {
                w.u8(1);
                w.varint(plain.len() as u64);
                w.prefixed(&packed);
            }
            _ => {
                w.u8(0);
                w.varint(plain.len() as u64);
                w.prefixed(&plain);
            }
        }
        seal(w.into_bytes())
    }

    /// Inverse of [`Slot::encode`].
    ///
    /// # Errors
    /// * `Truncated`, `Corrupt`: the bytes will not get better.
    /// * `Unsupported`: written by a newer tpde; upgrade.
    ///
    /// Never panics, and allocates at most a few times [`ROLLUP_EVERY`] summaries.
    pub fn decode(sealed: &[u8]) -> std::result::Result<Self, CodecError> {
        let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(CodecError::Unsupported {
                what: "slot format",
                found: u64::from(format),
                known: u64::from(FORMAT),
            });
        }
        let code = r.u8(WHAT)?;
        let run = r.text(WHAT)?;
        let run = run
            .parse()
            .map_err(|_| corrupt(format!("{run:?} is not a run's name")))?;
        let narrow =
            |v: u64| u32::try_from(v).map_err(|_| corrupt(format!("{v} tensors are above the limit")));
        let mut slot = Self {
            run,
            seq: r.varint(WHAT)?,
            action: Action::commit(),
            manifest: ManifestId::from_bytes(r.array(WHAT)?),
            previous: SlotHash::from_bytes(r.array(WHAT)?),
            nonce: Nonce::from_bytes(r.array(WHAT)?),
            fingerprint: Fingerprint::from_bytes(r.array(WHAT)?),
            step: r.varint(WHAT)?,
            created_unix_ms: r.varint(WHAT)?,
            totals: Totals {
                raw_bytes: r.varint(WHAT)?,
                stored_bytes: r.varint(WHAT)?,
                tensors: narrow(r.varint(WHAT)?)?,
                new_tensors: narrow(r.varint(WHAT)?)?,
            },
            max_step: r.varint(WHAT)?,
            history: Vec::new(),
        };
        slot.action = Action::read_details(code, &mut r)?;
        slot.history = read_history(&mut r)?;
        r.end(WHAT)?;
        // The history must join what came before to this record without a gap.
        let from = history_from(slot.seq);
        let starts = slot.history.first().is_none_or(|s| s.seq == from);
        if slot.seq - from != slot.history.len() as u64 || !starts {
            return Err(corrupt(format!(
                "record {} with a history of {} records",
                slot.seq,
                slot.history.len()
            )));
        }
        Ok(slot)
    }
}

fn read_history(r: &mut Reader<'_>) -> std::result::Result<Vec<Summary>, CodecError> {
    let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
    let codec = r.u8(WHAT)?;
    let plain_len = r.size(MAX_HISTORY_LEN, WHAT)?;
    let stored = r.prefixed(WHAT)?;
    let unpacked;
    let plain = match codec {
        0 => stored,
        1 => {
            unpacked =
                zstd::bulk::decompress(stored, plain_len).map_err(|e| corrupt(format!("history: {e}")))?;
            &unpacked
        }
        other => return Err(corrupt(format!("history codec {other}"))),
    };
    if plain.len() != plain_len {
        return Err(corrupt(format!(
            "history of {} bytes, expected {plain_len}",
            plain.len()
        )));
    }
    let mut list = Reader::new(plain);
    let history = read_list(&mut list, ROLLUP_EVERY)?;
    list.end(WHAT)?;
    Ok(history)
}

impl StoredSlot {
    /// Reads the stored `bytes` of slot `seq` of `run`.
    ///
    /// # Errors
    /// * `Corrupt`: damaged, or another slot's bytes.
    /// * `Newer`: written by a newer tpde; upgrade.
    pub(crate) fn from_bytes(run: &RunName, seq: u64, bytes: &Bytes) -> Result<Self> {
        let key = || Key::Slot(run.clone(), seq).to_string();
        let slot = Slot::decode(bytes).map_err(|e| StoreError::decoding(key(), e))?;
        if slot.run != *run || slot.seq != seq {
            return Err(StoreError::corrupt(
                key(),
                format!("it holds commit {} of run {}", slot.seq, slot.run),
            ));
        }
        Ok(Self {
            slot,
            hash: SlotHash::of(bytes),
        })
    }

    /// Reads slot `seq` of `run`.
    ///
    /// # Errors
    /// * `NotFound`: the run has no such commit.
    /// * `Corrupt`, `Newer`, `Backend`: as for every read.
    pub fn read(objects: &Objects, run: &RunName, seq: u64) -> Result<Self> {
        let bytes = objects.get(&Key::Slot(run.clone(), seq))?;
        Self::from_bytes(run, seq, &bytes)
    }

    /// Reads slot `seq` of `run`, which must be there since a newer record follows it.
    ///
    /// # Errors
    /// `Corrupt` if it is missing; otherwise as [`StoredSlot::read`].
    pub(crate) fn referred(objects: &Objects, run: &RunName, seq: u64) -> Result<Self> {
        Self::read(objects, run, seq).map_err(|error| match error {
            StoreError::NotFound { .. } => StoreError::corrupt(
                Key::Slot(run.clone(), seq).to_string(),
                "a newer record refers to it, and it is missing",
            ),
            other => other,
        })
    }

    /// The records that it tells of, itself included, oldest first.
    pub fn records(&self) -> Vec<Summary> {
        let mut records = self.slot.history.clone();
        records.push(self.slot.summary());
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::any_action;
    use crate::seqs::{MAX_RANGES, SeqSet};
    use crate::summary::tests::any_list;
    use proptest::prelude::*;

    prop_compose! {
        fn any_slot()(
            seq in prop_oneof![0u64..40, 250u64..290]
        )(
            n in any::<[u64; 5]>(), t in any::<[u32; 2]>(), ids in any::<[[u8; 32]; 3]>(), nonce in any::<[u8; 16]>(),
            history in any_list(history_from(seq), usize::try_from(seq - history_from(seq)).unwrap()),
            action in any_action(),
            seq in Just(seq)
        ) -> Slot {
            Slot {
                run: "a-run.1".parse().unwrap(),
                seq,
                action,
                manifest: ManifestId::from_bytes(ids[0]),
                previous: SlotHash::from_bytes(ids[1]),
                nonce: Nonce::from_bytes(nonce),
                fingerprint: Fingerprint::from_bytes(ids[2]),
                step: n[0],
                created_unix_ms: n[1],
                totals: Totals { raw_bytes: n[2], stored_bytes: n[3], tensors: t[0], new_tensors: t[1] },
                max_step: n[4],
                history,
            }
        }
    }

    proptest! {
        /// Promise: a slot survives the way through bytes.
        #[test]
        fn round_trip(slot in any_slot()) {
            prop_assert_eq!(Slot::decode(&slot.encode())?, slot);
        }

        /// Promise: no cut and no flip of any bit is ever read.
        #[test]
        fn damage_is_seen(slot in any_slot(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let bytes = slot.encode();
            let at = at.index(bytes.len());
            prop_assert!(Slot::decode(&bytes[..at]).is_err());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let flipped = Slot::decode(&flipped);
            let corrupt = matches!(flipped, Err(CodecError::Corrupt { .. }));
            prop_assert!(corrupt);
        }

        /// Promise: bytes that carry a right seal but were made up are refused or read, never a panic.
        #[test]
        fn made_up_records_are_safe(
            slot in any_slot(),
            at in any::<prop::sample::Index>(),
            with: u8,
        ) {
            let sealed = slot.encode();
            let mut record = unseal(WHAT, &sealed)?.to_vec();
            let at = at.index(record.len());
            record[at] = with;
            let _ = Slot::decode(&seal(record));
        }
    }

    fn sealed_with(format: u8, kind: u8) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(format);
        w.u8(kind);
        seal(w.into_bytes())
    }

    /// Promise: a slot of another version, older or newer, asks for the build that knows it.
    #[test]
    fn newer_formats() {
        for newer in [sealed_with(0, 0), sealed_with(2, 0)] {
            let error = Slot::decode(&newer).unwrap_err();
            assert!(matches!(error, CodecError::Unsupported { .. }), "{error}");
        }
    }

    /// Promise: a history that claims to unpack to more than the limit is refused before it is unpacked.
    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 26], 3).unwrap();
        for claimed in [1u64 << 26, 1 << 10] {
            let mut w = Writer::new();
            w.u8(1);
            w.varint(claimed);
            w.prefixed(&bomb);
            let bytes = w.into_bytes();
            assert!(read_history(&mut Reader::new(&bytes)).is_err());
        }
    }

    /// Promise: the longest history fits its limit.
    #[test]
    fn the_longest_history_fits() {
        let extreme = |seq| Summary {
            seq,
            step: if seq % 2 == 0 { 0 } else { 1 << 63 },
            created_unix_ms: if seq % 2 == 0 { 0 } else { 1 << 63 },
            manifest: ManifestId::from_bytes([7; 32]),
            fingerprint: [7; 8],
            totals: Totals {
                raw_bytes: if seq % 2 == 0 { 0 } else { 1 << 63 },
                stored_bytes: if seq % 2 == 0 { 0 } else { 1 << 63 },
                tensors: if seq % 2 == 0 { 0 } else { u32::MAX },
                new_tensors: if seq % 2 == 0 { 0 } else { u32::MAX },
            },
            action: Action::Forget(
                (0..MAX_RANGES as u64)
                    .map(|i| i * (u64::MAX / 200))
                    .collect::<SeqSet>(),
            ),
        };
        let list: Vec<Summary> = (0..ROLLUP_EVERY as u64).map(extreme).collect();
        let mut w = Writer::new();
        write_list(&mut w, &list);
        assert!(w.len() <= MAX_HISTORY_LEN, "{}", w.len());
    }
}
