//! One set of promises, three backends: memory, a folder, and anything behind the runtime.

use super::*;
use crate::faults::{Fault, FaultStore, Plan};
use crate::ids::{ManifestId, PackId};
use crate::names::RunName;

fn slot(seq: u64) -> Key {
    Key::Slot("r".parse().unwrap(), seq)
}

fn on_every_backend(check: impl Fn(&Objects)) {
    check(&Objects::memory());
    let dir = tempfile::tempdir().unwrap();
    check(&Objects::open(dir.path().to_str().unwrap()).unwrap());
    check(&Objects::over(
        Arc::new(object_store::memory::InMemory::new()),
        "runtime",
    ));
}

/// Promise: what was created is read back whole, in parts and from the end; nothing else is there.
#[test]
fn reads() {
    on_every_backend(|objects| {
        let key = slot(7);
        assert!(matches!(objects.get(&key), Err(StoreError::NotFound { .. })));
        assert_eq!(objects.head(&key).unwrap(), None);
        assert!(matches!(
            objects.get_range(&key, 0..1),
            Err(StoreError::Backend { .. } | StoreError::NotFound { .. })
        ));
        assert!(matches!(
            objects.get_tail(&key, 1),
            Err(StoreError::NotFound { .. })
        ));
        let bytes = Bytes::from_static(b"0123456789");
        assert_eq!(objects.create(&key, bytes.clone()).unwrap(), Created::New);
        assert_eq!(
            objects.create(&key, Bytes::from_static(b"x")).unwrap(),
            Created::AlreadyExists
        );
        assert_eq!(objects.get(&key).unwrap(), bytes);
        assert_eq!(objects.head(&key).unwrap(), Some(10));
        assert_eq!(objects.get_range(&key, 2..5).unwrap(), &b"234"[..]);
        assert_eq!(objects.get_range(&key, 5..5).unwrap(), &b""[..]);
        for short in [8..11, 10..12, 20..22] {
            assert!(matches!(
                objects.get_range(&key, short),
                Err(StoreError::Corrupt { .. })
            ));
        }
        for (n, tail) in [(0, ""), (1, "9"), (10, "0123456789"), (99, "0123456789")] {
            let (bytes, size) = objects.get_tail(&key, n).unwrap();
            assert_eq!((bytes.as_ref(), size), (tail.as_bytes(), 10));
        }
        let empty = slot(8);
        objects.create(&empty, Bytes::new()).unwrap();
        assert_eq!(objects.get_tail(&empty, 4).unwrap(), (Bytes::new(), 0));
    });
}

/// Promise: a content-named put may be repeated, and never hides another object under its name.
#[test]
fn content_puts_are_idempotent() {
    on_every_backend(|objects| {
        let bytes = Bytes::from_static(b"pack");
        let key = Key::Pack(PackId::of(&bytes));
        assert_eq!(objects.put_content(&key, bytes.clone()).unwrap(), Created::New);
        assert_eq!(
            objects.put_content(&key, bytes.clone()).unwrap(),
            Created::AlreadyExists
        );
        let error = objects
            .put_content(&key, Bytes::from_static(b"longer"))
            .unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(objects.get(&key).unwrap(), bytes);

        // What is stored under the name is damaged: the right bytes take its place.
        let key = Key::Pack(PackId::of(b"another"));
        objects.create(&key, Bytes::from_static(b"damaged")).unwrap();
        let put = objects.put_content(&key, Bytes::from_static(b"another")).unwrap();
        assert_eq!(put, Created::New);
        assert_eq!(objects.get(&key).unwrap(), Bytes::from_static(b"another"));
    });
}

/// Promise: listings are whole, sorted, and keep to their prefix; the newest come first.
#[test]
fn listings() {
    on_every_backend(|objects| {
        for seq in [3, 0, 2, 1] {
            objects.create(&slot(seq), Bytes::from_static(b"s")).unwrap();
        }
        let near: RunName = "r2".parse().unwrap();
        objects
            .create(&Key::Slot(near, 9), Bytes::from_static(b"s"))
            .unwrap();
        let manifest = Key::Manifest(ManifestId::from_bytes([0xab; 32]));
        objects.put_content(&manifest, Bytes::from_static(b"m")).unwrap();

        let run = Prefix::Slots("r".parse().unwrap());
        assert_eq!(objects.list_newest(&run, 2).unwrap(), vec![slot(3), slot(2)]);
        assert_eq!(objects.list_newest(&run, 99).unwrap().len(), 4);
        let keys = |listed: Vec<Listed>| listed.into_iter().map(|l| l.key).collect::<Vec<_>>();
        assert_eq!(
            keys(objects.list(&run).unwrap()),
            vec![slot(3), slot(2), slot(1), slot(0)]
        );
        assert_eq!(
            keys(objects.list_after(&run, &slot(2)).unwrap()),
            vec![slot(1), slot(0)]
        );
        assert_eq!(
            keys(objects.list(&Prefix::ManifestsUnder(0xab)).unwrap()),
            vec![manifest]
        );
        assert!(objects.list(&Prefix::ManifestsUnder(0xac)).unwrap().is_empty());
        assert_eq!(objects.list_folders(&Prefix::Runs).unwrap(), ["r", "r2"]);
        assert!(
            objects
                .list_newest(&Prefix::Tag("none".parse().unwrap()), 1)
                .unwrap()
                .is_empty()
        );
        assert_eq!(objects.list(&Prefix::Root).unwrap().len(), 6);
    });
}

