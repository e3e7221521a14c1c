//! Tensors and frames for the parity tests: every 16- and 32-bit dtype, every mode, every edge of tiles, blocks and lanes.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests make up numbers; each test uses a part"
)]

pub(crate) mod arena;

use tpde_core::{Base, Dtype, Frame, Layout, Mode, Slice, TensorId, decode_frame, encode_frame, tensor_id};
use tpde_infer::plan::{Item, Plan, Target};

/// The dtypes that the device decodes.
pub(crate) const DTYPES: [Dtype; 8] = [
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
];

/// A frame, and what it decodes to.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) frame: Vec<u8>,
    /// `None` for an anchor.
    pub(crate) base: Option<Vec<u8>>,
    pub(crate) new: Vec<u8>,
}

impl Case {
    pub(crate) fn modes(&self) -> Vec<Mode> {
        let frame = Frame::parse(&self.frame).unwrap();
        frame.tiles().iter().map(|tile| tile.0).collect()
    }

    /// What the scalar decoder makes of the frame.
    pub(crate) fn scalar(&self) -> tpde_core::Result<Vec<u8>> {
        let mut out = vec![0; self.new.len()];
        // A flipped bit of the base's id is another base to this decoder; the device counts on its caller for that.
        let id = self.named_base();
        let base = self.base.as_ref().map(|bytes| Base { id, bytes });
        decode_frame(&self.frame, base, None, &mut out).map(|_| out)
    }

    /// An id that begins as the frame says its base's does (docs/format.md §4.1).
    fn named_base(&self) -> TensorId {
        let mut at = 3;
        for _ in 0..2 {
            while self.frame[at] & 0x80 != 0 {
                at += 1;
            }
            at += 1;
        }
        let mut id = [0; 32];
        let named = &self.frame[at..self.frame.len().min(at + 4)];
        id[..named.len()].copy_from_slice(named);
        TensorId::from_bytes(id)
    }

    pub(crate) fn new(name: String, dtype: Dtype, new: Vec<u8>, base: Option<Vec<u8>>) -> Self {
        let slice = Slice {
            dtype,
            total_elems: (new.len() / dtype.word_bytes()) as u64,
            index: 0,
        };
        let against = base.as_ref().map(|bytes| Base {
            id: tensor_id(bytes),
            bytes,
        });
        let encoded = encode_frame(slice, &new, against, None).unwrap();
        Self {
            name,
            dtype,
            base: base.filter(|_| encoded.uses_base),
            frame: encoded.bytes,
            new,
        }
    }
}

/// A small generator: the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// 0 half of the time, 1 a quarter, and so on.
    pub(crate) fn geometric(&mut self) -> u32 {
        (self.next() | 1 << 30).trailing_zeros()
    }
}

fn bits_of(dtype: Dtype) -> u32 {
    8 * dtype.word_bytes() as u32
}

pub(crate) fn bytes_of(dtype: Dtype, words: &[u32]) -> Vec<u8> {
    let width = dtype.word_bytes();
    words
        .iter()
        .flat_map(|w| w.to_le_bytes()[..width].to_vec())
        .collect()
}

/// Words as trained tensors have them, and some that they should not have: NaNs, infinities, −0, denormals, extremes.
pub(crate) fn plausible(dtype: Dtype, count: usize, seed: u64) -> Vec<u32> {
    let (mut random, bits) = (Random::new(seed), bits_of(dtype));
    let mask = u32::MAX >> (32 - bits);
    let one = |_| {
        let noise = random.next() as u32 & mask;
        if random.below(500) == 0 {
            return [noise, 0, 1 << (bits - 1), mask, mask >> 1][random.below(5) as usize];
        }
        match dtype.layout() {
            Layout::Float {
                exponent_bits,
                mantissa_bits,
            } => {
                let middle = (1 << (exponent_bits - 1)) - 4;
                let exponent = (middle as u32).saturating_sub(random.geometric());
                noise & !(((1 << exponent_bits) - 1) << mantissa_bits) | exponent << mantissa_bits
            }
            Layout::Signed => {
                let small = noise >> (bits / 2 + random.geometric() % (bits / 2));
                if noise & 1 == 0 { small } else { !small & mask }
            }
            Layout::Unsigned => noise >> (bits / 3 + random.geometric() % (bits / 2)),
        }
    };
    (0..count).map(one).collect()
}

/// Any bits at all.
pub(crate) fn noise(dtype: Dtype, count: usize, seed: u64) -> Vec<u32> {
    let (mut random, bits) = (Random::new(seed), bits_of(dtype));
    (0..count).map(|_| random.next() as u32 >> (32 - bits)).collect()
}

