//! What goes over the line to a server: only what is needed, together, once, and checked.

mod counting;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use counting::{Counting, Rules};
use globset::{Glob, GlobSet};
use tpde_store::objects::PackCache;
use tpde_store::{Objects, RestoreRequest, Silent, Store, StoreError, VerifyLevel, config};
use tpde_tests::{
    Rng, assert_same_tree, bf16_weights, restore, run, save, train, training_state, verify, write_safetensors,
};

const MIB: usize = 1 << 20;
/// What the end of a pack takes to read.
const FOOTER_BYTES: u64 = 64 << 10;

/// A store on a server in memory.
fn server() -> Arc<Counting> {
    let server = Counting::new();
    config::init(&server.client()).unwrap();
    server.take();
    server
}

/// The store as another process sees it, with nothing kept on this machine.
fn store(server: &Arc<Counting>) -> Store {
    Store::over(server.client(), None).unwrap()
}

/// The same, with packs kept in `folder`.
fn caching(server: &Arc<Counting>, folder: &Path) -> Store {
    let objects: Objects = server.client().with_pack_cache(PackCache::new(folder, 1 << 30));
    Store::over(objects, None).unwrap()
}

/// Three steps of a real training state, and a few small files beside it.
fn three_steps(dir: &Path, server: &Arc<Counting>) {
    let (mut state, mut rng) = (training_state(), Rng::new(5));
    for step in 1..=3 {
        let at = dir.join(step.to_string());
        fs::create_dir(&at).unwrap();
        fs::write(at.join("state.safetensors"), &state).unwrap();
        fs::write(at.join("config.json"), format!("{{\"step\": {step}}}")).unwrap();
        save(&store(server), &at, step).unwrap();
        train(&mut state, &mut rng);
    }
}

/// Only tensors or files that match.
fn some(store: &Store, reference: &str, target: &Path, tensors: &str) -> RestoreRequest {
    RestoreRequest {
        manifest: store.resolve(reference).unwrap().manifest,
        target: target.into(),
        files: None,
        tensors: Some(
            GlobSet::builder()
                .add(Glob::new(tensors).unwrap())
                .build()
                .unwrap(),
        ),
        overwrite: false,
    }
}

#[test]
fn neighbours_come_together() {
    // Promise: a restore reads each pack of a chain with a request or two, not one a piece, and counts them rightly.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    three_steps(dir.path(), &server);
    server.take();
    let reader = store(&server);
    let back = dir.path().join("back");
    let report = restore(&reader, "run@3", &back).unwrap();
    assert_same_tree(&dir.path().join("3"), &back, "over a line");
    let counts = server.take();
    assert!(report.tensors >= 8, "too few tensors to tell: {}", report.tensors);
    // A footer and a run of each of three packs.
    assert_eq!((report.moved.requests, counts.gets), (3, 6), "{counts:?}");
    assert!(report.moved.bytes < counts.got_bytes);
    assert_eq!(counts.lists, 0, "a restore needs no listing of packs");
    let fetched = reader
        .fetch(reader.resolve("run@3").unwrap().manifest, &Silent)
        .unwrap();
    assert_eq!(fetched, report.moved);
}

/// Two large tensors around a small one.
fn large_and_small(dir: &Path, seed: u64) {
    fs::create_dir(dir).unwrap();
    let mut rng = Rng::new(seed);
    let mut tensor = |elems: usize| (vec![elems], bf16_weights(&mut rng, elems));
    let [a, b, c] = [4 * MIB, 5000, 4 * MIB].map(&mut tensor);
    let tensors = [
        ("a", "BF16", a.0, a.1),
        ("b", "BF16", b.0, b.1),
        ("c", "BF16", c.0, c.1),
    ];
    write_safetensors(&dir.join("model.safetensors"), &tensors);
}

