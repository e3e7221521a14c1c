//! Copy: commits of one store into another.
//!
//! ```text
//! names ─▶ commits, tags ─there? done─▶ what the target lacks ─▶ new packs ─▶ confirm ─▶ new manifests ─▶ slots ─▶ tags
//! ```
//! What is not needed stays, what the target holds is not sent again, and a copy that was cut short goes on where it stopped: it
//! finds what it had sent by what it decodes to. A few commits at a time, so memory is bounded however long a run is.

mod choose;
mod lacking;
mod record;
mod send;
mod target;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::abreast::abreast;
use crate::error::{Result, StoreError};
use crate::history::{self, some_of};
use crate::ids::{ManifestId, PackId};
use crate::keys::Key;
use crate::lease::under_lease;
use crate::manifest::Manifest;
use crate::names::{RunName, TagName};
use crate::progress::{Progress, Stage};
use crate::reach::Reach;
use crate::store::Store;
use crate::summary::Summary;
use crate::tags::{self, TagRecord, Target as TagTarget};

use choose::{Choice, Chosen, choose, counting};
use lacking::{Finder, Lacking};
pub use record::COPY_OF;
use record::Committed;
use target::Target;

/// Commits whose manifests are in memory at once.
const BATCH: usize = 16;

/// What to copy, and how.
#[derive(Debug, Clone, Default)]
pub struct CopyRequest {
    /// Runs, commits (`run@step` and the like) and tags; all runs if there are none.
    pub names: Vec<String>,
    /// Take along every tag that stands for a commit that is copied. A tag that is named always comes along.
    pub tags: bool,
    /// Where the target has another checkpoint in a commit's or tag's place, let the new one stand.
    pub replace: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// The time that tags record, in milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// What became of something that was to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The target has it now; of a dry run: would have.
    Copied,
    /// It takes the place of another.
    Replaced,
    /// The target had it, and nothing was written.
    AlreadyThere,
    /// The target had the commit, and lacked some of its contents: they were sent.
    Mended,
    /// Left out, for it stands for a commit that is forgotten or replaced.
    LeftOut,
}

/// A commit that was to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedCommit {
    /// The run, here as there.
    pub run: RunName,
    /// The step.
    pub step: u64,
    /// The checkpoint's id in the source.
    pub source: ManifestId,
    /// Its id and its place in the run in the target; `None` if a dry run would make them.
    pub target: Option<(ManifestId, u64)>,
    /// What became of it.
    pub fate: Fate,
    /// Bytes of its files.
    pub raw_bytes: u64,
    /// Bytes that were added to the target for it; of a dry run, those of the pieces that it lacks.
    pub sent_bytes: u64,
}

/// A tag that was to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTag {
    /// Its name.
    pub name: TagName,
    /// What became of it.
    pub fate: Fate,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyReport {
    /// The commits, in the order in which they were copied.
    pub commits: Vec<CopiedCommit>,
    /// The tags.
    pub tags: Vec<CopiedTag>,
    /// Packs written.
    pub packs: u64,
    /// Bytes of packs and manifests that were written.
    pub sent_bytes: u64,
    /// Bytes of the source's packs that were read.
    pub read_bytes: u64,
}

/// A commit on its way.
struct Item {
    chosen: Chosen,
    manifest: Manifest,
    found: Found,
}

/// What the target has in a commit's place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Another checkpoint, which is to be replaced.
    Other,
    /// The same content, whole.
    Same(ManifestId, u64),
    /// The same content, of which some is missing.
    Broken(ManifestId, u64),
    /// The same content by its record, whose manifest is lost.
    Lost,
}

impl Found {
    fn fate(&self) -> Fate {
        match self {
            Self::Nothing | Self::Lost => Fate::Copied,
            Self::Other => Fate::Replaced,
            Self::Same(..) => Fate::AlreadyThere,
            Self::Broken(..) => Fate::Mended,
        }
    }

    fn place(&self) -> Option<(ManifestId, u64)> {
        match *self {
            Self::Same(id, seq) | Self::Broken(id, seq) => Some((id, seq)),
            Self::Nothing | Self::Other | Self::Lost => None,
        }
    }
}

/// A copy that is under way.
struct Job<'s> {
    source: &'s Store,
    target: Target<'s>,
    request: &'s CopyRequest,
    /// The commits of each run that count in the target.
    standing: HashMap<RunName, BTreeMap<u64, Summary>>,
    /// Packs of the target that were looked at for commits found in place.
    confirmed: Mutex<BTreeSet<PackId>>,
    /// What the source's manifests became in the target.
    copies: HashMap<ManifestId, ManifestId>,
    report: CopyReport,
}

