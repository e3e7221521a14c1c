//! Frames: one tensor, or one slice of a large one, encoded on its own (docs/format.md §4).

mod chain;
mod counts;
mod decode;
mod digest;
mod encode;
mod header;
mod ledger;
mod part;
pub(crate) mod tables;
mod view;
mod write;

pub use chain::{Chain, Link};
pub use decode::{Frame, decode_frame};
pub use digest::{SubtreeHash, merge_subtrees, slice_hash, tensor_id};
pub use encode::{
    Base, EncodedFrame, Given, SAMPLED_TILES, Slice, encode_frame, estimate_bytes, sampled_tiles,
};
pub(crate) use encode::{check_slice, fit_classes};
pub use header::slices_of;
pub use ledger::Ledger;
pub use part::FrameHead;
pub use view::{FrameView, FreshView, SparseView, TileView, TokenView};
