//! Diff: how two checkpoints differ, tensor by tensor and file by file.

use std::collections::BTreeMap;

use rayon::prelude::*;
use tpde_core::{Comparison, Dtype, compare, slices_of};

use crate::content::read_slice;
use crate::error::Result;
use crate::ids::ManifestId;
use crate::manifest::{FileContent, Manifest, NamedTensor, TensorRecord};
use crate::progress::{Progress, Stage};
use crate::restore::{hints, slices};
use crate::roles::Role;
use crate::store::Store;
use crate::transfer::Pieces;
use crate::window::windows;

/// What became of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The same bytes.
    Same,
    /// Other values.
    Changed(Comparison),
    /// Only the new checkpoint has it.
    Added,
    /// Only the old checkpoint has it.
    Removed,
    /// Another dtype or shape.
    Retyped,
}

/// One tensor of either checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDiff {
    /// Path of its file; the old one's if it was removed.
    pub file: String,
    /// Path of its file in the old checkpoint, if that is another.
    pub old_file: Option<String>,
    /// Its name there.
    pub name: String,
    /// Element type; the old one's if it was removed.
    pub dtype: Dtype,
    /// Shape; the old one's if it was removed.
    pub shape: Vec<u64>,
    /// What it is to the run; the old one's if it was removed.
    pub role: Role,
    /// What became of it.
    pub change: Change,
}

impl TensorDiff {
    /// Its elements; those of less than a byte count as the bytes that hold them.
    pub fn elems(&self) -> u64 {
        let bits = self
            .shape
            .iter()
            .fold(self.dtype.shape_bits(), |bits, &dim| bits.saturating_mul(dim));
        bits.div_ceil(8) / self.dtype.word_bytes() as u64
    }
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// The same bytes and permissions.
    Same,
    /// Other bytes or permissions.
    Changed,
    /// Only the new checkpoint has it.
    Added,
    /// Only the old checkpoint has it.
    Removed,
}

/// One file of either checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDiff {
    /// Its path.
    pub path: String,
    /// What became of it.
    pub change: FileChange,
    /// Bytes in the old checkpoint.
    pub old_bytes: u64,
    /// Bytes in the new checkpoint.
    pub new_bytes: u64,
}

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    /// Every tensor of either, by file and name.
    pub tensors: Vec<TensorDiff>,
    /// Every file of either, by path.
    pub files: Vec<FileDiff>,
}

/// A tensor as a manifest has it.
type Side<'m> = (&'m NamedTensor, &'m TensorRecord);

/// One slice of a pair that is to be compared.
struct Job {
    diff: usize,
    old: usize,
    new: usize,
    slice: u32,
    len_bytes: usize,
}

impl Store {
    /// Compares two checkpoints. Only tensors whose ids differ are decoded.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`: one of them cannot be read.
    pub fn diff(&self, old: ManifestId, new: ManifestId, progress: &dyn Progress) -> Result<Diff> {
        let (old, new) = (self.named_manifest(old)?, self.named_manifest(new)?);
        let mut diff = Diff {
            tensors: Vec::new(),
            files: diff_files(&old, &new),
        };
        let mut jobs = Vec::new();
        for ((file, name), (old_file, a, b)) in paired(tensors(&old), tensors(&new)) {
            let (named, record) = match (b, a) {
                (Some(side), _) | (None, Some(side)) => side,
                (None, None) => continue,
            };
            let change = match (a, b) {
                (Some((old_named, old_record)), Some((new_named, new_record))) => {
                    if (old_record.dtype, &old_named.shape) != (new_record.dtype, &new_named.shape) {
                        Change::Retyped
                    } else if old_record.id == new_record.id {
                        Change::Same
                    } else {
                        // A manifest may claim any length: no work is planned for slices that are not there.
                        self.check_end(&old, old_record)?;
                        self.check_end(&new, new_record)?;
                        jobs.extend(slices(new_record).map(|(slice, _, len_bytes)| Job {
                            diff: diff.tensors.len(),
                            old: old_named.tensor as usize,
                            new: new_named.tensor as usize,
                            slice,
                            len_bytes,
                        }));
                        Change::Changed(Comparison::default())
                    }
                }
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
            };
            diff.tensors.push(TensorDiff {
                file: file.to_owned(),
                old_file: old_file.map(str::to_owned),
                name: name.to_owned(),
                dtype: record.dtype,
                shape: named.shape.clone(),
                role: named.role,
                change,
            });
        }
        progress.start(Stage::Compare, jobs.iter().map(|job| job.len_bytes as u64).sum());
        for window in windows(&jobs, |job| 2 * job.len_bytes as u64) {
            let compared: Result<Vec<Comparison>> = window
                .par_iter()
                .map(|job| {
                    let a = self.slice(&old, job.old, job.slice, job.len_bytes)?;
                    let b = self.slice(&new, job.new, job.slice, job.len_bytes)?;
                    progress.advance(job.len_bytes as u64);
                    Ok(compare(new.tensors[job.new].dtype, &a, &b)?)
                })
                .collect();
            for (job, part) in window.iter().zip(compared?) {
                if let Change::Changed(total) = &mut diff.tensors[job.diff].change {
                    *total = total.plus(part);
                }
            }
        }
        progress.finish();
        Ok(diff)
    }

