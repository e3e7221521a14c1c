//! One checkpoint, saved by several.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use tpde_store::gc::GcRequest;
use tpde_store::keys::{Key, Prefix};
use tpde_store::tags::Target;
use tpde_store::{
    ExpectParent, Objects, PartOf, RunName, SaveRequest, Silent, Store, StoreError, config, history,
};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

fn run() -> RunName {
    "run".parse().unwrap()
}

fn part(word: &str, rank: u32, of: u32) -> PartOf {
    PartOf {
        save: word.to_owned(),
        rank,
        of,
    }
}

fn only(glob: &str) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    set.add(Glob::new(glob).unwrap());
    set.build().unwrap()
}

/// A checkpoint of three shards, one tensor of which two of them share, and a file.
fn checkpoint(dir: &Path, seed: u32) {
    fs::create_dir_all(dir.join("extra")).unwrap();
    for shard in 0..3 {
        let tensors = [
            ("w", "BF16", vec![9_000], weights(9_000, seed + shard)),
            ("tied", "BF16", vec![500], weights(500, 77)),
        ];
        safetensors(&dir.join(format!("s{shard}.safetensors")), &tensors);
    }
    fs::write(dir.join("extra/config.json"), format!("{{\"seed\": {seed}}}")).unwrap();
}

/// Promise: parts make one checkpoint that restores as a whole and is the same as one that was saved by one process; without one part
/// nothing is committed; parts of two tries are never mixed, and a file is in one part only.
#[test]
fn all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    checkpoint(&out, 1);
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = || Store::over(objects.clone(), None).unwrap();
    save(&store(), &out, 0).unwrap();
    checkpoint(&out, 5);
    let request = SaveRequest::new(&out, run(), 10);
    let globs = ["s0*", "s[12]*", "extra/*"].map(only);
    let written = Cell::new(0);
    let save_part = |word: &str, rank: u32, only: &GlobSet| {
        let report = store().save_part(&request, &part(word, rank, 3), Some(only), &Silent)?;
        if word == "a" && !report.already_there {
            written.set(written.get() + report.stored_bytes);
        }
        Ok::<_, StoreError>(report)
    };
    let commit = |word: &str| store().commit_parts(&request, word);

    assert!(matches!(commit("a"), Err(StoreError::NotFound { .. })));
    for rank in [2, 0] {
        let report = save_part("a", rank, &globs[rank as usize]).unwrap();
        assert!(
            !report.already_there && report.files == [1, 1, 2][rank as usize],
            "{report:?}"
        );
    }
    assert!(save_part("a", 0, &globs[0]).unwrap().already_there);
    let missing = commit("a").unwrap_err().to_string();
    assert!(missing.contains("part 1 of 3"), "{missing}");
    assert!(store().resolve("run@10").is_err());
    assert!(matches!(
        save_part("a", 0, &globs[1]),
        Err(StoreError::Conflict { .. })
    ));

    // The dead part comes back under another word: what the others stored is not mixed in.
    save_part("b", 1, &globs[1]).unwrap();
    assert!(commit("b").is_err());
    save_part("a", 1, &globs[1]).unwrap();
    let mut wary = request.clone();
    wary.expect_parent = ExpectParent::NoCommits;
    assert!(matches!(
        store().commit_parts(&wary, "a"),
        Err(StoreError::Conflict { .. })
    ));
    let report = commit("a").unwrap();
    assert_eq!((report.seq, report.files, report.already_there), (1, 4, false));
    let back = dir.path().join("back");
    restore(&store(), "run@10", &back).unwrap();
    same_tree(&out, &back);
    // One process saves the same, and finds it there.
    assert!(save(&store(), &out, 10).unwrap().already_there);

    // The same again finds it done. What the log says it cost is what was stored for its parts, and its manifest.
    let again = commit("a").unwrap();
    assert!(again.already_there && again.manifest == report.manifest);
    let log = history::log(&objects, &run()).unwrap();
    let told = log.commits().last().unwrap().totals.stored_bytes;
    let manifest_bytes = objects.head(&Key::Manifest(report.manifest)).unwrap().unwrap();
    assert_eq!(told, written.get() + manifest_bytes);

    // Parts stay for a while; then a gc clears them away.
    let parts = || objects.list(&Prefix::AllParts).unwrap().len();
    assert_eq!(parts(), 4);
    assert_eq!(store().gc(&GcRequest::default(), &Silent).unwrap().parts, 0);
    let request_now = GcRequest {
        grace: Duration::ZERO,
        ..GcRequest::default()
    };
    assert_eq!(store().plan_gc(&request_now).unwrap().parts, 4);
    assert_eq!(store().gc(&request_now, &Silent).unwrap().parts, 4);
    assert_eq!(parts(), 0);
    assert!(matches!(commit("b"), Err(StoreError::NotFound { .. })));
    fs::remove_dir_all(&back).unwrap();
    restore(&store(), "run@10", &back).unwrap();
    same_tree(&out, &back);

    // A run whose name is a tag's would be hidden by it, by whatever way it begins.
    let target = store().resolve("run@0").unwrap();
    let target = Target {
        manifest: target.manifest,
        run: run(),
        seq: 0,
        step: 0,
    };
    store().tag(&"best".parse().unwrap(), &target, false, 1).unwrap();
    let hidden = SaveRequest::new(&out, "best".parse().unwrap(), 1);
    let refused = store().save_part(&hidden, &part("d", 0, 1), None, &Silent);
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");

    for (rank, glob) in ["s*", "s0*", "extra/*"].into_iter().enumerate() {
        save_part("c", u32::try_from(rank).unwrap(), &only(glob)).unwrap();
    }
    let twice = commit("c").unwrap_err().to_string();
    assert!(twice.contains("s0.safetensors"), "{twice}");
}
