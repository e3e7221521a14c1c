//! One try at a save, under one lease.
//!
//! ```text
//! is it there? ─ whole: done
//!      └ no ─▶ contents ─▶ packs ─▶ all there? ─ no: another lease
//!                                     └ yes ─▶ manifest ─▶ slot
//! ```

use std::collections::BTreeSet;

use super::bases::Bases;
use super::contents::Contents;
use super::ids::Checkpoint;
use super::limits::Limits;
use super::{SaveReport, SaveRequest};
use crate::abreast::abreast;
use crate::clock::now_unix_ms;
use crate::commit::{self, CommitOptions, NewCommit, Outcome};
use crate::error::{Result, StoreError};
use crate::files::left_out::LeftOut;
use crate::history;
use crate::ids::{Fingerprint, ManifestId, Nonce, PackId};
use crate::keys::Key;
use crate::lease::Lease;
use crate::manifest::{FileContent, Manifest};
use crate::names::RunName;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::slot::StoredSlot;
use crate::store::Store;
use crate::summary::{Totals, count};
use crate::tags;

/// A save that is tried until a lease holds to its end.
pub(super) struct Attempt<'a> {
    request: &'a SaveRequest,
    checkpoint: &'a Checkpoint,
    progress: &'a dyn Progress,
    left_out: Vec<LeftOut>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        request: &'a SaveRequest,
        checkpoint: &'a Checkpoint,
        left_out: Vec<LeftOut>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            request,
            checkpoint,
            progress,
            left_out,
        }
    }

    /// Saves under `lease`; `None` if something that this leant on went away, and another lease must begin again.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub(super) fn run(&mut self, lease: &Lease) -> Result<Option<SaveReport>> {
        let store = lease.store();
        let request = self.request;
        let (newest, tip) = where_it_stands(store, &request.run)?;
        let mut manifest = empty_manifest(request, lease, tip);
        self.checkpoint.describe(&mut manifest);
        let mut committing = Committing::new(request, &manifest);
        committing.report.left_out.clone_from(&self.left_out);
        committing
            .report
            .kept_whole
            .clone_from(&self.checkpoint.kept_whole);
        let mut options = CommitOptions {
            replace: request.replace,
            expect_parent: request.expect_parent,
            again: false,
        };
        let standing = committing.standing(lease, newest.as_ref(), &mut options)?;
        if standing == Some(true) {
            return Ok(Some(committing.report));
        }
        let Some(stored) = self.store_contents(lease, newest.as_ref(), tip, &mut manifest)? else {
            return Ok(None);
        };
        self.checkpoint
            .sources
            .iter()
            .try_for_each(|s| s.check_unchanged())?;
        if standing == Some(false) {
            // Contents are found by what they decode to, so the commit that stands is whole again.
            committing.report.stored_bytes = stored.bytes;
            committing.report.new_tensors = stored.new_tensors;
            return Ok(Some(committing.report));
        }
        committing.commit(lease, &manifest, stored.bytes, stored.new_tensors, &mut options)
    }

    /// Stores what is new and notes in `manifest` where everything is; `None` if some of it is gone by the end.
    fn store_contents(
        &self,
        lease: &Lease,
        newest: Option<&StoredSlot>,
        tip: Option<ManifestId>,
        manifest: &mut Manifest,
    ) -> Result<Option<Stored>> {
        let (store, request) = (lease.store(), self.request);
        let placed = Contents {
            store,
            lease: lease.id(),
            checkpoint: self.checkpoint,
            bases: &Bases::new(store, newest, tip, request.parent)?,
            limits: Limits {
                max_depth: request.max_depth,
                max_restore_ratio: request.max_restore_ratio,
            },
            archive: request.archive_weights,
            seq: newest.map_or(0, |newest| newest.slot.seq.saturating_add(1)),
            progress: self.progress,
        };
        let placed = placed.store()?;
        if !store.all_there(&placed.relied)? {
            return Ok(None);
        }
        Ok(Some(Stored {
            bytes: placed.written_bytes,
            new_tensors: placed.note_in(manifest),
        }))
    }
}

/// A run's newest record, and the newest checkpoint that stands. A name that is new to the store must be free.
///
/// # Errors
/// `Conflict` if a tag has the name of a run without checkpoints; as for reading the run's history.
pub(super) fn where_it_stands(
    store: &Store,
    run: &RunName,
) -> Result<(Option<StoredSlot>, Option<ManifestId>)> {
    let newest = history::newest(store.objects(), run)?;
    let commit = newest
        .as_ref()
        .map(|n| history::newest_commit(store.objects(), n))
        .transpose()?;
    let tip = commit.flatten().map(|commit| commit.manifest);
    if tip.is_none() {
        tags::check_run(store.objects(), run)?;
    }
    Ok((newest, tip))
}

/// The manifest of a checkpoint before anything is known of its files.
pub(super) fn empty_manifest(request: &SaveRequest, lease: &Lease, tip: Option<ManifestId>) -> Manifest {
    Manifest {
        run: request.run.as_str().to_owned(),
        step: request.step,
        created_unix_ms: now_unix_ms(),
        parent: tip.or(request.parent),
        writer: concat!("tpde ", env!("CARGO_PKG_VERSION")).to_owned(),
        archived_weights: false,
        metrics: request.metrics.clone(),
        note: request.note.clone(),
        environment: request.environment.clone(),
        packs: Vec::new(),
        tensors: Vec::new(),
        blobs: Vec::new(),
        files: Vec::new(),
        lease: Some(lease.id()),
    }
}

/// A checkpoint on its way into its run.
pub(super) struct Committing<'a> {
    request: &'a SaveRequest,
    fingerprint: Fingerprint,
    /// What is known so far.
    pub(super) report: SaveReport,
}

