//! Packs: one stored object holding many frames (docs/format.md §5).
//!
//! ```text
//! pieces … | footer | [32] BLAKE3 of the footer | u32 footer bytes | "TPDEPK" 0 version
//! ```
//!
//! A pack is named by the BLAKE3 of all its bytes. Its footer says what each piece decodes to and from which other tensors, so
//! a reader that has nothing but the packs can rebuild everything else. The footer carries its own hash, because it is read by
//! a ranged request that the pack's name cannot check.

mod footer;
mod part;

use std::ops::Range;

use bytes::Bytes;
use tpde_core::wire::Reader;
use tpde_core::{CodecError, Dtype, ID_LEN, Relation};

use crate::error::{Result, StoreError};
use crate::ids::{BlobId, LeaseId, PackId};
use crate::keys::Key;
use crate::objects::Objects;
pub(crate) use footer::named_packs;
use footer::{ENTRY_BYTES, MAX_FOOTER_BYTES, MAX_PIECES, PIECE_BYTES, read_footer, write_footer};

pub(crate) use part::PART_LEN;
pub use part::{ContentHash, ContentPrefix, PREFIX_LEN, Part, prefix_of};

/// A pack is closed before it would grow beyond this many bytes.
pub const MAX_PACK_BYTES: usize = 64 << 20;
/// How much of a pack's end is read at first; longer footers take a second request.
const TAIL_BYTES: u64 = 64 << 10;
/// Version of the pack format.
const PACK_VERSION: u8 = 1;
const MAGIC: &[u8; 7] = b"TPDEPK\0";
const TRAILER_BYTES: usize = ID_LEN + 4 + 8;

/// How a blob's piece is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobCodec {
    /// As it is.
    Plain,
    /// A zstd frame; with a base, that base's bytes are the prefix.
    Zstd,
}

/// What an entry's pieces decode to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Consecutive slices of a tensor, one frame each.
    Slices {
        /// Element type.
        dtype: Dtype,
        /// The first of them.
        first: u32,
    },
    /// A blob, in one piece.
    Blob {
        /// Its length, in bytes.
        len_bytes: u64,
        /// How it is stored.
        codec: BlobCodec,
    },
}

/// Where some content was when an entry that reads it was written: where to look first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody knows.
    Unknown,
    /// In the pack of the entry itself.
    Here,
    /// In another pack.
    Pack(PackId),
}

/// Some content that an entry reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// The first bytes of its id.
    pub prefix: ContentPrefix,
    /// A hint.
    pub holder: Holder,
}

/// All that an entry reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// What it was taken against.
    pub base: Option<Needed>,
    /// What it was coded given, and how the two relate; tensors only.
    pub given: Option<(Relation, Needed)>,
}

impl Needs {
    /// Whether it reads nothing.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.given.is_none()
    }
}

/// One content in a pack, or the part of it that this pack holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the whole content.
    pub id: ContentHash,
    /// What the pieces decode to.
    pub content: Content,
    /// What they are decoded from.
    pub needs: Needs,
    /// 0 if it reads nothing, else 1 + the highest rank of the encodings that it reads.
    pub rank: u8,
    /// Where the pieces lie in the pack, in bytes.
    pub pieces: Vec<Range<u64>>,
}

impl Entry {
    /// The part of its content that piece `piece` holds.
    pub fn part(&self, piece: usize) -> Part {
        match self.content {
            Content::Slices { dtype, first } => Part::Slice {
                dtype,
                number: first.saturating_add(u32::try_from(piece).unwrap_or(u32::MAX)),
            },
            Content::Blob { .. } => Part::Blob,
        }
    }
}

/// Gathers pieces until a pack is full.
#[derive(Debug, Default)]
pub struct PackWriter {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    pieces: usize,
    /// Whether the first entry is a lease.
    is_leased: bool,
}

