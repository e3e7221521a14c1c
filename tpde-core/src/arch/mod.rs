//! Hot loops. `scalar` is the definition; every other variant must equal it byte for byte.
//!
//! | variant | of what | where |
//! |---|---|---|
//! | `scalar` | everything | everywhere |
//! | `avx512` | SPARSE tiles of 16-bit floats, and DENSE ones with 32 lanes | x86-64 with AVX-512 BW, VBMI2 and BITALG |
//!
//! A vector variant takes the whole segments or rounds at the front of a block and leaves the stream where the scalar code
//! goes on with the rest. Where it meets anything wrong it takes nothing: the scalar code then starts the block again and says
//! what is wrong, so errors are the same everywhere.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no variant for this machine")
)]
mod floats;
mod isa;
#[cfg(test)]
mod parity;
pub(crate) mod scalar;

pub(crate) use floats::{Floats16, Sparse16, TokenLookup};

use scalar::Lanes;

/// Decodes the whole segments at the front of a SPARSE block of 16-bit floats.
///
/// * `base`, `out`: the block's words; the elements decoded are written to `out`, changed or not.
/// * `seeded`: comes empty; then holds elements, from the block's start, and magnitudes of the changes that wait for a sign.
///
/// Returns how many elements were decoded: none where no variant applies or something is wrong; then `lanes` and `seeded` are
/// as they came.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, clippy::ptr_arg, reason = "no variant for this machine")
)]
pub(crate) fn sparse16(
    lanes: &mut Lanes<'_>,
    count: usize,
    sparse: &Sparse16<'_>,
    base: &[u8],
    out: &mut [u8],
    seeded: &mut Vec<(usize, u64)>,
) -> usize {
    let elems = match (isa::current(), count) {
        #[cfg(target_arch = "x86_64")]
        (isa::Isa::Avx512, _) => avx512::sparse(lanes, count, sparse, base, out, seeded),
        _ => 0,
    };
    isa::noted(elems)
}

/// Decodes the whole pairs of rounds at the front of a DENSE block of 16-bit floats.
///
/// Arguments and result as of [`sparse16`].
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "no variant for this machine")
)]
pub(crate) fn dense16(
    lanes: &mut Lanes<'_>,
    count: usize,
    floats: Floats16,
    magnitudes: TokenLookup<'_>,
    base: &[u8],
    out: &mut [u8],
) -> usize {
    let elems = match (isa::current(), count) {
        #[cfg(target_arch = "x86_64")]
        (isa::Isa::Avx512, 32) => avx512::dense(lanes, floats, magnitudes, base, out),
        _ => 0,
    };
    isa::noted(elems)
}
