//! A small store, what it says, and how to tell that all of it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::made_up::one_tensor;
use crate::forget::{Policy, Selection};
use crate::gc::GcRequest;
use crate::history;
use crate::keys::Prefix;
use crate::names::RunName;
use crate::progress::Silent;
use crate::restore::RestoreRequest;
use crate::save::SaveRequest;
use crate::tags::{self, Target};
use crate::verify::{VerifyLevel, VerifyRequest};
use crate::{ManifestId, Objects, Result, Store, StoreError, config};

/// Contents of checkpoints that there are; step 10 + n has the content of step n.
const CONTENTS: u64 = 8;
/// Elements of the one tensor of each.
const ELEMS: usize = 96;

/// Collects at once, and gives up every writer that it meets.
pub(super) fn ruthless() -> GcRequest {
    GcRequest {
        grace: Duration::ZERO,
        lease_limit: Duration::ZERO,
        patience: None,
    }
}

/// The run of all but copies.
pub(super) fn run() -> RunName {
    "run".parse().unwrap()
}

/// Opens a store as a new process would.
pub(super) fn opened(objects: &Objects) -> Result<Store> {
    Store::over(objects.clone(), None)
}

/// Checkpoints on a disk, by what is in them.
pub(super) struct Sources {
    dir: tempfile::TempDir,
}

impl Sources {
    pub(super) fn new() -> Self {
        // In memory where the system has such a folder: it is read at every fault.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let sources = Self { dir };
        let mut bytes: Vec<u8> = (0..2 * ELEMS)
            .map(|i| u8::try_from(i * i % 251).unwrap())
            .collect();
        for content in 0..CONTENTS {
            let at = sources.of(content);
            fs::create_dir(&at).unwrap();
            bytes[4 * usize::try_from(content).unwrap()] ^= 1;
            fs::write(at.join("m.safetensors"), one_tensor(&bytes)).unwrap();
            fs::write(at.join("state.json"), format!("{{\"content\": {content}}}")).unwrap();
        }
        sources
    }

    /// The checkpoint with the content of `step`.
    pub(super) fn of(&self, step: u64) -> PathBuf {
        self.dir.path().join((step % 10).to_string())
    }

    pub(super) fn save(&self, store: &Store, step: u64) -> Result<()> {
        let request = SaveRequest::new(self.of(step), run(), step);
        store.save(&request, &Silent).map(drop)
    }

    /// Makes the store that commands work on: steps 0 to 3, of which 1 and 3 are forgotten, a tag on step 0, and a policy.
    pub(super) fn furnish(&self, objects: &Objects) {
        config::init(objects).unwrap();
        let store = opened(objects).unwrap();
        (0..4).for_each(|step| self.save(&store, step).unwrap());
        forget(&store, &[1, 3]).unwrap();
        store
            .tag(&"good".parse().unwrap(), &target(&store, 0).unwrap(), false, 1)
            .unwrap();
        store.set_policy(Some(keep_last(9)), 1).unwrap();
    }

    /// Restores `id`; says what is wrong unless that gives the content of `step`.
    fn wrong(&self, store: &Store, id: ManifestId, step: u64) -> Option<String> {
        let back = self.dir.path().join("back");
        let request = RestoreRequest {
            manifest: id,
            target: back.clone(),
            files: None,
            tensors: None,
            overwrite: false,
        };
        let restored = store.restore(&request, &Silent);
        let read = |dir: &Path, name: &str| fs::read(dir.join(name)).unwrap();
        let wrong = match restored {
            Err(error) => Some(format!("step {step}: {error}")),
            Ok(_) => ["m.safetensors", "state.json"]
                .into_iter()
                .find(|name| read(&back, name) != read(&self.of(step), name))
                .map(|name| format!("step {step}: {name} has other bytes")),
        };
        // It is not there if nothing was restored.
        let _ = fs::remove_dir_all(&back);
        wrong
    }

    /// What is wrong with the store, or was lost of `acknowledged`; `None` if all of it is there byte for byte.
    pub(super) fn loss(&self, objects: &Objects, acknowledged: &Checkpoints) -> Option<String> {
        self.look(objects, acknowledged)
            .unwrap_or_else(|error| Some(format!("it cannot be looked at: {error}")))
    }

