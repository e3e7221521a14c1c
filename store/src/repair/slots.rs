//! Slots and rollups from what is left of a run.
//!
//! Slots tell the records before them, and rollups tell them again, so a record is lost only with all that tell of it. A slot that is written
//! anew says what the lost one said; only the hash by which the next one names it is another, which `verify` goes on to tell.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::action::Action;
use crate::claim::{Claim, claim};
use crate::error::{Result, StoreError};
use crate::history;
use crate::ids::{Fingerprint, ManifestId, Nonce};
use crate::keys::{Key, Prefix};
use crate::lease::{Lease, under_lease};
use crate::manifest::Manifest;
use crate::names::RunName;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::slot::{NO_SLOT, Slot, StoredSlot, history_from};
use crate::store::Store;
use crate::summary::{Summary, Totals, count, short};

/// A record that nothing tells of any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecord {
    /// Its place in the run.
    pub seq: u64,
    /// What was found in its place.
    pub detail: String,
}

/// What was done to one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedRun {
    /// The run.
    pub run: RunName,
    /// Slots that were written anew.
    pub slots: Vec<u64>,
    /// Rollups that were written anew, by the last record of each.
    pub rollups: Vec<u64>,
    /// Checkpoints that no record named and that are in the log again, by step.
    pub found_again: Vec<u64>,
    /// Records that are lost.
    pub lost: Vec<LostRecord>,
    /// Whole checkpoints of the run that no record names and that nothing puts into the log: most likely of saves that were cut short.
    pub left_out: Vec<ManifestId>,
}

/// Everything that is left of a run.
struct Remains {
    /// Readable slots.
    slots: BTreeMap<u64, StoredSlot>,
    /// Slots that are there and damaged, and why.
    damaged: BTreeMap<u64, String>,
    /// Rollups that are damaged.
    damaged_rollups: BTreeSet<u64>,
    rollups: BTreeSet<u64>,
    /// All records that something tells of.
    known: BTreeMap<u64, Summary>,
}

impl Store {
    /// Mends the slots and rollups of every run.
    ///
    /// A damaged slot is written over, and what comes behind the last record that can be told goes last: at every moment there is at least as
    /// much as before.
    ///
    /// # Errors
    /// `Conflict` if somebody saves to a run meanwhile. `Newer`, `Backend`: the same again is harmless.
    pub fn repair_slots(&self) -> Result<Vec<RepairedRun>> {
        self.access().require_write()?;
        let unnamed = self.manifests_that_nothing_names()?;
        let mut done = Vec::new();
        for run in history::runs(self.objects())? {
            let mut repaired = RepairedRun {
                run,
                slots: Vec::new(),
                rollups: Vec::new(),
                found_again: Vec::new(),
                lost: Vec::new(),
                left_out: Vec::new(),
            };
            // What an attempt under a lease that did not hold has mended, the next one finds mended.
            under_lease(self, "repair slots", |lease| {
                repair_run(lease, &unnamed, &mut repaired).map(Some)
            })?;
            done.push(repaired);
        }
        Ok(done)
    }

