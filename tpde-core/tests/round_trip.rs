//! The codec's law, checked from outside: decode(encode(x, base), base) == x.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use proptest::prelude::*;
use tpde_core::{
    Base, Chain, Dtype, Frame, Given, Link, Mode, Relation, Slice, SubtreeHash, decode_frame, encode_frame,
    tensor_id,
};

fn slice_of(dtype: Dtype, bytes: &[u8]) -> Slice {
    Slice {
        dtype,
        total_elems: (bytes.len() / dtype.word_bytes()) as u64,
        index: 0,
    }
}

/// Encodes, decodes, compares bytes and id; gives the frame.
fn round_trip(dtype: Dtype, new: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let base = base.map(|bytes| Base {
        id: tensor_id(bytes),
        bytes,
    });
    let encoded = encode_frame(slice_of(dtype, new), new, base, None).unwrap();
    assert_eq!(encoded.hash, SubtreeHash::Whole(tensor_id(new)));
    let mut out = vec![0xa5; new.len()];
    let base = base.filter(|_| encoded.uses_base);
    let hash = decode_frame(&encoded.bytes, base, None, &mut out).unwrap();
    assert_eq!(hash, encoded.hash);
    if let Some(at) = out.iter().zip(new).position(|(a, b)| a != b) {
        panic!(
            "{dtype:?}: byte {at} is {:#04x}, expected {:#04x}",
            out[at], new[at]
        );
    }
    encoded.bytes
}

/// Repeatable bytes that look random.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Plausible weights: about normal, scaled, in bf16.
fn bf16_weights(elems: usize, seed: u64) -> Vec<u8> {
    let raw = noise(elems * 4, seed);
    raw.chunks(4)
        .flat_map(|c| {
            let sum: f32 = c.iter().map(|&b| f32::from(b) - 127.5).sum();
            ((sum / 4000.0).to_bits() >> 16).to_le_bytes()[..2].to_vec()
        })
        .collect()
}

/// `base` with about `share` of its 16-bit words moved by a few ulps.
fn nudge(base: &[u8], share: f64, seed: u64) -> Vec<u8> {
    let dice = noise(base.len() * 2, seed);
    let mut new = base.to_vec();
    for (word, dice) in new.chunks_exact_mut(2).zip(dice.chunks(4)) {
        let roll = f64::from(u16::from_le_bytes([dice[0], dice[1]])) / 65536.0;
        if roll < share {
            let step = 1 + u16::from(dice[2].leading_zeros() as u8);
            let bits = u16::from_le_bytes([word[0], word[1]]);
            let bits = if dice[3] & 1 == 0 {
                bits.wrapping_add(step)
            } else {
                bits.wrapping_sub(step)
            };
            word.copy_from_slice(&bits.to_le_bytes());
        }
    }
    new
}

fn modes_of(frame: &[u8]) -> Vec<Mode> {
    Frame::parse(frame).unwrap().tiles().iter().map(|t| t.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Promise: any bytes of any dtype survive, with no base, an equal base, a near base and a foreign one.
    #[test]
    fn any_bytes_any_dtype(code in 0..Dtype::ALL.len(), words in 0usize..3000, seed in any::<u64>(), flips in 0usize..40) {
        let dtype = Dtype::ALL[code];
        let len = words * dtype.word_bytes();
        let new = noise(len, seed);
        round_trip(dtype, &new, None);
        round_trip(dtype, &new, Some(&new));
        round_trip(dtype, &new, Some(&noise(len, !seed)));
        let mut near = new.clone();
        for i in 0..flips.min(len) {
            near[(seed as usize).wrapping_mul(i + 1) % len] ^= 1 << (i % 8);
        }
        round_trip(dtype, &near, Some(&new));
        round_trip(dtype, &vec![0; len], None);
    }
}

/// Promise: every length around the edges of lanes, blocks, tiles and groups survives.
#[test]
fn every_edge_length() {
    for elems in [
        0, 1, 2, 31, 32, 33, 63, 64, 127, 128, 2047, 2048, 4095, 4096, 16383, 16384, 16385, 65535, 65536,
        65537, 140_001,
    ] {
        let base = bf16_weights(elems, 7);
        round_trip(Dtype::BF16, &base, None);
        for share in [0.0, 0.01, 0.3, 0.95] {
            round_trip(Dtype::BF16, &nudge(&base, share, 3), Some(&base));
        }
    }
}

/// Promise: each mode is reachable, chosen where it pays, and exact.
#[test]
fn every_mode_is_chosen_where_it_pays() {
    let base = bf16_weights(200_000, 1);
    assert_eq!(
        modes_of(&round_trip(Dtype::BF16, &base, Some(&base))),
        [Mode::Same; 4]
    );
    assert_eq!(
        modes_of(&round_trip(Dtype::BF16, &nudge(&base, 0.02, 2), Some(&base))),
        [Mode::Sparse; 4]
    );
    assert_eq!(
        modes_of(&round_trip(Dtype::BF16, &nudge(&base, 0.9, 2), Some(&base))),
        [Mode::Dense; 4]
    );
    assert_eq!(modes_of(&round_trip(Dtype::BF16, &base, None)), [Mode::Fresh; 4]);
    assert_eq!(
        modes_of(&round_trip(Dtype::BF16, &base, Some(&noise(400_000, 5)))),
        [Mode::Fresh; 4]
    );
    // Bytes whose values are uneven, without a base.
    let uneven: Vec<u8> = noise(200_000, 3)
        .iter()
        .map(|b| 0x38 + (b & b >> 3 & 0x87))
        .collect();
    for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::I8, Dtype::U8] {
        let frame = round_trip(dtype, &uneven, None);
        assert!(frame.len() < 120_000, "{dtype:?}: {}", frame.len());
    }
    assert_eq!(
        modes_of(&round_trip(Dtype::U8, &noise(200_000, 9), None)),
        [Mode::Raw; 4]
    );
    assert_eq!(
        modes_of(&round_trip(Dtype::F32, &[0; 800_000], None)),
        [Mode::Same; 4]
    );
}

