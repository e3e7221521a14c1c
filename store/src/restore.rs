//! Restore: a checkpoint's files, byte for byte, verified.
//!
//! ```text
//! manifest ─▶ graphs (all names resolved first) ─▶ ranged reads ─▶ decode tile by tile ─▶ verify ─▶ temporary file ─▶ rename
//! ```

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;

use globset::GlobSet;
use rayon::prelude::*;
use tpde_core::{SubtreeHash, TensorId, merge_subtrees, slices_of};

use crate::content::{read_blob, read_slice};
use crate::error::{Result, StoreError};
use crate::files::target::{TargetDir, TargetFile};
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::manifest::{FileContent, FileRecord, Manifest, NamedTensor, TensorRecord};
use crate::progress::{Progress, Stage};
use crate::store::Store;
use crate::summary::count;
use crate::window::{decoding_bytes, windows};

/// What is added to the name of a PyTorch file of which only some tensors are restored.
pub const EXCERPT: &str = ".safetensors";

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The checkpoint.
    pub manifest: ManifestId,
    /// The directory to write into; made if it is not there.
    pub target: PathBuf,
    /// Only files whose path matches.
    pub files: Option<GlobSet>,
    /// Only tensors whose name matches; tensor files then hold those alone, under a header of their own. What is asked for of a
    /// PyTorch file goes into a safetensors file, with [`EXCERPT`] at the end of its name.
    pub tensors: Option<GlobSet>,
    /// Write over files that are there.
    pub overwrite: bool,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Files written.
    pub files: u32,
    /// Tensors in them.
    pub tensors: u32,
    /// Bytes written.
    pub bytes: u64,
    /// Files that the checkpoint has.
    pub of_files: u32,
    /// Tensors that the checkpoint has.
    pub of_tensors: u32,
    /// Unfinished files of interrupted restores that were removed.
    pub stale_files: u64,
    /// Files in the target that are none of the checkpoint's; looked for only if files were to be written over.
    pub other_files: u64,
}

/// A file that is to be written.
struct Chosen<'m> {
    path: Cow<'m, str>,
    record: &'m FileRecord,
}

impl Chosen<'_> {
    fn is_directory(&self) -> bool {
        self.record.content == FileContent::Directory
    }
}

/// One piece of a file that is to be written.
enum Part {
    Slice {
        file: usize,
        tensor: usize,
        slice: u32,
        graph: Graph,
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
    /// Bytes in memory while it is written.
    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Slice { len_bytes, graph, .. } => decoding_bytes(*len_bytes as u64, graph),
            Self::Bytes { .. } | Self::Header { .. } => self.len_bytes(),
        }
    }

    fn len_bytes(&self) -> u64 {
        match self {
            Self::Slice { len_bytes, .. } | Self::Bytes { len_bytes, .. } => *len_bytes as u64,
            Self::Header { bytes, .. } => bytes.len() as u64,
        }
    }
}

impl Store {
    /// Writes a checkpoint's files.
    ///
    /// Law: every file is the one that was saved, byte for byte, with its permissions; each tensor and blob is compared with
    /// its id before the file gets its name. On an error no file that was not finished is left; what a killed restore left in the
    /// same place is removed.
    ///
    /// # Errors
    /// `Interrupted`: `progress` said so; every file is either whole or not there.
    /// `Corrupt`: something does not hash to its id; nothing wrong was left behind. `Input`: a file is in the way, or the disk
    /// is full. `NotFound`: no file or tensor matches.
    pub fn restore(&self, request: &RestoreRequest, progress: &dyn Progress) -> Result<RestoreReport> {
        let manifest = self.named_manifest(request.manifest)?;
        let files = select(&manifest, request)?;
        let mut plan = Plan {
            store: self,
            manifest: &manifest,
            parts: Vec::new(),
            lens: Vec::new(),
        };
        for (number, file) in files.iter().enumerate() {
            go_on(progress, 0)?;
            plan.file(number, file.record, request.tensors.as_ref())?;
        }
        let Plan { parts, lens, .. } = plan;

        // Whoever watches must know before the first file is there that this is no moment to be killed.
        progress.start(Stage::Restore, lens.iter().sum());
        let target = TargetDir::create(&request.target)?;
        for file in &files {
            target.place(&file.path, request.overwrite)?;
        }
        let paths: Vec<&str> = files.iter().map(|f| &*f.path).collect();
        let stale_files = target.remove_stale(&paths);
        for file in files.iter().filter(|f| f.is_directory()) {
            target.directory(&file.path)?;
        }
        let mut open = Vec::with_capacity(files.len());
        for (file, &len_bytes) in files.iter().zip(&lens) {
            open.push(match file.is_directory() {
                true => None,
                false => Some(target.file(&file.path, file.record.mode, len_bytes, request.overwrite)?),
            });
        }
        self.write_parts(&manifest, &parts, &open, progress)?;
        progress.finish();
        for (done, file) in open.into_iter().flatten().enumerate() {
            go_on(progress, done)?;
            file.commit()?;
        }
        // Children before parents, for a parent may be read-only.
        for file in files.iter().rev().filter(|f| f.is_directory()) {
            target.directory_mode(&file.path, file.record.mode)?;
        }
        target.sync(&paths)?;
        let all = manifest.files.iter();
        let known = all
            .clone()
            .map(|f| f.path.as_str())
            .chain(paths.iter().copied())
            .collect();
        Ok(RestoreReport {
            of_files: count(all.filter(|f| f.content != FileContent::Directory).count()),
            of_tensors: count(manifest.named_tensors().count()),
            stale_files,
            other_files: if request.overwrite {
                target.others(&known)
            } else {
                0
            },
            files: count(files.iter().filter(|f| !f.is_directory()).count()),
            tensors: count(
                files
                    .iter()
                    .map(|f| tensors_of(f.record, request.tensors.as_ref()).count())
                    .sum(),
            ),
            bytes: lens.iter().sum(),
        })
    }

