//! From a frame back to bytes: one tile, one frame, or a whole chain tile by tile.

use super::digest::{Extent, SubtreeHash, hash_group, merge};
use super::header::Header;
use crate::dtype::Dtype;
use crate::error::{CodecError, Result, corrupt};
use crate::id::TensorId;
use crate::tile::{self, DecodeContext, Entries, Mode};
use crate::wire::Reader;
use rayon::prelude::*;
use std::ops::Range;

/// A parsed frame: every bound is checked, nothing is decoded yet.
#[derive(Debug)]
pub struct Frame<'a> {
    header: Header,
    entries: Entries,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// Parses one whole frame (docs/format.md §4).
    ///
    /// # Errors
    /// `Truncated`: fetch the rest and call again. `Corrupt`: the same bytes will not get better.
    /// `Unsupported`: written by a newer format; upgrade the reader.
    ///
    /// Never panics, whatever the bytes; allocates no more than the bytes earn, and 2 MiB of tables.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let header = Header::read(&mut r)?;
        let mut bodies = Vec::with_capacity(header.directory.len());
        for &(_, len_bytes) in &header.directory {
            bodies.push(r.take(len_bytes, "tile body")?);
        }
        r.end("frame")?;
        Ok(Self {
            entries: Entries::decoding(&header.tables),
            header,
            bodies,
        })
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.header.dtype
    }

    /// Elements of the whole tensor that this frame is, or is a slice of.
    pub fn total_elems(&self) -> u64 {
        self.header.total_elems
    }

    /// The elements of the tensor that this frame holds.
    pub fn elems(&self) -> Range<u64> {
        self.header.elems.clone()
    }

    /// Bytes that this frame decodes to.
    pub fn len_bytes(&self) -> usize {
        self.header.len_elems() * self.dtype().word_bytes()
    }

    /// Whether the frame was taken against a base.
    pub fn has_base(&self) -> bool {
        self.header.base_check.is_some()
    }

    /// Mode and stored bytes of every tile.
    pub fn tiles(&self) -> &[(Mode, usize)] {
        &self.header.directory
    }

    /// Checks that `id` can be the base of this frame.
    ///
    /// # Errors
    /// `BaseMismatch` if the frame names another base, or none.
    pub fn check_base(&self, id: &TensorId) -> Result<()> {
        match self.header.base_check {
            Some(check) if id.as_bytes().starts_with(&check) => Ok(()),
            Some(check) => Err(CodecError::BaseMismatch {
                detail: format!("the frame was taken against {}…, not {}", hex(&check), id.short()),
            }),
            None => Err(CodecError::BaseMismatch {
                detail: "the frame needs no base".into(),
            }),
        }
    }

    fn tile_range(&self, tile: usize) -> Range<usize> {
        let tile_bytes = self.dtype().tile_bytes();
        tile * tile_bytes..self.len_bytes().min((tile + 1) * tile_bytes)
    }

    /// Decodes one tile; `base` and `out` are that tile's bytes.
    fn decode_tile(&self, index: usize, base: &[u8], out: &mut [u8]) -> Result<()> {
        let cx = DecodeContext {
            layout: self.dtype().layout(),
            block_elems: 1 << self.header.block_log2,
            tables: &self.header.tables,
            entries: &self.entries,
        };
        let (mode, body) = (self.header.directory[index].0, self.bodies[index]);
        match self.dtype().word_bytes() {
            1 => tile::decode::<u8>(mode, body, base, out, cx),
            2 => tile::decode::<u16>(mode, body, base, out, cx),
            4 => tile::decode::<u32>(mode, body, base, out, cx),
            _ => tile::decode::<u64>(mode, body, base, out, cx),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A chain of frames of one slice, oldest first: an anchor, then each delta on the one before.
#[derive(Debug)]
pub struct Chain<'f, 'a> {
    frames: &'f [Frame<'a>],
}

impl<'f, 'a> Chain<'f, 'a> {
    /// Checks that the frames fit one another.
    ///
    /// # Errors
    /// `Invalid` if there are none. `Corrupt` if the first needs a base, a later one does not, or they differ in dtype,
    /// length or slice.
    pub fn new(frames: &'f [Frame<'a>]) -> Result<Self> {
        let Some(first) = frames.first() else {
            return Err(CodecError::Invalid {
                detail: "a chain of no frames".into(),
            });
        };
        for (i, frame) in frames.iter().enumerate() {
            if frame.has_base() != (i > 0) {
                return Err(corrupt(
                    "chain",
                    format!("link {i} of {} has the wrong kind", frames.len()),
                ));
            }
            let (a, b) = (&first.header, &frame.header);
            if (a.dtype, a.total_elems, &a.elems) != (b.dtype, b.total_elems, &b.elems) {
                return Err(corrupt(
                    "chain",
                    format!("link {i} is of another tensor shape than its base"),
                ));
            }
        }
        Ok(Self { frames })
    }

    /// Decodes the newest tensor of the chain into `out`, tile by tile: one pass over the output, scratch of a tile.
    ///
    /// `out` has exactly [`Frame::len_bytes`] bytes; it is fully overwritten on `Ok` and unspecified on `Err`. The hash
    /// returned is that of `out`; the caller compares it (merged over slices) with the tensor's id.
    ///
    /// # Errors
    /// `Corrupt` if a body or a group digest is wrong. `Invalid` if `out` has the wrong length.
    pub fn decode(&self, out: &mut [u8]) -> Result<SubtreeHash> {
        let newest = &self.frames[self.frames.len() - 1];
        let header = &newest.header;
        if out.len() != newest.len_bytes() {
            let detail = format!(
                "output of {} bytes for a frame of {}",
                out.len(),
                newest.len_bytes()
            );
            return Err(CodecError::Invalid { detail });
        }
        let tile_bytes = newest.dtype().tile_bytes();
        let group_bytes = tile_bytes << header.group_log2;
        let offset_bytes = header.elems.start * newest.dtype().word_bytes() as u64;
        let one_group = out.len() <= group_bytes;
        let groups: Vec<[u8; 32]> = out
            .par_chunks_mut(group_bytes)
            .enumerate()
            .map(|(group, bytes)| {
                let first_tile = group << header.group_log2;
                bytes
                    .par_chunks_mut(tile_bytes)
                    .enumerate()
                    .try_for_each_init(Vec::new, |scratch, (i, out)| {
                        self.decode_tile(first_tile + i, out, scratch)
                    })?;
                let offset_bytes = offset_bytes + (group * group_bytes) as u64;
                let whole = header.is_whole() && one_group;
                let hash = hash_group(bytes, Extent { offset_bytes, whole });
                match header.groups.get(group) {
                    Some(expected) if *expected != hash => Err(corrupt(
                        "group digest",
                        format!("tiles {first_tile}.. decoded to other bytes than were encoded"),
                    )),
                    _ => Ok(hash),
                }
            })
            .collect::<Result<_>>()?;
        let hash = merge(&groups, header.is_whole());
        Ok(if header.is_whole() {
            SubtreeHash::Whole(TensorId::from_bytes(hash))
        } else {
            SubtreeHash::Part(hash)
        })
    }

    /// Decodes tile `index` through all links that matter.
    fn decode_tile(&self, index: usize, out: &mut [u8], scratch: &mut Vec<u8>) -> Result<()> {
        // A tile that reads no base hides everything older than it.
        let mode = |frame: &Frame<'_>| frame.header.directory[index].0;
        let start = self.frames.iter().rposition(|f| !mode(f).needs_base());
        let links = &self.frames[start.unwrap_or(0)..];
        scratch.clear();
        scratch.resize(out.len(), 0);
        debug_assert_eq!(links[0].tile_range(index).len(), out.len());
        let mut in_out = false;
        for frame in links {
            if mode(frame) == Mode::Same && frame.bodies[index].is_empty() {
                continue;
            }
            if in_out {
                frame.decode_tile(index, out, scratch)?;
            } else {
                frame.decode_tile(index, scratch, out)?;
            }
            in_out = !in_out;
        }
        if !in_out {
            out.copy_from_slice(scratch);
        }
        Ok(())
    }
}

