//! First pass: what the files consist of, by content.

use std::collections::HashMap;

use globset::GlobSet;
use rayon::prelude::*;
use tpde_core::{Dtype, SubtreeHash, TensorId, merge_subtrees, slice_hash, slices_of};

use crate::content::BLOB_BYTES;
use crate::error::Result;
use crate::files::safetensors::{TensorInFile, is_named_like_one, read_layout};
use crate::files::scan::{Found, Place};
use crate::files::source::SourceFile;
use crate::files::torch::{self, Found as Torch};
use crate::ids::BlobId;
use crate::manifest::{BlobRecord, FileContent, FileRecord, Manifest, NamedTensor, TensorRecord};
use crate::progress::Progress;
use crate::roles::{Named, Role, role_of};
use crate::window::windows;

/// A tensor's content and one place where its bytes stand.
#[derive(Debug, Clone)]
pub(super) struct TensorSource {
    pub(super) id: TensorId,
    pub(super) dtype: Dtype,
    pub(super) len_bytes: u64,
    pub(super) source: usize,
    pub(super) offset_bytes: u64,
    /// Names under which a base is looked for: every file and name that has this content.
    pub(super) names: Vec<(String, String)>,
    /// What each of its slices hashes to.
    pub(super) slices: Vec<SubtreeHash>,
}

impl TensorSource {
    pub(super) fn elems(&self) -> u64 {
        self.len_bytes / self.dtype.word_bytes() as u64
    }

    /// As roles see it.
    pub(super) fn named(&self) -> Named<'_> {
        Named {
            dtype: self.dtype,
            elems: self.elems(),
            names: &self.names,
        }
    }

    /// Whether it is called like a first moment.
    pub(super) fn is_first_moment(&self) -> bool {
        let mut roles = self
            .names
            .iter()
            .map(|(path, name)| role_of(path, name, self.dtype));
        roles.any(|role| role == Role::ExpAvg)
    }
}

/// A blob's content and one place where its bytes stand.
#[derive(Debug, Clone)]
pub(super) struct BlobSource {
    pub(super) id: BlobId,
    pub(super) len_bytes: usize,
    pub(super) source: usize,
    pub(super) offset_bytes: u64,
    /// The file, and which of its blobs this is: where a prefix is looked for.
    pub(super) place: (String, usize),
}

/// A checkpoint as it stands on the user's disk.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(super) sources: Vec<SourceFile>,
    pub(super) files: Vec<FileRecord>,
    pub(super) tensors: Vec<TensorSource>,
    pub(super) blobs: Vec<BlobSource>,
    /// Files that could hold tensors and are kept as plain bytes.
    pub(super) kept_whole: Vec<KeptWhole>,
}

/// A file that could hold tensors and is kept as plain bytes all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptWhole {
    /// Its path in the checkpoint.
    pub path: String,
    /// Why, as a sentence without its end.
    pub why: &'static str,
}

/// One slice or blob that is to be hashed.
struct Job {
    source: usize,
    offset_bytes: u64,
    len_bytes: usize,
    /// Where the whole begins, and how long it is.
    whole_start: u64,
    whole_bytes: u64,
    is_blob: bool,
}

/// Hash of a part of its whole, and of the part alone (blobs only).
struct Hashed {
    part: SubtreeHash,
    blob: Option<BlobId>,
}

/// A file that was looked at: where its jobs begin, and what they make.
enum Plan {
    Directory,
    Opaque {
        jobs: std::ops::Range<usize>,
    },
    Safetensors {
        header: std::ops::Range<usize>,
        tensors: Vec<PlannedTensor>,
    },
    Torch {
        container: std::ops::Range<usize>,
        tensors: Vec<PlannedTensor>,
        gap_bytes: Vec<u64>,
    },
}

struct PlannedTensor {
    name: String,
    shape: Vec<u64>,
    dtype: Dtype,
    offset_bytes: u64,
    len_bytes: u64,
    jobs: std::ops::Range<usize>,
}

