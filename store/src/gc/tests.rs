//! Gc beside writers: at every request of the one, all of the other.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::Objects;
use crate::config;
use crate::faults::FaultStore;
use crate::files::made_up::one_tensor;
use crate::forget::Selection;
use crate::history;
use crate::names::RunName;
use crate::progress::Silent;
use crate::restore::RestoreRequest;
use crate::save::SaveRequest;
use crate::tags::Target;

/// Collects at once, and gives up every writer that it meets.
fn ruthless() -> GcRequest {
    GcRequest {
        grace: Duration::ZERO,
        lease_limit: Duration::ZERO,
        patience: None,
    }
}

/// Collects at once, and leaves writers alone.
fn polite() -> GcRequest {
    GcRequest {
        lease_limit: Duration::MAX,
        patience: Some(Duration::ZERO),
        ..ruthless()
    }
}

fn run() -> RunName {
    "run".parse().unwrap()
}

/// Checkpoints on a disk and a store that holds the first four: two of them are forgotten, and the others are deltas on those.
struct World {
    _dir: tempfile::TempDir,
    out: PathBuf,
    server: Arc<FaultStore>,
}

use std::sync::Arc;

fn opened(server: &Arc<FaultStore>) -> Store {
    Store::over(Objects::wrapping(Arc::clone(server) as Arc<_>), None).unwrap()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_owned();
        let mut bytes: Vec<u8> = (0..20_000u32).map(|i| (i * i % 251) as u8).collect();
        for step in 0..6usize {
            let source = out.join(step.to_string());
            fs::create_dir(&source).unwrap();
            bytes[step * 100] ^= 1;
            fs::write(source.join("m.safetensors"), one_tensor(&bytes)).unwrap();
            fs::write(source.join("state.json"), format!("{{\"step\": {step}}}")).unwrap();
        }
        let server = Arc::new(FaultStore::new());
        config::init(&Objects::wrapping(Arc::clone(&server) as Arc<_>)).unwrap();
        let world = Self {
            _dir: dir,
            out,
            server,
        };
        let store = opened(&world.server);
        (0..4).for_each(|step| {
            save(&store, &world.out, step, step).unwrap();
        });
        forget(&store, &[1, 2]);
        world
    }

    /// The same store on a server of its own.
    fn server(&self) -> Arc<FaultStore> {
        Arc::new(self.server.copied())
    }

    /// Every checkpoint that stands is restored, byte for byte.
    fn check(&self, server: &Arc<FaultStore>) {
        let store = opened(server);
        let log = history::log(store.objects(), &run()).unwrap();
        for commit in log.commits() {
            let back = tempfile::tempdir().unwrap();
            let target = back.path().join("back");
            restore(&store, commit.step, &target).unwrap();
            for name in ["m.safetensors", "state.json"] {
                // Step 10 + n has the content of step n.
                let source = self.out.join((commit.step % 10).to_string());
                assert_eq!(
                    fs::read(target.join(name)).unwrap(),
                    fs::read(source.join(name)).unwrap()
                );
            }
        }
    }
}

fn restore(store: &Store, step: u64, target: &Path) -> Result<()> {
    let request = RestoreRequest {
        manifest: store.resolve(&format!("run@{step}"))?.manifest,
        target: target.to_owned(),
        files: None,
        tensors: None,
        overwrite: false,
    };
    store.restore(&request, &Silent).map(drop)
}

fn save(store: &Store, out: &Path, content: usize, step: usize) -> Result<()> {
    let source = out.join(content.to_string());
    store
        .save(&SaveRequest::new(source, run(), step as u64), &Silent)
        .map(drop)
}

fn forget(store: &Store, seqs: &[u64]) {
    let selection = Selection::Commits(seqs.iter().copied().collect());
    let plan = store.plan_forget(&run(), &selection, 1).unwrap();
    store.forget(&plan, 1).unwrap();
}

fn target(store: &Store, step: u64) -> Target {
    let log = history::log(store.objects(), &run()).unwrap();
    let commit = log.records().iter().find(|r| r.step == step).unwrap();
    Target {
        manifest: commit.manifest,
        run: run(),
        seq: commit.seq,
        step,
    }
}

