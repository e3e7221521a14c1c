//! What is needed: the packs that checkpoints are restored from.

use std::collections::{BTreeSet, HashSet};

use crate::catalog::Sought;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::history;
use crate::ids::{ManifestId, PackId};
use crate::manifest::Manifest;
use crate::names::RunName;
use crate::pack::{ContentHash, Part};
use crate::restore::{hints, slices};
use crate::store::Store;
use crate::tags;

/// Packs that some checkpoints need, gathered content by content.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Everything that the contents are decoded from lies in these.
    pub(crate) packs: BTreeSet<PackId>,
    seen: HashSet<(ContentHash, Part)>,
}

/// Every part of every content of a checkpoint, and where it was when the manifest was written.
pub(crate) fn contents(manifest: &Manifest) -> impl Iterator<Item = (ContentHash, Part, Vec<PackId>)> {
    let tensors = manifest.tensors.iter().flat_map(|record| {
        let hints = hints(manifest, record);
        slices(record).map(move |(number, ..)| {
            let dtype = record.dtype;
            (
                *record.id.as_bytes(),
                Part::Slice { dtype, number },
                hints.clone(),
            )
        })
    });
    let blobs = manifest.blobs.iter().map(|blob| {
        let hint = manifest.packs[blob.pack as usize];
        (*blob.id.as_bytes(), Part::Blob, vec![hint])
    });
    tensors.chain(blobs)
}

impl Store {
    /// A manifest, or `None` if it is gone or damaged.
    ///
    /// # Errors
    /// `Newer`, `Backend`: as for every read.
    pub(crate) fn readable_manifest(&self, id: ManifestId) -> Result<Option<Manifest>> {
        match self.manifest(id) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds the packs that `manifest` is restored from, by their footers, to what was gathered before.
    ///
    /// # Errors
    /// `Corrupt` if a content is not whole; `Backend` if the store cannot be read.
    pub(crate) fn reach(&self, manifest: &Manifest, reach: &mut Reach) -> Result<()> {
        for (id, part, hints) in contents(manifest) {
            self.reach_content(id, part, &hints, reach)?;
        }
        Ok(())
    }

    fn reach_content(&self, id: ContentHash, part: Part, hints: &[PackId], reach: &mut Reach) -> Result<()> {
        if reach.seen.insert((id, part)) {
            let graph = Graph::resolve(&self.catalog, self.objects(), &Sought::whole(id, part), hints)?;
            reach.packs.extend(graph.packs());
        }
        Ok(())
    }

    /// Every checkpoint that is to be kept: the commits that stand in all runs, and what tags stand for.
    ///
    /// * `but`: commits that are left out.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend`: as for every read.
    pub(crate) fn kept_checkpoints(
        &self,
        but: impl Fn(&RunName, u64) -> bool,
    ) -> Result<BTreeSet<ManifestId>> {
        let mut kept = BTreeSet::new();
        for run in history::runs(self.objects())? {
            let log = history::log(self.objects(), &run)?;
            let stays = log.commits().filter(|commit| !but(&run, commit.seq));
            kept.extend(stays.map(|commit| commit.manifest));
        }
        kept.extend(
            tags::list(self.objects())?
                .into_iter()
                .map(|tag| tag.target.manifest),
        );
        Ok(kept)
    }
}
