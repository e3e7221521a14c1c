//! One checkpoint saved by several processes: each stores a part, then one commits them all.
//!
//! ```text
//! rank 0: files ─▶ packs ─▶ parts/<id>/0 ─┐
//! rank 1: files ─▶ packs ─▶ parts/<id>/1 ─┼─▶ all there? ─▶ one manifest ─▶ one slot
//! rank 2: dead                            ┘      └ no: no commit
//! ```
//! A part is a manifest of some files that no run names. What its packs hold is looked for again under the lease of whoever commits, so a part
//! that waited for long is as good as a new one, or refused.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use globset::GlobSet;
use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use super::attempt::{Committing, empty_manifest, where_it_stands};
use super::contents::{Contents, PackList};
use super::ids::Checkpoint;
use super::limits::Limits;
use super::{SaveReport, SaveRequest, check_limits};
use crate::claim::{Claim, claim};
use crate::commit::CommitOptions;
use crate::error::{Result, StoreError};
use crate::files::scan::Found;
use crate::ids::{ManifestId, PartsId};
use crate::keys::{Key, Prefix};
use crate::lease::{Lease, under_lease};
use crate::manifest::{FileContent, FileRecord, Manifest};
use crate::names::RunName;
use crate::progress::{Progress, Stage};
use crate::reach::Reach;
use crate::save::bases::Bases;
use crate::seal::{seal, unseal};
use crate::store::Store;

const FORMAT: u8 = 1;
const WHAT: &str = "part";
/// Most parts of one checkpoint.
pub const MAX_PARTS: u32 = 1 << 16;

/// Which part of which save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOf {
    /// A word that all parts of one save share, and no other save of this step: a job's id and its number of starts.
    pub save: String,
    /// This part, from 0.
    pub rank: u32,
    /// How many there are.
    pub of: u32,
}

/// What saving a part did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// Bytes of its files.
    pub raw_bytes: u64,
    /// Bytes of the packs that were written.
    pub stored_bytes: u64,
    /// Files in it.
    pub files: u32,
    /// Whether it was there already.
    pub already_there: bool,
}

/// The name under which the parts of a save lie.
fn parts_id(run: &RunName, step: u64, save: &str) -> PartsId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(run.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&step.to_le_bytes());
    hasher.update(save.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    PartsId::from_bytes(id)
}

/// A part as it is stored: u8 format, varint rank, varint of, varint bytes of its packs, the manifest of its files, seal.
struct Stored {
    rank: u32,
    of: u32,
    /// Bytes of the packs that were written for it.
    written_bytes: u64,
    manifest: Manifest,
}

impl Stored {
    fn encode(&self) -> Result<Bytes> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.varint(self.rank.into());
        w.varint(self.of.into());
        w.varint(self.written_bytes);
        w.prefixed(&self.manifest.encode()?.1);
        Ok(seal(w.into_bytes()).into())
    }

    fn decode(key: &Key, sealed: &Bytes) -> Result<Self> {
        let damaged = |e: CodecError| StoreError::decoding(key.to_string(), e);
        let read = || -> std::result::Result<(u32, u32, u64, &[u8]), CodecError> {
            let mut r = Reader::new(unseal(WHAT, sealed)?);
            let format = r.u8(WHAT)?;
            if format != FORMAT {
                return Err(CodecError::Unsupported {
                    what: "part format",
                    found: format.into(),
                    known: FORMAT.into(),
                });
            }
            let number = |r: &mut Reader<'_>| r.size(MAX_PARTS as usize, WHAT);
            let (rank, of) = (number(&mut r)?, number(&mut r)?);
            let written_bytes = r.varint(WHAT)?;
            let manifest = r.prefixed(WHAT)?;
            r.end(WHAT)?;
            Ok((
                u32::try_from(rank).unwrap_or(u32::MAX),
                u32::try_from(of).unwrap_or(u32::MAX),
                written_bytes,
                manifest,
            ))
        };
        let (rank, of, written_bytes, manifest) = read().map_err(damaged)?;
        if !matches!(key, Key::Part(_, named) if *named == u64::from(rank)) {
            return Err(StoreError::corrupt(
                key.to_string(),
                format!("it holds part {rank}"),
            ));
        }
        let manifest = Manifest::decode(ManifestId::of(manifest), manifest)?;
        Ok(Self {
            rank,
            of,
            written_bytes,
            manifest,
        })
    }
}