/// Promise: NaN payloads, infinities, −0 and denormals survive against any base, in every float width.
#[test]
fn special_values() {
    let special16 = [
        0x7fc1u16, 0xffff, 0x7f80, 0xff80, 0x8000, 0x0000, 0x0001, 0x8001, 0x3f80, 0x7c01, 0xfc00,
    ];
    let new: Vec<u8> = (0..5000)
        .flat_map(|i| special16[i * 7 % 11].to_le_bytes())
        .collect();
    let base: Vec<u8> = (0..5000)
        .flat_map(|i| special16[i * 3 % 11].to_le_bytes())
        .collect();
    for dtype in [
        Dtype::BF16,
        Dtype::F16,
        Dtype::F32,
        Dtype::F64,
        Dtype::F8E4M3,
        Dtype::F8E5M2,
        Dtype::C64,
    ] {
        let len = new.len() / dtype.word_bytes() * dtype.word_bytes();
        round_trip(dtype, &new[..len], Some(&base[..len]));
        round_trip(dtype, &new[..len], None);
    }
}

/// Promise: the frame does not depend on the number of threads.
#[test]
fn one_thread_or_many() {
    let base = bf16_weights(300_000, 1);
    let new = nudge(&base, 0.2, 4);
    let encode = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let base = Base {
                id: tensor_id(&base),
                bytes: &base,
            };
            encode_frame(slice_of(Dtype::BF16, &new), &new, Some(base), None)
                .unwrap()
                .bytes
        })
    };
    assert_eq!(encode(1), encode(7));
}

/// Promise: a chain decodes in one call to what its links decode to one by one.
#[test]
fn chains() {
    let mut tensors = vec![bf16_weights(100_000, 1)];
    for step in 1..8u64 {
        let share = [0.0, 0.01, 0.9, 0.3][step as usize % 4];
        let next = nudge(&tensors[step as usize - 1], share, step);
        tensors.push(next);
    }
    let frames: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| round_trip(Dtype::BF16, t, (i > 0).then(|| tensors[i - 1].as_slice())))
        .collect();
    let parsed: Vec<Frame<'_>> = frames.iter().map(|f| Frame::parse(f).unwrap()).collect();
    for depth in 1..=parsed.len() {
        let mut out = vec![0; tensors[0].len()];
        let links = (0..depth)
            .map(|i| Link::frame(&parsed[i], i.checked_sub(1), None))
            .collect();
        let hash = Chain::new(links).unwrap().decode(&mut out).unwrap();
        assert_eq!(out, tensors[depth - 1]);
        assert_eq!(hash, SubtreeHash::Whole(tensor_id(&out)));
    }
    // A delta without its base, an anchor with one, a link that reads a later one, and nothing at all.
    assert!(Chain::new(vec![Link::frame(&parsed[1], None, None)]).is_err());
    let anchor = Link::frame(&parsed[0], None, None);
    assert!(Chain::new(vec![anchor, Link::frame(&parsed[0], Some(0), None)]).is_err());
    assert!(Chain::new(vec![Link::frame(&parsed[1], Some(1), None), anchor]).is_err());
    assert!(Chain::new(Vec::new()).is_err());
}

