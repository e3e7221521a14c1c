//! Bytes on their way: many requests at a time, within a budget, and none that is not needed.
//!
//! ```text
//! save      packs ─▶ uploads: several on their way while the next is encoded
//! restore   windows of pieces ─▶ runs: neighbours in one request ─▶ ahead: on their way while the last window is decoded
//! ```
//! A disk answers at once, so there all of this is done by the thread that wants the bytes, as it wants them.

mod ahead;
mod budget;
mod pieces;
mod runs;
mod uploads;

pub use ahead::Moved;
pub(crate) use ahead::ahead;
pub(crate) use pieces::{Pieces, Stretch, stretches};
pub use uploads::Uploads;
