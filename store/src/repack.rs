//! Repack: the same contents in fewer bytes, after much of a history was forgotten (docs/adr/0016).
//!
//! ```text
//! kept 0 ◀─ gone 1 ◀─ gone 2 ◀─ kept 3          rebase:   kept 0 ◀─────────────── kept 3'
//! pack: [ gone | gone | kept ]                  copy out: pack': [ kept ]
//! ```
//! New packs are written and nothing is deleted: the old copies are the next gc's. Contents are found by what they decode to, so no manifest, slot
//! or id changes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{Sight, Sought};
use crate::error::{Result, StoreError, in_words};
use crate::files::scan::scan;
use crate::gc::Survey;
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::lease::{Lease, under_lease};
use crate::manifest::Manifest;
use crate::pack::{ContentPrefix, Part, prefix_of};
use crate::progress::Progress;
use crate::reach::contents;
use crate::restore::RestoreRequest;
use crate::salvage::Salvage;
use crate::save::bases::Bases;
use crate::save::contents::Contents;
use crate::save::ids::Checkpoint;
use crate::save::limits::Limits;
use crate::save::same::opaque;
use crate::save::{DEFAULT_MAX_DEPTH, DEFAULT_MAX_RESTORE_RATIO};
use crate::store::Store;

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
    /// Bytes that the next gc can delete.
    pub reclaimable_bytes: u64,
    /// What it could delete before.
    pub reclaimable_bytes_before: u64,
}

/// A part of a content, as graphs know it.
type Key = (ContentPrefix, Part);

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
        let names = survey.live();
        let mut live: HashSet<Key> = HashSet::new();
        for (id, name) in &names {
            let manifest = survey.manifest(store, *id, name)?;
            live.extend(contents(&manifest).map(|(id, part, _)| (prefix_of(&id), part)));
        }
        // For whoever sees this, what nobody keeps does not exist, so a delta on it must be made anew.
        let kept_only = store.seeing(Sight {
            contents: Some(Arc::new(live)),
            ..store.sight()
        });
        for (_, log) in &survey.runs {
            let mut before: Vec<ManifestId> = Vec::new();
            for commit in log.commits() {
                let manifest = store.named_manifest(commit.manifest)?;
                if !is_whole(&kept_only, &manifest)? {
                    report.written_bytes += rebase(
                        lease,
                        &kept_only,
                        (commit.manifest, commit.seq),
                        &manifest,
                        &before,
                        request,
                        progress,
                    )?;
                    report.rebased += 1;
                }
                before.insert(0, commit.manifest);
                before.truncate(MAX_BASES);
            }
        }
        let (emptied, written_bytes) = self.empty_packs(lease, request)?;
        report.emptied_packs = emptied;
        report.written_bytes += written_bytes;
        self.catalog.flush();
        report.reclaimable_bytes = Survey::take(store, lease.marked())?.reclaimable(store)?.bytes;
        Ok(report)
    }

    /// Copies what is needed out of packs of which little is.
    fn empty_packs(&self, lease: &Lease, request: &RepackRequest) -> Result<(u64, u64)> {
        let store = lease.store();
        let survey = Survey::take(store, lease.marked())?;
        let spare = survey.reclaimable_packs(store)?;
        let mut hidden = (*store.sight().hidden).clone();
        hidden.extend(&spare);
        let needed = store.seeing(Sight {
            hidden: Arc::new(hidden.clone()),
            ..store.sight()
        });
        let mut used: BTreeMap<PackId, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut all: Vec<Manifest> = Vec::new();
        for (id, name) in survey.live() {
            let manifest = survey.manifest(store, id, &name)?;
            for (content, part, hints) in contents(&manifest) {
                let sought = Sought::whole(content, part);
                let graph = Graph::resolve(&needed.catalog, store.objects(), &sought, &hints)?;
                for node in graph.nodes() {
                    let range = node.piece.range();
                    used.entry(node.piece.pack)
                        .or_default()
                        .insert(range.start, range.end);
                }
            }
            all.push(manifest);
        }
        let mut emptied = BTreeSet::new();
        for (pack, pieces) in &used {
            let needed_bytes: u64 = pieces.iter().map(|(start, end)| end - start).sum();
            let pieces_bytes = store.catalog.pieces_bytes(store.objects(), *pack)?;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a share; packs are far below 2^52 bytes"
            )]
            let share = needed_bytes as f64 / pieces_bytes.max(1) as f64;
            if share < request.min_used {
                emptied.insert(*pack);
            }
        }
        if emptied.is_empty() {
            return Ok((0, 0));
        }
        hidden.extend(&emptied);
        let without = store.seeing(Sight {
            hidden: Arc::new(hidden),
            ..store.sight()
        });
        let mut salvage = Salvage::new(&without, lease.id());
        for manifest in &all {
            for (content, part, hints) in contents(manifest) {
                salvage.add(&needed, content, part, &hints)?;
            }
        }
        let (_, written_bytes) = salvage.finish()?;
        Ok((emptied.len() as u64, written_bytes))
    }
}

/// Checkpoints before one that it may be taken against.
const MAX_BASES: usize = 4;

/// Whether everything of a checkpoint can be decoded by whoever sees what `store` sees.
fn is_whole(store: &Store, manifest: &Manifest) -> Result<bool> {
    for (content, part, hints) in contents(manifest) {
        let sought = Sought::whole(content, part);
        match Graph::resolve(&store.catalog, store.objects(), &sought, &hints) {
            Ok(_) => {}
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Encodes what `view` lacks of a checkpoint. Returns the bytes written.
///
/// The checkpoint is restored and read like any other, so every byte is verified on the way, and no encoder but that of a save is at work.
fn rebase(
    lease: &Lease,
    view: &Store,
    (id, seq): (ManifestId, u64),
    manifest: &Manifest,
    before: &[ManifestId],
    request: &RepackRequest,
    progress: &dyn Progress,
) -> Result<u64> {
    let scratch = match &request.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.map_err(|e| {
        let what = request
            .scratch
            .as_ref()
            .map_or("the scratch folder".to_owned(), |f| f.display().to_string());
        StoreError::input(
            what,
            in_words(&e),
            "Name a folder with room for one checkpoint with --scratch",
        )
    })?;
    let target = scratch.path().join("checkpoint");
    let restore = RestoreRequest {
        manifest: id,
        target: target.clone(),
        files: None,
        tensors: None,
        overwrite: false,
    };
    lease.store().restore(&restore, progress)?;
    let found = scan(&target, None)?.found;
    let checkpoint = Checkpoint::read(&found, &opaque(manifest)?, progress)?;
    let bases = Bases::chosen(view, before.to_vec());
    let placed = Contents {
        store: view,
        lease: lease.id(),
        checkpoint: &checkpoint,
        bases: &bases,
        limits: Limits {
            max_depth: DEFAULT_MAX_DEPTH,
            max_restore_ratio: Some(DEFAULT_MAX_RESTORE_RATIO),
        },
        archive: manifest.archived_weights,
        seq,
        progress,
    };
    Ok(placed.store()?.written_bytes)
}
