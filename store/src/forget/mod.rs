//! Forget: commits out of a run's log, and back.
//!
//! ```text
//! log ─ policy ─▶ plan (what goes, what stays and why, bytes) ─▶ one record that names the commits      undo: one that names them again
//! ```
//! Nothing is deleted here. What is forgotten can be put back for as long as its contents are there.

mod policy;
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::action::Action;
use crate::commit::{Draft, append};
use crate::error::{Result, StoreError};
use crate::history::{self, Log};
use crate::ids::{ManifestId, Nonce};
use crate::keys::{Key, Prefix};
use crate::lease::{Lease, under_lease};
use crate::names::RunName;
use crate::reach::Reach;
use crate::seqs::SeqSet;
use crate::store::Store;
use crate::summary::Summary;
use crate::tags;

pub use policy::{Best, Policy, parse_age};

/// Which commits of a run to forget.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those that a policy does not keep.
    Policy(Policy),
    /// These, by their places in the run.
    Commits(BTreeSet<u64>),
}

/// A commit, and why it stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The commit.
    pub commit: Summary,
    /// The rules that keep it.
    pub rules: Vec<String>,
}

/// What forgetting would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The run.
    pub run: RunName,
    /// What goes, oldest first.
    pub forget: Vec<Summary>,
    /// What stays, oldest first.
    pub keep: Vec<Kept>,
    /// Commits that go and that a tag stands for: they leave the log, and their contents stay.
    pub tagged: Vec<String>,
    /// Bytes of packs and manifests that nothing else needs.
    pub reclaimable_bytes: u64,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// The records that say so, by their places in the run; none if there was nothing to forget.
    pub records: Vec<u64>,
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Undone {
    /// Commits that stand again, oldest first.
    pub back: Vec<Summary>,
    /// Commits that cannot come back, for something of them is gone.
    pub lost: Vec<Summary>,
}

impl Store {
    /// Says what forgetting `selection` of `run` would do. Writes nothing.
    ///
    /// * `now_unix_ms`: what ages count from.
    ///
    /// # Errors
    /// `Input` for a policy without rules or with one that keeps nothing; `NotFound` for a run, or a commit that does not stand;
    /// `Corrupt`, `Newer`, `Backend` as for every read.
    ///
    /// Cost: reads the manifests of all checkpoints that are kept, to know what they need.
    pub fn plan_forget(&self, run: &RunName, selection: &Selection, now_unix_ms: u64) -> Result<Plan> {
        let mut plan = self.select(run, selection, now_unix_ms)?;
        plan.reclaimable_bytes = self.freed_by(run, &plan.forget)?;
        Ok(plan)
    }

    /// Forgets what `policy` does not keep of `run`, and says what that was.
    ///
    /// # Errors
    /// As [`Store::plan_forget`] and [`Store::forget`].
    pub fn prune(&self, run: &RunName, policy: &Policy, now_unix_ms: u64) -> Result<Vec<Summary>> {
        let plan = self.select(run, &Selection::Policy(policy.clone()), now_unix_ms)?;
        self.forget(&plan, now_unix_ms)?;
        Ok(plan.forget)
    }

    /// A plan without its bytes.
    fn select(&self, run: &RunName, selection: &Selection, now_unix_ms: u64) -> Result<Plan> {
        let log = history::log(self.objects(), run)?;
        let mut tags_of: HashMap<u64, Vec<String>> = HashMap::new();
        for tag in tags::list(self.objects())? {
            if tag.target.run == *run {
                tags_of
                    .entry(tag.target.seq)
                    .or_default()
                    .push(tag.name.to_string());
            }
        }
        let kept = match selection {
            Selection::Policy(policy) => {
                let tagged: HashSet<u64> = tags_of.keys().copied().collect();
                policy.kept(&log, &tagged, now_unix_ms)?
            }
            Selection::Commits(seqs) => all_but(run, &log, seqs)?,
        };
        let (mut forget, mut keep, mut tagged) = (Vec::new(), Vec::new(), Vec::new());
        for commit in log.commits() {
            match kept.get(&commit.seq) {
                Some(rules) => keep.push(Kept {
                    commit: commit.clone(),
                    rules: rules.clone(),
                }),
                None => {
                    tagged.extend(tags_of.get(&commit.seq).into_iter().flatten().cloned());
                    forget.push(commit.clone());
                }
            }
        }
        tagged.sort();
        Ok(Plan {
            run: run.clone(),
            forget,
            keep,
            tagged,
            reclaimable_bytes: 0,
        })
    }

    /// Does what a plan says. Commits that others added meanwhile stay.
    ///
    /// # Errors
    /// `OutcomeUnknown`, `Backend`: as for a commit; the same again is harmless. `Newer` if this build may not write.
    pub fn forget(&self, plan: &Plan, now_unix_ms: u64) -> Result<Forgotten> {
        self.access().require_write()?;
        let records = self.append_sets(&plan.run, &plan.forget, Action::Forget, now_unix_ms)?;
        Ok(Forgotten { records })
    }

    /// Takes the last forgetting of `run` back, as far as the contents are still there.
    ///
    /// # Errors
    /// `NotFound` if nothing of the run is forgotten; `Conflict` if nothing of what was forgotten last is left; otherwise as
    /// [`Store::forget`].
    pub fn undo(&self, run: &RunName, now_unix_ms: u64) -> Result<Undone> {
        self.access().require_write()?;
        let log = history::log(self.objects(), run)?;
        let wanted: Vec<Summary> = last_forgotten(&log).into_iter().cloned().collect();
        let mut ours = BTreeSet::new();
        under_lease(self, &format!("undo {run}"), |lease| {
            self.put_back(lease, run, &wanted, &mut ours, now_unix_ms)
                .map(Some)
        })
    }

