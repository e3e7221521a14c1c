//! Every variant against the definition: the same bytes, and the same error where there is one.

use super::isa::{Isa, with};
use crate::classes::Classes;
use crate::constants::{MAX_CLASSES, SEGMENT_ELEMS};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::frame::tables::{ChangeTables, FrameTables, SparseTables, TokenTables};
use crate::meter::NoMeter;
use crate::ordinal::residual;
use crate::tile::blocks::Cut;
use crate::tile::{self, Against, Cuts, DecodeContext, EncodeContext, Entries, Mode};
use crate::token::TokenShape;

const MODES: [Mode; 2] = [Mode::Sparse, Mode::Dense];

/// Numbers that look random (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// What is in a tile.
#[derive(Debug, Clone, Copy)]
enum Data {
    /// Equal to its base.
    Same,
    /// One in so many words changes, by few ulps.
    Near(usize),
    /// Any word after any word.
    Any,
    /// NaNs, infinities, zeros of both signs, denormals, and steps of 2^15 between them.
    Special,
}

const DATA: [Data; 6] = [
    Data::Same,
    Data::Near(100),
    Data::Near(10),
    Data::Near(1),
    Data::Any,
    Data::Special,
];

impl Data {
    fn words(self, len: usize, noise: &mut Noise) -> (Vec<u16>, Vec<u16>) {
        const SPECIAL: [u16; 12] = [
            0, 0x8000, 1, 0x8001, 0x7f80, 0xff80, 0x7fc1, 0xffff, 0x7c00, 0x7fff, 0x3f80, 0x4000,
        ];
        (0..len)
            .map(|_| {
                let z = noise.next();
                let base = 0x3c00 ^ (z & 0x83ff) as u16 ^ ((z >> 16) as u16 & 0x0f80);
                match self {
                    Self::Same => (base, base),
                    Self::Near(of) => {
                        let ulps = if noise.below(of) == 0 {
                            z >> (32 + noise.below(31))
                        } else {
                            0
                        };
                        (base, base.wrapping_add(ulps as u16))
                    }
                    Self::Any => ((z >> 32) as u16, (z >> 48) as u16),
                    Self::Special => (SPECIAL[noise.below(12)], SPECIAL[noise.below(12)]),
                }
            })
            .unzip()
    }
}

/// A tile, its base and what it is coded with.
struct Case {
    dtype: Dtype,
    base: Vec<u8>,
    new: Vec<u8>,
    tables: FrameTables,
    cut: Cut,
}

impl Case {
    /// Tables are fitted to the tile and to counts of every symbol, so that hostile bytes find all of them and every class has
    /// tables of its own.
    fn new(
        dtype: Dtype,
        (base, new): (Vec<u16>, Vec<u16>),
        cut: Cut,
        (direct, top): (u32, u32),
        origin: u32,
    ) -> Self {
        let layout = dtype.layout();
        let shape = TokenShape::new(direct, top, 16).unwrap();
        let classes = Classes { origin };
        let spare =
            |class: usize| (0..shape.symbols()).map(move |s| if s % MAX_CLASSES == class { 300 } else { 1 });
        let mut magnitudes: Vec<Vec<u32>> = (0..MAX_CLASSES).map(|class| spare(class).collect()).collect();
        let mut changes: Vec<[u32; 2]> = (0..MAX_CLASSES as u32)
            .map(|class| [1 + 200 * class, 200])
            .collect();
        for (&b, &n) in base.iter().zip(&new) {
            let magnitude = residual(n, b, layout).magnitude;
            let class = classes.of(b, layout);
            magnitudes[class][shape.split(magnitude).symbol as usize] += 1;
            changes[class][usize::from(magnitude != 0)] += 1;
        }
        let tables = FrameTables {
            classes: Some(classes),
            sparse: Some(SparseTables {
                changes: ChangeTables::fit(&changes),
                magnitudes: TokenTables::fit(&magnitudes, shape),
            }),
            dense: TokenTables::fit(&magnitudes, shape),
            fresh: None,
        };
        let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Self {
            dtype,
            base: bytes(&base),
            new: bytes(&new),
            tables,
            cut,
        }
    }

    fn cuts(&self) -> Cuts {
        Cuts {
            sparse: self.cut,
            full: self.cut,
        }
    }

    fn encode(&self, mode: Mode) -> Vec<u8> {
        let layout = self.dtype.layout();
        let cx = EncodeContext {
            layout,
            cuts: self.cuts(),
            tables: &self.tables,
            entries: &Entries::encoding(&self.tables),
        };
        tile::encode::<u16>(mode, &self.new, Against::plain(&self.base, layout), None, cx).unwrap()
    }

    /// Decodes with `isa`, everything `shift` bytes from where it is aligned; what lies around the tile must stay.
    ///
    /// Also tells how many elements a variant took.
    fn decode(
        &self,
        isa: Isa,
        mode: Mode,
        body: &[u8],
        shift: usize,
        entries: &Entries,
    ) -> (Result<Vec<u8>>, usize) {
        const GUARD: u8 = 0xa5;
        let shifted = |bytes: &[u8]| [&vec![GUARD; shift], bytes].concat();
        let (base, body) = (shifted(&self.base), shifted(body));
        let end = shift + self.base.len();
        let mut out = vec![GUARD; end + 64];
        let layout = self.dtype.layout();
        let cx = DecodeContext {
            layout,
            cuts: self.cuts(),
            tables: &self.tables,
            entries,
        };
        let against = Against::plain(&base[shift..], layout);
        let target = &mut out[shift..end];
        let (outcome, taken) = with(isa, || {
            tile::decode::<u16>(mode, &body[shift..], against, None, target, cx, &mut NoMeter)
        });
        assert!(
            out[..shift].iter().chain(&out[end..]).all(|&b| b == GUARD),
            "{isa:?}"
        );
        (outcome.map(|()| out[shift..end].to_vec()), taken)
    }

