//! FRESH: every element on its own, without a base.
//!
//! Floats: the exponent, counted downwards from the frame's origin, is a token; sign and mantissa follow raw and aligned.
//! Integers: the value is the token (signed ones zigzagged), its low bits follow raw.

use super::{DecodeContext, EncodeContext, Mode, blocks, no_tables};
use crate::dtype::Layout;
use crate::error::Result;
use crate::ordinal::Word;
use crate::token::TokenShape;

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

/// Inverse of [`split`].
#[inline(always)]
fn join<W: Word>(number: u64, raw: u64, origin: u32, layout: Layout) -> W {
    match layout {
        Layout::Float {
            exponent_bits,
            mantissa_bits,
        } => {
            let exponent = u64::from(origin).wrapping_sub(number) & ((1 << exponent_bits) - 1);
            let mantissa = raw & ((1 << mantissa_bits) - 1);
            let sign = raw >> mantissa_bits;
            W::narrow(mantissa | exponent << mantissa_bits | sign << (exponent_bits + mantissa_bits))
        }
        Layout::Signed => {
            let mask = (number & 1).wrapping_neg();
            W::narrow((number >> 1) ^ mask)
        }
        Layout::Unsigned => W::narrow(number),
    }
}

/// Encodes a tile; `None` without tables or where a symbol is missing from them.
pub(crate) fn encode<W: Word>(new: &[u8], cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.fresh.as_ref()?;
    let entries = cx.entries.fresh.first()?;
    blocks::encode(new.len() / W::BYTES, cx.block_elems, |range, stream| {
        for i in range {
            let (number, raw, raw_bits) = split(W::load(new, i), set.origin, cx.layout);
            let token = set.tokens.shape.split(number);
            if !set.tokens.has(0, token.symbol as usize) {
                return None;
            }
            stream.symbol(entries[token.symbol as usize]);
            stream.raw(token.raw, token.raw_bits);
            stream.raw(raw, raw_bits);
        }
        Some(())
    })
}

/// Decodes a tile.
pub(crate) fn decode<W: Word>(body: &[u8], out: &mut [u8], cx: DecodeContext<'_>) -> Result<()> {
    let (Some(set), Some(entries)) = (&cx.tables.fresh, cx.entries.fresh.first()) else {
        return Err(no_tables(Mode::Fresh));
    };
    let raw_bits = match cx.layout {
        Layout::Float { mantissa_bits, .. } => mantissa_bits + 1,
        Layout::Signed | Layout::Unsigned => 0,
    };
    blocks::decode(
        body,
        out.len() / W::BYTES,
        cx.block_elems,
        |_| entries,
        |i, symbol, bits| {
            let low = bits.get(set.tokens.shape.raw_bits(symbol.into()));
            let number = set.tokens.shape.join(symbol.into(), low);
            join::<W>(number, bits.get(raw_bits), set.origin, cx.layout).store(out, i);
            Ok(())
        },
    )
}
