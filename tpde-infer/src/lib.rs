//! Checkpoints where they are used: TPDE frames decoded on an NVIDIA GPU, added to their base in place or beside it.
//!
//! A [`Plan`](plan::Plan) covers many frames (a whole model) and runs in a handful of launches. The host reads headers and tables and
//! finds the blocks; one warp decodes one block; every byte equals what [`tpde_core`]'s scalar code decodes.
//!
//! ```text
//! frames ─plan─▶ records, tasks, jobs ─upload─▶ expand tables ─▶ copy │ sparse │ dense │ fresh ─▶ status words ─▶ checked
//! ```
//!
//! Nothing of CUDA is needed to build or load this crate: the driver and NVRTC are looked for when a [`Device`](device::Device) is
//! opened, and kernels (`kernels/`, embedded) are compiled for the device found, once.

#[expect(unsafe_code, reason = "the driver and NVRTC are C libraries")]
pub mod device;
mod error;
pub mod plan;
pub mod sources;

pub use error::{InferError, Result};
