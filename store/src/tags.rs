//! Tags: names that people give to checkpoints.
//!
//! A tag is a line of create-only records, newest first in a listing; moving or removing it adds a record.
//!
//! ```text
//! u8 format · u8 state (0 set, 1 removed) · text name · varint seq · 32 manifest · text run · varint commit
//! varint step · 16 nonce · varint time · 32 seal
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use rayon::prelude::*;
use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::claim::{Claim, claim};
use crate::error::{Result, StoreError};
use crate::history;
use crate::ids::{ManifestId, Nonce};
use crate::keys::{Key, Prefix};
use crate::lease::under_lease;
use crate::names::{RunName, TagName};
use crate::objects::Objects;
use crate::seal::{seal, unseal};
use crate::store::Store;

/// The newest record format that this build reads and writes.
const FORMAT: u8 = 1;

/// Name of the structure in messages.
const WHAT: &str = "tag record";

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The checkpoint.
    pub manifest: ManifestId,
    /// The run it was committed to.
    pub run: RunName,
    /// The commit in that run.
    pub seq: u64,
    /// Its training step.
    pub step: u64,
}

/// One record of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRecord {
    /// The tag.
    pub name: TagName,
    /// The record's place in the tag's line, from 0.
    pub seq: u64,
    /// What it stands for; of a removed tag, what it stood for.
    pub target: Target,
    /// Whether this record removed the tag.
    pub deleted: bool,
    /// Drawn by the writer.
    pub nonce: Nonce,
    /// When, in milliseconds since 1970, by the writer's clock.
    pub created_unix_ms: u64,
}

impl TagRecord {
    /// The stored bytes, seal included.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.u8(u8::from(self.deleted));
        w.prefixed(self.name.as_str().as_bytes());
        w.varint(self.seq);
        w.raw(self.target.manifest.as_bytes());
        w.prefixed(self.target.run.as_str().as_bytes());
        w.varint(self.target.seq);
        w.varint(self.target.step);
        w.raw(self.nonce.as_bytes());
        w.varint(self.created_unix_ms);
        seal(w.into_bytes())
    }

    /// Inverse of [`TagRecord::encode`].
    ///
    /// # Errors
    /// * `Truncated`, `Corrupt`: the bytes will not get better.
    /// * `Unsupported`: written by a newer tpde; upgrade.
    pub fn decode(sealed: &[u8]) -> std::result::Result<Self, CodecError> {
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let newer = |what, found: u8, known: u8| CodecError::Unsupported {
            what,
            found: u64::from(found),
            known: u64::from(known),
        };
        let name = |text: &str| CodecError::Corrupt {
            what: WHAT,
            detail: format!("{text:?} is not a name"),
        };
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(newer("tag format", format, FORMAT));
        }
        let state = r.u8(WHAT)?;
        if state > 1 {
            return Err(newer("tag state", state, 1));
        }
        let tag = r.text(WHAT)?;
        let tag = tag.parse().map_err(|_| name(tag))?;
        let seq = r.varint(WHAT)?;
        let manifest = ManifestId::from_bytes(r.array(WHAT)?);
        let run = r.text(WHAT)?;
        let run = run.parse().map_err(|_| name(run))?;
        let record = Self {
            name: tag,
            seq,
            target: Target {
                manifest,
                run,
                seq: r.varint(WHAT)?,
                step: r.varint(WHAT)?,
            },
            deleted: state == 1,
            nonce: Nonce::from_bytes(r.array(WHAT)?),
            created_unix_ms: r.varint(WHAT)?,
        };
        r.end(WHAT)?;
        Ok(record)
    }

    fn from_bytes(name: &TagName, seq: u64, bytes: &Bytes) -> Result<Self> {
        let key = || Key::Tag(name.clone(), seq).to_string();
        let record = Self::decode(bytes).map_err(|e| StoreError::decoding(key(), e))?;
        if record.name != *name || record.seq != seq {
            return Err(StoreError::corrupt(
                key(),
                format!("it holds record {} of tag {}", record.seq, record.name),
            ));
        }
        Ok(record)
    }
}

/// The newest record of `name`, removed or not.
fn newest(objects: &Objects, name: &TagName) -> Result<Option<TagRecord>> {
    match objects.list_newest(&Prefix::Tag(name.clone()), 1)?.first() {
        Some(Key::Tag(_, seq)) => {
            let bytes = objects.get(&Key::Tag(name.clone(), *seq))?;
            TagRecord::from_bytes(name, *seq, &bytes).map(Some)
        }
        _ => Ok(None),
    }
}

