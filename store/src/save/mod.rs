//! Save: files in, one commit out.
//!
//! ```text
//! scan ─▶ ids (tensors and blobs, by hash) ─known? done─▶ choose base ─▶ encode ─▶ packs ─▶ manifest ─▶ slot
//! ```
//!
//! Files are read twice, by position and in bounded windows: once for the ids, once for what is new. A file that changes in
//! between is an error, and the store is as it was: nothing refers to the packs that were written.

mod bases;
mod blobs;
mod choice;
mod encode;
mod ids;
mod limits;
mod same;
mod tensors;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use globset::GlobSet;
use tpde_core::Relation;

use crate::abreast::abreast;
use crate::commit::{self, CommitOptions, ExpectParent, NewCommit, Outcome};
use crate::error::{Result, StoreError};
use crate::files::left_out::LeftOut;
use crate::files::scan::{Scan, scan};
use crate::history;
use crate::ids::{ManifestId, Nonce, PackId};
use crate::keys::Key;
use crate::manifest::{FileContent, Manifest};
use crate::metrics::Metrics;
use crate::names::RunName;
use crate::pack::Needs;
use crate::progress::{Progress, Stage};
use crate::reach::Reach;
use crate::slot::StoredSlot;
use crate::store::Store;
use crate::summary::{Totals, count};
use crate::tags;
pub use ids::KeptWhole;

use ids::Checkpoint;

/// Most links below a tensor, unless the caller says otherwise.
pub const DEFAULT_MAX_DEPTH: u8 = 16;

/// Most stored bytes that a restore of a tensor reads, as a multiple of its own, unless the caller says otherwise. Chains of small
/// deltas never come near; those of dense ones start a new branch before a restore gets slow (docs/adr/0010).
pub const DEFAULT_MAX_RESTORE_RATIO: f64 = 4.0;

/// Most links that a caller may allow: a restore holds the frames of a whole chain.
pub const MAX_MAX_DEPTH: u8 = 64;

/// Times that a save starts over because a pack that it leant on has gone.
const MAX_ATTEMPTS: u32 = 3;

/// What to save, and how.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    /// A directory, or one file.
    pub source: PathBuf,
    /// The run that the checkpoint joins.
    pub run: RunName,
    /// Its training step.
    pub step: u64,
    /// A checkpoint to take deltas against when the run has none that fits: what this one was fine-tuned from.
    pub parent: Option<ManifestId>,
    /// Replace a checkpoint of the same step.
    pub replace: bool,
    /// What the run must look like.
    pub expect_parent: ExpectParent,
    /// Files to keep as plain bytes, whatever their names say.
    pub opaque: GlobSet,
    /// Most links below a tensor, one more below one that is given another: bounds the time of a restore.
    pub max_depth: u8,
    /// Most stored bytes that a restore of a tensor may read, as a multiple of its own; `None` for any number. A tensor that would
    /// take more even without a base is stored so.
    pub max_restore_ratio: Option<f64>,
    /// Store weights as casts of their f32 masters, at next to no bytes: they are then not decoded without them.
    pub archive_weights: bool,
    /// What the trainer knows about it.
    pub metrics: Metrics,
    /// What a person wants to remember of it.
    pub note: String,
    /// Where it comes from: versions, commands, whatever is worth finding again.
    pub environment: BTreeMap<String, String>,
}

impl SaveRequest {
    /// A request with the defaults.
    pub fn new(source: impl AsRef<Path>, run: RunName, step: u64) -> Self {
        Self {
            source: source.as_ref().to_owned(),
            run,
            step,
            parent: None,
            replace: false,
            expect_parent: ExpectParent::Any,
            opaque: GlobSet::empty(),
            max_depth: DEFAULT_MAX_DEPTH,
            max_restore_ratio: Some(DEFAULT_MAX_RESTORE_RATIO),
            archive_weights: false,
            metrics: Metrics::default(),
            note: String::new(),
            environment: BTreeMap::new(),
        }
    }
}

/// What a save did.
#[derive(Debug, Clone)]
pub struct SaveReport {
    /// The checkpoint.
    pub manifest: ManifestId,
    /// Its place in the run.
    pub seq: u64,
    /// Whether the run held it already, and nothing was written.
    pub already_there: bool,
    /// Bytes of its files.
    pub raw_bytes: u64,
    /// Bytes of the packs and the manifest that were written.
    pub stored_bytes: u64,
    /// Files in it.
    pub files: u32,
    /// Tensors in it.
    pub tensors: u32,
    /// Tensors that were written: those that the store did not hold, or not within the limits that were asked for.
    pub new_tensors: u32,
    /// What lies below the source and is no part of the checkpoint.
    pub left_out: Vec<LeftOut>,
    /// Files that could hold tensors and were kept as plain bytes.
    pub kept_whole: Vec<KeptWhole>,
}

