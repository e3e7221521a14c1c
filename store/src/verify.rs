//! Verify: what the store promises, checked.

use std::collections::{BTreeSet, HashSet};

use rayon::prelude::*;
use tpde_core::{Dtype, SubtreeHash, TensorId};

use crate::content::{BLOB_BYTES, MAX_BLOB_RANK, read_blob, read_slice};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::history;
use crate::ids::{BlobId, ManifestId, PackId};
use crate::keys::{Key, Prefix};
use crate::manifest::{FileContent, Manifest, TensorRecord};
use crate::progress::{Progress, Stage};
use crate::restore::{check_tensor, hints, slices};
use crate::store::Store;
use crate::window::{decoding_bytes, windows};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum VerifyLevel {
    /// Slots, manifests and the ends of packs: everything that is named can be found.
    Quick,
    /// And every byte of every pack, against the pack's name.
    #[default]
    ReadData,
    /// And every tensor and file decoded, against its id: what a restore would do, without writing.
    Restore,
}

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyRequest {
    /// How much is read.
    pub level: VerifyLevel,
    /// Only this checkpoint, and what it needs.
    pub only: Option<ManifestId>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it was found: a checkpoint, a run or an object.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What was checked, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Runs whose slots were followed.
    pub runs: u64,
    /// Checkpoints whose manifests were read.
    pub checkpoints: u64,
    /// Packs that they need, or that were read.
    pub packs: u64,
    /// Distinct tensors and blobs.
    pub contents: u64,
    /// Bytes that were read from packs or decoded.
    pub bytes: u64,
    /// What is wrong; empty if all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Notes a problem and goes on; an error that is not about what is stored ends the run.
    fn note<T>(&mut self, object: impl Into<String>, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                // The hint of such an error is to run verify, and this is it.
                let detail = match error {
                    StoreError::Corrupt { object, detail, .. } => format!("{object}: {detail}"),
                    StoreError::NotFound { what, .. } => format!("{what} was not found"),
                    StoreError::Newer { what, detail } => {
                        format!("{what} needs another version of tpde: {detail}")
                    }
                    StoreError::Codec(error) => error.to_string(),
                    other => return Err(other),
                };
                let object = object.into();
                let detail = detail
                    .strip_prefix(&format!("{object}: "))
                    .map_or(detail.clone(), str::to_owned);
                self.problems.push(Problem { object, detail });
                Ok(None)
            }
        }
    }
}