/// What the tag stands for, or `None` if there is no such tag. One listing page and one read.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn get(objects: &Objects, name: &TagName) -> Result<Option<TagRecord>> {
    Ok(newest(objects, name)?.filter(|record| !record.deleted))
}

/// All tags, by name. One listing, a page for every thousand records that were ever made, and one read per tag; the reads are made
/// several at once.
///
/// # Errors
/// `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn list(objects: &Objects) -> Result<Vec<TagRecord>> {
    newest_of_all(objects).map(|(_, tags)| tags)
}

/// The newest record of every tag that ever was, and the tags there are; both by name. As [`list`].
pub(crate) fn newest_of_all(objects: &Objects) -> Result<(Vec<Key>, Vec<TagRecord>)> {
    let mut newest: BTreeMap<TagName, u64> = BTreeMap::new();
    for listed in objects.list(&Prefix::Tags)? {
        if let Key::Tag(name, seq) = listed.key {
            let newest = newest.entry(name).or_default();
            *newest = seq.max(*newest);
        }
    }
    let newest: Vec<(TagName, u64)> = newest.into_iter().collect();
    let records: Vec<TagRecord> = newest
        .par_iter()
        .map(|(name, seq)| {
            let bytes = objects.get(&Key::Tag(name.clone(), *seq))?;
            TagRecord::from_bytes(name, *seq, &bytes)
        })
        .collect::<Result<_>>()?;
    let tags = records.into_iter().filter(|record| !record.deleted).collect();
    Ok((
        newest
            .into_iter()
            .map(|(name, seq)| Key::Tag(name, seq))
            .collect(),
        tags,
    ))
}

/// Checks that `name` means one thing: no run has it, and it is no word of references.
///
/// Tags that were set before this was checked are found and removed as ever.
///
/// # Errors
/// * `Input`: it is a word of references.
/// * `Conflict`: a run has this name.
/// * `Backend`: the store cannot be read.
pub fn check_name(objects: &Objects, name: &TagName) -> Result<()> {
    if name.as_str() == "latest" {
        return Err(StoreError::input(
            "tag name \"latest\"",
            "it is the word for a run's newest checkpoint",
            "Choose another name, or write run@latest for the newest checkpoint",
        ));
    }
    let run: RunName = name.as_str().parse()?;
    if history::newest(objects, &run)?.is_some() {
        return Err(StoreError::conflict(
            format!("a run is called {name}, and as a tag the name would stand for another checkpoint"),
            "Choose another name for the tag",
        ));
    }
    Ok(())
}

/// Checks that a new run's name is no tag: the bare word would not lead to the run.
///
/// # Errors
/// * `Conflict`: a tag has this name.
/// * `Corrupt`, `Newer`, `Backend`: as for every read.
pub(crate) fn check_run(objects: &Objects, run: &RunName) -> Result<()> {
    match run.as_str().parse() {
        Ok(name) if get(objects, &name)?.is_some() => Err(StoreError::conflict(
            format!("a tag is called {run}, and would hide the run"),
            format!("Choose another name for the run, or remove the tag with `tpde tag --delete {run}`"),
        )),
        _ => Ok(()),
    }
}

impl Store {
    /// Points the tag `name` at `target`.
    ///
    /// Setting it to what it stands for already writes nothing.
    ///
    /// * `force`: whether a tag that stands for something else is moved.
    /// * `now_unix_ms`: the time to record.
    ///
    /// # Errors
    /// * `Conflict`: it stands for something else, and `force` is off; or what it is to stand for was forgotten and is being deleted.
    /// * `OutcomeUnknown`: run `tpde tag` to see; setting it again is harmless.
    /// * `Backend`: nothing was written; run the command again.
    pub fn tag(&self, name: &TagName, target: &Target, force: bool, now_unix_ms: u64) -> Result<TagRecord> {
        self.access().require_write()?;
        let before = get(self.objects(), name)?;
        let mut recorded = None;
        under_lease(self, &format!("tag {name}"), |lease| {
            if !lease.secure(target.manifest)? {
                // Set under a lease that did not hold, it stands for something that is gone.
                if let Some(TagRecord { nonce, .. }) = recorded.take()
                    && get(self.objects(), name)?.is_some_and(|now| now.nonce == nonce)
                {
                    match &before {
                        Some(old) if lease.secure(old.target.manifest)? => {
                            set(self.objects(), name, &old.target, true, now_unix_ms)?;
                        }
                        _ => {
                            remove(self.objects(), name, now_unix_ms)?;
                        }
                    }
                }
                return Err(StoreError::conflict(
                    format!(
                        "step {} of run {} (manifest {}) is not whole, or is being deleted",
                        target.step,
                        target.run,
                        target.manifest.short()
                    ),
                    "Save the same step again, then set the tag",
                ));
            }
            let record = set(self.objects(), name, target, force, now_unix_ms)?;
            recorded = Some(record.clone());
            Ok(Some(record))
        })
    }
}

