//! Every width and limit of the format, in one place (docs/format.md §2).

/// Version byte of a frame.
pub const FRAME_VERSION: u8 = 1;

/// log2 of the elements in a tile: the unit of random access, mode choice and digest.
pub const TILE_LOG2: u32 = 16;
/// Elements in a whole tile.
pub const TILE_ELEMS: usize = 1 << TILE_LOG2;

/// Most elements of one tensor that one frame holds; longer tensors are cut into slices of this size (half of it where an
/// element has 8 bytes). Counted in elements, so that slices of a master and of its weight are the same elements.
pub const SLICE_ELEMS: usize = 1 << 23;
/// Most bytes of one slice.
pub const SLICE_BYTES: usize = 4 * SLICE_ELEMS;

/// Elements that SPARSE codes before it turns to the magnitudes of what changed among them.
pub const SEGMENT_ELEMS: usize = 4096;
/// Elements in a row that share one symbol of SPARSE.
pub const GROUP_ELEMS: usize = 8;

/// Most classes that the base's exponent is sorted into.
pub const MAX_CLASSES: usize = 16;

/// Most interleaved rANS lanes in one stream: one GPU warp, two AVX-512 vectors.
pub const MAX_LANES: usize = 32;
/// Lower bound of a lane state. States stay below 2^31, so a 32-bit reciprocal is exact.
pub const STATE_LOW: u32 = 1 << 15;
/// Upper bound of a lane state, exclusive.
pub const STATE_HIGH: u32 = 1 << 31;
/// Bits that each lane's initial state carries.
pub const SEED_BITS: u32 = 15;

/// Fewest bits of a probability.
pub const MIN_PROB_BITS: u32 = 10;
/// Most bits of a probability.
pub const MAX_PROB_BITS: u32 = 12;
/// Most bytes that the decoding tables of one mode may take: `tables << prob_bits` entries of four bytes.
pub const MAX_TABLE_BYTES: usize = 64 << 10;
/// Most symbols in an alphabet.
pub const MAX_SYMBOLS: usize = 256;

/// log2 of the smallest restart unit, in elements; the largest is a tile.
pub const MIN_BLOCK_LOG2: u32 = 12;
/// log2 of the most lanes.
pub const MAX_LANES_LOG2: u32 = 5;

/// Longest digest group, as log2 of its tiles.
pub const MAX_GROUP_LOG2: u32 = 16;

/// Most elements of a tensor (2^48: far above any tensor, far below overflow).
pub const MAX_TENSOR_ELEMS: u64 = 1 << 48;

// The limits fit one another, so that no other module needs to check them.
const _: () = {
    assert!(SLICE_BYTES.is_power_of_two());
    assert!(SLICE_BYTES >= 8 * TILE_ELEMS);
    assert!(STATE_LOW == 1 << SEED_BITS);
    assert!((STATE_LOW as u64) << 16 == STATE_HIGH as u64);
    assert!(MAX_SYMBOLS <= 1 << MIN_PROB_BITS);
    assert!(MAX_CLASSES * (4 << MIN_PROB_BITS) <= MAX_TABLE_BYTES);
    assert!(MAX_LANES == 1 << MAX_LANES_LOG2);
    assert!(SEGMENT_ELEMS <= 1 << MIN_BLOCK_LOG2 && SEGMENT_ELEMS.is_multiple_of(GROUP_ELEMS));
};
