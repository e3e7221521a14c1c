//! Verify: what the store promises, checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use rayon::prelude::*;
use tpde_core::{Dtype, SubtreeHash, TensorId};

use crate::content::{BLOB_BYTES, MAX_BLOB_RANK, read_blob, read_slice};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::history;
use crate::ids::{BlobId, ManifestId, PackId};
use crate::keys::{Key, Prefix};
use crate::manifest::{FileContent, Manifest, TensorRecord};
use crate::pack::{ContentHash, read_entries};
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

/// A checkpoint that a problem touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// The run.
    pub run: String,
    /// The training step.
    pub step: u64,
    /// The checkpoint's id.
    pub manifest: ManifestId,
}

/// Something that is not as it should be: one for each object, however often it is missed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What is damaged or missing: an object, a tensor, a file or a run.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
    /// The checkpoints that need it.
    pub affects: Vec<Affected>,
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
    /// Those of them that were decoded.
    pub decoded_bytes: u64,
    /// Checkpoints that no problem touches.
    pub sound: u64,
    /// What is wrong; empty if all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Notes a problem of `object` that touches `affects`, and goes on; an error that is not about what is stored ends the run.
    fn note<T>(
        &mut self,
        object: impl Into<String>,
        affects: &[&Affected],
        result: Result<T>,
    ) -> Result<Option<T>> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        // The hint of such an error is to run verify, and this is it.
        let (found, detail) = match error {
            StoreError::Corrupt { object, detail, .. } => (object, detail),
            StoreError::NotFound { what, .. } => (what, "it is missing".to_owned()),
            StoreError::Newer { what, detail } => {
                (what, format!("it needs another version of tpde: {detail}"))
            }
            StoreError::Codec(error) => (CONTENT.to_owned(), error.to_string()),
            other => return Err(other),
        };
        match object.into() {
            object if object == CONTENT => self.add(found, detail, affects),
            object if found.starts_with(&object) || detail == "it is missing" => {
                self.add(object, detail, affects)
            }
            object => self.add(object, format!("{found}: {detail}"), affects),
        }
        Ok(None)
    }

    /// Adds a problem, or more checkpoints to one that is known.
    fn add(&mut self, object: String, detail: String, affects: &[&Affected]) {
        let known = self.problems.iter_mut().find(|p| p.object == object);
        let affects = affects.iter().map(|&a| a.clone());
        match known {
            Some(problem) => problem.affects.extend(affects),
            None => self.problems.push(Problem {
                object,
                detail,
                affects: affects.collect(),
            }),
        }
    }

    /// Brings everything in order, and counts what is sound.
    fn finish(&mut self, checkpoints: &BTreeSet<ManifestId>) {
        for problem in &mut self.problems {
            problem.affects.sort();
            problem.affects.dedup();
        }
        self.problems.sort();
        let touched: BTreeSet<ManifestId> = self
            .problems
            .iter()
            .flat_map(|p| p.affects.iter().map(|a| a.manifest))
            .collect();
        self.sound = checkpoints.difference(&touched).count() as u64;
    }
}

/// Stands for whatever content an error names itself.
const CONTENT: &str = "content";

/// A checkpoint under test.
struct Tested {
    manifest: Manifest,
    name: Affected,
    /// The packs that it is restored from, as far as they were found.
    packs: BTreeSet<PackId>,
}

