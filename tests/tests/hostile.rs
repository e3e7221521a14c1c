//! Stored bytes that are not what was stored: cut off, flipped, or made by an adversary who can name them well.
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tpde_store::keys::Key;
use tpde_store::manifest::FileContent;
use tpde_store::{
    CommitOptions, Fingerprint, Manifest, ManifestId, NewCommit, Nonce, Objects, Problem, Progress, Silent,
    Stage, Store, StoreError, Summary, Totals, VerifyLevel, VerifyRequest, commit, config, history,
};
use tpde_tests::{
    Rng, bf16_weights, everything, fast_folder, open_store, peak_resident_kib, restore, run, save, soak,
    store_of, tree, verify, write_safetensors,
};

const SEED: u64 = 11;
/// Flips in a store in memory, in one on a disk, in a manifest; ten times as many with `TPDE_SOAK=1`.
const FLIPS: usize = 2_400;
const FLIPS_ON_DISK: usize = 150;
const FLIPS_WELL_NAMED: usize = 1_500;
const STEPS: u64 = 3;

type Tree = BTreeMap<std::path::PathBuf, (u32, Option<Vec<u8>>)>;
type Object = (Key, Vec<u8>);

/// A small store, what its run's log says, and what each step restores to.
struct Sound {
    all: Vec<Object>,
    log: Vec<Summary>,
    sources: Vec<Tree>,
}

/// What a damaged store did.
#[derive(Debug, Default)]
struct Outcomes {
    /// Restores that were right all the same.
    right: u32,
    /// Restores that were refused.
    refused: u32,
    /// Opens that were refused.
    unopened: u32,
    /// By the kind of the error.
    kinds: BTreeMap<&'static str, u32>,
}

impl Outcomes {
    fn note(&mut self, error: &StoreError) {
        *self.kinds.entry(kind(error)).or_default() += 1;
    }
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::NotFound { .. } => "not found",
        StoreError::Newer { .. } => "newer",
        StoreError::Codec(_) => "codec",
        other => panic!("damage was taken for something else: {other}"),
    }
}

/// Three steps of a run: an anchor, a delta, a delta on that with a tensor more; opaque files in several versions.
fn sound_store(scratch: &Path) -> Sound {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    let mut rng = Rng::new(SEED);
    let mut weights = bf16_weights(&mut rng, 700);
    let mut sources = Vec::new();
    for step in 0..STEPS {
        let dir = scratch.join(format!("step{step}"));
        fs::create_dir_all(dir.join("sub/empty")).unwrap();
        (0..10).for_each(|_| weights[2 * rng.below(700)] ^= 1);
        let mut tensors = vec![("w", "BF16", vec![700], weights.clone())];
        if step == 2 {
            tensors.push(("more", "F32", vec![2, 3], vec![7; 24]));
        }
        write_safetensors(&dir.join("m.safetensors"), &tensors);
        fs::write(
            dir.join("sub/trainer.json"),
            format!("{{\"step\": {step}, \"list\": [1, 2, 3]}}"),
        )
        .unwrap();
        save(&store, &dir, step).unwrap();
        sources.push(tree(&dir));
    }
    Sound {
        all: everything(store.objects()),
        log: history::log(store.objects(), &run()).unwrap().records().to_vec(),
        sources,
    }
}

/// Opens, logs and restores every step: each answer must be right or an error, and no wrong file may be left.
fn attempt(sound: &Sound, opened: Result<Store, StoreError>, target: &Path, outcomes: &mut Outcomes) {
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            outcomes.unopened += 1;
            return outcomes.note(&error);
        }
    };
    match history::log(store.objects(), &run()) {
        Ok(log) => assert_eq!(log.records(), sound.log, "the log tells another story"),
        Err(error) => outcomes.note(&error),
    }
    for (step, source) in sound.sources.iter().enumerate() {
        match restore(&store, &format!("run@{step}"), target) {
            Ok(_) => {
                assert!(tree(target) == *source, "step {step} was restored to other bytes");
                outcomes.right += 1;
            }
            Err(error) => {
                outcomes.note(&error);
                outcomes.refused += 1;
                if target.exists() {
                    for (path, (_, bytes)) in tree(target).into_iter().filter(|(_, (_, b))| b.is_some()) {
                        let expected = source.get(&path).and_then(|(_, b)| b.as_ref());
                        assert!(bytes.as_ref() == expected, "{} was left behind", path.display());
                    }
                }
            }
        }
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
    }
}

fn times(flips: usize) -> usize {
    if soak() { 10 * flips } else { flips }
}

