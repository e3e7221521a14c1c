//! Restart units: a tile is cut into blocks that decode alone, so that a GPU warp's chain stays short.
//!
//! ```text
//! varint bytes of every block but the last | pad | blocks, each of even length
//! ```

use crate::error::{Result, corrupt};
use crate::wire::{Reader, Writer};
use std::ops::Range;

const WHAT: &str = "tile body";

/// How the streams of a mode are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// log2 of the elements of a block.
    pub(crate) block_log2: u32,
    /// log2 of the lanes of a stream.
    pub(crate) lanes_log2: u32,
}

impl Cut {
    pub(crate) fn lanes(self) -> usize {
        1 << self.lanes_log2
    }

    /// Element ranges of the blocks of a tile.
    pub(crate) fn ranges(self, elems: usize) -> impl Iterator<Item = Range<usize>> {
        let block_elems = 1 << self.block_log2;
        (0..elems)
            .step_by(block_elems)
            .map(move |at| at..elems.min(at + block_elems))
    }
}

/// Writes one block after another.
///
/// `block` writes the body of an element range, and returns `None` if it cannot.
pub(crate) fn encode(
    elems: usize,
    cut: Cut,
    mut block: impl FnMut(Range<usize>, &mut Writer) -> Option<()>,
) -> Option<Vec<u8>> {
    let mut bodies = Vec::new();
    for range in cut.ranges(elems) {
        let mut w = Writer::new();
        block(range, &mut w)?;
        w.pad_to_even();
        bodies.push(w.into_bytes());
    }
    let mut w = Writer::new();
    for body in bodies.iter().rev().skip(1).rev() {
        w.varint(body.len() as u64);
    }
    w.pad_to_even();
    bodies.iter().for_each(|body| w.raw(body));
    Some(w.into_bytes())
}

/// Where the blocks of a tile lie in its body: element range and byte range of each.
///
/// # Errors
/// `Corrupt` or `Truncated` if the lengths do not fit the body.
pub(crate) fn blocks_of(body: &[u8], elems: usize, cut: Cut) -> Result<Vec<(Range<usize>, Range<usize>)>> {
    let mut r = Reader::new(body);
    let mut sizes = Vec::with_capacity(elems.div_ceil(1 << cut.block_log2));
    for _ in cut.ranges(elems).skip(1) {
        let size = r.size(body.len(), WHAT)?;
        if size % 2 == 1 {
            return Err(corrupt(WHAT, format!("a block of {size} bytes")));
        }
        sizes.push(size);
    }
    pad_to_even(&mut r)?;
    let mut blocks = Vec::with_capacity(sizes.len() + 1);
    for (number, range) in cut.ranges(elems).enumerate() {
        let at = r.pos();
        let size = sizes.get(number).copied().unwrap_or(r.left());
        r.take(size, WHAT)?;
        blocks.push((range, at..at + size));
    }
    r.end(WHAT)?;
    Ok(blocks)
}

/// Reads the zero byte that brings `r` to an even position.
///
/// # Errors
/// `Corrupt` if it is not zero, `Truncated` if it is missing.
pub(crate) fn pad_to_even(r: &mut Reader<'_>) -> Result<()> {
    if r.pos() % 2 == 1 && r.u8(WHAT)? != 0 {
        return Err(corrupt(WHAT, "padding is not zero"));
    }
    Ok(())
}

/// A round of DENSE and FRESH: its elements are `first`, `first + step`, …, `count` of them, in lanes 0, 1, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
}

impl Round {
    /// The element in `lane`.
    #[inline(always)]
    pub(crate) fn elem(self, lane: usize) -> usize {
        self.first + lane * self.step
    }
}

/// The rounds of a block of `elems` elements: a lane holds four bytes of elements in a row, so that a warp's loads are whole
/// words and the halves of an AVX-512 lane are two rounds.
pub(crate) fn rounds(elems: usize, lanes: usize, word_bytes: usize) -> impl Iterator<Item = Round> {
    let step = (4 / word_bytes).max(1);
    (0..elems).step_by(step * lanes).flat_map(move |at| {
        (at..elems.min(at + step)).map(move |first| Round {
            first,
            step,
            count: (elems - first).div_ceil(step).min(lanes),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: every element is in exactly one round, no lane twice in one, whatever the length.
    #[test]
    fn rounds_cover_every_element_once() {
        for word_bytes in [1, 2, 4, 8] {
            for lanes in [1, 2, 8, 32] {
                for elems in (0..300).chain([4095, 4096]) {
                    let mut seen = vec![0u8; elems];
                    for round in rounds(elems, lanes, word_bytes) {
                        assert!((1..=lanes).contains(&round.count));
                        (0..round.count).for_each(|lane| seen[round.elem(lane)] += 1);
                    }
                    assert!(seen.iter().all(|&n| n == 1), "{word_bytes} {lanes} {elems}");
                }
            }
        }
    }
}