impl Store {
    /// Stores one part of a checkpoint: the files below the request's source, or those of them that match `only`.
    ///
    /// Nothing is committed: [`Store::commit_parts`] does that, once every part is there. The same part again is harmless.
    ///
    /// # Errors
    /// `Conflict` if another part was stored under this rank and word; `Input`, `OutcomeUnknown`, `Backend` as for [`Store::save`].
    pub fn save_part(
        &self,
        request: &SaveRequest,
        part: &PartOf,
        only: Option<&GlobSet>,
        progress: &dyn Progress,
    ) -> Result<PartReport> {
        self.access().require_write()?;
        check_limits(request)?;
        if part.of == 0 || part.of > MAX_PARTS || part.rank >= part.of {
            return Err(StoreError::input(
                format!("part {} of {}", part.rank, part.of),
                "parts count from 0, and there are at most 65536",
                "Name a part below the number of parts",
            ));
        }
        let mut found = request.source.scan(self.objects().local_root())?.found;
        if let Some(only) = only {
            keep_matching(&mut found, only);
        }
        progress.start(Stage::Hash, found.iter().map(|f| f.len_bytes).sum());
        let checkpoint = Checkpoint::read(&found, &request.opaque, progress)?;
        progress.finish();
        let work = format!("save {}@{}, part {}", request.run, request.step, part.rank);
        let report = under_lease(self, &work, |lease| {
            store_part(lease, request, part, &checkpoint, progress)
        })?;
        self.catalog.flush();
        Ok(report)
    }

    /// Commits a checkpoint whose parts are all there. The parts stay until a gc finds them older than its grace, so that the same again says
    /// that it is done.
    ///
    /// * `request`: its run and step, and what else is said of it; the source is not read.
    /// * `save`: the word that its parts share.
    ///
    /// # Errors
    /// * `NotFound`: a part is not there; nothing was committed.
    /// * `Conflict`: two parts hold a file of one name, contents of a part are gone, or as for [`Store::save`].
    /// * `OutcomeUnknown`, `Backend`: the same again is harmless.
    pub fn commit_parts(&self, request: &SaveRequest, save: &str) -> Result<SaveReport> {
        self.access().require_write()?;
        let id = parts_id(&request.run, request.step, save);
        let parts = self.read_parts(id, request, save)?;
        let work = format!("commit {}@{}", request.run, request.step);
        let report = under_lease(self, &work, |lease| commit_parts(lease, request, &parts))?;
        self.catalog.flush();
        Ok(report)
    }

    /// Every part of a save, by rank.
    fn read_parts(&self, id: PartsId, request: &SaveRequest, save: &str) -> Result<Vec<Stored>> {
        let mut parts: Vec<Stored> = Vec::new();
        for listed in self.objects().list(&Prefix::Parts(id))? {
            parts.push(Stored::decode(&listed.key, &self.objects().get(&listed.key)?)?);
        }
        parts.sort_by_key(|part| part.rank);
        let name = format!("{}@{} ({save})", request.run, request.step);
        let hint = "Save what is missing with `tpde save-part … --part RANK/OF`, then commit again; nothing was committed";
        let Some(of) = parts.first().map(|part| part.of) else {
            return Err(StoreError::not_found(format!("a part of {name}"), hint));
        };
        if parts.iter().any(|part| part.of != of) {
            return Err(StoreError::conflict(
                format!("the parts of {name} do not agree on how many there are"),
                "Save all of them again under another word",
            ));
        }
        let missing = (0..of).find(|rank| !parts.iter().any(|part| part.rank == *rank));
        match missing {
            Some(rank) => Err(StoreError::not_found(
                format!("part {rank} of {of} of {name}"),
                hint,
            )),
            None => Ok(parts),
        }
    }
}

/// Leaves what matches, and the directories that it lies in.
fn keep_matching(found: &mut Vec<Found>, only: &GlobSet) {
    let mut holders: HashSet<String> = HashSet::new();
    for file in found.iter().filter(|file| only.is_match(&file.path)) {
        let slashes = file.path.match_indices('/');
        holders.extend(slashes.map(|(at, _)| file.path[..at].to_owned()));
    }
    found.retain(|file| only.is_match(&file.path) || file.is_dir && holders.contains(&file.path));
}

