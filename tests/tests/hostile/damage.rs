//! Objects that are cut off, or of which bits are flipped.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tpde_store::keys::Key;
use tpde_store::{Objects, VerifyLevel};
use tpde_tests::{Rng, fast_folder, open_store, soak, store_of, verify};

use crate::attempt::{Outcomes, attempt, with_damage};
use crate::furnished::{KINDS, furnished_store};
use crate::sound::{Sound, sound_store};
use crate::{SEED, times};

/// Flips in a store in memory and in one on a disk.
const FLIPS: usize = 2_400;
const FLIPS_ON_DISK: usize = 150;

/// Flips one to four bits of one object; gives its number, the bytes, and what was done.
fn flipped(sound: &Sound, rng: &mut Rng) -> (usize, Vec<u8>, String) {
    let number = rng.below(sound.all.len());
    let (bytes, what) = flips_in(&sound.all[number].1, rng);
    (number, bytes, what)
}

/// Flips one to four bits; gives the bytes and what was done.
fn flips_in(good: &[u8], rng: &mut Rng) -> (Vec<u8>, String) {
    let mut bytes = good.to_vec();
    let mut places = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let (at, bit) = (rng.below(bytes.len()), rng.below(8));
        bytes[at] ^= 1 << bit;
        places.push((at, bit));
    }
    (bytes, format!("flips {places:?}"))
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

/// Damages of the furnished store.
fn damages() -> usize {
    if soak() { 12_000 } else { 500 }
}

#[test]
fn damage_of_every_kind_of_object_is_noticed() {
    // Promise: whatever kind of object is cut off or has flipped bits, also one that only writers and gcs read: what is read, and what is saved
    // beside the damage, is right or an error, and no gc takes it for garbage.
    let scratch = fast_folder();
    let furnished = furnished_store(scratch.path());
    let sound = &furnished.sound;
    let found: Vec<&str> = furnished.kinds.keys().copied().collect();
    let mut all = KINDS;
    all.sort_unstable();
    assert_eq!(found, all);
    let target = scratch.path().join("back");
    furnished
        .write_to(&store_of(sound.all.clone()), 0, &target)
        .expect("without damage all is done");
    let mut rng = Rng::new(SEED + 3);
    let mut of_kind = std::collections::BTreeMap::<&str, (Outcomes, [u32; 2])>::new();
    for case in 0..damages() {
        let kind = KINDS[case % KINDS.len()];
        let number = *rng.pick(&furnished.kinds[kind]);
        let good = &sound.all[number].1;
        let (damaged, what) = match rng.below(4) {
            0 => {
                let len = rng.below(good.len());
                (good[..len].to_vec(), format!("truncation to {len}"))
            }
            _ => flips_in(good, &mut rng),
        };
        let (outcomes, writes) = of_kind.entry(kind).or_default();
        with_damage(sound, number, damaged.clone(), &what, &target, outcomes);
        let mut objects = sound.all.clone();
        objects[number].1 = damaged;
        let written = catch_unwind(AssertUnwindSafe(|| {
            furnished.write_to(&store_of(objects), number, &target)
        }));
        let written = written.unwrap_or_else(|_| panic!("writes beside {what} of {}", sound.all[number].0));
        writes[usize::from(written.is_ok())] += 1;
    }
    for (kind, (outcomes, [refused, done])) in &of_kind {
        println!("{kind}: {outcomes:?}; writes: {refused} refused, {done} done");
        let (reads, writes) = match *kind {
            // Reads do without these.
            "policy" => (false, false),
            "lease" => (false, false),
            "mark" | "part" => (false, true),
            "tag" => (false, true),
            _ => (true, true),
        };
        assert_eq!(
            outcomes.refused + outcomes.unopened > 0,
            reads,
            "{kind}: {outcomes:?}"
        );
        assert_eq!(*refused > 0, writes, "{kind}: {refused} writes were refused");
        assert!(writes || *done > 0, "{kind}: no write was done");
    }
}