impl Store {
    /// Saves a checkpoint.
    ///
    /// Law: once this returns `Ok`, [`Store::restore`](crate::restore) gives every file back byte for byte. Saving the same
    /// files to the same step again writes nothing and is `Ok`.
    ///
    /// # Errors
    /// `Input`: a file is truncated, lies, or changed while it was read. `Conflict`: the run holds the step with other
    /// content. `OutcomeUnknown`, `Backend`: as for [`commit::commit`]. Whatever was stored before stays as it is.
    pub fn save(&self, request: &SaveRequest, progress: &dyn Progress) -> Result<SaveReport> {
        self.access().require_write()?;
        if request.max_depth > MAX_MAX_DEPTH {
            let detail = format!(
                "a depth of {} is above the limit of {MAX_MAX_DEPTH}",
                request.max_depth
            );
            return Err(StoreError::input(
                "--max-depth",
                detail,
                "Choose a smaller depth; 16 is the default",
            ));
        }
        if request
            .max_restore_ratio
            .is_some_and(|ratio| ratio.is_nan() || ratio < 1.0)
        {
            return Err(StoreError::input(
                "--max-restore-ratio",
                "a restore reads at least about what it writes",
                "Choose a ratio of 1 or more, or `none`; 4 is the default",
            ));
        }
        let Scan { found, left_out } = scan(&request.source, self.objects().local_root())?;
        let raw_bytes = found.iter().map(|f| f.len_bytes).sum();
        progress.start(Stage::Hash, raw_bytes);
        let checkpoint = Checkpoint::read(&found, &request.opaque, progress)?;
        progress.finish();

        let newest = history::newest(self.objects(), &request.run)?;
        let commit = newest
            .as_ref()
            .map(|n| history::newest_commit(self.objects(), n))
            .transpose()?;
        let tip = commit.flatten().map(|commit| commit.manifest);
        if tip.is_none() {
            tags::check_run(self.objects(), &request.run)?;
        }
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
        };
        checkpoint.describe(&mut manifest);
        let fingerprint = manifest.fingerprint();
        let mut options = CommitOptions {
            replace: request.replace,
            expect_parent: request.expect_parent,
            again: false,
        };
        let mut report = SaveReport {
            manifest: ManifestId::of(&[]),
            seq: 0,
            already_there: true,
            raw_bytes: manifest.raw_bytes(),
            stored_bytes: 0,
            files: count(
                manifest
                    .files
                    .iter()
                    .filter(|f| f.content != FileContent::Directory)
                    .count(),
            ),
            tensors: count(manifest.named_tensors().count()),
            new_tensors: 0,
            left_out,
            kept_whole: checkpoint.kept_whole.clone(),
        };
        let standing = commit::precheck(
            self.objects(),
            &request.run,
            newest.as_ref(),
            request.step,
            &fingerprint,
            &options,
        )?;
        let mut mends = false;
        if let (Some(seq), Some(newest)) = (standing, &newest) {
            report.seq = seq;
            report.manifest = history::record_at(self.objects(), newest, seq)?.manifest;
            match self.is_whole(report.manifest)? {
                Some(true) => return Ok(report),
                Some(false) => mends = true,
                // Without its manifest the commit is lost: another takes its place.
                None => options.again = true,
            }
            tracing::warn!(
                "{run}@{} lacks contents, which are stored again",
                request.step,
                run = request.run
            );
        }

