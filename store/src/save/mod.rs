//! Save: files in, one commit out.
//!
//! ```text
//! scan ─▶ ids (tensors and blobs, by hash) ─known? done─▶ choose base ─▶ encode ─▶ packs ─▶ manifest ─▶ slot
//! ```
//!
//! Files are read twice, by position and in bounded windows: once for the ids, once for what is new. A file that changes in
//! between is an error, and the store is as it was: nothing refers to the packs that were written.

mod attempt;
pub(crate) mod bases;
mod blobs;
mod choice;
pub(crate) mod contents;
mod encode;
pub(crate) mod ids;
pub(crate) mod limits;
pub mod parts;
pub(crate) mod same;
mod tensors;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use tpde_core::Relation;

use crate::commit::ExpectParent;
use crate::error::{Result, StoreError};
use crate::files::left_out::LeftOut;
use crate::files::memory::{self, MemoryFile};
use crate::files::scan::{Scan, scan};
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::lease::under_lease;
use crate::metrics::Metrics;
use crate::names::RunName;
use crate::pack::Needs;
use crate::progress::{Progress, Stage};
use crate::store::Store;
use attempt::Attempt;
pub use ids::KeptWhole;

use ids::Checkpoint;

/// Most links below a tensor, unless the caller says otherwise.
pub const DEFAULT_MAX_DEPTH: u8 = 16;

/// Most stored bytes that a restore of a tensor reads, as a multiple of its own, unless the caller says otherwise. Chains of small
/// deltas never come near; those of dense ones start a new branch before a restore gets slow (docs/adr/0010).
pub const DEFAULT_MAX_RESTORE_RATIO: f64 = 4.0;

/// Most links that a caller may allow: a restore holds the frames of a whole chain.
pub const MAX_MAX_DEPTH: u8 = 64;

/// Where the files of a checkpoint are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory, or one file.
    Path(PathBuf),
    /// In memory.
    Memory(Vec<MemoryFile>),
}

impl Source {
    /// Lists the files.
    ///
    /// * `own`: the folder of the store that is saved to, if it is one on this machine.
    fn scan(&self, own: Option<&Path>) -> Result<Scan> {
        match self {
            Self::Path(path) => scan(path, own),
            Self::Memory(files) => Ok(Scan {
                found: memory::list(files)?,
                left_out: Vec::new(),
            }),
        }
    }
}

/// What to save, and how.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    /// Where its files are.
    pub source: Source,
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
    /// A request for what lies at a path, with the defaults.
    pub fn new(source: impl AsRef<Path>, run: RunName, step: u64) -> Self {
        Self::of(Source::Path(source.as_ref().to_owned()), run, step)
    }

    /// A request for files in memory, with the defaults.
    pub fn of_memory(files: Vec<MemoryFile>, run: RunName, step: u64) -> Self {
        Self::of(Source::Memory(files), run, step)
    }

    fn of(source: Source, run: RunName, step: u64) -> Self {
        Self {
            source,
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
    /// content. `OutcomeUnknown`, `Backend`: as for [`crate::commit::commit`]. Whatever was stored before stays as it is.
    pub fn save(&self, request: &SaveRequest, progress: &dyn Progress) -> Result<SaveReport> {
        self.access().require_write()?;
        check_limits(request)?;
        let Scan { found, left_out } = request.source.scan(self.objects().local_root())?;
        let raw_bytes = found.iter().map(|f| f.len_bytes).sum();
        progress.start(Stage::Hash, raw_bytes);
        let checkpoint = Checkpoint::read(&found, &request.opaque, progress)?;
        progress.finish();

        let work = format!("save {}@{}", request.run, request.step);
        let mut attempt = Attempt::new(request, &checkpoint, left_out, progress);
        let report = under_lease(self, &work, |lease| attempt.run(lease))?;
        self.catalog.flush();
        Ok(report)
    }
}

/// Checks what a caller allows of a restore.
fn check_limits(request: &SaveRequest) -> Result<()> {
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
    Ok(())
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

    /// Of a tensor before what the store lacks of it is stored.
    ///
    /// * `held`: of each slice what it is decoded from, if the store holds it.
    fn of(held: &[Option<Graph>]) -> Self {
        let mut stored = Self {
            packs: Vec::new(),
            rank: 0,
            has_base: false,
            is_given: false,
            stored_bytes: 0,
            changed_elems: 0,
            max_ulp: 0,
            is_new: held.iter().any(Option::is_none),
            is_cast: false,
        };
        for graph in held.iter().flatten() {
            let top = graph.top();
            if !stored.packs.contains(&top.pack) {
                stored.packs.push(top.pack);
            }
            stored.note(graph.rank(), &top.entry().needs);
        }
        stored
    }
}