impl PackWriter {
    /// A pack that is written under a lease, which goes into it so that no other writer ever writes a pack of its name (docs/adr/0012).
    pub(crate) fn under(lease: LeaseId) -> Self {
        let bytes = lease.as_bytes();
        let content = Content::Blob {
            len_bytes: bytes.len() as u64,
            codec: BlobCodec::Plain,
        };
        let mut pack = Self::default();
        pack.add(*BlobId::of(bytes).as_bytes(), content, Needs::default(), 0, bytes);
        pack.is_leased = true;
        pack
    }

    /// Whether `more_bytes` still fit, with the footer that they need.
    pub fn fits(&self, more_bytes: usize) -> bool {
        let footer = (self.entries.len() + 1) * ENTRY_BYTES + (self.pieces + 1) * PIECE_BYTES;
        self.bytes.len() + more_bytes + footer + TRAILER_BYTES <= MAX_PACK_BYTES
            && footer <= MAX_FOOTER_BYTES
            && self.pieces < MAX_PIECES
    }

    /// Whether nothing was added, but for the lease.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == usize::from(self.is_leased)
    }

    /// Adds one piece of a content. A slice that follows the last entry's slices and reads the same as they joins that entry.
    pub fn add(&mut self, id: ContentHash, content: Content, needs: Needs, rank: u8, piece: &[u8]) {
        let start = self.bytes.len() as u64;
        self.bytes.extend_from_slice(piece);
        self.pieces += 1;
        let range = start..self.bytes.len() as u64;
        if let (Some(last), Content::Slices { dtype, first }) = (self.entries.last_mut(), content)
            && (last.id, last.needs, last.rank) == (id, needs, rank)
            && last.part(last.pieces.len()) == (Part::Slice { dtype, number: first })
        {
            last.pieces.push(range);
            return;
        }
        self.entries.push(Entry {
            id,
            content,
            needs,
            rank,
            pieces: vec![range],
        });
    }

    /// Closes the pack: its name, its bytes, and its entries.
    pub fn finish(self) -> (PackId, Bytes, Vec<Entry>) {
        let Self {
            mut bytes, entries, ..
        } = self;
        let footer = write_footer(&entries);
        bytes.extend_from_slice(&footer);
        bytes.extend_from_slice(blake3::hash(&footer).as_bytes());
        let footer_len = u32::try_from(footer.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&footer_len.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.push(PACK_VERSION);
        let bytes = Bytes::from(bytes);
        (PackId::of(&bytes), bytes, entries)
    }
}

/// Reads the entries from the end of a pack of `pack_bytes`.
///
/// * `tail`: the pack's last bytes.
///
/// Returns `Err(n)` in the inner result if the last `n` bytes are needed.
fn parse_tail(
    tail: &[u8],
    pack_bytes: u64,
) -> std::result::Result<std::result::Result<Vec<Entry>, u64>, CodecError> {
    const WHAT: &str = "pack trailer";
    let corrupt = |detail: &str| CodecError::Corrupt {
        what: WHAT,
        detail: detail.into(),
    };
    let Some((before, trailer)) = tail.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(CodecError::Truncated {
            what: WHAT,
            offset: 0,
            needed: TRAILER_BYTES,
            left: tail.len(),
        });
    };
    let mut r = Reader::new(trailer);
    let hash: [u8; ID_LEN] = r.array(WHAT)?;
    let footer_bytes = r.u32(WHAT)? as usize;
    if r.take(MAGIC.len(), WHAT)? != MAGIC {
        return Err(corrupt("not the end of a pack"));
    }
    let version = r.u8(WHAT)?;
    if version != PACK_VERSION {
        let (found, known) = (version.into(), PACK_VERSION.into());
        return Err(CodecError::Unsupported {
            what: "pack version",
            found,
            known,
        });
    }
    if pack_bytes > MAX_PACK_BYTES as u64 {
        return Err(corrupt("it is longer than a pack can be"));
    }
    if footer_bytes > MAX_FOOTER_BYTES {
        return Err(corrupt("its footer is longer than one can be"));
    }
    let needed = (footer_bytes + TRAILER_BYTES) as u64;
    if needed > pack_bytes {
        return Err(corrupt("the footer is longer than the pack"));
    }
    if needed > tail.len() as u64 {
        return Ok(Err(needed));
    }
    let footer = &before[before.len() - footer_bytes..];
    if *blake3::hash(footer).as_bytes() != hash {
        return Err(corrupt("the footer does not match its hash"));
    }
    read_footer(footer, pack_bytes - needed).map(Ok)
}