    fn write_parts(
        &self,
        manifest: &Manifest,
        parts: &[Part],
        open: &[Option<TargetFile>],
        progress: &dyn Progress,
    ) -> Result<()> {
        let write = |file: usize, at: u64, bytes: &[u8]| -> Result<()> {
            open[file].as_ref().map_or(Ok(()), |f| f.write_at(at, bytes))
        };
        // Slices of one tensor follow one another, so the hashes of a tensor are merged when the next one begins.
        let mut current: Option<(TensorId, Vec<SubtreeHash>)> = None;
        for window in windows(parts, Part::memory_bytes) {
            let done: Result<Vec<Option<SubtreeHash>>> = window
                .par_iter()
                .map(|part| {
                    go_on(progress, 0)?;
                    let hash = match part {
                        Part::Slice {
                            file,
                            tensor,
                            graph,
                            at,
                            len_bytes,
                            ..
                        } => {
                            let mut bytes = vec![0; *len_bytes];
                            let id = manifest.tensors[*tensor].id;
                            let hash = read_slice(self.objects(), id, graph, &mut bytes)?;
                            write(*file, *at, &bytes)?;
                            Some(hash)
                        }
                        Part::Bytes {
                            file,
                            blob,
                            places,
                            len_bytes,
                        } => {
                            let blob = &manifest.blobs[*blob];
                            let hint = manifest.packs[blob.pack as usize];
                            let bytes = read_blob(self.objects(), &self.catalog, blob.id, &[hint])?;
                            if bytes.len() != *len_bytes {
                                let detail = format!("it has {} bytes, not {len_bytes}", bytes.len());
                                return Err(StoreError::corrupt(format!("blob {}", blob.id.short()), detail));
                            }
                            for &(from, at, len) in places {
                                write(*file, at, &bytes[from..from + len])?;
                            }
                            None
                        }
                        Part::Header { file, bytes } => {
                            write(*file, 0, bytes)?;
                            None
                        }
                    };
                    progress.advance(part.len_bytes());
                    Ok(hash)
                })
                .collect();
            for (part, hash) in window.iter().zip(done?) {
                let (Part::Slice { tensor, slice, .. }, Some(hash)) = (part, hash) else {
                    continue;
                };
                match &mut current {
                    Some((_, hashes)) if *slice > 0 => hashes.push(hash),
                    _ => {
                        let next = (manifest.tensors[*tensor].id, vec![hash]);
                        if let Some((id, hashes)) = current.replace(next) {
                            check_tensor(id, &hashes)?;
                        }
                    }
                }
            }
        }
        current.map_or(Ok(()), |(id, hashes)| check_tensor(id, &hashes))
    }
}

/// Stops a restore of which `done` files are in place, if whoever waits wants it to.
fn go_on(progress: &dyn Progress, done: usize) -> Result<()> {
    match (progress.is_cancelled(), done) {
        (false, _) => Ok(()),
        (true, 0) => Err(StoreError::interrupted("no file was written")),
        (true, done) => Err(StoreError::interrupted(format!(
            "the first {done} files are in place and whole, no other was written"
        ))),
    }
}

