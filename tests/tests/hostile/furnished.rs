//! A small store with an object of every kind, as it is while a save and a gc are at work.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use globset::{Glob, GlobSet};
use tpde_store::forget::Selection;
use tpde_store::keys::Key;
use tpde_store::tags::Target;
use tpde_store::{
    CommitOptions, GcRequest, NewCommit, Nonce, Objects, PartOf, Policy, Progress, RunName, SaveRequest,
    Silent, Stage, Store, StoreError, Totals, commit, config, history,
};
use tpde_tests::{Rng, bf16_weights, everything, restore, run, save, store_of, tree, write_safetensors};

use crate::SEED;
use crate::attempt::kind;
use crate::sound::{Object, Sound, Tree};

/// The kinds of objects.
pub(super) const KINDS: [&str; 10] = [
    "tpde.json",
    "pack",
    "manifest",
    "slot",
    "rollup",
    "tag",
    "policy",
    "lease",
    "mark",
    "part",
];
/// Commits before the first rollup is written.
const ROLLUP: u64 = 256;

/// Which of them an object is.
fn kind_of(key: &Key) -> &'static str {
    match key {
        Key::Config => "tpde.json",
        Key::Pack(_) => "pack",
        Key::Manifest(_) => "manifest",
        Key::Slot(..) => "slot",
        Key::Rollup(..) => "rollup",
        Key::Tag(..) => "tag",
        Key::Policy(_) => "policy",
        Key::Lease(..) => "lease",
        Key::Mark(_) => "mark",
        Key::Part(..) => "part",
        _ => "other",
    }
}

/// The store, and what is saved into it when it is damaged.
pub(super) struct Furnished {
    pub(super) sound: Sound,
    /// Of each kind the numbers of its objects.
    pub(super) kinds: BTreeMap<&'static str, Vec<usize>>,
    /// What a tag stands for.
    pub(super) tagged: usize,
    /// A checkpoint of which one part of two is in the store.
    unsaved: (PathBuf, Tree),
}

/// A gc that deletes whatever it may.
fn ruthless() -> GcRequest {
    GcRequest {
        grace: Duration::ZERO,
        lease_limit: Duration::ZERO,
        patience: None,
    }
}

/// When a save has its lease, lets a gc begin.
struct Saving<'a> {
    store: &'a Store,
    /// A checkpoint of which one part is saved meanwhile.
    unsaved: &'a Path,
    taken: &'a OnceLock<Vec<Object>>,
}

