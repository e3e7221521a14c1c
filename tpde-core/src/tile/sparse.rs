//! SPARSE: which elements change, then by how much.
//!
//! ```text
//! segment of 4096: list ← all groups of 8
//!                  while the list is not empty: where does each first change from here on (or not at all)?
//!                                               list ← those that do; their magnitudes; start behind the change
//! ```
//!
//! The list shrinks quickly, so nearly all symbols are the first one of a group, 32 groups in a round. Signs of the first
//! changes are the stream's seeds; those of later ones ride in the lanes.

use super::blocks;
use super::{Against, DecodeContext, EncodeContext, Mode, lookup, no_tables};
use crate::arch::{self, Floats16, Sparse16};
use crate::bits::BitWriter;
use crate::classes::Classes;
use crate::constants::{GROUP_ELEMS, MAX_CLASSES, MAX_LANES, SEED_BITS, SEGMENT_ELEMS};
use crate::error::{Result, corrupt};
use crate::frame::tables::SparseTables;
use crate::meter::{Kind, Meter};
use crate::ordinal::{Residual, Word};
use crate::rans::change::FirstChange;
use crate::rans::stream::{StreamReader, StreamWriter};
use std::ops::Range;

const WHAT: &str = "SPARSE tile";

/// A group that is still being coded: its elements, and the first one that nothing is known of.
#[derive(Debug, Clone)]
struct Group {
    elems: Range<usize>,
    from: usize,
}

/// The segments of a block, each as the list of its groups.
fn segments(block: Range<usize>) -> impl Iterator<Item = Vec<Group>> {
    let end = block.end;
    block.step_by(SEGMENT_ELEMS).map(move |at| {
        let segment_end = end.min(at + SEGMENT_ELEMS);
        (at..segment_end)
            .step_by(GROUP_ELEMS)
            .map(|from| Group {
                elems: from..segment_end.min(from + GROUP_ELEMS),
                from,
            })
            .collect()
    })
}

/// Change probabilities by class of the base.
struct Odds<'a> {
    by_class: [u16; MAX_CLASSES],
    classes: Classes,
    against: Against<'a>,
    cx_layout: crate::dtype::Layout,
}

impl<'a> Odds<'a> {
    fn new(set: &SparseTables, classes: Classes, against: Against<'a>, layout: crate::dtype::Layout) -> Self {
        Self {
            by_class: set.changes.probability_by_class(),
            classes,
            against,
            cx_layout: layout,
        }
    }

    fn class<W: Word>(&self, elem: usize) -> usize {
        self.classes.of(W::load(self.against.base, elem), self.cx_layout)
    }

    /// Those of a group's elements.
    fn of<W: Word>(&self, group: &Group) -> ([u16; GROUP_ELEMS], usize) {
        let mut odds = [0; GROUP_ELEMS];
        for (p, elem) in odds.iter_mut().zip(group.elems.clone()) {
            *p = self.by_class[self.class::<W>(elem)];
        }
        (odds, group.elems.len())
    }
}

/// Moves every group behind its change and drops those that end there.
fn behind_changes(list: &mut Vec<Group>) {
    list.retain_mut(|group| {
        group.from += 1;
        group.from < group.elems.end
    });
}

/// Encodes a tile; `None` without tables, where a symbol is missing from them, or outside a cell.
pub(crate) fn encode<W: Word>(new: &[u8], against: Against<'_>, cx: EncodeContext<'_>) -> Option<Vec<u8>> {
    let set = cx.tables.sparse.as_ref()?;
    let odds = Odds::new(set, cx.tables.classes?, against, cx.layout);
    let cut = cx.cuts.sparse;
    let residuals: Vec<Residual> = (0..new.len() / W::BYTES)
        .map(|i| against.residual(i, W::load(new, i)))
        .collect::<Option<_>>()?;
    blocks::encode(residuals.len(), cut, |range, w| {
        let mut stream = StreamWriter::new(cut.lanes());
        let mut seeds = BitWriter::default();
        for mut list in segments(range) {
            while !list.is_empty() {
                encode_firsts::<W>(&mut list, &residuals, &odds, &mut stream);
                encode_magnitudes::<W>(&list, &residuals, &odds, cx, &mut stream, &mut seeds)?;
                behind_changes(&mut list);
            }
        }
        stream.finish(seeds, w);
        Some(())
    })
}

/// Codes where each group first changes, and keeps those that do, standing at their change.
fn encode_firsts<W: Word>(
    list: &mut Vec<Group>,
    residuals: &[Residual],
    odds: &Odds<'_>,
    stream: &mut StreamWriter,
) {
    let lanes = stream.lanes();
    let mut number = 0;
    list.retain_mut(|group| {
        let first = group.elems.start;
        let change = (group.from..group.elems.end).find(|&i| residuals[i].magnitude != 0);
        let (p, len) = odds.of::<W>(group);
        let symbol = FirstChange::of(change.map(|i| i - first), &p[..len], group.from - first);
        stream.first(number % lanes, symbol);
        number += 1;
        group.from = change.unwrap_or(group.from);
        change.is_some()
    });
}

