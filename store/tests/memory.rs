//! Checkpoints that never were files: saved from memory, loaded into it, and restored as the files that they would have been.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use tpde_store::{
    Manifest, MemoryBytes, MemoryFile, Objects, RestoreRequest, SaveRequest, Silent, Sink, Store, StoreError,
    Wanted, config,
};

/// Takes everything, and notices what comes twice or not at all.
struct Buffers(Mutex<Vec<(Vec<u8>, Vec<bool>)>>);

impl Buffers {
    fn new(lens: impl IntoIterator<Item = usize>) -> Self {
        Self(Mutex::new(
            lens.into_iter()
                .map(|len| (vec![0; len], vec![false; len]))
                .collect(),
        ))
    }

    fn into_whole(self) -> Vec<Vec<u8>> {
        let buffers = self.0.into_inner().unwrap();
        let whole = buffers.into_iter().map(|(bytes, filled)| {
            assert!(filled.iter().all(|&filled| filled));
            bytes
        });
        whole.collect()
    }
}

impl Sink for Buffers {
    fn write_at(&self, number: usize, offset_bytes: u64, bytes: &[u8]) {
        let (all, filled) = &mut self.0.lock().unwrap()[number];
        let at = usize::try_from(offset_bytes).unwrap();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        for filled in &mut filled[at..at + bytes.len()] {
            assert!(!std::mem::replace(filled, true), "a byte came twice");
        }
    }
}

fn store() -> Store {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

/// A safetensors file of one BF16 tensor and one I8 tensor, in as many stretches as a trainer's memory would have.
fn weights(weight: &[u8], mask: &[u8]) -> Vec<Bytes> {
    let end = weight.len() + mask.len();
    let header = serde_json::json!({
        "w": {"dtype": "BF16", "shape": [weight.len() / 2], "data_offsets": [0, weight.len()]},
        "mask": {"dtype": "I8", "shape": [mask.len()], "data_offsets": [weight.len(), end]},
    });
    let header = serde_json::to_vec(&header).unwrap();
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend_from_slice(&header);
    let (first, second) = weight.split_at(weight.len() / 3);
    [&start[..], first, second, mask]
        .map(Bytes::copy_from_slice)
        .into()
}

fn file(path: &str, stretches: &[Bytes]) -> MemoryFile {
    MemoryFile {
        path: path.to_owned(),
        bytes: stretches.iter().cloned().collect::<MemoryBytes>(),
    }
}

fn number_of(manifest: &Manifest, name: &str) -> usize {
    let mut named = manifest.named_tensors();
    named.find(|(_, t, _)| t.name == name).unwrap().1.tensor as usize
}

#[test]
fn from_memory_into_memory() {
    // Promise: what is saved from memory is the checkpoint that its files would be; it loads into memory, tensor by tensor and file by
    // file, and restores as files. A later one is a difference.
    let store = store();
    let mut weight: Vec<u8> = (0..600_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mask = vec![7u8; 1_001];
    let mut ids = BTreeMap::new();
    for step in 0..3u64 {
        weight[step as usize * 2_000] ^= 1;
        let stretches = weights(&weight, &mask);
        let note = [Bytes::from(format!("step {step}"))];
        let files = vec![file("model/w.safetensors", &stretches), file("state.json", &note)];
        let request = SaveRequest::of_memory(files, "run".parse().unwrap(), step);
        let report = store.save(&request, &Silent).unwrap();
        assert!(step == 0 || report.stored_bytes < 5_000, "{report:?}");
        assert!(store.save(&request, &Silent).unwrap().already_there);
        ids.insert(
            report.manifest,
            (stretches.concat(), weight.clone(), note[0].clone()),
        );
    }
    for (id, (bytes, weight, note)) in ids {
        let manifest = store.manifest(id).unwrap();
        let at = |path: &str| manifest.files.iter().position(|f| f.path == path).unwrap();
        let wanted = [
            Wanted::Tensor(number_of(&manifest, "mask")),
            Wanted::File(at("model/w.safetensors")),
            Wanted::Tensor(number_of(&manifest, "w")),
            Wanted::File(at("state.json")),
        ];
        let expected = [mask.clone(), bytes.clone(), weight, note.to_vec()];
        let buffers = Buffers::new(expected.iter().map(Vec::len));
        store.load(&manifest, &wanted, &buffers, &Silent).unwrap();
        assert!(buffers.into_whole() == expected);

        let target = tempfile::tempdir().unwrap();
        let request = RestoreRequest {
            manifest: id,
            target: target.path().join("out"),
            files: None,
            tensors: None,
            overwrite: false,
        };
        store.restore(&request, &Silent).unwrap();
        assert!(std::fs::read(target.path().join("out/model/w.safetensors")).unwrap() == bytes);
        // The same files from a disk are the same checkpoint.
        assert!(store.is_saved_as(&request.target, id, &Silent).unwrap());
        let none = store.load(&manifest, &[Wanted::Tensor(99)], &Buffers::new([]), &Silent);
        assert!(matches!(none, Err(StoreError::Input { .. })), "{none:?}");
    }
}

#[test]
fn a_lying_file_in_memory() {
    // Promise: a file in memory is no more believed than one on a disk; the error names it, and nothing is saved.
    let store = store();
    let files = vec![file(
        "w.safetensors",
        &[Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")],
    )];
    let error = store
        .save(&SaveRequest::of_memory(files, "run".parse().unwrap(), 0), &Silent)
        .unwrap_err();
    assert!(matches!(error, StoreError::Input { .. }), "{error:?}");
    assert!(error.to_string().contains("w.safetensors"), "{error}");
    assert!(store.resolve("run@0").is_err());
}