#[test]
fn some_tensors_cost_what_they_take() {
    // Promise: whoever asks for one tensor receives its stored bytes and the ends of packs, and no others.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    large_and_small(&dir.path().join("1"), 1);
    save(&store(&server), &dir.path().join("1"), 1).unwrap();
    let whole_bytes = server.take().put_bytes;
    assert!(whole_bytes > 8 * MIB as u64, "{whole_bytes}");
    let reader = store(&server);
    let report = reader
        .restore(&some(&reader, "run@1", &dir.path().join("b"), "b"), &Silent)
        .unwrap();
    let counts = server.take();
    assert_eq!((report.tensors, report.moved.requests, counts.gets), (1, 1, 2));
    assert!(report.moved.bytes <= 10_000, "{:?}", report.moved);
    assert!(counts.got_bytes <= 10_000 + FOOTER_BYTES, "{counts:?}");
}

/// A checkpoint of `mib` MiB that no code makes shorter, in slices of 16 MiB: two packs above 64.
fn noise(dir: &Path, mib: usize) {
    fs::create_dir(dir).unwrap();
    let mut rng = Rng::new(9);
    let bytes: Vec<u8> = (0..mib * MIB / 8)
        .flat_map(|_| rng.draw().to_le_bytes())
        .collect();
    write_safetensors(
        &dir.join("model.safetensors"),
        &[("noise", "U16", vec![bytes.len() / 2], bytes)],
    );
}

#[test]
fn a_save_is_resumed() {
    // Promise: what a save has stored before it failed is not sent once more, by the same process or by another one, not even of
    // the tensor that it had stored a part of.
    for same_process in [true, false] {
        let (dir, server) = (tempfile::tempdir().unwrap(), server());
        let checkpoint = dir.path().join("1");
        noise(&checkpoint, 70);
        server.set(Rules {
            most_puts: Some(1),
            meet: 0,
        });
        let first = store(&server);
        let error = save(&first, &checkpoint, 1).unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{error}");
        assert!(
            error.to_string().contains("the disk of the server is full"),
            "{error}"
        );
        let before = server.take();
        assert_eq!((before.puts, before.refused), (1, 1));

        server.set(Rules::default());
        let second = if same_process { first } else { store(&server) };
        let report = save(&second, &checkpoint, 1).unwrap();
        let after = server.take();
        let raw_bytes = 70 * MIB as u64;
        assert_eq!((after.puts, report.new_tensors), (1, 1));
        assert!(
            before.put_bytes + after.put_bytes < raw_bytes + MIB as u64,
            "sent twice: {before:?}, then {after:?}"
        );
        restore(&store(&server), "run@1", &dir.path().join("back")).unwrap();
        assert_same_tree(&checkpoint, &dir.path().join("back"), "resumed");
    }
}

#[test]
fn packs_are_on_their_way_together() {
    // Promise: a pack is sent while the one before is still on its way.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    let checkpoint = dir.path().join("1");
    noise(&checkpoint, 70);
    // The first answer comes when the second pack is there: whoever waited for it would wait for ever.
    server.set(Rules {
        most_puts: None,
        meet: 2,
    });
    save(&store(&server), &checkpoint, 1).unwrap();
    assert_eq!(server.take().puts, 2);
}

#[test]
fn what_was_fetched_is_kept() {
    // Promise: pieces that this machine has fetched or written are not fetched again; whatever becomes of its copy, what comes out is
    // right, and what was damaged is fetched once more.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    three_steps(dir.path(), &server);
    let cache = dir.path().join("cache");
    let mut number = 0;
    let mut read = |what: &str| {
        number += 1;
        let back = dir.path().join(format!("back-{number}"));
        let report = restore(&caching(&server, &cache), "run@3", &back).unwrap();
        assert_same_tree(&dir.path().join("3"), &back, what);
        report.moved
    };
    let cold = read("cold");
    assert!(cold.requests == 3 && cold.bytes > 0);
    assert_eq!(read("warm").requests, 0);

    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 3);
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(read("damaged").requests, 3);
    assert_eq!(read("mended").requests, 0);
    for file in &files {
        fs::write(file, b"no records").unwrap();
    }
    assert_eq!(read("overwritten").requests, 3);
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, b"a file in the way").unwrap();
    assert_eq!(read("without a folder").requests, 3);
}

