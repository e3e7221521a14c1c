//! Writers of a folder that are killed: saves, forgets, gcs and repacks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tpde_store::forget::Policy;
use tpde_store::rollup::ROLLUP_EVERY;
use tpde_store::{GcRequest, RepackRequest, Silent, Store, StoreError, VerifyLevel, history, now_unix_ms};
use tpde_tests::{
    Rng, copy_tree, fast_folder, make_store, open_store, run, save, soak, train, training_state, verify,
};

use super::held::{Checkpoint, Held};
use super::moment::{Moment, names_below, within};

const SEED: u64 = 1;
/// Commits before the first kill, so that the rounds cross a rollup.
const EARLIER: u64 = 200;
/// Checkpoints that a forget leaves.
const KEPT: usize = 5;

/// What a process does to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Save,
    Forget,
    Gc,
    Repack,
}

/// What can be seen of a process that was killed, or was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Nothing.
    Nothing,
    /// Objects that came or went, and the log as it was.
    Traces,
    /// The new log.
    Done,
    /// All of it: it ended before the signal came.
    Ended,
}

type Outcomes = BTreeMap<(Work, Left), u32>;

/// A store, and what whoever uses it knows.
struct Bench {
    scratch: TempDir,
    place: PathBuf,
    cache: PathBuf,
    rng: Rng,
    state: Vec<u8>,
    /// The newest step, and the newest when a gc was last done.
    step: u64,
    collected: u64,
    held: Held,
    /// How long each kind of work takes undisturbed: the kills are spread over that.
    whole: BTreeMap<Work, Duration>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (place, cache) = (scratch.path().join("store"), scratch.path().join("cache"));
        let mut bench = Self {
            scratch,
            place,
            cache,
            rng: Rng::new(seed),
            state: training_state(),
            step: 0,
            collected: 0,
            held: Held::default(),
            whole: BTreeMap::new(),
        };
        // One content, committed again and again, where no flush takes time.
        let fast = fast_folder();
        let store = make_store(&fast.path().join("store"));
        let first = Checkpoint::new(&bench.state, 0);
        first.write(&bench.source());
        for step in 1..=EARLIER {
            save(&store, &bench.source(), step).unwrap();
            bench.held.add(step, &first);
        }
        copy_tree(&fast.path().join("store"), &bench.place);
        bench.step = EARLIER;
        for work in [Work::Save, Work::Forget, Work::Save, Work::Gc, Work::Repack] {
            let after = bench.prepare(work);
            let start = Instant::now();
            let status = bench.worker(work).status().unwrap();
            assert!(status.success(), "{work:?}: {status}");
            bench.whole.insert(work, start.elapsed());
            bench.held = after;
        }
        bench
    }

    fn source(&self) -> PathBuf {
        self.scratch.path().join("checkpoint")
    }

    /// Makes all ready for some work, and tells what stands once it is done.
    fn prepare(&mut self, work: Work) -> Held {
        let mut after = self.held.clone();
        match work {
            Work::Save => {
                train(&mut self.state, &mut self.rng);
                self.step += 1;
                let checkpoint = Checkpoint::new(&self.state, self.step);
                checkpoint.write(&self.source());
                after.add(self.step, &checkpoint);
            }
            Work::Forget => after.keep_last(KEPT),
            Work::Gc | Work::Repack => {}
        }
        after
    }

    fn worker(&self, work: Work) -> Command {
        let place = self.place.to_str().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        match work {
            Work::Save => command
                .args(["save", place, "run", &self.step.to_string()])
                .arg(self.source()),
            Work::Forget => command.args(["forget", place, "run", &KEPT.to_string()]),
            Work::Gc => command.args(["gc", place]),
            Work::Repack => command.args(["repack", place]),
        };
        command
            .env("TPDE_CACHE_DIR", &self.cache)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// What to do, and when to kill who does it.
    fn draw(&mut self, store: &Store) -> (Work, Moment) {
        // A gc with nothing to do is a look.
        let has_garbage = self.collected + 3 < self.step;
        let work = match self.rng.below(12) {
            0 | 1 if self.held.len() > KEPT => Work::Forget,
            2..5 if has_garbage => Work::Gc,
            5 => Work::Repack,
            _ => Work::Save,
        };
        let whole = self.whole[&work];
        let records = history::log(store.objects(), &run()).unwrap().records().len();
        let rng = &mut self.rng;
        let soon = within(rng, whole / 16);
        let moment = match (work, rng.below(6)) {
            (Work::Save, _) if records == ROLLUP_EVERY => Moment::Begun("rollups", soon),
            (Work::Save, 2) | (Work::Repack, 2 | 3) => Moment::Begun("packs", soon),
            (Work::Save, 3) => Moment::Begun("manifests", soon),
            (Work::Save, 4) | (Work::Forget, 2 | 3) => Moment::Begun("runs", soon),
            (Work::Save | Work::Forget, 5) => Moment::Done("runs", Duration::ZERO),
            (Work::Repack, 4 | 5) => Moment::Done("packs", soon),
            (Work::Gc, 2) => Moment::Begun("gc", soon),
            (Work::Gc, 3 | 4) => Moment::Gone("packs", Duration::ZERO),
            (Work::Gc, 5) => Moment::Gone("manifests", Duration::ZERO),
            _ => Moment::After(within(rng, whole)),
        };
        (work, moment)
    }

    /// Opens the store as a new process would, whatever became of the index.
    fn open(&mut self) -> Store {
        // A process that was killed early has made none.
        if self.rng.below(4) == 0 && self.cache.exists() {
            fs::remove_dir_all(&self.cache).unwrap();
        }
        let index = (self.rng.below(4) != 0).then_some(self.cache.as_path());
        open_store(&self.place, index).unwrap()
    }

    /// Kills a process at some work, looks at what it left, and does the work.
    fn round(&mut self, number: u64, outcomes: &mut Outcomes) {
        let (work, moment) = self.draw(&open_store(&self.place, None).unwrap());
        let after = self.prepare(work);
        let files = names_below(&self.place, true);
        let had = moment.files(&self.place);
        let mut child = self.worker(work).spawn().unwrap();
        moment.wait(&mut child, &self.place, had);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let context = format!("seed {SEED}, round {number}, {work:?}, {moment:?}, {status}");
        assert!(status.success() || status.signal() == Some(9), "{context}");

        let store = self.open();
        let is_new = after.is_what_stands(&store).unwrap();
        let is_old = self.held.is_what_stands(&store).unwrap();
        assert!(is_new || is_old, "{context}: neither the old log nor the new one");
        assert!(is_new || !status.success(), "{context}: acknowledged and lost");
        let left = left(status, is_new && !is_old, || {
            names_below(&self.place, true) != files
        });
        *outcomes.entry((work, left)).or_default() += 1;
        assert_eq!(verify(&store, VerifyLevel::Quick).problems, [], "{context}");

        self.finish(work, &store, is_new)
            .unwrap_or_else(|e| panic!("{context}: {e}"));
        self.held = after;
        if work == Work::Gc {
            self.collected = self.step;
        }
        assert!(self.held.is_what_stands(&store).unwrap(), "{context}");
        if work != Work::Save || number.is_multiple_of(10) {
            assert_eq!(verify(&store, VerifyLevel::Restore).problems, [], "{context}");
            self.held.some_come_back(&store, &mut self.rng, &context);
        }
    }

    /// Does the work that was cut short.
    fn finish(&self, work: Work, store: &Store, is_new: bool) -> Result<(), StoreError> {
        match work {
            Work::Save => {
                let report = save(store, &self.source(), self.step)?;
                assert_eq!(report.already_there, is_new);
            }
            Work::Forget => {
                let policy = Policy {
                    last: Some(KEPT as u64),
                    ..Policy::default()
                };
                store.prune(&run(), &policy, now_unix_ms())?;
            }
            Work::Gc => {
                // The leases of the dead are given up at once.
                let now = GcRequest {
                    grace: Duration::ZERO,
                    lease_limit: Duration::ZERO,
                    patience: None,
                };
                store.gc(&now, &Silent)?;
            }
            Work::Repack => drop(store.repack(&RepackRequest::default(), &Silent)?),
        }
        Ok(())
    }
}

