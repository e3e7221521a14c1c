//! The ledger of a frame: what every stored byte is for.

use super::decode::Frame;
use crate::cost::COST_SHIFT;
use crate::meter::{Kind, Tally};
use crate::tile::Mode;

/// What the bytes of one or more frames are for. Ledgers of frames add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames in it.
    pub frames: u64,
    /// Bytes of the frames.
    pub total_bytes: u64,
    /// Elements (as the codec counts them) that they hold.
    pub elems: u64,
    /// Version, dtype, lengths, ids, cuts.
    pub header_bytes: u64,
    /// Group digests.
    pub digest_bytes: u64,
    /// Classes and probability tables.
    pub table_bytes: u64,
    /// Mode and length a tile.
    pub directory_bytes: u64,
    /// Bodies of RAW tiles.
    pub raw_bytes: u64,
    /// Information in the streams by [`Kind`], in 1/65536 bit.
    pub by_kind: [u64; Kind::ALL.len()],
    /// Tiles by [`Mode`].
    pub tiles: [u64; Mode::ALL.len()],
}

impl Ledger {
    pub(super) fn new(frame: &Frame<'_>, tally: Tally) -> Self {
        let sizes = frame.header.sizes;
        let mut tiles = [0; Mode::ALL.len()];
        let mut raw_bytes = 0;
        for &(mode, len_bytes) in frame.tiles() {
            tiles[mode as usize] += 1;
            if mode == Mode::Raw {
                raw_bytes += len_bytes as u64;
            }
        }
        Self {
            frames: 1,
            total_bytes: frame.len_stored as u64,
            elems: frame.header.len_elems() as u64,
            header_bytes: sizes.header as u64,
            digest_bytes: sizes.digests as u64,
            table_bytes: sizes.tables as u64,
            directory_bytes: sizes.directory as u64,
            raw_bytes,
            by_kind: tally.by_kind,
            tiles,
        }
    }

    /// The sum of two ledgers.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.frames += other.frames;
        self.total_bytes += other.total_bytes;
        self.elems += other.elems;
        self.header_bytes += other.header_bytes;
        self.digest_bytes += other.digest_bytes;
        self.table_bytes += other.table_bytes;
        self.directory_bytes += other.directory_bytes;
        self.raw_bytes += other.raw_bytes;
        for (sum, &part) in self.by_kind.iter_mut().zip(&other.by_kind) {
            *sum += part;
        }
        for (sum, &part) in self.tiles.iter_mut().zip(&other.tiles) {
            *sum += part;
        }
        self
    }

    /// Information of one kind, in bytes.
    pub fn kind_bytes(&self, kind: Kind) -> f64 {
        self.by_kind[kind as usize] as f64 / (8u64 << COST_SHIFT) as f64
    }

    /// What the streams spend beyond the information in their symbols, in bytes: states of lanes, restarts, padding. Negative
    /// only by rounding.
    pub fn lane_bytes(&self) -> f64 {
        let other =
            self.header_bytes + self.digest_bytes + self.table_bytes + self.directory_bytes + self.raw_bytes;
        let information: f64 = Kind::ALL.iter().map(|&k| self.kind_bytes(k)).sum();
        (self.total_bytes - other) as f64 - information
    }
}