impl Checkpoint {
    /// Reads and hashes everything that was found.
    ///
    /// # Errors
    /// `Input` for a file that lies about itself or changes while it is read.
    pub(crate) fn read(found: &[Found], opaque: &GlobSet, progress: &dyn Progress) -> Result<Self> {
        let mut sources = Vec::new();
        let mut jobs = Vec::new();
        let mut plans = Vec::new();
        let mut kept_whole = Vec::new();
        for file in found {
            if file.is_dir {
                plans.push((file, usize::MAX, Plan::Directory));
                continue;
            }
            let source = match &file.place {
                Place::Disk(path) => SourceFile::open(path)?,
                Place::Memory(bytes) => SourceFile::of_memory(&file.path, bytes),
            };
            let number = sources.len();
            let plan = if is_named_like_one(&file.path) && !opaque.is_match(&file.path) {
                let layout = read_layout(&source)?;
                let header = plan_blobs(&mut jobs, number, 0, layout.header.len() as u64);
                let tensors = plan_tensors(&mut jobs, number, layout.tensors);
                Plan::Safetensors { header, tensors }
            } else if opaque.is_match(&file.path) {
                plan_opaque(&mut jobs, number, &source)
            } else {
                match torch::look_into(&source, &file.path)? {
                    Torch::Tensors(found) => {
                        let ends = [0]
                            .into_iter()
                            .chain(found.iter().map(|t| t.offset_bytes + t.len_bytes));
                        let gap_bytes = found
                            .iter()
                            .zip(ends)
                            .map(|(t, end)| t.offset_bytes - end)
                            .collect();
                        // The rest of the file is another source, behind it.
                        let rest = source.without(found.iter().map(|t| (t.offset_bytes, t.len_bytes)));
                        let tensors = plan_tensors(&mut jobs, number, found);
                        let container = plan_blobs(&mut jobs, number + 1, 0, rest.len_bytes());
                        sources.extend([source, rest]);
                        let plan = Plan::Torch {
                            container,
                            tensors,
                            gap_bytes,
                        };
                        plans.push((file, number, plan));
                        continue;
                    }
                    Torch::Whole(why) => kept_whole.push(KeptWhole {
                        path: file.path.clone(),
                        why,
                    }),
                    Torch::Other => {}
                }
                plan_opaque(&mut jobs, number, &source)
            };
            sources.push(source);
            plans.push((file, number, plan));
        }
        let hashed = hash(&sources, &jobs, progress)?;
        let mut checkpoint = Self {
            sources,
            files: Vec::new(),
            tensors: Vec::new(),
            blobs: Vec::new(),
            kept_whole,
        };
        let mut contents = Contents::default();
        for (file, source, plan) in plans {
            let content = match plan {
                Plan::Directory => FileContent::Directory,
                Plan::Opaque { jobs: range } => {
                    let parts: Vec<SubtreeHash> = hashed[range.clone()].iter().map(|h| h.part).collect();
                    let digest = merge_subtrees(&parts).unwrap_or_else(|| TensorId::of(&[]));
                    let blobs = contents.blobs(&mut checkpoint.blobs, &file.path, range, &jobs, &hashed);
                    FileContent::Opaque {
                        digest: *digest.as_bytes(),
                        blobs,
                    }
                }
                Plan::Safetensors { header, tensors } => {
                    let header = contents.blobs(&mut checkpoint.blobs, &file.path, header, &jobs, &hashed);
                    let tensors =
                        contents.tensors(&mut checkpoint.tensors, &file.path, source, tensors, &hashed);
                    FileContent::Safetensors { header, tensors }
                }
                Plan::Torch {
                    container,
                    tensors,
                    gap_bytes,
                } => {
                    let container =
                        contents.blobs(&mut checkpoint.blobs, &file.path, container, &jobs, &hashed);
                    let tensors =
                        contents.tensors(&mut checkpoint.tensors, &file.path, source, tensors, &hashed);
                    FileContent::Torch {
                        container,
                        tensors,
                        gap_bytes,
                    }
                }
            };
            checkpoint.files.push(FileRecord {
                path: file.path.clone(),
                mode: file.mode,
                content,
            });
        }
        Ok(checkpoint)
    }

    /// Writes what the checkpoint consists of into `manifest`; where it is stored is not known yet.
    pub(super) fn describe(&self, manifest: &mut Manifest) {
        manifest.files.clone_from(&self.files);
        let tensor = |t: &TensorSource| TensorRecord {
            id: t.id,
            dtype: t.dtype,
            len_bytes: t.len_bytes,
            packs: Vec::new(),
            rank: 0,
            has_base: false,
            is_given: false,
            stored_bytes: 0,
            changed_elems: 0,
            max_ulp: 0,
        };
        manifest.tensors = self.tensors.iter().map(tensor).collect();
        let blob = |b: &BlobSource| BlobRecord {
            id: b.id,
            len_bytes: b.len_bytes as u64,
            pack: 0,
            stored_bytes: 0,
        };
        manifest.blobs = self.blobs.iter().map(blob).collect();
    }

    /// Bytes of all distinct contents.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.len_bytes).sum::<u64>()
            + self.blobs.iter().map(|b| b.len_bytes as u64).sum::<u64>()
    }
}

/// Which contents are known already, so that each is listed once.
#[derive(Default)]
struct Contents {
    blobs: HashMap<BlobId, u32>,
    tensors: HashMap<(TensorId, Dtype), u32>,
}

impl Contents {
    fn blobs(
        &mut self,
        list: &mut Vec<BlobSource>,
        path: &str,
        range: std::ops::Range<usize>,
        jobs: &[Job],
        hashed: &[Hashed],
    ) -> Vec<u32> {
        let start = range.start;
        range
            .filter_map(|i| {
                let id = hashed[i].blob?;
                let job = &jobs[i];
                Some(*self.blobs.entry(id).or_insert_with(|| {
                    list.push(BlobSource {
                        id,
                        len_bytes: job.len_bytes,
                        source: job.source,
                        offset_bytes: job.offset_bytes,
                        place: (path.to_owned(), i - start),
                    });
                    u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
                }))
            })
            .collect()
    }