fn encode_magnitudes<W: Word>(
    list: &[Group],
    residuals: &[Residual],
    odds: &Odds<'_>,
    cx: EncodeContext<'_>,
    stream: &mut StreamWriter,
    seeds: &mut BitWriter,
) -> Option<()> {
    let seed_bits = stream.lanes() * SEED_BITS as usize;
    for round in list.chunks(stream.lanes()) {
        for (lane, group) in round.iter().enumerate() {
            let set = cx.tables.sparse.as_ref()?.magnitudes.as_ref()?;
            let class = odds.class::<W>(group.from);
            let Residual { magnitude, sign } = residuals[group.from];
            let token = set.shape.split(magnitude);
            if !set.has(class, token.symbol as usize) {
                return None;
            }
            let seeded = seeds.len_bits() < seed_bits;
            if seeded {
                seeds.put(sign, 1);
            }
            let entry =
                cx.entries.magnitudes.table(usize::from(set.map.table_of[class]))[token.symbol as usize];
            stream.token(lane, entry, token, (!seeded).then_some(sign));
        }
        stream.end_round();
    }
    Some(())
}

/// Decodes a tile.
pub(crate) fn decode<W: Word, M: Meter>(
    body: &[u8],
    against: Against<'_>,
    out: &mut [u8],
    cx: DecodeContext<'_>,
    meter: &mut M,
) -> Result<()> {
    let (Some(set), Some(classes)) = (&cx.tables.sparse, cx.tables.classes) else {
        return Err(no_tables(Mode::Sparse));
    };
    let odds = Odds::new(set, classes, against, cx.layout);
    let cut = cx.cuts.sparse;
    let tables16 = Floats16::of(cx.layout, classes).map(|floats| Sparse16 {
        floats,
        odds: odds.by_class,
        magnitudes: set
            .magnitudes
            .as_ref()
            .and_then(|set| lookup(set, &cx.entries.magnitudes)),
    });
    for (range, bytes) in blocks::blocks_of(body, out.len() / W::BYTES, cut)? {
        let mut stream = StreamReader::new(&body[bytes], 0, cut.lanes())?;
        // Elements and magnitudes of the changes whose signs are seeds.
        let mut seeded: Vec<(usize, u64)> = Vec::with_capacity(cut.lanes() * SEED_BITS as usize);
        let (start, end) = (range.start, range.end * W::BYTES);
        let mut at = start;
        if let Some(tables) = tables16.as_ref().filter(|_| !M::LISTENS) {
            let (base, out) = (
                &against.base[start * W::BYTES..end],
                &mut out[start * W::BYTES..end],
            );
            at += arch::sparse16(stream.rans(), cut.lanes(), tables, base, out, &mut seeded);
            seeded.iter_mut().for_each(|(elem, _)| *elem += start);
        }
        out[at * W::BYTES..end].copy_from_slice(&against.base[at * W::BYTES..end]);
        for mut list in segments(at..range.end) {
            while !list.is_empty() {
                decode_firsts::<W>(&mut list, &odds, &mut stream, meter);
                for round in list.chunks(cut.lanes()) {
                    decode_magnitudes::<W>(round, &odds, set, cx, &mut stream, &mut seeded, out, meter)?;
                }
                behind_changes(&mut list);
            }
        }
        let seeds = stream.finish()?;
        let mut signs = seeds.reader();
        for some in seeded.chunks(32) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
            let mut bits = signs.get(some.len() as u32);
            for &(i, magnitude) in some {
                let sign = bits & 1;
                bits >>= 1;
                meter.bits(Kind::Signs, 1);
                against.apply::<W>(i, Residual { magnitude, sign })?.store(out, i);
            }
        }
        seeds.end(signs)?;
    }
    Ok(())
}

fn decode_firsts<W: Word>(
    list: &mut Vec<Group>,
    odds: &Odds<'_>,
    stream: &mut StreamReader<'_>,
    meter: &mut impl Meter,
) {
    let lanes = stream.lanes();
    let mut number = 0;
    list.retain_mut(|group| {
        let first = group.elems.start;
        let (p, len) = odds.of::<W>(group);
        let change = stream.first(number % lanes, &p[..len], group.from - first, meter);
        number += 1;
        group.from = change.map_or(group.from, |at| first + at);
        change.is_some()
    });
}

/// Reads the magnitudes of one round of changes and applies those whose sign is known.
#[expect(clippy::too_many_arguments, reason = "the state of one decoder, used once")]
fn decode_magnitudes<W: Word>(
    round: &[Group],
    odds: &Odds<'_>,
    set: &SparseTables,
    cx: DecodeContext<'_>,
    stream: &mut StreamReader<'_>,
    seeded: &mut Vec<(usize, u64)>,
    out: &mut [u8],
    meter: &mut impl Meter,
) -> Result<()> {
    let Some(set) = &set.magnitudes else {
        return Err(corrupt(WHAT, "a change without magnitude tables"));
    };
    let mut numbers = [(0, 0); MAX_LANES];
    let numbers = &mut numbers[..round.len()];
    // Changes of this round that still have their sign in a seed.
    let from_seeds = (stream.lanes() * SEED_BITS as usize - seeded.len()).min(round.len());
    let table_of = |lane: usize| {
        let class = odds.class::<W>(round[lane].from);
        cx.entries.magnitudes.table(usize::from(set.map.table_of[class]))
    };
    stream.tokens(
        set.shape,
        table_of,
        |lane, _| lane >= from_seeds,
        numbers,
        Kind::Magnitudes,
        meter,
    );
    for (lane, &(magnitude, sign)) in numbers.iter().enumerate() {
        let i = round[lane].from;
        if magnitude == 0 {
            return Err(corrupt(WHAT, "a change by nothing"));
        }
        if lane < from_seeds {
            seeded.push((i, magnitude));
        } else {
            odds.against
                .apply::<W>(i, Residual { magnitude, sign })?
                .store(out, i);
        }
    }
    Ok(())
}