    /// Elements that `isa` must take where nothing is wrong: without this, a wrong variant would hide behind the scalar code
    /// that does its work again.
    fn taken_by(&self, isa: Isa, mode: Mode) -> usize {
        let whole = match mode {
            _ if isa == Isa::Scalar || !matches!(self.dtype, Dtype::BF16 | Dtype::F16) => return 0,
            Mode::Dense if self.cut.lanes() < 32 => return 0,
            Mode::Dense => 64,
            _ => SEGMENT_ELEMS,
        };
        let blocks = self.cut.ranges(self.base.len() / 2);
        blocks.map(|block| block.len() / whole * whole).sum()
    }

    /// All variants on what was encoded, then on `hostile` changes of its bytes.
    fn check(&self, noise: &mut Noise, hostile: usize) {
        let entries = Entries::decoding(&self.tables);
        for mode in MODES {
            let body = self.encode(mode);
            for isa in Isa::all() {
                let shift = noise.below(70);
                let (got, taken) = self.decode(isa, mode, &body, shift, &entries);
                let got = got.unwrap();
                let words = || got.chunks(2).zip(self.new.chunks(2));
                let differs = words().position(|(a, b)| a != b).map(|i| (i, words().nth(i)));
                assert_eq!(differs, None, "{isa:?} {mode:?} {:?} {shift}", self.cut);
                assert_eq!(taken, self.taken_by(isa, mode), "{isa:?} {mode:?} {:?}", self.cut);
            }
            for _ in 0..hostile {
                let body = damaged(&body, noise);
                let (expected, _) = self.decode(Isa::Scalar, mode, &body, 0, &entries);
                for isa in Isa::all() {
                    let (got, _) = self.decode(isa, mode, &body, 0, &entries);
                    assert!(
                        got == expected,
                        "{isa:?} {mode:?}: {:?} not {:?}",
                        got.err(),
                        expected.err()
                    );
                }
            }
        }
    }
}

/// A body with its end missing, too many words, other words, or one bit flipped.
fn damaged(body: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut body = body.to_vec();
    let at = noise.below(body.len() + 1);
    match noise.below(4) {
        0 => body.truncate(at & !1),
        1 => body.extend([0; 2]),
        2 => body[at..].iter_mut().for_each(|b| *b = noise.next() as u8),
        _ => {
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
        }
    }
    body
}

/// Lengths at which something begins or ends, for blocks of `2^block_log2`.
fn lengths(block_log2: u32) -> impl Iterator<Item = usize> {
    let block = 1usize << block_log2;
    let around = [32, 64, 128, SEGMENT_ELEMS, block, 2 * block];
    let near = around.into_iter().flat_map(|n| [n - 1, n, n + 1]);
    [0, 1, 2, 7, 8, 9]
        .into_iter()
        .chain(near)
        .filter(|&n| n <= crate::constants::TILE_ELEMS)
}

macro_rules! parity {
    ($($name:ident: $dtype:expr, $lanes_log2:expr;)*) => {
        $(
            /// Promise: every variant decodes what was encoded, all of it that is whole, at every edge length, address and kind
            /// of data, and takes or refuses damaged bytes as the definition does, with the same words.
            #[test]
            fn $name() {
                if Isa::all().len() == 1 {
                    eprintln!("this machine runs no vector variant: only the definition is tested");
                }
                let mut noise = Noise($lanes_log2);
                for (block_log2, shape, origin) in [(12, (5, 2), 130), (13, (0, 0), 124), (14, (6, 4), 262), (16, (5, 2), 9)] {
                    let cut = Cut { block_log2, lanes_log2: $lanes_log2 };
                    for len in lengths(block_log2) {
                        let data = DATA[noise.below(DATA.len())];
                        let words = data.words(len, &mut noise);
                        Case::new($dtype, words, cut, shape, origin).check(&mut noise, 2);
                    }
                    for data in DATA {
                        let len = 3 * SEGMENT_ELEMS + noise.below(2 * SEGMENT_ELEMS);
                        let words = data.words(len, &mut noise);
                        Case::new($dtype, words, cut, shape, origin).check(&mut noise, 24);
                    }
                }
            }
        )*
    };
}

parity! {
    bf16_32_lanes: Dtype::BF16, 5;
    bf16_16_lanes: Dtype::BF16, 4;
    bf16_8_lanes: Dtype::BF16, 3;
    bf16_4_lanes: Dtype::BF16, 2;
    bf16_2_lanes: Dtype::BF16, 1;
    bf16_1_lane: Dtype::BF16, 0;
    f16_32_lanes: Dtype::F16, 5;
    f16_16_lanes: Dtype::F16, 4;
    f16_8_lanes: Dtype::F16, 3;
    i16_32_lanes: Dtype::I16, 5;
    u16_16_lanes: Dtype::U16, 4;
}
