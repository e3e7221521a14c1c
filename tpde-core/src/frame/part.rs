//! A part of a frame: its head, and the bodies of some tiles. Enough to decode and to prove these tiles.
//!
//! ```text
//! head (tables, directory, group digests) | body | body | body | body …
//! └───────── read first ─────────┘               └── read ──┘
//! ```
//! A group of tiles is a whole subtree of the tensor's hash. What a head says of the others merges with what was decoded up to the
//! tensor's id, so nothing that was not read has to be believed.

use std::ops::Range;

use super::chain::Chain;
use super::decode::Frame;
use super::digest::{SubtreeHash, merge};
use super::header::Header;
use crate::constants::TILE_ELEMS;
use crate::error::{CodecError, Result};
use crate::id::TensorId;
use crate::tile::Entries;
use crate::wire::Reader;

/// Everything in a frame but the bodies.
#[derive(Debug, Clone)]
pub struct FrameHead {
    header: Header,
    len_bytes: usize,
}

impl FrameHead {
    /// Parses the start of a frame; bytes behind the head are not looked at.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`: if the frame has more bytes than these, fetch more and call again. `Unsupported`: as [`Frame::parse`].
    pub fn parse(start: &[u8]) -> Result<Self> {
        let mut r = Reader::new(start);
        let header = Header::read(&mut r)?;
        Ok(Self {
            header,
            len_bytes: r.pos(),
        })
    }

    /// Bytes of the head.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The elements of the tensor that the frame holds.
    pub fn elems(&self) -> Range<u64> {
        self.header.elems.clone()
    }

    /// Tiles of the frame.
    pub fn tile_count(&self) -> usize {
        self.header.directory.len()
    }

    /// Bytes that `tiles` decode to.
    pub fn tiles_len_bytes(&self, tiles: Range<usize>) -> usize {
        let all = self.header.len_elems() * self.header.dtype.word_bytes();
        let end = |tile: usize| tile.saturating_mul(self.header.dtype.tile_bytes()).min(all);
        end(tiles.end) - end(tiles.start)
    }

    /// The tiles of the frame that must be decoded together to get and prove `elems`: whole groups.
    ///
    /// * `elems`: elements of the tensor; what the frame does not hold of them is left out.
    pub fn tiles_of(&self, elems: Range<u64>) -> Range<usize> {
        let own = &self.header.elems;
        let (start, end) = (elems.start.max(own.start), elems.end.min(own.end));
        if start >= end {
            return 0..0;
        }
        let group = (TILE_ELEMS as u64) << self.header.group_log2;
        #[expect(clippy::cast_possible_truncation, reason = "a slice has few tiles")]
        let tile = |group: u64| (group << self.header.group_log2) as usize;
        let tiles = self.header.directory.len();
        tile((start - own.start) / group)..tile((end - own.start).div_ceil(group)).min(tiles)
    }

    /// Where the bodies of `tiles` lie in the frame, in bytes.
    pub fn bodies(&self, tiles: Range<usize>) -> Range<usize> {
        let len = |tiles: &[_]| -> usize {
            let lens = tiles.iter().map(|&(_, len): &(_, usize)| len);
            lens.fold(0, usize::saturating_add)
        };
        let directory = &self.header.directory;
        let start = self.len_bytes.saturating_add(len(&directory[..tiles.start]));
        start..start.saturating_add(len(&directory[tiles]))
    }

    /// The hash of what the frame decodes to, as its digests say. `None` if it has none: then the tensor's id stands for them.
    ///
    /// It is proved by merging it with those of the tensor's other frames: the result must be the tensor's id.
    pub fn stated_hash(&self) -> Option<SubtreeHash> {
        (!self.header.groups.is_empty()).then(|| hash_of(&self.header, &self.header.groups))
    }

    /// A frame of which only the bodies of `tiles` are at hand.
    ///
    /// * `bodies`: the bytes that [`FrameHead::bodies`] names.
    ///
    /// # Errors
    /// `Truncated` if there are fewer.
    pub fn with_bodies<'a>(&self, tiles: Range<usize>, bodies: &'a [u8]) -> Result<Frame<'a>> {
        let mut r = Reader::new(bodies);
        let count = self.header.directory.len();
        let (mut offsets, mut found) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut at = self.len_bytes;
        for (tile, &(_, len)) in self.header.directory.iter().enumerate() {
            offsets.push(at);
            at = at.saturating_add(len);
            found.push(match tiles.contains(&tile) {
                true => r.take(len, "tile body")?,
                false => &[],
            });
        }
        r.end("tile bodies")?;
        Ok(Frame {
            entries: Entries::decoding(&self.header.tables),
            header: self.header.clone(),
            len_stored: at,
            body_offsets: offsets,
            bodies: found,
        })
    }
}

fn hash_of(header: &Header, groups: &[[u8; 32]]) -> SubtreeHash {
    let hash = merge(groups, header.is_whole());
    match header.is_whole() {
        true => SubtreeHash::Whole(TensorId::from_bytes(hash)),
        false => SubtreeHash::Part(hash),
    }
}

impl Chain<'_, '_> {
    /// Decodes some tiles of the newest tensor of the chain into `out`.
    ///
    /// * `tiles`: whole groups, as [`FrameHead::tiles_of`] gives them; every frame of the chain has their bodies.
    /// * `out`: as many bytes as these tiles decode to; fully overwritten on `Ok`, unspecified on `Err`.
    ///
    /// The hash returned is that of the whole slice, of what was decoded and what the frame states of the rest; once the caller has
    /// compared it (merged over slices) with the tensor's id, `out` is proved.
    ///
    /// # Errors
    /// As [`Chain::decode`]. `Invalid` if `tiles` are no whole groups, or bodies are missing.
    pub fn decode_tiles(&self, tiles: Range<usize>, out: &mut [u8]) -> Result<SubtreeHash> {
        let header = &self.newest().header;
        let unit = 1 << header.group_log2;
        let ends = tiles.end == header.directory.len() || tiles.end.is_multiple_of(unit);
        if tiles.start > tiles.end
            || tiles.end > header.directory.len()
            || !tiles.start.is_multiple_of(unit)
            || !ends
        {
            return Err(CodecError::Invalid {
                detail: format!("tiles {tiles:?} are no whole groups of {unit}"),
            });
        }
        let tile_bytes = self.newest().dtype().tile_bytes();
        let end_bytes = |tile: usize| (tile * tile_bytes).min(self.newest().len_bytes());
        let expected = end_bytes(tiles.end) - end_bytes(tiles.start);
        if out.len() != expected {
            return Err(CodecError::Invalid {
                detail: format!("an output of {} bytes for {expected}", out.len()),
            });
        }
        let decoded = self.decode_groups(tiles.start, out)?;
        let first = tiles.start / unit;
        let mut groups = header.groups.clone();
        // Without digests there is one group, the tensor; if nothing of it was asked for, the hash is not its id.
        if groups.is_empty() {
            groups.clone_from(&decoded);
        }
        if let Some(proved) = groups.get_mut(first..first + decoded.len()) {
            proved.copy_from_slice(&decoded);
        }
        Ok(hash_of(header, &groups))
    }
}