/// Runs `attempt` on the store with object `number` replaced, and names the change if anything fails.
fn with_damage(
    sound: &Sound,
    number: usize,
    damaged: Vec<u8>,
    what: &str,
    target: &Path,
    outcomes: &mut Outcomes,
) {
    let mut all = sound.all.clone();
    all[number].1 = damaged;
    let tried = catch_unwind(AssertUnwindSafe(|| {
        attempt(sound, Store::over(store_of(all), None), target, outcomes);
    }));
    assert!(tried.is_ok(), "{what} of {}", sound.all[number].0);
}

/// Flips one to four bits of one object; gives its number, the bytes, and what was done.
fn flipped(sound: &Sound, rng: &mut Rng) -> (usize, Vec<u8>, String) {
    let number = rng.below(sound.all.len());
    let mut bytes = sound.all[number].1.clone();
    let mut places = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let (at, bit) = (rng.below(bytes.len()), rng.below(8));
        bytes[at] ^= 1 << bit;
        places.push((at, bit));
    }
    (number, bytes, format!("flips {places:?}"))
}

fn kinds_of_objects(sound: &Sound) -> [usize; 4] {
    let count = |is: fn(&Key) -> bool| sound.all.iter().filter(|(key, _)| is(key)).count();
    [
        count(|k| matches!(k, Key::Config)),
        count(|k| matches!(k, Key::Pack(_))),
        count(|k| matches!(k, Key::Manifest(_))),
        count(|k| matches!(k, Key::Slot(..))),
    ]
}

#[test]
fn every_truncation_is_noticed() {
    // Promise: an object that is cut off anywhere gives the right bytes or an error, never a panic and never wrong bytes.
    let scratch = fast_folder();
    let sound = sound_store(scratch.path());
    assert_eq!(kinds_of_objects(&sound), [1, 3, 3, 3]);
    let target = scratch.path().join("back");
    let mut outcomes = Outcomes::default();
    let mut cases = 0u32;
    for (number, (_, bytes)) in sound.all.iter().enumerate() {
        for len in 0..bytes.len() {
            with_damage(
                &sound,
                number,
                bytes[..len].to_vec(),
                &format!("truncation to {len}"),
                &target,
                &mut outcomes,
            );
            cases += 1;
        }
    }
    println!("{cases} truncations: {outcomes:?}");
    assert!(cases > 2_000, "the store is too small to tell: {cases}");
    // Each case harms something: one restore at least, or the opening (save for the line break that ends tpde.json).
    assert!(
        outcomes.refused + outcomes.unopened >= cases - 1,
        "{cases}: {outcomes:?}"
    );
    assert!(outcomes.right > 0, "{outcomes:?}");
}

#[test]
fn every_flip_is_noticed() {
    // Promise: flipped bits in any object give the right bytes or an error, never a panic and never wrong bytes.
    let scratch = fast_folder();
    let sound = sound_store(scratch.path());
    let target = scratch.path().join("back");
    let mut rng = Rng::new(SEED);
    let mut outcomes = Outcomes::default();
    for _ in 0..times(FLIPS) {
        let (number, bytes, what) = flipped(&sound, &mut rng);
        with_damage(&sound, number, bytes, &what, &target, &mut outcomes);
    }
    println!("{} flips: {outcomes:?}", times(FLIPS));
    assert!(
        outcomes.refused > 1_000 && outcomes.unopened > 20 && outcomes.right > 1_000,
        "{outcomes:?}"
    );
}

#[test]
fn flips_on_a_disk_are_noticed() {
    // Promise: as above, for a store in a folder, and what opens is found by verify too.
    let scratch = fast_folder();
    let sound = sound_store(scratch.path());
    let (place, target) = (scratch.path().join("store"), scratch.path().join("back"));
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    for (key, bytes) in &sound.all {
        objects.create(key, bytes.clone().into()).unwrap();
    }
    assert_eq!(
        verify(&open_store(&place, None).unwrap(), VerifyLevel::Restore).problems,
        []
    );
    let mut rng = Rng::new(SEED + 1);
    let mut outcomes = Outcomes::default();
    for _ in 0..times(FLIPS_ON_DISK) {
        let (number, bytes, what) = flipped(&sound, &mut rng);
        let (key, good) = &sound.all[number];
        let file = place.join(key.to_string());
        fs::write(&file, &bytes).unwrap();
        attempt(&sound, open_store(&place, None), &target, &mut outcomes);
        if let Ok(store) = open_store(&place, None)
            && *key != Key::Config
        {
            let problems = verify(&store, VerifyLevel::ReadData).problems;
            assert_ne!(problems, [], "{what} of {key}");
        }
        fs::write(&file, good).unwrap();
    }
    println!("{} flips on a disk: {outcomes:?}", times(FLIPS_ON_DISK));
    assert!(outcomes.refused > 50 && outcomes.right > 50, "{outcomes:?}");
}

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
