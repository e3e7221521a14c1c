//! Garbage collection, beside writers that nobody stops (docs/adr/0012).
//!
//! ```text
//! survey ─▶ PUT mark ─▶ wait for the leases that stand, or fence them ─▶ others' marks ─▶ survey afresh ─▶ DELETE what is still spare ─▶ DELETE mark
//! ```
//! Anything that cannot be read ends it before something is deleted.

mod parts;
mod spare;
mod survey;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::clock::now_unix_ms;
use crate::error::{Result, StoreError};
use crate::ids::{ManifestId, MarkId, PackId};
use crate::keys::{Key, Prefix};
use crate::lease::{self, Standing};
use crate::mark::{self, MAX_MARKED, Mark, Marked};
use crate::progress::{Progress, Stage};
use crate::store::Store;
use spare::Proof;
pub(crate) use survey::{Survey, list_all};

/// How old something must be before it is deleted, unless the caller says otherwise: longer than any request is on its way.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Shortest and longest time between two looks at the leases that are waited for.
const LOOKS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// What to collect, and how patiently.
#[derive(Debug, Clone)]
pub struct GcRequest {
    /// How old, by the server's clock, an object must be. No request of any writer may be on its way for so long.
    pub grace: Duration,
    /// A writer that did not renew its lease for so long is given up: it finds out, and begins again.
    pub lease_limit: Duration,
    /// How long to wait for writers that are at work; `None` for as long as they need.
    pub patience: Option<Duration>,
}

impl Default for GcRequest {
    fn default() -> Self {
        Self {
            grace: DEFAULT_GRACE,
            lease_limit: lease::LIMIT,
            patience: None,
        }
    }
}

/// A number of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Packs among them.
    pub packs: u64,
    /// Manifests among them.
    pub manifests: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a gc did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// What is needed by nothing and old enough: deleted, unless this was a look only.
    pub collected: Amount,
    /// What is needed by nothing and too young.
    pub young: Amount,
    /// When the last of what is too young may be collected, in milliseconds since 1970; 0 if nothing is.
    pub young_until_unix_ms: u64,
    /// What stays.
    pub kept: Amount,
    /// What was about to be deleted, and is needed again.
    pub spared: Amount,
    /// Writers that were given up, in words.
    pub given_up: Vec<String>,
    /// Deletes that were not answered: the next gc looks after them.
    pub unanswered: u64,
    /// Marks of earlier gcs, of which nothing was left.
    pub retired_marks: u64,
    /// Parts of checkpoints, committed or not: deleted, or would be.
    pub parts: u64,
    /// Unfinished uploads on a disk that were removed, or would be.
    pub unfinished: u64,
}

impl Store {
    /// Says what a gc would delete. Writes nothing.
    ///
    /// # Errors
    /// As [`Store::gc`].
    pub fn plan_gc(&self, request: &GcRequest) -> Result<GcReport> {
        let survey = Survey::take(self, &Marked::default())?;
        let (doomed, mut report) = self.doomed(&survey, request, now_unix_ms())?;
        report.collected = survey.amount(&doomed);
        report.parts = self.stale_parts(request, now_unix_ms())?.len() as u64;
        report.unfinished = self.objects().unfinished(request.grace)?.len() as u64;
        Ok(report)
    }

    /// Deletes what no commit that stands and no tag needs.
    ///
    /// Safe beside any number of writers and other gcs, whichever of them crashes or sleeps. Of a content that is stored more than once
    /// the newer copy stays, after it was decoded.
    ///
    /// * `progress`: is told whom this waits for.
    ///
    /// # Errors
    /// * `Corrupt`: something that is needed is missing or damaged; nothing was deleted.
    /// * `Conflict`: writers are at work for longer than `patience`; nothing was deleted.
    /// * `Newer`, `Backend`, `OutcomeUnknown`: the same again is harmless.
    pub fn gc(&self, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
        self.access().require_write()?;
        progress.start(Stage::Collect, 0);
        let unfinished = self.objects().unfinished(request.grace)?;
        let mut report = self.collect(request, progress)?;
        report.unfinished = self.objects().remove_unfinished(&unfinished)?;
        progress.finish();
        Ok(report)
    }

