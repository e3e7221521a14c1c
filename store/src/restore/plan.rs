//! What a restore writes where, and what each piece of it is decoded from.

use globset::GlobSet;
use tpde_core::slices_of;

use super::detour::Source;
use super::go_on;
use crate::catalog::{Catalog, Sought};
use crate::error::{Result, StoreError};
use crate::ids::PackId;
use crate::manifest::{FileContent, FileRecord, Manifest, NamedTensor, TensorRecord};
use crate::objects::{Objects, at_once};
use crate::progress::Progress;
use crate::transfer::{Stretch, stretches};
use crate::window::decoding_bytes;

/// One piece of a file that is to be written.
pub(super) enum Part {
    Slice {
        file: usize,
        tensor: usize,
        slice: u32,
        at: u64,
        len_bytes: usize,
    },
    Bytes {
        file: usize,
        blob: usize,
        /// Where its bytes go: from which of them on, where to, how many.
        places: Vec<(usize, u64, usize)>,
        len_bytes: usize,
    },
    Header {
        file: usize,
        bytes: Vec<u8>,
    },
}

impl Part {
    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Self::Slice { len_bytes, .. } | Self::Bytes { len_bytes, .. } => *len_bytes as u64,
            Self::Header { bytes, .. } => bytes.len() as u64,
        }
    }
}

/// A piece, and what it is decoded from.
pub(super) struct Job {
    pub(super) part: Part,
    /// `None` of a header that is made here.
    pub(super) source: Option<Source>,
}

impl Job {
    /// The stored pieces that it is decoded from.
    pub(super) fn reads(&self) -> Vec<Stretch> {
        self.source
            .iter()
            .flat_map(|source| stretches(source.graph()))
            .collect()
    }

    /// Bytes in memory while it is written.
    pub(super) fn memory_bytes(&self) -> u64 {
        let len_bytes = self.part.len_bytes();
        let source = self.source.as_ref();
        source.map_or(len_bytes, |source| decoding_bytes(len_bytes, source.graph()))
    }
}

/// The pieces of files, in the order in which they are written.
pub(super) struct Plan<'m> {
    manifest: &'m Manifest,
    parts: Vec<Part>,
    /// Bytes of every file.
    pub(super) lens: Vec<u64>,
}

impl<'m> Plan<'m> {
    pub(super) fn new(manifest: &'m Manifest) -> Self {
        Self {
            manifest,
            parts: Vec::new(),
            lens: Vec::new(),
        }
    }

    /// Finds what every piece is decoded from: all names are resolved before any byte moves.
    ///
    /// # Errors
    /// As [`Graph::resolve`]; `Interrupted` if `progress` says so.
    pub(super) fn resolve(
        self,
        catalog: &Catalog,
        objects: &Objects,
        progress: &dyn Progress,
    ) -> Result<Vec<Job>> {
        let manifest = self.manifest;
        let sources = at_once(objects, &self.parts, |part| {
            go_on(progress, 0)?;
            match part {
                Part::Slice { tensor, slice, .. } => {
                    let record = &manifest.tensors[*tensor];
                    let sought = Sought::slice(record.id, record.dtype, *slice);
                    Source::resolve(catalog, objects, sought, hints(manifest, record)).map(Some)
                }
                Part::Bytes { blob, .. } => {
                    let blob = &manifest.blobs[*blob];
                    let hint = manifest.packs[blob.pack as usize];
                    Source::resolve(catalog, objects, Sought::blob(blob.id), vec![hint]).map(Some)
                }
                Part::Header { .. } => Ok(None),
            }
        })?;
        let jobs = self.parts.into_iter().zip(sources);
        Ok(jobs.map(|(part, source)| Job { part, source }).collect())
    }

    /// Adds a file.
    ///
    /// * `only`: of files of tensors, those alone.
    ///
    /// # Errors
    /// `Corrupt` if the manifest's text cannot be written as a header.
    pub(super) fn file(&mut self, number: usize, file: &FileRecord, only: Option<&GlobSet>) -> Result<()> {
        let mut at = 0;
        match &file.content {
            FileContent::Directory => {}
            FileContent::Opaque { blobs, .. } => at = self.blobs(number, blobs, at),
            FileContent::Safetensors { .. } | FileContent::Torch { .. } if only.is_some() => {
                let bytes = subset_header(self.manifest, file, only)?;
                at = bytes.len() as u64;
                self.parts.push(Part::Header { file: number, bytes });
                for named in tensors_of(file, only) {
                    at = self.tensor(number, named.tensor as usize, at);
                }
            }
            FileContent::Safetensors { header, tensors } => {
                at = self.blobs(number, header, at);
                for named in tensors {
                    at = self.tensor(number, named.tensor as usize, at);
                }
            }
            FileContent::Torch {
                container,
                tensors,
                gap_bytes,
            } => {
                // Stretches of the container, each with the place in the file where it starts.
                let (mut left, mut stretches) = (self.manifest.blobs_len_bytes(file), Vec::new());
                for (named, &gap) in tensors.iter().zip(gap_bytes) {
                    stretches.push((gap, at));
                    left = left.saturating_sub(gap);
                    at = self.tensor(number, named.tensor as usize, at + gap);
                }
                stretches.push((left, at));
                at += left;
                self.scattered(number, container, stretches);
            }
        }
        self.lens.push(at);
        Ok(())
    }

