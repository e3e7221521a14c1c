//! The kernels on a real GPU, byte for byte against the scalar code.
//!
//! Without a GPU every test here says so and does nothing; with `TPDE_REQUIRE_GPU=1` that is a failure.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod corpus;

use corpus::arena::Arena;
use corpus::{Case, damaged, lengths, tiles};
use cudarc::driver::CudaStream;
use safetensors::SafeTensors;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use tpde_core::Dtype;
use tpde_infer::InferError;
use tpde_infer::device::{Device, Loaded};
use tpde_infer::plan::{DamagedBlock, Plan, Target};

static DEVICE: LazyLock<Result<Device, InferError>> = LazyLock::new(|| Device::open(0));

/// The device, or `None` after a loud word.
fn device(test: &str) -> Option<&'static Device> {
    match &*DEVICE {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var_os("TPDE_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!required, "TPDE_REQUIRE_GPU=1, but {error}");
            // Not eprintln!, which the test harness keeps to itself.
            let word =
                format!("\n*** SKIPPED {test}: {error}\n*** TPDE_REQUIRE_GPU=1 makes this a failure\n");
            std::io::stderr().write_all(word.as_bytes()).unwrap();
            None
        }
    }
}

/// Runs a plan over the cases; returns the output's memory and the damaged blocks.
fn run(
    device: &Device,
    stream: &Arc<CudaStream>,
    arena: &Arena,
    cases: &[Case],
) -> (Vec<u8>, Vec<DamagedBlock>) {
    let plan = Plan::new(
        &arena.items(cases),
        arena.target,
        device.multiprocessors().unwrap(),
    )
    .unwrap();
    let mut loaded = Loaded::new(device, plan, stream).unwrap();
    let mut out = stream.clone_htod(&arena.out).unwrap();
    match arena.target {
        Target::InPlace => loaded.run_in_place(&mut out).unwrap(),
        Target::Beside => {
            let base = stream.clone_htod(&arena.base).unwrap();
            loaded.run_beside(&base, &mut out).unwrap();
        }
    }
    let damaged = loaded.damaged().unwrap();
    assert_eq!(loaded.check().is_ok(), damaged.is_empty());
    (stream.clone_dtoh(&out).unwrap(), damaged)
}

fn decodes(test: &str, cases: &[Case]) {
    let Some(device) = device(test) else { return };
    let streams = [
        device.context().default_stream(),
        device.context().new_stream().unwrap(),
    ];
    for stream in &streams {
        for target in [Target::InPlace, Target::Beside] {
            let arena = Arena::new(cases, target);
            let (out, damaged) = run(device, stream, &arena, cases);
            assert_eq!(damaged, [], "sound frames");
            arena.must_be_decoded(cases, &out);
        }
    }
}

/// Promise: at every length around an edge, every dtype, every alignment, in place and beside, on any stream.
#[test]
fn every_length() {
    decodes("every_length", &lengths());
}

/// Promise: whole tiles of every mode and dtype, many in one plan.
#[test]
fn every_mode() {
    decodes("every_mode", &tiles());
}

/// Promise: a few frames of every mode; small enough for compute-sanitizer.
#[test]
fn a_few_of_each() {
    let dtypes = [Dtype::BF16, Dtype::F32, Dtype::I16];
    let mut cases = Vec::new();
    for dtype in dtypes {
        let words = corpus::plausible(dtype, 4200, 3);
        cases.extend([5, 100, 950].map(|share| corpus::delta(dtype, 4200, share, 9)));
        cases.push(corpus::anchor(dtype, &words, "anchor"));
        cases.push(corpus::anchor(dtype, &corpus::noise(dtype, 1000, 4), "noise"));
    }
    decodes("a_few_of_each", &cases);
}

/// Promise: of damaged frames the device says bad exactly what the scalar decoder refuses, and writes nowhere else.
#[test]
fn damage_is_found_and_stays_inside() {
    let Some(device) = device("damage") else { return };
    let stream = device.context().default_stream();
    let cases = damaged(3000, 5);
    for target in [Target::InPlace, Target::Beside] {
        let arena = Arena::new(&cases, target);
        let (out, blocks) = run(device, &stream, &arena, &cases);
        let bad = arena.must_be_judged(&cases, &out, &blocks);
        assert!(bad > 500, "only {bad} of {} flips are damage", cases.len());
    }
}

/// Promise: a real training state: weights, masters and moments, each on its own and against steps before.
#[test]
fn real_tensors() {
    let data = std::env::var_os("TPDE_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data"),
        PathBuf::from,
    );
    let read = |step: u32| std::fs::read(data.join(format!("state/step{step:05}.safetensors"))).unwrap();
    let files = [500, 501, 510].map(read);
    let parsed = files
        .each_ref()
        .map(|file| SafeTensors::deserialize(file).unwrap());
    let mut cases = Vec::new();
    for (name, first) in parsed[0].tensors() {
        let dtype = match first.dtype() {
            safetensors::Dtype::BF16 => Dtype::BF16,
            safetensors::Dtype::F32 => Dtype::F32,
            _ => continue,
        };
        cases.push(Case::new(
            format!("{name}@500"),
            dtype,
            first.data().to_vec(),
            None,
        ));
        for later in &parsed[1..] {
            let new = later.tensor(&name).unwrap().data().to_vec();
            cases.push(Case::new(
                format!("{name} later"),
                dtype,
                new,
                Some(first.data().to_vec()),
            ));
        }
    }
    assert!(cases.len() > 10, "the state has few tensors");
    decodes("real_tensors", &cases);
}
