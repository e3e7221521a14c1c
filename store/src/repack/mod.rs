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

use std::collections::BTreeSet;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::catalog::Sight;
use crate::error::{Result, StoreError, in_words};
use crate::gc::Survey;
use crate::ids::PackId;
use crate::lease::{Lease, under_lease};
use crate::progress::Progress;
use crate::reach::contents;
use crate::salvage::Salvage;
use crate::store::Store;
use live::Live;
use rebase::rebase_all;

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
        let mut report = RepackReport {
            written_bytes: out_of_marks(lease)?,
            ..RepackReport::default()
        };
        let survey = Survey::take(store, lease.marked())?;
        let live = Live::of(store, &survey)?;
        report.reclaimable_bytes_before = survey.reclaimable(store)?.bytes;
        let kept_only = live.seen_alone_in(store);
        let scratch = scratch_folder(request)?;
        let rebased = rebase_all(lease, &survey, &live, request.min_used, scratch.path(), progress)?;
        let is_alone = rebased.pays();
        if is_alone {
            rebased.keep(store)?;
            report.rebased = rebased.checkpoints;
            report.written_bytes += rebased.written_bytes;
        } else {
            rebased.drop_from(store);
            report.dearer_bytes = rebased.bytes_after - rebased.bytes_before;
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
        let used = live.packs_in(&needed)?.into_iter();
        let emptied: BTreeSet<PackId> = used
            .filter(|(_, used)| used.is_little(request.min_used))
            .map(|(pack, _)| pack)
            .collect();
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

/// Stores again what only packs in a mark hold: of a gc that was cut short, for one that is at work has nothing of the kind in its mark for long.
/// Gives the bytes of the new packs.
fn out_of_marks(lease: &Lease) -> Result<u64> {
    if lease.sees_everything() {
        return Ok(0);
    }
    let store = lease.store();
    let live = Live::of(store, &Survey::take(store, lease.marked())?)?;
    let everything = store.seeing(Sight::default());
    let mut salvage = Salvage::new(store, lease.id());
    for manifest in live.manifests.values() {
        for (content, part, hints) in contents(manifest) {
            salvage.add(&everything, content, part, &hints)?;
        }
    }
    Ok(salvage.finish()?.1)
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