fn packs(server: &Arc<FaultStore>) -> usize {
    opened(server).objects().list(&Prefix::Packs).unwrap().len()
}

/// Does `work` with `meanwhile` before each of its requests in turn, until there are no more; `check` looks at the outcome of each.
fn at_every_request<T>(
    world: &World,
    work: impl Fn(&Store) -> Result<T>,
    meanwhile: impl Fn(Store) + Clone + Send + 'static,
    check: impl Fn(&Arc<FaultStore>, Result<T>),
) -> usize {
    for at in 0.. {
        let server = world.server();
        let other = opened(&server);
        let store = opened(&server);
        let meanwhile = meanwhile.clone();
        server.meanwhile(at, move || meanwhile(other));
        let done = work(&store);
        if server.is_waiting() {
            return at;
        }
        world.check(&server);
        check(&server, done);
        world.check(&server);
        // Whatever went on, a quiet gc finds the store whole, and nobody in its way.
        opened(&server).gc(&ruthless(), &Silent).unwrap();
        world.check(&server);
    }
    unreachable!()
}

/// Promise: what nothing needs goes, what something needs stays, twice is harmless, and a look changes nothing.
#[test]
fn collects() {
    let world = World::new();
    let server = world.server();
    let store = opened(&server);
    let before = packs(&server);
    let young = store.gc(&GcRequest::default(), &Silent).unwrap();
    assert_eq!((young.collected, packs(&server)), (Amount::default(), before));
    // Steps 3 and 0 stay. Step 3 is a delta on 2, and that on 1: their packs stay with it. Manifests of the forgotten go.
    assert_eq!((young.young.packs, young.young.manifests), (0, 2));

    forget(&store, &[3]);
    let plan = store.plan_gc(&ruthless()).unwrap();
    assert_eq!((plan.collected.packs, plan.collected.manifests), (3, 3));
    assert_eq!(packs(&server), before);
    let done = store.gc(&ruthless(), &Silent).unwrap();
    assert_eq!(done.collected, plan.collected);
    assert_eq!(packs(&server), before - 3);
    assert!(store.objects().list(&Prefix::Marks).unwrap().is_empty());
    world.check(&server);
    assert!(matches!(store.undo(&run(), 2), Err(StoreError::Conflict { .. })));
    assert_eq!(
        store.gc(&ruthless(), &Silent).unwrap().collected,
        Amount::default()
    );
    save(&store, &world.out, 3, 13).unwrap();
    world.check(&server);
}

/// Promise: a save that finds the very contents that are about to go, a gc before any of its requests: what it acknowledges is
/// restored, and it is not refused, whether the gc gives it up or waits in vain.
#[test]
fn gc_within_a_save() {
    let world = World::new();
    for request in [ruthless(), polite()] {
        let requests = at_every_request(
            &world,
            |store| {
                forget(store, &[3]);
                save(store, &world.out, 3, 13)
            },
            move |store| match store.gc(&request, &Silent) {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            |server, saved| {
                saved.unwrap();
                opened(server).resolve("run@13").unwrap();
            },
        );
        assert!(requests > 10, "{requests}");
    }
}

/// Promise: what an undo puts back, and what a tag is set to, stays, a gc before any of its requests; or it is refused.
#[test]
fn gc_within_an_undo_and_a_tag() {
    let world = World::new();
    forget(&opened(&world.server), &[3]);
    type Work<'a> = &'a dyn Fn(&Store) -> Result<()>;
    let works: [Work<'_>; 2] = [&|store| store.undo(&run(), 2).map(drop), &|store| {
        store.tag(&"good".parse()?, &target(store, 3), false, 2).map(drop)
    }];
    for work in works {
        for request in [ruthless(), polite()] {
            at_every_request(
                &world,
                work,
                move |store| match store.gc(&request, &Silent) {
                    Ok(_) | Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                },
                |server, done| {
                    let store = opened(server);
                    let whole = store.is_whole(target(&store, 3).manifest).unwrap();
                    match done {
                        Ok(()) => assert_eq!(whole, Some(true)),
                        Err(StoreError::Conflict { .. }) => assert_ne!(whole, Some(true)),
                        Err(error) => panic!("{error}"),
                    }
                },
            );
        }
    }
}

