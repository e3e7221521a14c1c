//! From a frame back to bytes: parsing, and one tile at a time.

use super::chain::{Chain, Link};
use super::counts::Reads;
use super::digest::SubtreeHash;
use super::encode::{Base, Given};
use super::header::Header;
use crate::dtype::Dtype;
use crate::error::{CodecError, Result};
use crate::id::TensorId;
use crate::meter::Meter;
use crate::tile::{self, Against, DecodeContext, Entries, Mode, Relation, virtual_base};
use crate::wire::Reader;
use std::ops::Range;

/// A parsed frame: every bound is checked, nothing is decoded yet.
#[derive(Debug)]
pub struct Frame<'a> {
    pub(super) header: Header,
    pub(super) entries: Entries,
    /// Bytes of the whole frame.
    pub(super) len_stored: usize,
    /// Offset of every tile's body.
    pub(super) body_offsets: Vec<usize>,
    pub(super) bodies: Vec<&'a [u8]>,
}

/// Tiles that one tile is decoded from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'t> {
    /// `None` where the frame has no base, or the tile's mode does not read it.
    pub(super) base: Option<&'t [u8]>,
    pub(super) given: Option<&'t [u8]>,
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
        let mut body_offsets = Vec::with_capacity(header.directory.len());
        for &(_, len_bytes) in &header.directory {
            body_offsets.push(r.pos());
            bodies.push(r.take(len_bytes, "tile body")?);
        }
        r.end("frame")?;
        Ok(Self {
            entries: Entries::decoding(&header.tables),
            header,
            len_stored: bytes.len(),
            body_offsets,
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

    /// How the frame relates to the tensor that it is given, if it is.
    pub fn relation(&self) -> Option<Relation> {
        self.header.given.map(|(relation, _)| relation)
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
        check_id(self.header.base_check, id, "taken against", "base")
    }

    /// Checks that `id` can be what this frame is given.
    ///
    /// # Errors
    /// `BaseMismatch` if the frame names another tensor, or none.
    pub fn check_given(&self, id: &TensorId) -> Result<()> {
        let check = self.header.given.map(|(_, check)| check);
        check_id(check, id, "coded given", "given tensor")
    }

    /// What tile `index` reads.
    pub(super) fn reads(&self, index: usize) -> Reads {
        Reads::of(self.header.directory[index].0, self.relation(), self.has_base())
    }

    /// Bytes that tile `index` decodes to.
    pub(super) fn tile_len_bytes(&self, index: usize) -> usize {
        let tile_bytes = self.dtype().tile_bytes();
        self.len_bytes()
            .saturating_sub(index * tile_bytes)
            .min(tile_bytes)
    }

    /// Decodes one tile into `out`, which has its length. `scratch` is used for a virtual base.
    pub(super) fn decode_tile(
        &self,
        index: usize,
        inputs: Inputs<'_>,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        meter: &mut impl Meter,
    ) -> Result<()> {
        let ((mode, len_bytes), body) = (self.header.directory[index], self.bodies[index]);
        if body.len() != len_bytes {
            return Err(CodecError::Invalid {
                detail: format!("tile {index} is decoded, and its body is not at hand"),
            });
        }
        let layout = self.dtype().layout();
        let relation = self.relation();
        if mode == Mode::Same {
            if !body.is_empty() {
                let detail = format!("SAME has {} bytes", body.len());
                return Err(CodecError::Corrupt {
                    what: "tile body",
                    detail,
                });
            }
            match (relation, inputs.base, inputs.given) {
                (Some(Relation::Cast), _, Some(given)) => {
                    virtual_base(Relation::Cast, None, given, layout, out)
                }
                (_, Some(base), _) => out.copy_from_slice(base),
                (_, None, _) => out.fill(0),
            }
            return Ok(());
        }
        let cx = DecodeContext {
            layout,
            cuts: self.header.cuts,
            tables: &self.header.tables,
            entries: &self.entries,
        };
        let (against, given) = match (relation, inputs.given, inputs.base) {
            (Some(relation @ (Relation::Rounded | Relation::Cast)), Some(given), base) => {
                scratch.resize(out.len(), 0);
                virtual_base(relation, base, given, layout, scratch);
                (Against::related(Some(relation), scratch, given, layout), None)
            }
            (_, given, Some(base)) => (Against::plain(base, layout), given),
            (_, given, None) => {
                scratch.clear();
                scratch.resize(out.len(), 0);
                (Against::plain(scratch, layout), given)
            }
        };
        match self.dtype().word_bytes() {
            1 => tile::decode::<u8>(mode, body, against, given, out, cx, meter),
            2 => tile::decode::<u16>(mode, body, against, given, out, cx, meter),
            4 => tile::decode::<u32>(mode, body, against, given, out, cx, meter),
            _ => tile::decode::<u64>(mode, body, against, given, out, cx, meter),
        }
    }
}

fn check_id(check: Option<[u8; 4]>, id: &TensorId, how: &str, what: &str) -> Result<()> {
    match check {
        Some(check) if id.as_bytes().starts_with(&check) => Ok(()),
        Some(check) => Err(CodecError::BaseMismatch {
            detail: format!("the frame was {how} {}…, not {}", hex(&check), id.short()),
        }),
        None => Err(CodecError::BaseMismatch {
            detail: format!("the frame needs no {what}"),
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Decodes one frame into `out`, given what it reads.
///
/// Inverse of [`encode_frame`](super::encode_frame): `out` equals the encoded bytes, NaN payloads and −0.0 included.
///
/// * `frame`: one whole frame (docs/format.md §4), little-endian.
/// * `base`: id and bytes of the same slice of the base, C order, as long as `out`; `None` only for an anchor.
/// * `given`: the same slice of the given tensor; `None` only for a frame without one.
/// * `out`: [`Frame::len_bytes`] bytes; fully overwritten on `Ok`, unspecified on `Err`.
///
/// Returns the hash of `out`; compare it with the tensor's id.
///
/// # Errors
/// As [`Frame::parse`] and [`Chain::decode`]; `BaseMismatch` if `base` or `given` is not what the frame was made with.
pub fn decode_frame(
    frame: &[u8],
    base: Option<Base<'_>>,
    given: Option<Given<'_>>,
    out: &mut [u8],
) -> Result<SubtreeHash> {
    let frame = Frame::parse(frame)?;
    let mut links = Vec::with_capacity(3);
    let mut at =
        |frame: &Frame<'_>, dtype: Dtype, bytes, wanted: bool, what: &str| -> Result<Option<usize>> {
            let Some(bytes): Option<&[u8]> = bytes else {
                return match wanted {
                    false => Ok(None),
                    true => Err(CodecError::BaseMismatch {
                        detail: format!("the frame needs its {what}, none was given"),
                    }),
                };
            };
            let expected = frame.header.len_elems() * dtype.word_bytes();
            if bytes.len() != expected {
                let detail = format!("{what} of {} bytes, {expected} are expected", bytes.len());
                return Err(CodecError::BaseMismatch { detail });
            }
            links.push(Link::plain(dtype, bytes));
            Ok(Some(links.len() - 1))
        };
    if let Some(base) = &base {
        frame.check_base(&base.id)?;
    }
    let base = at(
        &frame,
        frame.dtype(),
        base.map(|b| b.bytes),
        frame.has_base(),
        "base",
    )?;
    if let Some(given) = &given {
        frame.check_given(&given.id)?;
    }
    let dtype = frame
        .relation()
        .map_or(frame.dtype(), |r| r.given_dtype(frame.dtype()));
    let given = at(
        &frame,
        dtype,
        given.map(|g| g.bytes),
        frame.relation().is_some(),
        "given tensor",
    )?;
    links.push(Link::frame(&frame, base, given));
    Chain::new(links)?.decode(out)
}