    fn collect(&self, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
        let survey = Survey::take(self, &Marked::default())?;
        let id = MarkId::random()?;
        // Nothing is doomed by an age that a clock of this machine tells: the plan may only be too small.
        let (doomed, mut report) = self.doomed(&survey, request, now_unix_ms())?;
        let now = now_unix_ms();
        let is_silent =
            |lease: &Standing| lease.renewed_unix_ms.saturating_add(millis(request.lease_limit)) <= now;
        let is_idle = doomed.is_empty()
            && self.stale_parts(request, now)?.is_empty()
            && !lease::standing(self.objects())?.iter().any(is_silent);
        if is_idle && self.objects().list(&Prefix::Marks)?.is_empty() {
            return Ok(report);
        }
        let mark = Mark {
            id,
            created_unix_ms: now_unix_ms(),
            packs: doomed.packs,
            manifests: doomed.manifests,
        };
        self.put_mark(&mark)?;
        let marked = Instant::now();
        let Some(wrote) = self.written_at(id)? else {
            // Another gc deleted all that it lists, and then the mark: nothing is left to do.
            return Ok(report);
        };
        let now = || wrote.saturating_add(millis(marked.elapsed()));
        let waited = self.wait_for_writers(request, &now, progress);
        let swept = waited.and_then(|given_up| {
            report.given_up = given_up;
            self.sweep(&mark, request, now(), &mut report)
        });
        // Of a gc that deleted nothing, or got an answer to each delete, nothing is on its way.
        if report.unanswered == 0 {
            self.objects().delete(&Key::Mark(id))?;
        }
        swept?;
        report.parts = self.delete_stale_parts(request, now())?;
        self.retire(id, request, now(), &mut report)?;
        Ok(report)
    }

    /// What may go of all that is there, and what is said of the rest.
    fn doomed(&self, survey: &Survey, request: &GcRequest, now: u64) -> Result<(Doomed, GcReport)> {
        let old = |modified: u64| modified.saturating_add(millis(request.grace)) <= now;
        let spare = Doomed {
            packs: survey.reclaimable_packs(self)?,
            manifests: survey.spare_manifests(),
        };
        let mut report = GcReport::default();
        let mut doomed = Doomed::default();
        let mut young = Doomed::default();
        for pack in &spare.packs {
            let modified = survey.packs[pack].modified_unix_ms;
            let of = if old(modified) { &mut doomed } else { &mut young };
            if of.packs.len() < MAX_MARKED {
                of.packs.insert(*pack);
            }
        }
        for manifest in &spare.manifests {
            let modified = survey.manifests[manifest].modified_unix_ms;
            let of = if old(modified) { &mut doomed } else { &mut young };
            if of.manifests.len() < MAX_MARKED {
                of.manifests.insert(*manifest);
            }
        }
        let times = young.packs.iter().map(|p| survey.packs[p].modified_unix_ms);
        let times = times.chain(
            young
                .manifests
                .iter()
                .map(|m| survey.manifests[m].modified_unix_ms),
        );
        report.young_until_unix_ms = times.max().map_or(0, |t| t.saturating_add(millis(request.grace)));
        report.young = survey.amount(&young);
        report.kept = survey.kept(&[&doomed, &young]);
        Ok((doomed, report))
    }

    pub(crate) fn put_mark(&self, mark: &Mark) -> Result<()> {
        self.objects()
            .create_own(&Key::Mark(mark.id), &mark.encode().into())
    }

    /// When a mark was written, by the server's clock; `None` if it is gone.
    fn written_at(&self, id: MarkId) -> Result<Option<u64>> {
        let listed = self.objects().list(&Prefix::Marks)?;
        let own = listed.iter().find(|listed| listed.key == Key::Mark(id));
        Ok(own.map(|own| own.modified_unix_ms))
    }