/// Promise: a foreign base is named as such, never applied.
#[test]
fn a_foreign_base_is_refused() {
    let base = bf16_weights(10_000, 1);
    let new = nudge(&base, 0.1, 2);
    let frame = round_trip(Dtype::BF16, &new, Some(&base));
    let other = bf16_weights(10_000, 9);
    let mut out = vec![0; new.len()];
    let error = decode_frame(
        &frame,
        Some(Base {
            id: tensor_id(&other),
            bytes: &other,
        }),
        None,
        &mut out,
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("base mismatch"), "{error}");
    let error = decode_frame(&frame, None, None, &mut out).unwrap_err();
    assert!(error.to_string().starts_with("base mismatch"), "{error}");
    // Lying about the id: the bytes do not come out as another tensor unnoticed.
    let lie = Base {
        id: tensor_id(&base),
        bytes: &other,
    };
    if let Ok(hash) = decode_frame(&frame, Some(lie), None, &mut out) {
        assert_ne!(hash, SubtreeHash::Whole(tensor_id(&new)));
    }
}

/// Promise: every truncation and every single-bit flip of a small frame gives an error or other bytes with another
/// hash; never a panic, never the wrong bytes under the right hash.
#[test]
fn every_truncation_and_flip() {
    let base = bf16_weights(700, 1);
    for (new, base) in [
        (nudge(&base, 0.05, 2), Some(&base)),
        (nudge(&base, 0.9, 2), Some(&base)),
        (base.clone(), None),
    ] {
        let frame = round_trip(Dtype::BF16, &new, base.map(Vec::as_slice));
        let base = base.map(|b| Base {
            id: tensor_id(b),
            bytes: b,
        });
        let mut out = vec![0; new.len()];
        for cut in 0..frame.len() {
            assert!(
                decode_frame(&frame[..cut], base, None, &mut out).is_err(),
                "cut at {cut}"
            );
        }
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(hash) = decode_frame(&bad, base, None, &mut out) {
                let right = hash == SubtreeHash::Whole(tensor_id(&new));
                assert_eq!(right, out == new, "bit {bit}: hash and bytes disagree");
            }
        }
    }
}

proptest! {
    /// Promise: hostile bytes never panic the parser, and never make it allocate beyond what they earn.
    #[test]
    fn hostile_frames(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(frame) = Frame::parse(&bytes) {
            let len = frame.len_bytes();
            if len < 1 << 24 {
                let mut out = vec![0; len];
                let _ = decode_frame(&bytes, None, None, &mut out);
            }
        }
    }
}

/// f32 masters near `scale`, their bf16 weights, and the masters after a step of about `step` of their size.
fn masters(elems: usize, step: f32, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let dice = noise(elems * 4, seed);
    let old: Vec<f32> = dice
        .chunks(4)
        .map(|c| {
            (f32::from(c[0]) - 127.4) * (1.0 + f32::from(c[1]) / 256.0 + f32::from(c[2]) / 65536.0) / 4000.0
        })
        .collect();
    let new: Vec<f32> = old
        .iter()
        .zip(dice.chunks(4))
        .map(|(v, c)| v + step * (f32::from(c[3]) - 127.5) / 127.5)
        .collect();
    let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
    (bytes(&old), bytes(&new))
}

fn rounded(master: &[u8]) -> Vec<u8> {
    master
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|&c| half::bf16::from_f32(f32::from_le_bytes(c)).to_le_bytes())
        .collect()
}

/// Encodes given another tensor, decodes, compares; gives the frame and what it read.
fn round_trip_given(
    dtype: Dtype,
    new: &[u8],
    base: Option<&[u8]>,
    relation: Relation,
    given: &[u8],
) -> (Vec<u8>, bool, bool) {
    let base = base.map(|bytes| Base {
        id: tensor_id(bytes),
        bytes,
    });
    let given = Given {
        relation,
        id: tensor_id(given),
        bytes: given,
    };
    let encoded = encode_frame(slice_of(dtype, new), new, base, Some(given)).unwrap();
    let mut out = vec![0xa5; new.len()];
    let hash = decode_frame(
        &encoded.bytes,
        base.filter(|_| encoded.uses_base),
        Some(given).filter(|_| encoded.uses_given),
        &mut out,
    )
    .unwrap();
    assert_eq!(hash, encoded.hash);
    assert!(out == new, "{relation:?} of {dtype:?}");
    (encoded.bytes, encoded.uses_base, encoded.uses_given)
}

