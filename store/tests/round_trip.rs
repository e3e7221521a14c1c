//! Save and restore through the library, on disk and in memory.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use tpde_store::{Objects, Progress, RestoreRequest, Silent, Stage, Store, StoreError, config};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

fn memory_store() -> Store {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

/// Promise: a directory comes back file by file, byte for byte, with its permissions and empty directories; later steps are
/// small; a tensor under another name costs nothing.
#[test]
fn a_run_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    let store = memory_store();
    let base = weights(150_000, 1);
    let mut next = base.clone();
    (0..150_000).step_by(97).for_each(|i| next[2 * i] ^= 1);
    for (step, bytes, name) in [(0, &base, "w"), (1, &next, "w"), (2, &next, "renamed")] {
        let out = at(&format!("out{step}"));
        fs::create_dir_all(out.join("sub/empty")).unwrap();
        let f32s: Vec<u8> = (0..100u32)
            .flat_map(|i| (i as f32 * 0.1 + step as f32).to_le_bytes())
            .collect();
        safetensors(
            &out.join("model.safetensors"),
            &[
                ("m", "F32", vec![10, 10], f32s),
                (name, "BF16", vec![1500, 100], bytes.clone()),
                ("none", "I64", vec![0], vec![]),
            ],
        );
        fs::write(out.join("sub/config.json"), format!("{{\"step\": {step}}}")).unwrap();
        fs::write(out.join("empty.bin"), "").unwrap();
        fs::set_permissions(out.join("sub/config.json"), fs::Permissions::from_mode(0o640)).unwrap();
        let report = save(&store, &out, step).unwrap();
        assert_eq!(report.seq, step);
        match step {
            0 => assert!(report.stored_bytes > 150_000),
            1 => assert!(report.stored_bytes < 10_000, "{}", report.stored_bytes),
            _ => assert_eq!(report.new_tensors, 1),
        }
    }
    for step in 0..3 {
        restore(&store, &format!("run@{step}"), &at(&format!("back{step}"))).unwrap();
        same_tree(&at(&format!("out{step}")), &at(&format!("back{step}")));
    }
    let again = save(&store, &at("out2"), 2).unwrap();
    assert!(again.already_there);
    let error = save(&store, &at("out1"), 2).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

/// Promise: a tensor longer than a slice, saved under two dtypes and twice in a row, comes back.
#[test]
fn long_and_shared_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let long: Vec<u8> = weights(17 << 20, 3);
    let small = weights(1000, 5);
    let tensors = [
        ("a", "BF16", vec![17 << 20], long.clone()),
        ("b", "BF16", vec![1000], small.clone()),
        ("c", "BF16", vec![1000], small.clone()),
        ("d", "F16", vec![1000], small),
    ];
    safetensors(&out.join("model.safetensors"), &tensors);
    let store = memory_store();
    save(&store, &out, 1).unwrap();
    let mut changed = tensors;
    changed[0].3[40 << 20 >> 1] ^= 3;
    changed[3].3[7] ^= 1;
    let out2 = dir.path().join("out2");
    fs::create_dir(&out2).unwrap();
    safetensors(&out2.join("model.safetensors"), &changed);
    let report = save(&store, &out2, 2).unwrap();
    assert_eq!(report.new_tensors, 2);
    for (reference, source) in [("run@1", &out), ("run~0", &out2)] {
        let back = dir.path().join(reference);
        restore(&store, reference, &back).unwrap();
        same_tree(source, &back);
    }
}

