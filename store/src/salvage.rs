//! Copies contents out of packs that are about to go, piece by piece as they are stored.
//!
//! A piece is coded against contents, not against packs, so it means the same in any pack: nothing is encoded anew. What is copied is decoded
//! first, so that damage is never spread.

use std::collections::HashMap;

use tpde_core::{Frame, TensorId};

use crate::catalog::Sought;
use crate::content::{read_blob_graph, read_slice};
use crate::error::{Result, StoreError};
use crate::graph::{Graph, Node};
use crate::ids::{BlobId, LeaseId, PackId};
use crate::keys::Key;
use crate::pack::{Content, ContentHash, ContentPrefix, Holder, Needed, Part, prefix_of};
use crate::save::writer::PackQueue;
use crate::store::Store;

/// Copies what a store does not see from one that does.
pub(crate) struct Salvage<'s> {
    /// For whoever sees this, everything that was added is whole in the end.
    store: &'s Store,
    packs: PackQueue<'s>,
    /// What was copied, and at which rank.
    copied: HashMap<(ContentPrefix, Part), u8>,
}

impl<'s> Salvage<'s> {
    pub(crate) fn new(store: &'s Store, lease: LeaseId) -> Self {
        Self {
            store,
            packs: PackQueue::new(store, lease),
            copied: HashMap::new(),
        }
    }

    /// Makes sure that a content is whole for the store: what it lacks is copied from `from`.
    ///
    /// * `hints`: packs to look into first.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be decoded, whoever looks; `Backend` if the store cannot be read or written.
    pub(crate) fn add(&mut self, from: &Store, id: ContentHash, part: Part, hints: &[PackId]) -> Result<()> {
        let sought = Sought::whole(id, part);
        if self.copied.contains_key(&(sought.prefix, part)) {
            return Ok(());
        }
        match Graph::resolve(&self.store.catalog, self.store.objects(), &sought, hints) {
            Err(StoreError::Corrupt { .. }) => {}
            found => return found.map(drop),
        }
        let graph = Graph::resolve(&from.catalog, from.objects(), &sought, hints)?;
        decode(from, id, part, &graph)?;
        for node in graph.nodes() {
            self.copy(node, &graph)?;
        }
        Ok(())
    }

    fn copy(&mut self, node: &Node, graph: &Graph) -> Result<()> {
        let piece = &node.piece;
        let entry = piece.entry();
        let key = (prefix_of(&entry.id), piece.part());
        // Of two copies of a base, a reader of low rank can use the lower one only.
        let will_do = self.copied.get(&key).is_some_and(|&rank| rank <= entry.rank);
        if self.store.catalog.sees(&piece.pack) || will_do {
            return Ok(());
        }
        self.copied.insert(key, entry.rank);
        let holder = |at: Option<usize>| {
            let pack = at.map(|at| graph.nodes()[at].piece.pack);
            let stays = pack.filter(|pack| self.store.catalog.sees(pack));
            stays.map_or(Holder::Unknown, Holder::Pack)
        };
        let mut needs = entry.needs;
        let of = |needed: Needed, at| Needed {
            holder: holder(at),
            ..needed
        };
        needs.base = needs.base.map(|base| of(base, node.base));
        needs.given = needs
            .given
            .map(|(relation, given)| (relation, of(given, node.given)));
        let content = match (entry.content, piece.part()) {
            (Content::Slices { dtype, .. }, Part::Slice { number, .. }) => {
                Content::Slices { dtype, first: number }
            }
            (content, _) => content,
        };
        let bytes = self
            .store
            .objects()
            .get_range(&Key::Pack(piece.pack), piece.range())?;
        self.packs.add(entry.id, content, needs, entry.rank, &bytes)
    }

    /// Stores what is left. Returns the new packs, and their bytes.
    ///
    /// # Errors
    /// `Backend` if they cannot be stored.
    pub(crate) fn finish(mut self) -> Result<(Vec<PackId>, u64)> {
        let bytes = self.packs.finish()?;
        Ok((self.packs.written().collect(), bytes))
    }
}

/// Decodes a content, to see that it can be.
///
/// # Errors
/// `Corrupt`, naming the pack.
pub(crate) fn decode(store: &Store, id: ContentHash, part: Part, graph: &Graph) -> Result<()> {
    match part {
        Part::Blob => read_blob_graph(store.objects(), BlobId::from_bytes(id), graph).map(drop),
        Part::Slice { .. } => {
            let top = graph.top();
            let stored = store.objects().get_range(&Key::Pack(top.pack), top.range())?;
            let frame = Frame::parse(&stored).map_err(|e| StoreError::decoding(top.shown(), e))?;
            let mut out = vec![0; frame.len_bytes()];
            read_slice(store.objects(), TensorId::from_bytes(id), graph, &mut out).map(drop)
        }
    }
}
