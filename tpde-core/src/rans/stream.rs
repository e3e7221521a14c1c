//! One rANS stream on the wire: rounds of symbols, each lane with what hangs on its symbol.
//!
//! ```text
//! half a byte a lane: length of its state − 16 | the states' bits below their leading ones | pad | words
//! ```
//!
//! A state's length varies over 16 bits, so saying it saves half a byte a lane; 15 bits of *seeds* a lane ride in the states
//! that the encoder starts from. So a lane costs about 3.5 bits where its seeds are used, 18.5 where not (ADR 0007).

use crate::arch::scalar::{Lanes, Step, encode};
use crate::bits::{BitReader, BitWriter};
use crate::constants::{MAX_LANES, SEED_BITS, STATE_LOW};
use crate::error::{CodecError, Result, corrupt};
use crate::meter::{Kind, Meter};
use crate::rans::change::{FIRST_BITS, FirstChange};
use crate::rans::table::{DecodeEntry, EncodeEntry};
use crate::token::{Token, TokenShape};
use crate::wire::{Reader, Writer};

const WHAT: &str = "rANS stream";
/// Most raw bits that a lane takes at once.
const MOST_RAW: u32 = SEED_BITS;

/// Symbols on their way into a stream, in decoding order.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    lanes: usize,
    steps: Vec<Step>,
    /// Lane, low bits and their number, of the round that is being written.
    low: Vec<(u8, u64, u32)>,
}

impl StreamWriter {
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            lanes,
            steps: Vec::new(),
            low: Vec::new(),
        }
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "frequencies of 15 bits, 32 lanes, one sign"
    )]
    fn step(&mut self, lane: usize, prob_bits: u32, freq: u32, start: u32, sign: Option<u64>) {
        self.steps.push(Step {
            start: start as u16,
            freq: freq as u16,
            prob_bits: prob_bits as u8,
            sign: sign.map_or(0, |s| 2 + s as u8),
            lane: lane as u8,
        });
    }

    /// A token in its lane; its low bits follow at the end of the round.
    pub(crate) fn token(&mut self, lane: usize, entry: EncodeEntry, token: Token, sign: Option<u64>) {
        self.step(
            lane,
            entry >> 24,
            (entry & 0xfff) + 1,
            (entry >> 12) & 0xfff,
            sign,
        );
        if token.raw_bits > 0 {
            #[expect(clippy::cast_possible_truncation, reason = "32 lanes")]
            self.low.push((lane as u8, token.raw, token.raw_bits));
        }
    }

    /// Where a group first changes.
    pub(crate) fn first(&mut self, lane: usize, first: FirstChange) {
        self.step(lane, FIRST_BITS, first.freq, first.start, None);
    }

    /// Ends a round: the low bits that its tokens left open.
    pub(crate) fn end_round(&mut self) {
        let mut low = std::mem::take(&mut self.low);
        while !low.is_empty() {
            for (lane, value, bits) in &mut low {
                let taken = (*bits).min(MOST_RAW);
                #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits")]
                let part = (*value & ((1 << taken) - 1)) as u32;
                self.step(usize::from(*lane), taken, 1, part, None);
                *value >>= taken;
                *bits -= taken;
            }
            low.retain(|&(_, _, bits)| bits > 0);
        }
        self.low = low;
    }

    /// Writes the stream; `w` must stand where the frame's bytes do, modulo 2.
    ///
    /// * `seeds`: at most `15 · lanes` bits; the rest are zeros.
    pub(crate) fn finish(self, seeds: BitWriter, w: &mut Writer) {
        debug_assert!(seeds.len_bits() <= self.lanes * SEED_BITS as usize && self.low.is_empty());
        let seeds = seeds.into_bytes();
        let mut seeds = BitReader::new(&seeds);
        #[expect(clippy::cast_possible_truncation, reason = "15 bits")]
        let mut states: Vec<u32> = (0..self.lanes)
            .map(|_| STATE_LOW | seeds.get(SEED_BITS) as u32)
            .collect();
        let words = encode(&self.steps, &mut states);
        let mut lengths = BitWriter::default();
        let mut below = BitWriter::default();
        for state in states {
            let log2 = state.ilog2();
            lengths.put(u64::from(log2 - SEED_BITS), 4);
            below.put(u64::from(state ^ 1 << log2), log2);
        }
        w.raw(&lengths.into_bytes());
        w.raw(&below.into_bytes());
        w.pad_to_even();
        for word in words {
            w.u16(word);
        }
    }
}

