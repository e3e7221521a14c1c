//! Manifests whose names fit, and whose words were made up.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tpde_store::keys::Key;
use tpde_store::manifest::FileContent;
use tpde_store::{
    CommitOptions, Fingerprint, Manifest, ManifestId, NewCommit, Nonce, Objects, Problem, Progress, Silent,
    Stage, Store, StoreError, Totals, VerifyLevel, VerifyRequest, commit,
};
use tpde_tests::{Rng, fast_folder, peak_resident_kib, restore, store_of, tree, verify};

use crate::attempt::kind;
use crate::sound::{Object, sound_store};
use crate::{SEED, times};

const FLIPS_WELL_NAMED: usize = 1_500;

/// Stores a manifest's bytes under their right name, and commits them as step 0 of an empty run.
fn committed(objects: &Objects, bytes: Vec<u8>) -> Result<(), StoreError> {
    let manifest = ManifestId::of(&bytes);
    objects.put_content(&Key::Manifest(manifest), bytes.into())?;
    let new = NewCommit {
        metrics: tpde_store::Metrics::default(),
        manifest,
        fingerprint: Fingerprint::of(b""),
        step: 0,
        nonce: Nonce::random()?,
        created_unix_ms: 0,
        totals: Totals::default(),
    };
    let hostile = "hostile".parse()?;
    commit::commit(objects, &hostile, &new, &CommitOptions::default()).map(drop)
}

/// Fails if more work is planned than a small store can hold.
struct Modest;

impl Progress for Modest {
    fn start(&self, stage: Stage, total_bytes: u64) {
        assert!(
            total_bytes < 1 << 30,
            "{stage:?} of {total_bytes} bytes was planned"
        );
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// Restores and verifies a hostile commit; gives whether it was restored.
fn survive(all: &[Object], bytes: Vec<u8>, target: &Path, what: &str) -> Result<(), StoreError> {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let objects = store_of(all.iter().cloned());
        committed(&objects, bytes).unwrap();
        let store = Store::over(objects, None).unwrap();
        let restored = restore(&store, "hostile@0", target);
        let id = |reference: &str| store.resolve(reference).unwrap().manifest;
        // Alone, for of contents that several manifests name only the first claim is looked at.
        let alone = VerifyRequest {
            level: VerifyLevel::Restore,
            only: Some(id("hostile@0")),
        };
        let problems = store.verify(&alone, &Silent).unwrap().problems;
        verify(&store, VerifyLevel::Restore);
        store.stats().unwrap();
        if let Err(error) = store.diff(id("run@0"), id("hostile@0"), &Modest) {
            kind(&error);
        }
        if let Some(kib) = peak_resident_kib() {
            assert!(kib < 1 << 20, "{kib} KiB of memory were taken");
        }
        if restored.is_ok() {
            // Hints and statistics may be nonsense; what was restored is what the ids and lengths say. An opaque file's digest
            // is a second opinion on its blobs' ids, which verify asks for and a restore does not.
            let manifest = store
                .manifest(store.resolve("hostile@0").unwrap().manifest)
                .unwrap();
            let found = tree(target);
            for file in manifest
                .files
                .iter()
                .filter(|f| f.content != FileContent::Directory)
            {
                let bytes = found[Path::new(&file.path)].1.as_ref().unwrap();
                assert_eq!(
                    bytes.len() as u64,
                    manifest.file_len_bytes(file),
                    "{:?}",
                    file.path
                );
            }
            let others = problems
                .iter()
                .filter(|p| !p.detail.contains("does not match its digest"));
            assert_eq!(others.collect::<Vec<_>>(), [] as [&Problem; 0]);
        }
        restored.map(drop)
    }));
    if target.exists() {
        fs::remove_dir_all(target).unwrap();
    }
    tried.unwrap_or_else(|_| panic!("{what}"))
}

#[test]
fn a_well_named_manifest_may_say_anything() {
    // Promise: a manifest whose name fits its bytes but whose words were made up gives an error or a restore that fits its own
    // ids; never a panic, never a huge allocation, nothing outside the target.
    let scratch = fast_folder();
    let sound = sound_store(scratch.path());
    let cell = scratch.path().join("cell");
    fs::create_dir(&cell).unwrap();
    let target = cell.join("back");
    let newest = sound.log.last().unwrap().manifest;
    let (_, stored) = sound
        .all
        .iter()
        .find(|(key, _)| *key == Key::Manifest(newest))
        .unwrap();
    let mut rng = Rng::new(SEED + 2);
    let (mut restored, mut refused) = (0, 0);
    let mut count = |result: Result<(), StoreError>| match result {
        Ok(()) => restored += 1,
        // A flipped path may be one that cannot be made; that is the user's to hear.
        Err(StoreError::Input { .. }) => refused += 1,
        Err(error) => {
            kind(&error);
            refused += 1;
        }
    };
    assert!(survive(&sound.all, stored.clone(), &target, "the manifest itself").is_ok());
    for _ in 0..times(FLIPS_WELL_NAMED) {
        let mut bytes = stored.clone();
        let (at, bit) = (rng.below(bytes.len()), rng.below(8));
        bytes[at] ^= 1 << bit;
        count(survive(
            &sound.all,
            bytes,
            &target,
            &format!("bit {bit} of byte {at} flipped"),
        ));
    }
    let good = Manifest::decode(newest, stored).unwrap();
    let huge = [
        0,
        1,
        2,
        u64::from(u32::MAX),
        1 << 40,
        // The longest tensor of two bytes an element that the format allows.
        1 << 49,
        u64::MAX - 1,
        u64::MAX,
    ];
    for value in huge {
        for which in 0..6 {
            let mut bad = good.clone();
            let index = u32::try_from(value).unwrap_or(u32::MAX);
            match which {
                0 => bad.tensors.iter_mut().for_each(|t| t.len_bytes = value & !7),
                1 => bad.blobs.iter_mut().for_each(|b| b.len_bytes = value),
                2 => bad.tensors[0].packs = vec![index],
                3 => bad.blobs[0].pack = index,
                4 => bad.files.iter_mut().for_each(|f| {
                    if let FileContent::Safetensors { tensors, .. } | FileContent::Torch { tensors, .. } =
                        &mut f.content
                    {
                        tensors[0].tensor = index;
                    }
                }),
                _ => bad.files.iter_mut().for_each(|f| match &mut f.content {
                    FileContent::Opaque { blobs, .. } => blobs[0] = index,
                    FileContent::Safetensors { header: blobs, .. }
                    | FileContent::Torch { container: blobs, .. } => blobs[0] = index,
                    FileContent::Directory => {}
                }),
            }
            let bytes = bad.encode().unwrap().1;
            count(survive(
                &sound.all,
                bytes,
                &target,
                &format!("field {which} is {value}"),
            ));
        }
    }
    println!("well-named manifests: {restored} restored, {refused} refused");
    assert!(refused > 500, "{refused}");
    assert_eq!(
        fs::read_dir(&cell).unwrap().count(),
        0,
        "something was written outside the target"
    );
}