    /// Waits until every lease that stands has ended, and fences those that are not renewed. Says who was given up.
    fn wait_for_writers(
        &self,
        request: &GcRequest,
        now_unix_ms: &dyn Fn() -> u64,
        progress: &dyn Progress,
    ) -> Result<Vec<String>> {
        let began = Instant::now();
        let mut given_up = Vec::new();
        // Those who come later have seen the mark.
        let mut awaited: Option<BTreeSet<_>> = None;
        let mut pause = LOOKS[0];
        loop {
            let standing = lease::standing(self.objects())?;
            let ids = standing.iter().map(|lease| *lease.id.as_bytes());
            let awaited = awaited.get_or_insert_with(|| ids.collect());
            let mut left: Vec<&Standing> = Vec::new();
            let now = now_unix_ms();
            for lease in standing.iter().filter(|l| awaited.contains(l.id.as_bytes())) {
                let silent = now.saturating_sub(lease.renewed_unix_ms);
                if silent >= millis(request.lease_limit) {
                    let who = lease::holder(self.objects(), lease.id);
                    lease::fence(self.objects(), lease.id)?;
                    given_up.push(who);
                } else {
                    left.push(lease);
                }
            }
            let Some(first) = left.first() else {
                return Ok(given_up);
            };
            let who = lease::holder(self.objects(), first.id);
            if progress.is_cancelled() {
                return Err(StoreError::interrupted("interrupted; nothing was deleted"));
            }
            if request
                .patience
                .is_some_and(|patience| began.elapsed() >= patience)
            {
                return Err(StoreError::conflict(
                    format!("{} still at work: {who}", counted(left.len())),
                    "Run `tpde gc` again later, or with more --patience; nothing was deleted",
                ));
            }
            progress.waiting(left.len(), &who);
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOKS[1]);
        }
    }

    /// Deletes what is still spare of what was marked.
    fn sweep(&self, own: &Mark, request: &GcRequest, now: u64, report: &mut GcReport) -> Result<()> {
        let others = Marked::by(&mark::all(self.objects(), Some(own.id))?);
        let survey = Survey::take(self, &others)?;
        let old = |modified: u64| modified.saturating_add(millis(request.grace)) <= now;
        let is_old = |pack: &&PackId| survey.packs.get(*pack).is_some_and(|p| old(p.modified_unix_ms));
        let candidates: BTreeSet<PackId> = own.packs.iter().filter(is_old).copied().collect();
        let spare = survey.spare_manifests().into_iter();
        let doomed = Doomed {
            packs: survey.spare(self, &candidates, Proof::Decoded)?,
            manifests: spare
                .filter(|m| own.manifests.contains(m) && old(survey.manifests[m].modified_unix_ms))
                .collect(),
        };
        let marked = Doomed {
            packs: own
                .packs
                .iter()
                .filter(|p| survey.packs.contains_key(p))
                .copied()
                .collect(),
            manifests: own
                .manifests
                .iter()
                .filter(|m| survey.manifests.contains_key(m))
                .copied()
                .collect(),
        };
        let (going, all) = (survey.amount(&doomed), survey.amount(&marked));
        report.spared = all.less(going);
        report.kept = survey.kept(&[&doomed]).less(report.young);
        if !doomed.is_empty() {
            survey.settle(self, &doomed)?;
        }
        // Packs before manifests: a manifest without packs is told from one whose packs were never there.
        let packs: Vec<Key> = doomed.packs.iter().map(|id| Key::Pack(*id)).collect();
        let manifests: Vec<Key> = doomed.manifests.iter().map(|id| Key::Manifest(*id)).collect();
        report.unanswered = self.delete_all(&packs) + self.delete_all(&manifests);
        report.collected = going;
        doomed.packs.iter().for_each(|pack| self.catalog.forget(pack));
        Ok(())
    }

    /// Deletes objects, each by one request; gives the number of those that were not answered.
    fn delete_all(&self, keys: &[Key]) -> u64 {
        let failed = keys.par_iter().filter(|key| match self.objects().delete(key) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!("{error}");
                true
            }
        });
        failed.count() as u64
    }

    /// Removes marks of earlier gcs of which nothing is left and whose deletes are long over.
    fn retire(&self, own: MarkId, request: &GcRequest, now: u64, report: &mut GcReport) -> Result<()> {
        let marks = mark::all(self.objects(), Some(own))?;
        if marks.is_empty() {
            return Ok(());
        }
        let listed = self.objects().list(&Prefix::Marks)?;
        let (packs, manifests) = survey::list_all(self.objects())?;
        for mark in marks {
            let modified = listed.iter().find(|l| l.key == Key::Mark(mark.id));
            let age = modified.map(|l| now.saturating_sub(l.modified_unix_ms));
            let is_empty = !mark.packs.iter().any(|pack| packs.contains_key(pack))
                && !mark
                    .manifests
                    .iter()
                    .any(|manifest| manifests.contains_key(manifest));
            if is_empty && age.is_some_and(|age| age >= millis(request.grace)) {
                self.objects().delete(&Key::Mark(mark.id))?;
                report.retired_marks += 1;
            }
        }
        Ok(())
    }
}

/// Packs and manifests that nothing needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doomed {
    pub(crate) packs: BTreeSet<PackId>,
    pub(crate) manifests: BTreeSet<ManifestId>,
}

impl Doomed {
    fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.manifests.is_empty()
    }
}

impl Amount {
    /// What is left of this without `other`.
    fn less(self, other: Self) -> Self {
        Self {
            packs: self.packs.saturating_sub(other.packs),
            manifests: self.manifests.saturating_sub(other.manifests),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn counted(writers: usize) -> String {
    match writers {
        1 => "a writer is".to_owned(),
        more => format!("{more} writers are"),
    }
}

#[cfg(test)]
mod tests;