/// Copies commits and tags of `source` into `target`.
///
/// Law: once this returns `Ok`, the target restores every chosen checkpoint to the same bytes as the source, under the same run and
/// step, with the same metrics, note, environment and time. Copying again writes nothing. Runs keep their order; manifests get other
/// ids, for they name other packs (docs/adr/0015), and say in their environment which one they are a copy of.
///
/// # Errors
/// * `Conflict`: the target has another checkpoint in the place of one (use `replace`); nothing was copied.
/// * `NotFound`, `Input`: a name stands for nothing.
/// * `Corrupt`: the source lacks something, or it is damaged; commits before it were copied.
/// * `OutcomeUnknown`, `Backend`: copy again: it goes on where it stopped.
///
/// Cost: of every chosen commit, its manifest on both sides; of the target, one listing of packs and the footers that this machine
/// does not know. Packs of the source are read whole.
pub fn copy(
    source: &Store,
    target: &Store,
    request: &CopyRequest,
    progress: &dyn Progress,
) -> Result<CopyReport> {
    if !request.dry_run {
        target.access().require_write()?;
    }
    let choice = choose(source, &request.names, request.tags)?;
    let mut job = Job {
        source,
        target: Target::looked_at(target),
        request,
        standing: HashMap::new(),
        confirmed: Mutex::default(),
        copies: HashMap::new(),
        report: CopyReport::default(),
    };
    let expected_bytes = job.look(&choice)?;
    progress.start(Stage::Copy, expected_bytes);
    let looked_at = Target::looked_at(target);
    let mut all = Finder::new(source, &looked_at);
    for chosen in choice.commits.chunks(BATCH) {
        if request.dry_run {
            let items = job.items(chosen)?;
            job.plan(items, &mut all)?;
        } else {
            job.under_lease(target, chosen, progress)?;
        }
    }
    for tag in &choice.tags {
        job.tag(tag)?;
    }
    job.report
        .tags
        .extend(choice.tags_left_out.into_iter().map(|name| CopiedTag {
            name,
            fate: Fate::LeftOut,
        }));
    progress.finish();
    target.catalog.flush();
    Ok(job.report)
}