/// What looking for one content gave: the packs that it is restored from.
type Found = Rc<BTreeSet<PackId>>;

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
        let names = match request.only {
            Some(id) => BTreeMap::from([(id, None)]),
            None => self.verify_runs(&mut report)?,
        };
        let mut tested = Vec::with_capacity(names.len());
        let mut read = BTreeSet::new();
        for (id, name) in names {
            let key = Key::Manifest(id).to_string();
            let affects: Vec<&Affected> = name.iter().collect();
            let Some(manifest) = report.note(key, &affects, self.manifest(id))? else {
                continue;
            };
            read.insert(id);
            let name = name.unwrap_or_else(|| Affected {
                run: manifest.run.clone(),
                step: manifest.step,
                manifest: id,
            });
            tested.push(Tested {
                manifest,
                name,
                packs: BTreeSet::new(),
            });
        }
        report.checkpoints = tested.len() as u64;
        self.verify_names(&mut tested, &mut report)?;
        let mut packs: BTreeSet<PackId> = tested.iter().flat_map(|t| t.packs.iter().copied()).collect();
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
            self.verify_packs(&packs, &tested, &mut report, progress)?;
        }
        report.packs = packs.len() as u64;
        if request.level >= VerifyLevel::Restore {
            self.verify_contents(&tested, &mut report, progress)?;
        }
        report.finish(&read);
        if request.only.is_none() {
            self.note_verified(request.level, report.problems.len());
        }
        Ok(report)
    }

    /// Follows every run's slots; gives all manifests that they name, and what they are called there.
    fn verify_runs(&self, report: &mut VerifyReport) -> Result<BTreeMap<ManifestId, Option<Affected>>> {
        let mut ids = BTreeMap::new();
        for run in history::runs(self.objects())? {
            report.runs += 1;
            let chain = history::check_chain(self.objects(), &run);
            report.note(format!("run {run}"), &[], chain)?;
            let log = history::log(self.objects(), &run);
            if let Some(log) = report.note(format!("run {run}"), &[], log)? {
                ids.extend(log.commits().map(|s| {
                    let name = Affected {
                        run: run.to_string(),
                        step: s.step,
                        manifest: s.manifest,
                    };
                    (s.manifest, Some(name))
                }));
            }
        }
        Ok(ids)
    }

    /// Finds every content and everything it is decoded from; notes in each checkpoint the packs that hold them.
    fn verify_names(&self, tested: &mut [Tested], report: &mut VerifyReport) -> Result<()> {
        let mut seen: HashMap<(ContentHash, Option<Dtype>), Found> = HashMap::new();
        // What cannot be found is looked for once; the packs that should hold it are looked at once.
        let mut missed: HashMap<(ContentHash, Option<Dtype>), Vec<String>> = HashMap::new();
        let mut lost: HashMap<PackId, Option<String>> = HashMap::new();
        for checkpoint in tested {
            let manifest = &checkpoint.manifest;
            let tensors = (0..manifest.tensors.len()).map(|index| (true, index));
            let blobs = (0..manifest.blobs.len()).map(|index| (false, index));
            for (is_tensor, index) in tensors.chain(blobs) {
                let key = match is_tensor {
                    true => {
                        let record = &manifest.tensors[index];
                        (*record.id.as_bytes(), Some(record.dtype))
                    }
                    false => (*manifest.blobs[index].id.as_bytes(), None),
                };
                if let Some(objects) = missed.get(&key) {
                    for object in objects {
                        report.add(object.clone(), String::new(), &[&checkpoint.name]);
                    }
                    continue;
                }
                if let Some(found) = seen.get(&key) {
                    checkpoint.packs.extend(found.iter());
                    continue;
                }
                let (found, hints) = match is_tensor {
                    true => {
                        let record = &manifest.tensors[index];
                        let graphs =
                            slices(record).map(|(slice, ..)| self.slice_graph(manifest, record, slice));
                        (packs_of(graphs), hints(manifest, record))
                    }
                    false => {
                        let blob = &manifest.blobs[index];
                        let hint = manifest.packs[blob.pack as usize];
                        let graph = self.catalog.blob(self.objects(), blob.id, &[hint]);
                        (packs_of([graph]), vec![hint])
                    }
                };
                match found {
                    Ok(found) => {
                        checkpoint.packs.extend(found.iter());
                        seen.insert(key, Rc::new(found));
                    }
                    Err(error) => {
                        let objects = self.blame(
                            error,
                            &hints,
                            &manifest.packs,
                            &mut lost,
                            report,
                            &checkpoint.name,
                        )?;
                        missed.insert(key, objects);
                    }
                }
            }
        }
        report.contents = (seen.len() + missed.len()) as u64;
        Ok(())
    }

    /// Notes why some content cannot be found: the packs that should hold it, if they are gone or damaged, or else the content.
    /// Gives the objects of the problems.
    ///
    /// * `hints`: packs that hold the content itself. `named`: all packs of its checkpoint, which hold most of what it is decoded
    ///   from.
    fn blame(
        &self,
        error: StoreError,
        hints: &[PackId],
        named: &[PackId],
        lost: &mut HashMap<PackId, Option<String>>,
        report: &mut VerifyReport,
        affects: &Affected,
    ) -> Result<Vec<String>> {
        let mut blamed = Vec::new();
        for packs in [hints, named] {
            for &pack in packs {
                let fault = match lost.get(&pack) {
                    Some(known) => known.clone(),
                    None => {
                        let fault = match read_entries(self.objects(), pack) {
                            Ok(_) => None,
                            Err(StoreError::NotFound { .. }) => Some("it is missing".to_owned()),
                            Err(StoreError::Corrupt { detail, .. }) => Some(detail),
                            Err(StoreError::Newer { detail, .. }) => Some(detail),
                            Err(other) => return Err(other),
                        };
                        lost.insert(pack, fault.clone());
                        fault
                    }
                };
                if let Some(detail) = fault {
                    let object = Key::Pack(pack).to_string();
                    report.add(object.clone(), detail, &[affects]);
                    blamed.push(object);
                }
            }
            if !blamed.is_empty() {
                return Ok(blamed);
            }
        }
        // A base in a pack that only older checkpoints name: any lost pack that is known by now is the reason, if there is one.
        let known: Vec<(PackId, String)> = lost
            .iter()
            .filter_map(|(&pack, fault)| Some((pack, fault.clone()?)))
            .collect();
        for (pack, detail) in known {
            let object = Key::Pack(pack).to_string();
            report.add(object.clone(), detail, &[affects]);
            blamed.push(object);
        }
        if blamed.is_empty() {
            let before = report.problems.len();
            report.note(CONTENT, &[affects], Err::<(), _>(error))?;
            blamed.extend(report.problems.get(before).map(|p| p.object.clone()));
        }
        Ok(blamed)
    }

    fn verify_packs(
        &self,
        packs: &BTreeSet<PackId>,
        tested: &[Tested],
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
                let needs = |t: &&Tested| t.packs.contains(&pack);
                let affects: Vec<&Affected> = tested.iter().filter(needs).map(|t| &t.name).collect();
                let key = Key::Pack(pack).to_string();
                report.bytes += report.note(key, &affects, read)?.unwrap_or(0);
            }
        }
        progress.finish();
        Ok(())
    }

    fn verify_contents(
        &self,
        tested: &[Tested],
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut seen: HashSet<(TensorId, Dtype)> = HashSet::new();
        let mut work = Vec::new();
        for Tested { manifest, .. } in tested {
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
            let checked: Vec<(&Work<'_>, Result<u64>)> = window
                .par_iter()
                .map(|work| {
                    let checked = match work {
                        Work::Tensor { manifest, index } => self.check_tensor(manifest, *index, progress),
                        Work::File { manifest, index } => self.check_file(manifest, *index, progress),
                    };
                    (work, checked)
                })
                .collect();
            for (work, checked) in checked {
                let bytes = match checked {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        self.note_content(tested, work, error, report)?;
                        0
                    }
                };
                report.bytes += bytes;
                report.decoded_bytes += bytes;
            }
        }
        progress.finish();
        Ok(())
    }

    /// Notes a content that does not decode, unless a pack that it is decoded from is a problem already.
    fn note_content(
        &self,
        tested: &[Tested],
        work: &Work<'_>,
        error: StoreError,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let holds = |t: &&Tested| match work {
            Work::Tensor { manifest, index } => {
                let id = manifest.tensors[*index].id;
                t.manifest.tensors.iter().any(|other| other.id == id)
            }
            Work::File { manifest, .. } => std::ptr::eq(&t.manifest, *manifest),
        };
        let affects: Vec<&Affected> = tested.iter().filter(holds).map(|t| &t.name).collect();
        let covers =
            |p: &Problem| p.object.starts_with("packs/") && affects.iter().all(|&a| p.affects.contains(a));
        let is_about_bytes = matches!(error, StoreError::Corrupt { .. } | StoreError::Codec(_));
        if is_about_bytes && report.problems.iter().any(covers) {
            return Ok(());
        }
        report.note(CONTENT, &affects, Err::<(), _>(error))?;
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
            FileContent::Safetensors { header: blobs, .. } | FileContent::Torch { container: blobs, .. } => {
                (blobs, None)
            }
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

/// The packs of all graphs, if each was found.
fn packs_of(graphs: impl IntoIterator<Item = Result<Graph>>) -> Result<BTreeSet<PackId>> {
    let mut packs = BTreeSet::new();
    for graph in graphs {
        packs.extend(graph?.packs());
    }
    Ok(packs)
}
