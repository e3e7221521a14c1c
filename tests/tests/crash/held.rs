//! What a run must hold: every checkpoint that was acknowledged and not forgotten, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use tpde_store::{Store, StoreError, VerifyLevel, history};
use tpde_tests::{Rng, assert_same_tree, restore, run, verify};

/// A checkpoint, which is a folder with two files.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    state: Rc<Vec<u8>>,
    label: u64,
}

impl Checkpoint {
    pub(crate) fn new(state: &[u8], label: u64) -> Self {
        Self {
            state: Rc::new(state.to_vec()),
            label,
        }
    }

    pub(crate) fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("state.safetensors"), &*self.state).unwrap();
        fs::write(
            dir.join("trainer.json"),
            format!("{{\"global_step\": {}}}", self.label),
        )
        .unwrap();
    }
}

/// The checkpoints that stand, by step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(BTreeMap<u64, Checkpoint>);

impl Held {
    pub(crate) fn add(&mut self, step: u64, checkpoint: &Checkpoint) {
        assert!(self.0.insert(step, checkpoint.clone()).is_none(), "step {step}");
    }

    /// Leaves the newest `count`.
    pub(crate) fn keep_last(&mut self, count: usize) {
        while self.0.len() > count {
            self.0.pop_first();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether these are the steps of the run's log, no more, no fewer.
    pub(crate) fn is_what_stands(&self, store: &Store) -> Result<bool, StoreError> {
        let log = history::log(store.objects(), &run())?;
        Ok(log.commits().map(|commit| commit.step).eq(self.0.keys().copied()))
    }

    /// Fails unless the newest, and one that `rng` picks, come back as they were.
    pub(crate) fn some_come_back(&self, store: &Store, rng: &mut Rng, context: &str) {
        let steps: Vec<u64> = self.0.keys().copied().collect();
        self.comes_back(store, *steps.last().unwrap(), context);
        self.comes_back(store, *rng.pick(&steps), context);
    }

    /// Fails unless all come back as they were, and all that the store holds can be decoded.
    pub(crate) fn all_come_back(&self, store: &Store) {
        assert_eq!(verify(store, VerifyLevel::Restore).problems, []);
        for step in self.0.keys() {
            self.comes_back(store, *step, "at the end");
        }
    }

    fn comes_back(&self, store: &Store, step: u64, context: &str) {
        let scratch = tpde_tests::fast_folder();
        let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
        self.0[&step].write(&source);
        restore(store, &format!("run@{step}"), &back).unwrap();
        assert_same_tree(&source, &back, &format!("step {step}, {context}"));
    }
}
