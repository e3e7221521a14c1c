//! What a save and a restore make of a store that lost something.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tpde_store::keys::{Key, Prefix};
use tpde_store::{ManifestId, Objects, Store, StoreError, config};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

/// A folder for a checkpoint, and a store beside it.
fn places(dir: &Path) -> (PathBuf, PathBuf) {
    let (out, place) = (dir.join("out"), dir.join("store"));
    fs::create_dir(&out).unwrap();
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    (out, place)
}

/// The store at `place`, as a process that remembers nothing of it sees it.
fn opened(place: &Path) -> Store {
    Store::over(Objects::open(place.to_str().unwrap()).unwrap(), None).unwrap()
}

/// Promise: when a link deep in a chain is damaged, the error names its pack and not the one that leans on it.
#[test]
fn the_damaged_pack_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, place) = places(dir.path());
    let store = || opened(&place);
    let mut bytes = weights(70_000, 1);
    let mut packs = Vec::new();
    for step in 0..3 {
        bytes[step * 100] ^= 1;
        safetensors(
            &out.join("m.safetensors"),
            &[("w", "BF16", vec![70_000], bytes.clone())],
        );
        let report = save(&store(), &out, step as u64).unwrap();
        let manifest = store().manifest(report.manifest).unwrap();
        packs.push(manifest.packs[manifest.tensors[0].packs[0] as usize].to_hex());
    }
    let damaged = place
        .join("packs")
        .join(&packs[0][..2])
        .join(format!("{}.pack", packs[0]));
    let mut pack = fs::read(&damaged).unwrap();
    pack[50_000] ^= 1;
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&damaged, pack).unwrap();
    let error = restore(&store(), "run@2", &dir.path().join("back"))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&packs[0]), "{error}");
    assert!(!error.contains(&packs[2]), "{error}");
}

/// Promise: while a sound copy of a content is anywhere in the store, damage in the body of the pack that a checkpoint names does not
/// keep it from being restored; whichever of its packs it is.
#[test]
fn a_sound_copy_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (out, place) = places(dir.path());
    let store = || opened(&place);
    let mut bytes = weights(70_000, 1);
    for step in 0..2u64 {
        bytes[step as usize * 100] ^= 1;
        fs::write(out.join("notes.txt"), format!("{step} {}", "words ".repeat(500))).unwrap();
        safetensors(
            &out.join("m.safetensors"),
            &[("w", "BF16", vec![70_000], bytes.clone())],
        );
        save(&store(), &out, step).unwrap();
    }
    let path = |hex: &str| place.join("packs").join(&hex[..2]).join(format!("{hex}.pack"));
    let packs: Vec<PathBuf> = {
        let listed = store().objects().list(&Prefix::Packs).unwrap();
        let hex = listed.into_iter().filter_map(|listed| match listed.key {
            Key::Pack(id) => Some(id.to_hex()),
            _ => None,
        });
        hex.map(|hex| path(&hex)).collect()
    };
    // Gone for a moment, everything is stored again; then they come back, damaged.
    let kept: Vec<Vec<u8>> = packs.iter().map(|p| fs::read(p).unwrap()).collect();
    packs.iter().for_each(|p| fs::remove_file(p).unwrap());
    save(&store(), &out, 1).unwrap();
    for damaged in &packs {
        for (path, bytes) in packs.iter().zip(&kept) {
            let mut bytes = bytes.clone();
            if path == damaged {
                // What comes after the id of its lease is a frame or a blob.
                bytes[16..24].iter_mut().for_each(|b| *b ^= 0x55);
            }
            let _ = fs::remove_file(path);
            fs::write(path, bytes).unwrap();
        }
        let back = dir.path().join("back");
        restore(&store(), "run@1", &back).unwrap();
        same_tree(&out, &back);
        fs::remove_dir_all(&back).unwrap();
    }
}

