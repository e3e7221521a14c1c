//! The entropy coder: rANS, interleaved over up to 32 lanes, with tables that cost little to send.
//!
//! ```text
//! symbols  s0 s1 s2 … s31 s32 …      symbol i is coded by lane i mod L
//! states   [x0 … xL−1]               u32, 2^15 ≤ x < 2^31, read first
//! words    u16, taken by lanes in symbol order whenever a state falls below 2^15
//! raw      bits that no model helps with; the first 15·L of them ride in the encoder's initial states
//! ```
//!
//! Source: Duda, arXiv:1311.2540 (rANS); Giesen, arXiv:1402.3392 (interleaving).

pub(crate) mod mask_table;
pub(crate) mod stream;
pub(crate) mod table;
