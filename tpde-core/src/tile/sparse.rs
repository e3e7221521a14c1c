//! SPARSE: which elements change, then by how much.
//!
//! ```text
//! varint escapes | stream: masks of class 0, 1, …; magnitude tokens | escape bytes | raw: sign and low bits an element
//! ```
//!
//! Bit `k` of the mask of class `c` belongs to the `k`-th element of the tile whose base is of class `c`, so no element
//! moves. Each class's mask is padded with zero bits to whole bytes and with zero bytes to a multiple of the lanes.
//! Magnitudes, signs and low bits follow in element order.

use super::{DecodeContext, EncodeContext, Mode, no_tables};
use crate::constants::MAX_CLASSES;
use crate::error::{Result, corrupt};
use crate::ordinal::{Residual, Word, apply, residual};
use crate::rans::mask_table::{ESCAPE, is_sparse, symbol_of};
use crate::rans::stream::{StreamReader, StreamWriter, lanes_for};
use crate::wire::{Reader, Writer};

const WHAT: &str = "SPARSE tile";

/// Encodes a tile; `None` without tables, where a class that "never changes" does, or where a symbol is missing.
pub(crate) fn encode<W: Word>(new: &[u8], base: &[u8], cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.sparse.as_ref()?;
    let classes = cx.tables.classes?;
    let elems = new.len() / W::BYTES;
    let lanes = lanes_for(elems);
    let masks_of = set.masks.log_odds.len();
    let mut masks = vec![Vec::<u8>::new(); masks_of];
    let mut seen = [0usize; MAX_CLASSES];
    let mut changed = Vec::new();
    for i in 0..elems {
        let base = W::load(base, i);
        let class = classes.of(base, cx.layout);
        let mask = usize::from(set.masks.map.table_of[class]);
        if seen[mask] % 8 == 0 {
            masks[mask].push(0);
        }
        let new = W::load(new, i);
        if new != base {
            masks[mask][seen[mask] / 8] |= 1 << (seen[mask] % 8);
            changed.push((class, residual(new, base, cx.layout)));
        }
        seen[mask] += 1;
    }
    let mut stream = StreamWriter::default();
    let mut escapes = Vec::new();
    for (mask, bytes) in masks.iter().enumerate() {
        let log_odds = set.masks.log_odds[mask];
        let Some(entries) = &cx.entries.masks[mask] else {
            if bytes.iter().any(|&b| b != 0) {
                return None;
            }
            continue;
        };
        for &byte in bytes {
            let symbol = symbol_of(byte, log_odds);
            if is_sparse(log_odds) && symbol == ESCAPE {
                escapes.push(byte);
            }
            stream.symbol(entries[usize::from(symbol)]);
        }
        stream.pad_symbols(entries[0], lanes);
    }
    for &(class, Residual { magnitude, sign }) in &changed {
        let magnitudes = set.magnitudes.as_ref()?;
        let token = magnitudes.shape.split(magnitude);
        if !magnitudes.has(class, token.symbol as usize) {
            return None;
        }
        stream.symbol(
            cx.entries.magnitudes[usize::from(magnitudes.map.table_of[class])][token.symbol as usize],
        );
        stream.raw(sign, 1);
        stream.raw(token.raw, token.raw_bits);
    }
    let mut w = Writer::new();
    w.varint(escapes.len() as u64);
    stream.finish(lanes, &escapes, &mut w);
    Some(w.into_bytes())
}

/// The masks of a tile, one bit an element, by mask class.
struct Masks {
    bytes: Vec<Vec<u8>>,
}

impl Masks {
    /// Reads the masks' symbols; escapes are still to be filled in.
    fn read(
        elems_of: &[usize],
        lanes: usize,
        stream: &mut StreamReader<'_>,
        cx: DecodeContext<'_>,
    ) -> Result<Self> {
        let mut bytes = Vec::with_capacity(elems_of.len());
        for (&elems, entries) in elems_of.iter().zip(&cx.entries.masks) {
            let Some(entries) = entries else {
                bytes.push(Vec::new());
                continue;
            };
            let symbols = elems.div_ceil(8);
            let mask = (0..symbols).map(|_| stream.symbol(entries)).collect();
            for _ in symbols..symbols.next_multiple_of(lanes) {
                if stream.symbol(entries) != 0 {
                    return Err(corrupt(WHAT, "padding of a mask is not zero"));
                }
            }
            bytes.push(mask);
        }
        Ok(Self { bytes })
    }

