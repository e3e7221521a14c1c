//! Packs: one stored object holding many frames (docs/format.md §5).
//!
//! ```text
//! pieces … | footer | [32] BLAKE3 of the footer | u32 footer bytes | "TPDEPK" 0 version
//! ```
//!
//! A pack is named by the BLAKE3 of all its bytes. Its footer says what each piece decodes to and on which base, so a reader
//! that has nothing but the packs can rebuild everything else. The footer carries its own hash, because it is read by a
//! ranged request that the pack's name cannot check.

use std::ops::Range;

use bytes::Bytes;
use tpde_core::constants::SLICE_BYTES;
use tpde_core::wire::{Reader, Writer};
use tpde_core::{CodecError, ID_LEN};

use crate::error::{Result, StoreError};
use crate::ids::PackId;
use crate::keys::Key;
use crate::objects::Objects;

/// A pack is closed before it would grow beyond this many bytes.
pub const MAX_PACK_BYTES: usize = 64 << 20;
/// How much of a pack's end is read at first; longer footers take a second request.
const TAIL_BYTES: u64 = 64 << 10;
/// Version of the pack format.
const PACK_VERSION: u8 = 0;
const MAGIC: &[u8; 7] = b"TPDEPK\0";
const TRAILER_BYTES: usize = ID_LEN + 4 + 8;

/// Hash of some content, tensor or blob: what entries are looked up by.
pub type ContentHash = [u8; ID_LEN];

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

/// What an entry was taken against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRef {
    /// Hash of the base's content.
    pub id: ContentHash,
    /// Packs that held it when this was written: a hint.
    pub packs: Vec<PackId>,
}

/// One content in a pack, or the part of it that this pack holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the whole content.
    pub id: ContentHash,
    /// What the pieces decode to.
    pub content: Content,
    /// The base, for a delta.
    pub base: Option<BaseRef>,
    /// 0 for an anchor, else 1 + the rank of the base.
    pub rank: u8,
    /// Where the pieces lie in the pack, in bytes.
    pub pieces: Vec<Range<u64>>,
}

/// Part number under which blobs are looked up.
pub const BLOB_PART: u32 = u32::MAX;

impl Entry {
    /// The part of its content that this entry starts with: a slice number, or [`BLOB_PART`].
    pub fn part(&self) -> u32 {
        match self.content {
            Content::Slices { first } => first,
            Content::Blob { .. } => BLOB_PART,
        }
    }
}

/// Longest piece: a slice that did not compress, with its header.
const MAX_PIECE_BYTES: u64 = (SLICE_BYTES + (1 << 20)) as u64;
/// Most bytes that an entry takes in the footer: kind, id, number, base with one hint, rank, count of pieces.
const ENTRY_BYTES: usize = 160;
/// Most bytes that a piece takes in the footer.
const PIECE_BYTES: usize = 5;

/// Gathers pieces until a pack is full.
#[derive(Debug, Default)]
pub struct PackWriter {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    pieces: usize,
}

