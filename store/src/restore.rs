//! Restore: a checkpoint's files, byte for byte, verified.
//!
//! ```text
//! manifest ─▶ graphs (all names resolved first) ─▶ ranged reads ─▶ decode tile by tile ─▶ verify ─▶ temporary file ─▶ rename
//!                                                                                    load: └─▶ verify ─▶ memory of the caller
//! ```

mod detour;
pub(crate) mod load;
mod plan;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;

use globset::GlobSet;
use rayon::prelude::*;
use tpde_core::{SubtreeHash, TensorId, merge_subtrees};

use crate::content::{read_blob_graph, read_slice};
use crate::error::{Result, StoreError};
use crate::files::target::TargetDir;
use crate::ids::ManifestId;
use crate::manifest::{FileContent, FileRecord, Manifest};
use crate::progress::{Progress, Stage};
use crate::store::Store;
use crate::summary::count;
use crate::transfer::{Moved, Pieces, ahead};
use detour::Detours;
use plan::{Job, Part, Plan, tensors_of};

pub(crate) use plan::{hints, slices};

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
    /// What a server sent of packs.
    pub moved: Moved,
}

/// Takes decoded bytes: number of the file, place in it, bytes.
type Write<'w> = dyn Fn(usize, u64, &[u8]) -> Result<()> + Sync + 'w;

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
        let mut plan = Plan::new(&manifest);
        for (number, file) in files.iter().enumerate() {
            plan.file(number, file.record, request.tensors.as_ref())?;
        }
        let lens = std::mem::take(&mut plan.lens);
        let jobs = plan.resolve(&self.catalog, self.objects(), progress)?;

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
        let write = |file: usize, at: u64, bytes: &[u8]| -> Result<()> {
            open[file].as_ref().map_or(Ok(()), |f| f.write_at(at, bytes))
        };
        let moved = self.write(&manifest, &jobs, &write, progress)?;
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
            moved,
        })
    }

    /// Brings everything that a checkpoint is decoded from, as a restore does, and decodes nothing: what this machine keeps of packs
    /// is complete afterwards, if it keeps any and has room.
    ///
    /// # Errors
    /// As [`Store::restore`].
    pub fn fetch(&self, id: ManifestId, progress: &dyn Progress) -> Result<Moved> {
        let manifest = self.named_manifest(id)?;
        let mut plan = Plan::new(&manifest);
        for (number, file) in manifest.files.iter().enumerate() {
            plan.file(number, file, None)?;
        }
        let jobs = plan.resolve(&self.catalog, self.objects(), progress)?;
        progress.start(Stage::Fetch, jobs.iter().map(|job| job.part.len_bytes()).sum());
        let moved = ahead(
            Pieces::cached(self.objects()),
            &jobs,
            Job::memory_bytes,
            Job::reads,
            |window, _| {
                go_on(progress, 0)?;
                progress.advance(window.iter().map(|job| job.part.len_bytes()).sum());
                Ok(())
            },
        )?;
        progress.finish();
        Ok(moved)
    }

    /// Decodes every job and hands its bytes to `write`; each tensor is compared with its id, and
    /// so is each blob before it is written.
    fn write(
        &self,
        manifest: &Manifest,
        jobs: &[Job],
        write: &Write<'_>,
        progress: &dyn Progress,
    ) -> Result<Moved> {
        // Slices of one tensor follow one another, so the hashes of a tensor are merged when the next one begins.
        let mut current: Option<(TensorId, Vec<SubtreeHash>)> = None;
        let detours = Detours::new(self);
        let moved = ahead(
            Pieces::cached(self.objects()),
            jobs,
            Job::memory_bytes,
            Job::reads,
            |window, pieces| {
                let done: Result<Vec<Option<SubtreeHash>>> = window
                    .par_iter()
                    .map(|job| {
                        go_on(progress, 0)?;
                        let hash = write_one(manifest, job, pieces, &detours, write)?;
                        progress.advance(job.part.len_bytes());
                        Ok(hash)
                    })
                    .collect();
                for (job, hash) in window.iter().zip(done?) {
                    let (Part::Slice { tensor, slice, .. }, Some(hash)) = (&job.part, hash) else {
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
                Ok(())
            },
        )?;
        current.map_or(Ok(()), |(id, hashes)| check_tensor(id, &hashes))?;
        Ok(moved)
    }
}

/// Decodes one piece and writes it to its place; gives the hash of a slice.
fn write_one(
    manifest: &Manifest,
    job: &Job,
    pieces: Pieces<'_>,
    detours: &Detours<'_>,
    write: &Write<'_>,
) -> Result<Option<SubtreeHash>> {
    match (&job.part, &job.source) {
        (
            Part::Slice {
                file,
                tensor,
                at,
                len_bytes,
                ..
            },
            Some(source),
        ) => {
            let mut bytes = vec![0; *len_bytes];
            let record = &manifest.tensors[*tensor];
            let hash = detours.read(source, pieces, |pieces, graph| {
                read_slice(pieces, record.id, graph, &mut bytes)
            })?;
            write(*file, *at, &bytes)?;
            Ok(Some(hash))
        }
        (
            Part::Bytes {
                file,
                blob,
                places,
                len_bytes,
            },
            Some(source),
        ) => {
            let blob = &manifest.blobs[*blob];
            let bytes = detours.read(source, pieces, |pieces, graph| {
                read_blob_graph(pieces, blob.id, graph)
            })?;
            if bytes.len() != *len_bytes {
                let detail = format!("it has {} bytes, not {len_bytes}", bytes.len());
                return Err(StoreError::corrupt(format!("blob {}", blob.id.short()), detail));
            }
            for &(from, at, len) in places {
                write(*file, at, &bytes[from..from + len])?;
            }
            Ok(None)
        }
        (Part::Header { file, bytes }, _) => write(*file, 0, bytes).map(|()| None),
        // What is decoded was resolved before: this cannot be, and must not pass for a file.
        (_, None) => Err(StoreError::corrupt("the restore", "a piece was not resolved")),
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
