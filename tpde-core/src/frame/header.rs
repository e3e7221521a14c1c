//! The frame's header and directory.
//!
//! ```text
//! u8 version | u8 dtype | u8 flags | varint elements of the tensor | varint slice
//! [4] first bytes of the base's id                          only with a base
//! u8 relation | [4] first bytes of the given tensor's id    only with a given tensor
//! u8 cut of SPARSE | u8 cut of DENSE and FRESH | u8 log2 of tiles a group
//! [32] × groups                                             absent if one group holds the whole tensor
//! tables | directory: varint (body bytes × 8 + mode) a tile | pad | bodies
//! ```

use super::tables::FrameTables;
use crate::constants::{
    FRAME_VERSION, MAX_GROUP_LOG2, MAX_LANES_LOG2, MAX_TENSOR_ELEMS, MIN_BLOCK_LOG2, TILE_ELEMS, TILE_LOG2,
};
use crate::dtype::Dtype;
use crate::error::{CodecError, Result, corrupt};
use crate::tile::blocks::{Cut, pad_to_even};
use crate::tile::{Cuts, Mode, Relation};
use crate::wire::{Reader, Writer};
use std::ops::Range;

const WHAT: &str = "frame header";
const HAS_BASE: u8 = 1;
const HAS_GIVEN: u8 = 2;

/// The element ranges that a tensor of `total_elems` is cut into: one frame each. An empty tensor has one empty slice.
///
/// * `total_elems`: elements as the codec counts them ([`Dtype::word_bytes`]).
pub fn slices_of(dtype: Dtype, total_elems: u64) -> impl ExactSizeIterator<Item = Range<u64>> {
    let step = dtype.slice_elems() as u64;
    let slices = usize::try_from(total_elems.div_ceil(step))
        .unwrap_or(usize::MAX)
        .max(1);
    (0..slices).map(move |i| {
        let start = i as u64 * step;
        start..total_elems.min(start + step)
    })
}

/// Everything in a frame but the tile bodies.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) dtype: Dtype,
    pub(crate) total_elems: u64,
    /// Elements of the tensor that this frame holds.
    pub(crate) elems: Range<u64>,
    /// First bytes of the id of the base, for a clear error; not a proof.
    pub(crate) base_check: Option<[u8; 4]>,
    /// The relation to the given tensor, and the first bytes of its id.
    pub(crate) given: Option<(Relation, [u8; 4])>,
    pub(crate) cuts: Cuts,
    pub(crate) group_log2: u32,
    /// Digest a group; empty if the tensor's id already says it.
    pub(crate) groups: Vec<[u8; 32]>,
    pub(crate) tables: FrameTables,
    /// Mode and body bytes a tile.
    pub(crate) directory: Vec<(Mode, usize)>,
    /// Bytes of the parts of a header that was read.
    pub(crate) sizes: Sizes,
}

/// Bytes of the parts of a header.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) header: usize,
    pub(crate) digests: usize,
    pub(crate) tables: usize,
    pub(crate) directory: usize,
}

impl Header {
    pub(crate) fn is_whole(&self) -> bool {
        self.elems.start == 0 && self.elems.end == self.total_elems
    }

    pub(crate) fn len_elems(&self) -> usize {
        usize::try_from(self.elems.end - self.elems.start).unwrap_or(usize::MAX)
    }

    pub(crate) fn group_count(elems: usize, group_log2: u32) -> usize {
        elems.div_ceil(TILE_ELEMS).div_ceil(1 << group_log2)
    }

