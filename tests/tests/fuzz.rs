//! Made-up bytes for everything that reads bytes: the functions of tpde-tests' `fuzz`, on inputs that grow out of golden ones.
//!
//! `TPDE_SOAK=1` makes up thirty times as many, `TPDE_FUZZ_SEED` others.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use peak_alloc::PeakAlloc;
use tpde_tests::fuzz::{Target, drive, target};
use tpde_tests::soak;

/// Counts what is asked for, touched or not.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Most memory that one target may hold beyond what it began with.
const MOST_BYTES: usize = 512 << 20;

static ALONE: Mutex<()> = Mutex::new(());

fn holds(name: &str) {
    let target = target(name);
    let seed = std::env::var("TPDE_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let inputs = if soak() { 30 * target.inputs } else { target.inputs };
    let failures = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // What one target asks for is told only while no other does.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let start = Instant::now();
    let tally = drive(&target, seed, inputs, failures);
    println!("{name}: seed {seed}, {tally:?} in {:.1?}", start.elapsed());
    assert!(
        tally.read > inputs / 100 && tally.refused > inputs / 100,
        "{tally:?}"
    );
    let asked = MEMORY.peak_usage().saturating_sub(before);
    println!("{name}: at most {} KiB at a time", asked >> 10);
    assert!(asked < MOST_BYTES, "{asked} bytes of memory were asked for");
}

#[test]
fn a_broken_promise_is_found() {
    // Promise: a target that panics fails, and the input is kept: without this the others say nothing.
    let broken = Target {
        name: "broken",
        run: |bytes| {
            assert!(bytes.first() != Some(&1), "this is expected");
            true
        },
        seeds: || vec![vec![0; 4]],
        inputs: 1_000,
    };
    let failures = tempfile::tempdir().unwrap();
    let driven = catch_unwind(|| drive(&broken, 1, broken.inputs, failures.path()));
    assert!(driven.is_err());
    let kept: Vec<_> = fs::read_dir(failures.path()).unwrap().collect();
    let [Ok(input)] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert_eq!(fs::read(input.path()).unwrap()[0], 1);
}

#[test]
fn frames() {
    // Promise: no frame makes the codec panic or take memory that its bytes do not earn, and whatever it decodes to is encoded exactly.
    holds("frame");
}

#[test]
fn packs() {
    // Promise: no end of a pack makes a reader panic or read outside the pack; what is read survives being written.
    holds("pack");
}

#[test]
fn manifests() {
    // Promise: no manifest makes a reader panic or take memory that its bytes do not earn; what is read survives being written.
    holds("manifest");
}

#[test]
fn slots() {
    // Promise: no slot under a right seal makes a reader panic; what is read survives being written.
    holds("slot");
}

#[test]
fn rollups() {
    // Promise: the same of rollups.
    holds("rollup");
}

#[test]
fn safetensors() {
    // Promise: whatever a safetensors file says, it is refused by name or comes back byte for byte.
    holds("safetensors");
}

#[test]
fn archives_and_pickles() {
    // Promise: whatever a PyTorch file says, it comes back byte for byte.
    holds("torch");
}
