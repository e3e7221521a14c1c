//! Runs a target on inputs that grow out of its seeds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Target;
use super::mutate::mutated;
use crate::Rng;

/// Inputs that were read and serve as parents of others, beside the seeds.
const MOST_CHILDREN: usize = 256;

/// What became of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Read.
    pub read: u32,
    /// Refused.
    pub refused: u32,
}

/// Runs `target` on its seeds and on `inputs` that `seed` makes up.
///
/// # Panics
/// If a promise is broken; the input lies then in `failures`, which must exist.
pub fn drive(target: &Target, seed: u64, inputs: u32, failures: &Path) -> Tally {
    let seeds = (target.seeds)();
    let read = seeds.iter().filter(|bytes| run(target, bytes, failures)).count();
    assert!(
        2 * read > seeds.len(),
        "{}: {read} of {} seeds are read",
        target.name,
        seeds.len()
    );
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    let (mut pool, own) = (seeds.clone(), seeds.len());
    for _ in 0..inputs {
        let bytes = mutated(&mut rng, &pool);
        if !run(target, &bytes, failures) {
            tally.refused += 1;
            continue;
        }
        tally.read += 1;
        if pool.len() < own + MOST_CHILDREN {
            pool.push(bytes);
        } else {
            pool[own + rng.below(MOST_CHILDREN)] = bytes;
        }
    }
    tally
}

fn run(target: &Target, bytes: &[u8], failures: &Path) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).unwrap_or_else(|_| {
        let at = failures.join(format!("{}-{}", target.name, blake3::hash(bytes).to_hex()));
        fs::write(&at, bytes).unwrap();
        panic!("{}: the input lies in {}", target.name, at.display());
    })
}