/// Promise: saving files again heals a store whose packs were lost or damaged: the new checkpoint restores, whatever the old one
/// leans on.
#[test]
fn saving_again_heals() {
    let dir = tempfile::tempdir().unwrap();
    let (out, place) = places(dir.path());
    let store = || opened(&place);
    let pack_of = |id| {
        let manifest = store().manifest(id).unwrap();
        let hex = manifest.packs[manifest.tensors[0].packs[0] as usize].to_hex();
        place.join("packs").join(&hex[..2]).join(format!("{hex}.pack"))
    };
    let mut bytes = weights(70_000, 1);
    safetensors(
        &out.join("m.safetensors"),
        &[("w", "BF16", vec![70_000], bytes.clone())],
    );
    let anchor = pack_of(save(&store(), &out, 0).unwrap().manifest);
    bytes[100] ^= 1;
    safetensors(&out.join("m.safetensors"), &[("w", "BF16", vec![70_000], bytes)]);
    let delta = pack_of(save(&store(), &out, 1).unwrap().manifest);

    // The anchor is lost: its unchanged successor must be stored whole, not taken for stored.
    let kept = fs::read(&anchor).unwrap();
    fs::remove_file(&anchor).unwrap();
    let report = save(&store(), &out, 2).unwrap();
    assert_eq!(report.new_tensors, 1);
    restore(&store(), "run@2", &dir.path().join("back2")).unwrap();
    same_tree(&out, &dir.path().join("back2"));
    fs::write(&anchor, kept).unwrap();

    // The end of a pack is damaged, or cut off: the same pack written again replaces it.
    for (round, cut) in [(3u64, 0usize), (4, 10)] {
        let newest = pack_of(store().resolve("run@2").unwrap().manifest);
        assert_ne!(newest, delta);
        let mut bad = fs::read(&newest).unwrap();
        let at = bad.len() - 20;
        bad[at] ^= 1;
        bad.truncate(bad.len() - cut);
        fs::set_permissions(&newest, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&newest, bad).unwrap();
        fs::remove_file(&delta).unwrap_or(());
        save(&store(), &out, round).unwrap();
        let back = dir.path().join(format!("back{round}"));
        restore(&store(), &format!("run@{round}"), &back).unwrap();
        same_tree(&out, &back);
    }
}

/// Promise: saving a checkpoint to the step that it stands for mends what the store lost of it: a pack, or the manifest.
#[test]
fn saving_the_same_step_heals() {
    let dir = tempfile::tempdir().unwrap();
    let (out, place) = places(dir.path());
    let store = || opened(&place);
    safetensors(
        &out.join("m.safetensors"),
        &[("w", "BF16", vec![70_000], weights(70_000, 1))],
    );
    fs::write(out.join("config.json"), "{}").unwrap();
    save(&store(), &out, 0).unwrap();
    let again = save(&store(), &out, 0).unwrap();
    assert!(again.already_there && again.stored_bytes == 0);

    let packs = |_: ManifestId| {
        let listed = store().objects().list(&Prefix::Packs).unwrap();
        listed.into_iter().map(|listed| listed.key).collect::<Vec<_>>()
    };
    let manifest = |id| vec![Key::Manifest(id)];
    // Whatever is stored again lies in a new pack, or under a new manifest, and is lost the next time.
    let lost: [&dyn Fn(ManifestId) -> Vec<Key>; 4] = [&packs, &packs, &manifest, &manifest];
    for (round, lost) in lost.iter().enumerate() {
        let standing = store().resolve("run@0").unwrap().manifest;
        for key in lost(standing) {
            fs::remove_file(place.join(key.to_string())).unwrap();
        }
        let back = dir.path().join(format!("back{round}"));
        assert!(matches!(
            restore(&store(), "run@0", &back),
            Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. })
        ));
        let report = save(&store(), &out, 0).unwrap();
        assert!(report.stored_bytes > 0, "{round}");
        restore(&store(), "run@0", &back).unwrap();
        same_tree(&out, &back);
    }
}
