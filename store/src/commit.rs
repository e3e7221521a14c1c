//! The commit: one conditional create of one small object.
//!
//! ```text
//! newest slot ─ is the step there? ─┬ same content ────────────────────── AlreadyThere
//!      ▲                            ├ other content, no --replace ─────── Conflict
//!      │                            └ no ─ 256 unrolled? write rollup ─ create slot n ─┬ done: Committed
//!      └──────── another writer's slot n is now the newest ◄───────────── taken ◄──────┤
//!                                                                                      └ no answer: OutcomeUnknown
//! ```
//! Packs, then manifest, then slot: a crash at any point leaves the run as it was, or with the commit. Slots are
//! contiguous, so a create of slot n can only succeed for a writer that has seen all slots before it; whatever it
//! decided about steps and parents therefore still holds.

use bytes::Bytes;
use tpde_core::ID_LEN;

use crate::action::Action;
use crate::claim::{Claim, claim};
use crate::error::{Result, StoreError};
use crate::history;
use crate::ids::{Fingerprint, ManifestId, Nonce};
use crate::keys::Key;
use crate::metrics::Metrics;
use crate::names::RunName;
use crate::objects::Objects;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::slot::{NO_SLOT, Slot, StoredSlot, history_from};
use crate::summary::{Summary, Totals, short};

/// What a commit adds to a run.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// The checkpoint; its manifest must be stored.
    pub manifest: ManifestId,
    /// Digest of its files, blobs and tensor ids: equal exactly if it restores to the same bytes.
    pub fingerprint: Fingerprint,
    /// The training step.
    pub step: u64,
    /// Drawn for this commit; give the same one again when the same commit is retried.
    pub nonce: Nonce,
    /// Now, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Its sizes, for the log.
    pub totals: Totals,
    /// What the trainer knows about it.
    pub metrics: Metrics,
}

/// What the run must look like for a commit to be wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpectParent {
    /// Anything.
    #[default]
    Any,
    /// It has no commits yet.
    NoCommits,
    /// This checkpoint is its newest.
    Newest(ManifestId),
}

/// Choices of a commit.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommitOptions {
    /// Whether a step that the run holds with other content is committed again; the newer commit then stands for
    /// the step.
    pub replace: bool,
    /// Refuse unless the run looks like this.
    pub expect_parent: ExpectParent,
    /// Whether a step that the run holds with the same content is committed again: for a commit whose manifest is lost.
    pub again: bool,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The checkpoint is commit `seq` of the run, durably.
    Committed {
        /// Its place in the run.
        seq: u64,
    },
    /// Commit `seq` of the run holds the same step with the same content; nothing was written.
    AlreadyThere {
        /// Its place in the run.
        seq: u64,
    },
}

/// Commits a stored manifest to `run`.
///
/// Of racing writers each gets a slot of its own; none is lost and none is written twice. Calling it again with the
/// same arguments is harmless, whatever happened to the first call.
///
/// # Errors
/// * `Conflict`: the run holds this step with other content (use `replace`), or does not look as
///   `expect_parent` says.
/// * `OutcomeUnknown`: the backend did not say whether the slot was written; `tpde log RUN` tells, and committing
///   again is harmless.
/// * `Backend`: it was not written; mend the cause and commit again.
/// * `Corrupt`, `Newer`: the run's records cannot be read.
///
/// Without racing writers: one listing page, one read and one create; every 256th commit two requests more. A step
/// that is not larger than all before costs the rollups too, if the last 256 commits do not have it.
pub fn commit(objects: &Objects, run: &RunName, new: &NewCommit, options: &CommitOptions) -> Result<Outcome> {
    let mut standing = None;
    let appended = append(objects, run, new.nonce, |newest| {
        standing = stands(objects, run, newest, new.step, &new.fingerprint, options)?;
        if standing.is_some() {
            return Ok(None);
        }
        Ok(Some(Draft {
            action: Action::Commit(new.metrics.clone()),
            manifest: new.manifest,
            fingerprint: new.fingerprint,
            step: new.step,
            created_unix_ms: new.created_unix_ms,
            totals: new.totals,
        }))
    })?;
    match (appended, standing) {
        (Some(seq), _) => Ok(Outcome::Committed { seq }),
        (None, Some(seq)) => Ok(Outcome::AlreadyThere { seq }),
        (None, None) => Err(StoreError::conflict(
            format!("run {run} changed while it was committed to"),
            "Run the command again",
        )),
    }
}