/// Points the tag `name` at `target`, which must be there for as long as the record is not.
///
/// Setting it to what it stands for already writes nothing.
///
/// * `force`: whether a tag that stands for something else is moved.
/// * `now_unix_ms`: the time to record.
///
/// # Errors
/// * `Conflict`: it stands for something else, and `force` is off.
/// * `OutcomeUnknown`: run `tpde tag` to see; setting it again is harmless.
/// * `Backend`: nothing was written; run the command again.
pub(crate) fn set(
    objects: &Objects,
    name: &TagName,
    target: &Target,
    force: bool,
    now_unix_ms: u64,
) -> Result<TagRecord> {
    append(objects, name, |before| match before {
        Some(now) if !now.deleted && now.target == *target => Ok(Step::Done(now.clone())),
        Some(now) if !now.deleted && !force => Err(StoreError::conflict(
            format!(
                "tag {name} stands for step {} of run {} (manifest {})",
                now.target.step,
                now.target.run,
                now.target.manifest.short()
            ),
            "Choose another name, or add `--force` to move it",
        )),
        _ => Ok(Step::Append(target.clone(), false, now_unix_ms)),
    })
}

/// Removes the tag `name`; the checkpoint stays. Returns the record that removed it.
///
/// # Errors
/// * `NotFound`: there is no such tag.
/// * `OutcomeUnknown`, `Backend`: as `Store::tag`.
pub fn remove(objects: &Objects, name: &TagName, now_unix_ms: u64) -> Result<TagRecord> {
    let mut removed_here = false;
    append(objects, name, |before| match before {
        Some(now) if !now.deleted => {
            removed_here = true;
            Ok(Step::Append(now.target.clone(), true, now_unix_ms))
        }
        // A rival removed it between our look and our try: it is gone, as was asked.
        Some(now) if removed_here => Ok(Step::Done(now.clone())),
        _ => Err(StoreError::not_found(
            format!("tag {name}"),
            "Run `tpde tag` to see the tags there are",
        )),
    })
}

/// What to do, given the newest record.
enum Step {
    /// Nothing: this record stands.
    Done(TagRecord),
    /// Add a record: target, removed, time.
    Append(Target, bool, u64),
}