/// Promise: what is not an object of the store (a staging file, a stranger's file) is not listed.
#[test]
fn strangers_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path().to_str().unwrap()).unwrap();
    objects.create(&slot(0), Bytes::from_static(b"s")).unwrap();
    let folder = dir.path().join("runs/r");
    for name in ["00000000000000000000#1", "README", ".hidden"] {
        std::fs::write(folder.join(name), b"x").unwrap();
    }
    let run = Prefix::Slots("r".parse().unwrap());
    assert_eq!(objects.list_newest(&run, 9).unwrap(), vec![slot(0)]);
    assert_eq!(objects.list(&run).unwrap().len(), 1);
}

/// Promise: any thread may call, those of rayon and of a runtime included.
#[test]
fn callable_from_anywhere() {
    let objects = Objects::over(Arc::new(object_store::memory::InMemory::new()), "runtime");
    rayon::scope(|s| {
        for seq in 0..8 {
            let objects = objects.clone();
            s.spawn(move |_| {
                objects.create(&slot(seq), Bytes::from_static(b"s")).unwrap();
            });
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let inside = objects.clone();
    let found = runtime.block_on(async move { inside.get(&slot(7)).unwrap() });
    assert_eq!(found, &b"s"[..]);
    assert_eq!(objects.list(&Prefix::Runs).unwrap().len(), 8);
}

/// Promise: a read-only or vanished folder is an error of the backend, with something to do.
#[test]
fn a_vanished_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let objects = Objects::open_or_make(root.to_str().unwrap()).unwrap();
    std::fs::remove_dir(&root).unwrap();
    std::fs::write(&root, b"a file now").unwrap();
    let error = objects.create(&slot(0), Bytes::new()).unwrap_err();
    assert!(matches!(error, StoreError::Backend { .. }), "{error:?}");
}

/// Promise: a server that says of an object that it is there, when it is not, is not believed; one that says so once is asked again.
#[test]
fn what_is_said_to_be_there_is_looked_for() {
    for len in [1, usize::MAX] {
        for fault in [Fault::Conflict, Fault::Precondition] {
            let server = Arc::new(FaultStore::new());
            let objects = Objects::wrapping(server.clone());
            server.plan(Some(Plan { fault, from: 0, len }));
            let bytes = Bytes::from_static(b"pack");
            let pack = Key::Pack(PackId::of(&bytes));
            let put = objects.put_content(&pack, bytes.clone());
            server.plan(Some(Plan { fault, from: 0, len }));
            let own = objects.create_own(&slot(0), &bytes);
            for (key, done) in [(&pack, put.map(drop)), (&slot(0), own)] {
                assert_eq!(done.is_ok(), len == 1, "{fault:?}: {done:?}");
                assert_eq!(objects.head(key).unwrap().is_some(), len == 1, "{fault:?}");
            }
        }
    }
}

/// Promise: an answer that is cut short is a failure of the backend, to be asked again, and no damage of what is stored.
#[test]
fn an_answer_that_is_cut_short_is_no_damage() {
    let server = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(server.clone());
    objects
        .create(&slot(0), Bytes::from_static(b"0123456789"))
        .unwrap();
    type Read = fn(&Objects) -> Result<Bytes>;
    let reads: [Read; 4] = [
        |o| o.get(&slot(0)),
        |o| o.get_range(&slot(0), 2..7),
        |o| o.get_tail(&slot(0), 4).map(|(tail, _)| tail),
        |o| o.get_bounded(&slot(0), 99).map(Option::unwrap),
    ];
    for (number, read) in reads.iter().enumerate() {
        server.plan(Some(Plan {
            fault: Fault::Truncated,
            from: 0,
            len: usize::MAX,
        }));
        let error = read(&objects).unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{number}: {error}");
        assert!(error.to_string().contains("cut short"), "{number}: {error}");
        server.plan(None);
        read(&objects).unwrap();
    }
}
