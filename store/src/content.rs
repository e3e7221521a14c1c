//! Turns stored pieces back into content, verified.

use tpde_core::{Chain, CodecError, Dtype, Frame, Link, Relation, SubtreeHash, TensorId};

use crate::catalog::{Catalog, Piece, Sought};
use crate::compress::decompress;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::{BlobId, PackId};
use crate::objects::Objects;
use crate::pack::{BlobCodec, Content};
use crate::transfer::Pieces;

/// Longest blob: larger files are cut. A power of two of BLAKE3 chunks, so that a file's digest merges from its blobs'.
pub(crate) const BLOB_BYTES: usize = 8 << 20;
/// Most links that a blob's prefix chain may have.
pub(crate) const MAX_BLOB_RANK: u8 = 16;

impl Catalog {
    /// What a slice of a tensor decodes from.
    ///
    /// # Errors
    /// As [`Graph::resolve`].
    pub(crate) fn slice(
        &self,
        objects: &Objects,
        id: TensorId,
        dtype: Dtype,
        slice: u32,
        hints: &[PackId],
    ) -> Result<Graph> {
        Graph::resolve(self, objects, &Sought::slice(id, dtype, slice), hints)
    }

    /// What a blob decodes from: one without a base, then each on the one before.
    ///
    /// # Errors
    /// As [`Graph::resolve`].
    pub(crate) fn blob(&self, objects: &Objects, id: BlobId, hints: &[PackId]) -> Result<Graph> {
        Graph::resolve(self, objects, &Sought::blob(id), hints)
    }
}

/// Decodes one slice of a tensor into `out`.
///
/// * `graph`: from [`Catalog::slice`].
///
/// Of a slice that is the whole tensor, the hash was compared with `id` already.
///
/// # Errors
/// `Corrupt`, naming the pack and the tensor.
pub(crate) fn read_slice<'a>(
    pieces: impl Into<Pieces<'a>>,
    id: TensorId,
    graph: &Graph,
    out: &mut [u8],
) -> Result<SubtreeHash> {
    let stored = pieces.into().of_graph(graph)?;
    let damaged = |piece: &Piece, e: CodecError| {
        StoreError::decoding(format!("tensor {} in {}", id.short(), piece.shown()), e)
    };
    let mut frames = Vec::with_capacity(stored.len());
    for (i, bytes) in stored.iter().enumerate() {
        let piece = &graph.nodes()[i].piece;
        let frame = Frame::parse(bytes).map_err(|e| damaged(piece, e))?;
        check_entry(graph, i, &frame).map_err(|e| damaged(piece, e))?;
        frames.push(frame);
    }
    let newest = graph.top();
    let read_bytes = frames.last().map_or(0, Frame::len_bytes);
    if read_bytes != out.len() {
        let detail = format!("it holds {read_bytes} bytes, {} are expected", out.len());
        return Err(StoreError::corrupt(newest.shown(), detail));
    }
    let last = frames.len() - 1;
    let hash = match chain(graph, &frames, last).and_then(|chain| chain.decode(out)) {
        Ok(SubtreeHash::Whole(found)) if found != id => Err(CodecError::WrongTensor { expected: id, found }),
        decoded => decoded,
    };
    hash.map_err(|error| damaged(first_damaged(graph, &frames).unwrap_or(newest), error))
}

/// Checks that a frame is what its entry says.
pub(crate) fn check_entry(graph: &Graph, at: usize, frame: &Frame<'_>) -> tpde_core::Result<()> {
    let node = &graph.nodes()[at];
    let id = |n: usize| TensorId::from_bytes(graph.nodes()[n].piece.entry().id);
    if let Some(base) = node.base {
        frame.check_base(&id(base))?;
    }
    if let Some(given) = node.given {
        frame.check_given(&id(given))?;
    }
    let entry = node.piece.entry();
    let relation = |r: Option<Relation>| r.map_or("alone", Relation::name);
    let found = (frame.dtype().name(), relation(frame.relation()));
    let told = match entry.content {
        Content::Slices { dtype, .. } => dtype.name(),
        Content::Blob { .. } => "a blob",
    };
    let told = (told, relation(entry.needs.given.map(|(r, _)| r)));
    if found != told {
        return Err(CodecError::Corrupt {
            what: "frame",
            detail: format!(
                "it is {}, {}; the footer of its pack says {}, {}",
                found.0, found.1, told.0, told.1
            ),
        });
    }
    Ok(())
}