/// Compares the merged hashes of a tensor's slices with its id.
pub(crate) fn check_tensor(id: TensorId, slices: &[SubtreeHash]) -> Result<()> {
    match merge_subtrees(slices) {
        Some(found) if found == id => Ok(()),
        found => Err(StoreError::corrupt(
            format!("tensor {}", id.short()),
            format!(
                "it decodes to {}",
                found.map_or("something that is no tensor".into(), |f| f.short())
            ),
        )),
    }
}

struct Plan<'s> {
    store: &'s Store,
    manifest: &'s Manifest,
    parts: Vec<Part>,
    lens: Vec<u64>,
}

impl Plan<'_> {
    fn file(&mut self, number: usize, file: &FileRecord, only: Option<&GlobSet>) -> Result<()> {
        let mut at = 0;
        match &file.content {
            FileContent::Directory => {}
            FileContent::Opaque { blobs, .. } => at = self.blobs(number, blobs, at),
            FileContent::Safetensors { .. } | FileContent::Torch { .. } if only.is_some() => {
                let bytes = subset_header(self.manifest, file, only)?;
                at = bytes.len() as u64;
                self.parts.push(Part::Header { file: number, bytes });
                for named in tensors_of(file, only) {
                    at = self.tensor(number, named.tensor as usize, at)?;
                }
            }
            FileContent::Safetensors { header, tensors } => {
                at = self.blobs(number, header, at);
                for named in tensors {
                    at = self.tensor(number, named.tensor as usize, at)?;
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
                    at = self.tensor(number, named.tensor as usize, at + gap)?;
                }
                stretches.push((left, at));
                at += left;
                self.scattered(number, container, stretches);
            }
        }
        self.lens.push(at);
        Ok(())
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

    fn tensor(&mut self, file: usize, tensor: usize, at: u64) -> Result<u64> {
        let record = &self.manifest.tensors[tensor];
        for (slice, offset_bytes, len_bytes) in slices(record) {
            let hints = hints(self.manifest, record);
            let graph =
                self.store
                    .catalog
                    .slice(self.store.objects(), record.id, record.dtype, slice, &hints)?;
            self.parts.push(Part::Slice {
                file,
                tensor,
                slice,
                graph,
                at: at + offset_bytes,
                len_bytes,
            });
        }
        Ok(at + record.len_bytes)
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

fn tensors_of<'f>(file: &'f FileRecord, only: Option<&GlobSet>) -> impl Iterator<Item = &'f NamedTensor> {
    let tensors = file.content.tensors().iter();
    tensors.filter(move |t| only.is_none_or(|only| only.is_match(&t.name)))
}

fn select<'m>(manifest: &'m Manifest, request: &RestoreRequest) -> Result<Vec<Chosen<'m>>> {
    let chosen = |record: &'m FileRecord| Chosen {
        path: match (&record.content, &request.tensors) {
            (FileContent::Torch { .. }, Some(_)) => Cow::Owned(format!("{}{EXCERPT}", record.path)),
            _ => Cow::Borrowed(&record.path),
        },
        record,
    };
    let files: Vec<Chosen<'m>> = manifest
        .files
        .iter()
        .filter(|f| request.files.as_ref().is_none_or(|only| only.is_match(&f.path)))
        .filter(|f| request.tensors.is_none() || tensors_of(f, request.tensors.as_ref()).next().is_some())
        .map(chosen)
        .collect();
    if files.is_empty() {
        let what = match (&request.files, &request.tensors) {
            (Some(_), Some(_)) => "a file with that path that holds a tensor with that name",
            (_, Some(_)) => "a tensor whose name matches --tensors",
            (_, None) => "a file whose path matches --files",
        };
        let (run, step) = (&manifest.run, manifest.step);
        let tensors = if request.tensors.is_some() {
            " --tensors"
        } else {
            ""
        };
        let hint = format!("Run `tpde ls {run}@{step}{tensors}` to see what there is");
        return Err(StoreError::not_found(what, hint));
    }
    let mut paths = HashSet::new();
    if let Some(twice) = files.iter().find(|f| !paths.insert(&*f.path)) {
        return Err(StoreError::input(
            &*twice.path,
            format!("both it and what is asked for of a file without {EXCERPT} would go there"),
            "Choose one of them with --files",
        ));
    }
    Ok(files)
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
