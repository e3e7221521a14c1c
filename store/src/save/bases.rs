//! What a new tensor may be taken against.
//!
//! In the order of trial: the run's newest checkpoint, the *skip bases* of this one (its sequence number with the lowest set
//! bits cleared, one after another, down to the run's first), and the parent that was named. A chain grows link by link
//! until it reaches the depth limit; then a skip base, whose chain is shorter, starts a new branch. So any of 10 000 steps is
//! at most `max_depth` links from an anchor.

use std::collections::HashMap;

use parking_lot::Mutex;
use tpde_core::{Dtype, TensorId};

use super::ids::{BlobSource, TensorSource};
use crate::catalog::Piece;
use crate::content::MAX_BLOB_RANK;
use crate::error::{Result, StoreError};
use crate::history;
use crate::ids::{BlobId, ManifestId, PackId};
use crate::manifest::{FileContent, Manifest};
use crate::pack::BLOB_PART;
use crate::slot::StoredSlot;
use crate::store::Store;

/// A base that was chosen for one tensor.
#[derive(Debug, Clone)]
pub(super) struct ChosenBase {
    pub(super) id: TensorId,
    /// The frames of every slice of it.
    pub(super) chains: Vec<Vec<Piece>>,
}

/// Candidate checkpoints; each manifest is read when it is first needed.
pub(super) struct Bases<'s> {
    store: &'s Store,
    candidates: Vec<ManifestId>,
    loaded: Mutex<HashMap<ManifestId, std::sync::Arc<ByName>>>,
}

/// A manifest's contents by where they stand.
#[derive(Debug, Default)]
struct ByName {
    /// By file and name, and by name alone for files that were renamed or cut otherwise.
    tensors: HashMap<(String, String), usize>,
    tensors_by_name: HashMap<String, usize>,
    blobs: HashMap<(String, usize), usize>,
    hints: HashMap<[u8; 32], Vec<PackId>>,
    contents: Vec<(TensorId, Dtype, u64)>,
    blob_ids: Vec<BlobId>,
}

impl ByName {
    fn new(manifest: &Manifest) -> Self {
        let mut by = Self::default();
        let pack = |&i: &u32| manifest.packs[i as usize];
        for t in &manifest.tensors {
            by.contents.push((t.id, t.dtype, t.len_bytes));
            by.hints
                .insert(*t.id.as_bytes(), t.packs.iter().map(pack).collect());
        }
        for b in &manifest.blobs {
            by.blob_ids.push(b.id);
            by.hints.insert(*b.id.as_bytes(), vec![pack(&b.pack)]);
        }
        for file in &manifest.files {
            let blobs = match &file.content {
                FileContent::Directory => continue,
                FileContent::Opaque { blobs, .. } => blobs,
                FileContent::Safetensors { header, tensors } => {
                    for t in tensors {
                        by.tensors
                            .insert((file.path.clone(), t.name.clone()), t.tensor as usize);
                        by.tensors_by_name.insert(t.name.clone(), t.tensor as usize);
                    }
                    header
                }
            };
            for (i, &blob) in blobs.iter().enumerate() {
                by.blobs.insert((file.path.clone(), i), blob as usize);
            }
        }
        by
    }
}

impl<'s> Bases<'s> {
    /// Lists the candidates for the checkpoint that follows `newest`.
    ///
    /// # Errors
    /// As for reading the run's history.
    pub(super) fn new(
        store: &'s Store,
        newest: Option<&StoredSlot>,
        parent: Option<ManifestId>,
    ) -> Result<Self> {
        let mut candidates = Vec::new();
        if let Some(newest) = newest {
            candidates.push(newest.slot.manifest);
            let mut skip = newest.slot.seq.saturating_add(1);
            while skip != 0 {
                skip &= skip - 1;
                if skip != newest.slot.seq {
                    candidates.push(history::commit_at(store.objects(), newest, skip)?.manifest);
                }
            }
        }
        candidates.extend(parent);
        Ok(Self {
            store,
            candidates,
            loaded: Mutex::default(),
        })
    }

    fn load(&self, id: ManifestId) -> Result<std::sync::Arc<ByName>> {
        if let Some(known) = self.loaded.lock().get(&id) {
            return Ok(std::sync::Arc::clone(known));
        }
        let by = match self.store.manifest(id) {
            Ok(manifest) => ByName::new(&manifest),
            // A checkpoint that cannot be read is no base; what is saved now must not depend on it.
            Err(error @ (StoreError::NotFound { .. } | StoreError::Corrupt { .. })) => {
                tracing::warn!("not used as a base: {error}");
                ByName::default()
            }
            Err(error) => return Err(error),
        };
        let by = std::sync::Arc::new(by);
        self.loaded.lock().insert(id, std::sync::Arc::clone(&by));
        Ok(by)
    }

    /// Packs that the run's newest checkpoint names for this content.
    pub(super) fn hints(&self, content: &[u8; 32]) -> Result<Vec<PackId>> {
        let Some(&newest) = self.candidates.first() else {
            return Ok(Vec::new());
        };
        Ok(self.load(newest)?.hints.get(content).cloned().unwrap_or_default())
    }

    /// The first candidate that holds a tensor of the same name, dtype and length, can be decoded, and is shallow enough.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn of_tensor(
        &self,
        tensor: &TensorSource,
        slices: u32,
        max_depth: u8,
    ) -> Result<Option<ChosenBase>> {
        for &candidate in &self.candidates {
            let by = self.load(candidate)?;
            let exact = tensor.names.iter().find_map(|n| by.tensors.get(n));
            let found = exact.or_else(|| {
                tensor
                    .names
                    .iter()
                    .find_map(|(_, name)| by.tensors_by_name.get(name))
            });
            let Some(&(id, dtype, len_bytes)) = found.and_then(|&i| by.contents.get(i)) else {
                continue;
            };
            if (dtype, len_bytes) != (tensor.dtype, tensor.len_bytes) {
                continue;
            }
            let hints = by.hints.get(id.as_bytes()).cloned().unwrap_or_default();
            let chains: Result<Vec<Vec<Piece>>> = (0..slices)
                .map(|s| self.store.catalog.chain(self.store.objects(), id, s, &hints))
                .collect();
            let chains = match chains {
                Ok(chains) => chains,
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::warn!("not used as a base: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let rank = chains
                .iter()
                .filter_map(|c| c.last())
                .map(|p| p.entry().rank)
                .max()
                .unwrap_or(0);
            if rank < max_depth {
                return Ok(Some(ChosenBase { id, chains }));
            }
        }
        Ok(None)
    }

    /// The blob that stood in the same place of the run's newest checkpoint, and what it is decoded from.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn of_blob(&self, blob: &BlobSource) -> Result<Option<(BlobId, Vec<Piece>)>> {
        let Some(&newest) = self.candidates.first() else {
            return Ok(None);
        };
        let by = self.load(newest)?;
        let Some(&id) = by.blobs.get(&blob.place).and_then(|&i| by.blob_ids.get(i)) else {
            return Ok(None);
        };
        let hints = self.hints(id.as_bytes())?;
        let links = self.store.stored_chain(id.as_bytes(), BLOB_PART, &hints)?;
        let shallow = |links: &Vec<Piece>| links.last().is_some_and(|p| p.entry().rank < MAX_BLOB_RANK);
        Ok(links.filter(shallow).map(|links| (id, links)))
    }
}
