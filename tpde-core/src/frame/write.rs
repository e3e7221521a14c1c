//! Puts a frame together: digests, header, tables, directory, bodies.

use super::digest::{Extent, SubtreeHash, hash_group, merge};
use super::encode::Slice;
use super::header::{Header, Sizes};
use super::tables::FrameTables;
use crate::id::TensorId;
use crate::tile::{Cuts, Mode, Relation};
use crate::wire::Writer;
use rayon::prelude::*;
use std::ops::Range;

/// A frame without its bodies and digests.
pub(super) struct Parts {
    pub(super) slice: Slice,
    pub(super) elems: Range<u64>,
    pub(super) base_check: Option<[u8; 4]>,
    pub(super) given: Option<(Relation, [u8; 4])>,
    pub(super) cuts: Cuts,
    pub(super) tables: FrameTables,
}

/// Writes the frame of `bytes`.
pub(super) fn write_frame(parts: Parts, bytes: &[u8], tiles: &[(Mode, Vec<u8>)]) -> (Vec<u8>, SubtreeHash) {
    let Parts { slice, elems, .. } = parts;
    let body_bytes: usize = tiles.iter().map(|(_, body)| body.len()).sum();
    let len_elems = bytes.len() / slice.dtype.word_bytes();
    // The smallest groups whose digests stay under half a percent; at most the whole slice.
    let mut group_log2 = 0;
    while Header::group_count(len_elems, group_log2) > (body_bytes / (200 * 32)).max(1) {
        group_log2 += 1;
    }
    let group_bytes = slice.dtype.tile_bytes() << group_log2;
    let is_whole = elems.start == 0 && elems.end == slice.total_elems;
    let offset_bytes = elems.start * slice.dtype.word_bytes() as u64;
    let one_group = bytes.len() <= group_bytes;
    let groups: Vec<[u8; 32]> = bytes
        .par_chunks(group_bytes)
        .enumerate()
        .map(|(i, group)| {
            let offset_bytes = offset_bytes + (i * group_bytes) as u64;
            hash_group(
                group,
                Extent {
                    offset_bytes,
                    whole: is_whole && one_group,
                },
            )
        })
        .collect();
    let hash = merge(&groups, is_whole);
    let header = Header {
        dtype: slice.dtype,
        total_elems: slice.total_elems,
        elems,
        base_check: parts.base_check,
        given: parts.given,
        cuts: parts.cuts,
        group_log2,
        groups: if is_whole && one_group { Vec::new() } else { groups },
        tables: parts.tables,
        sizes: Sizes::default(),
        directory: tiles.iter().map(|(mode, body)| (*mode, body.len())).collect(),
    };
    let mut w = Writer::new();
    header.write(&mut w);
    tiles.iter().for_each(|(_, body)| w.raw(body));
    let hash = if is_whole {
        SubtreeHash::Whole(TensorId::from_bytes(hash))
    } else {
        SubtreeHash::Part(hash)
    };
    (w.into_bytes(), hash)
}
