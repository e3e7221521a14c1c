//! From bytes to a frame: every tile gets the mode that costs least.

use super::counts::{Reads, TileCounts, count_tile};
use super::digest::SubtreeHash;
use super::header::slices_of;
use super::tables::{ChangeTables, FrameTables, FreshTables, SparseTables, TokenTables};
use super::write::{Parts, write_frame};
use crate::classes::Classes;
use crate::constants::{MAX_CLASSES, MAX_LANES_LOG2, MAX_TENSOR_ELEMS, TILE_LOG2};
use crate::cost::COST_SHIFT;
use crate::dtype::{Dtype, Layout};
use crate::error::{CodecError, Result};
use crate::id::TensorId;
use crate::ordinal::{Word, exponent, residual};
use crate::tile::blocks::Cut;
use crate::tile::{self, Against, Cuts, EncodeContext, Entries, Mode, Relation, fresh, virtual_base};
use crate::token::TokenShape;
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

/// Another tensor that the decoder will have at hand, and what it says about this one.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// What it says.
    pub relation: Relation,
    /// Identity of the whole given tensor.
    pub id: TensorId,
    /// The same slice of it: as many elements, of [`Relation::given_dtype`].
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
    /// Whether the frame reads the given tensor.
    pub uses_given: bool,
    /// Elements that differ from the base (from zero, without one).
    pub changed_elems: u64,
    /// Largest distance from the base, in ulps.
    pub max_ulp: u64,
}

/// Encodes one slice of a tensor.
///
/// Law: decoding the frame with the same base and given tensor gives `bytes` back, byte for byte, for every dtype and any
/// base; the same input gives the same frame on every machine and thread count.
///
/// * `bytes`: the slice, little-endian, C order.
/// * `base`: a tensor of the same dtype and element count, or `None` for an anchor.
/// * `given`: a tensor that is decoded before this one, if one tells something about it.
///
/// # Errors
/// `Invalid` if lengths or dtypes do not fit: a bug in the caller.
///
/// Cost: three passes over the slice; scratch of about its size.
pub fn encode_frame(
    slice: Slice,
    bytes: &[u8],
    base: Option<Base<'_>>,
    given: Option<Given<'_>>,
) -> Result<EncodedFrame> {
    let elems = check_slice(slice, bytes, base.map(|b| b.bytes), given)?;
    Ok(match slice.dtype.word_bytes() {
        1 => Encoder::<u8>::new(slice, elems, bytes, base, given).encode(),
        2 => Encoder::<u16>::new(slice, elems, bytes, base, given).encode(),
        4 => Encoder::<u32>::new(slice, elems, bytes, base, given).encode(),
        _ => Encoder::<u64>::new(slice, elems, bytes, base, given).encode(),
    })
}

/// Estimates the bytes of the frame that [`encode_frame`] would make, from a sample of the slice.
///
/// * `base`: as long as `bytes`; only its sampled tiles are read ([`sampled_tiles`]).
///
/// Comparable between bases of one slice; blind to table and header costs.
///
/// # Errors
/// `Invalid` if lengths do not fit: a bug in the caller.
///
/// Cost: one pass over at most [`SAMPLED_TILES`] tiles.
pub fn estimate_bytes(slice: Slice, bytes: &[u8], base: Option<&[u8]>) -> Result<u64> {
    let elems = check_slice(slice, bytes, base, None)?;
    let base = base.map(|bytes| Base {
        id: TensorId::from_bytes([0; 32]),
        bytes,
    });
    Ok(match slice.dtype.word_bytes() {
        1 => Encoder::<u8>::new(slice, elems, bytes, base, None).estimate(),
        2 => Encoder::<u16>::new(slice, elems, bytes, base, None).estimate(),
        4 => Encoder::<u32>::new(slice, elems, bytes, base, None).estimate(),
        _ => Encoder::<u64>::new(slice, elems, bytes, base, None).estimate(),
    })
}

/// Most tiles that [`estimate_bytes`] looks at.
pub const SAMPLED_TILES: usize = 4;