/// Promise: a gc with a whole save, undo or other gc before any of its requests deletes nothing that is needed.
#[test]
fn others_within_a_gc() {
    let world = World::new();
    forget(&opened(&world.server), &[3]);
    let out = world.out.clone();
    let others: [Arc<dyn Fn(Store) + Send + Sync>; 3] = [
        Arc::new(move |store| save(&store, &out, 3, 13).unwrap()),
        Arc::new(|store| match store.undo(&run(), 2) {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }),
        Arc::new(|store| match store.gc(&ruthless(), &Silent) {
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }),
    ];
    for other in others {
        at_every_request(
            &world,
            |store| store.gc(&ruthless(), &Silent),
            move |store| other(store),
            |_, done| {
                done.unwrap();
            },
        );
    }
}

/// Promise: a restore that is reading the copy of a content that a gc deletes goes on with the other.
#[test]
fn gc_within_a_restore() {
    let world = World::new();
    let store = opened(&world.server);
    let pack = Key::Pack(store.manifest(target(&store, 0).manifest).unwrap().packs[0]);
    let bytes = store.objects().get(&pack).unwrap();
    store.objects().delete(&pack).unwrap();
    save(&opened(&world.server), &world.out, 0, 0).unwrap();
    store.objects().create(&pack, bytes).unwrap();
    let before = packs(&world.server);
    let requests = at_every_request(
        &world,
        |store| {
            let back = tempfile::tempdir().unwrap();
            restore(store, 0, &back.path().join("back"))
        },
        |store| drop(store.gc(&ruthless(), &Silent).unwrap()),
        |server, restored| {
            restored.unwrap();
            assert_eq!(packs(server), before - 1);
        },
    );
    assert!(requests > 4, "{requests}");
}

/// Promise: of two copies of a content one goes, unless the other is damaged.
#[test]
fn a_good_copy_never_goes_for_a_damaged_one() {
    for damaged in [false, true] {
        let world = World::new();
        let server = world.server();
        let store = opened(&server);
        let listed = |server: &Arc<FaultStore>| -> Vec<Key> {
            let packs = opened(server).objects().list(&Prefix::Packs).unwrap();
            packs.into_iter().map(|listed| listed.key).collect()
        };
        let old = listed(&server);
        let pack = Key::Pack(store.manifest(target(&store, 0).manifest).unwrap().packs[0]);
        let bytes = store.objects().get(&pack).unwrap();
        store.objects().delete(&pack).unwrap();
        // Saved again, it is stored again: then the old pack comes back.
        save(&opened(&server), &world.out, 0, 0).unwrap();
        let again = listed(&server);
        let mut bytes = bytes.to_vec();
        bytes[300] ^= u8::from(damaged);
        store.objects().create(&pack, bytes.into()).unwrap();
        let before = packs(&server);
        opened(&server).gc(&ruthless(), &Silent).unwrap();
        let left = listed(&server);
        if damaged {
            // Whether the damaged one goes too depends on which is the older.
            assert!(again.iter().any(|key| !old.contains(key) && left.contains(key)));
        } else {
            assert_eq!(left.len(), before - 1);
            world.check(&server);
        }
    }
}

/// Promise: a sound copy of a base that nobody keeps for its own sake never goes while the copy that is read is damaged.
#[test]
fn a_sound_base_stays() {
    let world = World::new();
    let server = world.server();
    let store = opened(&server);
    let pack = Key::Pack(store.manifest(target(&store, 2).manifest).unwrap().packs[0]);
    let mut bytes = store.objects().get(&pack).unwrap().to_vec();
    store.objects().delete(&pack).unwrap();
    save(&opened(&server), &world.out, 2, 12).unwrap();
    let stored_again = history::log(store.objects(), &run()).unwrap().records().len() as u64 - 1;
    forget(&opened(&server), &[stored_again]);
    // Behind the id of its lease comes the frame that step 3 is taken against.
    bytes[16..24].iter_mut().for_each(|byte| *byte ^= 0x55);
    store.objects().create(&pack, bytes.into()).unwrap();
    world.check(&server);
    for _ in 0..2 {
        opened(&server).gc(&ruthless(), &Silent).unwrap();
        world.check(&server);
    }
}

