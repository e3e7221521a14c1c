//! A process that dies while it saves.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tpde_store::{VerifyLevel, history};
use tpde_tests::{
    Rng, assert_same_tree, make_store, open_store, restore, run, save, train, training_state, verify,
};

const SEED: u64 = 1;
const STORES: usize = 4;
const ROUNDS_PER_STORE: u64 = 50;

/// When the process is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// So long after something new lies in this folder of the store, be it still under a temporary name.
    BegunIn(&'static str, Duration),
    /// So long after a new object lies in this folder of the store.
    DoneIn(&'static str, Duration),
}

impl Moment {
    /// The number that tells that it has come, by being larger than it was.
    fn files(self, place: &Path) -> usize {
        match self {
            Self::After(_) => 0,
            Self::BegunIn(folder, _) => files_below(&place.join(folder), true),
            Self::DoneIn(folder, _) => files_below(&place.join(folder), false),
        }
    }
}

/// What a killed process had done.
#[derive(Debug, Default)]
struct Outcomes {
    /// Nothing that can be seen.
    nothing: u32,
    /// New objects, no commit.
    orphans: u32,
    /// The commit.
    committed: u32,
    /// All of it: it ended before the signal came.
    ended: u32,
}

fn worker(place: &Path, cache: &Path, step: u64, source: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command
        .args(["save", place.to_str().unwrap(), "run", &step.to_string()])
        .arg(source)
        .env("TPDE_CACHE_DIR", cache)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// How many files lie below `folder`: all, or those that have their own name already.
fn files_below(folder: &Path, temporary_too: bool) -> usize {
    let mut count = 0;
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        // A temporary file may go while we look.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ if temporary_too || !entry.file_name().to_string_lossy().contains('#') => count += 1,
                _ => {}
            }
        }
    }
    count
}

/// Waits, busily, until the moment has come or the process has ended.
fn wait(child: &mut Child, place: &Path, moment: Moment, had: usize) {
    let spin = |child: &mut Child, time: Duration| {
        let start = Instant::now();
        while start.elapsed() < time && child.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
    };
    match moment {
        Moment::After(time) => spin(child, time),
        Moment::BegunIn(_, then) | Moment::DoneIn(_, then) => {
            while moment.files(place) <= had && child.try_wait().unwrap().is_none() {}
            spin(child, then);
        }
    }
}

fn write_checkpoint(dir: &Path, state: &[u8], step: u64) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("state.safetensors"), state).unwrap();
    fs::write(dir.join("trainer.json"), format!("{{\"global_step\": {step}}}")).unwrap();
}

#[test]
fn a_killed_save_leaves_the_old_checkpoint_or_the_new_one() {
    // Promise: kill -9 at any moment of a save leaves the run as it was or with the whole new checkpoint, never a mix, and
    // the next save works; whatever became of the index.
    let mut rng = Rng::new(SEED);
    let mut state = training_state();
    let mut outcomes = Outcomes::default();
    for _ in 0..STORES {
        let scratch = tempfile::tempdir().unwrap();
        let (place, cache) = (scratch.path().join("store"), scratch.path().join("cache"));
        make_store(&place);
        let source = |step: u64| scratch.path().join(format!("checkpoint{}", step % 2));

        // How long an undisturbed save takes: the kills are spread over that.
        train(&mut state, &mut rng);
        write_checkpoint(&source(0), &state, 0);
        let start = Instant::now();
        assert!(worker(&place, &cache, 0, &source(0)).status().unwrap().success());
        let whole = start.elapsed();

        for step in 1..=ROUNDS_PER_STORE {
            train(&mut state, &mut rng);
            write_checkpoint(&source(step), &state, step);
            let micros = |rng: &mut Rng, most: Duration| {
                Duration::from_micros(rng.draw() % u64::try_from(most.as_micros() + 1).unwrap())
            };
            let moment = match rng.below(6) {
                0 | 1 => Moment::After(micros(&mut rng, whole)),
                2 => Moment::BegunIn("packs", micros(&mut rng, whole / 16)),
                3 => Moment::BegunIn("manifests", micros(&mut rng, whole / 16)),
                4 => Moment::BegunIn("runs", micros(&mut rng, whole / 16)),
                _ => Moment::DoneIn("runs", Duration::ZERO),
            };
            let all_before = files_below(&place, true);
            let had = moment.files(&place);
            let mut child = worker(&place, &cache, step, &source(step)).spawn().unwrap();
            wait(&mut child, &place, moment, had);
            child.kill().unwrap();
            let status = child.wait().unwrap();
            let context = format!("seed {SEED}, step {step}, {moment:?}, {status}, so far {outcomes:?}");
            assert!(status.success() || status.signal() == Some(9), "{context}");

            // A process that was killed early has made none.
            if rng.below(4) == 0 && cache.exists() {
                fs::remove_dir_all(&cache).unwrap();
            }
            let index: Option<&PathBuf> = Some(&cache).filter(|_| rng.below(4) != 0);
            let store = open_store(&place, index.map(PathBuf::as_path)).unwrap();
            let newest = history::newest_of(store.objects(), &run()).unwrap().slot;
            assert_eq!(newest.seq, newest.step, "{context}");
            let committed = newest.step == step;
            assert!(committed || newest.step == step - 1, "{context}");
            match status.signal() {
                None => outcomes.ended += 1,
                Some(_) if committed => outcomes.committed += 1,
                Some(_) if files_below(&place, true) > all_before => outcomes.orphans += 1,
                Some(_) => outcomes.nothing += 1,
            }
            assert!(committed || !status.success(), "{context}");
            assert_eq!(verify(&store, VerifyLevel::Quick).problems, [], "{context}");
            if step % 20 == 0 {
                let back = scratch.path().join("back");
                restore(&store, "run", &back).unwrap();
                assert_same_tree(&source(newest.step), &back, &context);
                fs::remove_dir_all(&back).unwrap();
                assert_eq!(verify(&store, VerifyLevel::Restore).problems, [], "{context}");
            }
            let report = save(&store, &source(step), step).unwrap();
            assert_eq!((report.seq, report.already_there), (step, committed), "{context}");
        }
        let store = open_store(&place, None).unwrap();
        assert_eq!(
            history::check_chain(store.objects(), &run()).unwrap(),
            ROUNDS_PER_STORE + 1
        );
        let back = scratch.path().join("back");
        restore(&store, "run", &back).unwrap();
        assert_same_tree(&source(ROUNDS_PER_STORE), &back, "the newest at the end");
        assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);
    }
    println!("kills: {outcomes:?}");
    // The test says nothing unless the kills hit before, between and after.
    assert!(outcomes.nothing >= 10, "{outcomes:?}");
    assert!(outcomes.orphans >= 20, "{outcomes:?}");
    assert!(outcomes.committed >= 10, "{outcomes:?}");
}
