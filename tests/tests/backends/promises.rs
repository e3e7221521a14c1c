//! What every backend promises, as checks that take any.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Barrier;
use std::thread;

use bytes::Bytes;
use tpde_store::copy::{Fate, copy};
use tpde_store::ids::PackId;
use tpde_store::keys::{Key, Prefix};
use tpde_store::objects::Created;
use tpde_store::{CopyRequest, Objects, Silent, Store, StoreError, VerifyLevel, config, history};
use tpde_tests::{
    Rng, assert_same_tree, bf16_weights, restore, run, save, soak, train, training_state, verify,
    write_safetensors,
};

/// Opens an empty part of the backend, of that name, as a process of its own would; the same part if asked again.
pub(crate) type Open<'a> = &'a (dyn Fn(&str) -> Objects + Sync);

/// Every check on one backend.
pub(crate) fn keep(open: Open<'_>) {
    reads(open);
    creates_once(open);
    races_for_a_name(open);
    lists(open);
    content_is_put_and_mended(open);
    large_objects(open);
    becomes_a_store(open);
    a_whole_round_trip(open);
    races_for_a_run(open);
    races_for_a_step(open);
    copies(open);
}

fn slot(seq: u64) -> Key {
    Key::Slot(run(), seq)
}

/// Creates `key`. A server may lose its answer, or wait so long for its own locks that it gives none; then what stands
/// there says what came of it, as long as nobody else writes the same bytes.
fn created(objects: &Objects, key: &Key, bytes: &Bytes) -> Created {
    loop {
        match objects.create(key, bytes.clone()) {
            Err(StoreError::OutcomeUnknown { .. }) => match objects.get(key) {
                Ok(stored) if stored == bytes => return Created::New,
                Err(StoreError::NotFound { .. }) => {}
                other => {
                    other.unwrap();
                    return Created::AlreadyExists;
                }
            },
            answer => return answer.unwrap(),
        }
    }
}

/// What was created is read back whole, in parts and from the end; what was not is not there.
fn reads(open: Open<'_>) {
    let objects = open("reads");
    let key = slot(7);
    assert!(matches!(objects.get(&key), Err(StoreError::NotFound { .. })));
    assert!(matches!(
        objects.get_tail(&key, 1),
        Err(StoreError::NotFound { .. })
    ));
    assert!(objects.get_range(&key, 0..1).is_err());
    assert_eq!(objects.head(&key).unwrap(), None);
    assert_eq!(created(&objects, &key, &"0123456789".into()), Created::New);
    assert_eq!(objects.get(&key).unwrap(), "0123456789");
    assert_eq!(objects.head(&key).unwrap(), Some(10));
    assert_eq!(objects.get_range(&key, 2..5).unwrap(), "234");
    assert_eq!(objects.get_range(&key, 0..10).unwrap(), "0123456789");
    assert_eq!(objects.get_range(&key, 5..5).unwrap(), "");
    for short in [8..11, 10..12, 20..22] {
        let read = objects.get_range(&key, short);
        assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    }
    for (len, tail) in [(0, ""), (1, "9"), (10, "0123456789"), (99, "0123456789")] {
        let (bytes, size) = objects.get_tail(&key, len).unwrap();
        assert_eq!((bytes.as_ref(), size), (tail.as_bytes(), 10));
    }
    assert_eq!(created(&objects, &slot(8), &"".into()), Created::New);
    assert_eq!(objects.get(&slot(8)).unwrap(), "");
    assert_eq!(objects.get_tail(&slot(8), 4).unwrap(), ("".into(), 0));
}

/// A name is created once, and its bytes stay.
fn creates_once(open: Open<'_>) {
    let objects = open("once");
    assert_eq!(created(&objects, &slot(0), &"first".into()), Created::New);
    for other in ["first", "other", ""] {
        let created = open("once").create(&slot(0), other.into()).unwrap();
        assert_eq!(created, Created::AlreadyExists);
    }
    assert_eq!(objects.get(&slot(0)).unwrap(), "first");
}

/// Races for one name, and for one step: as many as were asked for, or so many that a server which lets losers wait is soon done.
fn races() -> u64 {
    if soak() { 50 } else { 6 }
}

