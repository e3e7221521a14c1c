//! The entropy coder: rANS, interleaved over up to 32 lanes, with tables that cost little to send.
//!
//! ```text
//! states   [x0 … xL−1]        u32, 2^15 ≤ x < 2^31, read first
//! round    lane 0 … lane L−1: a symbol each, perhaps a sign; then the low bits that tokens left open
//! words    u16, taken by lanes in order whenever a state falls below 2^15
//! seeds    15 bits a lane, hidden in the states that the encoder starts from: they come out last
//! ```
//!
//! Source: Duda, arXiv:1311.2540 (rANS); Giesen, arXiv:1402.3392 (interleaving).

pub(crate) mod change;
pub(crate) mod stream;
pub(crate) mod table;
