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

    /// The packs that everything is decoded from by whoever sees what `view` sees, and how much of them that takes.
    ///
    /// # Errors
    /// `Corrupt` if something is not whole there; `Backend`.
    pub(super) fn packs_in(&self, view: &Store) -> Result<BTreeMap<PackId, Used>> {
        let mut packs: BTreeMap<PackId, Used> = BTreeMap::new();
        for ((pack, _), len_bytes) in self.pieces_in(view)? {
            packs.entry(pack).or_default().needed_bytes += len_bytes;
        }
        for (pack, used) in &mut packs {
            used.pieces_bytes = view.catalog.pieces_bytes(view.objects(), *pack)?;
        }
        Ok(packs)
    }

    /// The bytes of packs that would stay for whoever sees what `view` sees, once packs of which little is needed are emptied.
    ///
    /// # Errors
    /// As [`Live::packs_in`].
    pub(super) fn bytes_in(&self, view: &Store, min_used: f64) -> Result<u64> {
        let packs = self.packs_in(view)?.into_values();
        Ok(packs
            .map(|used| match used.is_little(min_used) {
                true => used.needed_bytes,
                false => used.pieces_bytes,
            })
            .sum())
    }

    /// The stored pieces that everything is decoded from, and their bytes.
    fn pieces_in(&self, view: &Store) -> Result<HashMap<PieceKey, u64>> {
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

/// How much of a pack is needed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    needed_bytes: u64,
    pieces_bytes: u64,
}

impl Used {
    /// Whether it is less than a share of it.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share; packs are far below 2^52 bytes"
    )]
    pub(super) fn is_little(&self, min_used: f64) -> bool {
        (self.needed_bytes as f64) < min_used * self.pieces_bytes as f64
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
