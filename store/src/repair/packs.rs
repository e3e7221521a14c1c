//! Contents out of damaged packs.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;

use crate::catalog::Sight;
use crate::clock::now_unix_ms;
use crate::error::{Result, StoreError};
use crate::gc::Survey;
use crate::ids::{ManifestId, MarkId, PackId};
use crate::keys::Key;
use crate::lease::{Lease, under_lease};
use crate::manifest::Manifest;
use crate::mark::Mark;
use crate::pack::{ContentHash, MAX_PACK_BYTES, Part};
use crate::progress::{Progress, Stage};
use crate::reach::contents;
use crate::salvage::Salvage;
use crate::store::Store;

/// A checkpoint that cannot be made whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostCheckpoint {
    /// `run@step`, or the tag that stands for it.
    pub name: String,
    /// Its id.
    pub manifest: ManifestId,
    /// What of it is lost: files and tensors, each as `file: tensor`; empty if its manifest is.
    pub contents: Vec<String>,
    /// Why.
    pub detail: String,
}

/// What a repair of packs did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairedPacks {
    /// Packs that were read.
    pub packs: u64,
    /// Packs whose bytes are not what they are named after.
    pub damaged: Vec<PackId>,
    /// Bytes of new packs, with what could be saved of the damaged ones.
    pub written_bytes: u64,
    /// Checkpoints that are not whole all the same.
    pub lost: Vec<LostCheckpoint>,
}

impl Store {
    /// Reads every byte of every pack, and stores what still decodes of damaged ones in new packs.
    ///
    /// A mark tells all writers to do without the damaged packs; they stay until a gc finds that nothing needs them.
    ///
    /// # Errors
    /// `Corrupt` if the log cannot be read (mend the slots first); `Newer`, `Backend`: the same again is harmless.
    pub fn repair_packs(&self, progress: &dyn Progress) -> Result<RepairedPacks> {
        self.access().require_write()?;
        under_lease(self, "repair packs", |lease| repair(lease, progress).map(Some))
    }
}

fn repair(lease: &Lease, progress: &dyn Progress) -> Result<RepairedPacks> {
    let store = lease.store();
    let survey = Survey::take(store, lease.marked())?;
    let damaged = damaged_packs(store, &survey, progress)?;
    let mut report = RepairedPacks {
        packs: survey.packs.len() as u64,
        damaged: damaged.iter().copied().collect(),
        ..RepairedPacks::default()
    };
    let sound = store.without(damaged.iter().copied());
    let everything = store.seeing(Sight::default());
    let mut salvage = Salvage::new(&sound, lease.id());
    let mut lost: HashMap<(ContentHash, Part), String> = HashMap::new();
    for (id, name) in survey.live() {
        let manifest = match survey.manifest(store, id, &name) {
            Ok(manifest) => manifest,
            Err(StoreError::Corrupt { detail, .. }) => {
                report.lost.push(LostCheckpoint {
                    name,
                    manifest: id,
                    contents: Vec::new(),
                    detail,
                });
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut of_this = BTreeSet::new();
        let mut why = String::new();
        for (content, part, hints) in contents(&manifest) {
            let known = lost.get(&(content, part)).cloned();
            let fate = match known {
                Some(detail) => Err(detail),
                None => match salvage.add(&everything, content, part, &hints) {
                    Ok(()) => Ok(()),
                    Err(StoreError::Corrupt { object, detail, .. }) => Err(format!("{object}: {detail}")),
                    Err(error) => return Err(error),
                },
            };
            if let Err(detail) = fate {
                lost.insert((content, part), detail.clone());
                of_this.insert(content);
                why = detail;
            }
        }
        if !of_this.is_empty() {
            report.lost.push(LostCheckpoint {
                name,
                manifest: id,
                contents: named(&manifest, &of_this),
                detail: why,
            });
        }
    }
    report.written_bytes = salvage.finish()?.1;
    if !damaged.is_empty() {
        // From here on nobody relies on them, so what is lost is stored again by whoever saves it again.
        store.put_mark(&Mark {
            id: MarkId::random()?,
            created_unix_ms: now_unix_ms(),
            packs: damaged,
            manifests: BTreeSet::new(),
        })?;
    }
    store.catalog.flush();
    Ok(report)
}

/// Packs whose bytes are not what they are named after; each is read whole.
fn damaged_packs(store: &Store, survey: &Survey, progress: &dyn Progress) -> Result<BTreeSet<PackId>> {
    progress.start(Stage::Verify, survey.packs.values().map(|p| p.size_bytes).sum());
    let packs: Vec<PackId> = survey.packs.keys().copied().collect();
    let damaged: Vec<Option<PackId>> = packs
        .par_iter()
        .map(|&pack| {
            let bytes = store
                .objects()
                .get_bounded(&Key::Pack(pack), MAX_PACK_BYTES as u64)?;
            // One that is gone is no damage: what it held is found elsewhere, or lost.
            let sound = bytes.is_none_or(|bytes| {
                progress.advance(bytes.len() as u64);
                PackId::of(&bytes) == pack
            });
            Ok((!sound).then_some(pack))
        })
        .collect::<Result<_>>()?;
    progress.finish();
    Ok(damaged.into_iter().flatten().collect())
}

/// Where in a checkpoint these contents stand.
fn named(manifest: &Manifest, lost: &BTreeSet<ContentHash>) -> Vec<String> {
    let mut names = Vec::new();
    for file in &manifest.files {
        let blobs = file
            .content
            .blobs()
            .iter()
            .map(|&b| manifest.blobs[b as usize].id);
        if blobs.into_iter().any(|id| lost.contains(id.as_bytes())) {
            names.push(file.path.clone());
        }
        for tensor in file.content.tensors() {
            if lost.contains(manifest.tensors[tensor.tensor as usize].id.as_bytes()) {
                names.push(format!("{}: {}", file.path, tensor.name));
            }
        }
    }
    names
}