    /// Checks that the last slice of a tensor can be found.
    fn check_end(&self, manifest: &Manifest, record: &TensorRecord) -> Result<()> {
        let elems = record.len_bytes / record.dtype.word_bytes() as u64;
        let last = slices_of(record.dtype, elems).len() - 1;
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        let hints = hints(manifest, record);
        self.catalog
            .slice(self.objects(), record.id, record.dtype, last, &hints)
            .map(drop)
    }

    fn slice(&self, manifest: &Manifest, tensor: usize, slice: u32, len_bytes: usize) -> Result<Vec<u8>> {
        let record = &manifest.tensors[tensor];
        let hints = hints(manifest, record);
        let graph = self
            .catalog
            .slice(self.objects(), record.id, record.dtype, slice, &hints)?;
        let mut bytes = vec![0; len_bytes];
        read_slice(Pieces::cached(self.objects()), record.id, &graph, &mut bytes)?;
        Ok(bytes)
    }
}

fn tensors(manifest: &Manifest) -> BTreeMap<(&str, &str), Side<'_>> {
    manifest
        .named_tensors()
        .map(|(file, named, record)| ((file, named.name.as_str()), (named, record)))
        .collect()
}

/// File and name.
type At<'m> = (&'m str, &'m str);
/// The file in the old checkpoint, if it is another, and the tensor in either.
type Pair<'m> = (Option<&'m str>, Option<Side<'m>>, Option<Side<'m>>);

/// Joins the tensors of two checkpoints by file and name; of those that are left, by name, where each side has it once: files are
/// often called after the step, and shards are cut anew.
fn paired<'m>(
    old: BTreeMap<At<'m>, Side<'m>>,
    new: BTreeMap<At<'m>, Side<'m>>,
) -> BTreeMap<At<'m>, Pair<'m>> {
    let mut joined: BTreeMap<At<'m>, Pair<'m>> = BTreeMap::new();
    // Where each name is left, on either side.
    let mut left: BTreeMap<&str, [Vec<At<'m>>; 2]> = BTreeMap::new();
    for (at, (a, b)) in pairs(old, new) {
        match (a, b) {
            (Some(_), None) => left.entry(at.1).or_default()[0].push(at),
            (None, Some(_)) => left.entry(at.1).or_default()[1].push(at),
            _ => {}
        }
        joined.insert(at, (None, a, b));
    }
    for [olds, news] in left.values() {
        if let ([from], [to]) = (&olds[..], &news[..])
            && let Some((_, moved, _)) = joined.remove(from)
            && let Some(pair) = joined.get_mut(to)
        {
            (pair.0, pair.1) = (Some(from.0), moved);
        }
    }
    joined
}

/// Joins two maps by key.
fn pairs<K: Ord + Copy, V: Copy>(
    old: BTreeMap<K, V>,
    new: BTreeMap<K, V>,
) -> BTreeMap<K, (Option<V>, Option<V>)> {
    let mut joined: BTreeMap<K, (Option<V>, Option<V>)> =
        old.into_iter().map(|(k, v)| (k, (Some(v), None))).collect();
    for (k, v) in new {
        joined.entry(k).or_insert((None, None)).1 = Some(v);
    }
    joined
}

fn diff_files(old: &Manifest, new: &Manifest) -> Vec<FileDiff> {
    let files = |manifest: &Manifest| {
        let not_dirs = manifest
            .files
            .iter()
            .filter(|f| f.content != FileContent::Directory);
        not_dirs
            .map(|f| {
                (
                    f.path.clone(),
                    (manifest.file_digest(f), f.mode, manifest.file_len_bytes(f)),
                )
            })
            .collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (files(old), files(new));
    let joined = pairs(old.iter().collect::<BTreeMap<_, _>>(), new.iter().collect());
    joined
        .into_iter()
        .map(|(path, sides)| FileDiff {
            path: path.clone(),
            change: match sides {
                (Some(a), Some(b)) if a == b => FileChange::Same,
                (Some(_), Some(_)) => FileChange::Changed,
                (None, _) => FileChange::Added,
                (_, None) => FileChange::Removed,
            },
            old_bytes: sides.0.map_or(0, |s| s.2),
            new_bytes: sides.1.map_or(0, |s| s.2),
        })
        .collect()
}
