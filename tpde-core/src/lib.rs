//! The TPDE codec: tensors in, frames out, byte for byte back.
//!
//! A training run's checkpoints resemble one another. A *frame* holds one tensor, or one slice of a large one, as the
//! distance (in ulps) of every element from a *base* tensor, coded given the base's exponent; or on its own (an *anchor*).
//!
//! ```text
//! bytes ─ordinal─▶ residual ─class of base─▶ token + raw bits ─rANS─▶ tile body ─▶ frame
//!          (per element)        (per tile: SAME, SPARSE, DENSE, FRESH, RAW)
//! ```
//!
//! The crate does no I/O, reads no clock and starts no threads of its own beyond rayon's. The bytes are specified in
//! `docs/format.md`.
//!
//! ```
//! use tpde_core::{Base, Chain, Dtype, Frame, Link, Slice, SubtreeHash, encode_frame, tensor_id};
//!
//! let step_500: Vec<u8> = (0..4096u16).flat_map(|i| (0x3c00 + i % 700).to_le_bytes()).collect();
//! let mut step_510 = step_500.clone();
//! step_510[4000] ^= 1;
//!
//! let slice = Slice { dtype: Dtype::BF16, total_elems: 4096, index: 0 };
//! let anchor = encode_frame(slice, &step_500, None, None)?;
//! let base = Base { id: tensor_id(&step_500), bytes: &step_500 };
//! let delta = encode_frame(slice, &step_510, Some(base), None)?;
//! assert!(delta.bytes.len() < 200);
//!
//! let (anchor, delta) = (Frame::parse(&anchor.bytes)?, Frame::parse(&delta.bytes)?);
//! let chain = Chain::new(vec![Link::frame(&anchor, None, None), Link::frame(&delta, Some(0), None)])?;
//! let mut restored = vec![0; step_510.len()];
//! let hash = chain.decode(&mut restored)?;
//! assert_eq!(restored, step_510);
//! assert_eq!(hash, SubtreeHash::Whole(tensor_id(&step_510)));
//! # Ok::<(), tpde_core::CodecError>(())
//! ```

#![cfg_attr(
    test,
    expect(clippy::cast_possible_truncation, reason = "tests make up numbers")
)]

mod arch;
mod bits;
mod classes;
mod compare;
pub mod constants;
mod cost;
mod dtype;
mod error;
mod floor;
mod frame;
mod id;
mod meter;
mod ordinal;
mod rans;
mod tile;
mod token;
pub mod wire;

pub use compare::{Comparison, compare, counts_ulps};
pub use dtype::{Dtype, Layout};
pub use error::{CodecError, Result};
pub use floor::floor_bytes;
pub use frame::{
    Base, Chain, EncodedFrame, Frame, FrameHead, FrameView, FreshView, Given, Ledger, Link, SAMPLED_TILES,
    Slice, SparseView, SubtreeHash, TileView, TokenView, decode_frame, encode_frame, estimate_bytes,
    merge_subtrees, sampled_tiles, slice_hash, slices_of, tensor_id,
};
pub use id::{ID_LEN, Id, ParseIdError, TensorId, TensorKind};
pub use meter::Kind;
pub use tile::{Mode, Relation};
