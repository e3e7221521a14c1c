//! What is said beside the answer, and what happens when somebody does not wait for it.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::world::{World, write_safetensors};

/// The kinds of the notices of a save.
fn kinds(world: &World, line: &str) -> Vec<String> {
    let saved = world.run(&format!("{line} --json")).expect(0).json();
    let notices = saved["notices"].as_array().expect("a list");
    notices
        .iter()
        .map(|n| n["kind"].as_str().expect("a kind").to_owned())
        .collect()
}

/// Promise: the store is never saved into itself, and what a restore did not finish is never saved; both are said.
#[test]
fn a_store_inside_the_checkpoint() {
    let world = World::with_run();
    std::fs::write(world.path("out/.tpde-acbca950-0.partial"), "half").expect("a file");
    std::fs::rename(world.path("ckpts"), world.path("out/ckpts")).expect("a folder");
    let store = "--store out/ckpts";
    let saved = world
        .run(&format!("save out --run project --step 1 {store}"))
        .expect(0);
    assert!(
        saved.out.contains("ckpts was left out: it is a store")
            && saved.out.contains(".partial was left out"),
        "{}",
        saved.out
    );
    let held = world.run(&format!("ls project {store}")).expect(0).out;
    assert!(held.contains("checkpoint-500/config.json"), "{held}");
    assert!(!held.contains("ckpts") && !held.contains(".partial"), "{held}");
    let again = kinds(&world, &format!("save out --run project --step 1 {store}"));
    assert_eq!(again, ["left_out", "left_out"]);
    let (kind, _) = world
        .run(&format!("save out/ckpts --run project --step 2 --json {store}"))
        .expect(1)
        .error();
    assert_eq!(kind, "input");
}

/// Promise: a step below the highest, and a run that could have had a parent, are pointed out; nothing else is.
#[test]
fn surprises_of_a_save() {
    let world = World::with_run();
    world.checkpoint("tuned", 700);
    assert_eq!(kinds(&world, "save tuned --run llama --step 550"), ["older_step"]);
    assert_eq!(kinds(&world, "save tuned --run llama --step 700"), [""; 0]);
    world.checkpoint("tuned", 701);
    assert_eq!(kinds(&world, "save tuned --run tuned --step 0"), ["same_tensors"]);
    world.checkpoint("tuned", 702);
    assert_eq!(
        kinds(&world, "save tuned --run other --step 0 --parent llama@latest"),
        [""; 0]
    );
    let tuned = world.path("alone");
    std::fs::create_dir(&tuned).expect("a folder");
    write_safetensors(&tuned.join("model.safetensors"), &[("w", vec![7; 64])]);
    assert_eq!(kinds(&world, "save alone --run alone --step 0"), [""; 0]);
}

/// Promise: a restore says what is not whole, what it cleaned up, and what it left alone.
#[test]
fn notes_of_a_restore() {
    let world = World::with_run();
    let part = world.run("restore llama part --tensors *.norm.*").expect(0).out;
    assert!(
        part.contains("1 of 3 files")
            && part.contains("1 of 2 tensors")
            && part.contains("not the files that were saved"),
        "{part}"
    );
    std::fs::create_dir(world.path("back")).expect("a folder");
    for name in [".tpde-acbca950-0.partial", "mine.txt"] {
        std::fs::write(world.path("back").join(name), "x").expect("a file");
    }
    let back = world.run("restore llama back --overwrite").expect(0).out;
    assert!(back.contains("3 files, 2 tensors"), "{back}");
    assert!(
        back.contains("removed 1 unfinished file") && back.contains("1 other file in"),
        "{back}"
    );
    assert!(!world.path("back/.tpde-acbca950-0.partial").exists());
    assert!(world.path("back/mine.txt").exists());
    let error = world
        .run("restore llama out/checkpoint-500/config.json")
        .expect(1)
        .err;
    assert!(
        error.contains("it is a file") && !error.contains("os error"),
        "{error}"
    );
}

/// Promise: what was replaced is marked wherever it is listed, and its tag says so.
#[test]
fn replaced() {
    let world = World::with_run();
    assert!(!world.run("log llama").expect(0).out.contains("replaced"));
    world
        .run("save out/checkpoint-500 --run llama --step 600 --replace")
        .expect(0);
    let log = world.run("log llama --json").json();
    let marks: Vec<_> = (0..3)
        .map(|at| log["checkpoints"][at]["replaced"].clone())
        .collect();
    assert_eq!(marks, [false, true, false]);
    assert!(world.run("log llama").expect(0).out.contains("replaced, best"));
    for line in ["tag", "tag best"] {
        assert!(world.run(line).expect(0).out.contains("replaced"), "{line}");
    }
}

/// Promise: Ctrl-C ends a command with code 130 and a word about it.
#[test]
fn interrupted() {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    std::fs::create_dir(world.path("many")).expect("a folder");
    let names: Vec<String> = (0..2000).map(|i| format!("model.layers.{i}.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), vec![1; 8])).collect();
    write_safetensors(&world.path("many/model.safetensors"), &tensors);
    world.run("save many --run many --step 0").expect(0);
    // The answer is longer than a pipe holds, so the command waits for a reader that reads one byte.
    let mut child = world
        .tpde()
        .args(["ls", "many", "--tensors", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tpde starts");
    let mut out = child.stdout.take().expect("a pipe");
    out.read_exact(&mut [0]).expect("a byte");
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.expect("kill starts").success());
    let ended = child.wait_with_output().expect("tpde ends");
    assert_eq!(ended.status.code(), Some(130));
    let error: serde_json::Value = serde_json::from_slice(&ended.stderr).expect("one JSON object");
    assert_eq!(error["error"]["kind"], "interrupted");
    drop(out);
}

/// Promise: every hint names a way that works.
#[test]
fn hints_that_work() {
    let world = World::with_run();
    let err = |line: &str, code: i32| world.run(line).expect(code).err;
    assert!(err("save out/checkpoint-500 --run llama --step -1", 2).contains("whole number from 0"));
    assert!(err("save out/checkpoint-500 --run llama --step abc", 2).contains("whole number from 0"));
    assert!(err("log llama@600", 2).contains("tpde show llama@600"));
    assert!(err("show 25d6", 3).contains("from 6 digits on"));
    assert!(err("restore llama x --tensors nope*", 3).contains("tpde ls llama@600 --tensors"));
    assert!(err("init --store second third", 2).contains("two places"));
    assert!(!err("save nowhere --run llama --step 1", 3).contains("symbolic link"));
    world.run("init --store second").expect(0);
    assert!(err("log --store out", 3).contains("holds other things"));

    let manifest = world.run("show llama --json").json()["manifest"].clone();
    let id = manifest.as_str().expect("an id");
    std::fs::remove_file(world.path(&format!("ckpts/manifests/{}/{id}", &id[..2]))).expect("a manifest");
    for line in [
        "show llama",
        "ls llama",
        "explain llama",
        "restore llama x",
        "diff llama@500 llama",
    ] {
        assert!(err(line, 4).contains("it is missing"), "{line}");
    }
    let verified = world.run("verify --quick").expect(4).out;
    assert!(
        verified.contains("needed by llama@600") && verified.contains("1 problem"),
        "{verified}"
    );

    std::fs::write(world.path("ckpts/tpde.json"), "{").expect("a file");
    assert!(err("log", 4).contains("Restore tpde.json from a copy"));
    std::fs::remove_file(world.path("ckpts/tpde.json")).expect("a file");
    assert!(err("log", 4).contains("tpde.json is missing"));
}
