//! One look after another, and what is done in between.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use globset::GlobSet;
use tpde_store::watch::{Look, News, Removal, Rules, Seen, Tree, Verdict, Watching, metrics_of};
use tpde_store::{ManifestId, Policy, Progress, SaveReport, SaveRequest, Stage, Store, StoreError, StoreId};

use super::Args;
use super::told::{Deleted, Ended, Pruned, Saved, Told};
use crate::bars::Bars;
use crate::commands::save::{no_policy, notices};
use crate::commands::{by_name, globs};
use crate::failure::{Exit, Failure, Report};
use crate::interrupt::Moment;
use crate::screen::Answer;
use crate::session::{Named, Session, now_unix_ms};
use crate::text::units::ratio_of;

/// A watch that goes on.
pub(super) struct Watcher<'a> {
    args: &'a Args,
    session: &'a Session,
    bars: Bars,
    tree: Tree,
    opaque: GlobSet,
    parent: Option<ManifestId>,
    /// The store that was there at the start. It is opened again for all that is done, so that none that was put in its place is taken
    /// for it.
    store_id: StoreId,
    watching: Watching,
    began: Instant,
    /// What was last told of the folder, while it cannot be read.
    no_tree: Option<String>,
    /// What was last told of the store, while it does not answer.
    no_store: Option<String>,
    /// Whether it was told that there are no checkpoints.
    is_empty: bool,
    /// What was told of.
    passed_over: BTreeSet<String>,
    /// What is left of deletions that were cut short, and stays.
    leftovers: BTreeSet<String>,
    count: Ended,
    /// The first refusal: what a watch ends with that ends by itself.
    refusal: Option<StoreError>,
}

/// A checkpoint that is to be saved, and what made it seem unfinished.
type Ready = (Look, Vec<String>);

/// Progress of a deletion, which is waited for once it has begun.
struct Deleting<'a>(&'a Bars, &'a Session);

impl Progress for Deleting<'_> {
    fn start(&self, stage: Stage, total_bytes: u64) {
        self.0.start(stage, total_bytes);
        self.1.enter(Moment::Series);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn finish(&self) {
        self.0.finish();
        self.1.enter(Moment::Deleting);
    }
}

impl<'a> Watcher<'a> {
    /// # Errors
    /// Whatever is wrong with what was typed, or with the store at the start.
    pub(super) fn new(args: &'a Args, session: &'a Session) -> Result<Self, Failure> {
        let store = session.store_over(&args.line)?;
        store.access().require_write()?;
        let tree = Tree::new(&store, &args.out_dir)?;
        if args.once {
            tree.look()?;
        }
        if args.prune && store.policy()?.is_none() {
            return Err(no_policy().into());
        }
        let parent = args.parent.as_ref().map(|text| session.resolve(&store, text));
        let parent = parent.transpose()?.map(|found| found.manifest);
        store.standing_steps(&args.run)?;
        let rules = Rules {
            settle: args.settle,
            patience: args.patience,
            keep: args.delete_after_save.then_some(args.keep),
        };
        Ok(Self {
            args,
            session,
            bars: session.bars().for_series(),
            tree,
            opaque: globs(&args.opaque)?.unwrap_or_default(),
            parent,
            store_id: store.config().store_id,
            watching: Watching::new(rules),
            began: Instant::now(),
            no_tree: None,
            no_store: None,
            is_empty: false,
            passed_over: BTreeSet::new(),
            leftovers: BTreeSet::new(),
            count: Ended::default(),
            refusal: None,
        })
    }

    /// Says that it begins.
    pub(super) fn begin(&self) -> Result<(), Failure> {
        let tree = self.args.out_dir.display().to_string();
        self.tell(&Told::new("watching", format!("into run {}", self.args.run)).of(&tree, None))
    }

