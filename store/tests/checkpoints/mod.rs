//! Checkpoints that tests make up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tpde_store::{RestoreRequest, SaveReport, SaveRequest, Silent, Store, StoreError};

pub(crate) fn save(store: &Store, dir: &Path, step: u64) -> Result<SaveReport, StoreError> {
    store.save(&SaveRequest::new(dir, "run".parse().unwrap(), step), &Silent)
}

pub(crate) fn restore(store: &Store, reference: &str, target: &Path) -> Result<(), StoreError> {
    let manifest = store.resolve(reference)?.manifest;
    let request = RestoreRequest {
        manifest,
        target: target.into(),
        files: None,
        tensors: None,
        overwrite: false,
    };
    store.restore(&request, &Silent).map(drop)
}

/// Writes a safetensors file of `(name, dtype, shape, bytes)`.
pub(crate) fn safetensors(path: &Path, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            (*name).into(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        data.extend_from_slice(bytes);
    }
    let text = serde_json::to_vec(&header).unwrap();
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&text);
    file.extend_from_slice(&data);
    fs::write(path, file).unwrap();
}

pub(crate) fn same_tree(a: &Path, b: &Path) {
    let list = |root: &Path| {
        let mut all = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::metadata(&path).unwrap();
                let mode = meta.permissions().mode() & 0o777;
                let name = path.strip_prefix(root).unwrap().to_owned();
                if meta.is_dir() {
                    open.push(path.clone());
                    all.push((name, mode, None));
                } else {
                    all.push((name, mode, Some(fs::read(path).unwrap())));
                }
            }
        }
        all.sort();
        all
    };
    let (a, b) = (list(a), list(b));
    assert_eq!(
        a.iter().map(|x| (&x.0, x.1)).collect::<Vec<_>>(),
        b.iter().map(|x| (&x.0, x.1)).collect::<Vec<_>>()
    );
    assert!(a == b, "a file's bytes differ");
}

pub(crate) fn weights(elems: usize, seed: u32) -> Vec<u8> {
    (0..elems as u32)
        .flat_map(|i| {
            let x = (i ^ seed).wrapping_mul(2_654_435_761);
            let sign = (x >> 3 & 1) << 15;
            let exponent = 115 + (x >> 8 & 255).leading_zeros().min(31) / 3;
            ((sign | exponent << 7 | (x >> 20 & 127)) as u16).to_le_bytes()
        })
        .collect()
}
