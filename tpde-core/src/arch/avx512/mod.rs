//! AVX-512: the lanes of a stream in one vector of sixteen 32-bit states, or two for 32 lanes, low lanes first.
//!
//! ```text
//! round    slots → what they mean (sparse, dense) → x ← f·(x >> b) + within
//!          lanes below 2^15: a mask → vpexpand deals the next words out to them → the cursor moves by popcnt
//! ```
//!
//! Departures from the scalar form, none of them in what comes out:
//!
//! 1. Only whole SPARSE segments and whole pairs of DENSE rounds are taken; the scalar code goes on with the rest.
//! 2. What is wrong (a magnitude that no residual has, missing words) is noticed after the last round, and then nothing
//!    counts: the scalar code starts again and finds it.
//! 3. A word holds something of two lanes where 16 bits are enough: SPARSE computes the slots of group i beside those of group
//!    16 + i, DENSE the tables of the two elements that a lane takes in two rounds.
//! 4. Chances are made of 32 groups whatever the number of lanes; fewer than 16 lanes move through their vector, so that each
//!    meets its group where it stands.
//!
//! Bytes are little-endian, as the format's are. Slices need no alignment.

#![expect(
    unsafe_code,
    reason = "loads, stores, gathers, and calls of what the machine was asked for"
)]

mod dense;
mod firsts;
mod lanes;
mod lists;
mod segment;
mod sparse;
mod tokens;
mod words;

pub(super) use dense::dense;
pub(super) use sparse::sparse;

/// Whether this machine has what every function here is compiled for.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512bitalg")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}