/// What a new record says, wherever in the run it ends up.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    action: Action,
    manifest: ManifestId,
    fingerprint: Fingerprint,
    step: u64,
    created_unix_ms: u64,
    totals: Totals,
}

impl Draft {
    /// A record that adds no checkpoint.
    pub(crate) fn of(action: Action, created_unix_ms: u64) -> Self {
        Self {
            action,
            manifest: ManifestId::from_bytes([0; ID_LEN]),
            fingerprint: Fingerprint::from_bytes([0; ID_LEN]),
            step: 0,
            created_unix_ms,
            totals: Totals::default(),
        }
    }
}

/// Appends a record to `run`, whoever else does so at the same time, and says which one it became.
///
/// * `nonce`: drawn for this record.
/// * `draft`: what to say after the newest record that is handed to it; `None` for nothing. Asked again whenever another writer
///   was faster.
///
/// # Errors
/// As [`commit`], and whatever `draft` returns.
pub(crate) fn append(
    objects: &Objects,
    run: &RunName,
    nonce: Nonce,
    mut draft: impl FnMut(Option<&StoredSlot>) -> Result<Option<Draft>>,
) -> Result<Option<u64>> {
    let mut newest = history::newest(objects, run)?;
    loop {
        let Some(draft) = draft(newest.as_ref())? else {
            return Ok(None);
        };
        let slot = next_slot(objects, run, newest.as_ref(), nonce, draft)?;
        let key = Key::Slot(run.clone(), slot.seq);
        let hint = format!("Run `tpde log {run}` to see; the same command again is harmless");
        let claimed = claim(objects, &key, &Bytes::from(slot.encode()), &hint, |found| {
            let found = StoredSlot::from_bytes(run, slot.seq, found)?;
            Ok(found.slot.nonce == nonce)
        })?;
        match claimed {
            Claim::Ours => return Ok(Some(slot.seq)),
            Claim::Taken(theirs) => {
                tracing::debug!(%run, seq = slot.seq, "another writer took the slot");
                newest = Some(StoredSlot::from_bytes(run, slot.seq, &theirs)?);
            }
        }
    }
}

/// What [`commit`] would say of a step before anything is written for it: `Some(seq)` if the run holds it with the same
/// content, `None` if a commit would be tried.
///
/// * `newest`: the newest slot of `run`.
///
/// # Errors
/// `Conflict`, `Corrupt`, `Newer`, `Backend`: as [`commit`].
pub fn precheck(
    objects: &Objects,
    run: &RunName,
    newest: Option<&StoredSlot>,
    step: u64,
    fingerprint: &Fingerprint,
    options: &CommitOptions,
) -> Result<Option<u64>> {
    stands(objects, run, newest, step, fingerprint, options)
}

fn stands(
    objects: &Objects,
    run: &RunName,
    newest: Option<&StoredSlot>,
    step: u64,
    fingerprint: &Fingerprint,
    options: &CommitOptions,
) -> Result<Option<u64>> {
    if let Some(newest) = newest
        && let Some(found) = history::latest_of_step(objects, newest, step)?
    {
        let same = same_content(objects, newest, &found, fingerprint)?;
        if same && !options.again {
            let manifest = Key::Manifest(found.manifest);
            objects.settle_all(&[&Key::Slot(run.clone(), found.seq), &manifest])?;
            return Ok(Some(found.seq));
        }
        if !same && !options.replace {
            return Err(StoreError::conflict(
                format!(
                    "step {step} of run {run} is there with other content (commit {}, manifest {})",
                    found.seq,
                    found.manifest.short()
                ),
                "Save under another step or run, or add `--replace` to let the new one stand for the step",
            ));
        }
    }
    check_parent(objects, run, newest, options.expect_parent)?;
    Ok(None)
}

