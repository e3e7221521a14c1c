//! Frames: one tensor, or one slice of a large one, encoded on its own (docs/format.md §4).

mod decode;
mod digest;
mod encode;
mod header;
pub(crate) mod tables;

pub use decode::{Chain, Frame, decode_frame};
pub use digest::{SubtreeHash, merge_subtrees, slice_hash, tensor_id};
pub use encode::{Base, EncodedFrame, Slice, encode_frame};
pub use header::slices_of;