    /// Adds a tensor alone, as if it were a file.
    pub(super) fn lone_tensor(&mut self, number: usize, tensor: usize) {
        let end = self.tensor(number, tensor, 0);
        self.lens.push(end);
    }

    /// Writes blobs one after another from `at` on; gives where they end.
    fn blobs(&mut self, file: usize, blobs: &[u32], at: u64) -> u64 {
        let lens = blobs.iter().map(|&b| self.manifest.blobs[b as usize].len_bytes);
        let all = lens.sum();
        self.scattered(file, blobs, [(all, at)]);
        at + all
    }

    /// Writes blobs into stretches of a file.
    ///
    /// * `stretches`: length and place of each; together as long as the blobs.
    fn scattered(&mut self, file: usize, blobs: &[u32], stretches: impl IntoIterator<Item = (u64, u64)>) {
        let mut stretches = stretches.into_iter();
        let mut next = stretches.next();
        for &blob in blobs {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a manifest with longer blobs is not read"
            )]
            let len_bytes = self.manifest.blobs[blob as usize].len_bytes as usize;
            let (mut from, mut places) = (0, Vec::new());
            while let Some((len, at)) = &mut next
                && from < len_bytes
            {
                let here = usize::try_from(*len).unwrap_or(usize::MAX).min(len_bytes - from);
                if here > 0 {
                    places.push((from, *at, here));
                }
                from += here;
                *len -= here as u64;
                *at += here as u64;
                if *len == 0 {
                    next = stretches.next();
                }
            }
            self.parts.push(Part::Bytes {
                file,
                blob: blob as usize,
                places,
                len_bytes,
            });
        }
    }

    /// Adds a tensor's slices from `at` on; gives where they end.
    fn tensor(&mut self, file: usize, tensor: usize, at: u64) -> u64 {
        let record = &self.manifest.tensors[tensor];
        for (slice, offset_bytes, len_bytes) in slices(record) {
            self.parts.push(Part::Slice {
                file,
                tensor,
                slice,
                at: at + offset_bytes,
                len_bytes,
            });
        }
        at + record.len_bytes
    }
}

/// Number, offset and length in bytes of every slice of a tensor.
pub(crate) fn slices(record: &TensorRecord) -> impl Iterator<Item = (u32, u64, usize)> + use<> {
    let word = record.dtype.word_bytes() as u64;
    (0u32..)
        .zip(slices_of(record.dtype, record.len_bytes / word))
        .map(move |(i, range)| {
            #[expect(clippy::cast_possible_truncation, reason = "at most SLICE_BYTES")]
            let len = ((range.end - range.start) * word) as usize;
            (i, range.start * word, len)
        })
}

/// Packs that the manifest names for a tensor.
pub(crate) fn hints(manifest: &Manifest, record: &TensorRecord) -> Vec<PackId> {
    record.packs.iter().map(|&p| manifest.packs[p as usize]).collect()
}

pub(super) fn tensors_of<'f>(
    file: &'f FileRecord,
    only: Option<&GlobSet>,
) -> impl Iterator<Item = &'f NamedTensor> {
    let tensors = file.content.tensors().iter();
    tensors.filter(move |t| only.is_none_or(|only| only.is_match(&t.name)))
}

/// A header for the tensors that were asked for, in the order of the file.
fn subset_header(manifest: &Manifest, file: &FileRecord, only: Option<&GlobSet>) -> Result<Vec<u8>> {
    let mut json = serde_json::Map::new();
    let mut at = 0u64;
    for named in tensors_of(file, only) {
        let record = &manifest.tensors[named.tensor as usize];
        let end = at + record.len_bytes;
        let entry = serde_json::json!({
            "dtype": record.dtype.name(), "shape": named.shape, "data_offsets": [at, end],
        });
        json.insert(named.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::to_vec(&json).map_err(|e| StoreError::corrupt("manifest", e.to_string()))?;
    // As the safetensors library pads it: the data starts at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&text);
    Ok(header)
}
