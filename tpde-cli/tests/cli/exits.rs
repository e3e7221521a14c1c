//! How commands end.

use crate::world::{World, ran};

/// Runs `line` with and without `--json`: one exit code, one kind.
#[track_caller]
fn fails(world: &World, line: &str, code: i32, kind: &str) -> String {
    let plain = world.run(line).expect(code);
    assert!(plain.out.is_empty(), "{plain:#?}");
    let (found, message) = world.run(&format!("{line} --json")).expect(code).error();
    assert_eq!(found, kind, "{line}: {message}");
    plain.err
}

/// Promise 1: what is in the way outside the store is a failure of its own.
#[test]
fn failed() {
    let world = World::with_run();
    world.run("restore llama@600 there").expect(0);
    let text = fails(&world, "restore llama@600 there", 1, "input");
    assert!(
        text.starts_with("error: ") && text.contains("\n hint: ") && text.contains("--overwrite"),
        "{text}"
    );
    std::fs::write(world.path("out/checkpoint-500/model.safetensors"), [9; 40]).expect("a file");
    fails(
        &world,
        "save out/checkpoint-500 --run llama --step 700",
        1,
        "input",
    );
}

/// Promise 2: what was typed wrongly is told from what is not there.
#[test]
fn usage() {
    let world = World::with_run();
    for line in [
        "frobnicate",
        "log --nope",
        "save out/checkpoint-500 --run llama",
        "save out/checkpoint-500 --run ll@ma --step 1",
        "save out/checkpoint-500 --run llama --step -1",
        "save out/checkpoint-500 --run llama --step 1 --opaque [",
        "show llama@x",
        "show llama~~",
        "verify --quick --restore",
        "restore llama",
        "tag best llama --delete",
        "tag deadbeef llama",
        "tag --delete",
        "init s3://key@bucket/store",
        "log --store s3://key@bucket/store",
        "log -q -v",
        "restore llama@600 there --bwlimit 5apples",
        "save out/checkpoint-500 --run llama --step 1 --bwlimit 0",
        "log --pack-cache much",
        "completions tcsh",
    ] {
        fails(&world, line, 2, "usage");
    }
    let bare = world.run("").expect(2);
    assert!(
        bare.out.is_empty() && bare.err.contains("Usage: tpde"),
        "{bare:#?}"
    );
}

/// Promise: without a store the message names both ways to name one.
#[test]
fn no_store_is_named() {
    let world = World::empty();
    for name in [None, Some("")] {
        let mut command = world.tpde();
        match name {
            None => command.env_remove("TPDE_STORE"),
            Some(name) => command.env("TPDE_STORE", name),
        };
        let ran = ran(command.arg("log")).expect(2);
        assert!(
            ran.err.contains("--store") && ran.err.contains("TPDE_STORE"),
            "{}",
            ran.err
        );
    }
}

/// Promise 3: what is not there is said to be so, with what there is instead.
#[test]
fn not_found() {
    let world = World::with_run();
    assert!(fails(&world, "log --store nowhere", 3, "not_found").contains("tpde init"));
    assert!(fails(&world, "log mistral", 3, "not_found").contains("llama"));
    assert!(fails(&world, "show llama@510", 3, "not_found").contains("500"));
    for line in [
        "show worst",
        "show llama~9",
        "tag worst",
        "tag --delete worst",
        "restore llama x --tensors nope",
        "save nowhere --run llama --step 1",
        "save out/checkpoint-500 --run x --step 1 --parent nope",
    ] {
        fails(&world, line, 3, "not_found");
    }
}

/// Promise 4: damage is never restored, and `verify` finds it.
#[test]
fn corrupt() {
    let world = World::with_run();
    world.damage_packs();
    fails(&world, "restore llama@600 there", 4, "corrupt");
    assert!(!world.path("there/model.safetensors").exists());
    let verified = world.run("verify").expect(4);
    assert!(
        verified.out.contains("problem: ") && verified.err.is_empty(),
        "{verified:#?}"
    );
    let quiet = world.run("verify --quiet").expect(4);
    assert!(quiet.out.contains("problem: "), "{quiet:#?}");
    let answer = world.run("verify --json").expect(4).json();
    assert_eq!(answer["ok"], false);
    assert!(!answer["problems"].as_array().expect("problems").is_empty());
}

/// Promise 5: nothing is replaced that was not named.
#[test]
fn conflict() {
    let world = World::with_run();
    fails(&world, "init ckpts", 5, "conflict");
    fails(&world, "tag best llama@500", 5, "conflict");
    let save = "save out/checkpoint-500 --run llama";
    assert!(fails(&world, &format!("{save} --step 600"), 5, "conflict").contains("--replace"));
    fails(
        &world,
        &format!("{save} --step 700 --expect-parent none"),
        5,
        "conflict",
    );
    fails(
        &world,
        &format!("{save} --step 700 --expect-parent llama@500"),
        5,
        "conflict",
    );
    world.run(&format!("{save} --step 600 --replace")).expect(0);
    // A name means one thing.
    fails(&world, "tag llama llama@500", 5, "conflict");
    fails(
        &world,
        "save out/checkpoint-500 --run best --step 1",
        5,
        "conflict",
    );
    fails(&world, "tag latest llama@500", 2, "usage");
}

/// Promise: a reader that has read enough is no error.
#[test]
fn closed_pipe() {
    let world = World::with_run();
    for line in [
        "log",
        "log --json",
        "--help",
        "save --help",
        "completions zsh",
        "ls best",
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = world
            .tpde()
            .args(line.split(' '))
            .stdout(writer)
            .status()
            .expect("tpde starts");
        assert_eq!(status.code(), Some(0), "{line}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = world.tpde().args(["show", "nope"]).stderr(writer).status();
    assert_eq!(status.expect("tpde starts").code(), Some(3));
}

/// Promise: an answer that cannot be written is an error.
#[test]
#[cfg(target_os = "linux")]
fn full_disk() {
    let world = World::with_run();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("a full disk");
    let output = world
        .tpde()
        .arg("log")
        .stdout(full)
        .output()
        .expect("tpde starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the answer"));
}