        let (stored_bytes, new_tensors) = self.store_contents(
            request,
            &checkpoint,
            newest.as_ref(),
            tip,
            &mut manifest,
            progress,
        )?;
        checkpoint.sources.iter().try_for_each(|s| s.check_unchanged())?;
        let (id, bytes) = manifest.encode()?;
        report.stored_bytes = stored_bytes + bytes.len() as u64;
        report.new_tensors = new_tensors;
        if mends {
            // Contents are found by what they decode to, so the commit that stands is whole again.
            self.catalog.flush();
            report.stored_bytes = stored_bytes;
            return Ok(report);
        }
        self.objects().put_content(&Key::Manifest(id), bytes.into())?;
        let new = NewCommit {
            manifest: id,
            fingerprint,
            step: request.step,
            nonce: Nonce::random()?,
            created_unix_ms: manifest.created_unix_ms,
            metrics: request.metrics.clone(),
            totals: Totals {
                raw_bytes: report.raw_bytes,
                stored_bytes: report.stored_bytes,
                tensors: report.tensors,
                new_tensors,
            },
        };
        let outcome = commit::commit(self.objects(), &request.run, &new, &options)?;
        self.catalog.flush();
        match outcome {
            Outcome::Committed { seq } => {
                report.already_there = false;
                (report.seq, report.manifest) = (seq, id);
            }
            // Another process saved the same files to the same step while this one was at it.
            Outcome::AlreadyThere { seq } => {
                let newest = history::newest_of(self.objects(), &request.run)?;
                (report.seq, report.manifest) =
                    (seq, history::record_at(self.objects(), &newest, seq)?.manifest);
            }
        }
        Ok(report)
    }

    /// Stores what is new and notes in `manifest` where everything is. Returns the bytes written and the number of new
    /// tensors.
    fn store_contents(
        &self,
        request: &SaveRequest,
        checkpoint: &Checkpoint,
        newest: Option<&StoredSlot>,
        tip: Option<ManifestId>,
        manifest: &mut Manifest,
        progress: &dyn Progress,
    ) -> Result<(u64, u32)> {
        let mut attempt = 1;
        let (tensors, blobs, packs, written_bytes) = loop {
            let bases = bases::Bases::new(self, newest, tip, request.parent)?;
            let mut packs = writer::PackQueue::new(self);
            let mut relied = BTreeSet::new();
            progress.start(Stage::Encode, checkpoint.raw_bytes());
            let saver = tensors::TensorSaver {
                encoder: encode::Encoder {
                    store: self,
                    checkpoint,
                    limits: limits::Limits {
                        max_depth: request.max_depth,
                        max_restore_ratio: request.max_restore_ratio,
                    },
                },
                bases: &bases,
                progress,
                archive: request.archive_weights,
                seq: newest.map_or(0, |newest| newest.slot.seq.saturating_add(1)),
            };
            let tensors = saver.save(&mut packs, &mut relied)?;
            let blobs = blobs::store_blobs(self, checkpoint, &bases, &mut packs, &mut relied, progress)?;
            let written_bytes = packs.finish()?;
            progress.finish();
            if self.all_there(&relied)? {
                break (tensors, blobs, packs, written_bytes);
            }
            if attempt == MAX_ATTEMPTS {
                let detail = "packs that this checkpoint leans on keep disappearing while it is saved";
                return Err(StoreError::conflict(
                    detail,
                    "Stop whatever deletes from the store and save again",
                ));
            }
            attempt += 1;
        };
        let mut list = PackList::default();
        let mut new_tensors = 0;
        for (record, stored) in manifest.tensors.iter_mut().zip(&tensors) {
            let holders = if stored.is_new {
                packs.packs_of(record.id.as_bytes())
            } else {
                stored.packs.clone()
            };
            record.packs = holders.into_iter().map(|p| list.index(p)).collect();
            record.rank = stored.rank;
            (record.has_base, record.is_given) = (stored.has_base, stored.is_given);
            record.stored_bytes = stored.stored_bytes;
            record.changed_elems = stored.changed_elems;
            record.max_ulp = stored.max_ulp;
            manifest.archived_weights |= stored.is_cast;
            new_tensors += u32::from(stored.is_new);
        }
        for (record, known) in manifest.blobs.iter_mut().zip(blobs) {
            record.stored_bytes = known.stored_bytes;
            let holder = known
                .pack
                .or_else(|| packs.packs_of(record.id.as_bytes()).first().copied());
            record.pack = holder.map_or(0, |p| list.index(p));
        }
        manifest.packs = list.packs;
        Ok((written_bytes, new_tensors))
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

/// Packs, each once, in the order in which they were first named.
#[derive(Debug, Default)]
pub(crate) struct PackList {
    pub(crate) packs: Vec<PackId>,
    index_of: HashMap<PackId, u32>,
}

impl PackList {
    pub(crate) fn index(&mut self, pack: PackId) -> u32 {
        *self.index_of.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            count(self.packs.len() - 1)
        })
    }
}

/// Where a tensor ended up.
#[derive(Debug, Clone)]
struct StoredTensor {
    packs: Vec<PackId>,
    rank: u8,
    has_base: bool,
    is_given: bool,
    stored_bytes: u64,
    changed_elems: u64,
    max_ulp: u64,
    is_new: bool,
    /// Whether it is a weight that is stored as the cast of its master.
    is_cast: bool,
}

impl StoredTensor {
    /// Notes what a slice of it reads.
    fn note(&mut self, rank: u8, needs: &Needs) {
        self.rank = self.rank.max(rank);
        self.has_base |= needs.base.is_some();
        self.is_given |= needs.given.is_some();
        self.is_cast |= needs
            .given
            .is_some_and(|(relation, _)| relation == Relation::Cast);
    }

    /// Of a new tensor, before any of it is stored.
    fn new() -> Self {
        Self {
            packs: Vec::new(),
            rank: 0,
            has_base: false,
            is_given: false,
            stored_bytes: 0,
            changed_elems: 0,
            max_ulp: 0,
            is_new: true,
            is_cast: false,
        }
    }
}

/// Milliseconds since 1970, by this machine's clock.
fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
