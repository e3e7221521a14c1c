//! Many processes that commit to one run at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tpde_store::{VerifyLevel, history};
use tpde_tests::{
    Rng, assert_same_tree, bf16_weights, make_store, restore, run, soak, verify, write_safetensors,
};

const PROCESSES: u64 = 16;
/// Together more than one rollup's worth, so that rollups are raced for too.
const COMMITS_EACH: u64 = 17;
/// Exit code of the worker for `Conflict`.
const CONFLICT: i32 = 3;

/// Starts a process for each list of arguments, lets all begin at once, and waits for them.
fn at_once(commands: impl Iterator<Item = Vec<String>>) -> Vec<Output> {
    let mut children: Vec<Child> = commands
        .map(|args| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
            command
                .args(args)
                .env_remove("TPDE_CACHE_DIR")
                .stdin(Stdio::piped());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    // They begin when their input ends.
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    children
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect()
}

fn succeeded(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

/// `(committed or already, seq, manifest)` of every save that a worker tells of.
fn told(output: &Output) -> Vec<(String, u64, String)> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [how @ ("committed" | "already"), seq, manifest, _] = words[..] else {
                return None;
            };
            Some((how.to_owned(), seq.parse().unwrap(), manifest.to_owned()))
        })
        .collect()
}

fn write_checkpoint(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    let weights = bf16_weights(&mut Rng::new(seed), 3000);
    write_safetensors(&dir.join("m.safetensors"), &[("w", "BF16", vec![3000], weights)]);
}

#[test]
fn no_commit_is_lost() {
    // Promise: of racing processes each commit gets a slot of its own, none is lost, slots have no gaps, and each names the
    // one before it, across a rollup too.
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("store");
    let store = make_store(&place);
    let outputs = at_once((0..PROCESSES).map(|id| {
        let place = place.to_str().unwrap().to_owned();
        vec![
            "race".into(),
            place,
            "run".into(),
            COMMITS_EACH.to_string(),
            id.to_string(),
        ]
    }));
    let mut expected = BTreeMap::new();
    for (id, output) in (0..).zip(&outputs) {
        succeeded(output);
        let saves = told(output);
        assert_eq!(saves.len() as u64, COMMITS_EACH);
        for (i, (how, seq, manifest)) in (0..).zip(saves) {
            assert_eq!(how, "committed");
            let before = expected.insert(seq, (id * 1000 + i, manifest));
            assert_eq!(before, None, "two processes were told commit {seq}");
        }
    }
    let log = history::log(store.objects(), &run()).unwrap();
    let log = log.records();
    let found: BTreeMap<_, _> = log
        .iter()
        .map(|s| (s.seq, (s.step, s.manifest.to_hex())))
        .collect();
    assert_eq!(found, expected);
    let total = PROCESSES * COMMITS_EACH;
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        (0..total).collect::<Vec<_>>()
    );
    assert_eq!(history::check_chain(store.objects(), &run()).unwrap(), total);
    assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);
    // They did race: one process after another would change hands fifteen times.
    let hands = log
        .windows(2)
        .filter(|pair| pair[0].step / 1000 != pair[1].step / 1000);
    let hands = hands.count();
    println!("{total} commits changed hands {hands} times");
    assert!(hands as u64 > 2 * PROCESSES, "{hands}");
}

#[test]
fn one_step_is_committed_once() {
    // Promise: of processes that save one step at once, with the same content, one commits and the others are told that it
    // is there; with different content one wins and the others get a conflict.
    let rounds = if soak() { 50 } else { 4 };
    for round in 0..rounds {
        for differ in [false, true] {
            let scratch = tempfile::tempdir().unwrap();
            let place = scratch.path().join("store");
            let store = make_store(&place);
            let source = |id: u64| {
                scratch
                    .path()
                    .join(format!("checkpoint{}", if differ { id } else { 0 }))
            };
            (0..PROCESSES).for_each(|id| write_checkpoint(&source(id), round * 100 + id * u64::from(differ)));
            let outputs = at_once((0..PROCESSES).map(|id| {
                let place = place.to_str().unwrap().to_owned();
                let source = source(id).to_str().unwrap().to_owned();
                vec!["save".into(), place, "run".into(), "7".into(), source]
            }));
            let mut winners = Vec::new();
            for (id, output) in (0..).zip(&outputs) {
                let text = String::from_utf8_lossy(&output.stderr);
                match (&told(output)[..], output.status.code()) {
                    ([(how, 0, _)], Some(0)) if how == "committed" => winners.push(id),
                    ([(how, 0, _)], Some(0)) => assert!(how == "already" && !differ, "{how}"),
                    ([], Some(CONFLICT)) => {
                        assert!(differ, "{text}");
                        assert!(text.contains("step 7") && text.contains("--replace"), "{text}");
                    }
                    other => panic!("{other:?}: {text}"),
                }
            }
            assert_eq!(winners.len(), 1, "differ: {differ}");
            assert_eq!(history::log(store.objects(), &run()).unwrap().records().len(), 1);
            assert_eq!(history::check_chain(store.objects(), &run()).unwrap(), 1);
            let back = scratch.path().join("back");
            restore(&store, "run@7", &back).unwrap();
            assert_same_tree(&source(winners[0]), &back, "the winner's content");
        }
    }
    println!(
        "{rounds} races of {PROCESSES} with one content, and as many with different ones: one winner each"
    );
}
