//! The codec's law, checked from outside: decode(encode(x, base), base) == x.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use proptest::prelude::*;
use tpde_core::{Base, Chain, Dtype, Frame, Mode, Slice, SubtreeHash, decode_frame, encode_frame, tensor_id};

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
    let encoded = encode_frame(slice_of(dtype, new), new, base).unwrap();
    assert_eq!(encoded.hash, SubtreeHash::Whole(tensor_id(new)));
    let mut out = vec![0xa5; new.len()];
    let base = base.filter(|_| encoded.uses_base);
    let hash = decode_frame(&encoded.bytes, base, &mut out).unwrap();
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
            encode_frame(slice_of(Dtype::BF16, &new), &new, Some(base))
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
        let hash = Chain::new(&parsed[..depth]).unwrap().decode(&mut out).unwrap();
        assert_eq!(out, tensors[depth - 1]);
        assert_eq!(hash, SubtreeHash::Whole(tensor_id(&out)));
    }
    assert!(Chain::new(&parsed[1..]).is_err());
    assert!(Chain::new(&[]).is_err());
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
        &mut out,
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("base mismatch"), "{error}");
    let error = decode_frame(&frame, None, &mut out).unwrap_err();
    assert!(error.to_string().starts_with("base mismatch"), "{error}");
    // Lying about the id: the bytes do not come out as another tensor unnoticed.
    let lie = Base {
        id: tensor_id(&base),
        bytes: &other,
    };
    if let Ok(hash) = decode_frame(&frame, Some(lie), &mut out) {
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
                decode_frame(&frame[..cut], base, &mut out).is_err(),
                "cut at {cut}"
            );
        }
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(hash) = decode_frame(&bad, base, &mut out) {
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
            *version = 0;
        }
        if let Ok(frame) = Frame::parse(&bytes) {
            let len = frame.len_bytes();
            if len < 1 << 24 {
                let mut out = vec![0; len];
                let _ = decode_frame(&bytes, None, &mut out);
            }
        }
    }
}
