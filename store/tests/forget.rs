//! Forgetting and taking it back.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tpde_store::forget::{Plan, Policy, Selection};
use tpde_store::{Metrics, Objects, RunName, SaveRequest, Silent, Store, StoreError, config, history, tags};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

fn run() -> RunName {
    "run".parse().unwrap()
}

/// A run of `steps` checkpoints, ten steps apart; its losses are 5, 3, 1, 2, 4 and again.
fn a_run(dir: &Path, steps: u64) -> Store {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let store = Store::over(objects, None).unwrap();
    let mut bytes = weights(9_000, 1);
    for at in 0..steps {
        bytes[2 * at as usize] ^= 1;
        let out = dir.join(at.to_string());
        fs::create_dir(&out).unwrap();
        safetensors(
            &out.join("m.safetensors"),
            &[("w", "BF16", vec![9_000], bytes.clone())],
        );
        let mut request = SaveRequest::new(&out, run(), 10 * at);
        let loss = [5, 3, 1, 2, 4][at as usize % 5];
        request.metrics = Metrics::new(vec![format!("loss={loss}").parse().unwrap()]).unwrap();
        store.save(&request, &Silent).unwrap();
    }
    store
}

fn plan(store: &Store, policy: Policy) -> Plan {
    store
        .plan_forget(&run(), &Selection::Policy(policy), u64::MAX)
        .unwrap()
}

fn kept(plan: &Plan) -> Vec<u64> {
    plan.keep.iter().map(|kept| kept.commit.seq).collect()
}

fn steps(store: &Store) -> Vec<u64> {
    let log = history::log(store.objects(), &run()).unwrap();
    log.commits().map(|commit| commit.step).collect()
}

/// Promise: each rule keeps what it says, together they keep the union, and the newest stays in any case.
#[test]
fn rules() {
    let dir = tempfile::tempdir().unwrap();
    let store = a_run(dir.path(), 10);
    let none = Policy::default;
    let tagged = store.resolve("run@10").unwrap();
    let place = tagged.place.unwrap();
    let target = tags::Target {
        manifest: tagged.manifest,
        run: place.run,
        seq: place.seq,
        step: place.step,
    };
    store.tag(&"good".parse().unwrap(), &target, false, 1).unwrap();
    for (policy, expected) in [
        (
            Policy {
                last: Some(3),
                ..none()
            },
            vec![7, 8, 9],
        ),
        (
            Policy {
                every: Some(40),
                ..none()
            },
            vec![0, 4, 8, 9],
        ),
        (
            Policy {
                best: vec!["loss:3".parse().unwrap()],
                ..none()
            },
            vec![2, 7, 8, 9],
        ),
        (
            Policy {
                best: vec!["loss:1:max".parse().unwrap()],
                ..none()
            },
            vec![5, 9],
        ),
        (Policy { tags: true, ..none() }, vec![1, 9]),
        (
            Policy {
                within: Some(Duration::from_secs(1)),
                ..none()
            },
            vec![9],
        ),
        (
            Policy {
                last: Some(1),
                every: Some(50),
                tags: true,
                ..none()
            },
            vec![0, 1, 5, 9],
        ),
    ] {
        let plan = plan(&store, policy.clone());
        assert_eq!(kept(&plan), expected, "{policy:?}");
        assert_eq!(plan.forget.len() + plan.keep.len(), 10);
    }
    let young = store.plan_forget(
        &run(),
        &Selection::Policy(Policy {
            within: Some(Duration::from_secs(3600)),
            ..none()
        }),
        history::log(store.objects(), &run()).unwrap().records()[9].created_unix_ms,
    );
    assert_eq!(kept(&young.unwrap()).len(), 10);
    let refused = |policy| {
        store
            .plan_forget(&run(), &Selection::Policy(policy), 0)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(none()).contains("--keep-last"));
    assert!(
        refused(Policy {
            last: Some(0),
            ..none()
        })
        .contains("from 1 on")
    );
    assert!(
        refused(Policy {
            best: vec!["acc:2".parse().unwrap()],
            ..none()
        })
        .contains("There are: loss")
    );
    assert_eq!(steps(&store).len(), 10, "a plan changes nothing");
}

/// Promise: what is forgotten is not found any more, its step can be saved again, undo brings it back byte for byte, and nothing
/// else changes.
#[test]
fn there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = a_run(dir.path(), 20);
    let before = history::log(store.objects(), &run()).unwrap();
    let going = plan(
        &store,
        Policy {
            last: Some(2),
            every: Some(100),
            ..Policy::default()
        },
    );
    assert!(
        going.forget.len() == 16 && going.reclaimable_bytes > 0,
        "{going:?}"
    );
    let forgotten = store.forget(&going, 7).unwrap();
    assert_eq!(forgotten.records, [20]);
    assert_eq!(steps(&store), [0, 100, 180, 190]);
    assert_eq!(store.resolve("run~1").unwrap().place.unwrap().step, 180);
    let error = store.resolve("run@50").unwrap_err();
    assert!(error.to_string().contains("tpde undo run"), "{error}");

    // The step is free again, and the run goes on.
    save(&store, &dir.path().join("5"), 50).unwrap();
    save(&store, &dir.path().join("19"), 200).unwrap();
    assert_eq!(steps(&store), [0, 100, 180, 190, 50, 200]);

    let undone = store.undo(&run(), 8).unwrap();
    assert_eq!((undone.back.len(), undone.lost.len()), (16, 0));
    for at in [3, 5, 12] {
        let back = dir.path().join(format!("back{at}"));
        restore(&store, &format!("run@{}", 10 * at), &back).unwrap();
        same_tree(&dir.path().join(at.to_string()), &back);
    }
    let log = history::log(store.objects(), &run()).unwrap();
    assert_eq!(log.records()[..20], *before.records());
    assert!(log.forgotten().next().is_none());
    assert_eq!(history::check_chain(store.objects(), &run()).unwrap(), 24);
    let error = store.undo(&run(), 9).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
}

/// Promise: checkpoints that are named are forgotten, the newest too; then the run has none, and says so; a name that stands for
/// nothing is refused.
#[test]
fn by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = a_run(dir.path(), 3);
    let named = |seqs: &[u64]| Selection::Commits(seqs.iter().copied().collect::<BTreeSet<u64>>());
    let plan = store.plan_forget(&run(), &named(&[0, 1, 2]), 0).unwrap();
    store.forget(&plan, 1).unwrap();
    let error = store.resolve("run").unwrap_err();
    assert!(error.to_string().contains("tpde undo run"), "{error}");
    let error = store.plan_forget(&run(), &named(&[1]), 0).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    // Saved again, it is the run's only one.
    save(&store, &dir.path().join("1"), 10).unwrap();
    assert_eq!(steps(&store), [10]);
}