/// The tiles of a slice of `tiles` tiles that [`estimate_bytes`] looks at: evenly spread, in order.
pub fn sampled_tiles(tiles: usize) -> impl Iterator<Item = usize> {
    let count = tiles.min(SAMPLED_TILES);
    (0..count).map(move |i| (2 * i + 1) * tiles / (2 * count))
}

/// Checks that the parts fit; the elements of the slice.
pub(crate) fn check_slice(
    slice: Slice,
    bytes: &[u8],
    base: Option<&[u8]>,
    given: Option<Given<'_>>,
) -> Result<Range<u64>> {
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
    if bytes.len() as u64 != len_bytes || base.is_some_and(|b| b.len() != bytes.len()) {
        return Err(invalid(format!(
            "slice of {len_bytes} bytes, input of {}, base of {:?}",
            bytes.len(),
            base.map(<[u8]>::len)
        )));
    }
    if let Some(given) = given {
        let (relation, dtype) = (given.relation, slice.dtype);
        let given_bytes = (elems.end - elems.start) * relation.given_dtype(dtype).word_bytes() as u64;
        if !relation.fits(dtype) || given.bytes.len() as u64 != given_bytes {
            return Err(invalid(format!(
                "{} given {} bytes as {}",
                dtype.name(),
                given.bytes.len(),
                relation.name()
            )));
        }
    }
    Ok(elems)
}

/// Frames of at most this many tiles try each mode alone: there, tables weigh as much as payload.
const SMALL_TILES: usize = 2;

/// Bytes of one tile, of its base, and of what is given.
struct Tile<'t> {
    new: &'t [u8],
    base: Option<&'t [u8]>,
    given: Option<&'t [u8]>,
}

pub(super) struct Encoder<'a, W> {
    slice: Slice,
    elems: Range<u64>,
    bytes: &'a [u8],
    base: Option<Base<'a>>,
    given: Option<Given<'a>>,
    layout: Layout,
    magnitude_shape: TokenShape,
    fresh_shape: TokenShape,
    word: std::marker::PhantomData<W>,
}

/// A way to encode the slice: the modes that tiles may choose from.
type Plan<'p> = &'p [Mode];

/// What all tiles are counted and coded with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origins {
    pub(super) classes: Classes,
    pub(super) fresh: u32,
    pub(super) scale: Option<Classes>,
}

impl<'a, W: Word> Encoder<'a, W> {
    fn new(
        slice: Slice,
        elems: Range<u64>,
        bytes: &'a [u8],
        base: Option<Base<'a>>,
        given: Option<Given<'a>>,
    ) -> Self {
        let layout = slice.dtype.layout();
        let relation = given.map(|g| g.relation);
        let magnitude_shape = TokenShape::for_magnitudes(Relation::magnitude_width(relation, W::BITS));
        Self {
            slice,
            elems,
            bytes,
            // What is a cast of the given tensor needs nothing else.
            base: base.filter(|_| relation != Some(Relation::Cast)),
            given,
            layout,
            magnitude_shape,
            fresh_shape: fresh::shape(layout, W::BITS).unwrap_or(magnitude_shape),
            word: std::marker::PhantomData,
        }
    }

    fn relation(&self) -> Option<Relation> {
        self.given.map(|g| g.relation)
    }

    fn tiles(&self) -> usize {
        self.bytes.len().div_ceil(self.slice.dtype.tile_bytes())
    }

