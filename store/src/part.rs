//! A part of a tensor, from the bytes that it takes, proved against the tensor's id.
//!
//! ```text
//! the slice that holds it    heads of the whole chain ─▶ bodies of the tiles around it ─▶ decode ─▶ digest of the group
//! the other slices           heads alone: what their digests say
//!                            merged: must be the tensor's id
//! ```

use std::ops::Range;

use bytes::Bytes;
use tpde_core::{CodecError, Frame, FrameHead, SubtreeHash, slices_of};

use crate::catalog::{Avoided, Piece, Sought};
use crate::content::{chain, check_entry};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::manifest::{Manifest, TensorRecord};
use crate::objects::at_once;
use crate::pack::Part;
use crate::restore::{check_tensor, hints};
use crate::store::Store;
use crate::transfer::Pieces;

/// What is read of a frame at first: most heads are shorter.
const HEAD_BYTES: u64 = 16 << 10;

/// The start of a stored frame.
struct Head {
    head: FrameHead,
    /// What was read of it, more than the head.
    start: Bytes,
}

impl Store {
    /// Reads some elements of a stored tensor.
    ///
    /// Law: they are those of the tensor with this id, or this is an error. Only the group of tiles around them is read and decoded, of
    /// it and of what it is decoded from, and the heads of its frames: one of each slice of the tensor, at most a few kilobytes. A
    /// group is one tile where tiles are costly, and more where they are cheap (docs/format.md §4.8).
    ///
    /// * `record`: a tensor of `manifest`.
    /// * `elems`: elements as the codec counts them ([`tpde_core::Dtype::word_bytes`]), within the tensor.
    ///
    /// Returns their bytes, in C order.
    ///
    /// # Errors
    /// `Input` if `elems` are not within the tensor; `Corrupt`, `Newer`, `Backend` as [`Store::restore`].
    pub fn tensor_part(
        &self,
        manifest: &Manifest,
        record: &TensorRecord,
        elems: Range<u64>,
    ) -> Result<Vec<u8>> {
        let word_bytes = record.dtype.word_bytes();
        let total_elems = record.len_bytes / word_bytes as u64;
        if elems.start > elems.end || elems.end > total_elems {
            return Err(StoreError::input(
                format!("tensor {}", record.id.short()),
                format!("it has {total_elems} elements, {elems:?} are asked for"),
                "Ask for elements that it has",
            ));
        }
        if elems.is_empty() {
            return Ok(Vec::new());
        }
        let slices: Vec<(u32, Range<u64>)> = (0u32..).zip(slices_of(record.dtype, total_elems)).collect();
        let parts = at_once(self.objects(), &slices, |(number, slice)| {
            match slice.start < elems.end && elems.start < slice.end {
                true => self.decoded_part(manifest, record, *number, elems.clone()),
                false => Ok((Vec::new(), self.stated_hash(manifest, record, *number)?)),
            }
        })?;
        let (bytes, hashes): (Vec<Vec<u8>>, Vec<SubtreeHash>) = parts.into_iter().unzip();
        check_tensor(record.id, &hashes)?;
        Ok(bytes.concat())
    }

    /// What the frame of a slice says of its hash.
    fn stated_hash(&self, manifest: &Manifest, record: &TensorRecord, number: u32) -> Result<SubtreeHash> {
        let dtype = record.dtype;
        let sought = Sought::whole(*record.id.as_bytes(), Part::Slice { dtype, number });
        let hints = hints(manifest, record);
        let found = self
            .catalog
            .find_anywhere(self.objects(), &sought, &hints, &Avoided::new())?;
        let piece = found.ok_or_else(|| StoreError::corrupt(sought.shown(), "no pack holds it"))?;
        let Head { head, .. } = self.head(&piece)?;
        head.stated_hash()
            .ok_or_else(|| StoreError::corrupt(piece.shown(), "it lacks the digests of a slice"))
    }

