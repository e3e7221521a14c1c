//! Chains: what a tensor decodes from, tile by tile through all of it.
//!
//! ```text
//! anchor ◀─base─ delta ◀─base─ delta        a chain of weights
//!                  ▲             ▲
//!                given         given
//!                  │             │
//! anchor ◀─base─ delta ◀─base─ delta        its masters, each given its weight
//! ```

use super::decode::{Frame, Inputs};
use super::digest::{Extent, SubtreeHash, hash_group, merge};
use super::ledger::Ledger;
use crate::dtype::Dtype;
use crate::error::{CodecError, Result, corrupt};
use crate::id::TensorId;
use crate::meter::{Meter, NoMeter, Tally};
use crate::tile::{Mode, Relation};
use rayon::prelude::*;

/// One tensor of a chain: a frame and what it reads, or bytes that are at hand.
#[derive(Debug, Clone, Copy)]
pub struct Link<'f, 'a> {
    source: Source<'f, 'a>,
    base: Option<usize>,
    given: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'f, 'a> {
    Frame(&'f Frame<'a>),
    Plain { dtype: Dtype, bytes: &'f [u8] },
}

impl<'f, 'a> Link<'f, 'a> {
    /// A frame.
    ///
    /// * `base`, `given`: which earlier links of the same chain it reads.
    pub fn frame(frame: &'f Frame<'a>, base: Option<usize>, given: Option<usize>) -> Self {
        Self {
            source: Source::Frame(frame),
            base,
            given,
        }
    }

    /// A slice that is already decoded.
    pub fn plain(dtype: Dtype, bytes: &'f [u8]) -> Self {
        Self {
            source: Source::Plain { dtype, bytes },
            base: None,
            given: None,
        }
    }

    fn dtype(&self) -> Dtype {
        match self.source {
            Source::Frame(frame) => frame.dtype(),
            Source::Plain { dtype, .. } => dtype,
        }
    }

    fn len_elems(&self) -> usize {
        match self.source {
            Source::Frame(frame) => frame.header.len_elems(),
            Source::Plain { dtype, bytes } => bytes.len() / dtype.word_bytes(),
        }
    }
}

/// Everything that one slice of a tensor decodes from: each link reads earlier ones, the last is what is wanted.
#[derive(Debug)]
pub struct Chain<'f, 'a> {
    links: Vec<Link<'f, 'a>>,
    newest: &'f Frame<'a>,
}

/// Buffers of one worker, kept from tile to tile.
#[derive(Default)]
struct Scratch {
    pool: Vec<Vec<u8>>,
    virtual_base: Vec<u8>,
}

impl<'f, 'a> Chain<'f, 'a> {
    /// Checks that the links fit one another.
    ///
    /// # Errors
    /// `Invalid` if there are none, or the last is no frame. `Corrupt` if a link lacks what it reads, reads what it does not
    /// need, or they differ in length, slice or dtype.
    pub fn new(links: Vec<Link<'f, 'a>>) -> Result<Self> {
        let Some(Link {
            source: Source::Frame(newest),
            ..
        }) = links.last().copied()
        else {
            return Err(CodecError::Invalid {
                detail: "a chain that does not end in a frame".into(),
            });
        };
        let wrong =
            |i: usize, detail: String| Err(corrupt("chain", format!("link {i} of {} {detail}", links.len())));
        for (i, link) in links.iter().enumerate() {
            if link.len_elems() != newest.header.len_elems() {
                return wrong(i, "is of another length".into());
            }
            let Source::Frame(frame) = link.source else {
                continue;
            };
            let (a, b) = (&newest.header, &frame.header);
            if (a.total_elems, &a.elems) != (b.total_elems, &b.elems) {
                return wrong(i, "is of another slice".into());
            }
            if frame.has_base() != link.base.is_some() || frame.relation().is_some() != link.given.is_some() {
                return wrong(i, "lacks what it reads, or has what it does not".into());
            }
            let given_dtype = frame.relation().map(|r| r.given_dtype(frame.dtype()));
            for (at, dtype) in [(link.base, Some(frame.dtype())), (link.given, given_dtype)] {
                let Some(at) = at else { continue };
                if at >= i || Some(links[at].dtype()) != dtype {
                    return wrong(i, format!("cannot be decoded from link {at}"));
                }
            }
        }
        Ok(Self { links, newest })
    }

    /// Decodes the newest tensor of the chain into `out`, tile by tile: one pass over the output, scratch of a few tiles.
    ///
    /// `out` has exactly [`Frame::len_bytes`] bytes; it is fully overwritten on `Ok` and unspecified on `Err`. The hash
    /// returned is that of `out`; the caller compares it (merged over slices) with the tensor's id.
    ///
    /// # Errors
    /// `Corrupt` if a body or a group digest is wrong. `Invalid` if `out` has the wrong length.
    pub fn decode(&self, out: &mut [u8]) -> Result<SubtreeHash> {
        let header = &self.newest.header;
        if out.len() != self.newest.len_bytes() {
            let detail = format!(
                "output of {} bytes for a frame of {}",
                out.len(),
                self.newest.len_bytes()
            );
            return Err(CodecError::Invalid { detail });
        }
        let groups = self.decode_groups(0, out)?;
        let hash = merge(&groups, header.is_whole());
        Ok(if header.is_whole() {
            SubtreeHash::Whole(TensorId::from_bytes(hash))
        } else {
            SubtreeHash::Part(hash)
        })
    }

    /// Decodes the groups from tile `start` on until `out` is full; gives their hashes.
    ///
    /// # Errors
    /// `Corrupt` if one is not what its digest says.
    pub(super) fn decode_groups(&self, start: usize, out: &mut [u8]) -> Result<Vec<[u8; 32]>> {
        let header = &self.newest.header;
        let tile_bytes = self.newest.dtype().tile_bytes();
        let group_bytes = tile_bytes << header.group_log2;
        let slice_bytes = header.elems.start * self.newest.dtype().word_bytes() as u64;
        let one_group = self.newest.len_bytes() <= group_bytes;
        out.par_chunks_mut(group_bytes)
            .enumerate()
            .map(|(i, bytes)| {
                let group = (start >> header.group_log2) + i;
                let first_tile = group << header.group_log2;
                bytes
                    .par_chunks_mut(tile_bytes)
                    .enumerate()
                    .try_for_each_init(Scratch::default, |scratch, (i, out)| {
                        self.decode_tile(first_tile + i, out, scratch, &mut NoMeter)
                    })?;
                let offset_bytes = slice_bytes + (group * group_bytes) as u64;
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
            .collect()
    }

    /// What is decoded.
    pub(super) fn newest(&self) -> &'f Frame<'a> {
        self.newest
    }

    /// Where every byte of the newest frame goes.
    ///
    /// # Errors
    /// As [`Chain::decode`]; digests are not compared.
    ///
    /// Cost: as much as decoding.
    pub fn ledger(&self) -> Result<Ledger> {
        let tally = (0..self.newest.bodies.len())
            .into_par_iter()
            .map_init(Scratch::default, |scratch, tile| {
                let mut tally = Tally::default();
                let mut out = vec![0; self.newest.tile_len_bytes(tile)];
                self.decode_tile(tile, &mut out, scratch, &mut tally)?;
                Ok(tally)
            })
            .try_reduce(Tally::default, |a, b| Ok(a.plus(b)))?;
        Ok(Ledger::new(self.newest, tally))
    }

    /// Decodes tile `index` through all links that it needs; `meter` listens to the newest.
    fn decode_tile(
        &self,
        index: usize,
        out: &mut [u8],
        scratch: &mut Scratch,
        meter: &mut impl Meter,
    ) -> Result<()> {
        let last = self.links.len() - 1;
        let uses = self.uses(index);
        // A link's tile: where it was decoded to, or the link whose tile it equals.
        let mut tiles: Vec<Option<Vec<u8>>> = vec![None; self.links.len()];
        let mut same_as: Vec<usize> = (0..self.links.len()).collect();
        let mut left = uses.clone();
        for (i, link) in self.links.iter().enumerate() {
            let Source::Frame(frame) = link.source else {
                continue;
            };
            if uses[i] == 0 {
                continue;
            }
            let reads = frame.reads(index);
            let base = link.base.filter(|_| reads.base).map(|at| same_as[at]);
            let given = link.given.filter(|_| reads.given).map(|at| same_as[at]);
            let is_copy = frame.tiles()[index] == (Mode::Same, 0) && frame.relation() != Some(Relation::Cast);
            if let (true, Some(base)) = (is_copy, base) {
                // Its users become users of the base.
                same_as[i] = base;
                left[base] += uses[i] - 1;
                if i < last {
                    continue;
                }
            }
            let mut own = Vec::new();
            let target = if i == last {
                &mut *out
            } else {
                own = scratch.pool.pop().unwrap_or_default();
                own.resize(frame.tile_len_bytes(index), 0);
                &mut own
            };
            let inputs = Inputs {
                base: base.map(|at| self.tile_of(at, index, &tiles)),
                given: given.map(|at| self.tile_of(at, index, &tiles)),
            };
            if i == last {
                frame.decode_tile(index, inputs, target, &mut scratch.virtual_base, meter)?;
            } else {
                frame.decode_tile(index, inputs, target, &mut scratch.virtual_base, &mut NoMeter)?;
                tiles[i] = Some(own);
            }
            for at in [base, given].into_iter().flatten() {
                left[at] -= 1;
                if left[at] == 0
                    && let Some(buffer) = tiles[at].take()
                {
                    scratch.pool.push(buffer);
                }
            }
        }
        scratch.pool.extend(tiles.into_iter().flatten());
        Ok(())
    }

    /// How many links read each link's tile `index` on the way to the newest.
    fn uses(&self, index: usize) -> Vec<u32> {
        let mut uses = vec![0u32; self.links.len()];
        let last = self.links.len() - 1;
        uses[last] = 1;
        for (i, link) in self.links.iter().enumerate().rev() {
            let Source::Frame(frame) = link.source else {
                continue;
            };
            if uses[i] > 0 {
                let reads = frame.reads(index);
                link.base
                    .filter(|_| reads.base)
                    .into_iter()
                    .chain(link.given.filter(|_| reads.given))
                    .for_each(|at| uses[at] += 1);
            }
        }
        uses
    }

    fn tile_of<'t>(&'t self, link: usize, index: usize, tiles: &'t [Option<Vec<u8>>]) -> &'t [u8] {
        match self.links[link].source {
            Source::Plain { dtype, bytes } => {
                let tile_bytes = dtype.tile_bytes();
                &bytes[index * tile_bytes..bytes.len().min((index + 1) * tile_bytes)]
            }
            Source::Frame(_) => tiles[link].as_deref().unwrap_or_default(),
        }
    }
}