/// Promise: verify finds a flipped byte in a pack at every level that reads it, names what it harms, and is silent on a sound
/// store; a missing pack is found by the quickest level.
#[test]
fn verify_finds_damage() {
    use tpde_store::{Problem, VerifyLevel, VerifyRequest};
    let dir = tempfile::tempdir().unwrap();
    let (out, place) = (dir.path().join("out"), dir.path().join("store"));
    fs::create_dir(&out).unwrap();
    safetensors(
        &out.join("m.safetensors"),
        &[("w", "BF16", vec![70_000], weights(70_000, 1))],
    );
    fs::write(out.join("a.txt"), "hello hello").unwrap();
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    let store = || Store::over(Objects::open(place.to_str().unwrap()).unwrap(), None).unwrap();
    save(&store(), &out, 1).unwrap();
    let verify = |level| {
        store()
            .verify(&VerifyRequest { level, only: None }, &Silent)
            .unwrap()
    };
    let is_needed = |p: &Problem| p.affects.iter().any(|a| (a.run.as_str(), a.step) == ("run", 1));
    let sound = verify(VerifyLevel::Restore);
    assert_eq!(sound.sound, 1);
    assert_eq!((sound.runs, sound.checkpoints, sound.packs), (1, 1, 1));
    assert_eq!(sound.problems, []);

    let mut packs = Vec::new();
    for folder in fs::read_dir(place.join("packs")).unwrap() {
        packs.extend(
            fs::read_dir(folder.unwrap().path())
                .unwrap()
                .map(|f| f.unwrap().path()),
        );
    }
    let pack = &packs[0];
    let good = fs::read(pack).unwrap();
    let mut bad = good.clone();
    bad[60_000] ^= 4;
    fs::set_permissions(pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(pack, &bad).unwrap();
    assert_eq!(verify(VerifyLevel::Quick).problems, []);
    assert_eq!(verify(VerifyLevel::ReadData).problems.len(), 1);
    let problems = verify(VerifyLevel::Restore).problems;
    assert!(problems.iter().any(is_needed), "{problems:?}");
    let error = restore(&store(), "run@1", &dir.path().join("back")).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(
        fs::read_dir(dir.path().join("back")).unwrap().count(),
        0,
        "a file was left behind"
    );

    fs::remove_file(pack).unwrap();
    for level in [VerifyLevel::Quick, VerifyLevel::ReadData, VerifyLevel::Restore] {
        let report = verify(level);
        let [problem] = &report.problems[..] else {
            panic!("one pack is missing: {:?}", report.problems);
        };
        assert!(problem.object.starts_with("packs/") && problem.detail.contains("missing"));
        assert_eq!((report.sound, problem.affects.len()), (0, 1));
    }
    assert!(verify(VerifyLevel::Quick).problems.iter().any(is_needed));
    // What is lost is saved again, and does not lean on what is damaged.
    fs::write(out.join("a.txt"), "hello again").unwrap();
    save(&store(), &out, 2).unwrap();
    restore(&store(), "run@2", &dir.path().join("back2")).unwrap();
    same_tree(&out, &dir.path().join("back2"));
}

/// Promise: diff tells what changed, by how much, and what came and went.
#[test]
fn diff_and_stats() {
    use tpde_store::{Change, FileChange};
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    let w = weights(1000, 1);
    let mut v = w.clone();
    v[10] ^= 1;
    v[20] ^= 2;
    let bf16 = |name, bytes: &Vec<u8>| (name, "BF16", vec![1000], bytes.clone());
    safetensors(
        &a.join("m.safetensors"),
        &[bf16("gone", &w), bf16("same", &w), bf16("w", &w), bf16("x", &w)],
    );
    safetensors(
        &b.join("m.safetensors"),
        &[
            bf16("new", &w),
            bf16("same", &w),
            bf16("w", &v),
            ("x", "F16", vec![1000], w.clone()),
        ],
    );
    fs::write(a.join("gone.txt"), "1").unwrap();
    fs::write(b.join("new.txt"), "22").unwrap();
    let store = memory_store();
    save(&store, &a, 1).unwrap();
    save(&store, &b, 2).unwrap();
    let id = |r: &str| store.resolve(r).unwrap().manifest;
    let diff = store.diff(id("run@1"), id("run@2"), &Silent).unwrap();
    let of = |name: &str| diff.tensors.iter().find(|t| t.name == name).unwrap().change;
    assert_eq!(
        (of("gone"), of("same"), of("new"), of("x")),
        (Change::Removed, Change::Same, Change::Added, Change::Retyped)
    );
    let Change::Changed(c) = of("w") else {
        panic!("{:?}", of("w"))
    };
    assert_eq!((c.elems, c.changed, c.max_ulp), (1000, 2, 2));
    let files: Vec<_> = diff.files.iter().map(|f| (f.path.as_str(), f.change)).collect();
    use FileChange::{Added, Changed, Removed};
    assert_eq!(
        files,
        [
            ("gone.txt", Removed),
            ("m.safetensors", Changed),
            ("new.txt", Added)
        ]
    );

    let stats = store.stats().unwrap();
    assert_eq!((stats.runs[0].checkpoints, stats.manifests), (2, 2));
    assert!(stats.stored_bytes() > 0 && stats.raw_bytes() > 16_000);
}

/// Promise: a chain grows link by link to the depth limit, then starts over from a skip base; every step of a long run restores.
#[test]
fn long_runs_stay_shallow() {
    let dir = tempfile::tempdir().unwrap();
    let store = memory_store();
    let mut bytes = weights(3000, 9);
    let mut ranks = Vec::new();
    for step in 0..40u64 {
        let out = dir.path().join(format!("out{step}"));
        fs::create_dir(&out).unwrap();
        bytes[step as usize * 7] ^= 1;
        safetensors(
            &out.join("m.safetensors"),
            &[("w", "BF16", vec![3000], bytes.clone())],
        );
        let report = save(&store, &out, step).unwrap();
        ranks.push(store.manifest(report.manifest).unwrap().tensors[0].rank);
        fs::remove_dir_all(out).unwrap();
    }
    assert_eq!(ranks[..=16], (0..=16).collect::<Vec<u8>>());
    // Step 17 skips to step 0, step 34 to step 32.
    assert_eq!(ranks[17], 1);
    assert!(ranks.iter().all(|&rank| rank <= 16), "{ranks:?}");
    for step in [0u64, 16, 17, 33, 39] {
        let back = dir.path().join(format!("back{step}"));
        restore(&store, &format!("run@{step}"), &back).unwrap();
        let mut expected = weights(3000, 9);
        (0..=step as usize).for_each(|s| expected[s * 7] ^= 1);
        let file = fs::read(back.join("m.safetensors")).unwrap();
        assert_eq!(file[file.len() - 6000..], expected);
    }
}

/// Promise: restoring some tensors gives a tensor file of those alone; some files, those alone; nothing that matches is an error.
#[test]
fn partial_restores() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let (a, b) = (weights(500, 1), weights(700, 2));
    let tensors = [
        ("layers.0.w", "BF16", vec![500], a),
        ("layers.1.w", "BF16", vec![700], b.clone()),
    ];
    safetensors(&out.join("m.safetensors"), &tensors);
    fs::write(out.join("config.json"), "{}").unwrap();
    let store = memory_store();
    let manifest = save(&store, &out, 1).unwrap().manifest;
    let glob = |text: &str| {
        Some(
            globset::GlobSetBuilder::new()
                .add(globset::Glob::new(text).unwrap())
                .build()
                .unwrap(),
        )
    };
    let run = |files, tensors, to: &str| {
        let target = dir.path().join(to);
        store.restore(
            &RestoreRequest {
                manifest,
                target,
                files,
                tensors,
                overwrite: false,
            },
            &Silent,
        )
    };
    let report = run(None, glob("*.1.*"), "some").unwrap();
    assert_eq!((report.files, report.tensors), (1, 1));
    let file = fs::read(dir.path().join("some/m.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(read.names(), ["layers.1.w"]);
    assert_eq!(read.tensor("layers.1.w").unwrap().data(), b);
    assert_eq!(run(glob("*.json"), None, "files").unwrap().files, 1);
    assert!(matches!(
        run(glob("*.bin"), None, "none"),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        run(None, glob("nothing*"), "none"),
        Err(StoreError::NotFound { .. })
    ));
}

/// Promise: slices of one tensor may lie at different depths, and a chain on them still restores.
#[test]
fn slices_of_different_depth() {
    let dir = tempfile::tempdir().unwrap();
    let store = memory_store();
    let elems = 17 << 20;
    let mut bytes = weights(elems, 1);
    let mut steps = Vec::new();
    for step in 0..4u64 {
        match step {
            0 => {}
            // The first slice becomes something else, the second moves a little.
            1 => {
                bytes[..32 << 20].copy_from_slice(&weights(16 << 20, 77));
                bytes[33 << 20] ^= 1;
            }
            _ => {
                bytes[step as usize] ^= 1;
                bytes[(33 << 20) + 2 * step as usize] ^= 1;
            }
        }
        let out = dir.path().join("out");
        fs::create_dir_all(&out).unwrap();
        safetensors(
            &out.join("m.safetensors"),
            &[("w", "BF16", vec![elems], bytes.clone())],
        );
        save(&store, &out, step).unwrap();
        steps.push(blake3::hash(&bytes));
    }
    for (step, expected) in steps.iter().enumerate() {
        let back = dir.path().join(format!("back{step}"));
        restore(&store, &format!("run@{step}"), &back).unwrap();
        let file = fs::read(back.join("m.safetensors")).unwrap();
        assert_eq!(
            blake3::hash(&file[file.len() - 2 * elems..]),
            *expected,
            "step {step}"
        );
    }
}

/// Promise: many files whose names begin alike restore together, with no more open files than a process usually may have.
#[test]
fn thousands_of_files_with_long_names() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    for i in 0..1500 {
        let name = format!("base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight.{i:05}.bin");
        fs::write(out.join(name), format!("weights {i}")).unwrap();
    }
    let store = memory_store();
    save(&store, &out, 1).unwrap();
    restore(&store, "run@1", &dir.path().join("back")).unwrap();
    same_tree(&out, &dir.path().join("back"));
}

/// Promise: tensors are compared also where files are called after the step, or cut anew; a name that stands twice is not guessed.
#[test]
fn diff_across_files() {
    use tpde_store::Change;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let (w, v) = (weights(1000, 1), weights(1000, 2));
    let bf16 = |name, bytes: &Vec<u8>| (name, "BF16", vec![1000], bytes.clone());
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    safetensors(
        &a.join("state-1.safetensors"),
        &[bf16("w", &w), bf16("x", &w), bf16("y", &w)],
    );
    safetensors(
        &b.join("state-2.safetensors"),
        &[bf16("w", &v), bf16("x", &w), bf16("y", &w)],
    );
    safetensors(&b.join("state-3.safetensors"), &[bf16("y", &w), bf16("z", &w)]);
    let store = memory_store();
    save(&store, &a, 1).unwrap();
    save(&store, &b, 2).unwrap();
    let id = |text: &str| store.resolve(text).unwrap().manifest;
    let diff = store.diff(id("run@1"), id("run@2"), &Silent).unwrap();
    let changes: Vec<_> = diff
        .tensors
        .iter()
        .map(|t| {
            let change = match t.change {
                Change::Changed(_) => "changed",
                Change::Same => "same",
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Retyped => "retyped",
            };
            (
                &t.file[6..7],
                t.name.as_str(),
                change,
                t.old_file.as_deref().map(|f| &f[6..7]),
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            ("1", "y", "removed", None),
            ("2", "w", "changed", Some("1")),
            ("2", "x", "same", Some("1")),
            ("2", "y", "added", None),
            ("3", "y", "added", None),
            ("3", "z", "added", None),
        ]
    );
}

/// Waits for a restore, and wants it to stop once so many pieces are done.
struct Impatient {
    pieces: AtomicU64,
    most: u64,
}

impl Progress for Impatient {
    fn start(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {
        self.pieces.fetch_add(1, Ordering::SeqCst);
    }
    fn finish(&self) {}
    fn is_cancelled(&self) -> bool {
        self.pieces.load(Ordering::SeqCst) >= self.most
    }
}

/// Promise: a restore that is interrupted, at any moment, leaves nothing unfinished; the next one removes what a killed one left,
/// and a save does not take it for a part of the checkpoint.
#[test]
fn interrupted_restores() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let out = at("out");
    fs::create_dir(&out).unwrap();
    for name in ["a", "b", "c"] {
        let tensor = ("w", "BF16", vec![70_000], weights(70_000, 1));
        safetensors(&out.join(format!("{name}.safetensors")), &[tensor]);
    }
    let objects = Objects::open_or_make(at("store").to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    save(&store, &out, 1).unwrap();
    let request = RestoreRequest {
        manifest: store.resolve("run@1").unwrap().manifest,
        target: at("back"),
        files: None,
        tensors: None,
        overwrite: false,
    };
    for most in 0..=6 {
        let progress = Impatient {
            pieces: AtomicU64::new(0),
            most,
        };
        let error = store.restore(&request, &progress).unwrap_err();
        assert!(matches!(error, StoreError::Interrupted { .. }), "{most}: {error}");
        let left = fs::read_dir(at("back")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "after {most} pieces");
    }

    fs::write(at("back").join(".tpde-acbca950-0.partial"), "half").unwrap();
    fs::write(out.join(".tpde-acbca950-0.partial"), "half").unwrap();
    assert!(save(&store, &out, 1).unwrap().already_there);
    assert_eq!(store.restore(&request, &Silent).unwrap().stale_files, 1);
    fs::remove_file(out.join(".tpde-acbca950-0.partial")).unwrap();
    same_tree(&out, &at("back"));
}
