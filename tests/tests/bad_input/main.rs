//! Files, disks, names and stores that are not as they should be: each is a clear error, and the store stays as it was.

mod disk;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;
use tpde_store::keys::Key;
use tpde_store::manifest::{FileContent, FileRecord};
use tpde_store::{
    CommitOptions, Fingerprint, Manifest, ManifestId, NewCommit, Nonce, Progress, RestoreRequest,
    SaveRequest, Silent, Stage, Store, StoreError, Totals, VerifyLevel, commit,
};
use tpde_tests::{
    Rng, assert_same_tree, bf16_weights, fast_folder, make_store, open_store, reachable, restore, run, save,
    tree, verify, write_safetensors,
};

/// A store with one checkpoint, and all that it held then.
struct Bench {
    scratch: TempDir,
    store: Store,
    before: BTreeMap<String, Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        let scratch = fast_folder();
        let store = make_store(&scratch.path().join("store"));
        let good = scratch.path().join("good");
        write_checkpoint(&good, 1);
        save(&store, &good, 1).unwrap();
        let before = reachable(&store);
        assert!(before.len() >= 4, "config, slot, manifest, pack: {before:?}");
        Self {
            scratch,
            store,
            before,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// An empty folder to be saved.
    fn source(&self, name: &str) -> PathBuf {
        let dir = self.at(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn is_as_it_was(&self) {
        let store = open_store(&self.at("store"), None).unwrap();
        assert!(reachable(&store) == self.before, "the store changed");
        assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);
    }

    /// The error of saving `dir`, which must name `name` and say what to do; the store must be as it was.
    fn refuses(&self, dir: &Path, name: &str, next_step: &str, progress: &dyn Progress) -> StoreError {
        let error = self
            .store
            .save(&SaveRequest::new(dir, run(), 2), progress)
            .unwrap_err();
        says(&error.to_string(), name, next_step);
        self.is_as_it_was();
        error
    }
}

fn says(text: &str, name: &str, next_step: &str) {
    assert!(text.contains(name), "{name:?} is not named: {text}");
    assert!(text.contains(next_step), "{next_step:?} is not advised: {text}");
}

fn write_checkpoint(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    let weights = bf16_weights(&mut Rng::new(seed), 5000);
    write_safetensors(
        &dir.join("m.safetensors"),
        &[("w", "BF16", vec![50, 100], weights)],
    );
    fs::write(dir.join("trainer.json"), format!("{{\"seed\": {seed}}}")).unwrap();
}

#[test]
fn tensor_files_that_lie() {
    // Promise: a truncated, overlapping or lying tensor file is refused by name, with the way to keep it all the same.
    let bench = Bench::new();
    let with = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len() + data, 1);
        bytes
    };
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    let good = with(&two(entry("BF16", "[4]", 0, 8), entry("F32", "[2]", 8, 16)), 16);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("seven bytes", vec![0; 7]),
        ("cut in the header", good[..30].to_vec()),
        ("cut in the data", good[..good.len() - 3].to_vec()),
        ("cut before the data", good[..good.len() - 16].to_vec()),
        ("trailing bytes", [&good[..], b"more"].concat()),
        (
            "overlap",
            with(&two(entry("BF16", "[4]", 0, 8), entry("F32", "[2]", 4, 12)), 12),
        ),
        (
            "same place",
            with(&two(entry("BF16", "[4]", 0, 8), entry("BF16", "[4]", 0, 8)), 8),
        ),
        (
            "gap",
            with(&two(entry("BF16", "[4]", 0, 8), entry("F32", "[2]", 12, 20)), 20),
        ),
        (
            "backwards",
            with(&two(entry("BF16", "[4]", 8, 0), entry("F32", "[2]", 8, 16)), 16),
        ),
        (
            "shape too large",
            with(&two(entry("BF16", "[5]", 0, 8), entry("F32", "[2]", 8, 16)), 16),
        ),
        (
            "shape overflows",
            with(
                &format!(
                    r#"{{"a":{}}}"#,
                    entry("F32", "[4294967296,4294967296,4294967296]", 0, 16)
                ),
                16,
            ),
        ),
        (
            "offsets near the largest number",
            with(
                &format!(r#"{{"a":{}}}"#, entry("U8", "[16]", u64::MAX - 16, u64::MAX)),
                16,
            ),
        ),
        (
            "unknown dtype",
            with(&format!(r#"{{"a":{}}}"#, entry("Q7", "[16]", 0, 16)), 16),
        ),
        ("no object", with("[1,2,3]", 16)),
        ("no text", with("\u{0}\u{1}{}", 16)),
        ("header as long as memory", {
            let mut bytes = u64::MAX.to_le_bytes().to_vec();
            bytes.extend_from_slice(&good[8..]);
            bytes
        }),
        ("header longer than the file", {
            let mut bytes = (good.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(&good[8..]);
            bytes
        }),
    ];
    let dir = bench.source("lying");
    fs::write(dir.join("m.safetensors"), &good).unwrap();
    assert!(
        save(&make_store(&bench.at("scratch store")), &dir, 1).is_ok(),
        "the pattern itself is sound"
    );
    for (case, bytes) in cases {
        fs::write(dir.join("m.safetensors"), bytes).unwrap();
        let error = bench.refuses(&dir, "m.safetensors", "--opaque", &Silent);
        assert!(matches!(error, StoreError::Input { .. }), "{case}: {error}");
    }
}

/// Does something to the user's files when encoding begins: after the first pass, before the second.
struct Meddler<F: Fn() + Sync>(F, Mutex<bool>);

impl<F: Fn() + Sync> Meddler<F> {
    fn new(meddle: F) -> Self {
        Self(meddle, Mutex::new(false))
    }
}

impl<F: Fn() + Sync> Progress for Meddler<F> {
    fn start(&self, stage: Stage, _: u64) {
        if stage == Stage::Encode {
            (self.0)();
            *self.1.lock().unwrap() = true;
        }
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

#[test]
fn files_that_do_not_hold_still() {
    // Promise: a file that shrinks, grows, is rewritten, replaced or removed while it is saved is an error that names it, and
    // nothing of that checkpoint is in the store; even if its length and times are the same as before.
    let bench = Bench::new();
    for name in ["m.safetensors", "trainer.json"] {
        let dir = bench.source("moving");
        let path = dir.join(name);
        let open = || File::options().write(true).open(&path).unwrap();
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        let rewrite_behind_the_clock = || {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            let inode_kept = open();
            std::os::unix::fs::FileExt::write_all_at(&inode_kept, &bytes, 0).unwrap();
            inode_kept.set_modified(modified).unwrap();
        };
        let meddlings: [(&str, &(dyn Fn() + Sync)); 6] = [
            ("shrinks", &|| open().set_len(len(&path) - 1).unwrap()),
            ("is emptied", &|| open().set_len(0).unwrap()),
            ("grows", &|| open().set_len(len(&path) + 1).unwrap()),
            ("is replaced", &|| {
                let other = dir.with_extension("new");
                fs::write(&other, vec![b' '; usize::try_from(len(&path)).unwrap()]).unwrap();
                fs::rename(other, &path).unwrap();
            }),
            ("is removed", &|| fs::remove_file(&path).unwrap()),
            (
                "is rewritten in place, its time set back",
                &rewrite_behind_the_clock,
            ),
        ];
        for (what, meddle) in meddlings {
            write_checkpoint(&dir, 2);
            let meddler = Meddler::new(meddle);
            let error = bench.refuses(&dir, name, "save again", &meddler);
            assert!(*meddler.1.lock().unwrap(), "{what}: nobody meddled");
            assert!(
                matches!(error, StoreError::Input { .. } | StoreError::NotFound { .. }),
                "{name} {what}: {error}"
            );
        }
        write_checkpoint(&dir, 2);
        save(&make_store(&bench.at(&format!("store for {name}"))), &dir, 2).unwrap();
    }
}

/// Commits a manifest that nobody saved.
fn commit_by_hand(store: &Store, step: u64, manifest: &Manifest) -> ManifestId {
    let (id, bytes) = manifest.encode().unwrap();
    store
        .objects()
        .put_content(&Key::Manifest(id), bytes.into())
        .unwrap();
    let new = NewCommit {
        metrics: tpde_store::Metrics::default(),
        manifest: id,
        fingerprint: Fingerprint::of(&step.to_le_bytes()),
        step,
        nonce: Nonce::random().unwrap(),
        created_unix_ms: 0,
        totals: Totals::default(),
    };
    commit::commit(
        store.objects(),
        &"hostile".parse().unwrap(),
        &new,
        &CommitOptions::default(),
    )
    .unwrap();
    id
}

#[test]
fn a_hostile_manifest_writes_nothing_outside() {
    // Promise: whatever paths a manifest names and whatever links stand in the target, nothing outside the target is written,
    // and verify finds bad paths.
    let bench = Bench::new();
    let good = bench
        .store
        .manifest(bench.store.resolve("run@1").unwrap().manifest)
        .unwrap();
    let renamed = |path: &str| {
        let mut manifest = good.clone();
        manifest.files.retain(|f| f.path == "trainer.json");
        manifest.files[0].path = path.to_owned();
        manifest
    };
    let cell = bench.source("cell");
    let target = cell.join("target");
    let absolute = cell.join("absolute").to_str().unwrap().to_owned();
    let paths = [
        "../out",
        "..",
        "a/../../out",
        "./a",
        "a//b",
        "a/",
        "",
        "a\\..\\..\\out",
        "a\0b",
        &absolute,
        "/",
    ];
    for (step, path) in (0..).zip(paths) {
        commit_by_hand(&bench.store, step, &renamed(path));
        let error = restore(&bench.store, &format!("hostile@{step}"), &target).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{path:?}: {error}");
        says(&error.to_string(), &format!("{path:?}"), "tpde verify");
        assert_eq!(
            fs::read_dir(&cell).unwrap().count(),
            0,
            "{path:?} wrote something"
        );
    }
    let problems = verify(&bench.store, VerifyLevel::Quick).problems;
    assert_eq!(problems.len(), paths.len(), "{problems:?}");

    // A file and a directory of one name, a file below a file, one path twice.
    let mut step = 100;
    for second in ["a", "a/b"] {
        let mut manifest = renamed("a");
        manifest.files.push(FileRecord {
            path: second.into(),
            ..manifest.files[0].clone()
        });
        if second == "a" {
            manifest.files[1].content = FileContent::Directory;
        }
        for _ in 0..2 {
            commit_by_hand(&bench.store, step, &manifest);
            let error = restore(&bench.store, &format!("hostile@{step}"), &target).unwrap_err();
            assert!(
                matches!(error, StoreError::Input { .. } | StoreError::Corrupt { .. }),
                "{error}"
            );
            if target.exists() {
                assert!(tree(&target).is_empty(), "something was left behind");
                fs::remove_dir_all(&target).unwrap();
            }
            manifest.files.reverse();
            step += 1;
        }
    }

    // Links that wait in the target.
    let outside = bench.source("outside");
    fs::write(outside.join("trainer.json"), "keep me").unwrap();
    for (step, path) in [(200, "link/trainer.json"), (201, "link"), (202, "deep/link/x")] {
        commit_by_hand(&bench.store, step, &renamed(path));
        fs::create_dir_all(target.join("deep")).unwrap();
        let to = match path {
            "link" => outside.join("trainer.json"),
            _ => outside.clone(),
        };
        let link = target.join(if path.starts_with("deep") {
            "deep/link"
        } else {
            "link"
        });
        symlink(&to, &link).unwrap();
        let request = RestoreRequest {
            manifest: bench.store.resolve(&format!("hostile@{step}")).unwrap().manifest,
            target: target.clone(),
            files: None,
            tensors: None,
            overwrite: true,
        };
        let error = bench.store.restore(&request, &Silent).unwrap_err();
        says(&error.to_string(), "link", "empty directory");
        assert!(link.is_symlink());
        fs::remove_dir_all(&target).unwrap();
    }
    assert_eq!(fs::read(outside.join("trainer.json")).unwrap(), b"keep me");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Edits `tpde.json` as another version of tpde might have written it.
fn edit_config(place: &Path, edit: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = place.join("tpde.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(json.as_object_mut().unwrap());
    fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn stores_of_other_versions() {
    // Promise: a newer format and an unknown feature are refused with the way out; an unknown feature of writers refuses saving,
    // and restoring works; an unknown field is no obstacle.
    let bench = Bench::new();
    let place = bench.at("store");
    write_checkpoint(&bench.at("next"), 2);
    edit_config(&place, |json| {
        json.insert("colour".into(), "blue".into());
    });
    save(&open_store(&place, None).unwrap(), &bench.at("good"), 1).unwrap();

    edit_config(&place, |json| {
        json.insert("features".into(), serde_json::json!(["encryption"]));
    });
    let error = open_store(&place, None).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    says(&error.to_string(), "encryption", "Upgrade tpde");

    edit_config(&place, |json| {
        json.remove("features");
        json.insert("write_features".into(), serde_json::json!(["leases"]));
    });
    let store = open_store(&place, None).unwrap();
    let before = reachable(&store);
    let error = save(&store, &bench.at("next"), 2).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    says(&error.to_string(), "leases", "Upgrade tpde");
    assert!(reachable(&store) == before);
    restore(&store, "run@1", &bench.at("back")).unwrap();
    assert_same_tree(&bench.at("good"), &bench.at("back"), "a feature is unknown");
    assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);

    edit_config(&place, |json| {
        json.insert("format".into(), 2.into());
        json.remove("store_id");
    });
    let error = open_store(&place, None).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    says(&error.to_string(), "format 2", "Upgrade tpde");

    fs::write(place.join("tpde.json"), "{\"format\": -1}").unwrap();
    let error = open_store(&place, None).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    says(&error.to_string(), "tpde.json", "from a copy of the store");
}

#[test]
fn odd_names() {
    // Promise: every name that is text comes back, however odd; a name that is not is refused, and named.
    let bench = Bench::new();
    let dir = bench.source("odd");
    let long = "n".repeat(255);
    let wide = "\u{65e5}".repeat(85);
    let names = [
        "é and e\u{301}",
        "two  spaces ",
        "line\nbreak",
        ".hidden",
        "..dots",
        "-dash",
        "quote'\"$(x)`",
        "\u{1f600}.safetensors.txt",
        ".a.partial",
        "a#1",
        &long,
        &wide,
    ];
    for (i, name) in names.iter().enumerate() {
        fs::write(dir.join(name), format!("file {i}")).unwrap();
    }
    fs::create_dir_all(dir.join(&wide[..252]).join(&long).join(".git")).unwrap();
    let weights = bf16_weights(&mut Rng::new(1), 100);
    write_safetensors(
        &dir.join(&long[..243]).with_extension("safetensors"),
        &[
            ("", "BF16", vec![100], weights.clone()),
            ("line\nbreak \u{0}", "BF16", vec![10, 10], weights),
        ],
    );
    save(&bench.store, &dir, 2).unwrap();
    restore(&bench.store, "run@2", &bench.at("back")).unwrap();
    assert_same_tree(&dir, &bench.at("back"), "odd names");

    let bench = Bench::new();
    for bad in [&b"latin\xe9.json"[..], b"back\\slash", b"\xff"] {
        let dir = bench.source("bad");
        fs::write(dir.join(OsStr::from_bytes(bad)), "x").unwrap();
        let shown = String::from_utf8_lossy(bad).into_owned();
        let error = bench.refuses(&dir, &shown, "Rename it", &Silent);
        assert!(matches!(error, StoreError::Input { .. }), "{error}");
        fs::remove_dir_all(&dir).unwrap();
        // As a directory's name, and as the one file that is saved.
        fs::create_dir_all(dir.join(OsStr::from_bytes(bad))).unwrap();
        bench.refuses(&dir, &shown, "Rename it", &Silent);
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn what_cannot_be_saved() {
    // Promise: nothing there, an empty directory, a pipe, a link to a directory or to nothing: each is named with a next step.
    let bench = Bench::new();
    bench.refuses(&bench.at("nowhere"), "nowhere", "Check the path", &Silent);
    bench.refuses(&bench.source("empty"), "empty", "Name the directory", &Silent);
    let dir = bench.source("dir");
    symlink(bench.at("good"), dir.join("linked")).unwrap();
    bench.refuses(&dir, "linked", "remove the link", &Silent);
    fs::remove_file(dir.join("linked")).unwrap();
    symlink("gone", dir.join("dangling")).unwrap();
    bench.refuses(&dir, "dangling", "mend or remove it", &Silent);
    fs::remove_file(dir.join("dangling")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(dir.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    bench.refuses(&dir, "pipe", "Remove the pipe", &Silent);
}

#[test]
fn a_step_is_saved_once() {
    // Promise: the second saver of a step is told that it is there, or that it differs and how to replace it; and replacing
    // keeps the old one reachable.
    let bench = Bench::new();
    let again = save(&bench.store, &bench.at("good"), 1).unwrap();
    assert!(again.already_there);
    bench.is_as_it_was();
    write_checkpoint(&bench.at("other"), 9);
    let error = save(&bench.store, &bench.at("other"), 1).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    says(&error.to_string(), "step 1", "--replace");
    bench.is_as_it_was();
    let mut request = SaveRequest::new(bench.at("other"), run(), 1);
    request.replace = true;
    assert_eq!(bench.store.save(&request, &Silent).unwrap().seq, 1);
    for (reference, source) in [("run@1", "other"), ("run~1", "good")] {
        let back = bench.at(&format!("back of {source}"));
        restore(&bench.store, reference, &back).unwrap();
        assert_same_tree(&bench.at(source), &back, reference);
    }
}
