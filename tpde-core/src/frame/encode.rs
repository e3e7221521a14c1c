//! From bytes to a frame: every tile gets the mode that costs least.

use super::digest::{Extent, SubtreeHash, hash_group, merge};
use super::header::{Header, slices_of};
use super::tables::{FrameTables, FreshTables, MaskTables, SparseTables, TokenTables};
use crate::classes::Classes;
use crate::constants::{BLOCK_LOG2, MAX_CLASSES, MAX_SYMBOLS, MAX_TENSOR_ELEMS};
use crate::cost;
use crate::dtype::{Dtype, Layout};
use crate::error::{CodecError, Result};
use crate::id::TensorId;
use crate::ordinal::{Word, exponent, residual};
use crate::tile::{self, EncodeContext, Entries, Mode, fresh};
use crate::token::TokenShape;
use crate::wire::Writer;
use rayon::prelude::*;
use std::ops::Range;

/// Which part of a tensor is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Element type of the tensor.
    pub dtype: Dtype,
    /// Elements of the whole tensor, as the codec counts them ([`Dtype::word_bytes`]).
    pub total_elems: u64,
    /// Which of [`slices_of`] this is, from 0.
    pub index: usize,
}

/// The tensor that a delta is taken against.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Identity of the whole base tensor.
    pub id: TensorId,
    /// The same slice of it.
    pub bytes: &'a [u8],
}

/// A frame and what was learned while making it.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Hash of the bytes that went in.
    pub hash: SubtreeHash,
    /// Whether the frame reads the base; if not, it is an anchor.
    pub uses_base: bool,
    /// Elements that differ from the base (from zero, without one).
    pub changed_elems: u64,
    /// Largest distance from the base, in ulps.
    pub max_ulp: u64,
}

/// Encodes one slice of a tensor.
///
/// Law: decoding the frame with the same base gives `bytes` back, byte for byte, for every dtype and any base; the same
/// input gives the same frame on every machine and thread count.
///
/// * `bytes`: the slice, little-endian, C order.
/// * `base`: a tensor of the same dtype and element count, or `None` for an anchor.
///
/// # Errors
/// `Invalid` if lengths do not fit: a bug in the caller.
///
/// Cost: three passes over the slice; scratch of about its size.
pub fn encode_frame(slice: Slice, bytes: &[u8], base: Option<Base<'_>>) -> Result<EncodedFrame> {
    let invalid = |detail: String| CodecError::Invalid { detail };
    if slice.total_elems > MAX_TENSOR_ELEMS {
        return Err(invalid(format!("a tensor of {} elements", slice.total_elems)));
    }
    let mut slices = slices_of(slice.dtype, slice.total_elems);
    let count = slices.len();
    let elems = slices
        .nth(slice.index)
        .ok_or_else(|| invalid(format!("slice {} of {count}", slice.index)))?;
    let len_bytes = (elems.end - elems.start) * slice.dtype.word_bytes() as u64;
    if bytes.len() as u64 != len_bytes || base.is_some_and(|b| b.bytes.len() != bytes.len()) {
        return Err(invalid(format!(
            "slice of {len_bytes} bytes, input of {}, base of {:?}",
            bytes.len(),
            base.map(|b| b.bytes.len())
        )));
    }
    Ok(match slice.dtype.word_bytes() {
        1 => Encoder::<u8>::new(slice, elems, bytes, base).encode(),
        2 => Encoder::<u16>::new(slice, elems, bytes, base).encode(),
        4 => Encoder::<u32>::new(slice, elems, bytes, base).encode(),
        _ => Encoder::<u64>::new(slice, elems, bytes, base).encode(),
    })
}

/// Frames of at most this many tiles try each mode alone: there, tables weigh as much as payload.
const SMALL_TILES: usize = 2;

/// What one tile would need, counted once.
struct TileCounts {
    same: bool,
    /// Elements and changed elements by class.
    elems: [u32; MAX_CLASSES],
    changed: [u32; MAX_CLASSES],
    /// Magnitude symbols by class; symbol 0 (unchanged) included.
    magnitudes: Vec<Vec<u32>>,
    /// Signs and low bits of the magnitudes.
    delta_raw_bits: u64,
    fresh: Vec<u32>,
    fresh_raw_bits: u64,
    max_ulp: u64,
}

