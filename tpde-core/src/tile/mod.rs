//! How one tile is coded, one mode a file.
//!
//! | mode | reads the base | body |
//! |---|---|---|
//! | SAME | yes | nothing: every element equals its base |
//! | SPARSE | yes | a change mask by class, then magnitudes and signs of what changed |
//! | DENSE | yes | a magnitude token an element, chosen by class; signs and low bits raw |
//! | FRESH | no | an exponent token an element; sign and mantissa raw |
//! | RAW | no | the bytes |
//!
//! An anchor's base is all zero bits, so SAME and SPARSE also serve tensors of zeros.

mod blocks;
pub(crate) mod dense;
pub(crate) mod fresh;
pub(crate) mod sparse;

use crate::dtype::Layout;
use crate::error::{Result, corrupt};
use crate::frame::tables::{FrameTables, TokenTables};
use crate::ordinal::Word;
use crate::rans::table::Table;

/// The mode of a tile, as the directory writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mode {
    /// Equal to the base.
    Same = 0,
    /// Few elements change.
    Sparse = 1,
    /// Most elements change.
    Dense = 2,
    /// Coded without the base.
    Fresh = 3,
    /// Not compressed.
    Raw = 4,
}

impl Mode {
    /// All modes, by code.
    pub const ALL: [Self; 5] = [Self::Same, Self::Sparse, Self::Dense, Self::Fresh, Self::Raw];

    pub(crate) fn from_code(code: u8) -> Result<Self> {
        Self::ALL
            .get(usize::from(code))
            .copied()
            .ok_or_else(|| corrupt("tile mode", format!("code {code}")))
    }

    /// Whether decoding reads the base.
    pub fn needs_base(self) -> bool {
        matches!(self, Self::Same | Self::Sparse | Self::Dense)
    }

    /// Upper-case name, as in the documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "SAME",
            Self::Sparse => "SPARSE",
            Self::Dense => "DENSE",
            Self::Fresh => "FRESH",
            Self::Raw => "RAW",
        }
    }
}

/// Entries of all tables of a frame, for encoding or for decoding.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// By mask table; `None` where nothing changes.
    pub(crate) masks: Vec<Option<Vec<u32>>>,
    pub(crate) magnitudes: Vec<Vec<u32>>,
    pub(crate) dense: Vec<Vec<u32>>,
    pub(crate) fresh: Vec<Vec<u32>>,
}

impl Entries {
    /// What the encoder looks up: [`EncodeEntry`](crate::rans::table::EncodeEntry) by symbol.
    pub(crate) fn encoding(tables: &FrameTables) -> Self {
        Self::of(tables, Table::encode_entries)
    }

    /// What the decoder looks up: [`DecodeEntry`](crate::rans::table::DecodeEntry) by slot.
    pub(crate) fn decoding(tables: &FrameTables) -> Self {
        Self::of(tables, Table::decode_entries)
    }

    fn of(tables: &FrameTables, entries: fn(&Table) -> Vec<u32>) -> Self {
        let tokens = |set: Option<&TokenTables>| -> Vec<Vec<u32>> {
            set.map_or_else(Vec::new, |set| set.tables().map(|t| entries(&t)).collect())
        };
        let sparse = tables.sparse.as_ref();
        let masks = sparse.map_or_else(Vec::new, |s| s.masks.tables());
        Self {
            masks: masks.iter().map(|t| t.as_ref().map(entries)).collect(),
            magnitudes: tokens(sparse.and_then(|s| s.magnitudes.as_ref())),
            dense: tokens(tables.dense.as_ref()),
            fresh: tokens(tables.fresh.as_ref().map(|f| &f.tokens)),
        }
    }
}

/// What every mode's decoder is given.
#[derive(Clone, Copy)]
pub(crate) struct DecodeContext<'a> {
    pub(crate) layout: Layout,
    pub(crate) block_elems: usize,
    pub(crate) tables: &'a FrameTables,
    pub(crate) entries: &'a Entries,
}

/// What every mode's encoder is given.
#[derive(Clone, Copy)]
pub(crate) struct EncodeContext<'a> {
    pub(crate) layout: Layout,
    pub(crate) block_elems: usize,
    pub(crate) tables: &'a FrameTables,
    pub(crate) entries: &'a Entries,
}

/// Encodes `new` with `mode`; `None` if the frame's tables cannot (a symbol that they lack, or no tables).
pub(crate) fn encode<W: Word>(mode: Mode, new: &[u8], base: &[u8], cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    match mode {
        Mode::Same => (new == base).then(Vec::new),
        Mode::Sparse => sparse::encode::<W>(new, base, cx),
        Mode::Dense => dense::encode::<W>(new, base, cx),
        Mode::Fresh => fresh::encode::<W>(new, cx),
        Mode::Raw => Some(new.to_vec()),
    }
}

/// Decodes `body`; `base` and `out` have the tile's length, `out` is fully written on `Ok`.
pub(crate) fn decode<W: Word>(
    mode: Mode,
    body: &[u8],
    base: &[u8],
    out: &mut [u8],
    cx: DecodeContext<'_>,
) -> Result<()> {
    match mode {
        Mode::Same if body.is_empty() => out.copy_from_slice(base),
        Mode::Sparse => sparse::decode::<W>(body, base, out, cx)?,
        Mode::Dense => dense::decode::<W>(body, base, out, cx)?,
        Mode::Fresh => fresh::decode::<W>(body, out, cx)?,
        Mode::Raw if body.len() == out.len() => out.copy_from_slice(body),
        Mode::Same | Mode::Raw => {
            return Err(corrupt(
                "tile body",
                format!("{} has {} bytes", mode.name(), body.len()),
            ));
        }
    }
    Ok(())
}

/// The error of a body whose mode has no tables in this frame.
pub(crate) fn no_tables(mode: Mode) -> crate::error::CodecError {
    corrupt("tile body", format!("{} without its tables", mode.name()))
}