/// One distinct content of the checkpoints under test.
enum Work<'m> {
    Tensor { manifest: &'m Manifest, index: usize },
    File { manifest: &'m Manifest, index: usize },
}

impl Store {
    /// Checks that what is stored can be restored.
    ///
    /// Damage is reported, not returned as an error, so that one run finds all of it.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read at all; `NotFound` if there is no checkpoint `only`.
    pub fn verify(&self, request: &VerifyRequest, progress: &dyn Progress) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let ids = match request.only {
            Some(id) => BTreeSet::from([id]),
            None => self.verify_runs(&mut report)?,
        };
        let mut manifests = Vec::with_capacity(ids.len());
        for id in ids {
            manifests.extend(report.note(format!("manifest {}", id.short()), self.manifest(id))?);
        }
        report.checkpoints = manifests.len() as u64;
        let mut packs = self.verify_names(&manifests, &mut report)?;
        if request.level >= VerifyLevel::ReadData {
            if request.only.is_none() {
                packs.extend(
                    self.objects()
                        .list(&Prefix::Packs)?
                        .into_iter()
                        .filter_map(|o| match o.key {
                            Key::Pack(pack) => Some(pack),
                            _ => None,
                        }),
                );
            }
            self.verify_packs(&packs, &mut report, progress)?;
        }
        report.packs = packs.len() as u64;
        if request.level >= VerifyLevel::Restore {
            self.verify_contents(&manifests, &mut report, progress)?;
        }
        report.problems.sort();
        report.problems.dedup();
        Ok(report)
    }

    /// Follows every run's slots; gives all manifests that they name.
    fn verify_runs(&self, report: &mut VerifyReport) -> Result<BTreeSet<ManifestId>> {
        let mut ids = BTreeSet::new();
        for run in history::runs(self.objects())? {
            report.runs += 1;
            let chain = history::check_chain(self.objects(), &run);
            report.note(format!("run {run}"), chain)?;
            let log = history::log(self.objects(), &run);
            if let Some(log) = report.note(format!("run {run}"), log)? {
                ids.extend(log.commits().map(|s| s.manifest));
            }
        }
        Ok(ids)
    }

    /// Finds every content and everything it is decoded from; gives the packs that hold them.
    fn verify_names(&self, manifests: &[Manifest], report: &mut VerifyReport) -> Result<BTreeSet<PackId>> {
        let mut packs = BTreeSet::new();
        let mut tensors = HashSet::new();
        let mut blobs = HashSet::new();
        for manifest in manifests {
            for record in &manifest.tensors {
                if !tensors.insert((record.id, record.dtype)) {
                    continue;
                }
                for (slice, ..) in slices(record) {
                    let graph = self.slice_graph(manifest, record, slice);
                    let Some(graph) = report.note(shown(manifest), graph)? else {
                        break;
                    };
                    packs.extend(graph.packs());
                }
            }
            for blob in &manifest.blobs {
                if !blobs.insert(blob.id) {
                    continue;
                }
                let hint = manifest.packs[blob.pack as usize];
                let graph = self.catalog.blob(self.objects(), blob.id, &[hint]);
                let graph = report.note(shown(manifest), graph)?;
                packs.extend(graph.iter().flat_map(Graph::packs));
            }
        }
        report.contents = (tensors.len() + blobs.len()) as u64;
        Ok(packs)
    }

    fn verify_packs(
        &self,
        packs: &BTreeSet<PackId>,
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut sized = Vec::with_capacity(packs.len());
        for &pack in packs {
            sized.push((pack, self.objects().head(&Key::Pack(pack))?.unwrap_or(0)));
        }
        progress.start(Stage::Verify, sized.iter().map(|(_, len)| len).sum());
        for window in windows(&sized, |(_, len)| *len) {
            let read: Vec<(PackId, Result<u64>)> = window
                .par_iter()
                .map(|&(pack, _)| {
                    let key = Key::Pack(pack);
                    let read = self.objects().get(&key).and_then(|bytes| {
                        progress.advance(bytes.len() as u64);
                        if PackId::of(&bytes) == pack {
                            Ok(bytes.len() as u64)
                        } else {
                            Err(StoreError::corrupt(
                                key.to_string(),
                                "its bytes do not match its name",
                            ))
                        }
                    });
                    (pack, read)
                })
                .collect();
            for (pack, read) in read {
                report.bytes += report.note(Key::Pack(pack).to_string(), read)?.unwrap_or(0);
            }
        }
        progress.finish();
        Ok(())
    }

    fn verify_contents(
        &self,
        manifests: &[Manifest],
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut seen: HashSet<(TensorId, Dtype)> = HashSet::new();
        let mut work = Vec::new();
        for manifest in manifests {
            let tensors = manifest
                .tensors
                .iter()
                .enumerate()
                .filter(|(_, t)| seen.insert((t.id, t.dtype)));
            work.extend(tensors.map(|(index, _)| Work::Tensor { manifest, index }));
            work.extend((0..manifest.files.len()).map(|index| Work::File { manifest, index }));
        }
        let len = |work: &Work<'_>| match work {
            Work::Tensor { manifest, index } => manifest.tensors[*index].len_bytes,
            Work::File { manifest, index } => match &manifest.files[*index].content {
                FileContent::Opaque { .. } => manifest.file_len_bytes(&manifest.files[*index]),
                _ => 0,
            },
        };
        progress.start(Stage::Verify, work.iter().map(len).sum());
        // A tensor is checked slice by slice. What its first one takes, most of the others do; what cannot be found takes nothing.
        let memory = |work: &Work<'_>| match work {
            Work::Tensor { manifest, index } => {
                let record = &manifest.tensors[*index];
                let slice_bytes = slices(record)
                    .next()
                    .map_or(0, |(.., len_bytes)| len_bytes as u64);
                let graph = self.slice_graph(manifest, record, 0);
                graph.map_or(0, |graph| decoding_bytes(slice_bytes, &graph))
            }
            Work::File { .. } => u64::from(MAX_BLOB_RANK) * BLOB_BYTES as u64,
        };
        for window in windows(&work, memory) {
            let checked: Vec<(String, Result<u64>)> = window
                .par_iter()
                .map(|work| {
                    let checked = match work {
                        Work::Tensor { manifest, index } => self.check_tensor(manifest, *index, progress),
                        Work::File { manifest, index } => self.check_file(manifest, *index, progress),
                    };
                    let (Work::Tensor { manifest, .. } | Work::File { manifest, .. }) = work;
                    (shown(manifest), checked)
                })
                .collect();
            for (object, checked) in checked {
                report.bytes += report.note(object, checked)?.unwrap_or(0);
            }
        }
        progress.finish();
        Ok(())
    }

    pub(crate) fn slice_graph(
        &self,
        manifest: &Manifest,
        record: &TensorRecord,
        slice: u32,
    ) -> Result<Graph> {
        let hints = hints(manifest, record);
        self.catalog
            .slice(self.objects(), record.id, record.dtype, slice, &hints)
    }

    fn check_tensor(&self, manifest: &Manifest, index: usize, progress: &dyn Progress) -> Result<u64> {
        let record = &manifest.tensors[index];
        let mut hashes: Vec<SubtreeHash> = Vec::new();
        for (slice, _, len_bytes) in slices(record) {
            let graph = self.slice_graph(manifest, record, slice)?;
            let mut bytes = vec![0; len_bytes];
            hashes.push(read_slice(self.objects(), record.id, &graph, &mut bytes)?);
            progress.advance(len_bytes as u64);
        }
        check_tensor(record.id, &hashes)?;
        Ok(record.len_bytes)
    }

    fn check_file(&self, manifest: &Manifest, index: usize, progress: &dyn Progress) -> Result<u64> {
        let file = &manifest.files[index];
        let (blobs, digest) = match &file.content {
            FileContent::Directory => return Ok(0),
            FileContent::Opaque { blobs, digest } => (blobs, Some(digest)),
            FileContent::Safetensors { header, .. } => (header, None),
        };
        let mut hasher = blake3::Hasher::new();
        let mut bytes_read = 0;
        for &blob in blobs {
            let blob = &manifest.blobs[blob as usize];
            let bytes = read_blob(
                self.objects(),
                &self.catalog,
                blob.id,
                &[manifest.packs[blob.pack as usize]],
            )?;
            if BlobId::of(&bytes) != blob.id || bytes.len() as u64 != blob.len_bytes {
                return Err(StoreError::corrupt(
                    format!("file {:?}", file.path),
                    "a part is not what it was named after",
                ));
            }
            hasher.update(&bytes);
            bytes_read += bytes.len() as u64;
        }
        if digest.is_some_and(|d| hasher.finalize().as_bytes() != d) {
            return Err(StoreError::corrupt(
                format!("file {:?}", file.path),
                "it does not match its digest",
            ));
        }
        if digest.is_some() {
            progress.advance(bytes_read);
        }
        Ok(bytes_read)
    }
}

fn shown(manifest: &Manifest) -> String {
    format!("{}@{}", manifest.run, manifest.step)
}