impl TileCounts {
    fn changed_elems(&self) -> u64 {
        self.changed.iter().map(|&c| u64::from(c)).sum()
    }

    fn delta_cost(&self) -> u64 {
        self.magnitudes.iter().map(|h| cost::entropy(h)).sum::<u64>() + cost::bits(self.delta_raw_bits)
    }

    fn fresh_cost(&self) -> u64 {
        cost::entropy(&self.fresh) + cost::bits(self.fresh_raw_bits)
    }
}

struct Encoder<'a, W> {
    slice: Slice,
    elems: Range<u64>,
    bytes: &'a [u8],
    base: Option<Base<'a>>,
    zeros: Vec<u8>,
    layout: Layout,
    magnitude_shape: TokenShape,
    fresh_shape: TokenShape,
    word: std::marker::PhantomData<W>,
}

/// A way to encode the slice: the modes that tiles may choose from.
type Plan<'p> = &'p [Mode];

impl<'a, W: Word> Encoder<'a, W> {
    fn new(slice: Slice, elems: Range<u64>, bytes: &'a [u8], base: Option<Base<'a>>) -> Self {
        let layout = slice.dtype.layout();
        let magnitude_shape = TokenShape::for_magnitudes(W::BITS);
        Self {
            slice,
            elems,
            bytes,
            base,
            zeros: vec![
                0;
                if base.is_none() {
                    bytes.len().min(slice.dtype.tile_bytes())
                } else {
                    0
                }
            ],
            layout,
            magnitude_shape,
            fresh_shape: fresh::shape(layout, W::BITS).unwrap_or(magnitude_shape),
            word: std::marker::PhantomData,
        }
    }

    fn tiles(&self) -> usize {
        self.bytes.len().div_ceil(self.slice.dtype.tile_bytes())
    }

    fn tile(&self, index: usize) -> (&[u8], &[u8]) {
        let tile_bytes = self.slice.dtype.tile_bytes();
        let range = index * tile_bytes..self.bytes.len().min((index + 1) * tile_bytes);
        let new = &self.bytes[range.clone()];
        let base = match self.base {
            Some(base) => &base.bytes[range],
            None => &self.zeros[..new.len()],
        };
        (new, base)
    }

    fn encode(&self) -> EncodedFrame {
        let classes = self
            .base
            .map_or(Classes { origin: 0 }, |b| self.fit_classes(b.bytes));
        let fresh_origin = self.fit_classes(self.bytes).origin;
        let counts: Vec<TileCounts> = (0..self.tiles())
            .into_par_iter()
            .map(|i| self.count_tile(i, classes, fresh_origin))
            .collect();
        let plans: &[Plan<'_>] = match (self.tiles() <= SMALL_TILES, self.base.is_some()) {
            (true, true) => &[
                &[Mode::Same, Mode::Sparse],
                &[Mode::Same, Mode::Dense],
                &[Mode::Same, Mode::Fresh],
                &[Mode::Same],
            ],
            (true, false) => &[
                &[Mode::Same, Mode::Sparse],
                &[Mode::Same, Mode::Fresh],
                &[Mode::Same],
            ],
            (false, true) => &[&[Mode::Same, Mode::Sparse, Mode::Dense, Mode::Fresh]],
            (false, false) => &[&[Mode::Same, Mode::Sparse, Mode::Fresh]],
        };
        let frames = plans
            .iter()
            .map(|plan| self.assemble(plan, &counts, classes, fresh_origin));
        let (bytes, hash, uses_base) = frames
            .min_by_key(|(bytes, ..)| bytes.len())
            .unwrap_or_else(|| self.assemble(&[], &[], classes, 0));
        EncodedFrame {
            bytes,
            hash,
            uses_base,
            changed_elems: counts.iter().map(TileCounts::changed_elems).sum(),
            max_ulp: counts.iter().map(|c| c.max_ulp).max().unwrap_or(0),
        }
    }

