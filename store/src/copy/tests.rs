//! Copies whose requests fail.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::*;
use crate::config;
use crate::faults::{Fault, FaultStore, Plan};
use crate::keys::{Key, Prefix};
use crate::objects::Objects;
use crate::pack::read_entries;
use crate::progress::Silent;
use crate::save::SaveRequest;
use crate::verify::{VerifyLevel, VerifyRequest};

fn empty(objects: Objects) -> Store {
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

/// A store with a run of `steps` small checkpoints, each a difference from the one before.
fn a_run(steps: u64) -> Store {
    let store = empty(Objects::memory());
    let dir = tempfile::tempdir().unwrap();
    for step in 0..steps {
        let text: String = (0..400)
            .map(|line| format!("line {line} {}\n", line * 7 % (step + 3)))
            .collect();
        fs::write(dir.path().join("a.txt"), text).unwrap();
        fs::write(dir.path().join("b.txt"), "always the same").unwrap();
        let request = SaveRequest::new(dir.path(), "run".parse().unwrap(), step);
        store.save(&request, &Silent).unwrap();
    }
    store
}

/// Whether the target has every step once, in order and whole, and every piece once.
fn is_complete(objects: &Objects, steps: u64) {
    let target = Store::over(objects.clone(), None).unwrap();
    let log = history::log(objects, &"run".parse().unwrap()).unwrap();
    assert!(log.commits().map(|commit| commit.step).eq(0..steps));
    let request = VerifyRequest {
        level: VerifyLevel::Restore,
        only: None,
    };
    assert_eq!(target.verify(&request, &Silent).unwrap().problems, []);
    let mut pieces = HashMap::new();
    for listed in objects.list(&Prefix::Packs).unwrap() {
        let Key::Pack(pack) = listed.key else { continue };
        // The first is the lease that the pack was written under.
        for entry in read_entries(objects, pack).unwrap().into_iter().skip(1) {
            assert_eq!(pieces.insert((entry.id, entry.part(0)), pack), None, "sent twice");
        }
    }
}

/// Promise: whichever request to the target fails, and however, the same copy again completes it and sends nothing twice; what a failed
/// copy did commit is whole.
#[test]
fn faults_at_every_request() {
    const STEPS: u64 = 3;
    let source = a_run(STEPS);
    let request = CopyRequest::default();
    for fault in [
        Fault::LostRequest,
        Fault::LostResponse,
        Fault::Refused,
        Fault::FalseRefusal,
    ] {
        let mut from = 0;
        loop {
            let faults = Arc::new(FaultStore::new());
            let objects = Objects::wrapping(faults.clone());
            let target = empty(objects.clone());
            let start = faults.requests();
            faults.plan(Some(Plan { fault, from, len: 1 }));
            let first = copy(&source, &target, &request, &Silent);
            let was_hit = faults.requests() - start > from;
            faults.plan(None);
            let whole = Store::over(objects.clone(), None).unwrap();
            assert_eq!(
                whole.verify(&VerifyRequest::default(), &Silent).unwrap().problems,
                []
            );
            if first.is_err() {
                copy(&source, &whole, &request, &Silent).unwrap();
            }
            is_complete(&objects, STEPS);
            if !was_hit {
                assert!(from > 20, "{from}");
                break;
            }
            from += 1;
        }
    }
}

/// Promise: many short checkpoints are copied a few at a time, each into packs of its own, and what one brought the next relies on.
#[test]
fn a_long_run() {
    let steps = 2 * BATCH as u64 + 3;
    let source = a_run(steps);
    let target = empty(Objects::memory());
    let report = copy(&source, &target, &CopyRequest::default(), &Silent).unwrap();
    assert_eq!(report.packs, steps);
    is_complete(target.objects(), steps);
    let packs = target.objects().list(&Prefix::Packs).unwrap();
    let manifests = target.objects().list(&Prefix::Manifests).unwrap();
    let written: u64 = packs
        .iter()
        .chain(&manifests)
        .map(|listed| listed.size_bytes)
        .sum();
    assert_eq!(report.sent_bytes, written);
    let told: u64 = history::log(target.objects(), &"run".parse().unwrap())
        .unwrap()
        .commits()
        .map(|commit| commit.totals.stored_bytes)
        .sum();
    assert_eq!(told, written);
}
