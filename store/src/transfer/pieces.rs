//! Where the bytes of stored pieces come from: fetched ahead, this machine's cache, or the store.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::runs::{Run, runs};
use crate::catalog::Piece;
use crate::error::Result;
use crate::graph::Graph;
use crate::ids::PackId;
use crate::keys::Key;
use crate::objects::{Objects, PackCache, at_once};

/// A stretch of a pack.
pub(crate) type Stretch = (PackId, Range<u64>);

/// Pieces that are here.
pub(super) type Ready = HashMap<Stretch, Bytes>;

/// A way to the bytes of pieces. Whatever it gives is checked by whoever decodes it, as if the store had sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pub(super) objects: &'a Objects,
    cache: Option<&'a PackCache>,
    ready: Option<&'a Ready>,
}

/// Straight from the store, for those who want to know what is there.
impl<'a> From<&'a Objects> for Pieces<'a> {
    fn from(objects: &'a Objects) -> Self {
        Self {
            objects,
            cache: None,
            ready: None,
        }
    }
}

/// What came of a run.
pub(super) struct Fetched {
    pub(super) pieces: Vec<(Stretch, Bytes)>,
    /// Bytes that a server sent for it.
    pub(super) moved_bytes: u64,
}

impl<'a> Pieces<'a> {
    /// From the store, or from what this machine kept of it.
    pub(crate) fn cached(objects: &'a Objects) -> Self {
        Self {
            cache: objects.pack_cache(),
            ..Self::from(objects)
        }
    }

    /// The same, with these at hand.
    pub(super) fn with<'b>(self, ready: &'b Ready) -> Pieces<'b>
    where
        'a: 'b,
    {
        Pieces {
            ready: Some(ready),
            ..self
        }
    }

    /// The stored pieces of a graph, in its order.
    ///
    /// # Errors
    /// As [`Objects::get_range`].
    pub(crate) fn of_graph(&self, graph: &Graph) -> Result<Vec<Bytes>> {
        let wanted: Vec<Stretch> = stretches(graph).collect();
        if !self.objects.is_far() {
            let get = |(pack, range): Stretch| self.objects.get_range(&Key::Pack(pack), range);
            return wanted.into_iter().map(get).collect();
        }
        let here = |at: &Stretch| self.ready.and_then(|ready| ready.get(at)).cloned();
        let missing: Vec<Stretch> = wanted.iter().filter(|at| here(at).is_none()).cloned().collect();
        let fetched = at_once(self.objects, &self.runs(missing), |run| self.fetch(run))?;
        let fetched: Ready = fetched.into_iter().flat_map(|run| run.pieces).collect();
        let bytes = wanted
            .iter()
            .map(|at| here(at).or_else(|| fetched.get(at).cloned()));
        // Every piece is in one of the runs.
        Ok(bytes.map(Option::unwrap_or_default).collect())
    }

    /// Some bytes of a piece, counted from its start.
    ///
    /// # Errors
    /// As [`Objects::get_range`].
    pub(crate) fn stretch(&self, piece: &Piece, range: Range<u64>) -> Result<Bytes> {
        let whole = piece.range();
        if let Some(kept) = self
            .cache
            .and_then(|cache| cache.get(&(piece.pack, whole.clone())))
        {
            let offset = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(kept.len());
            return Ok(kept.slice(offset(range.start)..offset(range.end)));
        }
        let range = whole.start + range.start..whole.start + range.end;
        self.objects.get_range(&Key::Pack(piece.pack), range)
    }

    /// The runs that bring these; those that the cache has are by themselves.
    pub(super) fn runs(&self, wanted: impl IntoIterator<Item = Stretch>) -> Vec<Run> {
        let (kept, missing): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|at| self.cache.is_some_and(|cache| cache.has(at)));
        let mut all = runs(missing);
        all.extend(runs(kept));
        all
    }

    /// Brings the pieces of a run.
    ///
    /// # Errors
    /// As [`Objects::get_range`].
    pub(super) fn fetch(&self, run: &Run) -> Result<Fetched> {
        let at = |piece: &Range<u64>| (run.pack, piece.clone());
        if let Some(cache) = self.cache {
            let kept = run.pieces.iter().map(|p| Some((at(p), cache.get(&at(p))?)));
            if let Some(pieces) = kept.collect::<Option<Vec<_>>>() {
                return Ok(Fetched {
                    pieces,
                    moved_bytes: 0,
                });
            }
        }
        let bytes = self.objects.get_range(&Key::Pack(run.pack), run.range.clone())?;
        let offset = |n: u64| usize::try_from(n - run.range.start).unwrap_or(usize::MAX);
        let cut = |p: &Range<u64>| bytes.slice(offset(p.start)..offset(p.end));
        let pieces: Vec<(Stretch, Bytes)> = run.pieces.iter().map(|p| (at(p), cut(p))).collect();
        if let Some(cache) = self.cache {
            cache.keep(
                run.pack,
                pieces.iter().map(|((_, range), bytes)| (range.start, &bytes[..])),
            );
        }
        Ok(Fetched {
            pieces,
            moved_bytes: run.len_bytes(),
        })
    }
}

/// Where the pieces of a graph lie.
pub(crate) fn stretches(graph: &Graph) -> impl Iterator<Item = Stretch> {
    let nodes = graph.nodes().iter();
    nodes.map(|node| (node.piece.pack, node.piece.range()))
}