#[test]
fn a_base_that_was_written_here_is_not_fetched() {
    // Promise: the next save of the process that wrote the last one reads the base from this machine, and deltas are taken.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    let (mut state, mut rng) = (training_state(), Rng::new(5));
    let cache = dir.path().join("cache");
    for step in 1..=4 {
        let at = dir.path().join(step.to_string());
        fs::create_dir(&at).unwrap();
        fs::write(at.join("state.safetensors"), &state).unwrap();
        server.take();
        let report = save(&caching(&server, &cache), &at, step).unwrap();
        let counts = server.take();
        // Ends of packs, to know what there is.
        assert!(
            counts.got_bytes <= counts.gets * FOOTER_BYTES,
            "step {step}: {counts:?}"
        );
        assert!(step == 1 || report.stored_bytes < report.raw_bytes / 4);
        train(&mut state, &mut rng);
    }
    restore(&store(&server), "run@4", &dir.path().join("back")).unwrap();
    assert_same_tree(&dir.path().join("4"), &dir.path().join("back"), "from the server");
    assert_eq!(store(&server).resolve("run").unwrap().place.unwrap().run, run());
}

#[test]
fn verify_looks_at_the_store_itself() {
    // Promise: a good copy on this machine hides no damage on the server.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    three_steps(dir.path(), &server);
    let store = caching(&server, &dir.path().join("cache"));
    restore(&store, "run@3", &dir.path().join("back")).unwrap();
    assert!(verify(&store, VerifyLevel::Restore).problems.is_empty());
    server.damage_packs();
    restore(&store, "run@3", &dir.path().join("again")).unwrap();
    assert!(!verify(&store, VerifyLevel::Restore).problems.is_empty());
}

#[test]
fn a_tile_costs_what_it_takes() {
    // Promise: some elements of a tensor in several slices, stored as a difference, come from a small part of its bytes, and are right;
    // damage in what was read is found, damage elsewhere is no matter.
    let (dir, server) = (tempfile::tempdir().unwrap(), server());
    let elems = 18 * MIB;
    let mut bytes = bf16_weights(&mut Rng::new(4), elems);
    for step in 1..=2 {
        let at = dir.path().join(step.to_string());
        fs::create_dir(&at).unwrap();
        let tensor = ("w", "BF16", vec![elems], bytes.clone());
        write_safetensors(&at.join("model.safetensors"), &[tensor]);
        save(&store(&server), &at, step).unwrap();
        if step == 1 {
            bytes.iter_mut().step_by(100).for_each(|b| *b ^= 1);
        }
    }
    let stored_bytes = server.take().put_bytes;
    let reader = store(&server);
    let manifest = reader
        .manifest(reader.resolve("run@2").unwrap().manifest)
        .unwrap();
    let record = &manifest.tensors[0];
    assert!(record.has_base);
    server.take();
    // Within a tile, and across two slices.
    for wanted in [
        9_000_000..9_000_100,
        8 * MIB - 10..8 * MIB + 10,
        18 * MIB - 1..18 * MIB,
    ] {
        let elems = wanted.start as u64..wanted.end as u64;
        let part = reader.tensor_part(&manifest, record, elems).unwrap();
        assert!(part == bytes[2 * wanted.start..2 * wanted.end]);
        let counts = server.take();
        assert!(
            counts.got_bytes < stored_bytes / 10,
            "{counts:?} of {stored_bytes}"
        );
    }
    assert!(reader.tensor_part(&manifest, record, 5..5).unwrap().is_empty());
    let beyond = 18 * MIB as u64..18 * MIB as u64 + 1;
    let error = reader.tensor_part(&manifest, record, beyond).unwrap_err();
    assert!(matches!(error, StoreError::Input { .. }), "{error}");
    // The byte that is damaged is in the head of the first slice: it lies, and the others' hashes say so.
    server.damage_packs();
    let error = reader
        .tensor_part(&manifest, record, 9_000_000..9_000_100)
        .unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}
