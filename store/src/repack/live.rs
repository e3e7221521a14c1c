//! What is kept, and which stored pieces that takes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::{Sight, Sought};
use crate::error::{Result, StoreError};
use crate::gc::Survey;
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::manifest::Manifest;
use crate::pack::{ContentPrefix, Part, prefix_of};
use crate::reach::contents;
use crate::store::Store;

/// Pack and start of a stored piece.
type PieceKey = (PackId, u64);

/// Every checkpoint that is kept.
pub(super) struct Live {
    pub(super) manifests: BTreeMap<ManifestId, Manifest>,
    contents: Arc<HashSet<(ContentPrefix, Part)>>,
}

impl Live {
    /// # Errors
    /// `Corrupt`, naming the checkpoint, if its manifest is missing or damaged; `Newer`, `Backend`.
    pub(super) fn of(store: &Store, survey: &Survey) -> Result<Self> {
        let names = survey.live().into_iter();
        let manifests: BTreeMap<_, _> = names
            .map(|(id, name)| Ok((id, survey.manifest(store, id, &name)?)))
            .collect::<Result<_>>()?;
        let all = manifests.values().flat_map(contents);
        let contents = all.map(|(id, part, _)| (prefix_of(&id), part)).collect();
        Ok(Self {
            manifests,
            contents: Arc::new(contents),
        })
    }

    /// A store for which what nobody keeps does not exist, so that a delta on it must be made anew.
    pub(super) fn seen_alone_in(&self, store: &Store) -> Store {
        store.seeing(Sight {
            contents: Some(Arc::clone(&self.contents)),
            ..store.sight()
        })
    }

    /// The stored pieces that everything is decoded from by whoever sees what `view` sees, and their bytes.
    ///
    /// # Errors
    /// `Corrupt` if something is not whole there; `Backend`.
    pub(super) fn pieces_in(&self, view: &Store) -> Result<HashMap<PieceKey, u64>> {
        let mut pieces = HashMap::new();
        let mut seen = HashSet::new();
        for manifest in self.manifests.values() {
            for (content, part, hints) in contents(manifest) {
                if !seen.insert((content, part)) {
                    continue;
                }
                let sought = Sought::whole(content, part);
                let graph = Graph::resolve(&view.catalog, view.objects(), &sought, &hints)?;
                let nodes = graph.nodes().iter().map(|node| &node.piece);
                pieces.extend(nodes.map(|piece| ((piece.pack, piece.range().start), piece.len_bytes())));
            }
        }
        Ok(pieces)
    }
}

/// Whether everything of a checkpoint can be decoded by whoever sees what `view` sees.
pub(super) fn is_whole(view: &Store, manifest: &Manifest) -> Result<bool> {
    for (content, part, hints) in contents(manifest) {
        let sought = Sought::whole(content, part);
        match Graph::resolve(&view.catalog, view.objects(), &sought, &hints) {
            Ok(_) => {}
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