    /// Reads all of a run that can be read.
    fn remains(&self, run: &RunName) -> Result<Remains> {
        let mut remains = Remains {
            slots: BTreeMap::new(),
            damaged: BTreeMap::new(),
            damaged_rollups: BTreeSet::new(),
            rollups: BTreeSet::new(),
            known: BTreeMap::new(),
        };
        for listed in self.objects().list(&Prefix::Slots(run.clone()))? {
            let Key::Slot(_, seq) = listed.key else { continue };
            match StoredSlot::read(self.objects(), run, seq) {
                Ok(stored) => {
                    let records = stored.records().into_iter();
                    remains.known.extend(records.map(|record| (record.seq, record)));
                    remains.slots.insert(seq, stored);
                }
                Err(StoreError::Corrupt { detail, .. }) => {
                    remains.damaged.insert(seq, detail);
                }
                Err(error) => return Err(error),
            }
        }
        for listed in self.objects().list(&Prefix::Rollups(run.clone()))? {
            let Key::Rollup(_, last) = listed.key else {
                continue;
            };
            match Rollup::read(self.objects(), run, last) {
                Ok(rollup) => {
                    remains.rollups.insert(last);
                    let records = rollup.summaries.into_iter();
                    remains.known.extend(records.map(|record| (record.seq, record)));
                }
                Err(StoreError::Corrupt { .. }) => {
                    remains.damaged_rollups.insert(last);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(remains)
    }

    /// Manifests that no record that can be read names.
    fn manifests_that_nothing_names(&self) -> Result<BTreeSet<ManifestId>> {
        let mut named = BTreeSet::new();
        for run in history::runs(self.objects())? {
            named.extend(
                self.remains(&run)?
                    .known
                    .into_values()
                    .map(|record| record.manifest),
            );
        }
        let (_, manifests) = crate::gc::list_all(self.objects())?;
        Ok(manifests.into_keys().filter(|id| !named.contains(id)).collect())
    }
}

fn repair_run(lease: &Lease, unnamed: &BTreeSet<ManifestId>, done: &mut RepairedRun) -> Result<()> {
    let (store, run) = (lease.store(), done.run.clone());
    let remains = store.remains(&run)?;
    let mut known = remains.known.clone();
    let behind_known = known.keys().next_back().map_or(0, |last| last + 1);
    let behind_all = remains.damaged.keys().next_back().map_or(0, |last| last + 1);
    // Nothing tells of these; some may be found again by their manifests.
    let tail = behind_known..behind_all.max(behind_known);
    done.lost.clear();
    done.left_out.clear();
    let most = usize::try_from(tail.end - tail.start).unwrap_or(usize::MAX);
    if most > 0 {
        let (found, left_out) = found_again(lease, &run, unnamed, &known, most)?;
        for (seq, summary) in (tail.start..).zip(found) {
            done.found_again.push(summary.step);
            known.insert(seq, Summary { seq, ..summary });
        }
        done.left_out = left_out;
    }
    for seq in 0..tail.end {
        if remains.slots.contains_key(&seq) {
            continue;
        }
        let why = remains.damaged.get(&seq);
        match known.get(&seq) {
            Some(summary) => {
                write_slot(store, &run, summary, &known, why.is_some())?;
                done.slots.push(seq);
            }
            None => done.lost.push(LostRecord {
                seq,
                detail: why.cloned().unwrap_or_else(|| "it is missing".to_owned()),
            }),
        }
    }
    // A log ends before the first damaged slot behind which nothing is known.
    let behind = known.keys().next_back().map_or(0, |last| last + 1);
    for (&seq, _) in remains.damaged.range(behind..) {
        store.objects().delete(&Key::Slot(run.clone(), seq))?;
    }
    mend_rollups(store, &remains, &known, done)
}

/// Checkpoints of `run` that no record names, each saved after the one before it: as records, in order, `most` of them. And the others.
///
/// A save names the run's newest checkpoint as its parent, so what follows a known one is told from what was saved beside it and never
/// committed; of two that follow it the younger is taken, for a save that is made again comes later than the one that failed.
fn found_again(
    lease: &Lease,
    run: &RunName,
    unnamed: &BTreeSet<ManifestId>,
    known: &BTreeMap<u64, Summary>,
    most: usize,
) -> Result<(Vec<Summary>, Vec<ManifestId>)> {
    let store = lease.store();
    let mut candidates = Vec::new();
    for &id in unnamed {
        if known.values().any(|record| record.manifest == id) {
            continue;
        }
        if let Some(manifest) = store.readable_manifest(id)?
            && manifest.run == run.as_str()
            && store.is_whole(id)? == Some(true)
        {
            candidates.push((id, manifest));
        }
    }
    let commits = known
        .values()
        .rev()
        .filter(|record| matches!(record.action, Action::Commit(_)));
    let mut tip = commits.map(|record| record.manifest).next();
    let mut found = Vec::new();
    while found.len() < most {
        let follows = |(_, manifest): &&(ManifestId, Manifest)| tip.is_none() || manifest.parent == tip;
        let next = candidates.iter().filter(follows);
        let next = match tip {
            // The first of a run is the oldest, for the others have it as their parent.
            None => next.min_by_key(|(_, manifest)| manifest.created_unix_ms),
            Some(_) => next.max_by_key(|(_, manifest)| manifest.created_unix_ms),
        };
        let Some((id, manifest)) = next else { break };
        let id = *id;
        // What it is restored from must stay, too.
        if lease.secure(id)? {
            found.push(summary_of(id, manifest));
            tip = Some(id);
        }
        candidates.retain(|(other, _)| *other != id);
    }
    Ok((found, candidates.into_iter().map(|(id, _)| id).collect()))
}

/// What a record says of a checkpoint, as far as its manifest tells.
fn summary_of(id: ManifestId, manifest: &Manifest) -> Summary {
    let tensors = manifest.tensors.iter().map(|t| t.stored_bytes);
    let blobs = manifest.blobs.iter().map(|b| b.stored_bytes);
    Summary {
        seq: 0,
        step: manifest.step,
        action: Action::Commit(manifest.metrics.clone()),
        manifest: id,
        fingerprint: short(&manifest.fingerprint()),
        created_unix_ms: manifest.created_unix_ms,
        totals: Totals {
            raw_bytes: manifest.raw_bytes(),
            stored_bytes: tensors.chain(blobs).sum(),
            tensors: count(manifest.named_tensors().count()),
            new_tensors: count(manifest.tensors.iter().filter(|t| t.stored_bytes > 0).count()),
        },
    }
}

/// Writes the slot that says `summary`, after what is stored before it.
///
/// * `is_damaged`: whether something that cannot be read lies in its place, and is written over.
fn write_slot(
    store: &Store,
    run: &RunName,
    summary: &Summary,
    known: &BTreeMap<u64, Summary>,
    is_damaged: bool,
) -> Result<()> {
    let (objects, seq) = (store.objects(), summary.seq);
    let before = seq
        .checked_sub(1)
        .map(|before| StoredSlot::read(objects, run, before));
    let previous = before
        .and_then(std::result::Result::ok)
        .map_or(NO_SLOT, |stored| stored.hash);
    let manifest = store.readable_manifest(summary.manifest)?;
    let fingerprint = manifest.map_or(Fingerprint::from_bytes([0; 32]), |manifest| {
        manifest.fingerprint()
    });
    let slot = Slot {
        run: run.clone(),
        seq,
        action: summary.action.clone(),
        manifest: summary.manifest,
        previous,
        nonce: Nonce::random()?,
        fingerprint,
        step: summary.step,
        created_unix_ms: summary.created_unix_ms,
        totals: summary.totals,
        max_step: known
            .range(..=seq)
            .map(|(_, record)| record.step)
            .max()
            .unwrap_or(summary.step),
        history: known
            .range(history_from(seq)..seq)
            .map(|(_, record)| record.clone())
            .collect(),
    };
    let key = Key::Slot(run.clone(), seq);
    let bytes = Bytes::from(slot.encode());
    if is_damaged {
        return objects.replace(&key, bytes);
    }
    let is_ours = |found: &Bytes| Ok(*found == bytes);
    match claim(objects, &key, &bytes, "Run `tpde repair slots` again", is_ours)? {
        Claim::Ours => Ok(()),
        Claim::Taken(_) => Err(StoreError::conflict(
            format!("somebody writes record {seq} of run {run} meanwhile"),
            "Run `tpde repair slots` again when nobody saves to the run",
        )),
    }
}

/// Writes rollups that are missing or damaged and whose records are all known.
fn mend_rollups(
    store: &Store,
    remains: &Remains,
    known: &BTreeMap<u64, Summary>,
    done: &mut RepairedRun,
) -> Result<()> {
    let every = ROLLUP_EVERY as u64;
    let count = known.keys().next_back().map_or(0, |last| last + 1);
    // The rollup of the last full stretch is written by whoever commits the record after it.
    for last in (1..).map(|n| n * every - 1).take_while(|last| last + 1 < count) {
        if remains.rollups.contains(&last) {
            continue;
        }
        let first = last + 1 - every;
        let records: Vec<Summary> = known
            .range(first..=last)
            .map(|(_, record)| record.clone())
            .collect();
        if records.len() as u64 != every {
            continue;
        }
        let rollup = Rollup::new(done.run.clone(), records);
        match remains.damaged_rollups.contains(&last) {
            true => store
                .objects()
                .replace(&Key::Rollup(done.run.clone(), last), Bytes::from(rollup.encode()))?,
            false => rollup.write(store.objects())?,
        }
        done.rollups.push(last);
    }
    Ok(())
}