impl<'a> Committing<'a> {
    /// * `manifest`: all but where its contents are.
    pub(super) fn new(request: &'a SaveRequest, manifest: &Manifest) -> Self {
        let files = manifest.files.iter();
        let files = files.filter(|f| f.content != FileContent::Directory).count();
        Self {
            request,
            fingerprint: manifest.fingerprint(),
            report: SaveReport {
                manifest: ManifestId::of(&[]),
                seq: 0,
                already_there: true,
                raw_bytes: manifest.raw_bytes(),
                stored_bytes: 0,
                files: count(files),
                tensors: count(manifest.named_tensors().count()),
                new_tensors: 0,
                left_out: Vec::new(),
                kept_whole: Vec::new(),
            },
        }
    }

    /// Whether a commit of this step and content stands and is whole; `None` if there is none, or its manifest is lost: then another is to
    /// take its place.
    ///
    /// # Errors
    /// As [`commit::precheck`].
    pub(super) fn standing(
        &mut self,
        lease: &Lease,
        newest: Option<&StoredSlot>,
        options: &mut CommitOptions,
    ) -> Result<Option<bool>> {
        let (store, request) = (lease.store(), self.request);
        let (run, step) = (&request.run, request.step);
        let found = commit::precheck(store.objects(), run, newest, step, &self.fingerprint, options)?;
        let (Some(seq), Some(newest)) = (found, newest) else {
            return Ok(None);
        };
        self.found(store, newest, seq)?;
        let is_whole = whole(lease, self.report.manifest)?;
        if is_whole != Some(true) {
            tracing::warn!("{run}@{step} lacks contents, which are stored again");
        }
        options.again = is_whole.is_none();
        Ok(is_whole)
    }

    /// Commits a manifest whose contents are there; `None` if a commit of the same content came in between and is not whole.
    ///
    /// # Errors
    /// As [`commit::commit`].
    pub(super) fn commit(
        &mut self,
        lease: &Lease,
        manifest: &Manifest,
        stored_bytes: u64,
        new_tensors: u32,
        options: &mut CommitOptions,
    ) -> Result<Option<SaveReport>> {
        let (store, request) = (lease.store(), self.request);
        let (id, bytes) = manifest.encode()?;
        self.report.stored_bytes = stored_bytes + bytes.len() as u64;
        self.report.new_tensors = new_tensors;
        store.objects().put_content(&Key::Manifest(id), bytes.into())?;
        let new = NewCommit {
            manifest: id,
            fingerprint: self.fingerprint,
            step: request.step,
            nonce: Nonce::random()?,
            created_unix_ms: manifest.created_unix_ms,
            metrics: request.metrics.clone(),
            totals: Totals {
                raw_bytes: self.report.raw_bytes,
                stored_bytes: self.report.stored_bytes,
                tensors: self.report.tensors,
                new_tensors,
            },
        };
        loop {
            match commit::commit(store.objects(), &request.run, &new, options)? {
                Outcome::Committed { seq } => {
                    self.report.already_there = false;
                    (self.report.seq, self.report.manifest) = (seq, id);
                    return Ok(Some(self.report.clone()));
                }
                // Another process saved the same files to the same step while this one was at it.
                Outcome::AlreadyThere { seq } => {
                    let newest = history::newest_of(store.objects(), &request.run)?;
                    self.found(store, &newest, seq)?;
                    match whole(lease, self.report.manifest)? {
                        Some(true) => return Ok(Some(self.report.clone())),
                        // What was just stored is all that it lacks.
                        Some(false) => return Ok(None),
                        None => options.again = true,
                    }
                }
            }
        }
    }

    /// Commit `seq` holds the same.
    fn found(&mut self, store: &Store, newest: &StoredSlot, seq: u64) -> Result<()> {
        self.report.seq = seq;
        self.report.manifest = history::record_at(store.objects(), newest, seq)?.manifest;
        Ok(())
    }
}

/// What was stored.
struct Stored {
    bytes: u64,
    new_tensors: u32,
}

/// Whether everything that a checkpoint consists of is there for the holder of `lease`; `None` if its manifest is not.
fn whole(lease: &Lease, id: ManifestId) -> Result<Option<bool>> {
    match lease.is_marked(id) {
        true => Ok(None),
        false => lease.store().is_whole(id),
    }
}

impl Store {
    /// Whether everything that a stored checkpoint consists of is in the store, by the footers of its packs.
    /// `None` if its manifest cannot be read.
    pub(crate) fn is_whole(&self, id: ManifestId) -> Result<Option<bool>> {
        let Some(manifest) = self.readable_manifest(id)? else {
            return Ok(None);
        };
        let mut reach = Reach::default();
        match self.reach(&manifest, &mut reach) {
            Ok(()) => self.all_there(&reach.packs).map(Some),
            Err(StoreError::Corrupt { .. }) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// Whether every pack is still in the store, durably; one that is gone is forgotten, so that the next attempt does without it.
    pub(crate) fn all_there(&self, packs: &BTreeSet<PackId>) -> Result<bool> {
        let packs: Vec<Key> = packs.iter().copied().map(Key::Pack).collect();
        let sizes = abreast(&packs, |pack| self.objects().head(pack))?;
        let (there, gone): (Vec<_>, Vec<_>) = packs.iter().zip(sizes).partition(|(_, size)| size.is_some());
        for (pack, _) in &gone {
            tracing::warn!("{pack} is gone; what leaned on it is stored again");
            if let Key::Pack(id) = pack {
                self.catalog.forget(id);
            }
        }
        let there: Vec<&Key> = there.into_iter().map(|(pack, _)| pack).collect();
        self.objects().settle_all(&there)?;
        Ok(gone.is_empty())
    }
}