/// Promise: masters given their weights are exact with any base, and smaller than alone; weights are their masters' casts for
/// next to nothing; moments given their squares are exact.
#[test]
fn given_tensors() {
    for elems in [0, 1, 31, 4097, 70_000, 200_000] {
        let (old, new) = masters(elems, 1e-5, 3);
        let weights = rounded(&new);
        let alone = round_trip(Dtype::F32, &new, Some(&old)).len();
        for base in [None, Some(old.as_slice()), Some(noise(4 * elems, 1).as_slice())] {
            let (frame, _, uses_given) =
                round_trip_given(Dtype::F32, &new, base, Relation::Rounded, &weights);
            if elems > 10_000 {
                assert!(
                    uses_given && frame.len() < 4 * elems,
                    "{} of {}",
                    frame.len(),
                    4 * elems
                );
                if base == Some(&old) {
                    assert!(frame.len() < alone, "{} {alone}", frame.len());
                }
            }
        }
        let (frame, uses_base, _) =
            round_trip_given(Dtype::BF16, &weights, Some(&rounded(&old)), Relation::Cast, &new);
        assert!(frame.len() < 120 && !uses_base, "{}", frame.len());
        let foreign = noise(2 * elems, 9);
        round_trip_given(Dtype::BF16, &foreign, None, Relation::Cast, &new);
        round_trip_given(
            Dtype::F32,
            &noise(4 * elems, 2),
            Some(&old),
            Relation::Rounded,
            &weights,
        );
        for base in [None, Some(old.as_slice())] {
            round_trip_given(Dtype::F32, &new, base, Relation::Scale, &old);
            round_trip_given(Dtype::BF16, &weights, None, Relation::Scale, &foreign);
        }
    }
    // Ties round to even: they are the ends of a cell.
    let ties: Vec<u8> = (0..70_000u32)
        .flat_map(|i| ((0x3f80_8000 + ((i % 2000) << 16)) | (i & 1) << 31).to_le_bytes())
        .collect();
    let (_, new) = masters(70_000, 1.0, 1);
    let (frame, ..) = round_trip_given(Dtype::F32, &ties, Some(&new), Relation::Rounded, &rounded(&ties));
    assert!(modes_of(&frame).iter().all(|&m| m != Mode::Raw));
}

/// Promise: masters on a chain of their own, each given a weight on another chain, decode in one call; the ledger accounts for
/// every byte of the newest.
#[test]
fn two_chains_side_by_side() {
    let mut states = vec![masters(150_000, 1e-5, 1).0];
    for step in 1..5u64 {
        let steps = noise(states[0].len(), step);
        let next = states[step as usize - 1]
            .as_chunks::<4>()
            .0
            .iter()
            .zip(steps.as_chunks::<4>().0)
            .flat_map(|(&v, d)| (f32::from_le_bytes(v) + (f32::from(d[0]) - 127.5) * 3e-7).to_le_bytes())
            .collect();
        states.push(next);
    }
    let mut frames = Vec::new();
    for (step, master) in states.iter().enumerate() {
        let before = step.checked_sub(1).map(|i| &states[i]);
        let weights = rounded(master);
        let old_weights = before.map(|b| rounded(b));
        frames.push(round_trip(Dtype::BF16, &weights, old_weights.as_deref()));
        let (frame, uses_base, uses_given) = round_trip_given(
            Dtype::F32,
            master,
            before.map(Vec::as_slice),
            Relation::Rounded,
            &weights,
        );
        assert_eq!((uses_base, uses_given), (step > 0, true));
        frames.push(frame);
    }
    let parsed: Vec<Frame<'_>> = frames.iter().map(|f| Frame::parse(f).unwrap()).collect();
    let links: Vec<Link<'_, '_>> = parsed
        .iter()
        .enumerate()
        .map(|(i, f)| Link::frame(f, i.checked_sub(2), (i % 2 == 1).then(|| i - 1)))
        .collect();
    let chain = Chain::new(links).unwrap();
    let mut out = vec![0; states[0].len()];
    let hash = chain.decode(&mut out).unwrap();
    assert_eq!(hash, SubtreeHash::Whole(tensor_id(&states[4])));
    let ledger = chain.ledger().unwrap();
    assert_eq!(ledger.total_bytes, frames[9].len() as u64);
    assert!((0.0..2000.0).contains(&ledger.lane_bytes()), "{ledger:?}");
}