impl Progress for Saving<'_> {
    fn start(&self, stage: Stage, _: u64) {
        if stage == Stage::Encode && self.taken.get().is_none() {
            let request = GcRequest {
                lease_limit: Duration::MAX,
                ..ruthless()
            };
            let stopped = self.store.gc(&request, &Waiting(self));
            assert!(
                matches!(stopped, Err(StoreError::Interrupted { .. })),
                "{stopped:?}"
            );
        }
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// When the gc waits for the save, takes what is in the store, and stops it.
struct Waiting<'a>(&'a Saving<'a>);

impl Progress for Waiting<'_> {
    fn start(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn is_cancelled(&self) -> bool {
        self.0.taken.get_or_init(|| {
            // Its pack is in no mark, for the gc has made its own.
            let (part, only) = part(0);
            let request = SaveRequest::new(self.0.unsaved, run(), 3);
            self.0
                .store
                .save_part(&request, &part, Some(&only), &Silent)
                .unwrap();
            everything(self.0.store.objects())
        });
        true
    }
}

/// A few changed weights and a text.
fn write_checkpoint(dir: &Path, weights: &mut [u8], rng: &mut Rng, number: usize) {
    fs::create_dir_all(dir).unwrap();
    (0..10).for_each(|_| weights[2 * rng.below(weights.len() / 2)] ^= 1);
    let tensor = ("w", "BF16", vec![weights.len() / 2], weights.to_vec());
    write_safetensors(&dir.join("m.safetensors"), &[tensor]);
    fs::write(dir.join("trainer.json"), format!("{{\"number\": {number}}}")).unwrap();
}

/// The newest commit of the run, as a tag names it.
fn newest(store: &Store) -> Target {
    let newest = history::newest_of(store.objects(), &run()).unwrap().slot;
    Target {
        manifest: newest.manifest,
        run: run(),
        seq: newest.seq,
        step: newest.step,
    }
}

/// The part of a checkpoint that is in the store, and the one that is not.
fn part(rank: u32) -> (PartOf, GlobSet) {
    let names = ["*.safetensors", "*.json"];
    let only = GlobSet::builder()
        .add(Glob::new(names[rank as usize]).unwrap())
        .build()
        .unwrap();
    let part = PartOf {
        save: "job".to_owned(),
        rank,
        of: 2,
    };
    (part, only)
}

/// Step 0, many commits of its content, step 1 with a tag, step 2 after the rollup; a policy; a run of which all but the newest is forgotten; one
/// part of a step 3; and a save and a gc that are at work.
pub(super) fn furnished_store(scratch: &Path) -> Furnished {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    let mut rng = Rng::new(SEED);
    let mut weights = bf16_weights(&mut rng, 300);
    let mut dirs = Vec::new();
    for number in 0..7 {
        let dir = scratch.join(format!("source{number}"));
        write_checkpoint(&dir, &mut weights, &mut rng, number);
        dirs.push(dir);
    }
    save(&store, &dirs[0], 0).unwrap();
    let content = newest(&store);
    for step in 1..ROLLUP - 1 {
        let new = NewCommit {
            manifest: content.manifest,
            fingerprint: store.manifest(content.manifest).unwrap().fingerprint(),
            step: 1000 + step,
            nonce: Nonce::random().unwrap(),
            created_unix_ms: step,
            totals: Totals::default(),
            metrics: tpde_store::Metrics::default(),
        };
        commit::commit(store.objects(), &run(), &new, &CommitOptions::default()).unwrap();
    }
    save(&store, &dirs[1], 1).unwrap();
    store
        .tag(&"best".parse().unwrap(), &newest(&store), false, 1)
        .unwrap();
    save(&store, &dirs[2], 2).unwrap();
    let policy = Policy {
        last: Some(1 << 20),
        ..Policy::default()
    };
    store.set_policy(Some(policy), 1).unwrap();

    let gone: RunName = "gone".parse().unwrap();
    for (step, dir) in [(0, 3), (1, 4)] {
        let request = SaveRequest::new(&dirs[dir], gone.clone(), step);
        store.save(&request, &Silent).unwrap();
    }
    let forgotten = Selection::Commits([0, 1].into());
    let plan = store.plan_forget(&gone, &forgotten, 1).unwrap();
    store.forget(&plan, 1).unwrap();

    let taken = OnceLock::new();
    let saving = Saving {
        store: &store,
        unsaved: &dirs[5],
        taken: &taken,
    };
    let request = SaveRequest::new(&dirs[6], run(), 4);
    store.save(&request, &saving).unwrap();
    let all = taken.into_inner().expect("the gc waited for the save");
    let mut kinds: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (number, (key, _)) in all.iter().enumerate() {
        kinds.entry(kind_of(key)).or_default().push(number);
    }
    let log = history::log(&store_of(all.clone()), &run()).unwrap();
    Furnished {
        sound: Sound {
            log: log.records().to_vec(),
            sources: dirs[..3].iter().map(|dir| tree(dir)).collect(),
            all,
        },
        kinds,
        tagged: 1,
        unsaved: (dirs[5].clone(), tree(&dirs[5])),
    }
}

impl Furnished {
    /// Reads what the tag and the policy say, saves the other part and commits both, and collects: each is right, or an error; and once
    /// the damage is mended all is there.
    ///
    /// * `number`: the object that is damaged.
    pub(super) fn write_to(&self, damaged: &Objects, number: usize, target: &Path) -> Result<(), StoreError> {
        let store = Store::over(damaged.clone(), None)?;
        let same = |found: &Tree, what: &str| assert!(found == &self.sound.sources[self.tagged], "{what}");
        if restore(&store, "best", target).is_ok() {
            same(&tree(target), "a tag was restored to other bytes");
        }
        clear(target);
        if let Ok(policy) = store.policy() {
            assert_eq!(policy.and_then(|policy| policy.last), Some(1 << 20));
        }
        let (part, only) = part(1);
        let request = SaveRequest::new(&self.unsaved.0, run(), 3);
        let saved = store.save_part(&request, &part, Some(&only), &Silent);
        let saved = saved.and_then(|_| store.commit_parts(&request, "job"));
        if saved.is_ok() {
            match restore(&store, "run@3", target) {
                Ok(_) => assert!(
                    tree(target) == self.unsaved.1,
                    "parts were restored to other bytes"
                ),
                Err(error) => {
                    kind(&error);
                }
            }
            clear(target);
        }
        let collected = store.gc(&ruthless(), &Silent);
        // What was there before the damage must be there after it, whatever a gc took it for.
        let (key, good) = &self.sound.all[number];
        let mut mended: BTreeMap<String, Object> = BTreeMap::new();
        for (key, bytes) in everything(damaged) {
            mended.insert(key.to_string(), (key, bytes));
        }
        mended.insert(key.to_string(), (key.clone(), good.clone()));
        let mended = Store::over(store_of(mended.into_values()), None).unwrap();
        for (step, source) in self.sound.sources.iter().enumerate() {
            restore(&mended, &format!("run@{step}"), target).unwrap();
            assert!(tree(target) == *source, "step {step} is other bytes after a gc");
            clear(target);
        }
        saved?;
        collected.map(drop)
    }
}

fn clear(target: &Path) {
    if target.exists() {
        fs::remove_dir_all(target).unwrap();
    }
}