    fn fit_classes(&self, bytes: &[u8]) -> Classes {
        const EXPONENTS: usize = 1 << 11;
        let count = |part: &[u8]| {
            let mut counts = vec![0u64; EXPONENTS];
            (0..part.len() / W::BYTES)
                .for_each(|i| counts[exponent(W::load(part, i), self.layout) as usize] += 1);
            counts
        };
        let counts = bytes.par_chunks(self.slice.dtype.tile_bytes()).map(count).reduce(
            || vec![0; EXPONENTS],
            |mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            },
        );
        Classes::fit(&counts)
    }

    fn count_tile(&self, index: usize, classes: Classes, fresh_origin: u32) -> TileCounts {
        let (new, base) = self.tile(index);
        let same = new == base;
        let mut counts = TileCounts {
            same,
            elems: [0; MAX_CLASSES],
            changed: [0; MAX_CLASSES],
            magnitudes: Vec::new(),
            delta_raw_bits: 0,
            fresh: Vec::new(),
            fresh_raw_bits: 0,
            max_ulp: 0,
        };
        if same {
            return counts;
        }
        counts.magnitudes = vec![vec![0; self.magnitude_shape.symbols()]; MAX_CLASSES];
        counts.fresh = vec![0; MAX_SYMBOLS];
        for i in 0..new.len() / W::BYTES {
            let (word, base) = (W::load(new, i), W::load(base, i));
            let class = classes.of(base, self.layout);
            let magnitude = residual(word, base, self.layout).magnitude;
            let token = self.magnitude_shape.split(magnitude);
            counts.elems[class] += 1;
            counts.magnitudes[class][token.symbol as usize] += 1;
            if magnitude != 0 {
                counts.changed[class] += 1;
                counts.delta_raw_bits += 1 + u64::from(token.raw_bits);
                counts.max_ulp = counts.max_ulp.max(magnitude);
            }
            let (number, _, raw_bits) = fresh::split(word, fresh_origin, self.layout);
            let token = self.fresh_shape.split(number);
            counts.fresh[token.symbol as usize] += 1;
            counts.fresh_raw_bits += u64::from(raw_bits + token.raw_bits);
        }
        counts
    }

    /// Builds tables for the modes of `plan`, lets every tile choose, and writes the frame.
    fn assemble(
        &self,
        plan: Plan<'_>,
        counts: &[TileCounts],
        classes: Classes,
        fresh_origin: u32,
    ) -> (Vec<u8>, SubtreeHash, bool) {
        let candidates: Vec<Vec<Mode>> = counts.iter().map(|c| candidates(c, plan)).collect();
        let mut tables = self.fit_tables(&candidates, counts, classes, fresh_origin);
        let entries = Entries::encoding(&tables);
        let cx = EncodeContext {
            layout: self.layout,
            block_elems: 1 << BLOCK_LOG2,
            tables: &tables,
            entries: &entries,
        };
        let tiles: Vec<(Mode, Vec<u8>)> = candidates
            .par_iter()
            .enumerate()
            .map(|(i, modes)| {
                let (new, base) = self.tile(i);
                let bodies = modes
                    .iter()
                    .filter_map(|&m| tile::encode::<W>(m, new, base, cx).map(|b| (m, b)));
                bodies
                    .filter(|(_, body)| body.len() < new.len())
                    .min_by_key(|(_, body)| body.len())
                    .unwrap_or_else(|| (Mode::Raw, new.to_vec()))
            })
            .collect();
        let used = |mode| tiles.iter().any(|&(m, _)| m == mode);
        if !used(Mode::Sparse) {
            tables.sparse = None;
        }
        if !used(Mode::Dense) {
            tables.dense = None;
        }
        if !used(Mode::Fresh) {
            tables.fresh = None;
        }
        if tables.sparse.is_none() && tables.dense.is_none() {
            tables.classes = None;
        }
        let base = self.base.filter(|_| tiles.iter().any(|(m, _)| m.needs_base()));
        write_frame(
            self.slice,
            self.elems.clone(),
            self.bytes,
            base.map(|b| b.id),
            tables,
            &tiles,
        )
    }

    fn fit_tables(
        &self,
        candidates: &[Vec<Mode>],
        counts: &[TileCounts],
        classes: Classes,
        fresh_origin: u32,
    ) -> FrameTables {
        let of = |mode: Mode| {
            candidates
                .iter()
                .zip(counts)
                .filter(move |(c, _)| c.contains(&mode))
                .map(|(_, t)| t)
        };
        let mut tables = FrameTables {
            classes: Some(classes),
            ..FrameTables::default()
        };
        let sum = |mode: Mode, skip: usize| {
            let mut total = vec![vec![0u32; self.magnitude_shape.symbols()]; MAX_CLASSES];
            for tile in of(mode) {
                for (total, class) in total.iter_mut().zip(&tile.magnitudes) {
                    total
                        .iter_mut()
                        .zip(class)
                        .skip(skip)
                        .for_each(|(sum, &count)| *sum += count);
                }
            }
            total
        };
        tables.dense = TokenTables::fit(&sum(Mode::Dense, 0), self.magnitude_shape);
        let sparse_tiles = of(Mode::Sparse).count();
        if sparse_tiles > 0 {
            let mut masks = vec![[0u32; 2]; MAX_CLASSES];
            for tile in of(Mode::Sparse) {
                for (mask, (&elems, &changed)) in masks.iter_mut().zip(tile.elems.iter().zip(&tile.changed)) {
                    mask[0] += elems - changed;
                    mask[1] += changed;
                }
            }
            let masks = MaskTables::fit(&masks, sparse_tiles);
            let magnitudes = TokenTables::fit(&sum(Mode::Sparse, 1), self.magnitude_shape);
            tables.sparse = Some(SparseTables { masks, magnitudes });
        }
        let mut fresh = vec![0u32; self.fresh_shape.symbols()];
        for tile in of(Mode::Fresh) {
            fresh
                .iter_mut()
                .zip(&tile.fresh)
                .for_each(|(sum, &count)| *sum += count);
        }
        tables.fresh = TokenTables::fit(&[fresh], self.fresh_shape).map(|tokens| FreshTables {
            origin: fresh_origin,
            tokens,
        });
        tables
    }
}

