//! DENSE: the distance of every element from its base.
//!
//! The magnitude of the residual (in ulps) is a token, coded with the table of the base's class; a residual that is not zero
//! carries its sign, and the token's low bits follow in the same lane.

use super::blocks::{self, rounds};
use super::{Against, DecodeContext, EncodeContext, Mode, lookup, no_tables};
use crate::arch::{self, Floats16};
use crate::bits::BitWriter;
use crate::constants::MAX_LANES;
use crate::error::Result;
use crate::meter::{Kind, Meter};
use crate::ordinal::{Residual, Word};
use crate::rans::stream::{StreamReader, StreamWriter};

/// Encodes a tile; `None` without tables, where a symbol is missing from them, or outside a cell.
pub(crate) fn encode<W: Word>(new: &[u8], against: Against<'_>, cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.dense.as_ref()?;
    let classes = cx.tables.classes?;
    let cut = cx.cuts.full;
    blocks::encode(new.len() / W::BYTES, cut, |range, w| {
        let mut stream = StreamWriter::new(cut.lanes());
        for round in rounds(range.len(), cut.lanes(), W::BYTES) {
            for lane in 0..round.count {
                let i = range.start + round.elem(lane);
                let class = classes.of(W::load(against.base, i), cx.layout);
                let Residual { magnitude, sign } = against.residual(i, W::load(new, i))?;
                let token = set.shape.split(magnitude);
                let table = usize::from(set.map.table_of[class]);
                if !set.has(class, token.symbol as usize) {
                    return None;
                }
                let entry = cx.entries.dense.table(table)[token.symbol as usize];
                stream.token(lane, entry, token, (magnitude != 0).then_some(sign));
            }
            stream.end_round();
        }
        stream.finish(BitWriter::default(), w);
        Some(())
    })
}

/// Decodes a tile.
pub(crate) fn decode<W: Word, M: Meter>(
    body: &[u8],
    against: Against<'_>,
    out: &mut [u8],
    cx: DecodeContext<'_>,
    meter: &mut M,
) -> Result<()> {
    let (Some(set), Some(classes)) = (&cx.tables.dense, cx.tables.classes) else {
        return Err(no_tables(Mode::Dense));
    };
    let cut = cx.cuts.full;
    let tables16 = Floats16::of(cx.layout, classes).zip(lookup(set, &cx.entries.dense));
    for (mut range, bytes) in blocks::blocks_of(body, out.len() / W::BYTES, cut)? {
        let mut stream = StreamReader::new(&body[bytes], 0, cut.lanes())?;
        if let Some((floats, tables)) = tables16.filter(|_| !M::LISTENS) {
            let words = range.start * W::BYTES..range.end * W::BYTES;
            let (base, out) = (&against.base[words.clone()], &mut out[words]);
            range.start += arch::dense16(stream.rans(), cut.lanes(), floats, tables, base, out);
        }
        let mut numbers = [(0, 0); MAX_LANES];
        for round in rounds(range.len(), cut.lanes(), W::BYTES) {
            let numbers = &mut numbers[..round.count];
            let table_of = |lane: usize| {
                let class = classes.of(W::load(against.base, range.start + round.elem(lane)), cx.layout);
                cx.entries.dense.table(usize::from(set.map.table_of[class]))
            };
            stream.tokens(
                set.shape,
                table_of,
                |_, symbol| symbol != 0,
                numbers,
                Kind::Magnitudes,
                meter,
            );
            for (lane, &mut (magnitude, sign)) in numbers.iter_mut().enumerate() {
                let i = range.start + round.elem(lane);
                against.apply::<W>(i, Residual { magnitude, sign })?.store(out, i);
            }
        }
        let seeds = stream.finish()?;
        seeds.end(seeds.reader())?;
    }
    Ok(())
}
