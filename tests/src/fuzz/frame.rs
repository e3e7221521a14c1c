//! Frames.

use std::sync::OnceLock;

use tpde_core::{
    Base, Chain, Dtype, Frame, FrameHead, Given, Link, Slice, decode_frame, encode_frame, slices_of,
    tensor_id,
};

use super::{Target, golden};
use crate::Rng;

/// Whatever a frame says, it is refused or decoded, all of it and by its parts; and what it decodes to comes back from a frame of our own.
pub(super) const TARGET: Target = Target {
    name: "frame",
    run,
    seeds,
    inputs: 30_000,
};

/// Most bytes that are decoded: a frame of a few bytes may say that 32 MiB are as they were.
const MOST: usize = 1 << 20;

/// Bytes of a base, or of a given tensor; f32s near each other, so that all sorts of exponents occur.
fn tensor(which: usize, len_bytes: usize) -> &'static [u8] {
    static TENSORS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let tensors = TENSORS.get_or_init(|| {
        [1, 2].map(|seed| {
            let mut rng = Rng::new(seed);
            let word = |n: u64| (n & 0x80ff_ffff | (110 + n.trailing_zeros() as u64 % 20) << 23) as u32;
            (0..MOST / 4)
                .flat_map(|_| word(rng.draw()).to_le_bytes())
                .collect()
        })
    });
    &tensors[which][..len_bytes]
}

/// Golden frames, of which those with a base are given another here; and deltas on what is given here.
fn seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(3);
    let mut seeds = golden("frames");
    for &dtype in Dtype::ALL {
        // One tile, and several.
        for elems in [300, 70_000] {
            let bytes = tensor(0, elems * dtype.word_bytes());
            let mut new = bytes.to_vec();
            (0..elems / 20).for_each(|_| new[dtype.word_bytes() * rng.below(elems)] ^= 1);
            let slice = Slice {
                dtype,
                total_elems: elems as u64,
                index: 0,
            };
            let id = tensor_id(bytes);
            let base = Some(Base { id, bytes });
            seeds.push(encode_frame(slice, &new, base, None).unwrap().bytes);
        }
    }
    seeds
}

fn run(bytes: &[u8]) -> bool {
    let head = FrameHead::parse(bytes);
    let Ok(frame) = Frame::parse(bytes) else {
        return false;
    };
    let head = head.unwrap();
    let tiles = head.tiles_of(0..u64::MAX);
    assert_eq!(tiles, 0..head.tile_count());
    let bodies = head.bodies(tiles.clone());
    assert!(head.with_bodies(tiles, &bytes[bodies]).is_ok());
    let _ = head.stated_hash();
    let _ = frame.view();

    let len_bytes = frame.len_bytes();
    let (dtype, elems) = (frame.dtype(), len_bytes / frame.dtype().word_bytes());
    let given_dtype = frame.relation().map(|relation| relation.given_dtype(dtype));
    if len_bytes.max(elems * given_dtype.map_or(0, |d| d.word_bytes())) > MOST {
        return true;
    }
    let base = frame.has_base().then(|| tensor(0, len_bytes));
    let given = given_dtype.map(|dtype| (dtype, tensor(1, elems * dtype.word_bytes())));
    let mut links = Vec::new();
    let mut at = |dtype, bytes| {
        links.push(Link::plain(dtype, bytes));
        links.len() - 1
    };
    let base_at = base.map(|bytes| at(dtype, bytes));
    let given_at = given.map(|(dtype, bytes)| at(dtype, bytes));
    links.push(Link::frame(&frame, base_at, given_at));
    let chain = Chain::new(links).unwrap();
    let mut out = vec![0xa5; len_bytes];
    let ledger = chain.ledger();
    let Ok(hash) = chain.decode(&mut out) else {
        return false;
    };
    assert!(ledger.is_ok(), "decoded, and not accounted for");

    let slice_elems = slices_of(dtype, frame.total_elems())
        .next()
        .map_or(1, |s| s.end.max(1));
    let slice = Slice {
        dtype,
        total_elems: frame.total_elems(),
        index: (frame.elems().start / slice_elems) as usize,
    };
    let base = base.map(|bytes| Base {
        id: tensor_id(bytes),
        bytes,
    });
    let given = frame.relation().zip(given).map(|(relation, (_, bytes))| Given {
        relation,
        id: tensor_id(bytes),
        bytes,
    });
    let again = encode_frame(slice, &out, base, given).unwrap();
    assert_eq!(again.hash, hash);
    let mut back = vec![0x5a; len_bytes];
    let base = base.filter(|_| again.uses_base);
    let given = given.filter(|_| again.uses_given);
    let found = decode_frame(&again.bytes, base, given, &mut back).unwrap();
    assert!(
        found == hash && back == out,
        "encoded and decoded, it is something else"
    );
    true
}
