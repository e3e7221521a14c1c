//! How one tile is coded, one mode a file.
//!
//! | mode | reads the base | body |
//! |---|---|---|
//! | SAME | yes | nothing: every element equals its base |
//! | SPARSE | yes | where groups of eight change, and the magnitudes and signs of what changed |
//! | DENSE | yes | a magnitude token an element, chosen by class, with sign and low bits |
//! | FRESH | no | an exponent token an element; sign and mantissa raw |
//! | RAW | no | the bytes |
//!
//! An anchor's base is all zero bits, so SAME and SPARSE also serve tensors of zeros.

pub(crate) mod against;
pub(crate) mod blocks;
pub(crate) mod dense;
pub(crate) mod fresh;
pub(crate) mod sparse;

pub use against::Relation;
pub(crate) use against::{Against, virtual_base};

use crate::arch::TokenLookup;
use crate::dtype::Layout;
use crate::error::{Result, corrupt};
use crate::frame::tables::{FrameTables, TokenTables};
use crate::meter::Meter;
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

/// Entries of the tables of a set, one table after another: all have as many.
#[derive(Debug, Default)]
pub(crate) struct TableEntries {
    pub(crate) all: Vec<u32>,
    each: usize,
}

impl TableEntries {
    fn of(set: &TokenTables, entries: fn(&Table) -> Vec<u32>) -> Self {
        let tables: Vec<Vec<u32>> = set.tables().map(|table| entries(&table)).collect();
        Self {
            each: tables.first().map_or(0, Vec::len),
            all: tables.concat(),
        }
    }

    /// Those of table number `table`.
    #[inline(always)]
    pub(crate) fn table(&self, table: usize) -> &[u32] {
        &self.all[table * self.each..][..self.each]
    }
}

/// Entries of all tables of a frame, for encoding or for decoding.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) magnitudes: TableEntries,
    pub(crate) dense: TableEntries,
    pub(crate) fresh: TableEntries,
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
        let tokens = |set: Option<&TokenTables>| {
            set.map_or_else(TableEntries::default, |set| TableEntries::of(set, entries))
        };
        let sparse = tables.sparse.as_ref();
        Self {
            magnitudes: tokens(sparse.and_then(|s| s.magnitudes.as_ref())),
            dense: tokens(tables.dense.as_ref()),
            fresh: tokens(tables.fresh.as_ref().map(|f| &f.tokens)),
        }
    }
}

/// How the streams of a frame are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// Of SPARSE.
    pub(crate) sparse: blocks::Cut,
    /// Of DENSE and FRESH, which code every element.
    pub(crate) full: blocks::Cut,
}

/// What every mode's decoder is given.
#[derive(Clone, Copy)]
pub(crate) struct DecodeContext<'a> {
    pub(crate) layout: Layout,
    pub(crate) cuts: Cuts,
    pub(crate) tables: &'a FrameTables,
    pub(crate) entries: &'a Entries,
}

/// What every mode's encoder is given.
#[derive(Clone, Copy)]
pub(crate) struct EncodeContext<'a> {
    pub(crate) layout: Layout,
    pub(crate) cuts: Cuts,
    pub(crate) tables: &'a FrameTables,
    pub(crate) entries: &'a Entries,
}

/// Encodes `new` with `mode`; `None` if the frame's tables cannot (a symbol that they lack, or no tables), or if an element
/// lies outside its cell.
///
/// * `given`: the tile that tells the scale.
pub(crate) fn encode<W: Word>(
    mode: Mode,
    new: &[u8],
    against: Against<'_>,
    given: Option<&[u8]>,
    cx: EncodeContext<'_>,
) -> Option<Vec<u8>> {
    match mode {
        // What a virtual base is to SPARSE is not what SAME copies.
        Mode::Same => None,
        Mode::Sparse => sparse::encode::<W>(new, against, cx),
        Mode::Dense => dense::encode::<W>(new, against, cx),
        Mode::Fresh => fresh::encode::<W>(new, given, cx),
        Mode::Raw => Some(raw_body(new)),
    }
}

/// The tile as it is, padded to an even length.
pub(crate) fn raw_body(new: &[u8]) -> Vec<u8> {
    let mut body = new.to_vec();
    body.resize(new.len().next_multiple_of(2), 0);
    body
}

/// Decodes `body` of any mode but SAME; `against` and `out` have the tile's length, `out` is fully written on `Ok`.
///
/// * `given`: the tile that tells the scale.
pub(crate) fn decode<W: Word>(
    mode: Mode,
    body: &[u8],
    against: Against<'_>,
    given: Option<&[u8]>,
    out: &mut [u8],
    cx: DecodeContext<'_>,
    meter: &mut impl Meter,
) -> Result<()> {
    match mode {
        Mode::Sparse => sparse::decode::<W, _>(body, against, out, cx, meter),
        Mode::Dense => dense::decode::<W, _>(body, against, out, cx, meter),
        Mode::Fresh => fresh::decode::<W>(body, given, out, cx, meter),
        Mode::Raw if body.len() == out.len().next_multiple_of(2) => {
            let (tile, pad) = body.split_at(out.len());
            out.copy_from_slice(tile);
            if pad.iter().any(|&b| b != 0) {
                return Err(corrupt("tile body", "padding is not zero"));
            }
            Ok(())
        }
        Mode::Same | Mode::Raw => Err(corrupt(
            "tile body",
            format!("{} has {} bytes", mode.name(), body.len()),
        )),
    }
}

/// The tables of `set` as the vector variants look them up.
fn lookup<'a>(set: &TokenTables, entries: &'a TableEntries) -> Option<TokenLookup<'a>> {
    TokenLookup::new(set.shape, &set.map, set.prob_bits, &entries.all)
}

/// The error of a body whose mode has no tables in this frame.
pub(crate) fn no_tables(mode: Mode) -> crate::error::CodecError {
    corrupt("tile body", format!("{} without its tables", mode.name()))
}
