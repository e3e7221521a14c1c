//! Files of users: safetensors, and PyTorch's archives with their pickles.

use std::fs;

use tpde_store::manifest::FileContent;
use tpde_store::{Objects, Store, StoreError, config};

use super::Target;
use crate::torch::{Item, TensorItem, archive, dict, entries, pickle};
use crate::{Rng, bf16_weights, fast_folder, restore, run, safetensors_header, save};

/// Whatever a tensor file says, it is refused by name or comes back byte for byte.
pub(super) const SAFETENSORS: Target = Target {
    name: "safetensors",
    run: |bytes| is_taken_apart("m.safetensors", bytes),
    seeds: safetensors,
    inputs: 2_000,
};

/// Whatever an archive and its pickle say, the file comes back byte for byte.
pub(super) const TORCH: Target = Target {
    name: "torch",
    run: |bytes| is_taken_apart("x.pt", bytes),
    seeds: torch,
    inputs: 1_000,
};

fn safetensors() -> Vec<Vec<u8>> {
    let one = [("w", "BF16", &[4, 5][..], 40)];
    let more = [
        ("a", "F32", &[3][..], 12),
        ("b", "F64", &[][..], 8),
        ("c.d", "U8", &[0, 7][..], 0),
        ("e", "F8_E4M3", &[2, 2, 2][..], 8),
    ];
    let with_data = |header: Vec<u8>, len: usize| [header, bf16_weights(&mut Rng::new(9), len / 2)].concat();
    vec![
        with_data(safetensors_header(&one), 40),
        with_data(safetensors_header(&more), 28),
    ]
}

fn torch() -> Vec<Vec<u8>> {
    let item = dict([
        (
            "w",
            Item::Parameter(TensorItem::whole(0, "FloatStorage", &[3, 4])),
        ),
        (
            "m",
            Item::List(vec![
                Item::Int(7),
                Item::Tensor(TensorItem::whole(1, "ByteStorage", &[3])),
            ]),
        ),
    ]);
    let storages = [(0, (0..48).collect::<Vec<u8>>()), (1, vec![1; 3])];
    let entries = entries(pickle(&item), &storages);
    vec![archive(&entries, true), archive(&entries, false)]
}

/// Saves the file and restores it; says whether its tensors were found.
fn is_taken_apart(name: &str, bytes: &[u8]) -> bool {
    let scratch = fast_folder();
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join(name), bytes).unwrap();
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    let report = match save(&store, &source, 0) {
        Ok(report) => report,
        Err(StoreError::Input { .. }) if name.ends_with(".safetensors") => return false,
        Err(other) => panic!("{other}"),
    };
    restore(&store, &format!("{}@0", run()), &back).unwrap();
    assert!(
        fs::read(back.join(name)).unwrap() == bytes,
        "it came back as something else"
    );
    let manifest = store.manifest(report.manifest).unwrap();
    !matches!(manifest.files[0].content, FileContent::Opaque { .. })
}
