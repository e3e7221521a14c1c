//! Manifests: what one checkpoint consists of (docs/format.md §6).
//!
//! A manifest is named by the BLAKE3 of its stored bytes. Contents are named by what they decode to; the packs beside them are
//! hints, so moving a content to another pack never changes a manifest.

mod checks;
mod content;
mod wire;

use std::collections::BTreeMap;

use tpde_core::wire::Writer;
use tpde_core::{Dtype, ID_LEN, TensorId};

use crate::ids::{BlobId, Fingerprint, LeaseId, ManifestId, PackId};
use crate::metrics::Metrics;
use crate::roles::Role;

pub use wire::{MAX_DIMS, MAX_MANIFEST_BYTES};

/// A tensor's content, and what this save learned about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRecord {
    /// What its bytes hash to.
    pub id: TensorId,
    /// Element type.
    pub dtype: Dtype,
    /// Raw bytes.
    pub len_bytes: u64,
    /// Packs that hold its frames, by index into [`Manifest::packs`]: a hint.
    pub packs: Vec<u32>,
    /// Links below it, through bases and given tensors; 0 for one that is decoded alone.
    pub rank: u8,
    /// Whether a slice of it was taken against a base.
    pub has_base: bool,
    /// Whether a slice of it was coded given another tensor.
    pub is_given: bool,
    /// Bytes that this save wrote for it; 0 if it was already in the store.
    pub stored_bytes: u64,
    /// Elements that differ from its base, slice by slice; those that are not zero, in slices without one.
    pub changed_elems: u64,
    /// Largest distance from its base, in ulps.
    pub max_ulp: u64,
}

/// A part of an opaque file, or of a tensor file's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    /// What its bytes hash to.
    pub id: BlobId,
    /// Its bytes.
    pub len_bytes: u64,
    /// The pack that holds it, by index into [`Manifest::packs`]: a hint.
    pub pack: u32,
    /// Bytes that this save wrote for it; 0 if it was already in the store.
    pub stored_bytes: u64,
}

/// A tensor as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// Name in the file.
    pub name: String,
    /// Shape as the file gives it.
    pub shape: Vec<u64>,
    /// Index into [`Manifest::tensors`].
    pub tensor: u32,
    /// What it is to the run.
    pub role: Role,
}

/// What an entry of the checkpoint's directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// A directory.
    Directory,
    /// Any bytes: the concatenation of blobs.
    Opaque {
        /// BLAKE3 of the file's bytes.
        digest: [u8; ID_LEN],
        /// Indices into [`Manifest::blobs`].
        blobs: Vec<u32>,
    },
    /// A safetensors file: its header as it was, then its tensors in the order of their offsets.
    Safetensors {
        /// Indices into [`Manifest::blobs`]: together the length prefix and the header.
        header: Vec<u32>,
        /// The tensors.
        tensors: Vec<NamedTensor>,
    },
    /// A PyTorch file: the storages of its tensors, and a container of all bytes around them.
    Torch {
        /// Indices into [`Manifest::blobs`]: together the container.
        container: Vec<u32>,
        /// The storages, in the order of their offsets.
        tensors: Vec<NamedTensor>,
        /// For each of them, bytes of the container between it and the one before, or the start of the file. What is left of the
        /// container ends the file.
        gap_bytes: Vec<u64>,
    },
}

impl FileContent {
    /// The tensors that it is made of.
    pub fn tensors(&self) -> &[NamedTensor] {
        match self {
            Self::Safetensors { tensors, .. } | Self::Torch { tensors, .. } => tensors,
            Self::Directory | Self::Opaque { .. } => &[],
        }
    }

    /// Indices into [`Manifest::blobs`] of all that is no tensor's.
    pub fn blobs(&self) -> &[u32] {
        match self {
            Self::Directory => &[],
            Self::Opaque { blobs, .. }
            | Self::Safetensors { header: blobs, .. }
            | Self::Torch { container: blobs, .. } => blobs,
        }
    }
}

/// One entry of the checkpoint's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Path below the checkpoint, `/` between its parts.
    pub path: String,
    /// Unix permission bits.
    pub mode: u32,
    /// What it is.
    pub content: FileContent,
}

