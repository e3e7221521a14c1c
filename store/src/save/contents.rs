//! Contents of one checkpoint into packs: what the store does not hold yet, each against the base that makes it small.

use std::collections::{BTreeSet, HashMap};

use super::StoredTensor;
use super::bases::Bases;
use super::blobs::{StoredBlob, store_blobs};
use super::encode::Encoder;
use super::ids::Checkpoint;
use super::limits::Limits;
use super::tensors::TensorSaver;
use super::writer::PackQueue;
use crate::error::Result;
use crate::ids::{LeaseId, PackId};
use crate::manifest::Manifest;
use crate::progress::{Progress, Stage};
use crate::store::Store;
use crate::summary::count;

/// What is to be stored, and how.
pub(crate) struct Contents<'a> {
    /// What exists for whoever stores it.
    pub(crate) store: &'a Store,
    pub(crate) lease: LeaseId,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) bases: &'a Bases<'a>,
    pub(crate) limits: Limits,
    /// Whether weights may be stored as casts of their masters.
    pub(crate) archive: bool,
    /// The checkpoint's place in its run, which spreads the looks at other bases.
    pub(crate) seq: u64,
    pub(crate) progress: &'a dyn Progress,
}

/// Where everything is now.
pub(crate) struct Placed<'a> {
    tensors: Vec<StoredTensor>,
    blobs: Vec<StoredBlob>,
    packs: PackQueue<'a>,
    /// Bytes of the packs that were written.
    pub(crate) written_bytes: u64,
    /// Every pack that a restore reads or that was written.
    pub(crate) relied: BTreeSet<PackId>,
}

impl<'a> Contents<'a> {
    /// Stores what is new. The packs that were relied on may be gone by the end: look before anything names them.
    ///
    /// # Errors
    /// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read or written.
    pub(crate) fn store(self) -> Result<Placed<'a>> {
        let mut packs = PackQueue::new(self.store, self.lease);
        let mut relied = BTreeSet::new();
        self.progress.start(Stage::Encode, self.checkpoint.raw_bytes());
        let saver = TensorSaver {
            encoder: Encoder {
                store: self.store,
                checkpoint: self.checkpoint,
                limits: self.limits,
            },
            bases: self.bases,
            progress: self.progress,
            archive: self.archive,
            seq: self.seq,
        };
        let tensors = saver.save(&mut packs, &mut relied)?;
        let blobs = store_blobs(
            self.store,
            self.checkpoint,
            self.bases,
            &mut packs,
            &mut relied,
            self.progress,
        )?;
        let written_bytes = packs.finish()?;
        self.progress.finish();
        relied.extend(packs.written());
        Ok(Placed {
            tensors,
            blobs,
            packs,
            written_bytes,
            relied,
        })
    }
}

impl Placed<'_> {
    /// The packs that were written.
    pub(crate) fn written(&self) -> impl Iterator<Item = PackId> {
        self.packs.written()
    }

    /// Notes in `manifest`, which lists the same contents in the same order, where each is. Returns how many tensors were written.
    pub(crate) fn note_in(self, manifest: &mut Manifest) -> u32 {
        let mut list = PackList::default();
        let mut new_tensors = 0;
        for (record, stored) in manifest.tensors.iter_mut().zip(&self.tensors) {
            let holders = if stored.is_new {
                self.packs.packs_of(record.id.as_bytes())
            } else {
                stored.packs.clone()
            };
            record.packs = holders.into_iter().map(|p| list.index(p)).collect();
            record.rank = stored.rank;
            (record.has_base, record.is_given) = (stored.has_base, stored.is_given);
            record.stored_bytes = stored.stored_bytes;
            record.changed_elems = stored.changed_elems;
            record.max_ulp = stored.max_ulp;
            manifest.archived_weights |= stored.is_cast;
            new_tensors += u32::from(stored.is_new);
        }
        for (record, known) in manifest.blobs.iter_mut().zip(self.blobs) {
            record.stored_bytes = known.stored_bytes;
            let holder = known
                .pack
                .or_else(|| self.packs.packs_of(record.id.as_bytes()).first().copied());
            record.pack = holder.map_or(0, |p| list.index(p));
        }
        manifest.packs = list.packs;
        new_tensors
    }
}

/// Packs, each once, in the order in which they were first named.
#[derive(Debug, Default)]
pub(crate) struct PackList {
    pub(crate) packs: Vec<PackId>,
    index_of: HashMap<PackId, u32>,
}

impl PackList {
    pub(crate) fn index(&mut self, pack: PackId) -> u32 {
        *self.index_of.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            count(self.packs.len() - 1)
        })
    }
}
