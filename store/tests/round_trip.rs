//! Save and restore through the library, on disk and in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tpde_store::{Objects, RestoreRequest, SaveReport, SaveRequest, Silent, Store, StoreError, config};

fn memory_store() -> Store {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

fn save(store: &Store, dir: &Path, step: u64) -> Result<SaveReport, StoreError> {
    store.save(&SaveRequest::new(dir, "run".parse().unwrap(), step), &Silent)
}

fn restore(store: &Store, reference: &str, target: &Path) -> Result<(), StoreError> {
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
fn safetensors(path: &Path, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) {
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

fn same_tree(a: &Path, b: &Path) {
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

fn weights(elems: usize, seed: u32) -> Vec<u8> {
    (0..elems as u32)
        .flat_map(|i| {
            let x = (i ^ seed).wrapping_mul(2_654_435_761);
            let sign = (x >> 3 & 1) << 15;
            let exponent = 115 + (x >> 8 & 255).leading_zeros().min(31) / 3;
            ((sign | exponent << 7 | (x >> 20 & 127)) as u16).to_le_bytes()
        })
        .collect()
}

/// Promise: a directory comes back file by file, byte for byte, with its permissions and empty directories; later steps are
/// small; a tensor under another name costs nothing.
#[test]
fn a_run_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    let store = memory_store();
    let base = weights(150_000, 1);
    let mut next = base.clone();
    (0..150_000).step_by(97).for_each(|i| next[2 * i] ^= 1);
    for (step, bytes, name) in [(0, &base, "w"), (1, &next, "w"), (2, &next, "renamed")] {
        let out = at(&format!("out{step}"));
        fs::create_dir_all(out.join("sub/empty")).unwrap();
        let f32s: Vec<u8> = (0..100u32)
            .flat_map(|i| (i as f32 * 0.1 + step as f32).to_le_bytes())
            .collect();
        safetensors(
            &out.join("model.safetensors"),
            &[
                ("m", "F32", vec![10, 10], f32s),
                (name, "BF16", vec![1500, 100], bytes.clone()),
                ("none", "I64", vec![0], vec![]),
            ],
        );
        fs::write(out.join("sub/config.json"), format!("{{\"step\": {step}}}")).unwrap();
        fs::write(out.join("empty.bin"), "").unwrap();
        fs::set_permissions(out.join("sub/config.json"), fs::Permissions::from_mode(0o640)).unwrap();
        let report = save(&store, &out, step).unwrap();
        assert_eq!(report.seq, step);
        match step {
            0 => assert!(report.stored_bytes > 150_000),
            1 => assert!(report.stored_bytes < 10_000, "{}", report.stored_bytes),
            _ => assert_eq!(report.new_tensors, 1),
        }
    }
    for step in 0..3 {
        restore(&store, &format!("run@{step}"), &at(&format!("back{step}"))).unwrap();
        same_tree(&at(&format!("out{step}")), &at(&format!("back{step}")));
    }
    let again = save(&store, &at("out2"), 2).unwrap();
    assert!(again.already_there);
    let error = save(&store, &at("out1"), 2).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

/// Promise: a tensor longer than a slice, saved under two dtypes and twice in a row, comes back.
#[test]
fn long_and_shared_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let long: Vec<u8> = weights(17 << 20, 3);
    let small = weights(1000, 5);
    let tensors = [
        ("a", "BF16", vec![17 << 20], long.clone()),
        ("b", "BF16", vec![1000], small.clone()),
        ("c", "BF16", vec![1000], small.clone()),
        ("d", "F16", vec![1000], small),
    ];
    safetensors(&out.join("model.safetensors"), &tensors);
    let store = memory_store();
    save(&store, &out, 1).unwrap();
    let mut changed = tensors;
    changed[0].3[40 << 20 >> 1] ^= 3;
    changed[3].3[7] ^= 1;
    let out2 = dir.path().join("out2");
    fs::create_dir(&out2).unwrap();
    safetensors(&out2.join("model.safetensors"), &changed);
    let report = save(&store, &out2, 2).unwrap();
    assert_eq!(report.new_tensors, 2);
    for (reference, source) in [("run@1", &out), ("run~0", &out2)] {
        let back = dir.path().join(reference);
        restore(&store, reference, &back).unwrap();
        same_tree(source, &back);
    }
}