/// What one checkpoint consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The run that it was saved to.
    pub run: String,
    /// The training step.
    pub step: u64,
    /// When it was saved, by the saver's clock, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The checkpoint that it follows, if any.
    pub parent: Option<ManifestId>,
    /// What wrote it.
    pub writer: String,
    /// Whether weights were stored as casts of their masters: they are not decoded without them.
    pub archived_weights: bool,
    /// What the trainer knew about it.
    pub metrics: Metrics,
    /// What a person wanted to remember of it.
    pub note: String,
    /// Where it comes from: versions, commands, whatever is worth finding again.
    pub environment: BTreeMap<String, String>,
    /// The lease that it was written under, so that no other writer ever writes this very manifest.
    pub lease: Option<LeaseId>,
    /// Packs that the records name.
    pub packs: Vec<PackId>,
    /// Tensor contents, each once.
    pub tensors: Vec<TensorRecord>,
    /// Blobs, each once.
    pub blobs: Vec<BlobRecord>,
    /// Files and directories, by path.
    pub files: Vec<FileRecord>,
}

impl Manifest {
    /// Digest of what the checkpoint restores to: paths, modes and contents; not when, by whom, or in which packs.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut w = Writer::new();
        for file in &self.files {
            w.prefixed(file.path.as_bytes());
            w.varint(file.mode.into());
            match &file.content {
                FileContent::Directory => w.u8(0),
                FileContent::Opaque { digest, .. } => {
                    w.u8(1);
                    w.raw(digest);
                }
                FileContent::Safetensors { .. } => {
                    w.u8(2);
                    w.raw(&self.file_digest(file));
                }
                FileContent::Torch { .. } => {
                    w.u8(3);
                    w.raw(&self.file_digest(file));
                }
            }
        }
        Fingerprint::of(&w.into_bytes())
    }

    /// Digest of one file: BLAKE3 of an opaque file's bytes; of a tensor file, BLAKE3 over the ids of its header's blobs and of
    /// its tensors, so that no byte is hashed twice; of a PyTorch file, also over where each tensor stands.
    pub fn file_digest(&self, file: &FileRecord) -> [u8; ID_LEN] {
        match &file.content {
            FileContent::Directory => [0; ID_LEN],
            FileContent::Opaque { digest, .. } => *digest,
            FileContent::Safetensors { header, tensors } => {
                let mut hasher = blake3::Hasher::new();
                header.iter().for_each(|&b| {
                    hasher.update(self.blobs[b as usize].id.as_bytes());
                });
                tensors.iter().for_each(|t| {
                    hasher.update(self.tensors[t.tensor as usize].id.as_bytes());
                });
                *hasher.finalize().as_bytes()
            }
            FileContent::Torch {
                container,
                tensors,
                gap_bytes,
            } => {
                let mut w = Writer::new();
                w.varint(container.len() as u64);
                container
                    .iter()
                    .for_each(|&b| w.raw(self.blobs[b as usize].id.as_bytes()));
                for (named, &gap) in tensors.iter().zip(gap_bytes) {
                    w.varint(gap);
                    w.raw(self.tensors[named.tensor as usize].id.as_bytes());
                }
                *blake3::hash(&w.into_bytes()).as_bytes()
            }
        }
    }

    /// Bytes of one file.
    pub fn file_len_bytes(&self, file: &FileRecord) -> u64 {
        let tensors = file.content.tensors().iter();
        self.blobs_len_bytes(file)
            + tensors
                .map(|t| self.tensors[t.tensor as usize].len_bytes)
                .sum::<u64>()
    }

    /// Bytes of one file that are no tensor's.
    pub fn blobs_len_bytes(&self, file: &FileRecord) -> u64 {
        let blobs = file.content.blobs().iter();
        blobs.map(|&b| self.blobs[b as usize].len_bytes).sum()
    }

    /// Bytes of all files.
    pub fn raw_bytes(&self) -> u64 {
        self.files.iter().map(|f| self.file_len_bytes(f)).sum()
    }

    /// Every tensor of every file: the file's path, the name, and the content.
    pub fn named_tensors(&self) -> impl Iterator<Item = (&str, &NamedTensor, &TensorRecord)> {
        self.files.iter().flat_map(|file| {
            let tensors = file.content.tensors().iter();
            tensors.map(|t| (file.path.as_str(), t, &self.tensors[t.tensor as usize]))
        })
    }
}