/// Of sixteen that create one name at once one wins, and its bytes are what is stored.
fn races_for_a_name(open: Open<'_>) {
    const RACERS: u8 = 16;
    let clients: Vec<Objects> = (0..RACERS).map(|_| open("race")).collect();
    for round in 0..races() {
        let start = Barrier::new(clients.len());
        let winners: Vec<u8> = thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .zip(&clients)
                .map(|(racer, objects)| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let mine = vec![racer; 100].into();
                        (created(objects, &slot(round), &mine) == Created::New).then_some(racer)
                    })
                })
                .collect();
            racers.into_iter().filter_map(|r| r.join().unwrap()).collect()
        });
        let [winner] = winners[..] else {
            panic!("round {round} was won by {winners:?}");
        };
        assert_eq!(
            clients[0].get(&slot(round)).unwrap(),
            vec![winner; 100],
            "round {round}"
        );
    }
}

/// Listings are whole over more than a page, in order, and keep to their folder; the newest come first.
fn lists(open: Open<'_>) {
    const SLOTS: u64 = 1_010;
    thread::scope(|scope| {
        for first in 0..8 {
            scope.spawn(move || {
                let objects = open("lists");
                for seq in (first..SLOTS).step_by(8) {
                    created(&objects, &slot(seq), &"s".into());
                }
            });
        }
    });
    let objects = open("lists");
    let near = Key::Slot("run2".parse().unwrap(), 5_000);
    created(&objects, &near, &"s".into());
    created(&objects, &Key::Rollup(run(), 255), &"r".into());

    let slots = Prefix::Slots(run());
    let expected: Vec<Key> = (0..SLOTS).rev().map(slot).collect();
    let found: Vec<Key> = objects.list(&slots).unwrap().into_iter().map(|l| l.key).collect();
    assert!(found == expected, "{} of {SLOTS}", found.len());
    for most in [0, 1, 3, 1_005, 5_000] {
        let newest = objects.list_newest(&slots, most).unwrap();
        assert!(newest == expected[..most.min(expected.len())], "{most}");
    }
    let after = objects.list_after(&slots, &slot(2)).unwrap();
    let after: Vec<Key> = after.into_iter().map(|l| l.key).collect();
    assert_eq!(after, [slot(1), slot(0)]);
    assert!(
        objects
            .list_newest(&Prefix::Rollups("run2".parse().unwrap()), 1)
            .unwrap()
            .is_empty()
    );
    assert_eq!(objects.list_folders(&Prefix::Runs).unwrap(), ["run", "run2"]);
    assert_eq!(objects.list_folders(&Prefix::Root).unwrap(), ["rollups", "runs"]);
    assert_eq!(objects.list(&Prefix::Root).unwrap().len() as u64, SLOTS + 2);
    let other = open("lists2");
    assert!(
        other.list(&Prefix::Root).unwrap().is_empty(),
        "a place that only begins with the same letters"
    );
}

/// Content may be put again, and takes the place of damage.
fn content_is_put_and_mended(open: Open<'_>) {
    let objects = open("content");
    let key = Key::Pack(PackId::of(b"pack"));
    assert_eq!(objects.put_content(&key, "pack".into()).unwrap(), Created::New);
    assert_eq!(
        objects.put_content(&key, "pack".into()).unwrap(),
        Created::AlreadyExists
    );
    let other = objects.put_content(&key, "other".into());
    assert!(matches!(other, Err(StoreError::Corrupt { .. })), "{other:?}");
    assert_eq!(objects.get(&key).unwrap(), "pack");
    let damaged = Key::Pack(PackId::of(b"another"));
    created(&objects, &damaged, &"a short".into());
    assert_eq!(
        objects.put_content(&damaged, "another".into()).unwrap(),
        Created::New
    );
    assert_eq!(objects.get(&damaged).unwrap(), "another");
}

/// The largest pack goes in and comes out.
fn large_objects(open: Open<'_>) {
    let objects = open("large");
    let bytes = bf16_weights(&mut Rng::new(5), 32 << 20);
    assert_eq!(bytes.len(), 64 << 20);
    let key = Key::Pack(PackId::of(&bytes));
    assert_eq!(
        objects.put_content(&key, bytes.clone().into()).unwrap(),
        Created::New
    );
    assert!(objects.get(&key).unwrap() == bytes);
    let middle = (40 << 20) + 1;
    let range = objects
        .get_range(&key, middle as u64..middle as u64 + 1_000_003)
        .unwrap();
    assert!(range == bytes[middle..middle + 1_000_003]);
    let (tail, size) = objects.get_tail(&key, 65_537).unwrap();
    assert!(tail == bytes[bytes.len() - 65_537..]);
    assert_eq!(size, 64 << 20);
}

