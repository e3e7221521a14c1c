//! What a run holds: its newest slot, and behind it the slots and rollups that tell of what came before.
//!
//! ```text
//! seq 0 … 255      256 … 511      512 … 527 … 543    544 … newest
//! └ rollup 255 ┘  └ rollup 511 ┘  └ in slot 544 ┘    └ in the newest slot ┘
//! ```
//! The log of 10 000 commits takes about forty reads. A missing link is an error, never a shorter log. What a later record
//! forgets is no longer found by its step or by counting back.

mod backward;
mod log;

use crate::error::{Result, StoreError};
use crate::ids::SlotHash;
use crate::keys::{Key, Prefix};
use crate::names::RunName;
use crate::objects::Objects;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::slot::{NO_SLOT, StoredSlot, history_from, rollup_below};
use crate::summary::Summary;

pub use backward::Backward;
pub use log::Log;

/// Steps named on each side of one that does not exist.
const NEAR_STEPS: usize = 3;

/// The newest slot of `run`, or `None` if it has no records. One listing page and one read.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn newest(objects: &Objects, run: &RunName) -> Result<Option<StoredSlot>> {
    match objects.list_newest(&Prefix::Slots(run.clone()), 1)?.first() {
        Some(Key::Slot(_, seq)) => StoredSlot::read(objects, run, *seq).map(Some),
        _ => Ok(None),
    }
}

/// The newest slot of a run that must exist.
///
/// # Errors
/// `NotFound`, naming the runs there are; otherwise as [`newest`].
pub fn newest_of(objects: &Objects, run: &RunName) -> Result<StoredSlot> {
    if let Some(slot) = newest(objects, run)? {
        return Ok(slot);
    }
    let runs = runs(objects)?;
    let hint = if runs.is_empty() {
        "The store has no runs yet: `tpde save` makes one".to_owned()
    } else {
        format!("There are: {}", some_of(runs.iter().map(RunName::as_str)))
    };
    Err(StoreError::not_found(format!("run {run}"), hint))
}

/// The newest commit that stands in the run whose newest slot is `newest`; `None` if all are forgotten.
///
/// Reads nothing while one of the last few records is such a commit.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn newest_commit(objects: &Objects, newest: &StoredSlot) -> Result<Option<Summary>> {
    Backward::new(objects, newest).find(|_| true)
}

/// The names of all runs with a record, ascending.
///
/// # Errors
/// `Backend`: the disk or server failed; run the command again.
pub fn runs(objects: &Objects) -> Result<Vec<RunName>> {
    let mut runs = Vec::new();
    for name in objects.list_folders(&Prefix::Runs)? {
        let Ok(run) = name.parse::<RunName>() else {
            continue;
        };
        // On a disk the folder of a run whose first commit was cut short is empty.
        let slots = Prefix::Slots(run.clone());
        if objects.local_root().is_none() || !objects.list_newest(&slots, 1)?.is_empty() {
            runs.push(run);
        }
    }
    Ok(runs)
}

/// Everything that happened in `run`.
///
/// Two listing pages, at most two reads, and one read per [`ROLLUP_EVERY`] records.
///
/// # Errors
/// * `NotFound`: there is no such run; the message names those there are.
/// * `Corrupt`: a slot or rollup is missing or damaged.
pub fn log(objects: &Objects, run: &RunName) -> Result<Log> {
    let latest = objects.list_newest(&Prefix::Rollups(run.clone()), 1)?;
    let rolled = latest.first().and_then(|key| match key {
        Key::Rollup(_, last) => Some(*last),
        _ => None,
    });
    let newest = match newest_of(objects, run) {
        Err(StoreError::NotFound { .. }) if rolled.is_some() => None,
        other => Some(other?),
    };
    // The listing of rollups came first, so a slot that they cover must show in the listing of slots.
    let last = newest.as_ref().map(|n| n.slot.seq);
    let Some(newest) = newest.filter(|_| rolled <= last) else {
        return Err(StoreError::corrupt(
            format!("run {run}"),
            format!("a rollup reaches to record {rolled:?}, the newest slot is {last:?}"),
        ));
    };
    let mut blocks = Vec::new();
    let mut backward = Backward::new(objects, &newest);
    while let Some(block) = backward.block()? {
        blocks.push(block);
    }
    blocks.reverse();
    let records = blocks.concat();
    if let Some((place, found)) = (0u64..).zip(&records).find(|(place, s)| *place != s.seq) {
        return Err(StoreError::corrupt(
            format!("run {run}"),
            format!("record {} stands in the place of record {place}", found.seq),
        ));
    }
    Ok(Log::new(records))
}

/// The newest commits that stand in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// The commits, newest first.
    pub commits: Vec<Summary>,
    /// How many records of the run are older than the last of them: commits, forgotten ones, and what is no commit.
    pub older_records: u64,
}

/// The `most` newest commits that stand in `run`.
///
/// One listing page, a read, and one or two more for the next few hundred records; only as far back as it has to. What lies
/// further back is not looked at: whether all of it is there, [`log`] tells.
///
/// # Errors
/// * `NotFound`: there is no such run; the message names those there are.
/// * `Corrupt`: a slot or rollup on the way is missing or damaged.
pub fn recent(objects: &Objects, run: &RunName, most: usize) -> Result<Recent> {
    let newest = newest_of(objects, run)?;
    let mut backward = Backward::new(objects, &newest);
    let mut commits = Vec::new();
    let mut older_records = newest.slot.seq + 1;
    while commits.len() < most {
        let Some(commit) = backward.find(|_| true)? else {
            older_records = 0;
            break;
        };
        older_records = commit.seq;
        commits.push(commit);
    }
    Ok(Recent {
        commits,
        older_records,
    })
}

