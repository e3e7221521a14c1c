//! Deltas on forgotten checkpoints, made anew against those that are kept.
//!
//! All of it is tried out in a scratch folder first: a forgotten checkpoint that many others are taken against may be the best base there
//! is, and then it stays.

use std::fs;
use std::path::Path;

use super::live::{Live, is_whole};
use crate::error::{Result, StoreError, in_words};
use crate::files::scan::scan;
use crate::gc::Survey;
use crate::ids::{LeaseId, ManifestId, PackId};
use crate::keys::Key;
use crate::lease::Lease;
use crate::manifest::Manifest;
use crate::objects::Objects;
use crate::progress::Progress;
use crate::restore::RestoreRequest;
use crate::save::bases::Bases;
use crate::save::contents::Contents;
use crate::save::ids::Checkpoint;
use crate::save::limits::Limits;
use crate::save::same::opaque;
use crate::save::{DEFAULT_MAX_DEPTH, DEFAULT_MAX_RESTORE_RATIO};
use crate::store::Store;

/// Checkpoints before one that it may be taken against.
const MAX_BASES: usize = 4;

/// What came of it, not in the store yet.
pub(super) struct Rebased {
    pub(super) checkpoints: u64,
    pub(super) written_bytes: u64,
    /// Bytes of the packs that would stay: as it is in the store, and with the new packs and without what is forgotten.
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    packs: Vec<PackId>,
    trial: Objects,
}

impl Rebased {
    /// Whether the store gets smaller by it; what changes nothing does no harm.
    pub(super) fn pays(&self) -> bool {
        self.checkpoints == 0 || self.bytes_after < self.bytes_before
    }

    /// Stores the new packs.
    ///
    /// # Errors
    /// `Backend` if the store cannot be written: those that are there do no harm.
    pub(super) fn keep(&self, store: &Store) -> Result<()> {
        for pack in &self.packs {
            let key = Key::Pack(*pack);
            store.objects().put_content(&key, self.trial.get(&key)?)?;
        }
        Ok(())
    }

    /// Forgets that they were ever there.
    pub(super) fn drop_from(&self, store: &Store) {
        self.packs.iter().for_each(|pack| store.catalog.forget(pack));
    }
}

/// Encodes anew whatever is not whole without what is forgotten, run by run, each checkpoint against those of its run before it.
///
/// * `min_used`: packs of which a smaller share is needed are emptied afterwards.
/// * `scratch`: an empty folder.
///
/// # Errors
/// As [`Store::repack`].
pub(super) fn rebase_all(
    lease: &Lease,
    survey: &Survey,
    live: &Live,
    min_used: f64,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<Rebased> {
    let store = lease.store();
    let packs_folder = scratch.join("store");
    fs::create_dir(&packs_folder).map_err(|e| unusable(&packs_folder, &e))?;
    let trial = store.objects().trial(&packs_folder)?;
    let view = live.seen_alone_in(&store.by_way_of(trial.clone()));
    let mut rebased = Rebased {
        checkpoints: 0,
        written_bytes: 0,
        bytes_before: live.bytes_in(store, min_used)?,
        bytes_after: 0,
        packs: Vec::new(),
        trial,
    };
    let add = |rebased: &mut Rebased, one: Anew<'_>| -> Result<()> {
        let (packs, bytes) = one.encode(store, &view, lease.id(), &scratch.join("checkpoint"), progress)?;
        rebased.packs.extend(packs);
        rebased.written_bytes += bytes;
        rebased.checkpoints += 1;
        Ok(())
    };
    for (_, log) in &survey.runs {
        let mut before: Vec<ManifestId> = Vec::new();
        for commit in log.commits() {
            let manifest = &live.manifests[&commit.manifest];
            if !is_whole(&view, manifest)? {
                let one = Anew {
                    id: commit.manifest,
                    seq: commit.seq,
                    manifest,
                    before: &before,
                };
                add(&mut rebased, one)?;
            }
            before.insert(0, commit.manifest);
            before.truncate(MAX_BASES);
        }
    }
    // What only a tag keeps has no place in a run: it is taken against nothing, or is whole by what the others brought.
    for tag in &survey.tags {
        let manifest = &live.manifests[&tag.target.manifest];
        if !is_whole(&view, manifest)? {
            let one = Anew {
                id: tag.target.manifest,
                seq: tag.target.seq,
                manifest,
                before: &[],
            };
            add(&mut rebased, one)?;
        }
    }
    rebased.bytes_after = live.bytes_in(&view, min_used)?;
    Ok(rebased)
}

/// A checkpoint that is encoded anew.
struct Anew<'m> {
    id: ManifestId,
    seq: u64,
    manifest: &'m Manifest,
    /// What it may be taken against, the nearest first.
    before: &'m [ManifestId],
}

impl Anew<'_> {
    /// Encodes what `view` lacks of it. Gives the packs that were written, and their bytes.
    ///
    /// The checkpoint is restored from `store` and read like any other, so every byte is verified on the way, and no encoder but that of a save
    /// is at work.
    fn encode(
        &self,
        store: &Store,
        view: &Store,
        lease: LeaseId,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<(Vec<PackId>, u64)> {
        let restore = RestoreRequest {
            manifest: self.id,
            target: folder.to_owned(),
            files: None,
            tensors: None,
            overwrite: false,
        };
        store.restore(&restore, progress)?;
        let found = scan(folder, None)?.found;
        let checkpoint = Checkpoint::read(&found, &opaque(self.manifest)?, progress)?;
        let bases = Bases::chosen(view, self.before.to_vec());
        let contents = Contents {
            store: view,
            lease,
            checkpoint: &checkpoint,
            bases: &bases,
            limits: Limits {
                max_depth: DEFAULT_MAX_DEPTH,
                max_restore_ratio: Some(DEFAULT_MAX_RESTORE_RATIO),
            },
            archive: self.manifest.archived_weights,
            seq: self.seq,
            progress,
        };
        let placed = contents.store()?;
        fs::remove_dir_all(folder).map_err(|e| unusable(folder, &e))?;
        Ok((placed.written().collect(), placed.written_bytes))
    }
}

fn unusable(folder: &Path, error: &std::io::Error) -> StoreError {
    StoreError::input(
        folder.display().to_string(),
        in_words(error),
        "Name a folder that can be written with --scratch",
    )
}
