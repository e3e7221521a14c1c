//! FRESH: every element on its own, without a base.
//!
//! Floats: the exponent, counted downwards from the frame's origin, is a token; sign and mantissa lie raw and aligned behind
//! the stream, the last of them in its seeds. Integers: the value is the token (signed ones zigzagged).

use super::blocks::{self, rounds};
use super::{DecodeContext, EncodeContext, Mode, no_tables};
use crate::bits::{BitReader, BitWriter};
use crate::constants::{MAX_LANES, SEED_BITS};
use crate::dtype::Layout;
use crate::error::Result;
use crate::frame::tables::FreshTables;
use crate::meter::{Kind, Meter};
use crate::ordinal::Word;
use crate::rans::stream::{StreamReader, StreamWriter};
use crate::token::TokenShape;

const WHAT: &str = "FRESH block";

/// The shape that this encoder uses.
pub(crate) fn shape(layout: Layout, width: u32) -> Option<TokenShape> {
    match layout {
        Layout::Float { exponent_bits, .. } if exponent_bits <= 8 => {
            TokenShape::new(exponent_bits, 0, exponent_bits)
        }
        Layout::Float { exponent_bits, .. } => TokenShape::new(7, 0, exponent_bits),
        _ if width == 8 => TokenShape::new(8, 0, width),
        _ => TokenShape::new(6, 1, width),
    }
}

/// Splits an element into the number that becomes a token and the bits that stay raw.
#[inline(always)]
pub(crate) fn split<W: Word>(word: W, origin: u32, layout: Layout) -> (u64, u64, u32) {
    let bits = word.widen();
    match layout {
        Layout::Float {
            exponent_bits,
            mantissa_bits,
        } => {
            let exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
            let down = u64::from(origin).wrapping_sub(exponent) & ((1 << exponent_bits) - 1);
            let mantissa = bits & ((1 << mantissa_bits) - 1);
            let sign = bits >> (exponent_bits + mantissa_bits);
            (down, mantissa | sign << mantissa_bits, mantissa_bits + 1)
        }
        Layout::Signed => (word.add(word).xor(word.sign_mask()).widen(), 0, 0),
        Layout::Unsigned => (bits, 0, 0),
    }
}

/// Puts the raw bits of [`split`] into a word that has its exponent.
#[inline(always)]
fn with_mantissa<W: Word>(word: W, raw: u64, layout: Layout) -> W {
    match layout {
        Layout::Float {
            exponent_bits,
            mantissa_bits,
        } => {
            let mantissa = raw & ((1 << mantissa_bits) - 1);
            let sign = raw >> mantissa_bits;
            W::narrow(word.widen() | mantissa | sign << (exponent_bits + mantissa_bits))
        }
        Layout::Signed | Layout::Unsigned => word,
    }
}

/// The word of a number of [`split`], its raw bits still zero.
#[inline(always)]
fn join<W: Word>(number: u64, origin: u32, layout: Layout) -> W {
    match layout {
        Layout::Float {
            exponent_bits,
            mantissa_bits,
        } => {
            let exponent = u64::from(origin).wrapping_sub(number) & ((1 << exponent_bits) - 1);
            W::narrow(exponent << mantissa_bits)
        }
        Layout::Signed => {
            let mask = (number & 1).wrapping_neg();
            W::narrow((number >> 1) ^ mask)
        }
        Layout::Unsigned => W::narrow(number),
    }
}

/// The class of the given word that tells element `i` its table, and 0 where none is given.
#[inline(always)]
fn table_of<W: Word>(set: &FreshTables, given: Option<&[u8]>, i: usize, layout: Layout) -> usize {
    match (set.scale, given) {
        (Some(scale), Some(given)) => {
            usize::from(set.tokens.map.table_of[scale.of(W::load(given, i), layout)])
        }
        _ => 0,
    }
}

/// Bits of an element that no model helps with.
fn mantissa_bits(layout: Layout) -> u32 {
    match layout {
        Layout::Float { mantissa_bits, .. } => mantissa_bits + 1,
        Layout::Signed | Layout::Unsigned => 0,
    }
}