    fn tile(&self, index: usize) -> Tile<'_> {
        let range = |bytes: &'a [u8], dtype: Dtype| {
            let tile_bytes = dtype.tile_bytes();
            &bytes[index * tile_bytes..bytes.len().min((index + 1) * tile_bytes)]
        };
        Tile {
            new: range(self.bytes, self.slice.dtype),
            base: self.base.map(|b| range(b.bytes, self.slice.dtype)),
            given: self
                .given
                .map(|g| range(g.bytes, g.relation.given_dtype(self.slice.dtype))),
        }
    }

    /// Calls `with` with what tile `index` is coded against, made in `scratch` if need be.
    fn against<R>(&self, tile: &Tile<'_>, scratch: &mut Vec<u8>, with: impl FnOnce(Against<'_>) -> R) -> R {
        match (self.relation(), tile.given, tile.base) {
            (Some(relation @ (Relation::Rounded | Relation::Cast)), Some(given), base) => {
                scratch.resize(tile.new.len(), 0);
                virtual_base(relation, base, given, self.layout, scratch);
                with(Against::related(Some(relation), scratch, given, self.layout))
            }
            (_, _, Some(base)) => with(Against::plain(base, self.layout)),
            (_, _, None) => {
                scratch.clear();
                scratch.resize(tile.new.len(), 0);
                with(Against::plain(scratch, self.layout))
            }
        }
    }

    /// The given tile, where it tells FRESH the scale.
    fn scale<'t>(&self, tile: &Tile<'t>) -> Option<&'t [u8]> {
        tile.given.filter(|_| self.relation() == Some(Relation::Scale))
    }

    fn origins(&self) -> Origins {
        let classes = match (self.relation(), self.given, self.base) {
            (Some(Relation::Rounded), Some(given), None) => fit_classes::<u16>(given.bytes, Dtype::BF16),
            (Some(Relation::Cast), Some(given), _) => fit_classes::<u32>(given.bytes, Dtype::F32),
            (_, _, Some(base)) => fit_classes::<W>(base.bytes, self.slice.dtype),
            _ => Classes { origin: 0 },
        };
        Origins {
            classes,
            fresh: fit_classes::<W>(self.bytes, self.slice.dtype).origin,
            scale: self
                .given
                .filter(|g| g.relation == Relation::Scale)
                .map(|g| fit_classes::<W>(g.bytes, self.slice.dtype)),
        }
    }

    fn encode(&self) -> EncodedFrame {
        let origins = self.origins();
        let counts: Vec<TileCounts> = (0..self.tiles())
            .into_par_iter()
            .map_init(Vec::new, |scratch, i| self.count(i, origins, scratch))
            .collect();
        // A byte is a small alphabet: coded whole, against nothing, it may be cheaper than exponent and mantissa apart.
        let against_something = self.base.is_some() || self.given.is_some() || W::BYTES == 1;
        let plans: &[Plan<'_>] = match (self.tiles() <= SMALL_TILES, against_something) {
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
        let frames = plans.iter().map(|plan| self.assemble(plan, &counts, origins));
        let (bytes, hash, reads) = frames
            .min_by_key(|(bytes, ..)| bytes.len())
            .unwrap_or_else(|| self.assemble(&[], &[], origins));
        let made = matches!(self.relation(), Some(Relation::Rounded | Relation::Cast));
        let (changed_elems, max_ulp) = if !reads.base && (self.base.is_some() || made) {
            self.distance_from_zero()
        } else {
            (
                counts.iter().map(|c| c.differing).sum(),
                counts.iter().map(|c| c.max_ulp).max().unwrap_or(0),
            )
        };
        EncodedFrame {
            bytes,
            hash,
            uses_base: reads.base,
            uses_given: reads.given,
            changed_elems,
            max_ulp,
        }
    }

    /// Elements that are not zero, and how far the farthest is from it, in ulps.
    fn distance_from_zero(&self) -> (u64, u64) {
        let zero = W::load(&[0; 8], 0);
        let tiles = self.bytes.par_chunks(self.slice.dtype.tile_bytes());
        tiles
            .map(|tile| {
                let distances = (0..tile.len() / W::BYTES)
                    .map(|i| residual(W::load(tile, i), zero, self.layout).magnitude);
                distances.fold((0, 0), |(changed, most), d| {
                    (changed + u64::from(d != 0), most.max(d))
                })
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1.max(b.1)))
    }

    fn estimate(&self) -> u64 {
        let origins = self.origins();
        let tiles = self.tiles();
        let sample: Vec<usize> = sampled_tiles(tiles).collect();
        let bits: u64 = sample
            .par_iter()
            .map_init(Vec::new, |scratch, &i| {
                let counts = self.count(i, origins, scratch);
                if counts.same {
                    0
                } else {
                    counts.delta_cost().min(counts.fresh_cost())
                }
            })
            .sum();
        (bits >> COST_SHIFT) * tiles as u64 / (8 * sample.len().max(1) as u64)
    }

    fn count(&self, index: usize, origins: Origins, scratch: &mut Vec<u8>) -> TileCounts {
        let tile = self.tile(index);
        let relation = self.relation();
        let scale = self.scale(&tile);
        self.against(&tile, scratch, |against| {
            let same_as = if relation == Some(Relation::Cast) {
                Some(against.base)
            } else {
                tile.base
            };
            let same = match same_as {
                Some(base) => tile.new == base,
                None => tile.new.iter().all(|&b| b == 0),
            };
            // A master's distance from its base is not the place in its cell.
            let distant = tile.base.filter(|_| relation == Some(Relation::Rounded));
            count_tile::<W>(
                tile.new,
                against,
                distant,
                scale,
                same,
                origins,
                self.layout,
                (self.magnitude_shape, self.fresh_shape),
            )
        })
    }

    /// Builds tables for the modes of `plan`, lets every tile choose, and writes the frame.
    fn assemble(
        &self,
        plan: Plan<'_>,
        counts: &[TileCounts],
        origins: Origins,
    ) -> (Vec<u8>, SubtreeHash, Reads) {
        let candidates: Vec<Vec<Mode>> = counts.iter().map(|c| c.candidates(plan)).collect();
        let mut tables = self.fit_tables(&candidates, counts, origins);
        let entries = Entries::encoding(&tables);
        let cuts = self.fit_cuts(&candidates, counts);
        let cx = EncodeContext {
            layout: self.layout,
            cuts,
            tables: &tables,
            entries: &entries,
        };
        let tiles: Vec<(Mode, Vec<u8>)> = candidates
            .par_iter()
            .enumerate()
            .map_init(Vec::new, |scratch, (i, modes)| {
                let tile = self.tile(i);
                if modes.contains(&Mode::Same) {
                    return (Mode::Same, Vec::new());
                }
                let scale = self.scale(&tile);
                self.against(&tile, scratch, |against| {
                    let bodies = modes
                        .iter()
                        .filter_map(|&m| tile::encode::<W>(m, tile.new, against, scale, cx).map(|b| (m, b)));
                    bodies
                        .filter(|(_, body)| body.len() < tile.new.len())
                        .min_by_key(|(_, body)| body.len())
                })
                .unwrap_or_else(|| (Mode::Raw, tile::raw_body(tile.new)))
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
        let reads = tiles
            .iter()
            .map(|&(mode, _)| Reads::of(mode, self.relation(), self.base.is_some()))
            .fold(Reads::default(), Reads::or);
        let first_four = |id: TensorId| {
            let mut check = [0; 4];
            check.copy_from_slice(&id.as_bytes()[..4]);
            check
        };
        let parts = Parts {
            slice: self.slice,
            elems: self.elems.clone(),
            base_check: self.base.filter(|_| reads.base).map(|b| first_four(b.id)),
            given: self
                .given
                .filter(|_| reads.given)
                .map(|g| (g.relation, first_four(g.id))),
            cuts,
            tables,
        };
        let (bytes, hash) = write_frame(parts, self.bytes, &tiles);
        (bytes, hash, reads)
    }

    fn fit_tables(&self, candidates: &[Vec<Mode>], counts: &[TileCounts], origins: Origins) -> FrameTables {
        let of = |mode: Mode| tiles_of(mode, candidates, counts);
        let mut tables = FrameTables {
            classes: Some(origins.classes),
            ..FrameTables::default()
        };
        let sum = |mode: Mode, skip: usize| {
            let mut total = vec![vec![0u32; self.magnitude_shape.symbols()]; MAX_CLASSES];
            of(mode).for_each(|tile| add_histograms(&mut total, &tile.magnitudes, skip));
            total
        };
        tables.dense = TokenTables::fit(&sum(Mode::Dense, 0), self.magnitude_shape);
        if of(Mode::Sparse).next().is_some() {
            let mut changes = vec![[0u32; 2]; MAX_CLASSES];
            for tile in of(Mode::Sparse) {
                for (sum, (&elems, &changed)) in changes.iter_mut().zip(tile.elems.iter().zip(&tile.changed))
                {
                    sum[0] += elems - changed;
                    sum[1] += changed;
                }
            }
            let magnitudes = TokenTables::fit(&sum(Mode::Sparse, 1), self.magnitude_shape);
            tables.sparse = Some(SparseTables {
                changes: ChangeTables::fit(&changes),
                magnitudes,
            });
        }
        let classes = if origins.scale.is_some() { MAX_CLASSES } else { 1 };
        let mut fresh = vec![vec![0u32; self.fresh_shape.symbols()]; classes];
        of(Mode::Fresh).for_each(|tile| add_histograms(&mut fresh, &tile.fresh, 0));
        tables.fresh = TokenTables::fit(&fresh, self.fresh_shape).map(|tokens| FreshTables {
            origin: origins.fresh,
            scale: origins.scale,
            tokens,
        });
        tables
    }

    /// How to cut the streams: lanes and restarts that cost less than a hundredth of what they hold.
    fn fit_cuts(&self, candidates: &[Vec<Mode>], counts: &[TileCounts]) -> Cuts {
        // A lane costs 3.5 bits where its seed is used, 19 where it is not (ADR 0008).
        const BITS_A_SEEDED_LANE: u64 = 385;
        const BITS_A_LANE: u64 = 1900;
        let mean = |mode: Mode| {
            let costs: Vec<u64> = tiles_of(mode, candidates, counts)
                .map(|t| t.delta_cost() >> COST_SHIFT)
                .collect();
            costs.iter().sum::<u64>() / costs.len().max(1) as u64
        };
        let tile_elems = self.tile(0).new.len() / W::BYTES;
        let sparse_bits = mean(Mode::Sparse);
        // A tensor that a GPU decodes in many warps keeps at least eight lanes busy in each.
        let fewest = if self.tiles() >= 16 { 3 } else { 0 };
        let lanes_log2 = (fewest..=MAX_LANES_LOG2)
            .rev()
            .find(|&l| BITS_A_SEEDED_LANE << l <= sparse_bits)
            .unwrap_or(fewest);
        let sparse = Cut {
            block_log2: TILE_LOG2,
            lanes_log2,
        };
        let lanes_log2 = tile_elems.max(1).ilog2().saturating_sub(8).min(MAX_LANES_LOG2);
        let dense_bits = mean(Mode::Dense);
        let block_log2 = (14..TILE_LOG2)
            .find(|&b| dense_bits == 0 || dense_bits >> (TILE_LOG2 - b) >= BITS_A_LANE << lanes_log2)
            .unwrap_or(TILE_LOG2);
        Cuts {
            sparse,
            full: Cut {
                block_log2,
                lanes_log2,
            },
        }
    }
}

/// The counts of the tiles that may take `mode`.
fn tiles_of<'c>(
    mode: Mode,
    candidates: &'c [Vec<Mode>],
    counts: &'c [TileCounts],
) -> impl Iterator<Item = &'c TileCounts> {
    candidates
        .iter()
        .zip(counts)
        .filter(move |(c, _)| c.contains(&mode))
        .map(|(_, t)| t)
}

/// Adds histograms class by class, without the first `skip` symbols.
fn add_histograms(total: &mut [Vec<u32>], part: &[Vec<u32>], skip: usize) {
    for (total, part) in total.iter_mut().zip(part) {
        total
            .iter_mut()
            .zip(part)
            .skip(skip)
            .for_each(|(sum, &count)| *sum += count);
    }
}

/// Fits classes to the exponents of a whole slice.
pub(crate) fn fit_classes<W: Word>(bytes: &[u8], dtype: Dtype) -> Classes {
    const EXPONENTS: usize = 1 << 11;
    let layout = dtype.layout();
    let count = |part: &[u8]| {
        let mut counts = vec![0u64; EXPONENTS];
        (0..part.len() / W::BYTES).for_each(|i| counts[exponent(W::load(part, i), layout) as usize] += 1);
        counts
    };
    let counts = bytes.par_chunks(dtype.tile_bytes()).map(count).reduce(
        || vec![0; EXPONENTS],
        |mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        },
    );
    Classes::fit(&counts)
}
