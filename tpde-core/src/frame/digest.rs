//! Tensor ids as trees: a group of tiles is a whole BLAKE3 subtree, so its digest proves a part of the tensor.
//!
//! A tile is a power of two of BLAKE3 chunks, groups and slices are powers of two of tiles, and everything starts at a
//! multiple of its own length: each is a subtree whose chaining value can be computed alone and merged upwards.

use crate::id::TensorId;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// What a frame's bytes hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubtreeHash {
    /// The frame holds a whole tensor: its id.
    Whole(TensorId),
    /// The frame holds a slice: the chaining value of its subtree.
    Part([u8; 32]),
}

/// Which subtree of a tensor some bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) offset_bytes: u64,
    pub(crate) whole: bool,
}

/// Hash of one group.
pub(crate) fn hash_group(bytes: &[u8], extent: Extent) -> [u8; 32] {
    if extent.whole {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(extent.offset_bytes);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Merges neighbouring subtrees of equal length (the last may be shorter) upwards.
pub(crate) fn merge(parts: &[[u8; 32]], whole: bool) -> [u8; 32] {
    match parts {
        [] => *blake3::hash(&[]).as_bytes(),
        [one] => *one,
        _ => {
            let middle = parts.len().next_power_of_two() / 2;
            let (left, right) = (merge(&parts[..middle], false), merge(&parts[middle..], false));
            if whole {
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            } else {
                merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }
}

/// The id of a tensor from the hashes of all its frames, in order.
///
/// `None` if a whole-tensor hash stands among several, or a part stands alone: no tensor is cut like that.
pub fn merge_subtrees(frames: &[SubtreeHash]) -> Option<TensorId> {
    if let [SubtreeHash::Whole(id)] = frames {
        return Some(*id);
    }
    let parts: Option<Vec<[u8; 32]>> = frames
        .iter()
        .map(|h| match h {
            SubtreeHash::Part(cv) => Some(*cv),
            SubtreeHash::Whole(_) => None,
        })
        .collect();
    parts
        .filter(|p| p.len() > 1)
        .map(|p| TensorId::from_bytes(merge(&p, true)))
}

/// The id of a tensor whose bytes are all at hand.
pub fn tensor_id(bytes: &[u8]) -> TensorId {
    TensorId::of(bytes)
}

/// The hash of the slice of a tensor of `total_bytes` that starts at `offset_bytes`, a multiple of the slice length.
pub fn slice_hash(bytes: &[u8], offset_bytes: u64, total_bytes: u64) -> SubtreeHash {
    let whole = bytes.len() as u64 == total_bytes;
    let hash = hash_group(bytes, Extent { offset_bytes, whole });
    if whole {
        SubtreeHash::Whole(TensorId::from_bytes(hash))
    } else {
        SubtreeHash::Part(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: however a tensor is cut into groups and slices, its id is the plain hash of its bytes.
    #[test]
    fn any_cut_gives_the_plain_hash() {
        let bytes: Vec<u8> = (0..700_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for log2 in [10, 13, 17, 19, 20] {
            let cut = 1usize << log2;
            let parts: Vec<SubtreeHash> = bytes
                .chunks(cut)
                .enumerate()
                .map(|(i, part)| slice_hash(part, (i * cut) as u64, bytes.len() as u64))
                .collect();
            assert_eq!(merge_subtrees(&parts), Some(tensor_id(&bytes)), "cut at {cut}");
        }
        assert_eq!(merge_subtrees(&[SubtreeHash::Part([0; 32])]), None);
    }
}