impl Job<'_> {
    /// Looks at what the target has in the place of what was chosen, before anything is written. Gives the bytes that the source
    /// added for what is not there.
    fn look(&mut self, choice: &Choice) -> Result<u64> {
        let objects = self.target.store.objects();
        let there: BTreeSet<RunName> = history::runs(objects)?.into_iter().collect();
        let (mut expected_bytes, mut others) = (0, Vec::new());
        for Chosen { run, commit } in &choice.commits {
            if !self.standing.contains_key(run) {
                let standing = match there.contains(run) {
                    true => counting(self.target.store, run)?,
                    false => {
                        tags::check_run(objects, run)?;
                        BTreeMap::new()
                    }
                };
                self.standing.insert(run.clone(), standing);
            }
            match self.standing[run].get(&commit.step) {
                Some(found) if found.fingerprint == commit.fingerprint => {}
                Some(_) if !self.request.replace => others.push(format!("{run}@{}", commit.step)),
                _ => expected_bytes += commit.totals.stored_bytes,
            }
        }
        if !others.is_empty() {
            let at = self.target.store.objects().location();
            return Err(StoreError::conflict(
                format!(
                    "{at} has other checkpoints in the place of {}",
                    some_of(others.iter().map(String::as_str))
                ),
                "Leave them out by naming what to copy, or add `--replace` to let the copies stand for these steps",
            ));
        }
        for tag in &choice.tags {
            self.check_tag(tag)?;
        }
        Ok(expected_bytes)
    }

    /// Checks that a tag can be set, as far as that can be known before its commit is there.
    fn check_tag(&self, tag: &TagRecord) -> Result<Option<TagRecord>> {
        let objects = self.target.store.objects();
        tags::check_name(objects, &tag.name)?;
        let found = tags::get(objects, &tag.name)?;
        if let Some(found) = &found
            && (&found.target.run, found.target.step) != (&tag.target.run, tag.target.step)
            && !self.request.replace
        {
            return Err(StoreError::conflict(
                format!(
                    "tag {} stands for {}@{} in {}",
                    tag.name,
                    found.target.run,
                    found.target.step,
                    objects.location()
                ),
                "Copy without the tag, or add `--replace` to move it",
            ));
        }
        Ok(found)
    }

    /// Reads the manifests of a few commits, and what the target has in their place.
    fn items(&self, chosen: &[Chosen]) -> Result<Vec<Item>> {
        let items = abreast(chosen, |chosen| {
            let manifest = self.source.named_manifest(chosen.commit.manifest)?;
            let found = self.found(chosen, &manifest)?;
            let chosen = chosen.clone();
            Ok::<_, StoreError>(Item {
                chosen,
                manifest,
                found,
            })
        })?;
        let packs: BTreeSet<PackId> = items
            .iter()
            .filter(|item| !matches!(item.found, Found::Same(..)))
            .flat_map(|item| item.manifest.packs.iter().copied())
            .collect();
        self.source
            .catalog
            .warm(self.source.objects(), &packs.into_iter().collect::<Vec<_>>())?;
        Ok(items)
    }

    fn found(&self, Chosen { run, commit }: &Chosen, manifest: &Manifest) -> Result<Found> {
        let target = self.target.store;
        let Some(there) = self.standing.get(run).and_then(|steps| steps.get(&commit.step)) else {
            return Ok(Found::Nothing);
        };
        if there.fingerprint != commit.fingerprint {
            return Ok(Found::Other);
        }
        // A record alone is no checkpoint: whoever wrote it may have been too late to be told that it stands.
        let theirs = match self.target.has(there.manifest) {
            true => target.readable_manifest(there.manifest)?,
            false => None,
        };
        let Some(theirs) = theirs else {
            return Ok(Found::Lost);
        };
        if theirs.fingerprint() != manifest.fingerprint() {
            return Ok(Found::Other);
        }
        if !self.request.dry_run {
            let slot = Key::Slot(run.clone(), there.seq);
            target
                .objects()
                .settle_all(&[&slot, &Key::Manifest(there.manifest)])?;
        }
        Ok(match self.is_whole(&theirs)? {
            true => Found::Same(there.manifest, there.seq),
            false => Found::Broken(there.manifest, there.seq),
        })
    }

    /// Whether everything that a checkpoint of the target consists of is there. A pack is looked at once.
    fn is_whole(&self, manifest: &Manifest) -> Result<bool> {
        let mut reach = Reach::default();
        match self.target.store.reach(manifest, &mut reach) {
            Ok(()) => {}
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let new: BTreeSet<PackId> = &reach.packs - &*self.confirmed.lock();
        let is_whole = self.target.confirm(&new)?;
        if is_whole {
            self.confirmed.lock().extend(new);
        }
        Ok(is_whole)
    }

    /// Says what would be sent.
    fn plan(&mut self, items: Vec<Item>, finder: &mut Finder<'_>) -> Result<()> {
        for item in items {
            let sent_bytes = match item.found {
                Found::Same(..) => 0,
                _ => finder.find(&item.manifest)?.bytes(),
            };
            self.note(&item, item.found.place(), sent_bytes);
        }
        Ok(())
    }

    fn note(&mut self, item: &Item, target: Option<(ManifestId, u64)>, sent_bytes: u64) {
        self.report.sent_bytes += sent_bytes;
        self.report.commits.push(CopiedCommit {
            run: item.chosen.run.clone(),
            step: item.chosen.commit.step,
            source: item.chosen.commit.manifest,
            target,
            fate: item.found.fate(),
            raw_bytes: item.chosen.commit.totals.raw_bytes,
            sent_bytes,
        });
    }

    /// Copies a few commits under a lease, and again under another if that did not hold.
    fn under_lease(&mut self, target: &Store, chosen: &[Chosen], progress: &dyn Progress) -> Result<()> {
        let begun = (self.report.clone(), self.copies.clone());
        let (report, copies) = under_lease(target, "copy", |lease| {
            let mut job = Job {
                source: self.source,
                target: Target::under(lease),
                request: self.request,
                standing: self.standing.clone(),
                confirmed: Mutex::default(),
                report: begun.0.clone(),
                copies: begun.1.clone(),
            };
            let items = job.items(chosen)?;
            let all_there = job.batch(&items, progress)?;
            Ok(all_there.then_some((job.report, job.copies)))
        })?;
        (self.report, self.copies) = (report, copies);
        Ok(())
    }

    /// Copies a few commits: packs, then a look at all that is relied on, then manifests and slots in order. Whether all was there.
    fn batch(&mut self, items: &[Item], progress: &dyn Progress) -> Result<bool> {
        let mut finder = Finder::new(self.source, &self.target);
        let mut lacking = Vec::with_capacity(items.len());
        for item in items {
            lacking.push(match item.found {
                Found::Same(..) => Lacking::default(),
                _ => finder.find(&item.manifest)?,
            });
        }
        let sent = send::send(self.source, &self.target, &lacking, &finder, progress)?;
        self.report.read_bytes += sent.read_bytes;
        let mut relied: BTreeSet<PackId> = lacking.iter().flat_map(|l| &l.relied).copied().collect();
        relied.extend(sent.packs.iter().flatten().map(|(pack, _)| *pack));
        if !self.target.confirm(&relied)? {
            return Ok(false);
        }
        for (at, item) in items.iter().enumerate() {
            let packs_bytes: u64 = sent.packs[at].iter().map(|(_, bytes)| bytes).sum();
            self.report.packs += sent.packs[at].len() as u64;
            let (place, manifest_bytes) = match item.found {
                Found::Same(id, seq) | Found::Broken(id, seq) => (Some((id, seq)), 0),
                Found::Nothing | Found::Other | Found::Lost => {
                    let manifest = self.rewritten(item, &lacking[at], &sent)?;
                    let committed = record::commit(
                        &self.target,
                        &item.chosen,
                        &manifest,
                        packs_bytes,
                        self.request.replace,
                    )?;
                    let Committed {
                        id,
                        seq,
                        manifest_bytes,
                    } = committed;
                    (Some((id, seq)), manifest_bytes)
                }
            };
            if let Some((id, _)) = place {
                self.copies.insert(item.chosen.commit.manifest, id);
            }
            self.note(item, place, packs_bytes + manifest_bytes);
        }
        Ok(true)
    }

    /// The manifest that the target gets.
    fn rewritten(&self, item: &Item, lacking: &Lacking, sent: &send::Sent) -> Result<Manifest> {
        let parent = match item.manifest.parent {
            None => None,
            Some(parent) => Some(match self.copies.get(&parent) {
                Some(copied) => *copied,
                None => self.counterpart(parent)?.unwrap_or(parent),
            }),
        };
        let source = item.chosen.commit.manifest;
        Ok(record::rewrite(
            &item.manifest,
            source,
            parent,
            lacking,
            &sent.holders,
        ))
    }

    /// The checkpoint of the target with the same content, run and step as one of the source.
    fn counterpart(&self, id: ManifestId) -> Result<Option<ManifestId>> {
        let target = self.target.store;
        let Some(manifest) = self.source.readable_manifest(id)? else {
            return Ok(None);
        };
        let Ok(run) = manifest.run.parse::<RunName>() else {
            return Ok(None);
        };
        let Some(newest) = history::newest(target.objects(), &run)? else {
            return Ok(None);
        };
        let found = history::latest_of_step(target.objects(), &newest, manifest.step)?;
        let Some(found) = found else {
            return Ok(None);
        };
        let theirs = target.readable_manifest(found.manifest)?;
        let is_same = theirs.is_some_and(|theirs| theirs.fingerprint() == manifest.fingerprint());
        Ok(is_same.then_some(found.manifest))
    }

    /// Sets a tag whose commit is there.
    fn tag(&mut self, tag: &TagRecord) -> Result<()> {
        let found = self.check_tag(tag)?;
        let commit = self
            .report
            .commits
            .iter()
            .find(|commit| (&commit.run, commit.step) == (&tag.target.run, tag.target.step));
        let place = commit.and_then(|commit| commit.target);
        let is_same = place.is_some_and(|(manifest, _)| {
            found
                .as_ref()
                .is_some_and(|found| found.target.manifest == manifest)
        });
        let fate = match (&found, is_same) {
            (_, true) => Fate::AlreadyThere,
            (None, false) => Fate::Copied,
            (Some(_), false) => Fate::Replaced,
        };
        if let (Some((manifest, seq)), false) = (place, self.request.dry_run) {
            let target = TagTarget {
                manifest,
                run: tag.target.run.clone(),
                seq,
                step: tag.target.step,
            };
            let now = self.request.now_unix_ms;
            self.target
                .store
                .tag(&tag.name, &target, self.request.replace, now)?;
        }
        let name = tag.name.clone();
        self.report.tags.push(CopiedTag { name, fate });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