fn store_part(
    lease: &Lease,
    request: &SaveRequest,
    part: &PartOf,
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<Option<PartReport>> {
    let store = lease.store();
    let (newest, tip) = where_it_stands(store, &request.run)?;
    let mut manifest = empty_manifest(request, lease, tip);
    checkpoint.describe(&mut manifest);
    let placed = Contents {
        store,
        lease: lease.id(),
        checkpoint,
        bases: &Bases::new(store, newest.as_ref(), tip, request.parent)?,
        limits: Limits {
            max_depth: request.max_depth,
            max_restore_ratio: request.max_restore_ratio,
        },
        archive: request.archive_weights,
        seq: newest
            .as_ref()
            .map_or(0, |newest| newest.slot.seq.saturating_add(1)),
        progress,
    };
    let placed = placed.store()?;
    if !store.all_there(&placed.relied)? {
        return Ok(None);
    }
    checkpoint.sources.iter().try_for_each(|s| s.check_unchanged())?;
    let stored_bytes = placed.written_bytes;
    placed.note_in(&mut manifest);
    let raw_bytes = manifest.raw_bytes();
    let files = crate::summary::count(manifest.files.len());
    let key = Key::Part(parts_id(&request.run, request.step, &part.save), part.rank.into());
    let fingerprint = manifest.fingerprint();
    let record = Stored {
        rank: part.rank,
        of: part.of,
        written_bytes: stored_bytes,
        manifest,
    };
    let bytes = record.encode()?;
    let hint = "Save the same part again: that is harmless";
    let claimed = claim(store.objects(), &key, &bytes, hint, |found| {
        Ok(Stored::decode(&key, found)?.manifest.lease == Some(lease.id()))
    })?;
    let already_there = match claimed {
        Claim::Ours => false,
        Claim::Taken(theirs) => {
            let theirs = Stored::decode(&key, &theirs)?;
            if theirs.of != part.of || theirs.manifest.fingerprint() != fingerprint {
                return Err(StoreError::conflict(
                    format!(
                        "part {} of {}@{} ({}) is there with other files",
                        part.rank, request.run, request.step, part.save
                    ),
                    "Save all parts under another word: parts of two tries never make one checkpoint",
                ));
            }
            true
        }
    };
    Ok(Some(PartReport {
        raw_bytes,
        stored_bytes,
        files,
        already_there,
    }))
}

fn commit_parts(lease: &Lease, request: &SaveRequest, parts: &[Stored]) -> Result<Option<SaveReport>> {
    let store = lease.store();
    let (newest, tip) = where_it_stands(store, &request.run)?;
    let mut manifest = empty_manifest(request, lease, tip);
    merge(&mut manifest, parts)?;
    let mut committing = Committing::new(request, &manifest);
    let mut options = CommitOptions {
        replace: request.replace,
        expect_parent: request.expect_parent,
        again: false,
    };
    match committing.standing(lease, newest.as_ref(), &mut options)? {
        Some(true) => return Ok(Some(committing.report)),
        // The parts hold all that it lacks; a commit of its own is as good.
        Some(false) => options.again = true,
        None => {}
    }
    let mut reach = Reach::default();
    let is_whole = match store.reach(&manifest, &mut reach) {
        Ok(()) => store.all_there(&reach.packs)?,
        Err(StoreError::Corrupt { .. }) => false,
        Err(error) => return Err(error),
    };
    if !is_whole {
        return Err(StoreError::conflict(
            format!(
                "contents of the parts of {}@{} are gone",
                request.run, request.step
            ),
            "Save all parts again, then commit; nothing was committed",
        ));
    }
    let stored_bytes = parts.iter().map(|part| part.written_bytes).sum();
    let new_tensors = manifest.tensors.iter().filter(|t| t.stored_bytes > 0).count();
    committing.commit(
        lease,
        &manifest,
        stored_bytes,
        crate::summary::count(new_tensors),
        &mut options,
    )
}

/// Makes one manifest of those of the parts.
fn merge(manifest: &mut Manifest, parts: &[Stored]) -> Result<()> {
    let mut packs = PackList::default();
    let mut files: Vec<(FileRecord, u32)> = Vec::new();
    let (mut tensors, mut blobs) = (HashMap::new(), HashMap::new());
    for part in parts {
        let theirs = &part.manifest;
        let pack = |at: u32, packs: &mut PackList| packs.index(theirs.packs[at as usize]);
        let tensor_of: Vec<u32> = theirs
            .tensors
            .iter()
            .map(|record| {
                *tensors.entry((record.id, record.dtype)).or_insert_with(|| {
                    let mut record = record.clone();
                    record.packs = record.packs.iter().map(|&at| pack(at, &mut packs)).collect();
                    manifest.tensors.push(record);
                    crate::summary::count(manifest.tensors.len() - 1)
                })
            })
            .collect();
        let blob_of: Vec<u32> = theirs
            .blobs
            .iter()
            .map(|record| {
                *blobs.entry(record.id).or_insert_with(|| {
                    let mut record = record.clone();
                    record.pack = pack(record.pack, &mut packs);
                    manifest.blobs.push(record);
                    crate::summary::count(manifest.blobs.len() - 1)
                })
            })
            .collect();
        manifest.archived_weights |= theirs.archived_weights;
        for file in &theirs.files {
            let mut file = file.clone();
            match &mut file.content {
                FileContent::Directory => {}
                FileContent::Opaque { blobs, .. } => blobs.iter_mut().for_each(|b| *b = blob_of[*b as usize]),
                FileContent::Safetensors {
                    header: blobs,
                    tensors,
                }
                | FileContent::Torch {
                    container: blobs,
                    tensors,
                    ..
                } => {
                    blobs.iter_mut().for_each(|b| *b = blob_of[*b as usize]);
                    tensors
                        .iter_mut()
                        .for_each(|t| t.tensor = tensor_of[t.tensor as usize]);
                }
            }
            files.push((file, part.rank));
        }
    }
    files.sort_by(|(a, _), (b, _)| a.path.as_bytes().cmp(b.path.as_bytes()));
    files.dedup_by(|(b, _), (a, _)| {
        a.path == b.path && a.content == FileContent::Directory && b.content == FileContent::Directory
    });
    if let Some(pair) = files.windows(2).find(|pair| pair[0].0.path == pair[1].0.path) {
        return Err(StoreError::conflict(
            format!(
                "parts {} and {} both hold {:?}",
                pair[0].1, pair[1].1, pair[0].0.path
            ),
            "Give each file to one part (`--only GLOB`), and save the parts under another word; nothing was committed",
        ));
    }
    manifest.files = files.into_iter().map(|(file, _)| file).collect();
    manifest.packs = packs.packs;
    Ok(())
}
