//! A training loop that knows of damage does not build on it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use bytes::Bytes;
use tpde_store::{MemoryFile, Objects, RestoreRequest, SaveRequest, Silent, Store, config};

fn store_in(folder: &std::path::Path) -> Store {
    Store::over(Objects::open_or_make(folder.to_str().unwrap()).unwrap(), None).unwrap()
}

#[test]
fn what_is_damaged_is_stored_again() {
    // Promise: of a checkpoint with a flipped bit in the middle of a pack, where no footer tells, the same contents are already there for
    // whoever does not know; for whoever distrusts it they are stored again, and it restores.
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("store");
    config::init(&Objects::open_or_make(at.to_str().unwrap()).unwrap()).unwrap();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(200_000)
    .collect();
    let file = MemoryFile {
        path: "noise".to_owned(),
        bytes: [Bytes::from(noise.clone())].into_iter().collect(),
    };
    let request = SaveRequest::of_memory(vec![file], "run".parse().unwrap(), 0);
    let saved = store_in(&at).save(&request, &Silent).unwrap().manifest;
    let pack = walk(&at.join("packs"))
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let pack = pack.unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();

    let restore = |store: &Store, name: &str| {
        let target = folder.path().join(name);
        let request = RestoreRequest {
            manifest: saved,
            target: target.clone(),
            files: None,
            tensors: None,
            overwrite: false,
        };
        store
            .restore(&request, &Silent)
            .map(|_| fs::read(target.join("noise")).unwrap())
    };
    let store = store_in(&at);
    assert!(restore(&store, "a").is_err());
    assert_eq!(store.save(&request, &Silent).unwrap().stored_bytes, 0);
    assert!(restore(&store, "b").is_err(), "nothing was mended");
    let wary = store.distrusting(saved, &Silent).unwrap();
    assert!(wary.save(&request, &Silent).unwrap().stored_bytes > 100_000);
    assert!(restore(&store_in(&at), "c").unwrap() == noise);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}