/// Reads a stored pack's entries: one request, two for a footer above 64 KiB.
///
/// # Errors
/// `NotFound` if there is no such pack; `Corrupt` if its end is damaged; `Newer` if this build is too old for it.
pub fn read_entries(objects: &Objects, pack: PackId) -> Result<Vec<Entry>> {
    let key = Key::Pack(pack);
    let damaged = |e: CodecError| StoreError::decoding(key.to_string(), e);
    let (tail, pack_bytes) = objects.get_tail(&key, TAIL_BYTES)?;
    match parse_tail(&tail, pack_bytes).map_err(damaged)? {
        Ok(entries) => Ok(entries),
        Err(needed) => {
            let (tail, pack_bytes) = objects.get_tail(&key, needed)?;
            let parsed = parse_tail(&tail, pack_bytes).map_err(damaged)?;
            parsed.map_err(|_| StoreError::corrupt(key.to_string(), "it changed while it was read"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(n: u8) -> Needed {
        Needed {
            prefix: [n; PREFIX_LEN],
            holder: Holder::Pack(PackId::of(&[n])),
        }
    }

    fn slices(dtype: Dtype, first: u32) -> Content {
        Content::Slices { dtype, first }
    }

    fn sample() -> PackWriter {
        let mut w = PackWriter::default();
        let needs = Needs {
            base: Some(needed(3)),
            given: None,
        };
        w.add([1; 32], slices(Dtype::BF16, 0), needs, 4, b"frame 0");
        w.add([1; 32], slices(Dtype::BF16, 1), needs, 4, b"frame one");
        let plain = |len_bytes| Content::Blob {
            len_bytes,
            codec: BlobCodec::Plain,
        };
        w.add([2; 32], plain(5), Needs::default(), 0, b"hello");
        w.add([4; 32], plain(0), Needs::default(), 0, b"");
        let here = Needed {
            prefix: [1; PREFIX_LEN],
            holder: Holder::Here,
        };
        let unknown = Needed {
            prefix: [9; PREFIX_LEN],
            holder: Holder::Unknown,
        };
        let given = |base, needed| Needs {
            base,
            given: Some((Relation::Rounded, needed)),
        };
        w.add(
            [5; 32],
            slices(Dtype::F32, 0),
            given(Some(needed(6)), here),
            5,
            b"master",
        );
        w.add([5; 32], slices(Dtype::F32, 1), given(None, unknown), 5, b"other");
        w
    }

    /// Promise: what is packed is described; slices of one tensor share an entry.
    #[test]
    fn entries_round_trip() {
        let (id, bytes, entries) = sample().finish();
        assert_eq!(entries.len(), 5);
        assert_eq!(
            entries[0].part(1),
            Part::Slice {
                dtype: Dtype::BF16,
                number: 1
            }
        );
        assert_eq!(entries[0].pieces, [0..7, 7..16]);
        let objects = Objects::memory();
        objects.put_content(&Key::Pack(id), bytes).unwrap();
        assert_eq!(read_entries(&objects, id).unwrap(), entries);
        let missing = read_entries(&objects, PackId::of(b"none"));
        assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    }

    /// Promise: every truncation and every bit flip of a pack's end is an error, never a panic; no flip goes unseen.
    #[test]
    fn every_truncation_and_flip_of_the_end() {
        let (_, bytes, entries) = sample().finish();
        let bodies = usize::try_from(entries[4].pieces[0].end).unwrap();
        for cut in 0..bytes.len() {
            assert!(parse_tail(&bytes[..cut], cut as u64).is_err(), "cut at {cut}");
        }
        for bit in 8 * bodies..8 * bytes.len() {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            match parse_tail(&bad, bad.len() as u64) {
                Err(_) | Ok(Err(_)) => {}
                Ok(Ok(read)) => panic!("bit {bit}: {read:?} instead of {entries:?}"),
            }
        }
    }
}