/// Bytes of the lanes' states at the front of `bytes`.
///
/// # Errors
/// `Truncated` if they are not all there.
fn states_of<'a>(r: &mut Reader<'a>, lanes: usize) -> Result<([u32; MAX_LANES], BitReader<'a>)> {
    let mut lengths = BitReader::new(r.take(lanes.div_ceil(2), WHAT)?);
    let mut log2 = [0u32; MAX_LANES];
    for log2 in &mut log2[..lanes] {
        #[expect(clippy::cast_possible_truncation, reason = "four bits")]
        let over = lengths.get(4) as u32;
        *log2 = SEED_BITS + over;
    }
    if lanes == 1 && lengths.get(4) != 0 {
        return Err(corrupt(WHAT, "padding bits are not zero"));
    }
    let bits: u32 = log2[..lanes].iter().sum();
    let below = r.take((bits as usize).div_ceil(8), WHAT)?;
    let mut reader = BitReader::new(below);
    let mut states = [0u32; MAX_LANES];
    for (state, &log2) in states.iter_mut().zip(&log2[..lanes]) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 30 bits")]
        let low = reader.get(log2) as u32;
        *state = low | 1 << log2;
    }
    reader.clone().end(8 * below.len(), 8, WHAT)?;
    Ok((states, reader))
}

/// A stream being read.
#[derive(Debug)]
pub(crate) struct StreamReader<'a> {
    lanes: usize,
    rans: Lanes<'a>,
}

impl<'a> StreamReader<'a> {
    /// Reads the states of a stream that fills `bytes` up to `tail` bytes that are not its own.
    ///
    /// `bytes` starts at an even offset of the frame.
    ///
    /// # Errors
    /// `Truncated` or `Corrupt` if the states or a whole number of words do not fit.
    pub(crate) fn new(bytes: &'a [u8], tail_bytes: usize, lanes: usize) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let (states, _) = states_of(&mut r, lanes)?;
        if r.pos() % 2 == 1 && r.u8(WHAT)? != 0 {
            return Err(corrupt(WHAT, "padding is not zero"));
        }
        let left = r.left();
        let words = left
            .checked_sub(tail_bytes)
            .filter(|n| n % 2 == 0)
            .ok_or(CodecError::Truncated {
                what: WHAT,
                offset: r.pos(),
                needed: tail_bytes,
                left,
            })?;
        Ok(Self {
            lanes,
            rans: Lanes::new(states, r.take(words, WHAT)?),
        })
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// The lanes themselves, for a decoder of many rounds.
    pub(crate) fn rans(&mut self) -> &mut Lanes<'a> {
        &mut self.rans
    }

    /// A round of tokens in lanes 0, 1, …: one for each of `out`.
    ///
    /// * `table_of`, `signed`: by lane. The number and its sign (0 where none is carried) are written to `out`.
    #[inline(always)]
    pub(crate) fn tokens<'t>(
        &mut self,
        shape: TokenShape,
        table_of: impl Fn(usize) -> &'t [DecodeEntry],
        signed: impl Fn(usize, u8) -> bool,
        out: &mut [(u64, u64)],
        kind: Kind,
        meter: &mut impl Meter,
    ) {
        let mut symbols = [0u8; MAX_LANES];
        let mut open = false;
        for (lane, out) in out.iter_mut().enumerate() {
            let table = table_of(lane);
            let prob_bits = table.len().trailing_zeros();
            let entry = table[self.rans.slot(lane, prob_bits) as usize];
            let freq = ((entry >> 8) & 0xfff) + 1;
            self.rans.leave(lane, prob_bits, freq, entry >> 20);
            #[expect(clippy::cast_possible_truncation, reason = "the low byte is the symbol")]
            let symbol = entry as u8;
            symbols[lane] = symbol;
            out.1 = 0;
            meter.symbol(kind, prob_bits, freq);
            if signed(lane, symbol) {
                out.1 = self.rans.sign(lane);
                meter.bits(Kind::Signs, 1);
            }
            open |= shape.raw_bits(symbol.into()) > 0;
            self.rans.renormalise(lane);
        }
        let mut low = [0u64; MAX_LANES];
        let mut done = 0;
        while open {
            open = false;
            for lane in 0..out.len() {
                let lacking = shape.raw_bits(symbols[lane].into()).saturating_sub(done);
                if lacking > 0 {
                    low[lane] |= self.rans.raw(lane, lacking.min(MOST_RAW)) << done;
                    open |= lacking > MOST_RAW;
                }
            }
            done += MOST_RAW;
        }
        for (lane, out) in out.iter_mut().enumerate() {
            let symbol = symbols[lane].into();
            meter.bits(Kind::LowBits, shape.raw_bits(symbol));
            out.0 = shape.join(symbol, low[lane]);
        }
    }

    /// Where the group of `lane` first changes: an index into `probabilities` (those of the group's elements, in 1/65536) at
    /// or after `start`, or none.
    #[inline(always)]
    pub(crate) fn first(
        &mut self,
        lane: usize,
        probabilities: &[u16],
        start: usize,
        meter: &mut impl Meter,
    ) -> Option<usize> {
        let slot = self.rans.slot(lane, FIRST_BITS);
        let found = FirstChange::of_slot(slot, probabilities, start);
        meter.symbol(Kind::Positions, FIRST_BITS, found.freq);
        self.rans.leave(lane, FIRST_BITS, found.freq, slot - found.start);
        self.rans.renormalise(lane);
        found.at
    }

    /// All symbols are read: the seeds.
    ///
    /// # Errors
    /// `Corrupt` if the words were not used up exactly or a lane did not come back to its initial range.
    pub(crate) fn finish(self) -> Result<Seeds> {
        let lanes = self.lanes;
        let states = self
            .rans
            .finish()
            .ok_or_else(|| corrupt(WHAT, "words do not match the symbols"))?;
        let mut seeds = BitWriter::default();
        for state in &states[..lanes] {
            if state >> SEED_BITS != 1 {
                return Err(corrupt(WHAT, "a lane did not return to its initial state"));
            }
            seeds.put((state & (STATE_LOW - 1)).into(), SEED_BITS);
        }
        Ok(Seeds {
            len_bits: seeds.len_bits(),
            bytes: seeds.into_bytes(),
        })
    }
}

