//! The kernels on the CPU: `kernels/emulate` runs them unchanged, so their logic is tested where there is no GPU.
//!
//! Compiled with the address and undefined-behaviour sanitizers: a read or write outside an array, or off its alignment, fails.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod corpus;

use corpus::arena::Arena;
use corpus::{Case, DTYPES, damaged, lengths, tiles};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tpde_infer::plan::{OVERREAD_BYTES, Plan, Target};

const MAGIC: u64 = 0x314e_414c_5045_4454;

/// The emulator, compiled once for all tests of this file.
static EMULATOR: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/emulate/main.cpp");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulate-{}", std::process::id()));
    let output = Command::new("g++")
        .args([
            "-std=c++20",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
        ])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o"])
        .args([&binary, &source])
        .output()
        .expect("g++ runs: `make tools` installs it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "g++ {}:\n{errors}", source.display());
    binary
});

/// Runs a plan on the emulator; returns the output's memory and the status words.
fn run(plan: &Plan, arena: &Arena, backwards: bool) -> (Vec<u8>, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("plan"), folder.path().join("result"));
    let mut file = Vec::new();
    let number = |file: &mut Vec<u8>, n: u64| file.extend_from_slice(&n.to_le_bytes());
    let array = |file: &mut Vec<u8>, bytes: &[u8]| {
        number(file, bytes.len() as u64);
        file.extend_from_slice(bytes);
    };
    number(&mut file, MAGIC);
    number(&mut file, backwards.into());
    let mut arrays = plan.arrays();
    // What damaged blocks may read behind the frames must be there, and must not be zeros only.
    let end = arrays[0].len() + OVERREAD_BYTES;
    arrays[0].resize(end, 0x6d);
    arrays.iter().for_each(|bytes| array(&mut file, bytes));
    array(&mut file, &arena.base);
    array(&mut file, &arena.out);
    array(&mut file, &vec![0xff; 4 * plan.slots()]);
    number(&mut file, plan.blocks() as u64);
    number(&mut file, (arena.target == Target::InPlace).into());
    number(&mut file, plan.launches().len() as u64);
    for launch in plan.launches() {
        array(&mut file, launch.kernel.as_bytes());
        for n in [
            launch.first_job,
            launch.ctas.into(),
            launch.threads.into(),
            launch.shared_bytes.into(),
        ] {
            number(&mut file, n);
        }
    }
    std::fs::write(&input, file).unwrap();
    let done = Command::new(&*EMULATOR)
        .args([&input, &output])
        .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "the emulator says:\n{errors}");
    let mut result = std::fs::read(&output).unwrap();
    let status = result.split_off(arena.out.len());
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    (result, status.chunks_exact(4).map(word).collect())
}

fn decodes(cases: &[Case], multiprocessors: usize) {
    for (target, backwards) in [(Target::InPlace, false), (Target::Beside, true)] {
        let arena = Arena::new(cases, target);
        let plan = Plan::new(&arena.items(cases), target, multiprocessors).unwrap();
        let (out, status) = run(&plan, &arena, backwards);
        plan.check(&status).unwrap();
        arena.must_be_decoded(cases, &out);
    }
}

/// Promise: at every length around an edge, every dtype, in place and beside, bytes are those of the scalar decoder, and no other byte
/// is touched.
#[test]
fn every_length() {
    decodes(&lengths(), 1);
}

/// Promise: so are whole tiles of every mode and dtype, many in one plan.
#[test]
fn every_mode() {
    let cases = tiles();
    let modes: BTreeSet<String> = cases
        .iter()
        .flat_map(|case| {
            case.modes()
                .into_iter()
                .map(|mode| format!("{mode:?} {}", case.dtype.name()))
        })
        .collect();
    for dtype in DTYPES {
        for mode in ["Same", "Sparse", "Dense", "Fresh", "Raw"] {
            let both = format!("{mode} {}", dtype.name());
            assert!(modes.contains(&both), "no frame has a tile of {both}");
        }
    }
    decodes(&cases, 132);
}

/// Promise: of damaged frames the device says bad exactly what the scalar decoder refuses, and writes nowhere else.
#[test]
fn damage_is_found_and_stays_inside() {
    let cases = damaged(600, 5);
    let arena = Arena::new(&cases, Target::InPlace);
    let plan = Plan::new(&arena.items(&cases), Target::InPlace, 4).unwrap();
    let (out, status) = run(&plan, &arena, true);
    let bad = arena.must_be_judged(&cases, &out, &plan.damaged(&status).unwrap());
    assert!(bad > 100, "only {bad} of {} flips are damage", cases.len());
}