fn left(status: ExitStatus, is_new: bool, has_traces: impl FnOnce() -> bool) -> Left {
    match status.signal() {
        None => Left::Ended,
        Some(_) if is_new => Left::Done,
        Some(_) if has_traces() => Left::Traces,
        Some(_) => Left::Nothing,
    }
}

#[test]
fn a_killed_writer_leaves_the_old_run_or_the_new_one() {
    // Promise: kill -9 at any moment of a save, forget, gc or repack leaves the run as it was or as it was to be, never a mix;
    // nothing that was acknowledged is lost, and the same again works; across a rollup, and whatever became of the index.
    let (stores, rounds) = if soak() { (4, 300) } else { (1, 100) };
    let mut outcomes = Outcomes::new();
    for number in 0..stores {
        let mut bench = Bench::new(SEED + number);
        for round in 1..=rounds {
            bench.round(round, &mut outcomes);
        }
        let store = open_store(&bench.place, None).unwrap();
        let records = history::check_chain(store.objects(), &run()).unwrap();
        assert!(
            records > 1 + ROLLUP_EVERY as u64,
            "no rollup was crossed: {records}"
        );
        bench.held.all_come_back(&store);
        println!("store {number}: {rounds} rounds, {records} records");
    }
    println!("{} kills: {outcomes:?}", stores * rounds);
    // The test says nothing unless the kills hit before, between and after.
    let all = u32::try_from(stores * rounds).unwrap();
    let hit = |work, left| outcomes.get(&(work, left)).copied().unwrap_or(0);
    assert!(hit(Work::Save, Left::Nothing) >= all / 40, "{outcomes:?}");
    assert!(hit(Work::Save, Left::Traces) >= all / 20, "{outcomes:?}");
    assert!(hit(Work::Save, Left::Done) >= all / 40, "{outcomes:?}");
    assert!(hit(Work::Gc, Left::Traces) >= all / 40, "{outcomes:?}");
    assert!(
        hit(Work::Forget, Left::Done) + hit(Work::Forget, Left::Traces) >= all / 120,
        "{outcomes:?}"
    );
    assert!(hit(Work::Repack, Left::Traces) >= all / 120, "{outcomes:?}");
}
