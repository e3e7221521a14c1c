//! DENSE: the distance of every element from its base.
//!
//! The magnitude of the residual (in ulps) is a token, coded with the table of the base's class; the sign of a residual
//! that is not zero and the token's low bits follow raw, in element order.

use super::{DecodeContext, EncodeContext, Mode, blocks, no_tables};
use crate::error::{Result, corrupt};
use crate::ordinal::{Residual, Word, apply, residual};

/// Encodes a tile; `None` without tables or where a symbol is missing from them.
pub(crate) fn encode<W: Word>(new: &[u8], base: &[u8], cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.dense.as_ref()?;
    let classes = cx.tables.classes?;
    blocks::encode(new.len() / W::BYTES, cx.block_elems, |range, stream| {
        for i in range {
            let base = W::load(base, i);
            let class = classes.of(base, cx.layout);
            let Residual { magnitude, sign } = residual(W::load(new, i), base, cx.layout);
            let token = set.shape.split(magnitude);
            if !set.has(class, token.symbol as usize) {
                return None;
            }
            stream.symbol(cx.entries.dense[usize::from(set.map.table_of[class])][token.symbol as usize]);
            if magnitude != 0 {
                stream.raw(sign, 1);
                stream.raw(token.raw, token.raw_bits);
            }
        }
        Some(())
    })
}

/// Decodes a tile.
pub(crate) fn decode<W: Word>(body: &[u8], base: &[u8], out: &mut [u8], cx: DecodeContext<'_>) -> Result<()> {
    let (Some(set), Some(classes)) = (&cx.tables.dense, cx.tables.classes) else {
        return Err(no_tables(Mode::Dense));
    };
    blocks::decode(
        body,
        base.len() / W::BYTES,
        cx.block_elems,
        |i| {
            let class = classes.of(W::load(base, i), cx.layout);
            &cx.entries.dense[usize::from(set.map.table_of[class])]
        },
        |i, symbol, bits| {
            let mut word = W::load(base, i);
            if symbol != 0 {
                let sign = bits.get(1);
                let low = bits.get(set.shape.raw_bits(symbol.into()));
                let magnitude = set.shape.join(symbol.into(), low);
                if magnitude > 1 << (W::BITS - 1) {
                    return Err(corrupt(
                        "residual",
                        format!("{magnitude} ulps in {} bits", W::BITS),
                    ));
                }
                word = apply(word, Residual { magnitude, sign }, cx.layout);
            }
            word.store(out, i);
            Ok(())
        },
    )
}