/// Adds a record after the newest one; decides again whenever another writer was faster.
fn append(
    objects: &Objects,
    name: &TagName,
    mut decide: impl FnMut(Option<&TagRecord>) -> Result<Step>,
) -> Result<TagRecord> {
    let nonce = Nonce::random()?;
    let mut before = newest(objects, name)?;
    loop {
        let (target, deleted, created_unix_ms) = match decide(before.as_ref())? {
            Step::Done(record) => {
                objects.settle(&Key::Tag(name.clone(), record.seq))?;
                return Ok(record);
            }
            Step::Append(target, deleted, now) => (target, deleted, now),
        };
        let seq = match &before {
            None => 0,
            Some(record) => record.seq.checked_add(1).ok_or_else(|| {
                StoreError::corrupt(format!("tag {name}"), "its sequence numbers are used up")
            })?,
        };
        let record = TagRecord {
            name: name.clone(),
            seq,
            target,
            deleted,
            nonce,
            created_unix_ms,
        };
        let hint = "Run `tpde tag` to see; the same command again is harmless";
        let key = Key::Tag(name.clone(), seq);
        let claimed = claim(objects, &key, &Bytes::from(record.encode()), hint, |found| {
            Ok(TagRecord::from_bytes(name, seq, found)?.nonce == nonce)
        })?;
        match claimed {
            Claim::Ours => return Ok(record),
            Claim::Taken(theirs) => before = Some(TagRecord::from_bytes(name, seq, &theirs)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, FaultStore, Plan};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn target(step: u64) -> Target {
        Target {
            manifest: ManifestId::of(&step.to_le_bytes()),
            run: "llama".parse().unwrap(),
            seq: step / 10,
            step,
        }
    }

    fn name() -> TagName {
        "best".parse().unwrap()
    }

    /// Promise: a tag moves only when forced, goes when removed, and can be set again.
    #[test]
    fn a_tags_life() {
        let objects = Objects::memory();
        assert_eq!(get(&objects, &name()).unwrap(), None);
        assert!(matches!(
            remove(&objects, &name(), 0),
            Err(StoreError::NotFound { .. })
        ));
        set(&objects, &name(), &target(10), false, 1).unwrap();
        assert_eq!(set(&objects, &name(), &target(10), false, 2).unwrap().seq, 0);
        let error = set(&objects, &name(), &target(20), false, 3).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(get(&objects, &name()).unwrap().unwrap().target, target(10));
        assert_eq!(set(&objects, &name(), &target(20), true, 4).unwrap().seq, 1);
        assert_eq!(list(&objects).unwrap()[0].target, target(20));
        assert!(remove(&objects, &name(), 5).unwrap().deleted);
        assert!(list(&objects).unwrap().is_empty());
        assert_eq!(set(&objects, &name(), &target(30), false, 6).unwrap().seq, 3);
    }

    /// Promise: the list costs one listing and a read per tag, however often they were moved, and is in the order of the names.
    #[test]
    fn the_list_costs_a_read_per_tag() {
        let faults = Arc::new(FaultStore::new());
        let objects = Objects::wrapping(faults.clone());
        let names = ["b", "a", "c", "gone"].map(|name| name.parse::<TagName>().unwrap());
        for step in 0..5 {
            for name in &names {
                set(&objects, name, &target(step), true, step).unwrap();
            }
        }
        remove(&objects, &names[3], 9).unwrap();
        let before = faults.requests();
        let tags = list(&objects).unwrap();
        assert_eq!(faults.requests() - before, 1 + names.len());
        let found: Vec<_> = tags.iter().map(|t| (t.name.as_str(), t.target.step)).collect();
        assert_eq!(found, [("a", 4), ("b", 4), ("c", 4)]);
    }

    /// Promise: a name never means two things: neither a tag nor a run takes the other's, nor a tag a word of references.
    #[test]
    fn one_name_one_meaning() {
        let objects = Objects::memory();
        check_name(&objects, &name()).unwrap();
        check_run(&objects, &"best".parse().unwrap()).unwrap();
        set(&objects, &name(), &target(10), false, 1).unwrap();
        let error = check_run(&objects, &"best".parse().unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        remove(&objects, &name(), 2).unwrap();
        check_run(&objects, &"best".parse().unwrap()).unwrap();
        history::tests::fabricate(&objects, &"best".parse().unwrap(), 1);
        let error = check_name(&objects, &name()).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        let error = check_name(&objects, &"latest".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("run@latest"), "{error}");
    }

    /// Promise: of racing writers one sets an unforced tag; forced ones all land in some order.
    #[test]
    fn races() {
        for force in [false, true] {
            let objects = Objects::memory();
            let won: usize = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..8)
                    .map(|i| {
                        let objects = &objects;
                        scope.spawn(move || set(objects, &name(), &target(i), force, i).is_ok())
                    })
                    .collect();
                racers.into_iter().map(|r| usize::from(r.join().unwrap())).sum()
            });
            assert_eq!(won, if force { 8 } else { 1 });
            let records = objects.list(&Prefix::Tag(name())).unwrap();
            assert_eq!(records.len(), won);
        }
    }

    /// Promise: a lost answer is looked up; setting again after any fault ends with one record.
    #[test]
    fn faults() {
        for fault in [Fault::LostRequest, Fault::LostResponse, Fault::Refused] {
            for from in 0..4 {
                let faults = Arc::new(FaultStore::new());
                let objects = Objects::wrapping(faults.clone());
                faults.plan(Some(Plan { fault, from, len: 1 }));
                let first = set(&objects, &name(), &target(1), false, 0);
                faults.plan(None);
                if first.is_ok() {
                    assert_eq!(get(&objects, &name()).unwrap().unwrap().target, target(1));
                }
                set(&objects, &name(), &target(1), false, 0).unwrap();
                assert_eq!(objects.list(&Prefix::Tag(name())).unwrap().len(), 1);
            }
        }
    }

    proptest! {
        /// Promise: a record survives the way through bytes, and no flip of it is read.
        #[test]
        fn round_trip_and_damage(n in any::<[u64; 4]>(), deleted: bool, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let record = TagRecord {
                name: name(),
                seq: n[0],
                target: Target { seq: n[1], step: n[2], ..target(1) },
                deleted,
                nonce: Nonce::from_bytes([9; 16]),
                created_unix_ms: n[3],
            };
            let bytes = record.encode();
            prop_assert_eq!(&TagRecord::decode(&bytes)?, &record);
            let at = at.index(bytes.len());
            prop_assert!(TagRecord::decode(&bytes[..at]).is_err());
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            let flipped = TagRecord::decode(&flipped);
            let corrupt = matches!(flipped, Err(CodecError::Corrupt { .. }));
            prop_assert!(corrupt);
        }
    }
}
