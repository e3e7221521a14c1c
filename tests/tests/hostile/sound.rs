//! A small store, before it is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tpde_store::keys::Key;
use tpde_store::{Objects, Store, Summary, config, history};
use tpde_tests::{Rng, bf16_weights, everything, run, save, tree, write_safetensors};

use crate::SEED;

pub(super) type Tree = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;
pub(super) type Object = (Key, Vec<u8>);
const STEPS: u64 = 3;

/// A small store, what its run's log says, and what each step restores to.
pub(super) struct Sound {
    pub(super) all: Vec<Object>,
    pub(super) log: Vec<Summary>,
    pub(super) sources: Vec<Tree>,
}

/// Three steps of a run: an anchor, a delta, a delta on that with a tensor more; opaque files in several versions.
pub(super) fn sound_store(scratch: &Path) -> Sound {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    let mut rng = Rng::new(SEED);
    let mut weights = bf16_weights(&mut rng, 700);
    let mut sources = Vec::new();
    for step in 0..STEPS {
        let dir = scratch.join(format!("step{step}"));
        fs::create_dir_all(dir.join("sub/empty")).unwrap();
        (0..10).for_each(|_| weights[2 * rng.below(700)] ^= 1);
        let mut tensors = vec![("w", "BF16", vec![700], weights.clone())];
        if step == 2 {
            tensors.push(("more", "F32", vec![2, 3], vec![7; 24]));
        }
        write_safetensors(&dir.join("m.safetensors"), &tensors);
        fs::write(
            dir.join("sub/trainer.json"),
            format!("{{\"step\": {step}, \"list\": [1, 2, 3]}}"),
        )
        .unwrap();
        save(&store, &dir, step).unwrap();
        sources.push(tree(&dir));
    }
    Sound {
        all: everything(store.objects()),
        log: history::log(store.objects(), &run()).unwrap().records().to_vec(),
        sources,
    }
}