    fn look(&self, objects: &Objects, acknowledged: &Checkpoints) -> Result<Option<String>> {
        let store = opened(objects)?;
        let request = VerifyRequest {
            level: VerifyLevel::Restore,
            only: None,
        };
        let found = store.verify(&request, &Silent)?;
        if !found.problems.is_empty() {
            return Ok(Some(format!("verify: {:?}", found.problems)));
        }
        let all = acknowledged | &standing(objects)?;
        Ok(all
            .into_iter()
            .find_map(|(id, step)| self.wrong(&store, id, step)))
    }
}

/// Checkpoints, each with the step that says what is in it.
pub(super) type Checkpoints = BTreeSet<(ManifestId, u64)>;

/// The checkpoints that stand and those that tags stand for.
pub(super) fn standing(objects: &Objects) -> Result<Checkpoints> {
    let mut all = Checkpoints::new();
    for run in history::runs(objects)? {
        let log = history::log(objects, &run)?;
        all.extend(log.commits().map(|commit| (commit.manifest, commit.step)));
    }
    let tags = tags::list(objects)?.into_iter();
    all.extend(tags.map(|tag| (tag.target.manifest, tag.target.step)));
    Ok(all)
}

/// The checkpoints that are forgotten and may be put back.
pub(super) fn forgotten(objects: &Objects) -> Result<Checkpoints> {
    let log = history::log(objects, &run())?;
    Ok(log
        .forgotten()
        .map(|commit| (commit.manifest, commit.step))
        .collect())
}

/// What a store says to whoever reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// The commits of every run: step, what is in it, and whether it stands.
    runs: BTreeMap<String, Vec<(u64, [u8; 8], bool)>>,
    /// What tags stand for.
    tags: BTreeMap<String, (String, u64)>,
    policy: Option<Policy>,
}

impl State {
    /// Reads it; `None` if there is no store.
    pub(super) fn of(objects: &Objects) -> Result<Option<Self>> {
        let store = match opened(objects) {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            opened => opened?,
        };
        let mut runs = BTreeMap::new();
        for run in history::runs(objects)? {
            let log = history::log(objects, &run)?;
            history::check_chain(objects, &run)?;
            let mut commits: Vec<_> = log
                .commits()
                .map(|c| (c.seq, (c.step, c.fingerprint, true)))
                .collect();
            commits.extend(log.forgotten().map(|c| (c.seq, (c.step, c.fingerprint, false))));
            commits.sort();
            runs.insert(
                run.to_string(),
                commits.into_iter().map(|(_, commit)| commit).collect(),
            );
        }
        let tags = tags::list(objects)?.into_iter();
        Ok(Some(Self {
            runs,
            tags: tags
                .map(|t| (t.name.to_string(), (t.target.run.to_string(), t.target.step)))
                .collect(),
            policy: store.policy()?,
        }))
    }
}

/// Objects of a kind that only work under way needs.
pub(super) fn left_over(objects: &Objects, prefix: &Prefix) -> usize {
    objects.list(prefix).unwrap().len()
}

pub(super) fn keep_last(last: u64) -> Policy {
    Policy {
        last: Some(last),
        ..Policy::default()
    }
}

/// Forgets these commits of the run, by their places.
pub(super) fn forget(store: &Store, seqs: &[u64]) -> Result<()> {
    let selection = Selection::Commits(seqs.iter().copied().collect());
    let plan = store.plan_forget(&run(), &selection, 1)?;
    store.forget(&plan, 1).map(drop)
}

/// What a tag on `step` would stand for.
pub(super) fn target(store: &Store, step: u64) -> Result<Target> {
    let resolved = store.resolve(&format!("run@{step}"))?;
    let log = history::log(store.objects(), &run())?;
    let commit = log.commits().find(|commit| commit.manifest == resolved.manifest);
    Ok(Target {
        manifest: resolved.manifest,
        run: run(),
        seq: commit.expect("it was resolved").seq,
        step,
    })
}