/// Whether commit `found` restores to what `fingerprint` stands for: by its slot, not by the summary's few bytes.
fn same_content(
    objects: &Objects,
    newest: &StoredSlot,
    found: &Summary,
    fingerprint: &Fingerprint,
) -> Result<bool> {
    if found.fingerprint != short(fingerprint) {
        return Ok(false);
    }
    if found.seq == newest.slot.seq {
        return Ok(newest.slot.fingerprint == *fingerprint);
    }
    let run = &newest.slot.run;
    match StoredSlot::read(objects, run, found.seq) {
        Ok(stored) => Ok(stored.slot.fingerprint == *fingerprint),
        Err(StoreError::NotFound { .. }) => Err(StoreError::corrupt(
            Key::Slot(run.clone(), found.seq).to_string(),
            "a newer commit refers to it, and it is missing",
        )),
        Err(error) => Err(error),
    }
}

fn check_parent(
    objects: &Objects,
    run: &RunName,
    newest: Option<&StoredSlot>,
    expected: ExpectParent,
) -> Result<()> {
    let expected = match expected {
        ExpectParent::Any => return Ok(()),
        ExpectParent::NoCommits => None,
        ExpectParent::Newest(manifest) => Some(manifest),
    };
    let newest = newest
        .map(|n| history::newest_commit(objects, n))
        .transpose()?
        .flatten();
    let found = newest.map(|commit| commit.manifest);
    if found == expected {
        return Ok(());
    }
    let name = |id: Option<ManifestId>| id.map_or("no commit".to_owned(), |id| id.short());
    Err(StoreError::conflict(
        format!(
            "the newest of run {run} is {}, {} was expected",
            name(found),
            name(expected)
        ),
        format!("Run `tpde log {run}` to see what came in between, then decide"),
    ))
}

/// The slot that would follow `newest`; writes the rollup that it stands on.
fn next_slot(
    objects: &Objects,
    run: &RunName,
    newest: Option<&StoredSlot>,
    nonce: Nonce,
    draft: Draft,
) -> Result<Slot> {
    let mut slot = Slot {
        run: run.clone(),
        seq: 0,
        action: draft.action,
        manifest: draft.manifest,
        previous: NO_SLOT,
        nonce,
        fingerprint: draft.fingerprint,
        step: draft.step,
        created_unix_ms: draft.created_unix_ms,
        totals: draft.totals,
        max_step: draft.step,
        history: Vec::new(),
    };
    if let Some(before) = newest {
        follow(objects, &mut slot, before)?;
    }
    Ok(slot)
}

/// Makes `slot` the one after `before`.
fn follow(objects: &Objects, slot: &mut Slot, before: &StoredSlot) -> Result<()> {
    slot.seq = before.slot.seq.checked_add(1).ok_or_else(|| {
        StoreError::corrupt(format!("run {}", slot.run), "its sequence numbers are used up")
    })?;
    slot.previous = before.hash;
    slot.max_step = slot.max_step.max(before.slot.max_step);
    slot.history = before.records();
    let from = history_from(slot.seq);
    let told_from = history_from(before.slot.seq);
    if from == slot.seq || from < told_from {
        // A sixteenth slot: everything since the rollup, of which the last sixteenth slot tells the beginning.
        let earlier = if told_from.is_multiple_of(ROLLUP_EVERY as u64) {
            Vec::new()
        } else {
            StoredSlot::referred(objects, &slot.run, told_from)?.slot.history
        };
        slot.history.splice(..0, earlier);
    } else {
        slot.history.retain(|record| record.seq >= from);
    }
    if from == slot.seq {
        Rollup::new(slot.run.clone(), std::mem::take(&mut slot.history)).write(objects)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
