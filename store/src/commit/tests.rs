//! The commit under races, lost answers and refusals.

use crate::metrics::Metrics;
use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::faults::{Fault, FaultStore, Plan};
use crate::history::tests::{fabricate, step_of};
use crate::history::{check_chain, log};

fn run() -> RunName {
    "llama".parse().unwrap()
}

fn new(step: u64, content: &str) -> NewCommit {
    NewCommit {
        metrics: Metrics::default(),
        manifest: ManifestId::of(content.as_bytes()),
        fingerprint: Fingerprint::of(content.as_bytes()),
        step,
        nonce: Nonce::random().unwrap(),
        created_unix_ms: 1_700_000_000_000,
        totals: Totals::default(),
    }
}

fn committed(seq: u64) -> Outcome {
    Outcome::Committed { seq }
}

fn there(seq: u64) -> Outcome {
    Outcome::AlreadyThere { seq }
}

const PLAIN: CommitOptions = CommitOptions {
    replace: false,
    expect_parent: ExpectParent::Any,
};
const REPLACE: CommitOptions = CommitOptions {
    replace: true,
    expect_parent: ExpectParent::Any,
};

/// Promise: a step stands for one content, unless it is replaced; then the newest commit of the step counts.
#[test]
fn a_step_has_one_content() {
    let objects = Objects::memory();
    let put = |step, content: &str, options| commit(&objects, &run(), &new(step, content), options);
    assert_eq!(put(1, "a", &PLAIN).unwrap(), committed(0));
    assert_eq!(put(1, "a", &PLAIN).unwrap(), there(0));
    assert_eq!(put(2, "b", &PLAIN).unwrap(), committed(1));
    assert_eq!(put(1, "a", &PLAIN).unwrap(), there(0));
    let error = put(1, "c", &PLAIN).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert!(error.to_string().contains("--replace"), "{error}");
    assert_eq!(put(1, "c", &REPLACE).unwrap(), committed(2));
    assert_eq!(put(1, "c", &PLAIN).unwrap(), there(2));
    assert!(matches!(put(1, "a", &PLAIN), Err(StoreError::Conflict { .. })));
    assert_eq!(put(1, "a", &REPLACE).unwrap(), committed(3));
    assert_eq!(check_chain(&objects, &run()).unwrap(), 4);
}

/// Promise: a step that only an old rollup remembers is found, and newer steps do not pay for the search.
#[test]
fn steps_in_rollups_are_found() {
    let faults = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(faults.clone());
    fabricate(&objects, &run(), 700);
    let same = NewCommit {
        fingerprint: Fingerprint::of(&3u64.to_le_bytes()),
        ..new(step_of(3), "x")
    };
    assert_eq!(commit(&objects, &run(), &same, &PLAIN).unwrap(), there(3));
    let other = commit(&objects, &run(), &new(step_of(3), "x"), &PLAIN);
    assert!(matches!(other, Err(StoreError::Conflict { .. })));
    let before = faults.requests();
    assert_eq!(
        commit(&objects, &run(), &new(1 << 40, "y"), &PLAIN).unwrap(),
        committed(700)
    );
    assert_eq!(faults.requests() - before, 3, "list, get, create");
    // A step below the largest that is in no rollup is committed.
    assert_eq!(
        commit(&objects, &run(), &new(5, "z"), &PLAIN).unwrap(),
        committed(701)
    );
    assert_eq!(check_chain(&objects, &run()).unwrap(), 702);
}

/// Promise: commits across two rollups read back whole.
#[test]
fn commits_roll_up() {
    let objects = Objects::memory();
    for step in 0..600 {
        let outcome = commit(&objects, &run(), &new(step, &step.to_string()), &PLAIN).unwrap();
        assert_eq!(outcome, committed(step));
    }
    assert_eq!(check_chain(&objects, &run()).unwrap(), 600);
    let rollups = objects
        .list_newest(&crate::keys::Prefix::Rollups(run()), 9)
        .unwrap();
    assert_eq!(rollups, [Key::Rollup(run(), 511), Key::Rollup(run(), 255)]);
}

/// Promise: an expected parent is honoured.
#[test]
fn expected_parents() {
    let objects = Objects::memory();
    let expecting = |expect_parent| CommitOptions {
        replace: false,
        expect_parent,
    };
    let a = new(1, "a");
    let none = expecting(ExpectParent::NoCommits);
    assert_eq!(commit(&objects, &run(), &a, &none).unwrap(), committed(0));
    let error = commit(&objects, &run(), &new(2, "b"), &none).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let right = expecting(ExpectParent::Newest(a.manifest));
    assert_eq!(
        commit(&objects, &run(), &new(2, "b"), &right).unwrap(),
        committed(1)
    );
    assert!(commit(&objects, &run(), &new(3, "c"), &right).is_err());
    // The same commit again is there, whatever came after it.
    assert_eq!(commit(&objects, &run(), &new(2, "b"), &right).unwrap(), there(1));
}