    fn tensors(
        &mut self,
        list: &mut Vec<TensorSource>,
        path: &str,
        source: usize,
        planned: Vec<PlannedTensor>,
        hashed: &[Hashed],
    ) -> Vec<NamedTensor> {
        let planned = planned.into_iter();
        planned
            .map(|t| self.tensor(list, path, source, t, hashed))
            .collect()
    }

    fn tensor(
        &mut self,
        list: &mut Vec<TensorSource>,
        path: &str,
        source: usize,
        planned: PlannedTensor,
        hashed: &[Hashed],
    ) -> NamedTensor {
        let parts: Vec<SubtreeHash> = hashed[planned.jobs].iter().map(|h| h.part).collect();
        let id = merge_subtrees(&parts).unwrap_or_else(|| TensorId::of(&[]));
        let index = *self.tensors.entry((id, planned.dtype)).or_insert_with(|| {
            list.push(TensorSource {
                id,
                dtype: planned.dtype,
                len_bytes: planned.len_bytes,
                source,
                offset_bytes: planned.offset_bytes,
                names: Vec::new(),
                slices: parts,
            });
            u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
        });
        list[index as usize]
            .names
            .push((path.to_owned(), planned.name.clone()));
        NamedTensor {
            role: role_of(path, &planned.name, planned.dtype),
            name: planned.name,
            shape: planned.shape,
            tensor: index,
        }
    }
}

fn plan_opaque(jobs: &mut Vec<Job>, source: usize, file: &SourceFile) -> Plan {
    Plan::Opaque {
        jobs: plan_blobs(jobs, source, 0, file.len_bytes()),
    }
}

fn plan_tensors(jobs: &mut Vec<Job>, source: usize, found: Vec<TensorInFile>) -> Vec<PlannedTensor> {
    let plan = |t: TensorInFile| PlannedTensor {
        jobs: plan_slices(jobs, source, t.dtype, t.offset_bytes, t.len_bytes),
        name: t.name,
        shape: t.shape,
        dtype: t.dtype,
        offset_bytes: t.offset_bytes,
        len_bytes: t.len_bytes,
    };
    found.into_iter().map(plan).collect()
}

fn plan_blobs(jobs: &mut Vec<Job>, source: usize, start: u64, len_bytes: u64) -> std::ops::Range<usize> {
    let first = jobs.len();
    let mut at = 0;
    while at < len_bytes || (len_bytes == 0 && jobs.len() == first) {
        #[expect(clippy::cast_possible_truncation, reason = "at most BLOB_BYTES")]
        let len = (len_bytes - at).min(BLOB_BYTES as u64) as usize;
        jobs.push(Job {
            source,
            offset_bytes: start + at,
            len_bytes: len,
            whole_start: start,
            whole_bytes: len_bytes,
            is_blob: true,
        });
        at += len as u64;
    }
    first..jobs.len()
}

fn plan_slices(
    jobs: &mut Vec<Job>,
    source: usize,
    dtype: Dtype,
    start: u64,
    len_bytes: u64,
) -> std::ops::Range<usize> {
    let first = jobs.len();
    let word = dtype.word_bytes() as u64;
    for range in slices_of(dtype, len_bytes / word) {
        #[expect(clippy::cast_possible_truncation, reason = "at most SLICE_BYTES")]
        let len = ((range.end - range.start) * word) as usize;
        jobs.push(Job {
            source,
            offset_bytes: start + range.start * word,
            len_bytes: len,
            whole_start: start,
            whole_bytes: len_bytes,
            is_blob: false,
        });
    }
    first..jobs.len()
}

fn hash(sources: &[SourceFile], jobs: &[Job], progress: &dyn Progress) -> Result<Vec<Hashed>> {
    let mut hashed = Vec::with_capacity(jobs.len());
    for window in windows(jobs, |job| job.len_bytes as u64) {
        let done: Result<Vec<Hashed>> = window
            .par_iter()
            .map(|job| {
                let bytes = sources[job.source].read_at(job.offset_bytes, job.len_bytes)?;
                let part = slice_hash(&bytes, job.offset_bytes - job.whole_start, job.whole_bytes);
                let blob = job.is_blob.then(|| match part {
                    SubtreeHash::Whole(id) => BlobId::from_bytes(*id.as_bytes()),
                    SubtreeHash::Part(_) => BlobId::of(&bytes),
                });
                progress.advance(job.len_bytes as u64);
                Ok(Hashed { part, blob })
            })
            .collect();
        hashed.extend(done?);
    }
    Ok(hashed)
}