    #[expect(clippy::cast_possible_truncation, reason = "logarithms are small")]
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(FRAME_VERSION);
        w.u8(self.dtype.code());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        w.u8(flag(self.base_check.is_some(), HAS_BASE) | flag(self.given.is_some(), HAS_GIVEN));
        w.varint(self.total_elems);
        w.varint(self.elems.start / self.dtype.slice_elems() as u64);
        if let Some(check) = self.base_check {
            w.raw(&check);
        }
        if let Some((relation, check)) = self.given {
            w.u8(relation as u8);
            w.raw(&check);
        }
        for cut in [self.cuts.sparse, self.cuts.full] {
            w.u8((cut.block_log2 - MIN_BLOCK_LOG2 + 8 * cut.lanes_log2) as u8);
        }
        w.u8(self.group_log2 as u8);
        self.groups.iter().for_each(|g| w.raw(g));
        self.tables.write(w);
        for &(mode, bytes) in &self.directory {
            w.varint((bytes as u64) << 3 | mode as u64);
        }
        w.pad_to_even();
    }

    /// Reads a header; `r` stands at the first body afterwards.
    ///
    /// `r` must stand at the frame's first byte.
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let version = r.u8(WHAT)?;
        if version != FRAME_VERSION {
            let (found, known) = (version.into(), FRAME_VERSION.into());
            return Err(CodecError::Unsupported {
                what: "frame version",
                found,
                known,
            });
        }
        let dtype = Dtype::from_code(r.u8(WHAT)?)?;
        let flags = r.u8(WHAT)?;
        if flags > HAS_BASE | HAS_GIVEN {
            let (found, known) = (flags.into(), (HAS_BASE | HAS_GIVEN).into());
            return Err(CodecError::Unsupported {
                what: "frame flags",
                found,
                known,
            });
        }
        let total_elems = r.varint(WHAT)?;
        if total_elems > MAX_TENSOR_ELEMS {
            return Err(corrupt(WHAT, format!("{total_elems} elements")));
        }
        let mut slices = slices_of(dtype, total_elems);
        let slice = r.size(slices.len() - 1, "slice")?;
        let elems = slices.nth(slice).unwrap_or(0..0);
        let base_check = (flags & HAS_BASE != 0).then(|| r.array(WHAT)).transpose()?;
        let given = (flags & HAS_GIVEN != 0)
            .then(|| read_given(r, dtype))
            .transpose()?;
        if let (Some((Relation::Cast, _)), Some(_)) = (given, base_check) {
            return Err(corrupt(WHAT, "a cast with a base"));
        }
        let cuts = Cuts {
            sparse: read_cut(r)?,
            full: read_cut(r)?,
        };
        let group_log2 = u32::from(r.u8(WHAT)?);
        if group_log2 > MAX_GROUP_LOG2 {
            return Err(corrupt(WHAT, format!("groups of 2^{group_log2} tiles")));
        }
        let mut header = Self {
            dtype,
            total_elems,
            elems,
            base_check,
            given,
            cuts,
            group_log2,
            groups: Vec::new(),
            tables: FrameTables::default(),
            directory: Vec::new(),
            sizes: Sizes {
                header: r.pos(),
                ..Sizes::default()
            },
        };
        let len_elems = header.len_elems();
        let groups = Self::group_count(len_elems, group_log2);
        if groups > 1 || !header.is_whole() {
            let bytes = r.take(groups * 32, "group digests")?;
            header.groups = bytes.as_chunks().0.to_vec();
            header.sizes.digests = bytes.len();
        }
        let tables_at = r.pos();
        #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
        let width = 8 * dtype.word_bytes() as u32;
        header.tables = FrameTables::read(r, dtype.layout(), width, given.map(|g| g.0))?;
        header.sizes.tables = r.pos() - tables_at;
        let directory_at = r.pos();
        let tiles = len_elems.div_ceil(TILE_ELEMS);
        if tiles > r.left() {
            let (needed, left) = (tiles, r.left());
            return Err(CodecError::Truncated {
                what: "tile directory",
                offset: r.pos(),
                needed,
                left,
            });
        }
        header.directory.reserve_exact(tiles);
        for _ in 0..tiles {
            let entry = r.varint("tile directory")?;
            let bytes = usize::try_from(entry >> 3).unwrap_or(usize::MAX);
            #[expect(clippy::cast_possible_truncation, reason = "three bits")]
            header.directory.push((Mode::from_code(entry as u8 & 7)?, bytes));
            if bytes % 2 == 1 {
                return Err(corrupt("tile directory", format!("a body of {bytes} bytes")));
            }
        }
        pad_to_even(r)?;
        header.sizes.directory = r.pos() - directory_at;
        Ok(header)
    }
}

/// How the streams of a mode are cut.
fn read_cut(r: &mut Reader<'_>) -> Result<Cut> {
    let byte = r.u8(WHAT)?;
    let cut = Cut {
        block_log2: MIN_BLOCK_LOG2 + u32::from(byte & 7),
        lanes_log2: u32::from(byte >> 3),
    };
    if cut.block_log2 > TILE_LOG2 || cut.lanes_log2 > MAX_LANES_LOG2 {
        return Err(corrupt(WHAT, format!("cut {byte:#04x}")));
    }
    Ok(cut)
}

/// The relation to a given tensor, which must fit the dtype.
fn read_given(r: &mut Reader<'_>, dtype: Dtype) -> Result<(Relation, [u8; 4])> {
    let code = r.u8(WHAT)?;
    let relation = Relation::from_code(code).ok_or(CodecError::Unsupported {
        what: "relation",
        found: code.into(),
        known: Relation::ALL.len() as u64,
    })?;
    if !relation.fits(dtype) {
        return Err(corrupt(
            WHAT,
            format!("{} cannot be {}", dtype.name(), relation.name()),
        ));
    }
    Ok((relation, r.array(WHAT)?))
}