/// Raw bits of a block that lie in bytes of their own; the rest are seeds.
fn bits_in_bytes(elems: usize, lanes: usize, layout: Layout) -> usize {
    (elems * mantissa_bits(layout) as usize).saturating_sub(lanes * SEED_BITS as usize)
}

/// Encodes a tile; `None` without tables or where a symbol is missing from them.
///
/// * `given`: the tile that tells the scale, with [`Relation::Scale`](super::Relation::Scale).
pub(crate) fn encode<W: Word>(new: &[u8], given: Option<&[u8]>, cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.fresh.as_ref()?;
    let cut = cx.cuts.full;
    blocks::encode(new.len() / W::BYTES, cut, |range, w| {
        let mut stream = StreamWriter::new(cut.lanes());
        for round in rounds(range.len(), cut.lanes(), W::BYTES) {
            for lane in 0..round.count {
                let i = range.start + round.elem(lane);
                let (number, ..) = split(W::load(new, i), set.origin, cx.layout);
                let token = set.tokens.shape.split(number);
                let table = table_of::<W>(set, given, i, cx.layout);
                if !set.tokens.table_has(table, token.symbol as usize) {
                    return None;
                }
                stream.token(
                    lane,
                    cx.entries.fresh.table(table)[token.symbol as usize],
                    token,
                    None,
                );
            }
            stream.end_round();
        }
        let in_bytes = bits_in_bytes(range.len(), cut.lanes(), cx.layout);
        let (mut raw, mut seeds) = (BitWriter::default(), BitWriter::default());
        for i in range {
            let (_, bits, count) = split(W::load(new, i), set.origin, cx.layout);
            #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
            let here = in_bytes.saturating_sub(raw.len_bits()).min(count as usize) as u32;
            raw.put(bits & ((1u64 << here) - 1), here);
            seeds.put(bits >> here, count - here);
        }
        stream.finish(seeds, w);
        w.raw(&raw.into_bytes());
        Some(())
    })
}

/// Decodes a tile.
pub(crate) fn decode<W: Word>(
    body: &[u8],
    given: Option<&[u8]>,
    out: &mut [u8],
    cx: DecodeContext<'_>,
    meter: &mut impl Meter,
) -> Result<()> {
    let Some(set) = &cx.tables.fresh else {
        return Err(no_tables(Mode::Fresh));
    };
    let cut = cx.cuts.full;
    let count = mantissa_bits(cx.layout);
    for (range, bytes) in blocks::blocks_of(body, out.len() / W::BYTES, cut)? {
        let block = &body[bytes];
        let in_bytes = bits_in_bytes(range.len(), cut.lanes(), cx.layout);
        // The block's pad makes stream and raw bytes even.
        let tail_bytes = in_bytes.div_ceil(8).next_multiple_of(2);
        let mut stream = StreamReader::new(block, tail_bytes, cut.lanes())?;
        let mut numbers = [(0, 0); MAX_LANES];
        for round in rounds(range.len(), cut.lanes(), W::BYTES) {
            let numbers = &mut numbers[..round.count];
            let elem = |lane: usize| range.start + round.elem(lane);
            let table = |lane: usize| {
                cx.entries
                    .fresh
                    .table(table_of::<W>(set, given, elem(lane), cx.layout))
            };
            stream.tokens(
                set.tokens.shape,
                table,
                |_, _| false,
                numbers,
                Kind::Exponents,
                meter,
            );
            for (lane, &(number, _)) in numbers.iter().enumerate() {
                join::<W>(number, set.origin, cx.layout).store(out, elem(lane));
            }
        }
        let seeds = stream.finish()?;
        let tail = &block[block.len() - tail_bytes..];
        let (mut raw, mut hidden) = (BitReader::new(tail), seeds.reader());
        let mut left = in_bytes;
        for i in range {
            #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
            let here = left.min(count as usize) as u32;
            left -= here as usize;
            let bits = raw.get(here) | hidden.get(count - here) << here;
            meter.bits(Kind::Mantissas, count);
            with_mantissa(W::load(out, i), bits, cx.layout).store(out, i);
        }
        raw.end(8 * tail.len(), 16, WHAT)?;
        seeds.end(hidden)?;
    }
    Ok(())
}