impl PackWriter {
    /// Whether `more_bytes` still fit, with the footer that they need.
    pub fn fits(&self, more_bytes: usize) -> bool {
        let footer = (self.entries.len() + 1) * ENTRY_BYTES + (self.pieces + 1) * PIECE_BYTES;
        self.bytes.len() + more_bytes + footer + TRAILER_BYTES <= MAX_PACK_BYTES
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds one piece of a content. A slice that follows the last entry's slices on the same base joins that entry.
    pub fn add(&mut self, id: ContentHash, content: Content, base: Option<BaseRef>, rank: u8, piece: &[u8]) {
        let start = self.bytes.len() as u64;
        self.bytes.extend_from_slice(piece);
        self.pieces += 1;
        let range = start..self.bytes.len() as u64;
        if let (Some(last), Content::Slices { first }) = (self.entries.last_mut(), content)
            && let Content::Slices { first: last_first } = last.content
            && last.id == id
            && last.base == base
            && last.rank == rank
            && last_first as usize + last.pieces.len() == first as usize
        {
            last.pieces.push(range);
            return;
        }
        self.entries.push(Entry {
            id,
            content,
            base,
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

const KIND_SLICES: u8 = 0;
const KIND_PLAIN_BLOB: u8 = 1;
const KIND_ZSTD_BLOB: u8 = 2;
const KIND_HAS_BASE: u8 = 0x80;

fn write_footer(entries: &[Entry]) -> Vec<u8> {
    let mut packs: Vec<PackId> = entries
        .iter()
        .flat_map(|e| &e.base)
        .flat_map(|b| b.packs.iter().copied())
        .collect();
    packs.sort_unstable();
    packs.dedup();
    let mut w = Writer::new();
    w.varint(packs.len() as u64);
    packs.iter().for_each(|p| w.raw(p.as_bytes()));
    w.varint(entries.len() as u64);
    for entry in entries {
        let kind = match entry.content {
            Content::Slices { .. } => KIND_SLICES,
            Content::Blob {
                codec: BlobCodec::Plain,
                ..
            } => KIND_PLAIN_BLOB,
            Content::Blob {
                codec: BlobCodec::Zstd,
                ..
            } => KIND_ZSTD_BLOB,
        };
        w.u8(kind | if entry.base.is_some() { KIND_HAS_BASE } else { 0 });
        w.raw(&entry.id);
        match entry.content {
            Content::Slices { first } => w.varint(first.into()),
            Content::Blob { len_bytes, .. } => w.varint(len_bytes),
        }
        if let Some(base) = &entry.base {
            w.raw(&base.id);
            w.varint(base.packs.len() as u64);
            for pack in &base.packs {
                w.varint(packs.binary_search(pack).unwrap_or(0) as u64);
            }
            w.u8(entry.rank);
        }
        w.varint(entry.pieces.len() as u64);
        entry.pieces.iter().for_each(|p| w.varint(p.end - p.start));
    }
    w.into_bytes()
}

fn read_footer(footer: &[u8], bodies_bytes: u64) -> std::result::Result<Vec<Entry>, CodecError> {
    const WHAT: &str = "pack footer";
    let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
    let mut r = Reader::new(footer);
    let packs = r.count(ID_LEN, WHAT)?;
    let packs: Vec<PackId> = (0..packs)
        .map(|_| Ok(PackId::from_bytes(r.array(WHAT)?)))
        .collect::<std::result::Result<_, CodecError>>()?;
    let count = r.count(ID_LEN + 3, WHAT)?;
    let mut entries = Vec::with_capacity(count);
    let mut offset = 0u64;
    for _ in 0..count {
        let kind = r.u8(WHAT)?;
        let id = r.array(WHAT)?;
        let number = r.varint(WHAT)?;
        let content = match kind & !KIND_HAS_BASE {
            KIND_SLICES => Content::Slices {
                first: u32::try_from(number).map_err(|_| corrupt(format!("slice {number}")))?,
            },
            KIND_PLAIN_BLOB => Content::Blob {
                len_bytes: number,
                codec: BlobCodec::Plain,
            },
            KIND_ZSTD_BLOB => Content::Blob {
                len_bytes: number,
                codec: BlobCodec::Zstd,
            },
            other => {
                let (found, known) = (other.into(), KIND_ZSTD_BLOB.into());
                return Err(CodecError::Unsupported {
                    what: "pack entry kind",
                    found,
                    known,
                });
            }
        };
        let mut base = None;
        let mut rank = 0;
        if kind & KIND_HAS_BASE != 0 {
            let id = r.array(WHAT)?;
            let hints = r.count(1, WHAT)?;
            let mut hinted = Vec::with_capacity(hints);
            for _ in 0..hints {
                let i = r.size(packs.len().saturating_sub(1), WHAT)?;
                hinted.push(
                    *packs
                        .get(i)
                        .ok_or_else(|| corrupt("a hint without packs".into()))?,
                );
            }
            base = Some(BaseRef { id, packs: hinted });
            rank = r.u8(WHAT)?;
            if matches!(
                content,
                Content::Blob {
                    codec: BlobCodec::Plain,
                    ..
                }
            ) {
                return Err(corrupt("a plain blob with a base".into()));
            }
        }
        let count = r.count(1, WHAT)?;
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let piece_bytes = r.varint(WHAT)?;
            if piece_bytes > MAX_PIECE_BYTES {
                return Err(corrupt(format!("a piece of {piece_bytes} bytes")));
            }
            let end = offset.checked_add(piece_bytes).filter(|&end| end <= bodies_bytes);
            let end = end.ok_or_else(|| corrupt("a piece ends behind the pieces".into()))?;
            pieces.push(offset..end);
            offset = end;
        }
        if matches!(content, Content::Blob { .. }) && pieces.len() != 1 || pieces.is_empty() {
            return Err(corrupt(format!("{} pieces", pieces.len())));
        }
        entries.push(Entry {
            id,
            content,
            base,
            rank,
            pieces,
        });
    }
    r.end(WHAT)?;
    if offset != bodies_bytes {
        return Err(corrupt(format!("{offset} of {bodies_bytes} bytes are described")));
    }
    Ok(entries)
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

    fn sample() -> PackWriter {
        let mut w = PackWriter::default();
        let base = BaseRef {
            id: [3; 32],
            packs: vec![PackId::of(b"other")],
        };
        w.add(
            [1; 32],
            Content::Slices { first: 0 },
            Some(base.clone()),
            4,
            b"frame 0",
        );
        w.add([1; 32], Content::Slices { first: 1 }, Some(base), 4, b"frame one");
        w.add(
            [2; 32],
            Content::Blob {
                len_bytes: 5,
                codec: BlobCodec::Plain,
            },
            None,
            0,
            b"hello",
        );
        w.add(
            [4; 32],
            Content::Blob {
                len_bytes: 0,
                codec: BlobCodec::Plain,
            },
            None,
            0,
            b"",
        );
        w
    }

    /// Promise: what is packed is described; slices of one tensor share an entry.
    #[test]
    fn entries_round_trip() {
        let (id, bytes, entries) = sample().finish();
        assert_eq!(entries.len(), 3);
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
        let bodies = 21;
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