/// Promise: the mark of a gc that was killed may list what a slow writer then relied on: the next gc deletes nothing and says what to do, a
/// repack stores it again, and then all goes on.
#[test]
fn a_mark_that_was_left() {
    let world = World::new();
    let server = world.server();
    let store = opened(&server);
    let manifest = store.manifest(target(&store, 3).manifest).unwrap();
    store
        .put_mark(&Mark {
            id: MarkId::random().unwrap(),
            created_unix_ms: 1,
            packs: manifest.packs.iter().copied().collect(),
            manifests: BTreeSet::new(),
        })
        .unwrap();
    world.check(&server);
    let before = packs(&server);
    let refused = opened(&server).gc(&ruthless(), &Silent).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Corrupt { hint, .. } if hint.contains("tpde repack")),
        "{refused:?}"
    );
    assert_eq!(packs(&server), before);
    let report = opened(&server)
        .repack(&crate::RepackRequest::default(), &Silent)
        .unwrap();
    assert!(report.written_bytes > 0);
    world.check(&server);
    for _ in 0..2 {
        opened(&server).gc(&ruthless(), &Silent).unwrap();
        world.check(&server);
    }
    assert!(store.objects().list(&Prefix::Marks).unwrap().is_empty());
}

/// Promise: a repack makes forgotten bases needless and empties packs, changes no id, and the next gc frees the bytes; what is kept is
/// restored byte for byte at every stage.
#[test]
fn repacked_and_collected() {
    let world = World::new();
    let server = world.server();
    let store = opened(&server);
    for step in 4..6 {
        save(&store, &world.out, step, step).unwrap();
    }
    // The step after the record that forgot the first two.
    forget(&store, &[5]);
    let log = || history::log(store.objects(), &run()).unwrap();
    let before = log();
    // Steps 0, 3 and 5 stay; 3 leans on 2 and 1, and 5 on 4.
    assert_eq!(store.plan_gc(&ruthless()).unwrap().collected.packs, 0);
    let report = store.repack(&crate::RepackRequest::default(), &Silent).unwrap();
    assert_eq!(report.rebased, 2);
    assert_eq!(report.reclaimable_bytes_before, store_bytes(&before, &store));
    assert!(report.reclaimable_bytes > report.written_bytes, "{report:?}");
    world.check(&server);
    let done = opened(&server).gc(&ruthless(), &Silent).unwrap();
    assert_eq!(done.collected.bytes, report.reclaimable_bytes);
    assert!(done.collected.packs >= 5, "{done:?}");
    world.check(&server);
    assert_eq!(log(), before);
    let again = opened(&server)
        .repack(&crate::RepackRequest::default(), &Silent)
        .unwrap();
    assert_eq!(
        (again.rebased, again.emptied_packs, again.written_bytes),
        (0, 0, 0)
    );
}

/// Bytes of the manifests of what is forgotten.
fn store_bytes(log: &history::Log, store: &Store) -> u64 {
    let forgotten = log.forgotten().map(|commit| Key::Manifest(commit.manifest));
    forgotten
        .map(|key| store.objects().head(&key).unwrap().unwrap())
        .sum()
}

/// Promise: a repack with a whole gc or save before any of its requests loses nothing.
#[test]
fn others_within_a_repack() {
    let world = World::new();
    let out = world.out.clone();
    let others: [Arc<dyn Fn(Store) + Send + Sync>; 2] = [
        Arc::new(move |store| save(&store, &out, 4, 14).unwrap()),
        Arc::new(|store| {
            store.gc(&ruthless(), &Silent).unwrap();
        }),
    ];
    for other in others {
        at_every_request(
            &world,
            |store| store.repack(&crate::RepackRequest::default(), &Silent),
            move |store| other(store),
            |_, done| {
                done.unwrap();
            },
        );
    }
}
