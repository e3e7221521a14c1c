//! What a run holds: its newest slot, and behind it the rollups.
//!
//! ```text
//! newest slot ─ history ─┐                    seq 0 … 255      256 … 511     512 … newest
//!      └─ rollup 511 ─ previous ─ rollup 255  └ rollup 255 ┘  └ rollup 511 ┘  └ in the slot ┘
//! ```
//! The log of 10 000 commits takes about forty reads. A missing link is an error, never a shorter log.

use crate::error::{Result, StoreError};
use crate::ids::SlotHash;
use crate::keys::{Key, Prefix};
use crate::names::RunName;
use crate::objects::Objects;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::slot::{NO_SLOT, StoredSlot};
use crate::summary::Summary;

/// Steps named on each side of one that does not exist.
const NEAR_STEPS: usize = 3;

/// The newest slot of `run`, or `None` if it has no commits. One listing page and one read.
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

/// The names of all runs with a commit, ascending.
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

/// All commits of `run`, oldest first, without gaps.
///
/// Two listing pages, one read, and one read per [`ROLLUP_EVERY`] commits.
///
/// # Errors
/// * `NotFound`: there is no such run; the message names those there are.
/// * `Corrupt`: a slot or rollup is missing or damaged.
pub fn log(objects: &Objects, run: &RunName) -> Result<Vec<Summary>> {
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
            format!("a rollup reaches to commit {rolled:?}, the newest slot is {last:?}"),
        ));
    };
    let mut parts = vec![newest.recent()];
    let mut next = newest.slot.rollup;
    while let Some(last) = next {
        let rollup = Rollup::read(objects, run, last)?;
        next = rollup.previous;
        parts.push(rollup.summaries);
    }
    parts.reverse();
    let log = parts.concat();
    if let Some((place, found)) = (0u64..).zip(&log).find(|(place, s)| *place != s.seq) {
        return Err(StoreError::corrupt(
            format!("run {run}"),
            format!("commit {} stands in the place of commit {place}", found.seq),
        ));
    }
    Ok(log)
}

/// Commit `seq` of the run whose newest slot is `newest`: at most one read.
///
/// # Errors
/// `NotFound` if the run is shorter; `Corrupt`, `Newer`, `Backend` as for every read.
pub fn commit_at(objects: &Objects, newest: &StoredSlot, seq: u64) -> Result<Summary> {
    let slot = &newest.slot;
    if seq > slot.seq {
        return Err(StoreError::not_found(
            format!("commit {seq} of run {}", slot.run),
            format!("The newest is {}; see `tpde log {}`", slot.seq, slot.run),
        ));
    }
    let place = |list: &[Summary]| {
        let first = list.first()?.seq;
        let place = usize::try_from(seq.checked_sub(first)?).ok()?;
        list.get(place).cloned()
    };
    if let Some(found) = place(&newest.recent()) {
        return Ok(found);
    }
    let every = ROLLUP_EVERY as u64;
    let last = seq - seq % every + (every - 1);
    let rollup = Rollup::read(objects, &slot.run, last)?;
    place(&rollup.summaries).ok_or_else(|| {
        StoreError::corrupt(
            Key::Rollup(slot.run.clone(), last).to_string(),
            format!("commit {seq} is not in it"),
        )
    })
}

/// The newest commit of `step` in the rollups up to `rollup`, which are read one by one, newest first.
pub(crate) fn step_in_rollups(
    objects: &Objects,
    run: &RunName,
    rollup: Option<u64>,
    step: u64,
) -> Result<Option<Summary>> {
    let mut next = rollup;
    while let Some(last) = next {
        let rollup = Rollup::read(objects, run, last)?;
        if let Some(found) = rollup.summaries.iter().rev().find(|s| s.step == step) {
            return Ok(Some(found.clone()));
        }
        next = rollup.previous;
    }
    Ok(None)
}

/// The newest commit of `step` among those that the rollups do not cover.
pub(crate) fn recent_step(newest: &StoredSlot, step: u64) -> Option<Summary> {
    if newest.slot.step == step {
        return Some(newest.slot.summary());
    }
    newest.slot.history.iter().rev().find(|s| s.step == step).cloned()
}

/// The newest commit of `step` in the run whose newest slot is `newest`, or `None`.
///
/// Reads nothing when the step is recent, or larger than every step of the run.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn latest_of_step(objects: &Objects, newest: &StoredSlot, step: u64) -> Result<Option<Summary>> {
    if let Some(found) = recent_step(newest, step) {
        return Ok(Some(found));
    }
    if step > newest.slot.max_step {
        return Ok(None);
    }
    step_in_rollups(objects, &newest.slot.run, newest.slot.rollup, step)
}

/// The newest commit of `step` in `run`.
///
/// # Errors
/// * `NotFound`: no such run, or no such step; the message names steps near it.
/// * `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn find_step(objects: &Objects, run: &RunName, step: u64) -> Result<Summary> {
    let newest = newest_of(objects, run)?;
    if let Some(found) = latest_of_step(objects, &newest, step)? {
        return Ok(found);
    }
    let mut steps: Vec<u64> = log(objects, run)?.iter().map(|s| s.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let at = steps.partition_point(|s| *s < step);
    let near = &steps[at.saturating_sub(NEAR_STEPS)..(at + NEAR_STEPS).min(steps.len())];
    let near: Vec<String> = near.iter().map(u64::to_string).collect();
    Err(StoreError::not_found(
        format!("step {step} of run {run}"),
        format!("Near it are the steps {}; see `tpde log {run}`", near.join(", ")),
    ))
}

/// Reads every slot of `run` and checks that each names the hash of the one before and tells the same history as
/// the log. Returns the number of commits.
///
/// # Errors
/// `Corrupt`: a slot is missing, damaged or replaced; otherwise as [`log`].
pub fn check_chain(objects: &Objects, run: &RunName) -> Result<u64> {
    let log = log(objects, run)?;
    let mut before: SlotHash = NO_SLOT;
    for expected in &log {
        let key = || Key::Slot(run.clone(), expected.seq).to_string();
        let stored = StoredSlot::read(objects, run, expected.seq).map_err(|error| match error {
            StoreError::NotFound { .. } => StoreError::corrupt(key(), "it is missing"),
            other => other,
        })?;
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
    Ok(log.len() as u64)
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
