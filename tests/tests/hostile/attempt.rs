//! Reading a damaged store: every answer is right, or an error.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tpde_store::{Store, StoreError, history};
use tpde_tests::{restore, run, store_of, tree};

use crate::sound::Sound;

/// What a damaged store did.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Restores that were right all the same.
    pub(super) right: u32,
    /// Restores that were refused.
    pub(super) refused: u32,
    /// Opens that were refused.
    pub(super) unopened: u32,
    /// By the kind of the error.
    pub(super) kinds: BTreeMap<&'static str, u32>,
}

impl Outcomes {
    pub(super) fn note(&mut self, error: &StoreError) {
        *self.kinds.entry(kind(error)).or_default() += 1;
    }
}

pub(super) fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::NotFound { .. } => "not found",
        StoreError::Newer { .. } => "newer",
        StoreError::Codec(_) => "codec",
        other => panic!("damage was taken for something else: {other}"),
    }
}

/// Opens, logs and restores every step: each answer must be right or an error, and no wrong file may be left.
pub(super) fn attempt(
    sound: &Sound,
    opened: Result<Store, StoreError>,
    target: &Path,
    outcomes: &mut Outcomes,
) {
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            outcomes.unopened += 1;
            return outcomes.note(&error);
        }
    };
    match history::log(store.objects(), &run()) {
        Ok(log) => assert_eq!(log.records(), sound.log, "the log tells another story"),
        Err(error) => outcomes.note(&error),
    }
    for (step, source) in sound.sources.iter().enumerate() {
        match restore(&store, &format!("run@{step}"), target) {
            Ok(_) => {
                assert!(tree(target) == *source, "step {step} was restored to other bytes");
                outcomes.right += 1;
            }
            Err(error) => {
                outcomes.note(&error);
                outcomes.refused += 1;
                if target.exists() {
                    for (path, (_, bytes)) in tree(target).into_iter().filter(|(_, (_, b))| b.is_some()) {
                        let expected = source.get(&path).and_then(|(_, b)| b.as_ref());
                        assert!(bytes.as_ref() == expected, "{} was left behind", path.display());
                    }
                }
            }
        }
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
    }
}

/// Runs `attempt` on the store with object `number` replaced, and names the change if anything fails.
pub(super) fn with_damage(
    sound: &Sound,
    number: usize,
    damaged: Vec<u8>,
    what: &str,
    target: &Path,
    outcomes: &mut Outcomes,
) {
    let mut all = sound.all.clone();
    all[number].1 = damaged;
    let tried = catch_unwind(AssertUnwindSafe(|| {
        attempt(sound, Store::over(store_of(all), None), target, outcomes);
    }));
    assert!(tried.is_ok(), "{what} of {}", sound.all[number].0);
}