/// A store is made once of an empty place, and the probe leaves nothing.
fn becomes_a_store(open: Open<'_>) {
    let objects = open("store");
    let missing = config::open(&objects).unwrap_err();
    assert!(
        matches!(missing, StoreError::NotFound { .. }) && missing.to_string().contains("tpde init"),
        "{missing}"
    );
    let made = config::init(&objects).unwrap();
    assert_eq!(config::open(&open("store")).unwrap().0, made);
    let again = config::init(&objects).unwrap_err();
    assert!(matches!(again, StoreError::Conflict { .. }), "{again}");
    let left = objects.list(&Prefix::Root).unwrap();
    assert!(matches!(&left[..], [only] if only.key == Key::Config), "{left:?}");
    // Some servers keep folders, and sweep the empty ones later.
    let folders = objects.list_folders(&Prefix::Root).unwrap();
    assert!(folders.iter().all(|folder| folder == "probe"), "{folders:?}");
}

/// Saved, logged, restored and verified, each as a new process would.
fn a_whole_round_trip(open: Open<'_>) {
    config::init(&open("trip")).unwrap();
    let store = || Store::over(open("trip"), None).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut state = training_state();
    let at = |step: u64| scratch.path().join(format!("step{step}"));
    for step in 0..3 {
        train(&mut state, &mut Rng::new(step));
        fs::create_dir(at(step)).unwrap();
        fs::write(at(step).join("state.safetensors"), &state).unwrap();
        fs::write(at(step).join("trainer.json"), format!("{{\"step\": {step}}}")).unwrap();
        assert_eq!(save(&store(), &at(step), step).unwrap().seq, step);
    }
    let recent = history::recent(store().objects(), &run(), 2).unwrap();
    let steps: Vec<u64> = recent.commits.iter().map(|c| c.step).collect();
    assert_eq!((steps, recent.older_records), (vec![2, 1], 1));
    for step in 0..3 {
        let back = scratch.path().join(format!("back{step}"));
        restore(&store(), &format!("run@{step}"), &back).unwrap();
        assert_same_tree(&at(step), &back, "what was restored");
    }
    assert_eq!(verify(&store(), VerifyLevel::Restore).problems, []);
}

/// Of writers that save to one run at once none loses a commit, and none is told another's.
fn races_for_a_run(open: Open<'_>) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 6;
    config::init(&open("writers")).unwrap();
    save_at_once(&|| open("writers"), WRITERS, EACH, 1);
}

/// Of sixteen that save one step at once, each something else, one wins and all others are told of the conflict; what is restored is
/// the winner's.
fn races_for_a_step(open: Open<'_>) {
    const WRITERS: u64 = 16;
    config::init(&open("steps")).unwrap();
    let stores: Vec<Store> = (0..WRITERS)
        .map(|_| Store::over(open("steps"), None).unwrap())
        .collect();
    for step in 0..races() {
        let scratch = tempfile::tempdir().unwrap();
        let source = |writer: u64| scratch.path().join(format!("of{writer}"));
        for writer in 0..WRITERS {
            fs::create_dir(source(writer)).unwrap();
            let weights = bf16_weights(&mut Rng::new(step * WRITERS + writer), 500);
            let file = source(writer).join("m.safetensors");
            write_safetensors(&file, &[("w", "BF16", vec![500], weights)]);
        }
        let start = Barrier::new(stores.len());
        let winners: Vec<u64> = thread::scope(|scope| {
            let racers: Vec<_> = (0..WRITERS)
                .zip(&stores)
                .map(|(writer, store)| {
                    let (start, source) = (&start, source(writer));
                    scope.spawn(move || {
                        start.wait();
                        match save(store, &source, step) {
                            Ok(report) => {
                                assert_eq!((report.seq, report.already_there), (step, false));
                                Some(writer)
                            }
                            Err(StoreError::Conflict { .. }) => None,
                            Err(other) => panic!("step {step}: {other}"),
                        }
                    })
                })
                .collect();
            racers.into_iter().filter_map(|r| r.join().unwrap()).collect()
        });
        let [winner] = winners[..] else {
            panic!("step {step} was won by {winners:?}");
        };
        let back = scratch.path().join("back");
        restore(&stores[0], &format!("run@{step}"), &back).unwrap();
        assert_same_tree(&source(winner), &back, "the winner's content");
    }
    assert_eq!(history::check_chain(&open("steps"), &run()).unwrap(), races());
    assert_eq!(verify(&stores[0], VerifyLevel::Restore).problems, []);
    println!(
        "{} races of {WRITERS} for a name, and for a step: one winner each",
        races()
    );
}

