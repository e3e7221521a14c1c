//! Every width and limit of the format, in one place (docs/format.md §2).

/// Version byte of a frame. Version 0 makes no promise: it may change until it has been proved on a GPU.
pub const FRAME_VERSION: u8 = 0;

/// log2 of the elements in a tile: the unit of random access, mode choice and digest.
pub const TILE_LOG2: u32 = 16;
/// Elements in a whole tile.
pub const TILE_ELEMS: usize = 1 << TILE_LOG2;

/// Most bytes of one tensor that one frame holds; longer tensors are cut into slices of this size.
pub const SLICE_BYTES: usize = 32 << 20;

/// Most classes that the base's exponent is sorted into.
pub const MAX_CLASSES: usize = 16;

/// Most interleaved rANS lanes in one stream: one GPU warp, two AVX-512 vectors.
pub const MAX_LANES: usize = 32;
/// Lower bound of a lane state. States stay below 2^31, so a 32-bit reciprocal is exact.
pub const STATE_LOW: u32 = 1 << 15;
/// Upper bound of a lane state, exclusive.
pub const STATE_HIGH: u32 = 1 << 31;
/// Raw bits that each lane's initial state carries.
pub const STATE_PAYLOAD_BITS: u32 = 15;

/// Fewest bits of a probability.
pub const MIN_PROB_BITS: u32 = 10;
/// Most bits of a probability.
pub const MAX_PROB_BITS: u32 = 12;
/// Most bytes that the decoding tables of one mode may take: `tables << prob_bits` entries of four bytes.
pub const MAX_TABLE_BYTES: usize = 64 << 10;
/// Most symbols in an alphabet.
pub const MAX_SYMBOLS: usize = 256;

/// log2 of the smallest restart unit of the DENSE and FRESH modes, in elements.
pub const MIN_BLOCK_LOG2: u32 = 12;
/// The restart unit that this encoder writes.
pub const BLOCK_LOG2: u32 = 14;

/// Longest digest group, as log2 of its tiles.
pub const MAX_GROUP_LOG2: u32 = 16;

/// Most elements of a tensor (2^48: far above any tensor, far below overflow).
pub const MAX_TENSOR_ELEMS: u64 = 1 << 48;

// The limits fit one another, so that no other module needs to check them.
const _: () = {
    assert!(SLICE_BYTES.is_power_of_two());
    assert!(SLICE_BYTES >= 8 * TILE_ELEMS);
    assert!(STATE_LOW == 1 << STATE_PAYLOAD_BITS);
    assert!((STATE_LOW as u64) << 16 == STATE_HIGH as u64);
    assert!(MAX_SYMBOLS <= 1 << MIN_PROB_BITS);
    assert!(MAX_CLASSES * (4 << MIN_PROB_BITS) <= MAX_TABLE_BYTES);
    assert!(BLOCK_LOG2 >= MIN_BLOCK_LOG2 && BLOCK_LOG2 <= TILE_LOG2);
};