/// Decodes one frame into `out`, given its base.
///
/// Inverse of [`encode_frame`](super::encode_frame): `out` equals the encoded bytes, NaN payloads and −0.0 included.
///
/// * `frame`: one whole frame (docs/format.md §4), little-endian.
/// * `base`: id and bytes of the same slice of the base, C order, as long as `out`; `None` only for an anchor.
/// * `out`: [`Frame::len_bytes`] bytes; fully overwritten on `Ok`, unspecified on `Err`.
///
/// Returns the hash of `out`; compare it with the tensor's id.
///
/// # Errors
/// As [`Frame::parse`] and [`Chain::decode`]; `BaseMismatch` if `base` is not what the frame was taken against.
pub fn decode_frame(frame: &[u8], base: Option<super::Base<'_>>, out: &mut [u8]) -> Result<SubtreeHash> {
    let frame = Frame::parse(frame)?;
    match &base {
        Some(base) => {
            frame.check_base(&base.id)?;
            if base.bytes.len() != frame.len_bytes() {
                let detail = format!(
                    "base of {} bytes, frame of {}",
                    base.bytes.len(),
                    frame.len_bytes()
                );
                return Err(CodecError::BaseMismatch { detail });
            }
        }
        None if frame.has_base() => {
            return Err(CodecError::BaseMismatch {
                detail: "the frame needs its base, none was given".into(),
            });
        }
        None => {}
    }
    let raw;
    let mut frames = Vec::with_capacity(2);
    if let Some(base) = base {
        // A base at hand is a chain whose first link is stored as it is.
        raw = super::encode::raw_frame(frame.dtype(), frame.total_elems(), frame.elems(), base.bytes);
        frames.push(Frame::parse(&raw)?);
    }
    frames.push(frame);
    Chain::new(&frames)?.decode(out)
}
