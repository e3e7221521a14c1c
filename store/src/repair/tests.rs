//! A store is damaged, mended, and looked at.

use std::fs;
use std::path::Path;

use super::*;
use crate::config;
use crate::files::made_up::one_tensor;
use crate::gc::GcRequest;
use crate::history;
use crate::history::tests::fabricate;
use crate::keys::{Key, Prefix};
use crate::manifest::Manifest;
use crate::names::RunName;
use crate::objects::Objects;
use crate::progress::Silent;
use crate::save::SaveRequest;
use crate::verify::{VerifyLevel, VerifyRequest};

fn run() -> RunName {
    "run".parse().unwrap()
}

/// Four checkpoints of one tensor and one file.
fn a_run(out: &Path) -> (Objects, Store) {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects.clone(), None).unwrap();
    let mut bytes: Vec<u8> = (0..20_000u32).map(|i| (i * i % 251) as u8).collect();
    for step in 0..4usize {
        bytes[step * 100] ^= 1;
        fs::write(out.join("m.safetensors"), one_tensor(&bytes)).unwrap();
        fs::write(out.join("state.json"), format!("{{\"step\": {step}}}")).unwrap();
        store
            .save(&SaveRequest::new(out, run(), step as u64), &Silent)
            .unwrap();
    }
    (objects, store)
}

fn problems(objects: &Objects) -> usize {
    let store = Store::over(objects.clone(), None).unwrap();
    let request = VerifyRequest {
        level: VerifyLevel::Restore,
        only: None,
    };
    store.verify(&request, &Silent).unwrap().problems.len()
}

/// Changes byte `at` of an object.
fn flip(objects: &Objects, key: &Key, at: usize) {
    let mut bytes = objects.get(key).unwrap().to_vec();
    bytes[at] ^= 0x10;
    objects.delete(key).unwrap();
    objects.create(key, bytes.into()).unwrap();
}

/// Promise: what decodes in a damaged pack is saved, what does not is listed by name, and after a gc the store verifies but for that.
#[test]
fn packs() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, _) = a_run(dir.path());
    let store = || Store::over(objects.clone(), None).unwrap();
    let sound = store().repair_packs(&Silent).unwrap();
    assert_eq!((sound.packs, sound.damaged.len(), sound.written_bytes), (4, 0, 0));

    // The last byte before the footer is of a blob of the newest checkpoint: its tensor is saved, its file is lost.
    let newest = store()
        .manifest(store().resolve("run@3").unwrap().manifest)
        .unwrap();
    let pack = newest.packs[newest.tensors[0].packs[0] as usize];
    let entries = crate::pack::read_entries(&objects, pack).unwrap();
    let blob = entries
        .iter()
        .rev()
        .find(|e| e.pieces[0].end > e.pieces[0].start)
        .unwrap();
    flip(
        &objects,
        &Key::Pack(pack),
        usize::try_from(blob.pieces[0].end - 1).unwrap(),
    );
    assert!(problems(&objects) > 0);
    let mended = store().repair_packs(&Silent).unwrap();
    assert_eq!(mended.damaged, [pack]);
    assert!(mended.written_bytes > 0);
    let lost = &mended.lost[..];
    assert!(lost.len() == 1 && lost[0].name == "run@3", "{lost:?}");
    assert_eq!(lost[0].contents, ["state.json"]);

    // The same step saved again brings the file back; then a gc finds the damaged pack needless.
    store()
        .save(&SaveRequest::new(dir.path(), run(), 3), &Silent)
        .unwrap();
    let now = GcRequest {
        grace: std::time::Duration::ZERO,
        ..GcRequest::default()
    };
    store().gc(&now, &Silent).unwrap();
    assert_eq!(problems(&objects), 0);
    assert!(objects.list(&Prefix::Marks).unwrap().is_empty());
    assert!(objects.head(&Key::Pack(pack)).unwrap().is_none());
}

