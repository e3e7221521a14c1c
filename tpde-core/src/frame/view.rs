//! A frame as another decoder needs it: tables as frequencies, bodies as byte ranges; for devices.

use super::decode::Frame;
use super::tables::TokenTables;
use crate::constants::MAX_CLASSES;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::tile::blocks::{Cut, blocks_of};
use crate::tile::{Mode, Relation};
use std::ops::Range;

/// What a frame says, without its bodies.
#[derive(Debug, Clone)]
pub struct FrameView {
    /// Element type.
    pub dtype: Dtype,
    /// Elements of the whole tensor.
    pub total_elems: u64,
    /// Those that the frame holds.
    pub elems: Range<u64>,
    /// Whether the frame is a delta.
    pub has_base: bool,
    /// How it relates to a given tensor.
    pub relation: Option<Relation>,
    /// Exponents of the base count downwards from here: class = clamp(origin − exponent, 0, 15).
    pub class_origin: u32,
    /// What SPARSE tiles need.
    pub sparse: Option<SparseView>,
    /// What DENSE tiles need.
    pub dense: Option<TokenView>,
    /// What FRESH tiles need.
    pub fresh: Option<FreshView>,
    /// The tiles, in order.
    pub tiles: Vec<TileView>,
}

/// What SPARSE tiles need.
#[derive(Debug, Clone)]
pub struct SparseView {
    /// log2 of the elements of a block.
    pub block_log2: u32,
    /// log2 of the lanes of a stream.
    pub lanes_log2: u32,
    /// Change probability by class, in 1/65536.
    pub change_probability: [u16; MAX_CLASSES],
    /// Tables of magnitudes; absent if nothing changes in any SPARSE tile.
    pub magnitudes: Option<TokenView>,
}

/// A set of token tables.
#[derive(Debug, Clone)]
pub struct TokenView {
    /// Numbers below `2^direct` are their own symbol.
    pub direct: u32,
    /// Bits below the leading one that wider symbols name.
    pub top: u32,
    /// Bits of the widest number.
    pub width: u32,
    /// Frequencies of a table sum to `2^prob_bits`.
    pub prob_bits: u32,
    /// The table of each class.
    pub table_of: [u8; MAX_CLASSES],
    /// Frequencies by table, by symbol.
    pub frequencies: Vec<Vec<u16>>,
    /// log2 of the elements of a block.
    pub block_log2: u32,
    /// log2 of the lanes of a stream.
    pub lanes_log2: u32,
}

/// What FRESH tiles need.
#[derive(Debug, Clone)]
pub struct FreshView {
    /// Exponents count downwards from here.
    pub origin: u32,
    /// The tables; one without a scale.
    pub tokens: TokenView,
}

/// One tile.
#[derive(Debug, Clone)]
pub struct TileView {
    /// How it is coded.
    pub mode: Mode,
    /// Byte ranges in the frame, one a block: none for SAME, one for RAW.
    pub blocks: Vec<Range<usize>>,
}

fn token_view(tokens: &TokenTables, cut: Cut) -> TokenView {
    let (direct, top, width) = tokens.shape.parts();
    TokenView {
        direct,
        top,
        width,
        prob_bits: tokens.prob_bits,
        table_of: tokens.map.table_of,
        frequencies: tokens.tables().map(|t| t.frequencies().to_vec()).collect(),
        block_log2: cut.block_log2,
        lanes_log2: cut.lanes_log2,
    }
}

impl Frame<'_> {
    /// The frame for a decoder on another device.
    ///
    /// # Errors
    /// `Corrupt` if the lengths of a tile's blocks do not fit its body.
    pub fn view(&self) -> Result<FrameView> {
        let header = &self.header;
        let (tables, cuts) = (&header.tables, header.cuts);
        let word_bytes = header.dtype.word_bytes();
        let tiles = (0..self.bodies.len())
            .map(|i| {
                let (mode, body, at) = (header.directory[i].0, self.bodies[i], self.body_offsets[i]);
                let elems = self.tile_len_bytes(i) / word_bytes;
                let within = match mode {
                    Mode::Same => Vec::new(),
                    Mode::Raw => vec![(0..elems, 0..body.len())],
                    Mode::Sparse => blocks_of(body, elems, cuts.sparse)?,
                    Mode::Dense | Mode::Fresh => blocks_of(body, elems, cuts.full)?,
                };
                let blocks = within
                    .into_iter()
                    .map(|(_, b)| at + b.start..at + b.end)
                    .collect();
                Ok(TileView { mode, blocks })
            })
            .collect::<Result<_>>()?;
        Ok(FrameView {
            dtype: header.dtype,
            total_elems: header.total_elems,
            elems: header.elems.clone(),
            has_base: self.has_base(),
            relation: self.relation(),
            class_origin: tables.classes.map_or(0, |c| c.origin),
            sparse: tables.sparse.as_ref().map(|s| SparseView {
                block_log2: cuts.sparse.block_log2,
                lanes_log2: cuts.sparse.lanes_log2,
                change_probability: s.changes.probability_by_class(),
                magnitudes: s.magnitudes.as_ref().map(|m| token_view(m, cuts.sparse)),
            }),
            dense: tables.dense.as_ref().map(|d| token_view(d, cuts.full)),
            fresh: tables.fresh.as_ref().map(|f| FreshView {
                origin: f.origin,
                tokens: token_view(&f.tokens, cuts.full),
            }),
            tiles,
        })
    }
}