    /// Takes `wanted` back, under a lease.
    ///
    /// * `ours`: what this put back under an earlier lease, which did not hold. What of it is gone by now must not stand.
    fn put_back(
        &self,
        lease: &Lease,
        run: &RunName,
        wanted: &[Summary],
        ours: &mut BTreeSet<u64>,
        now_unix_ms: u64,
    ) -> Result<Undone> {
        let log = history::log(self.objects(), run)?;
        let (mut undone, mut out, mut wrong) = (Undone::default(), Vec::new(), Vec::new());
        for commit in wanted {
            let is_out = log.is_forgotten(commit.seq);
            let is_whole = lease.secure(commit.manifest)?;
            match (is_whole, is_out) {
                (true, true) => out.push(commit.clone()),
                (false, false)
                    if ours.contains(&commit.seq) && self.is_whole(commit.manifest)? != Some(true) =>
                {
                    wrong.push(commit.clone());
                }
                _ => {}
            }
            let list = if is_whole {
                &mut undone.back
            } else {
                &mut undone.lost
            };
            list.push(commit.clone());
        }
        self.append_sets(run, &wrong, Action::Forget, now_unix_ms)?;
        if undone.back.is_empty() {
            return Err(match undone.lost.len() {
                0 => StoreError::not_found(
                    format!("a forgotten checkpoint of run {run}"),
                    format!("All of them stand; see `tpde log {run}`"),
                ),
                lost => StoreError::conflict(
                    format!("what was forgotten last of run {run} ({lost} checkpoints) is deleted"),
                    "It cannot be put back",
                ),
            });
        }
        ours.extend(out.iter().map(|commit| commit.seq));
        self.append_sets(run, &out, Action::Undo, now_unix_ms)?;
        Ok(undone)
    }

    /// Appends as few records as can name all of `commits`, and gives their places in the run.
    fn append_sets(
        &self,
        run: &RunName,
        commits: &[Summary],
        action: fn(SeqSet) -> Action,
        now_unix_ms: u64,
    ) -> Result<Vec<u64>> {
        let seqs: SeqSet = commits.iter().map(|commit| commit.seq).collect();
        let mut records = Vec::new();
        for part in seqs.parts() {
            let draft = Draft::of(action(part), now_unix_ms);
            let appended = append(self.objects(), run, Nonce::random()?, |_| Ok(Some(draft.clone())))?;
            records.extend(appended);
        }
        Ok(records)
    }

    /// Bytes of packs and manifests that only `forget` of `run` needs.
    fn freed_by(&self, run: &RunName, forget: &[Summary]) -> Result<u64> {
        if forget.is_empty() {
            return Ok(0);
        }
        let going: HashSet<u64> = forget.iter().map(|commit| commit.seq).collect();
        let kept = self.kept_checkpoints(|other, seq| other == run && going.contains(&seq))?;
        let [mut needed, mut freed] = [Reach::default(), Reach::default()];
        for &id in &kept {
            self.reach(&self.manifest(id)?, &mut needed)?;
        }
        let gone: BTreeSet<ManifestId> = forget
            .iter()
            .map(|c| c.manifest)
            .filter(|m| !kept.contains(m))
            .collect();
        let mut bytes = 0;
        for &id in &gone {
            let Some(manifest) = self.readable_manifest(id)? else {
                continue;
            };
            bytes += self.objects().head(&Key::Manifest(id))?.unwrap_or(0);
            match self.reach(&manifest, &mut freed) {
                // What is damaged frees what can be told.
                Ok(()) | Err(StoreError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for listed in self.objects().list(&Prefix::Packs)? {
            if let Key::Pack(pack) = listed.key
                && freed.packs.contains(&pack)
                && !needed.packs.contains(&pack)
            {
                bytes += listed.size_bytes;
            }
        }
        Ok(bytes)
    }
}

/// Keeps every commit that stands but these, which must stand.
fn all_but(run: &RunName, log: &Log, seqs: &BTreeSet<u64>) -> Result<BTreeMap<u64, Vec<String>>> {
    let mut missing = seqs.clone();
    let mut kept = BTreeMap::new();
    for commit in log.commits() {
        if !missing.remove(&commit.seq) {
            kept.insert(commit.seq, vec!["not named".to_owned()]);
        }
    }
    match missing.first() {
        None => Ok(kept),
        Some(seq) => Err(StoreError::not_found(
            format!("commit {seq} of run {run}"),
            format!("It is forgotten, or never was; see `tpde log {run} --all`"),
        )),
    }
}

/// The commits that the last forgetting took out and that are still out, oldest first. What took more than one record was written
/// at one time.
fn last_forgotten(log: &Log) -> Vec<&Summary> {
    let out = |record: &&Summary| match &record.action {
        Action::Forget(seqs) => log.forgotten().any(|commit| seqs.contains(commit.seq)),
        _ => false,
    };
    let records = log.records();
    let Some(last) = records.iter().rev().find(out) else {
        return Vec::new();
    };
    let together: Vec<&SeqSet> = records
        .iter()
        .filter(|record| record.created_unix_ms == last.created_unix_ms)
        .filter_map(|record| match &record.action {
            Action::Forget(seqs) => Some(seqs),
            _ => None,
        })
        .collect();
    log.forgotten()
        .filter(|commit| together.iter().any(|seqs| seqs.contains(commit.seq)))
        .collect()
}