/// Promise: a damaged newest slot is written anew from its manifest, one in the middle from what others tell, and rollups from slots.
#[test]
fn slots() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, store) = a_run(dir.path());
    let before = history::log(&objects, &run()).unwrap();
    let untouched = &store.repair_slots().unwrap()[0];
    assert!(untouched.slots.is_empty() && untouched.rollups.is_empty());
    assert!(untouched.found_again.is_empty() && untouched.lost.is_empty());

    flip(&objects, &Key::Slot(run(), 3), 40);
    assert!(history::log(&objects, &run()).is_err());
    let mended = store.repair_slots().unwrap();
    assert_eq!(
        (&mended[0].slots[..], &mended[0].found_again[..]),
        (&[3][..], &[3][..])
    );
    let after = history::log(&objects, &run()).unwrap();
    let manifests = |log: &history::Log| log.commits().map(|c| c.manifest).collect::<Vec<_>>();
    assert_eq!(manifests(&after), manifests(&before));
    history::check_chain(&objects, &run()).unwrap();

    objects.delete(&Key::Slot(run(), 1)).unwrap();
    assert_eq!(store.repair_slots().unwrap()[0].slots, [1]);
    assert_eq!(
        manifests(&history::log(&objects, &run()).unwrap()),
        manifests(&before)
    );
}

/// Promise: of several whole checkpoints that no record names, the one that was saved after the last known one comes back, and the others are
/// named; several damaged records at the end come back in order.
#[test]
fn the_right_checkpoint_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, store) = a_run(dir.path());
    let manifests = || {
        let log = history::log(&objects, &run()).unwrap();
        log.commits().map(|c| c.manifest).collect::<Vec<_>>()
    };
    let before = manifests();
    // Saves that were cut short before their commits: one before the last step was saved again, one beside it on an earlier step.
    let last = store.manifest(before[3]).unwrap();
    let orphan = |parent: usize, created_unix_ms: u64| {
        let (id, bytes) = Manifest {
            parent: Some(before[parent]),
            created_unix_ms,
            note: "cut short".to_owned(),
            ..last.clone()
        }
        .encode()
        .unwrap();
        objects.put_content(&Key::Manifest(id), bytes.into()).unwrap();
        id
    };
    let mut orphans = [
        orphan(2, last.created_unix_ms - 1),
        orphan(0, last.created_unix_ms + 1),
    ];
    orphans.sort();
    for seq in [2, 3] {
        flip(&objects, &Key::Slot(run(), seq), 40);
    }
    let mended = Store::over(objects.clone(), None)
        .unwrap()
        .repair_slots()
        .unwrap();
    assert_eq!(
        (&mended[0].found_again[..], &mended[0].lost[..]),
        (&[2, 3][..], &[][..])
    );
    assert_eq!(mended[0].left_out, orphans);
    assert_eq!(manifests(), before);
    history::check_chain(&objects, &run()).unwrap();
    assert_eq!(problems(&objects), 0);
}

/// Promise: rollups come back from slots, and slots that a rollup tells of from it; what nothing tells of is listed.
#[test]
fn long_runs() {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    fabricate(&objects, &run(), 600);
    let before = history::log(&objects, &run()).unwrap();
    let store = Store::over(objects.clone(), None).unwrap();
    let rollups: Vec<Key> = objects
        .list(&Prefix::Rollups(run()))
        .unwrap()
        .into_iter()
        .map(|listed| listed.key)
        .collect();
    assert_eq!(rollups.len(), 2);
    flip(&objects, &rollups[0], 60);
    objects.delete(&rollups[1]).unwrap();
    for seq in [0, 32, 300] {
        objects.delete(&Key::Slot(run(), seq)).unwrap();
    }
    let mended = store.repair_slots().unwrap();
    assert_eq!(mended[0].rollups, [255, 511]);
    assert_eq!(mended[0].slots, [0, 32, 300]);
    assert!(mended[0].lost.is_empty());
    assert_eq!(history::log(&objects, &run()).unwrap(), before);

    // The newest two are gone with all that told of them, but for the bytes that are left in one's place.
    objects.delete(&Key::Slot(run(), 598)).unwrap();
    flip(&objects, &Key::Slot(run(), 599), 30);
    let mended = store.repair_slots().unwrap();
    assert_eq!(
        mended[0].lost.iter().map(|lost| lost.seq).collect::<Vec<_>>(),
        [598, 599]
    );
    assert_eq!(history::log(&objects, &run()).unwrap().records().len(), 598);
}