/// The chain of node `at` alone.
pub(crate) fn chain<'f, 'a>(
    graph: &Graph,
    frames: &'f [Frame<'a>],
    at: usize,
) -> tpde_core::Result<Chain<'f, 'a>> {
    let links = graph.below(at);
    Chain::new(
        links
            .into_iter()
            .map(|(i, base, given)| Link::frame(&frames[i], base, given))
            .collect(),
    )
}

/// The lowest piece of a damaged graph that does not decode to what it is named after: decoding fuses all pieces, so only going
/// through them one by one tells which pack to replace.
fn first_damaged<'g>(graph: &'g Graph, frames: &[Frame<'_>]) -> Option<&'g Piece> {
    graph.nodes().iter().enumerate().find_map(|(at, node)| {
        let expected = TensorId::from_bytes(node.piece.entry().id);
        let mut out = vec![0; frames[at].len_bytes()];
        let sound = match chain(graph, frames, at).and_then(|chain| chain.decode(&mut out)) {
            Ok(SubtreeHash::Whole(found)) => found == expected,
            Ok(SubtreeHash::Part(_)) => true,
            Err(_) => false,
        };
        (!sound).then_some(&node.piece)
    })
}

/// Reads a blob and everything that it is a prefix delta of.
///
/// # Errors
/// `Corrupt` if it is missing, does not decompress, or does not hash to `id`.
pub(crate) fn read_blob(
    objects: &Objects,
    catalog: &Catalog,
    id: BlobId,
    hints: &[PackId],
) -> Result<Vec<u8>> {
    read_blob_graph(objects, id, &catalog.blob(objects, id, hints)?)
}

/// Decodes a blob.
///
/// * `graph`: from [`Catalog::blob`].
///
/// # Errors
/// `Corrupt` if a piece does not decompress or does not hash to its id.
pub(crate) fn read_blob_graph<'a>(
    pieces: impl Into<Pieces<'a>>,
    id: BlobId,
    graph: &Graph,
) -> Result<Vec<u8>> {
    let stored = pieces.into().of_graph(graph)?;
    let mut bytes = Vec::new();
    // A blob reads at most one other, so its graph is a chain.
    for (node, stored) in graph.nodes().iter().zip(stored) {
        let piece = &node.piece;
        let damaged = |detail: String| StoreError::corrupt(format!("blob in {}", piece.shown()), detail);
        let Content::Blob { len_bytes, codec } = piece.entry().content else {
            return Err(damaged("it is a tensor".into()));
        };
        let len_bytes = usize::try_from(len_bytes).ok().filter(|&n| n <= BLOB_BYTES);
        let len_bytes = len_bytes.ok_or_else(|| damaged("it is longer than a blob can be".into()))?;
        let next = match codec {
            BlobCodec::Plain => stored.to_vec(),
            BlobCodec::Zstd => decompress(&stored, &bytes, len_bytes).map_err(&damaged)?,
        };
        if next.len() != len_bytes || *blake3::hash(&next).as_bytes() != piece.entry().id {
            return Err(damaged(
                "it does not hold the bytes that it was named after".into(),
            ));
        }
        bytes = next;
    }
    if BlobId::of(&bytes) != id {
        return Err(StoreError::corrupt(
            format!("blob {}", id.short()),
            "its chain ends in another blob",
        ));
    }
    Ok(bytes)
}
