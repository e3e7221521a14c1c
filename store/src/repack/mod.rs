//! Repack: the same contents in fewer bytes, after much of a history was forgotten (docs/adr/0016).
//!
//! ```text
//! kept 0 ◀─ gone 1 ◀─ gone 2 ◀─ kept 3          rebase:   kept 0 ◀─────────────── kept 3'
//! pack: [ gone | gone | kept ]                  copy out: pack': [ kept ]
//! ```
//! New packs are written and nothing is deleted: the old copies are the next gc's. Contents are found by what they decode to, so no manifest, slot
//! or id changes.

mod live;
mod rebase;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::{Result, StoreError, in_words};
use crate::gc::Survey;
use crate::ids::PackId;
use crate::lease::{Lease, under_lease};
use crate::progress::Progress;
use crate::reach::contents;
use crate::salvage::Salvage;
use crate::store::Store;
use live::Live;
use rebase::{Rebased, rebase_all};

/// What to repack, and how far.
#[derive(Debug, Clone)]
pub struct RepackRequest {
    /// A pack of which less than this share is needed is emptied: what is needed is copied out.
    pub min_used: f64,
    /// Where checkpoints are restored to while they are encoded again; the system's folder for such things if `None`.
    pub scratch: Option<PathBuf>,
}

impl Default for RepackRequest {
    fn default() -> Self {
        Self {
            min_used: 0.5,
            scratch: None,
        }
    }
}

/// What a repack did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepackReport {
    /// Checkpoints some of whose tensors were encoded against other bases.
    pub rebased: u64,
    /// Packs that were emptied: nothing in them is needed any more.
    pub emptied_packs: u64,
    /// Bytes of the new packs.
    pub written_bytes: u64,
    /// Bytes that it would take more to decode what is kept without what is forgotten: then nothing is encoded anew. 0 if it takes less.
    pub dearer_bytes: u64,
    /// Bytes that the next gc can delete.
    pub reclaimable_bytes: u64,
    /// What it could delete before.
    pub reclaimable_bytes_before: u64,
}

impl RepackReport {
    /// Notes what encoding anew came to; whether it is worth it.
    fn note(&mut self, rebased: &Rebased) -> bool {
        self.dearer_bytes = rebased.bytes_after.saturating_sub(rebased.bytes_before);
        if self.dearer_bytes == 0 {
            self.rebased = rebased.checkpoints;
            self.written_bytes = rebased.written_bytes;
        }
        self.dearer_bytes == 0
    }
}

impl Store {
    /// Encodes what only a forgotten checkpoint keeps from being decoded alone against checkpoints that stay, and copies what is needed out
    /// of packs that hold little else.
    ///
    /// # Errors
    /// * `Corrupt`: a checkpoint cannot be decoded; what was written by then does no harm.
    /// * `Input`: the scratch folder cannot be written.
    /// * `Newer`, `Backend`: the same again is harmless.
    pub fn repack(&self, request: &RepackRequest, progress: &dyn Progress) -> Result<RepackReport> {
        self.access().require_write()?;
        // Nothing is recorded, so a lease that was lost costs the new packs at worst.
        under_lease(self, "repack", |lease| {
            self.repack_under(lease, request, progress).map(Some)
        })
    }

    fn repack_under(
        &self,
        lease: &Lease,
        request: &RepackRequest,
        progress: &dyn Progress,
    ) -> Result<RepackReport> {
        let store = lease.store();
        let survey = Survey::take(store, lease.marked())?;
        let mut report = RepackReport {
            reclaimable_bytes_before: survey.reclaimable(store)?.bytes,
            ..RepackReport::default()
        };
        let live = Live::of(store, &survey)?;
        let kept_only = live.seen_alone_in(store);
        let scratch = scratch_folder(request)?;
        let rebased = rebase_all(lease, &survey, &live, scratch.path(), progress)?;
        let is_alone = report.note(&rebased);
        if is_alone {
            rebased.keep(store)?;
        } else {
            rebased.drop_from(store);
        }
        let needed = if is_alone { Some(&kept_only) } else { None };
        let (emptied, written_bytes) = self.empty_packs(lease, request, &live, needed)?;
        report.emptied_packs = emptied;
        report.written_bytes += written_bytes;
        self.catalog.flush();
        report.reclaimable_bytes = Survey::take(store, lease.marked())?.reclaimable(store)?.bytes;
        Ok(report)
    }

    /// Copies what is needed out of packs of which little is.
    ///
    /// * `alone`: a view in which everything that is kept is whole without what is not, if there is one.
    fn empty_packs(
        &self,
        lease: &Lease,
        request: &RepackRequest,
        live: &Live,
        alone: Option<&Store>,
    ) -> Result<(u64, u64)> {
        let store = lease.store();
        let needed = match alone {
            Some(alone) => alone.clone(),
            None => {
                let spare = Survey::take(store, lease.marked())?.reclaimable_packs(store)?;
                store.without(spare)
            }
        };
        let mut used: BTreeMap<PackId, u64> = BTreeMap::new();
        for ((pack, _), len_bytes) in live.pieces_in(&needed)? {
            *used.entry(pack).or_default() += len_bytes;
        }
        let mut emptied = BTreeSet::new();
        for (pack, needed_bytes) in used {
            let pieces_bytes = store.catalog.pieces_bytes(store.objects(), pack)?;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a share; packs are far below 2^52 bytes"
            )]
            let share = needed_bytes as f64 / pieces_bytes.max(1) as f64;
            if share < request.min_used {
                emptied.insert(pack);
            }
        }
        if emptied.is_empty() {
            return Ok((0, 0));
        }
        let without = needed.without(emptied.iter().copied());
        let mut salvage = Salvage::new(&without, lease.id());
        for manifest in live.manifests.values() {
            for (content, part, hints) in contents(manifest) {
                salvage.add(&needed, content, part, &hints)?;
            }
        }
        let (_, written_bytes) = salvage.finish()?;
        Ok((emptied.len() as u64, written_bytes))
    }
}

fn scratch_folder(request: &RepackRequest) -> Result<TempDir> {
    let scratch = match &request.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    scratch.map_err(|e| {
        let what = request
            .scratch
            .as_ref()
            .map_or("the scratch folder".to_owned(), |f| f.display().to_string());
        StoreError::input(
            what,
            in_words(&e),
            "Name a folder with room for a checkpoint and for what is encoded anew with --scratch",
        )
    })
}
