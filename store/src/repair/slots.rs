//! Slots and rollups from what is left of a run.
//!
//! Slots tell the records before them, and rollups tell them again, so a record is lost only with all that tell of it. A slot that is written
//! anew says what the lost one said; only the hash by which the next one names it is another, which `verify` goes on to tell.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::action::Action;
use crate::error::{Result, StoreError};
use crate::history;
use crate::ids::{Fingerprint, ManifestId, Nonce};
use crate::keys::{Key, Prefix};
use crate::names::RunName;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::slot::{NO_SLOT, Slot, StoredSlot, history_from};
use crate::store::Store;
use crate::summary::{Summary, Totals, short};

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
}

impl RepairedRun {
    /// Whether there was nothing to do.
    pub fn is_untouched(&self) -> bool {
        self.slots.is_empty()
            && self.rollups.is_empty()
            && self.found_again.is_empty()
            && self.lost.is_empty()
    }
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
    /// Do not save to the store meanwhile: a damaged slot is deleted before another takes its place.
    ///
    /// # Errors
    /// `Newer`, `Backend`: the same again is harmless.
    pub fn repair_slots(&self) -> Result<Vec<RepairedRun>> {
        self.access().require_write()?;
        let unnamed = self.manifests_that_nothing_names()?;
        history::runs(self.objects())?
            .into_iter()
            .map(|run| self.repair_run(run, &unnamed))
            .collect()
    }

    fn repair_run(&self, run: RunName, unnamed: &BTreeSet<ManifestId>) -> Result<RepairedRun> {
        let remains = self.remains(&run)?;
        let mut done = RepairedRun {
            run: run.clone(),
            slots: Vec::new(),
            rollups: Vec::new(),
            found_again: Vec::new(),
            lost: Vec::new(),
        };
        let last_told = remains.known.keys().next_back().copied();
        let last_damaged = remains.damaged.keys().next_back().copied();
        let Some(last) = last_told.max(last_damaged) else {
            return Ok(done);
        };
        // Whatever lies behind the last record that something tells of makes room: a slot says all that is before it.
        let mut known = remains.known.clone();
        let mut lost_tail = Vec::new();
        for (seq, why) in remains.damaged.range(last_told.map_or(0, |last| last + 1)..) {
            self.objects().delete(&Key::Slot(run.clone(), *seq))?;
            lost_tail.push((*seq, why.clone()));
        }
        let mut found = self.found_again(&run, unnamed, &known)?.into_iter();
        for (seq, why) in lost_tail {
            match found.next() {
                Some(summary) => {
                    let next = known.keys().next_back().map_or(0, |last| last + 1);
                    done.found_again.push(summary.step);
                    known.insert(next, Summary { seq: next, ..summary });
                }
                None => done.lost.push(LostRecord { seq, detail: why }),
            }
        }
        for seq in 0..=known.keys().next_back().copied().unwrap_or(last) {
            if remains.slots.contains_key(&seq) {
                continue;
            }
            let why = remains.damaged.get(&seq).cloned();
            let Some(summary) = known.get(&seq) else {
                let detail = why.unwrap_or_else(|| "it is missing".to_owned());
                done.lost.push(LostRecord { seq, detail });
                continue;
            };
            if remains.damaged.contains_key(&seq) && last_told.is_some_and(|last| seq <= last) {
                self.objects().delete(&Key::Slot(run.clone(), seq))?;
            }
            self.write_slot(&run, summary, &known)?;
            done.slots.push(seq);
        }
        self.mend_rollups(&run, &remains, &known, &mut done)?;
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

    /// Checkpoints of `run` whose manifests are there and that no record names, oldest first, as records.
    fn found_again(
        &self,
        run: &RunName,
        unnamed: &BTreeSet<ManifestId>,
        known: &BTreeMap<u64, Summary>,
    ) -> Result<Vec<Summary>> {
        let mut found = Vec::new();
        for &id in unnamed {
            if known.values().any(|record| record.manifest == id) {
                continue;
            }
            let Some(manifest) = self.readable_manifest(id)? else {
                continue;
            };
            if manifest.run != run.as_str() || self.is_whole(id)? != Some(true) {
                continue;
            }
            let tensors = manifest.named_tensors();
            found.push(Summary {
                seq: 0,
                step: manifest.step,
                action: Action::Commit(manifest.metrics.clone()),
                manifest: id,
                fingerprint: short(&manifest.fingerprint()),
                created_unix_ms: manifest.created_unix_ms,
                totals: Totals {
                    raw_bytes: manifest.raw_bytes(),
                    stored_bytes: manifest.tensors.iter().map(|t| t.stored_bytes).sum(),
                    tensors: crate::summary::count(tensors.count()),
                    new_tensors: crate::summary::count(
                        manifest.tensors.iter().filter(|t| t.stored_bytes > 0).count(),
                    ),
                },
            });
        }
        found.sort_by_key(|summary| summary.created_unix_ms);
        Ok(found)
    }

    /// Creates the slot that says `summary`, after what is stored before it.
    fn write_slot(&self, run: &RunName, summary: &Summary, known: &BTreeMap<u64, Summary>) -> Result<()> {
        let seq = summary.seq;
        let before = seq
            .checked_sub(1)
            .map(|before| StoredSlot::read(self.objects(), run, before));
        let previous = before
            .and_then(std::result::Result::ok)
            .map_or(NO_SLOT, |stored| stored.hash);
        let manifest = self.readable_manifest(summary.manifest)?;
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
        self.objects()
            .create(&Key::Slot(run.clone(), seq), Bytes::from(slot.encode()))?;
        Ok(())
    }

    /// Writes rollups that are missing or damaged and whose records are all known.
    fn mend_rollups(
        &self,
        run: &RunName,
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
            if remains.damaged_rollups.contains(&last) {
                self.objects().delete(&Key::Rollup(run.clone(), last))?;
            }
            Rollup::new(run.clone(), records).write(self.objects())?;
            done.rollups.push(last);
        }
        Ok(())
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