/// `base` with that share (in 1/1000) of its words some ulps away, few of them far.
pub(crate) fn moved(dtype: Dtype, base: &[u32], per_mille: u64, seed: u64) -> Vec<u32> {
    let (mut random, bits) = (Random::new(seed), bits_of(dtype));
    let mask = u32::MAX >> (32 - bits);
    let one = |&word: &u32| {
        if random.below(1000) >= per_mille {
            return word;
        }
        if random.below(200) == 0 {
            return random.next() as u32 & mask;
        }
        let ulps = 1 + random.geometric() * random.geometric();
        let step = if random.next() & 1 == 0 {
            ulps
        } else {
            ulps.wrapping_neg()
        };
        word.wrapping_add(step) & mask
    };
    base.iter().map(one).collect()
}

/// A delta on plausible words.
pub(crate) fn delta(dtype: Dtype, count: usize, per_mille: u64, seed: u64) -> Case {
    let base = plausible(dtype, count, seed);
    let new = moved(dtype, &base, per_mille, seed + 1);
    Case::new(
        format!("{}-{count}-{per_mille}", dtype.name()),
        dtype,
        bytes_of(dtype, &new),
        Some(bytes_of(dtype, &base)),
    )
}

/// A tensor on its own.
pub(crate) fn anchor(dtype: Dtype, words: &[u32], kind: &str) -> Case {
    let name = format!("{}-{}-{kind}", dtype.name(), words.len());
    Case::new(name, dtype, bytes_of(dtype, words), None)
}

/// Lengths at which something begins or ends: lanes, groups, rows, segments, blocks, tiles.
pub(crate) const LENGTHS: [usize; 29] = [
    0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 1025, 2047, 4095, 4096,
    4097, 8200, 16_383, 16_385, 33_001,
];

/// Every dtype in every mode, at lengths around every edge.
pub(crate) fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DTYPES {
        for (i, &count) in LENGTHS.iter().enumerate() {
            let seed = i as u64 * 7 + u64::from(dtype.code()) * 1000;
            cases.push(delta(dtype, count, 20, seed));
            cases.push(delta(dtype, count, 900, seed + 1));
            cases.push(anchor(dtype, &plausible(dtype, count, seed + 2), "anchor"));
        }
    }
    cases
}

/// Whole tiles, more than one, of every dtype and mode, and one frame with all modes.
pub(crate) fn tiles() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DTYPES {
        let seed = 77 + u64::from(dtype.code());
        let count = 70_000;
        for per_mille in [0, 3, 150, 950] {
            cases.push(delta(dtype, count, per_mille, seed + per_mille));
        }
        cases.push(anchor(dtype, &plausible(dtype, count, seed), "anchor"));
        cases.push(anchor(dtype, &noise(dtype, count, seed), "noise"));
        cases.push(anchor(dtype, &vec![0; count], "zeros"));
        let mut rare = vec![0; count];
        (0..count).step_by(977).for_each(|i| rare[i] = 0x1234);
        cases.push(anchor(dtype, &rare, "rare"));
    }
    let dtype = Dtype::BF16;
    let base = plausible(dtype, 5 * 65_536 + 77, 7);
    let mut mixed = base.clone();
    for (tile, per_mille) in [(1, 10), (2, 900)] {
        let range = tile * 65_536..(tile + 1) * 65_536;
        let new = moved(dtype, &base[range.clone()], per_mille, 8);
        mixed[range].copy_from_slice(&new);
    }
    mixed[3 * 65_536..4 * 65_536].copy_from_slice(&plausible(dtype, 65_536, 9));
    mixed[4 * 65_536..5 * 65_536].copy_from_slice(&noise(dtype, 65_536, 9));
    let (new, base) = (bytes_of(dtype, &mixed), bytes_of(dtype, &base));
    cases.push(Case::new("mixed".into(), dtype, new, Some(base)));
    cases
}

/// Frames with a bit flipped behind their header, that plans still take; of one tile, so no digest inside the frame tells.
pub(crate) fn damaged(count: usize, seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut sound = Vec::new();
    for dtype in DTYPES {
        for per_mille in [4, 60, 900] {
            sound.push(delta(dtype, 3000, per_mille, seed + per_mille));
        }
        sound.push(anchor(dtype, &plausible(dtype, 3000, seed), "anchor"));
    }
    let mut cases = Vec::new();
    while cases.len() < count {
        let mut case = sound[random.below(sound.len() as u64) as usize].clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(case.frame.len() as u64) as usize;
            case.frame[at] ^= 1 << random.below(8);
        }
        case.name = format!("{}-damaged-{}", case.name, cases.len());
        let keeps_its_shape = Frame::parse(&case.frame).is_ok_and(|frame| {
            frame.dtype() == case.dtype
                && frame.len_bytes() == case.new.len()
                && frame.elems().start == 0
                && frame.has_base() == case.base.is_some()
                && frame.view().is_ok_and(|view| view.relation.is_none())
        });
        if !keeps_its_shape {
            continue;
        }
        let item = Item {
            frame: &case.frame,
            base_at: 0,
            out_at: 0,
        };
        match Plan::new(&[item], Target::InPlace, 1) {
            Ok(_) => cases.push(case),
            Err(error) => assert!(
                case.scalar().is_err(),
                "{}: only the plan refuses: {error}",
                case.name
            ),
        }
    }
    cases
}
