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
use crate::ids::{ManifestId, Nonce, PackId};
use crate::keys::Key;
use crate::lease::Lease;
use crate::manifest::{FileContent, Manifest};
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
    /// What is known so far.
    report: SaveReport,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        request: &'a SaveRequest,
        checkpoint: &'a Checkpoint,
        left_out: Vec<LeftOut>,
        progress: &'a dyn Progress,
    ) -> Self {
        let report = SaveReport {
            manifest: ManifestId::of(&[]),
            seq: 0,
            already_there: true,
            raw_bytes: 0,
            stored_bytes: 0,
            files: 0,
            tensors: 0,
            new_tensors: 0,
            left_out,
            kept_whole: checkpoint.kept_whole.clone(),
        };
        Self {
            request,
            checkpoint,
            progress,
            report,
        }
    }

    /// Saves under `lease`; `None` if something that this leant on went away, and another lease must begin again.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub(super) fn run(&mut self, lease: &Lease) -> Result<Option<SaveReport>> {
        let store = lease.store();
        let request = self.request;
        let newest = history::newest(store.objects(), &request.run)?;
        let commit = newest
            .as_ref()
            .map(|n| history::newest_commit(store.objects(), n))
            .transpose()?;
        let tip = commit.flatten().map(|commit| commit.manifest);
        if tip.is_none() {
            tags::check_run(store.objects(), &request.run)?;
        }
        let mut manifest = self.draft(lease, tip);
        let fingerprint = manifest.fingerprint();
        self.describe(&manifest);
        let mut options = CommitOptions {
            replace: request.replace,
            expect_parent: request.expect_parent,
            again: false,
        };
        let standing = commit::precheck(
            store.objects(),
            &request.run,
            newest.as_ref(),
            request.step,
            &fingerprint,
            &options,
        )?;
        let mut mends = false;
        if let (Some(seq), Some(newest)) = (standing, &newest) {
            self.found(store, newest, seq)?;
            match whole(lease, self.report.manifest)? {
                Some(true) => return Ok(Some(self.report.clone())),
                Some(false) => mends = true,
                // Without its manifest the commit is lost: another takes its place.
                None => options.again = true,
            }
            let (run, step) = (&request.run, request.step);
            tracing::warn!("{run}@{step} lacks contents, which are stored again");
        }

        let Some(stored) = self.store_contents(lease, newest.as_ref(), tip, &mut manifest)? else {
            return Ok(None);
        };
        self.checkpoint
            .sources
            .iter()
            .try_for_each(|s| s.check_unchanged())?;
        self.report.stored_bytes = stored.bytes;
        self.report.new_tensors = stored.new_tensors;
        if mends {
            // Contents are found by what they decode to, so the commit that stands is whole again.
            return Ok(Some(self.report.clone()));
        }
        let (id, bytes) = manifest.encode()?;
        self.report.stored_bytes += bytes.len() as u64;
        store.objects().put_content(&Key::Manifest(id), bytes.into())?;
        let new = NewCommit {
            manifest: id,
            fingerprint,
            step: request.step,
            nonce: Nonce::random()?,
            created_unix_ms: manifest.created_unix_ms,
            metrics: request.metrics.clone(),
            totals: Totals {
                raw_bytes: self.report.raw_bytes,
                stored_bytes: self.report.stored_bytes,
                tensors: self.report.tensors,
                new_tensors: stored.new_tensors,
            },
        };
        loop {
            match commit::commit(store.objects(), &request.run, &new, &options)? {
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

    /// The manifest, but for where everything is.
    fn draft(&self, lease: &Lease, tip: Option<ManifestId>) -> Manifest {
        let request = self.request;
        let mut manifest = Manifest {
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
        };
        self.checkpoint.describe(&mut manifest);
        manifest
    }

    /// What can be said of the checkpoint wherever it ends up.
    fn describe(&mut self, manifest: &Manifest) {
        let files = manifest.files.iter();
        let files = files.filter(|f| f.content != FileContent::Directory).count();
        self.report.raw_bytes = manifest.raw_bytes();
        self.report.files = count(files);
        self.report.tensors = count(manifest.named_tensors().count());
    }

    /// Commit `seq` holds the same.
    fn found(&mut self, store: &Store, newest: &StoredSlot, seq: u64) -> Result<()> {
        self.report.seq = seq;
        self.report.manifest = history::record_at(store.objects(), newest, seq)?.manifest;
        Ok(())
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

    /// Whether every pack is still in the store; one that is gone is forgotten, so that the next attempt does without it.
    pub(crate) fn all_there(&self, packs: &BTreeSet<PackId>) -> Result<bool> {
        let packs: Vec<PackId> = packs.iter().copied().collect();
        let sizes = abreast(&packs, |&pack| self.objects().head(&Key::Pack(pack)))?;
        let mut all = true;
        for (pack, _) in packs.iter().zip(sizes).filter(|(_, size)| size.is_none()) {
            tracing::warn!("{} is gone; what leaned on it is stored again", Key::Pack(*pack));
            self.catalog.forget(pack);
            all = false;
        }
        Ok(all)
    }
}
