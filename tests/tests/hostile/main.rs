//! Stored bytes that are not what was stored: cut off, flipped, or made by an adversary who can name them well.
//!
//! `TPDE_SOAK=1` flips and cuts for longer. `--nocapture` prints what became of each kind of damage.

mod attempt;
mod damage;
mod furnished;
mod manifests;
mod sound;

use tpde_tests::soak;

const SEED: u64 = 11;

/// How many flips are made where `flips` are made in a hurry.
fn times(flips: usize) -> usize {
    if soak() { 10 * flips } else { flips }
}