/// Promise: whichever request fails, in whichever way and for however long, an `Ok` is true, an error says no more
/// than it knows, and committing again gives exactly one commit.
#[test]
fn faults_at_every_request() {
    // 256 commits before, so that the commit under test writes a rollup.
    for before in [0, 3, 256] {
        for fault in [Fault::LostRequest, Fault::LostResponse, Fault::Refused] {
            for len in [1, 2, usize::MAX] {
                for from in 0.. {
                    if !one_fault(before, Plan { fault, from, len }) {
                        assert!(from >= 2, "the plan never hit");
                        break;
                    }
                }
            }
        }
    }
}

/// Promise: a refusal that is not true, as of a disk that fails after the file is in place, is looked up.
#[test]
fn a_false_refusal_is_looked_up() {
    let fault = Fault::FalseRefusal;
    for from in 0.. {
        if !one_fault(3, Plan { fault, from, len: 1 }) {
            assert!(from > 2, "the create was among them");
            break;
        }
    }
}

/// Runs one commit under `plan`; `false` if it was over before the first fault.
fn one_fault(before: u64, plan: Plan) -> bool {
    let faults = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(faults.clone());
    fabricate(&objects, &run(), before);
    let wanted = new(1 << 40, "wanted");
    let start = faults.requests();
    faults.plan(Some(plan));
    let first = commit(&objects, &run(), &wanted, &PLAIN);
    let hit = faults.requests() - start > plan.from;
    faults.plan(None);
    let landed = |objects: &Objects| {
        history::newest(objects, &run())
            .unwrap()
            .is_some_and(|n| n.slot.nonce == wanted.nonce)
    };
    match &first {
        Ok(outcome) => {
            assert_eq!(*outcome, committed(before), "{plan:?}");
            assert!(landed(&objects), "{plan:?}: said to be committed, and is not");
        }
        Err(StoreError::OutcomeUnknown { hint, .. }) => assert!(hint.contains("tpde log llama")),
        Err(StoreError::Backend { .. }) => {
            assert!(!landed(&objects), "{plan:?}: said to have failed, and is there");
        }
        Err(error) => panic!("{plan:?}: {error}"),
    }
    // A single lost or false answer to the create itself is looked up, not reported.
    if plan.len == 1 && landed(&objects) {
        assert!(first.is_ok(), "{plan:?}");
    }
    let again = commit(&objects, &run(), &wanted, &PLAIN).unwrap();
    assert!(
        again == committed(before) || again == there(before),
        "{plan:?}: {again:?}"
    );
    assert_eq!(check_chain(&objects, &run()).unwrap(), before + 1, "{plan:?}");
    hit
}

/// Promise: a lost answer with a rival in the slot is a lost race, not a commit.
#[test]
fn a_rival_is_not_mistaken_for_us() {
    let objects = Objects::memory();
    let rival = new(1, "rival");
    commit(&objects, &run(), &rival, &PLAIN).unwrap();
    let key = Key::Slot(run(), 0);
    let ours = Bytes::from_static(b"ours");
    let claimed = claim(&objects, &key, &ours, "", |found| Ok(*found == ours)).unwrap();
    assert!(matches!(claimed, Claim::Taken(_)));
}

/// Sixteen writers race with `each` commits; every third step is wanted by all of them with the same content.
fn race(objects: &Objects, each: u64) {
    const WRITERS: u64 = 16;
    let wins: Vec<Vec<Outcome>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    (0..each)
                        .map(|i| {
                            let shared = i % 3 == 2;
                            let step = if shared { i } else { 1000 + i * WRITERS + writer };
                            commit(objects, &run(), &new(step, &step.to_string()), &PLAIN).unwrap()
                        })
                        .collect()
                })
            })
            .collect();
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let mut won = HashSet::new();
    let mut found = HashSet::new();
    for outcome in wins.iter().flatten() {
        match *outcome {
            Outcome::Committed { seq } => assert!(won.insert(seq), "slot {seq} was won twice"),
            Outcome::AlreadyThere { seq } => {
                found.insert(seq);
            }
        }
    }
    assert!(found.is_subset(&won));
    let shared = each / 3;
    let total = (each - shared) * WRITERS + shared;
    assert_eq!(won.len() as u64, total, "every step is committed exactly once");
    assert_eq!(won, (0..total).collect());
    assert_eq!(check_chain(objects, &run()).unwrap(), total);
    let steps: HashSet<u64> = log(objects, &run()).unwrap().commits().map(|s| s.step).collect();
    assert_eq!(steps.len() as u64, total);
}

/// Promise: sixteen racing writers lose nothing and double nothing, across rollups too.
#[test]
fn races_in_memory() {
    race(&Objects::memory(), 24);
}

/// Promise: the same on a disk.
#[test]
fn races_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    race(&Objects::open(dir.path().to_str().unwrap()).unwrap(), 3);
}

/// Promise: of racing writers of one step with different contents exactly one wins.
#[test]
fn one_content_wins() {
    let objects = Objects::memory();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|w| {
                let objects = &objects;
                scope.spawn(move || commit(objects, &run(), &new(1, &format!("by {w}")), &PLAIN))
            })
            .collect();
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let winners = outcomes.iter().filter(|o| o.is_ok()).count();
    let losers = outcomes
        .iter()
        .filter(|o| matches!(o, Err(StoreError::Conflict { .. })))
        .count();
    assert_eq!((winners, losers), (1, 15));
}