/// What two copy in from another backend at once, and one out again, restores as it was saved; no commit is there twice.
fn copies(open: Open<'_>) {
    const STEPS: u64 = 5;
    let in_memory = || {
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        Store::over(objects, None).unwrap()
    };
    let (source, back) = (in_memory(), in_memory());
    config::init(&open("copies")).unwrap();
    let store = || Store::over(open("copies"), None).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let at = |step: u64| scratch.path().join(format!("step{step}"));
    let mut state = training_state();
    for step in 0..STEPS {
        train(&mut state, &mut Rng::new(step));
        fs::create_dir(at(step)).unwrap();
        fs::write(at(step).join("state.safetensors"), &state).unwrap();
        save(&source, &at(step), step).unwrap();
    }
    let all = CopyRequest::default();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| copy(&source, &store(), &all, &Silent).unwrap());
        }
    });
    assert_eq!(history::check_chain(&open("copies"), &run()).unwrap(), STEPS);
    let again = copy(&source, &store(), &all, &Silent).unwrap();
    assert!(
        again
            .commits
            .iter()
            .all(|commit| commit.fate == Fate::AlreadyThere)
    );
    assert_eq!(verify(&store(), VerifyLevel::Restore).problems, []);
    copy(&store(), &back, &all, &Silent).unwrap();
    for step in 0..STEPS {
        let restored = scratch.path().join(format!("copy{step}"));
        restore(&back, &format!("run@{step}"), &restored).unwrap();
        assert_same_tree(&at(step), &restored, "what was copied there and back");
    }
}

/// Lets `writers` save `each` checkpoints to one run at once, through clients of their own; then checks the run.
///
/// * `tries`: how often a save that says that its outcome is not known, or that the line failed, is made in all.
pub(crate) fn save_at_once(open: &(dyn Fn() -> Objects + Sync), writers: u64, each: u64, tries: usize) {
    let seqs: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn(move || {
                    let store = Store::over(open(), None).unwrap();
                    let scratch = tempfile::tempdir().unwrap();
                    let file = scratch.path().join("m.safetensors");
                    let steps = writer * 100..writer * 100 + each;
                    let saved = steps.map(|step| {
                        let weights = bf16_weights(&mut Rng::new(step), 500);
                        write_safetensors(&file, &[("w", "BF16", vec![500], weights)]);
                        let mut saves = (1..=tries).map(|n| (n, save(&store, scratch.path(), step)));
                        let is_final = |saved: &(usize, Result<_, StoreError>)| {
                            let unsure = matches!(
                                saved.1,
                                Err(StoreError::OutcomeUnknown { .. } | StoreError::Backend { .. })
                            );
                            !unsure || saved.0 == tries
                        };
                        let (n, report) = saves.find(is_final).unwrap();
                        let report = report.unwrap();
                        assert!(!report.already_there || n > 1, "step {step} was saved once");
                        report.seq
                    });
                    saved.collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let all = writers * each;
    let told: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(told, (0..all).collect(), "{seqs:?}");
    let store = Store::over(open(), None).unwrap();
    assert_eq!(history::check_chain(store.objects(), &run()).unwrap(), all);
    let steps: BTreeSet<u64> = history::log(store.objects(), &run())
        .unwrap()
        .commits()
        .map(|c| c.step)
        .collect();
    assert_eq!(
        steps,
        (0..writers).flat_map(|w| w * 100..w * 100 + each).collect()
    );
    assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);
}
