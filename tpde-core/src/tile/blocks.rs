//! Restart units: DENSE and FRESH cut a tile into blocks that decode alone, so that a GPU warp's chain stays short.
//!
//! ```text
//! varint bytes of every block but the last | blocks
//! block = stream (rANS) with its raw bits behind it
//! ```

use crate::bits::BitReader;
use crate::error::Result;
use crate::rans::stream::{StreamReader, StreamWriter, lanes_for};
use crate::rans::table::DecodeEntry;
use crate::wire::{Reader, Writer};
use std::ops::Range;

/// Element ranges of the blocks of a tile.
pub(crate) fn ranges(elems: usize, block_elems: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elems)
        .step_by(block_elems)
        .map(move |at| at..elems.min(at + block_elems))
}

/// Writes one stream a block.
///
/// `fill` puts the symbols and raw bits of an element range into a stream and returns `None` if it cannot.
pub(crate) fn encode(
    elems: usize,
    block_elems: usize,
    mut fill: impl FnMut(Range<usize>, &mut StreamWriter) -> Option<()>,
) -> Option<Vec<u8>> {
    let mut bodies = Vec::new();
    for range in ranges(elems, block_elems) {
        let mut stream = StreamWriter::default();
        let lanes = lanes_for(range.len());
        fill(range, &mut stream)?;
        let mut w = Writer::new();
        stream.finish(lanes, &[], &mut w);
        bodies.push(w.into_bytes());
    }
    let mut w = Writer::new();
    for body in bodies.iter().rev().skip(1).rev() {
        w.varint(body.len() as u64);
    }
    bodies.iter().for_each(|body| w.raw(body));
    Some(w.into_bytes())
}

/// Reads one stream a block.
///
/// `table_of` gives the table of an element's symbol; when all symbols of a block are read, `element` receives every
/// element with its symbol and the raw bits, in order, and takes what it needs.
pub(crate) fn decode<'t>(
    body: &[u8],
    elems: usize,
    block_elems: usize,
    table_of: impl Fn(usize) -> &'t [DecodeEntry],
    mut element: impl FnMut(usize, u8, &mut BitReader<'_>) -> Result<()>,
) -> Result<()> {
    const WHAT: &str = "tile body";
    let mut rest = Reader::new(body);
    let mut sizes = Vec::with_capacity(elems.div_ceil(block_elems));
    for _ in 1..elems.div_ceil(block_elems) {
        sizes.push(rest.size(body.len(), WHAT)?);
    }
    let mut symbols = vec![0u8; block_elems.min(elems)];
    for (block, range) in ranges(elems, block_elems).enumerate() {
        let size = sizes.get(block).copied().unwrap_or(rest.left());
        let mut r = Reader::new(rest.take(size, WHAT)?);
        let mut stream = StreamReader::new(&mut r, lanes_for(range.len()))?;
        for (symbol, i) in symbols.iter_mut().zip(range.clone()) {
            *symbol = stream.symbol(table_of(i));
        }
        let raw = stream.into_raw(r.take(r.left(), WHAT)?)?;
        let mut bits = raw.reader();
        for (&symbol, i) in symbols.iter().zip(range) {
            element(i, symbol, &mut bits)?;
        }
        raw.end(bits)?;
    }
    rest.end(WHAT)
}