    /// The elements that a slice holds of those that are asked for, and the hash of the slice.
    fn decoded_part(
        &self,
        manifest: &Manifest,
        record: &TensorRecord,
        number: u32,
        elems: Range<u64>,
    ) -> Result<(Vec<u8>, SubtreeHash)> {
        let graph = self.slice_graph(manifest, record, number)?;
        let heads = at_once(self.objects(), graph.nodes(), |node| self.head(&node.piece))?;
        let top = &heads[heads.len() - 1].head;
        let tiles = top.tiles_of(elems.clone());
        let numbered: Vec<(usize, &Head)> = heads.iter().enumerate().collect();
        let bodies = at_once(self.objects(), &numbered, |&(at, head)| {
            self.bodies(&graph.nodes()[at].piece, head, tiles.clone())
        })?;
        let damaged = |piece: &Piece, e: CodecError| {
            StoreError::decoding(format!("tensor {} in {}", record.id.short(), piece.shown()), e)
        };
        let mut frames: Vec<Frame<'_>> = Vec::with_capacity(heads.len());
        for (at, (head, bodies)) in heads.iter().zip(&bodies).enumerate() {
            let frame = head.head.with_bodies(tiles.clone(), bodies);
            let checked = frame.and_then(|frame| check_entry(&graph, at, &frame).map(|()| frame));
            frames.push(checked.map_err(|e| damaged(&graph.nodes()[at].piece, e))?);
        }
        decode(&graph, &frames, top, elems, record.dtype.word_bytes()).map_err(|e| damaged(graph.top(), e))
    }

    /// Reads the head of a frame.
    fn head(&self, piece: &Piece) -> Result<Head> {
        let pieces = Pieces::cached(self.objects());
        let mut len = HEAD_BYTES;
        loop {
            len = len.min(piece.len_bytes());
            let start = pieces.stretch(piece, 0..len)?;
            match FrameHead::parse(&start) {
                Ok(head) => return Ok(Head { head, start }),
                // A head that is cut short looks damaged, too.
                Err(_) if len < piece.len_bytes() => len *= 4,
                Err(error) => return Err(StoreError::decoding(piece.shown(), error)),
            }
        }
    }

    /// The bodies of some tiles of a frame.
    fn bodies(&self, piece: &Piece, head: &Head, tiles: Range<usize>) -> Result<Bytes> {
        if tiles.end > head.head.tile_count() {
            return Err(StoreError::corrupt(
                piece.shown(),
                "it has fewer tiles than what is decoded from it",
            ));
        }
        let range = head.head.bodies(tiles);
        if range.end <= head.start.len() {
            return Ok(head.start.slice(range));
        }
        if range.end as u64 > piece.len_bytes() {
            return Err(StoreError::corrupt(piece.shown(), "it ends before its tiles do"));
        }
        Pieces::cached(self.objects()).stretch(piece, range.start as u64..range.end as u64)
    }
}

/// Decodes the tiles around `elems`, and cuts out those.
fn decode(
    graph: &Graph,
    frames: &[Frame<'_>],
    top: &FrameHead,
    elems: Range<u64>,
    word_bytes: usize,
) -> tpde_core::Result<(Vec<u8>, SubtreeHash)> {
    let own = top.elems();
    let tiles = top.tiles_of(elems.clone());
    let mut out = vec![0; top.tiles_len_bytes(tiles.clone())];
    let hash = chain(graph, frames, frames.len() - 1)?.decode_tiles(tiles.clone(), &mut out)?;
    let first = own.start + (tiles.start * tpde_core::constants::TILE_ELEMS) as u64;
    let place = |elem: u64| usize::try_from(elem - first).unwrap_or(usize::MAX) * word_bytes;
    let wanted = place(elems.start.max(own.start))..place(elems.end.min(own.end));
    Ok((out.get(wanted).unwrap_or_default().to_vec(), hash))
}
