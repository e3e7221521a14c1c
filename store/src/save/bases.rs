//! What a new tensor may be taken against.
//!
//! In the order of age: the run's newest checkpoint, the *skip bases* of this one (its sequence number with the lowest set bits
//! cleared, one after another, down to the run's first, its anchor), and the parent that was named. Which of them costs least is
//! for `choice` to find out; usually the newest does, and then no other is looked at. A chain grows link by link until it reaches
//! a limit; then a skip base, whose chain is shorter, starts a new branch. So any of 10 000 steps is at most `max_depth` links
//! from an anchor.

use std::collections::HashMap;

use parking_lot::Mutex;
use tpde_core::{Dtype, TensorId};

use super::ids::{BlobSource, TensorSource};
use crate::catalog::Sought;
use crate::content::MAX_BLOB_RANK;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::history;
use crate::ids::{BlobId, ManifestId, PackId};
use crate::manifest::{FileContent, Manifest};
use crate::pack::Part;
use crate::slot::StoredSlot;
use crate::store::Store;

/// A tensor that another may be taken against.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) id: TensorId,
    /// What every slice of it is decoded from.
    pub(super) graphs: Vec<Graph>,
    /// Whether the run's newest checkpoint holds it.
    pub(super) is_newest: bool,
}

impl Candidate {
    /// The highest rank of its slices.
    pub(super) fn rank(&self) -> u8 {
        self.graphs.iter().map(Graph::rank).max().unwrap_or(0)
    }
}

/// Candidate checkpoints; each manifest is read when it is first needed.
pub(crate) struct Bases<'s> {
    store: &'s Store,
    candidates: Vec<ManifestId>,
    /// Whether the first of them is the run's newest checkpoint.
    has_newest: bool,
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
    contents: Vec<Known>,
    blob_ids: Vec<BlobId>,
}

/// A tensor as a manifest records it.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: TensorId,
    dtype: Dtype,
    len_bytes: u64,
    stored_bytes: u64,
}

impl ByName {
    /// The tensor that stood where `tensor` stands, if it has the same type and length.
    fn tensor(&self, tensor: &TensorSource) -> Option<Known> {
        let exact = tensor.names.iter().find_map(|n| self.tensors.get(n));
        let by_name = || {
            let mut names = tensor.names.iter();
            names.find_map(|(_, name)| self.tensors_by_name.get(name))
        };
        let known = *self.contents.get(*exact.or_else(by_name)?)?;
        ((known.dtype, known.len_bytes) == (tensor.dtype, tensor.len_bytes)).then_some(known)
    }

