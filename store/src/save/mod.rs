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
pub(crate) mod ids;
mod tensors;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use globset::GlobSet;

use crate::commit::{self, CommitOptions, ExpectParent, NewCommit, Outcome};
use crate::error::Result;
use crate::files::scan::scan;
use crate::history;
use crate::ids::{ManifestId, Nonce, PackId};
use crate::keys::Key;
use crate::manifest::{BlobRecord, FileContent, FileRecord, Manifest, NamedTensor, TensorRecord};
use crate::names::RunName;
use crate::progress::{Progress, Stage};
use crate::store::Store;
use crate::summary::Totals;
use ids::{Checkpoint, Content};

/// Most links below a tensor, unless the caller says otherwise.
pub const DEFAULT_MAX_DEPTH: u8 = 16;

/// Most raw bytes that are in memory at once, bases not counted.
pub(crate) const WINDOW_BYTES: u64 = 96 << 20;

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
    /// Most links below a tensor: bounds the time of a restore.
    pub max_depth: u8,
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
    /// Tensors that the store did not hold before.
    pub new_tensors: u32,
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
        let found = scan(&request.source)?;
        let raw_bytes = found.iter().map(|f| f.len_bytes).sum();
        progress.start(Stage::Hash, raw_bytes);
        let checkpoint = Checkpoint::read(&found, &request.opaque, progress)?;
        progress.finish();

        let newest = history::newest(self.objects(), &request.run)?;
        let bases = bases::Bases::new(self, newest.as_ref(), request.parent)?;
        let mut packs = writer::PackQueue::new(self);
        progress.start(Stage::Encode, checkpoint.raw_bytes());
        let mut tensors =
            tensors::store_tensors(self, &checkpoint, &bases, request.max_depth, &mut packs, progress)?;
        let blobs = blobs::store_blobs(self, &checkpoint, &bases, &mut packs, progress)?;
        let written_bytes = packs.finish()?;
        for (tensor, stored) in checkpoint
            .tensors
            .iter()
            .zip(&mut tensors)
            .filter(|(_, stored)| stored.is_new)
        {
            stored.packs = packs.packs_of(tensor.id.as_bytes());
        }
        let blobs: Vec<PackId> = checkpoint
            .blobs
            .iter()
            .zip(blobs)
            .filter_map(|(blob, known)| known.or_else(|| packs.packs_of(blob.id.as_bytes()).first().copied()))
            .collect();
        progress.finish();
        checkpoint.sources.iter().try_for_each(|s| s.check_unchanged())?;

        let new_tensors = tensors.iter().filter(|t| t.is_new).count();
        let manifest = Manifest {
            run: request.run.as_str().to_owned(),
            step: request.step,
            created_unix_ms: now_unix_ms(),
            parent: newest.as_ref().map(|n| n.slot.manifest).or(request.parent),
            writer: concat!("tpde ", env!("CARGO_PKG_VERSION")).to_owned(),
            packs: Vec::new(),
            tensors: Vec::new(),
            blobs: Vec::new(),
            files: Vec::new(),
        };
        let manifest = fill(manifest, &checkpoint, &tensors, &blobs);
        let (id, bytes) = manifest.encode()?;
        let stored_bytes = written_bytes + bytes.len() as u64;
        self.objects().put_content(&Key::Manifest(id), bytes.into())?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let totals = Totals {
            raw_bytes: manifest.raw_bytes(),
            stored_bytes,
            tensors: count(manifest.named_tensors().count()),
            new_tensors: count(new_tensors),
        };
        let new = NewCommit {
            manifest: id,
            fingerprint: manifest.fingerprint(),
            step: request.step,
            nonce: Nonce::random()?,
            created_unix_ms: manifest.created_unix_ms,
            totals,
        };
        let options = CommitOptions {
            replace: request.replace,
            expect_parent: request.expect_parent,
        };
        let outcome = commit::commit(self.objects(), &request.run, &new, &options)?;
        self.catalog.flush();
        let report = |seq, already_there, manifest_id, stored_bytes| SaveReport {
            manifest: manifest_id,
            seq,
            already_there,
            raw_bytes: totals.raw_bytes,
            stored_bytes,
            files: count(manifest.files.len()),
            tensors: totals.tensors,
            new_tensors: totals.new_tensors,
        };
        Ok(match outcome {
            Outcome::Committed { seq } => report(seq, false, id, stored_bytes),
            Outcome::AlreadyThere { seq } => {
                let newest = history::newest_of(self.objects(), &request.run)?;
                let there = history::commit_at(self.objects(), &newest, seq)?;
                report(seq, true, there.manifest, 0)
            }
        })
    }
}

/// Where a tensor ended up.
#[derive(Debug, Clone)]
struct StoredTensor {
    packs: Vec<PackId>,
    rank: u8,
    stored_bytes: u64,
    changed_elems: u64,
    max_ulp: u64,
    is_new: bool,
}

/// Fills in what the checkpoint holds and where it is.
fn fill(
    mut manifest: Manifest,
    checkpoint: &Checkpoint,
    tensors: &[StoredTensor],
    blobs: &[PackId],
) -> Manifest {
    let mut index_of = HashMap::new();
    let mut packs = Vec::new();
    let mut index = |pack: PackId| -> u32 {
        *index_of.entry(pack).or_insert_with(|| {
            packs.push(pack);
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        })
    };
    for (tensor, stored) in checkpoint.tensors.iter().zip(tensors) {
        manifest.tensors.push(TensorRecord {
            id: tensor.id,
            dtype: tensor.dtype,
            len_bytes: tensor.len_bytes,
            packs: stored.packs.iter().map(|&p| index(p)).collect(),
            rank: stored.rank,
            stored_bytes: stored.stored_bytes,
            changed_elems: stored.changed_elems,
            max_ulp: stored.max_ulp,
        });
    }
    for (blob, &pack) in checkpoint.blobs.iter().zip(blobs) {
        manifest.blobs.push(BlobRecord {
            id: blob.id,
            len_bytes: blob.len_bytes as u64,
            pack: index(pack),
        });
    }
    manifest.packs = packs;
    for file in &checkpoint.files {
        let content = match &file.content {
            Content::Directory => FileContent::Directory,
            Content::Opaque { digest, blobs } => FileContent::Opaque {
                digest: *digest,
                blobs: blobs.clone(),
            },
            Content::Safetensors { header, tensors } => FileContent::Safetensors {
                header: header.clone(),
                tensors: tensors
                    .iter()
                    .map(|(name, shape, tensor)| NamedTensor {
                        name: name.clone(),
                        shape: shape.clone(),
                        tensor: *tensor,
                    })
                    .collect(),
            },
        };
        manifest.files.push(FileRecord {
            path: file.path.clone(),
            mode: file.mode,
            content,
        });
    }
    manifest
}

/// Milliseconds since 1970, by this machine's clock.
fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