/// The bits that the encoder hid in the states it started from.
#[derive(Debug)]
pub(crate) struct Seeds {
    bytes: Vec<u8>,
    len_bits: usize,
}

impl Seeds {
    pub(crate) fn reader(&self) -> BitReader<'_> {
        BitReader::new(&self.bytes)
    }

    /// Checks that what `reader`, which came from here, left is zero.
    ///
    /// # Errors
    /// `Corrupt` if a bit is set that nothing used.
    pub(crate) fn end(&self, reader: BitReader<'_>) -> Result<()> {
        reader.end(self.len_bits, self.len_bits + 1, WHAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::NoMeter;
    use crate::rans::table::{Table, quantise};
    use proptest::prelude::*;

    proptest! {
        /// Promise: tokens, signs, low bits, first changes and seeds come back for any lane count; every truncation is an
        /// error and every flip at least no panic.
        #[test]
        fn round_trip(numbers in prop::collection::vec((0u64..1 << 40, 0u32..40, any::<bool>()), 0..600),
                      firsts in prop::collection::vec((any::<[u16; 8]>(), 0usize..8, prop::option::of(0usize..8)), 0..200),
                      seed_bits in any::<u64>(), lane_log2 in 0u32..=5, flip in any::<prop::sample::Index>()) {
            let shape = TokenShape::new(4, 1, 48).unwrap();
            let numbers: Vec<(u64, bool)> = numbers.iter().map(|&(n, s, sign)| (n >> s, sign)).collect();
            let lanes = 1usize << lane_log2;
            let mut counts = vec![1u32; shape.symbols()];
            numbers.iter().for_each(|&(n, _)| counts[shape.split(n).symbol as usize] += 1);
            let table = Table::from_logs(&quantise(&counts), 11);
            let encode = table.encode_entries();
            let decode = table.decode_entries();
            let mut s = StreamWriter::new(lanes);
            for round in numbers.chunks(lanes) {
                for (lane, &(n, sign)) in round.iter().enumerate() {
                    let token = shape.split(n);
                    s.token(lane, encode[token.symbol as usize], token, (n % 3 == 0).then_some(sign.into()));
                }
                s.end_round();
            }
            for round in firsts.chunks(lanes) {
                for (lane, (p, start, at)) in round.iter().enumerate() {
                    s.first(lane, FirstChange::of(at.filter(|at| at >= start), p, *start));
                }
                s.end_round();
            }
            let mut seeds = BitWriter::default();
            seeds.put(seed_bits & 0x7fff, 15);
            let mut w = Writer::new();
            s.finish(seeds, &mut w);
            w.raw(b"tail");
            let bytes = w.into_bytes();
            type Read = (Vec<(u64, u64)>, Vec<Option<usize>>, u64);
            let read = |bytes: &[u8]| -> Result<Read> {
                let mut s = StreamReader::new(bytes, 4, lanes)?;
                let mut got = vec![(0, 0); numbers.len()];
                for (i, round) in got.chunks_mut(lanes).enumerate() {
                    let of = |lane: usize| numbers[i * lanes + lane].0;
                    s.tokens(shape, |_| &decode, |lane, _| of(lane) % 3 == 0, round, Kind::Magnitudes, &mut NoMeter);
                }
                let first = firsts.iter().enumerate().map(|(i, (p, start, _))| s.first(i % lanes, p, *start, &mut NoMeter)).collect();
                let seeds = s.finish()?;
                let mut reader = seeds.reader();
                let hidden = reader.get(15);
                seeds.end(reader)?;
                Ok((got, first, hidden))
            };
            let (got, first, hidden) = read(&bytes).unwrap();
            for (&(n, sign), got) in numbers.iter().zip(&got) {
                prop_assert_eq!(*got, (n, if n % 3 == 0 { sign.into() } else { 0 }));
            }
            for ((_, start, at), got) in firsts.iter().zip(&first) {
                prop_assert_eq!(*got, at.filter(|at| at >= start));
            }
            prop_assert_eq!(hidden, seed_bits & 0x7fff);
            prop_assert!(read(&bytes[..bytes.len() - 1]).is_err());
            let mut flipped = bytes.clone();
            flipped[flip.index(bytes.len())] ^= 1;
            let _ = read(&flipped);
        }
    }
}
