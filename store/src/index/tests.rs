//! The index on disk against its twin in memory, and against damage.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn store_id() -> StoreId {
    StoreId::from_bytes([7; 16])
}

/// Opens what was just closed: sled lets go of its files a moment after it is dropped.
fn opened<T>(mut open: impl FnMut() -> Option<T>) -> T {
    loop {
        match open() {
            Some(opened) => return opened,
            None => std::thread::yield_now(),
        }
    }
}

fn reopened(home: &Path) -> SledIndex {
    opened(|| SledIndex::open(home))
}

/// sled itself, on the files of an index that was just closed.
fn raw(home: &Path) -> ::sled::Db {
    opened(|| ::sled::open(home.join("index")).ok())
}

fn key(n: u64) -> ContentKey {
    let hash = blake3::hash(&n.to_le_bytes());
    *hash.as_bytes().first_chunk().unwrap()
}

fn pack(n: u8) -> PackId {
    PackId::from_bytes([n; 32])
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u8, Vec<u64>),
    Lookup(u64),
    HasPack(u8),
    Packs,
    Clear,
    Flush,
    Reopen,
}

fn any_op() -> impl Strategy<Value = Op> {
    let rows = prop::collection::vec(0u64..20, 0..8);
    prop_oneof![
        4 => (0u8..6, rows).prop_map(|(p, rows)| Op::Insert(p, rows)),
        6 => (0u64..20).prop_map(Op::Lookup),
        3 => (0u8..6).prop_map(Op::HasPack),
        2 => Just(Op::Packs),
        1 => Just(Op::Clear),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

/// What one operation answers.
#[derive(Debug, PartialEq)]
enum Answer {
    Row(Option<PackId>),
    Has(bool),
    Packs(BTreeSet<PackId>),
    Nothing,
}

fn apply(index: &dyn Index, op: &Op) -> Answer {
    match op {
        Op::Insert(p, rows) => {
            let rows: Vec<_> = rows.iter().map(|&k| key(k)).collect();
            index.insert_pack(&pack(*p), &rows);
        }
        Op::Lookup(k) => return Answer::Row(index.lookup(&key(*k))),
        Op::HasPack(p) => return Answer::Has(index.has_pack(&pack(*p))),
        Op::Packs => return Answer::Packs(index.packs()),
        Op::Clear => index.clear(),
        Op::Flush => index.flush(),
        Op::Reopen => {}
    }
    Answer::Nothing
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Promise: disk and memory give the same answers, across reopening too.
    #[test]
    fn twins(ops in prop::collection::vec(any_op(), 1..40)) {
        let dir = tempfile::tempdir()?;
        let memory = MemoryIndex::default();
        let mut disk = SledIndex::open(dir.path());
        for op in &ops {
            if matches!(op, Op::Reopen) {
                drop(disk.take());
                disk = Some(reopened(dir.path()));
            }
            let disk = disk.as_ref().unwrap();
            prop_assert_eq!(apply(disk, op), apply(&memory, op));
            prop_assert!(!disk.is_doubtful());
        }
    }
}

const ROWS: u64 = 3000;

/// A cache with rows of ten packs, closed; and what is in it.
fn filled(home: &Path) -> HashMap<ContentKey, PackId> {
    let index = reopened(home);
    let mut expected = HashMap::new();
    for n in 0..10u8 {
        let keys = (0..ROWS).filter(|k| k % 10 == u64::from(n));
        let rows: Vec<_> = keys.map(key).collect();
        index.insert_pack(&pack(n), &rows);
        expected.extend(rows.into_iter().map(|k| (k, pack(n))));
    }
    expected
}

/// The files of a folder, with their paths below it.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// Promise: however the files are damaged, opening and asking never panics, and no row is wrong.
#[test]
fn damage_is_never_believed() {
    let source = tempfile::tempdir().unwrap();
    let expected = filled(source.path());
    let files = files(&source.path().join("index"));
    assert!(
        files.iter().any(|(_, bytes)| bytes.len() > 100_000),
        "sled wrote something"
    );
    let mut random = 1u64;
    let mut next = move |below: usize| {
        // Knuth's constants; a test needs no better.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below.max(1)
    };
    let (mut doubted, mut kept) = (0, 0);
    for case in 0..80 {
        let home = tempfile::tempdir().unwrap();
        let victim = next(files.len());
        // Most of the bytes are in one file; hit it most of the time.
        let largest = (0..files.len()).max_by_key(|&i| files[i].1.len()).unwrap();
        let victim = if case % 4 == 0 { victim } else { largest };
        for (i, (path, bytes)) in files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if i == victim && !bytes.is_empty() {
                let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
                let at = next(used);
                match case % 5 {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << next(8),
                    2 => (0..20).for_each(|_| bytes[next(used)] ^= 0xff),
                    3 => bytes[at..used.min(at + 4096)].fill(0),
                    _ => bytes[at..used.min(at + 4096)].fill(0xff),
                }
            }
            let to = home.path().join(path.strip_prefix(source.path()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        std::fs::create_dir_all(home.path().join("index/blobs")).unwrap();
        let Some(index) = SledIndex::open(home.path()) else {
            panic!("case {case}: set aside, and no new one could be made");
        };
        for (key, row) in &expected {
            if let Some(found) = index.lookup(key) {
                assert_eq!(found, *row, "case {case}");
                kept += 1;
            }
        }
        assert!(
            index.packs().iter().all(|p| (0..10).any(|n| *p == pack(n))),
            "case {case}"
        );
        doubted += usize::from(index.is_doubtful());
        // Whatever happened, it works now.
        index.insert_pack(&pack(99), &[key(1)]);
        assert_eq!(index.lookup(&key(1)), Some(pack(99)), "case {case}");
        assert!(index.has_pack(&pack(99)), "case {case}");
    }
    // Much of the damage sled repairs in silence, by forgetting.
    let lost = 80 * expected.len() - kept;
    assert!(
        doubted > 0 && kept > 0 && lost > 0,
        "{doubted} doubted, {kept} kept, {lost} lost"
    );
}

/// Promise: a cache of another schema is set aside, and at most one such is kept.
#[test]
fn another_schema_is_set_aside() {
    let home = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        filled(home.path());
        let db = raw(home.path());
        db.insert("schema", "tpde-index-0").unwrap();
        db.flush().unwrap();
        drop(db);
        let index = reopened(home.path());
        assert!(index.is_doubtful());
        assert_eq!(index.lookup(&key(1)), None);
        assert!(index.packs().is_empty());
    }
    let names = home.path().read_dir().unwrap();
    let bad = names.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("bad"));
    assert_eq!(bad.count(), 1);
}

/// Promise: a row under a wrong checksum is a miss, flags the index, and the next process starts clean.
#[test]
fn a_wrong_row_is_a_miss() {
    let home = tempfile::tempdir().unwrap();
    filled(home.path());
    let db = raw(home.path());
    let rows = db.open_tree("rows").unwrap();
    // Another key's row, intact: right bytes in the wrong place.
    let stolen = rows.get(key(2)).unwrap().unwrap();
    rows.insert(key(1), stolen).unwrap();
    db.flush().unwrap();
    drop((rows, db));
    let index = reopened(home.path());
    assert_eq!(index.lookup(&key(2)), Some(pack(2)));
    assert!(!index.is_doubtful());
    assert_eq!(index.lookup(&key(1)), None);
    assert!(index.is_doubtful());
    assert_eq!(index.lookup(&key(2)), None, "emptied");
    drop(index);
    let index = reopened(home.path());
    assert!(!index.is_doubtful() && index.packs().is_empty());
}

/// Promise: whoever comes second does without, and harms nothing; no usable folder is no error.
#[test]
fn locked_or_unusable() {
    let cache = tempfile::tempdir().unwrap();
    let first = open_index(&store_id(), Some(cache.path()));
    first.insert_pack(&pack(1), &[key(1)]);
    let second = open_index(&store_id(), Some(cache.path()));
    assert_eq!(second.lookup(&key(1)), None);
    second.insert_pack(&pack(2), &[]);
    second.clear();
    assert!(second.has_pack(&pack(2)) != second.packs().is_empty());
    drop(second);
    assert_eq!(first.lookup(&key(1)), Some(pack(1)));
    drop(first);
    let again = reopened(&cache.path().join(store_id().to_string()));
    assert_eq!(again.lookup(&key(1)), Some(pack(1)));
    let file = cache.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for nowhere in [None, Some(file.as_path())] {
        let index = open_index(&store_id(), nowhere);
        index.insert_pack(&pack(1), &[key(1)]);
        assert_eq!(index.lookup(&key(1)), Some(pack(1)));
    }
}

/// Promise: the cache lies where the user keeps caches.
#[test]
fn folder_of_the_user() {
    let with = |set: &[(&str, &str)]| {
        cache_folder_in(|name| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        })
    };
    let all = [("TPDE_CACHE_DIR", "t"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(with(&all), Some("t".into()));
    assert_eq!(with(&all[1..]), Some("/x/tpde".into()));
    assert_eq!(with(&all[2..]), Some("/h/.cache/tpde".into()));
    assert_eq!(
        with(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]),
        Some("/h/.cache/tpde".into())
    );
    assert_eq!(with(&[("TPDE_CACHE_DIR", "")]), None);
}