/// The modes worth encoding for a tile: what is clearly dearer by entropy is left out.
fn candidates(counts: &TileCounts, plan: Plan<'_>) -> Vec<Mode> {
    if counts.same {
        return vec![Mode::Same];
    }
    let total: u64 = counts.elems.iter().map(|&c| u64::from(c)).sum();
    let changed = counts.changed_elems();
    let delta = counts.delta_cost() <= counts.fresh_cost();
    let alone = plan.len() <= 2;
    let worth = |mode: &Mode| match mode {
        Mode::Sparse => alone || delta && changed * 5 < total * 2,
        Mode::Dense => alone || delta && changed * 12 > total,
        Mode::Fresh => alone || !delta,
        Mode::Same | Mode::Raw => false,
    };
    plan.iter().copied().filter(worth).collect()
}

/// Writes header, directory and bodies.
fn write_frame(
    slice: Slice,
    elems: Range<u64>,
    bytes: &[u8],
    base: Option<TensorId>,
    tables: FrameTables,
    tiles: &[(Mode, Vec<u8>)],
) -> (Vec<u8>, SubtreeHash, bool) {
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
        base_check: base.map(|id| {
            let mut check = [0; 4];
            check.copy_from_slice(&id.as_bytes()[..4]);
            check
        }),
        block_log2: BLOCK_LOG2,
        group_log2,
        groups: if is_whole && one_group { Vec::new() } else { groups },
        tables,
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
    (w.into_bytes(), hash, base.is_some())
}

/// A frame that holds `bytes` as they are.
pub(super) fn raw_frame(dtype: Dtype, total_elems: u64, elems: Range<u64>, bytes: &[u8]) -> Vec<u8> {
    let index = usize::try_from(elems.start).unwrap_or(0) / dtype.slice_elems();
    let tiles: Vec<(Mode, Vec<u8>)> = bytes
        .chunks(dtype.tile_bytes())
        .map(|tile| (Mode::Raw, tile.to_vec()))
        .collect();
    let slice = Slice {
        dtype,
        total_elems,
        index,
    };
    write_frame(slice, elems, bytes, None, FrameTables::default(), &tiles).0
}
