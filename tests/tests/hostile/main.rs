//! Stored bytes that are not what was stored: cut off, flipped, or made by an adversary who can name them well.
//!
//! `TPDE_SOAK=1` flips and cuts for longer. `--nocapture` prints what became of each kind of damage.

mod attempt;
mod damage;
mod furnished;
mod manifests;
mod sound;

const SEED: u64 = 11;