    /// Waits.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), Failure> {
        self.go_on()?;
        std::thread::sleep(time);
        self.go_on()
    }

    /// Says what it came to.
    pub(super) fn end(mut self) -> Result<Exit, Failure> {
        self.tell(&Ended {
            event: "ended",
            waiting: self.watching.open() as u64,
            ..self.count
        })?;
        match self.refusal.take() {
            Some(error) => Err(error.into()),
            None => Ok(Exit::Done),
        }
    }

    /// Looks at the folder once, and does what is to be done.
    ///
    /// # Errors
    /// `Interrupted` if it is to end, `Output` if nothing can be said any more; of a watch that ends by itself whatever is wrong with the
    /// folder or the store, too.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let now = self.began.elapsed();
        let mut seen = match self.tree.look() {
            Err(error) if self.args.once => return Err(error.into()),
            Err(error) => return self.tell_no_tree(&error),
            Ok(seen) => seen,
        };
        let tree = self.args.out_dir.display().to_string();
        if self.no_tree.take().is_some() {
            self.tell(&Told::new("watching", "it is there").of(&tree, None))?;
        }
        if seen.looks.is_empty() && !self.is_empty {
            self.is_empty = true;
            let told = Told::new("waiting", "there are no checkpoints in it yet").of(&tree, None);
            let below = seen
                .below
                .as_ref()
                .map(|below| format!("There are some in {}", below.display()));
            self.tell(&told.with_hint(below.as_deref().unwrap_or_default()))?;
        }
        for rest in &seen.passed_over {
            if self.passed_over.insert(rest.name.clone()) {
                self.tell(&Told::new("passed_over", &rest.why).of(&rest.name, None))?;
            }
        }
        for news in self.watching.see(std::mem::take(&mut seen.looks), now) {
            self.tell(&match news {
                News::IsWritten { name, step } => {
                    Told::new("waiting", "it is being written").of(&name, Some(step))
                }
                News::Gone { name, step } => Told::new("gone", "before it was saved").of(&name, Some(step)),
            })?;
        }
        let ready = self.ready(&seen, now)?;
        match self.work(&seen, ready) {
            Err(Failure::Store(error)) if !matches!(error, StoreError::Interrupted { .. }) => {
                self.tell_no_store(error.into())
            }
            Err(failure @ (Failure::Usage { .. } | Failure::NotFound { .. })) => self.tell_no_store(failure),
            other => other,
        }
    }

    /// The checkpoints that are to be saved, by step.
    fn ready(&mut self, seen: &Seen, now: Duration) -> Result<Vec<Ready>, Failure> {
        let mut ready = Vec::new();
        for look in self.watching.settled() {
            let signs = self.tree.signs(seen, &look, &self.opaque);
            match self.watching.judge(&look, signs, now) {
                Verdict::Save { unfinished } => ready.push((look, unfinished)),
                Verdict::Wait { why, is_news } => {
                    if is_news {
                        self.tell(&Told::new("waiting", why).of(&look.name, Some(look.step)))?;
                    }
                }
            }
        }
        Ok(ready)
    }

    /// Does all that needs the store.
    fn work(&mut self, seen: &Seen, mut ready: Vec<Ready>) -> Result<(), Failure> {
        let is_new = |name: &&String| !self.leftovers.contains(*name);
        let leftovers: Vec<String> = seen.leftovers.iter().filter(is_new).cloned().collect();
        if ready.is_empty() && leftovers.is_empty() && self.watching.removable().is_empty() {
            return Ok(());
        }
        let store = self.session.store_over(&self.args.line)?;
        if store.config().store_id != self.store_id {
            return Err(Failure::Usage {
                message: "there is another store in the place of the one that was there at the start"
                    .to_owned(),
                hint: "Start the watch again if that is meant".to_owned(),
            });
        }
        let standing = store.standing_steps(&self.args.run)?;
        // What is new comes first: what the run has already is only compared.
        ready.sort_by_key(|(look, _)| (standing.contains(&look.step), look.step));
        self.finish_removals(&store, leftovers)?;
        for (look, unfinished) in ready {
            if self.save(&store, &look, unfinished)? {
                self.remove(&store)?;
                self.prune(&store)?;
            }
        }
        self.remove(&store)?;
        self.tell_store()
    }

    /// Saves one checkpoint. Says whether anything was added to the run.
    fn save(&mut self, store: &Store, look: &Look, unfinished: Vec<String>) -> Result<bool, Failure> {
        let mut request = SaveRequest::new(&look.path, self.args.run.clone(), look.step);
        // Those that follow have one in the run.
        request.parent = self.parent;
        request.replace = self.args.replace;
        request.opaque = self.opaque.clone();
        request.metrics = metrics_of(&look.path);
        let began = Instant::now();
        let forgotten = store.has_forgotten(look, &self.args.run, &self.opaque, &self.bars);
        let saved = match forgotten {
            Ok(true) => {
                self.watching.leave(look);
                let why = "it was saved, and is forgotten: `tpde undo` puts it back";
                self.tell(&Told::new("passed_over", why).of(&look.name, Some(look.step)))?;
                return Ok(false);
            }
            Ok(false) => store.save(&request, &self.bars),
            Err(error) => Err(error),
        };
        let report = match saved {
            Ok(report) => report,
            Err(error) => return self.not_saved(look, error).map(|()| false),
        };
        self.watching.saved(look, report.manifest, unfinished.is_empty());
        self.tell_store()?;
        match report.already_there {
            true => self.count.already_there += 1,
            false => self.count.saved += 1,
        }
        let seconds = began.elapsed().as_secs_f64();
        self.tell(&told(store, look, &request, &report, unfinished, seconds))?;
        Ok(!report.already_there)
    }

    /// Notes why a checkpoint was not saved. It is tried again once it changes; an error of the store is given back, and nothing noted.
    fn not_saved(&mut self, look: &Look, error: StoreError) -> Result<(), Failure> {
        let now = self.tree.look_again(look);
        let (name, step) = (&look.name, Some(look.step));
        match error {
            StoreError::Input { .. } | StoreError::NotFound { .. } if !now.is_as(look) => {
                match self.watching.changed(now, self.began.elapsed()) {
                    true => self.tell(&Told::new("waiting", "it changed while it was read").of(name, step)),
                    false => self.go_on(),
                }
            }
            StoreError::Input { .. } | StoreError::Conflict { .. } => {
                self.watching.leave(look);
                self.count.refused += 1;
                let report = Report::from(&error);
                let told = Told::new("refused", report.message()).with_hint(report.hint());
                self.tell(&told.of(name, step))?;
                self.refusal.get_or_insert(error);
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    /// Deletes what is saved and not among the newest.
    fn remove(&mut self, store: &Store) -> Result<(), Failure> {
        for (look, id) in self.watching.removable() {
            let progress = Deleting(&self.bars, self.session);
            let removal = match store.remove_saved(&self.tree, &look, (&self.args.run, id), &progress) {
                Err(StoreError::Input { what, detail, .. }) => Removal::Kept {
                    why: format!("{what}: {detail}"),
                },
                Err(StoreError::NotFound { what, .. }) => Removal::Kept {
                    why: format!("{what} is gone"),
                },
                other => other?,
            };
            match &removal {
                Removal::Removed { .. } => self.watching.removed(&look),
                Removal::Kept { .. } => self.watching.leave(&look),
            }
            self.tell_removal(&look.name, Some(look.step), removal)?;
        }
        Ok(())
    }

    /// Goes on with deletions that were cut short, or says that they are there.
    fn finish_removals(&mut self, store: &Store, names: Vec<String>) -> Result<(), Failure> {
        if !self.args.delete_after_save {
            for name in names {
                let why = "its deletion was cut short; `--delete-after-save` goes on with it";
                self.tell(&Told::new("kept", why).of(&name, None))?;
                self.leftovers.insert(name);
            }
            return Ok(());
        }
        let progress = Deleting(&self.bars, self.session);
        let done = store.finish_removals(&self.tree, &names, &self.args.run, &progress)?;
        for left in done {
            if matches!(left.removal, Removal::Kept { .. }) {
                self.leftovers.insert(left.name.clone());
            }
            self.tell_removal(&left.name, left.step, left.removal)?;
        }
        Ok(())
    }

    fn tell_removal(&mut self, name: &str, step: Option<u64>, removal: Removal) -> Result<(), Failure> {
        match removal {
            Removal::Removed { bytes } => {
                self.count.deleted += 1;
                self.tell(&Deleted {
                    event: "deleted",
                    name: name.to_owned(),
                    step,
                    bytes,
                })
            }
            Removal::Kept { why } => self.tell(&Told::new("kept", why).of(name, step)),
        }
    }

    /// Forgets what the policy does not keep.
    fn prune(&self, store: &Store) -> Result<(), Failure> {
        if !self.args.prune {
            return Ok(());
        }
        let policy: Policy = store.policy()?.ok_or_else(no_policy)?;
        let forgotten = store.prune(&self.args.run, &policy, now_unix_ms())?;
        if forgotten.is_empty() {
            return Ok(());
        }
        self.tell(&Pruned {
            event: "pruned",
            run: self.args.run.to_string(),
            steps: forgotten.iter().map(|commit| commit.step).collect(),
        })
    }

    fn tell_no_tree(&mut self, error: &StoreError) -> Result<(), Failure> {
        let tree = self.args.out_dir.display().to_string();
        let message = match error {
            StoreError::NotFound { .. } => "it is not there yet".to_owned(),
            error => Report::from(error).message().to_owned(),
        };
        if self.no_tree.as_ref() == Some(&message) {
            return self.go_on();
        }
        self.no_tree = Some(message.clone());
        self.tell(&Told::new("waiting", message).of(&tree, None))
    }

    /// Says once that the store does not answer; the next look tries again.
    fn tell_no_store(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.args.once {
            return Err(failure);
        }
        let report = Report::from(&failure);
        if self.no_store.is_some() {
            return self.go_on();
        }
        self.no_store = Some(report.message().to_owned());
        self.tell(
            &Told::new("no_store", format!("{}; trying again", report.message())).with_hint(report.hint()),
        )
    }

    /// Says that the store answers again, if it did not.
    fn tell_store(&mut self) -> Result<(), Failure> {
        match self.no_store.take() {
            Some(_) => self.tell(&Told::new("store_again", "it answers again")),
            None => Ok(()),
        }
    }

    /// Says something, whole.
    fn tell<A: Answer>(&self, answer: &A) -> Result<(), Failure> {
        self.session.enter(Moment::Answering);
        self.session.answer(answer)?;
        self.go_on()
    }

    /// From here on a signal ends the watch at once.
    ///
    /// # Errors
    /// `Interrupted` if one came while something was waited for.
    fn go_on(&self) -> Result<(), Failure> {
        self.session.enter(Moment::Series);
        match self.session.is_cancelled() {
            true => Err(Failure::Store(StoreError::Interrupted {
                detail: "what was saved so far stays, and the same command again goes on".to_owned(),
            })),
            false => Ok(()),
        }
    }
}

fn told(
    store: &Store,
    look: &Look,
    request: &SaveRequest,
    report: &SaveReport,
    unfinished: Vec<String>,
    seconds: f64,
) -> Saved {
    Saved {
        event: "saved",
        name: look.name.clone(),
        checkpoint: Named {
            manifest: report.manifest.to_hex(),
            run: Some(request.run.to_string()),
            seq: Some(report.seq),
            step: Some(look.step),
        },
        already_there: report.already_there,
        files: report.files,
        tensors: report.tensors,
        new_tensors: report.new_tensors,
        raw_bytes: report.raw_bytes,
        stored_bytes: report.stored_bytes,
        ratio: ratio_of(report.raw_bytes, report.stored_bytes),
        metrics: by_name(&request.metrics),
        unfinished,
        seconds,
        // What may not have been meant is no reason to say that nothing was saved.
        notices: notices(store, request, report).unwrap_or_default(),
    }
}