    fn new(manifest: &Manifest) -> Self {
        let mut by = Self::default();
        let pack = |&i: &u32| manifest.packs[i as usize];
        for t in &manifest.tensors {
            by.contents.push(Known {
                id: t.id,
                dtype: t.dtype,
                len_bytes: t.len_bytes,
                stored_bytes: t.stored_bytes,
            });
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
                FileContent::Safetensors {
                    header: blobs,
                    tensors,
                }
                | FileContent::Torch {
                    container: blobs,
                    tensors,
                    ..
                } => {
                    for t in tensors {
                        by.tensors
                            .insert((file.path.clone(), t.name.clone()), t.tensor as usize);
                        by.tensors_by_name.insert(t.name.clone(), t.tensor as usize);
                    }
                    blobs
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
    /// Bases that are chosen: the first as the newest checkpoint is, the others when deltas on it are dear.
    pub(crate) fn chosen(store: &'s Store, candidates: Vec<ManifestId>) -> Self {
        Self {
            store,
            has_newest: !candidates.is_empty(),
            candidates,
            loaded: Mutex::default(),
        }
    }

    /// Lists the candidates for the checkpoint that follows slot `newest`.
    ///
    /// * `tip`: the run's newest checkpoint, unless all are forgotten.
    ///
    /// # Errors
    /// As for reading the run's history.
    pub(super) fn new(
        store: &'s Store,
        newest: Option<&StoredSlot>,
        tip: Option<ManifestId>,
        parent: Option<ManifestId>,
    ) -> Result<Self> {
        let mut candidates = Vec::new();
        if let Some(newest) = newest {
            candidates.extend(tip);
            let mut skip = newest.slot.seq.saturating_add(1);
            while skip != 0 {
                skip &= skip - 1;
                let Some(commit) = history::commit_at_or_before(store.objects(), newest, skip)? else {
                    continue;
                };
                if !candidates.contains(&commit.manifest) {
                    candidates.push(commit.manifest);
                }
            }
        }
        candidates.extend(parent);
        Ok(Self {
            store,
            candidates,
            has_newest: tip.is_some(),
            loaded: Mutex::default(),
        })
    }

    fn load(&self, id: ManifestId) -> Result<std::sync::Arc<ByName>> {
        // Held throughout: whoever wants it meanwhile waits, and reads it not once more.
        let mut loaded = self.loaded.lock();
        if let Some(known) = loaded.get(&id) {
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
        loaded.insert(id, std::sync::Arc::clone(&by));
        Ok(by)
    }

    /// Packs that the run's newest checkpoint names for this content.
    pub(super) fn hints(&self, content: &[u8; 32]) -> Result<Vec<PackId>> {
        let Some(&newest) = self.candidates.first() else {
            return Ok(Vec::new());
        };
        Ok(self.load(newest)?.hints.get(content).cloned().unwrap_or_default())
    }

    /// How many checkpoints there are to choose from.
    pub(super) fn count(&self) -> usize {
        self.candidates.len()
    }

    /// What candidate checkpoint `at` has where `tensor` stands: a tensor of the same type and length that can be found whole.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn of_tensor(&self, at: usize, tensor: &TensorSource) -> Result<Option<Candidate>> {
        let by = self.load(self.candidates[at])?;
        let Some(Known { id, dtype, .. }) = by.tensor(tensor) else {
            return Ok(None);
        };
        let hints = by.hints.get(id.as_bytes()).cloned().unwrap_or_default();
        let graphs: Result<Vec<Graph>> = (0u32..)
            .take(tensor.slices.len())
            .map(|s| {
                self.store
                    .catalog
                    .slice(self.store.objects(), id, dtype, s, &hints)
            })
            .collect();
        match graphs {
            Ok(graphs) => Ok(Some(Candidate {
                id,
                graphs,
                is_newest: self.has_newest && at == 0,
            })),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!("not used as a base: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What the run's newest checkpoint paid for the tensor that stood where `tensor` stands, in stored bytes a raw byte; `None`
    /// if it paid nothing, or there is none.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn usual_cost(&self, tensor: &TensorSource) -> Result<Option<f64>> {
        if !self.has_newest {
            return Ok(None);
        }
        let known = self.load(self.candidates[0])?.tensor(tensor);
        #[expect(clippy::cast_precision_loss, reason = "a ratio; no tensor has 2^52 bytes")]
        let cost = |known: Known| known.stored_bytes as f64 / known.len_bytes as f64;
        Ok(known.filter(|k| k.stored_bytes > 0 && k.len_bytes > 0).map(cost))
    }

    /// The blob that stood in the same place of the run's newest checkpoint, and what it is decoded from.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn of_blob(&self, blob: &BlobSource) -> Result<Option<(BlobId, Graph)>> {
        let Some(&newest) = self.candidates.first() else {
            return Ok(None);
        };
        let by = self.load(newest)?;
        let Some(&id) = by.blobs.get(&blob.place).and_then(|&i| by.blob_ids.get(i)) else {
            return Ok(None);
        };
        let hints = self.hints(id.as_bytes())?;
        let sought = Sought::whole(*id.as_bytes(), Part::Blob);
        let graph = self.store.stored_graph(&sought, &hints)?;
        let shallow = |graph: &Graph| graph.rank() < MAX_BLOB_RANK;
        Ok(graph.filter(shallow).map(|graph| (id, graph)))
    }
}
