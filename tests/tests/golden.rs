//! Old bytes are the contract: what a released format wrote is read for ever, by this decoder and by the reference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tpde_core::{Base, Frame, Given, Mode, SubtreeHash, decode_frame, tensor_id};
use tpde_store::VerifyLevel;
use tpde_tests::golden::{self, v1_0};
use tpde_tests::{assert_same_tree, copy_tree, open_store, restore, run, verify};

fn reference(place: &Path, words: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join(".venv/bin/python");
    assert!(
        python.exists(),
        "the reference decoder needs .venv: run `make setup`"
    );
    let output = Command::new(python)
        .arg("-B")
        .arg(root.join("docs/reference/tpde_reference.py"))
        .arg(place)
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
}

/// Promise: every frame of format 1.0 decodes to what it was made from, by both decoders; all modes and relations are among them.
#[test]
fn frames_of_1_0() {
    let place = golden::folder("v1_0").join("frames");
    let scratch = tempfile::tempdir().unwrap();
    let mut names = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    let frames = v1_0::frames();
    for golden in &frames {
        let bytes = fs::read(place.join(format!("{}.frame", golden.name))).unwrap();
        let frame = Frame::parse(&bytes).unwrap();
        kinds.extend(frame.tiles().iter().map(|(mode, _)| mode.name()));
        kinds.extend(frame.relation().map(|r| r.name()));
        let base = golden.base.as_ref().filter(|_| frame.has_base());
        let given = golden.given.as_ref().filter(|_| frame.relation().is_some());
        let at = |ending: &str| scratch.path().join(format!("{}.{ending}", golden.name));
        fs::write(at("frame"), &bytes).unwrap();
        base.iter().for_each(|b| fs::write(at("base"), b).unwrap());
        given.iter().for_each(|(_, g)| fs::write(at("given"), g).unwrap());
        let mut out = vec![0xa5; golden.new.len()];
        let hash = decode_frame(
            &bytes,
            base.map(|bytes| Base {
                id: tensor_id(bytes),
                bytes,
            }),
            given.map(|(relation, bytes)| Given {
                relation: *relation,
                id: tensor_id(bytes),
                bytes,
            }),
            &mut out,
        )
        .unwrap();
        assert!(out == golden.new, "{}", golden.name);
        assert_eq!(
            hash,
            SubtreeHash::Whole(tensor_id(&golden.new)),
            "{}",
            golden.name
        );
        names.insert(format!("{}.frame", golden.name));
    }
    let found: BTreeSet<String> = fs::read_dir(&place)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, names, "golden files and the function that made them");
    let expected: BTreeSet<&str> = Mode::ALL
        .iter()
        .map(|m| m.name())
        .chain(["rounded", "scale", "cast"])
        .collect();
    assert_eq!(kinds, expected);

    reference(scratch.path(), &["frames"]);
    for golden in &frames {
        let slice = fs::read(scratch.path().join(format!("{}.slice", golden.name))).unwrap();
        assert!(
            slice == golden.new,
            "{}: the reference decodes to other bytes",
            golden.name
        );
    }
}

/// Promise: a store of format 1.0 is sound, restores every step byte for byte, by both decoders, and can be added to.
#[test]
fn a_store_of_1_0() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { scratch.path().join(name) };
    copy_tree(&golden::folder("v1_0").join("store"), &at("store"));
    let store = open_store(&at("store"), None).unwrap();
    assert!(verify(&store, VerifyLevel::Restore).problems.is_empty());
    for step in v1_0::STEPS {
        let [made, back, by_reference] =
            ["made", "back", "reference"].map(|name| at(&format!("{name}-{step}")));
        v1_0::checkpoint(&made, step).unwrap();
        let found = store.resolve(&format!("{}@{step}", run())).unwrap();
        let (manifest, asked) = (
            store.manifest(found.manifest).unwrap(),
            v1_0::request(&made, step),
        );
        assert_eq!(
            (manifest.metrics, manifest.note, manifest.environment),
            (asked.metrics, asked.note, asked.environment)
        );
        restore(&store, &format!("{}@{step}", run()), &back).unwrap();
        assert_same_tree(&made, &back, "the golden store");
        reference(
            &at("store"),
            &[
                "restore",
                &run().to_string(),
                &step.to_string(),
                by_reference.to_str().unwrap(),
            ],
        );
        assert_same_tree(&made, &by_reference, "the golden store, by the reference");
    }
    v1_0::checkpoint(&at("next"), 400).unwrap();
    let report = tpde_tests::save(&store, &at("next"), 400).unwrap();
    assert!(report.seq == v1_0::STEPS.len() as u64, "{report:?}");
}
