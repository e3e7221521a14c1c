//! Parts of frames: decoded from fewer bytes, and proved all the same.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use tpde_core::{
    Base, Chain, CodecError, Dtype, Frame, FrameHead, Link, Slice, SubtreeHash, encode_frame, merge_subtrees,
    slices_of, tensor_id,
};

const TILE: usize = 65_536;

/// Repeatable bf16 words of small exponents.
fn weights(elems: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = 0x3c00u16 | (state >> 40) as u16 & 0x83ff;
        word.to_le_bytes()
    };
    (0..elems).flat_map(word).collect()
}

/// The same, with one element in `every` changed.
fn moved(bytes: &[u8], every: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.iter_mut().step_by(2 * every).for_each(|b| *b ^= 1);
    bytes
}

/// Frames of every slice of a tensor.
fn frames(bytes: &[u8], base: Option<&[u8]>) -> Vec<Vec<u8>> {
    let total_elems = bytes.len() as u64 / 2;
    let slices = slices_of(Dtype::BF16, total_elems).enumerate();
    slices
        .map(|(index, elems)| {
            let range = 2 * usize::try_from(elems.start).unwrap()..2 * usize::try_from(elems.end).unwrap();
            let base = base.map(|base| Base {
                id: tensor_id(base),
                bytes: &base[range.clone()],
            });
            let slice = Slice {
                dtype: Dtype::BF16,
                total_elems,
                index,
            };
            encode_frame(slice, &bytes[range], base, None).unwrap().bytes
        })
        .collect()
}

/// Elements of a chain of frames (the same slice of each, anchor first), from heads and the bodies that they name.
fn part(
    chain: &[&[u8]],
    elems: std::ops::Range<u64>,
) -> Result<(std::ops::Range<usize>, Vec<u8>, SubtreeHash), CodecError> {
    let heads: Vec<FrameHead> = chain
        .iter()
        .map(|f| FrameHead::parse(f))
        .collect::<Result<_, _>>()?;
    let newest = heads.last().unwrap();
    let tiles = newest.tiles_of(elems);
    let frames: Vec<Frame<'_>> = heads
        .iter()
        .zip(chain)
        .map(|(head, bytes)| {
            head.with_bodies(
                tiles.clone(),
                bytes.get(head.bodies(tiles.clone())).unwrap_or_default(),
            )
        })
        .collect::<Result<_, _>>()?;
    let links = frames.iter().enumerate();
    let links = links.map(|(i, frame)| Link::frame(frame, frame.has_base().then(|| i - 1), None));
    let len = usize::try_from(newest.elems().end - newest.elems().start).unwrap();
    let mut out = vec![0; 2 * (len.min(tiles.end * TILE) - tiles.start * TILE)];
    let hash = Chain::new(links.collect())?.decode_tiles(tiles.clone(), &mut out)?;
    Ok((tiles, out, hash))
}

#[test]
fn parts_are_the_whole() {
    // Promise: any tiles of any chain decode to what the whole does, and the hash that comes with them is that of the whole.
    for (elems, every) in [(9 * TILE + 77, 50), (9 * TILE, 5000), (TILE, 50), (700, 3)] {
        let old = weights(elems, 1);
        let new = moved(&old, every);
        let (anchors, deltas) = (frames(&old, None), frames(&new, Some(&old)));
        for (chain, whole) in [
            (vec![&anchors[0][..]], &old),
            (vec![&anchors[0], &deltas[0][..]], &new),
        ] {
            for start in (0..elems).step_by(TILE / 2 + 1) {
                let end = (start + TILE).min(elems);
                let (tiles, out, hash) = part(&chain, start as u64..end as u64).unwrap();
                assert!(tiles.start * TILE <= start && end <= tiles.end * TILE);
                let at = 2 * tiles.start * TILE;
                assert!(
                    out == whole[at..at + out.len()],
                    "{elems} elements, {start}..{end}"
                );
                assert_eq!(hash, SubtreeHash::Whole(tensor_id(whole)));
            }
        }
        let head = FrameHead::parse(&anchors[0]).unwrap();
        assert!(head.len_bytes() < anchors[0].len());
        assert!(
            head.stated_hash()
                .is_none_or(|h| h == SubtreeHash::Whole(tensor_id(&old)))
        );
    }
}

#[test]
fn other_slices_prove_by_their_heads() {
    // Promise: of a tensor of several frames, one frame's part and the heads of the others give the tensor's id.
    let elems = Dtype::BF16.slice_elems() + 3 * TILE + 5;
    let bytes = weights(elems, 3);
    let all = frames(&bytes, None);
    let (_, _, first) = part(&[&all[0]], 5..6).unwrap();
    let second = FrameHead::parse(&all[1]).unwrap();
    let id = merge_subtrees(&[first, second.stated_hash().unwrap()]);
    assert_eq!(id, Some(tensor_id(&bytes)));
}

#[test]
fn lies_are_found() {
    // Promise: a flip in what was read never leads to other elements with the right hash; a head that is cut short is an error; a
    // chain of parts does not pass for whole.
    let old = weights(5 * TILE, 1);
    let frame = &frames(&old, None)[0];
    let head = FrameHead::parse(frame).unwrap();
    let id = SubtreeHash::Whole(tensor_id(&old));
    for cut in 0..head.len_bytes() {
        assert!(FrameHead::parse(&frame[..cut]).is_err(), "cut at {cut}");
    }
    let body = head.bodies(head.tiles_of(0..1));
    for bit in (0..8 * head.len_bytes()).chain((8 * body.start..8 * body.end).step_by(997)) {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok((tiles, out, hash)) = part(&[&bad], 0..1) {
            let at = 2 * tiles.start * TILE;
            assert!(hash != id || out == old[at..at + out.len()], "bit {bit}");
        }
    }
    let tiles = head.tiles_of(0..1);
    if tiles.len() < 5 {
        let part = head
            .with_bodies(tiles.clone(), &frame[head.bodies(tiles)])
            .unwrap();
        let chain = Chain::new(vec![Link::frame(&part, None, None)]).unwrap();
        assert!(chain.decode(&mut vec![0; old.len()]).is_err());
    }
}
