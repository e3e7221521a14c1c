//! What the target lacks of a checkpoint, piece by piece.
//!
//! ```text
//! content ─▶ does the target decode it? ─┬ yes: rely on its packs
//!                                        └ no: send the source's piece, unless the target has it alike, and ask the same of what that piece reads
//! ```
//! A piece keeps its rank, so what it reads must be there at a lower one: where the target holds a base by a longer way only, the
//! source's shorter one goes along.

use std::collections::{BTreeSet, HashMap};

use super::target::Target;
use crate::catalog::{Piece, Sought};
use crate::error::Result;
use crate::graph::Graph;
use crate::ids::PackId;
use crate::manifest::Manifest;
use crate::pack::{ContentHash, ContentPrefix, Needs, Part, prefix_of};
use crate::restore::{hints, slices};
use crate::store::Store;

/// Some content, as pieces read it.
pub(super) type Key = (ContentPrefix, Part);

/// How the target decodes some content once everything is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) rank: u8,
    pub(super) needs: Needs,
    /// The pack that holds it; `None` if it is sent.
    pub(super) pack: Option<PackId>,
}

/// What one checkpoint needs of the target and of the source.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// Pieces that are to be sent, each behind what it reads.
    pub(super) pieces: Vec<Piece>,
    /// Packs of the target that are relied on.
    pub(super) relied: BTreeSet<PackId>,
    /// How each part of each tensor will be decoded, tensor by tensor.
    pub(super) tensors: Vec<Vec<Placed>>,
    /// How each blob will be decoded.
    pub(super) blobs: Vec<Placed>,
}

impl Lacking {
    /// Bytes of the pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::len_bytes).sum()
    }
}

/// Finds what is lacking, checkpoint after checkpoint: what one brings, the next finds.
pub(super) struct Finder<'s> {
    source: &'s Store,
    target: &'s Target<'s>,
    /// What is sent, or was found in the target.
    known: HashMap<Key, Placed>,
}

impl<'s> Finder<'s> {
    pub(super) fn new(source: &'s Store, target: &'s Target<'s>) -> Self {
        Self {
            source,
            target,
            known: HashMap::new(),
        }
    }

    /// What the target lacks of a checkpoint of the source.
    ///
    /// # Errors
    /// `Corrupt` if the source does not hold all of it.
    pub(super) fn find(&mut self, manifest: &Manifest) -> Result<Lacking> {
        let mut lacking = Lacking::default();
        for record in &manifest.tensors {
            let hints = hints(manifest, record);
            let mut placed = Vec::new();
            for (number, ..) in slices(record) {
                let part = Part::Slice {
                    dtype: record.dtype,
                    number,
                };
                placed.push(self.content(*record.id.as_bytes(), part, &hints, &mut lacking)?);
            }
            lacking.tensors.push(placed);
        }
        for blob in &manifest.blobs {
            let hint = manifest.packs[blob.pack as usize];
            let placed = self.content(*blob.id.as_bytes(), Part::Blob, &[hint], &mut lacking)?;
            lacking.blobs.push(placed);
        }
        Ok(lacking)
    }

    /// Where a piece's reader is told to look first.
    pub(super) fn holder(&self, key: &Key) -> Option<PackId> {
        self.known.get(key).and_then(|placed| placed.pack)
    }

    fn content(
        &mut self,
        id: ContentHash,
        part: Part,
        hints: &[PackId],
        lacking: &mut Lacking,
    ) -> Result<Placed> {
        let sought = Sought::whole(id, part);
        if let Some(placed) = self.there((prefix_of(&id), part), &sought, None, lacking)? {
            return Ok(placed);
        }
        let graph = Graph::resolve(&self.source.catalog, self.source.objects(), &sought, hints)?;
        self.send(&graph, lacking)
    }

    /// How the target decodes some content at a rank below `below`, now or after what was found to be sent.
    fn there(
        &mut self,
        key: Key,
        sought: &Sought,
        below: Option<u8>,
        lacking: &mut Lacking,
    ) -> Result<Option<Placed>> {
        let will_do = |placed: &&Placed| below.is_none_or(|below| placed.rank < below);
        if let Some(placed) = self.known.get(&key).filter(will_do) {
            // Confirmed again with every checkpoint that needs it.
            lacking.relied.extend(placed.pack);
            return Ok(Some(*placed));
        }
        let sought = below.map_or(*sought, |below| sought.below(below));
        let Some(graph) = self.target.held(&sought)? else {
            return Ok(None);
        };
        lacking.relied.extend(graph.packs());
        let placed = Placed {
            rank: graph.rank(),
            needs: graph.top().entry().needs,
            pack: Some(graph.top().pack),
        };
        self.known.insert(key, placed);
        Ok(Some(placed))
    }

    /// Notes the top of a source's graph to be sent, and below it whatever the target lacks.
    fn send(&mut self, graph: &Graph, lacking: &mut Lacking) -> Result<Placed> {
        let nodes = graph.nodes();
        // The lowest rank among a node's readers that are sent; `None` of a node that nothing sent reads.
        let mut below: Vec<Option<u8>> = vec![None; nodes.len()];
        let mut sent = Vec::new();
        let mut top = None;
        for (at, node) in nodes.iter().enumerate().rev() {
            let is_top = at + 1 == nodes.len();
            if below[at].is_none() && !is_top {
                continue;
            }
            let entry = node.piece.entry();
            let key = (prefix_of(&entry.id), node.piece.part());
            let sought = Sought::whole(entry.id, node.piece.part());
            if !is_top && self.there(key, &sought, below[at], lacking)?.is_some() {
                continue;
            }
            for read in node.base.into_iter().chain(node.given) {
                let lowest = below[read].map_or(entry.rank, |other| other.min(entry.rank));
                below[read] = Some(lowest);
            }
            // A copy that was cut short may have brought it, and not what it reads.
            let pack = self.target.holds_alike(&sought, entry)?;
            let placed = Placed {
                rank: entry.rank,
                needs: entry.needs,
                pack,
            };
            self.known.insert(key, placed);
            top.get_or_insert(placed);
            match pack {
                Some(pack) => drop(lacking.relied.insert(pack)),
                None => sent.push(node.piece.clone()),
            }
        }
        lacking.pieces.extend(sent.into_iter().rev());
        // The top comes first, and is never left out.
        Ok(top.unwrap_or(Placed {
            rank: 0,
            needs: Needs::default(),
            pack: None,
        }))
    }
}
