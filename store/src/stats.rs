//! Stats: how much the store holds, and how much that would be as plain files.

use crate::error::Result;
use crate::history;
use crate::keys::{Key, Prefix};
use crate::store::Store;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStats {
    /// Its name.
    pub run: String,
    /// Commits in it.
    pub checkpoints: u64,
    /// Bytes of all their files.
    pub raw_bytes: u64,
    /// Bytes of the packs and manifests that they added.
    pub stored_bytes: u64,
}

/// The whole store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Every run.
    pub runs: Vec<RunStats>,
    /// Packs, used or not.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Manifests, used or not.
    pub manifests: u64,
    /// Their bytes.
    pub manifest_bytes: u64,
    /// Slots, rollups, tags and everything else.
    pub other_objects: u64,
    /// Their bytes.
    pub other_bytes: u64,
}

impl Stats {
    /// Bytes of all objects.
    pub fn stored_bytes(&self) -> u64 {
        self.pack_bytes + self.manifest_bytes + self.other_bytes
    }

    /// Bytes of all files of all checkpoints.
    pub fn raw_bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.raw_bytes).sum()
    }
}

impl Store {
    /// Counts what the store holds: one listing, and every run's log.
    ///
    /// # Errors
    /// `Backend`, `Corrupt`: the store cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for listed in self.objects().list(&Prefix::Root)? {
            let (objects, bytes) = match listed.key {
                Key::Pack(_) => (&mut stats.packs, &mut stats.pack_bytes),
                Key::Manifest(_) => (&mut stats.manifests, &mut stats.manifest_bytes),
                _ => (&mut stats.other_objects, &mut stats.other_bytes),
            };
            *objects += 1;
            *bytes += listed.size_bytes;
        }
        for run in history::runs(self.objects())? {
            let log = history::log(self.objects(), &run)?;
            stats.runs.push(RunStats {
                run: run.to_string(),
                checkpoints: log.commits().count() as u64,
                raw_bytes: log.commits().map(|s| s.totals.raw_bytes).sum(),
                stored_bytes: log.commits().map(|s| s.totals.stored_bytes).sum(),
            });
        }
        Ok(stats)
    }
}
