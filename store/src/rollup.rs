//! Rollups: the summaries of 256 commits in one immutable object.
//!
//! ```text
//! u8 format · text run · u8 has previous · [varint seq of the previous rollup's last commit]
//! list of exactly 256 summaries · 32 seal
//! ```
//! A rollup is a function of the slots it covers, so every writer that makes it makes the same bytes. It is not
//! compressed for that reason: two versions of a compressor need not agree.

use bytes::Bytes;
use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::error::{Result, StoreError};
use crate::keys::Key;
use crate::names::RunName;
use crate::objects::{Created, Objects};
use crate::seal::{seal, unseal};
use crate::summary::{Summary, read_list, write_list};

/// Commits that one rollup covers; a slot carries fewer than twice as many summaries.
pub const ROLLUP_EVERY: usize = 256;

/// The newest rollup format that this build reads and writes.
const FORMAT: u8 = 1;

/// Name of the structure in messages.
const WHAT: &str = "rollup";

/// The summaries of 256 neighbouring commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollup {
    /// The run.
    pub run: RunName,
    /// Last commit of the rollup before this one; `None` for the first.
    pub previous: Option<u64>,
    /// Oldest first, contiguous, exactly [`ROLLUP_EVERY`].
    pub summaries: Vec<Summary>,
}

/// The rollup before the one whose last commit is `last_seq`.
fn before(last_seq: u64) -> Option<u64> {
    last_seq.checked_sub(ROLLUP_EVERY as u64)
}

impl Rollup {
    /// The rollup of the run's commits up to the last of `summaries`.
    pub(crate) fn new(run: RunName, summaries: Vec<Summary>) -> Self {
        Self {
            run,
            previous: summaries.last().and_then(|s| before(s.seq)),
            summaries,
        }
    }

    /// The stored bytes, seal included.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.prefixed(self.run.as_str().as_bytes());
        w.u8(u8::from(self.previous.is_some()));
        if let Some(previous) = self.previous {
            w.varint(previous);
        }
        write_list(&mut w, &self.summaries);
        seal(w.into_bytes())
    }

    /// Inverse of [`Rollup::encode`].
    ///
    /// # Errors
    /// * `Truncated`, `Corrupt`: the bytes will not get better.
    /// * `Unsupported`: written by a newer tpde; upgrade.
    pub fn decode(sealed: &[u8]) -> std::result::Result<Self, CodecError> {
        let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(CodecError::Unsupported {
                what: "rollup format",
                found: u64::from(format),
                known: u64::from(FORMAT),
            });
        }
        let run = r.text(WHAT)?;
        let run = run
            .parse()
            .map_err(|_| corrupt(format!("{run:?} is not a run's name")))?;
        let previous = match r.u8(WHAT)? {
            0 => None,
            1 => Some(r.varint(WHAT)?),
            other => return Err(corrupt(format!("flag {other}"))),
        };
        let summaries = read_list(&mut r, ROLLUP_EVERY)?;
        r.end(WHAT)?;
        let rollup = Self::new(run, summaries);
        if rollup.summaries.len() != ROLLUP_EVERY || rollup.previous != previous {
            return Err(corrupt(format!(
                "{} commits after {previous:?}",
                rollup.summaries.len()
            )));
        }
        Ok(rollup)
    }

    /// Last commit that it covers.
    pub fn last_seq(&self) -> u64 {
        self.summaries.last().map_or(0, |s| s.seq)
    }

    /// Reads the rollup whose last commit is `last_seq`.
    ///
    /// # Errors
    /// * `Corrupt`: it is missing, damaged, or another run's.
    /// * `Newer`, `Backend`: as for every read.
    pub fn read(objects: &Objects, run: &RunName, last_seq: u64) -> Result<Self> {
        let key = Key::Rollup(run.clone(), last_seq);
        let bytes = objects.get(&key).map_err(|error| match error {
            StoreError::NotFound { .. } => {
                StoreError::corrupt(key.to_string(), "a newer commit refers to it, and it is missing")
            }
            other => other,
        })?;
        let rollup = Self::decode(&bytes).map_err(|e| StoreError::decoding(key.to_string(), e))?;
        if rollup.run != *run || rollup.last_seq() != last_seq {
            return Err(StoreError::corrupt(
                key.to_string(),
                format!("it holds run {} up to commit {}", rollup.run, rollup.last_seq()),
            ));
        }
        Ok(rollup)
    }

    /// Stores the rollup. Idempotent: whoever comes second finds the same bytes.
    ///
    /// # Errors
    /// * `Corrupt`: something else is stored under its name.
    /// * `Backend`: the disk or server failed; run the command again.
    pub(crate) fn write(&self, objects: &Objects) -> Result<()> {
        let key = Key::Rollup(self.run.clone(), self.last_seq());
        let bytes = Bytes::from(self.encode());
        match objects.put_content(&key, bytes.clone())? {
            Created::New => Ok(()),
            Created::AlreadyExists if objects.get(&key)? == bytes => Ok(()),
            Created::AlreadyExists => Err(StoreError::corrupt(
                key.to_string(),
                "it does not hold the commits it stands for",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::any_list;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Promise: a rollup survives the way through bytes; no flip and no cut of it is read.
        #[test]
        fn round_trip_and_damage(
            third in 0u64..3,
            seed in any_list(0, ROLLUP_EVERY),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut summaries = seed;
            for s in &mut summaries {
                s.seq += third * ROLLUP_EVERY as u64;
            }
            let run: RunName = "r".parse()?;
            let rollup = Rollup::new(run, summaries);
            let bytes = rollup.encode();
            prop_assert_eq!(&Rollup::decode(&bytes)?, &rollup);
            let at = at.index(bytes.len());
            prop_assert!(Rollup::decode(&bytes[..at]).is_err());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let error = Rollup::decode(&flipped);
            let corrupt = matches!(error, Err(CodecError::Corrupt { .. }));
            prop_assert!(corrupt);
        }
    }
}