/// Record `seq` of the run whose newest slot is `newest`, forgotten or not: at most one read.
///
/// # Errors
/// `NotFound` if the run is shorter; `Corrupt`, `Newer`, `Backend` as for every read.
pub fn record_at(objects: &Objects, newest: &StoredSlot, seq: u64) -> Result<Summary> {
    let slot = &newest.slot;
    if seq > slot.seq {
        return Err(StoreError::not_found(
            format!("commit {seq} of run {}", slot.run),
            format!("The newest is {}; see `tpde log {}`", slot.seq, slot.run),
        ));
    }
    let mut list = records_around(objects, newest, seq)?;
    let place = list
        .first()
        .and_then(|first| usize::try_from(seq.checked_sub(first.seq)?).ok());
    match place.filter(|&place| place < list.len()) {
        Some(place) => Ok(list.swap_remove(place)),
        None => Err(StoreError::corrupt(
            format!("run {}", slot.run),
            format!("record {seq} is missing"),
        )),
    }
}

/// The records that are told together with record `seq`: at most one read.
fn records_around(objects: &Objects, newest: &StoredSlot, seq: u64) -> Result<Vec<Summary>> {
    let slot = &newest.slot;
    let from = history_from(slot.seq);
    if seq >= from {
        Ok(newest.records())
    } else if Some(seq) > rollup_below(slot.seq) {
        Ok(StoredSlot::referred(objects, &slot.run, from)?.slot.history)
    } else {
        let every = ROLLUP_EVERY as u64;
        Ok(Rollup::read(objects, &slot.run, seq - seq % every + (every - 1))?.summaries)
    }
}

/// The newest commit at or before record `seq` of the run whose newest slot is `newest`, forgotten or not, if there is one within
/// the same few records: one read.
///
/// # Errors
/// As [`record_at`].
pub(crate) fn commit_at_or_before(
    objects: &Objects,
    newest: &StoredSlot,
    seq: u64,
) -> Result<Option<Summary>> {
    let list = records_around(objects, newest, seq)?;
    let mut before = list.into_iter().rev().skip_while(|record| record.seq > seq);
    Ok(before.find(|record| record.action.is_commit()))
}

/// The newest commit of `step` that stands in the run whose newest slot is `newest`, or `None`.
///
/// Reads nothing when the step is recent, or larger than every step of the run.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn latest_of_step(objects: &Objects, newest: &StoredSlot, step: u64) -> Result<Option<Summary>> {
    if step > newest.slot.max_step {
        return Ok(None);
    }
    Backward::new(objects, newest).find(|commit| commit.step == step)
}

/// The newest commit of `step` that stands in `run`.
///
/// # Errors
/// * `NotFound`: no such run, or no such step; the message names steps near it, or says that it is forgotten.
/// * `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn find_step(objects: &Objects, run: &RunName, step: u64) -> Result<Summary> {
    let newest = newest_of(objects, run)?;
    if let Some(found) = latest_of_step(objects, &newest, step)? {
        return Ok(found);
    }
    let log = log(objects, run)?;
    let what = format!("step {step} of run {run}");
    if log.forgotten().any(|commit| commit.step == step) {
        let hint = format!(
            "It is forgotten: `tpde log {run} --all` shows by which record, `tpde undo {run}` takes that back"
        );
        return Err(StoreError::not_found(what, hint));
    }
    let mut steps: Vec<u64> = log.commits().map(|s| s.step).collect();
    steps.sort_unstable();
    steps.dedup();
    if steps.is_empty() {
        let hint = format!("All of its checkpoints are forgotten; see `tpde log {run} --all`");
        return Err(StoreError::not_found(what, hint));
    }
    let at = steps.partition_point(|s| *s < step);
    let near = &steps[at.saturating_sub(NEAR_STEPS)..(at + NEAR_STEPS).min(steps.len())];
    let near: Vec<String> = near.iter().map(u64::to_string).collect();
    Err(StoreError::not_found(
        what,
        format!("Near it are the steps {}; see `tpde log {run}`", near.join(", ")),
    ))
}

/// Reads every slot of `run` and checks that each names the hash of the one before and tells the same history as
/// the log. Returns the number of records.
///
/// # Errors
/// `Corrupt`: a slot is missing, damaged or replaced; otherwise as [`log`].
pub fn check_chain(objects: &Objects, run: &RunName) -> Result<u64> {
    let log = log(objects, run)?;
    let mut before: SlotHash = NO_SLOT;
    for expected in log.records() {
        let key = || Key::Slot(run.clone(), expected.seq).to_string();
        let stored = StoredSlot::referred(objects, run, expected.seq)?;
        if stored.slot.previous != before {
            return Err(StoreError::corrupt(
                key(),
                "it does not follow the slot that is stored before it",
            ));
        }
        if stored.slot.summary() != *expected {
            return Err(StoreError::corrupt(key(), "the log tells another commit"));
        }
        before = stored.hash;
    }
    Ok(log.records().len() as u64)
}

/// A readable list of at most ten names.
pub(crate) fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 10;
    let mut names = names.peekable();
    let first: Vec<&str> = names.by_ref().take(MOST).collect();
    let more = if names.peek().is_some() { ", …" } else { "" };
    format!("{}{more}", first.join(", "))
}

#[cfg(test)]
pub(crate) mod tests;