    /// Turns symbols of sparse alphabets into mask bytes.
    fn expand(&mut self, elems_of: &[usize], log_odds: &[u8], escapes: &[u8]) -> Result<()> {
        let mut escapes = escapes.iter();
        for ((mask, &log_odds), &elems) in self.bytes.iter_mut().zip(log_odds).zip(elems_of) {
            if is_sparse(log_odds) {
                for byte in mask.iter_mut() {
                    *byte = match *byte {
                        0 => 0,
                        ESCAPE => match escapes.next() {
                            Some(&b) if b.count_ones() > 1 => b,
                            _ => {
                                return Err(corrupt(WHAT, "an escape has no byte, or one that needs none"));
                            }
                        },
                        one => 1 << (one - 1),
                    };
                }
            }
            let used = elems % 8;
            if used > 0 && mask.last().is_some_and(|&b| b >> used != 0) {
                return Err(corrupt(WHAT, "a mask bit lies behind the last element"));
            }
        }
        if escapes.next().is_some() {
            return Err(corrupt(WHAT, "more escape bytes than escapes"));
        }
        Ok(())
    }
}

/// Decodes a tile.
pub(crate) fn decode<W: Word>(body: &[u8], base: &[u8], out: &mut [u8], cx: DecodeContext<'_>) -> Result<()> {
    let (Some(set), Some(classes)) = (&cx.tables.sparse, cx.tables.classes) else {
        return Err(no_tables(Mode::Sparse));
    };
    let elems = out.len() / W::BYTES;
    let lanes = lanes_for(elems);
    let mut elems_of = vec![0usize; set.masks.log_odds.len()];
    for i in 0..elems {
        let class = classes.of(W::load(base, i), cx.layout);
        elems_of[usize::from(set.masks.map.table_of[class])] += 1;
    }
    let mut r = Reader::new(body);
    let escapes = r.size(elems, WHAT)?;
    let mut stream = StreamReader::new(&mut r, lanes)?;
    let escapes = r.take(escapes, WHAT)?;
    let mut masks = Masks::read(&elems_of, lanes, &mut stream, cx)?;
    masks.expand(&elems_of, &set.masks.log_odds, escapes)?;

    out.copy_from_slice(base);
    let mut seen = [0usize; MAX_CLASSES];
    let mut changed = Vec::new();
    for i in 0..elems {
        let class = classes.of(W::load(base, i), cx.layout);
        let mask = usize::from(set.masks.map.table_of[class]);
        let at = seen[mask];
        seen[mask] += 1;
        if masks.bytes[mask]
            .get(at / 8)
            .is_some_and(|byte| byte >> (at % 8) & 1 == 1)
        {
            let Some(magnitudes) = &set.magnitudes else {
                return Err(corrupt(WHAT, "a change without magnitude tables"));
            };
            let table = &cx.entries.magnitudes[usize::from(magnitudes.map.table_of[class])];
            changed.push((i, stream.symbol(table)));
        }
    }
    let raw = stream.into_raw(r.take(r.left(), WHAT)?)?;
    let mut bits = raw.reader();
    if let Some(magnitudes) = &set.magnitudes {
        for (i, symbol) in changed {
            let sign = bits.get(1);
            let low = bits.get(magnitudes.shape.raw_bits(symbol.into()));
            let magnitude = magnitudes.shape.join(symbol.into(), low);
            if magnitude == 0 || magnitude > 1 << (W::BITS - 1) {
                return Err(corrupt(
                    "residual",
                    format!("{magnitude} ulps in {} bits", W::BITS),
                ));
            }
            apply(W::load(base, i), Residual { magnitude, sign }, cx.layout).store(out, i);
        }
    }
    raw.end(bits)
}
