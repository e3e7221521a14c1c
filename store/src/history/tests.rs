//! Runs that are fabricated record by record, so that a long history costs no commits.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::action::Action;
use crate::faults::FaultStore;
use crate::ids::{Fingerprint, ManifestId, Nonce};
use crate::slot::Slot;
use crate::slot::history_from;
use crate::summary::Totals;

/// Step of commit `seq` of a fabricated run.
pub(crate) fn step_of(seq: u64) -> u64 {
    (seq + 1) * 10
}

/// Content of commit `seq` of a fabricated run.
pub(crate) fn manifest_of(seq: u64) -> ManifestId {
    ManifestId::of(&seq.to_le_bytes())
}

/// Writes the records of a run of `len` commits, as commits would have.
pub(crate) fn fabricate(objects: &Objects, run: &RunName, len: u64) {
    let mut previous = NO_SLOT;
    let mut since_rollup: Vec<Summary> = Vec::new();
    for seq in 0..len {
        if since_rollup.len() == ROLLUP_EVERY {
            Rollup::new(run.clone(), std::mem::take(&mut since_rollup))
                .write(objects)
                .unwrap();
        }
        let from = since_rollup.partition_point(|s| s.seq < history_from(seq));
        let slot = Slot {
            run: run.clone(),
            seq,
            action: Action::commit(),
            manifest: manifest_of(seq),
            previous,
            nonce: Nonce::from_bytes([1; 16]),
            fingerprint: Fingerprint::of(&seq.to_le_bytes()),
            step: step_of(seq),
            created_unix_ms: 1_700_000_000_000 + seq,
            totals: Totals::default(),
            max_step: step_of(seq),
            history: since_rollup[from..].to_vec(),
        };
        let bytes = Bytes::from(slot.encode());
        previous = SlotHash::of(&bytes);
        since_rollup.push(slot.summary());
        objects.create(&Key::Slot(run.clone(), seq), bytes).unwrap();
    }
}

fn run() -> RunName {
    "llama".parse().unwrap()
}

/// Promise: the log of 10 000 commits is whole, and costs one read per rollup and four requests more.
#[test]
fn ten_thousand_commits() {
    let faults = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(faults.clone());
    fabricate(&objects, &run(), 10_000);

    let before = faults.requests();
    let log = log(&objects, &run()).unwrap();
    assert_eq!(faults.requests() - before, 10_000 / 256 + 3);
    let log: Vec<&Summary> = log.commits().collect();
    assert!((0..10_000).eq(log.iter().map(|s| s.seq)));
    assert!(
        log.iter()
            .all(|s| s.manifest == manifest_of(s.seq) && s.step == step_of(s.seq))
    );

    let newest = newest(&objects, &run()).unwrap().unwrap();
    let before = faults.requests();
    for (seq, reads) in [(9_999, 0), (9_984, 0), (9_983, 1), (0, 1), (5_000, 1)] {
        let at = faults.requests();
        assert_eq!(record_at(&objects, &newest, seq).unwrap().seq, seq);
        assert_eq!(faults.requests() - at, reads, "commit {seq}");
    }
    assert!(faults.requests() > before);
    let at = faults.requests();
    assert_eq!(latest_of_step(&objects, &newest, 1 << 40).unwrap(), None);
    assert_eq!(faults.requests(), at, "a step above all others needs no read");
    assert_eq!(find_step(&objects, &run(), step_of(3)).unwrap().seq, 3);
}

/// Promise: the newest commits cost what lies between them and the end, and are those that the whole log ends with.
#[test]
fn recent_commits() {
    let faults = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(faults.clone());
    fabricate(&objects, &run(), 10_000);
    let before = faults.requests();
    let found = recent(&objects, &run(), 50).unwrap();
    assert_eq!(faults.requests() - before, 3);
    assert!((9_950..10_000).rev().eq(found.commits.iter().map(|s| s.seq)));
    assert_eq!(found.older_records, 9_950);

    for len in [1, 2, 16, 17, 40, 256, 257, 300, 513] {
        let faults = Arc::new(FaultStore::new());
        let objects = Objects::wrapping(faults.clone());
        fabricate(&objects, &run(), len);
        let log = log(&objects, &run()).unwrap();
        for most in [0, 1, 2, 50, 600] {
            let before = faults.requests();
            let found = recent(&objects, &run(), most).unwrap();
            let whole = log.commits().rev().take(most);
            assert!(whole.eq(&found.commits), "{most} of {len}");
            assert_eq!(
                found.older_records,
                len.saturating_sub(most as u64),
                "{most} of {len}"
            );
            assert!(most > 50 || faults.requests() - before <= 4, "{most} of {len}");
        }
    }
    let error = recent(&objects, &"lama".parse().unwrap(), 1).unwrap_err();
    assert!(error.to_string().contains("llama"), "{error}");
}

/// Promise: what `tpde log` asks of a store that nothing is known of: five requests for the last fifty of 10 000, fewer than sixty
/// for all of them.
#[test]
fn a_cold_log() {
    let faults = Arc::new(FaultStore::new());
    let objects = Objects::wrapping(faults.clone());
    crate::config::init(&objects).unwrap();
    fabricate(&objects, &run(), 10_000);
    let cold = |ask: &dyn Fn(&Objects)| {
        let before = faults.requests();
        let store = crate::Store::over(objects.clone(), None).unwrap();
        assert!(crate::tags::list(store.objects()).unwrap().is_empty());
        ask(store.objects());
        faults.requests() - before
    };
    let last = cold(&|objects| assert_eq!(recent(objects, &run(), 50).unwrap().commits.len(), 50));
    assert_eq!(last, 5);
    let all = cold(&|objects| assert_eq!(log(objects, &run()).unwrap().records().len(), 10_000));
    assert_eq!(all, 44);
}

/// Promise: around every boundary of a rollup the log is whole and the chain holds.
#[test]
fn boundaries() {
    for len in [
        1, 2, 15, 16, 17, 18, 32, 33, 255, 256, 257, 258, 271, 272, 273, 512, 513,
    ] {
        let objects = Objects::memory();
        fabricate(&objects, &run(), len);
        assert_eq!(log(&objects, &run()).unwrap().records().len() as u64, len);
        assert_eq!(check_chain(&objects, &run()).unwrap(), len);
    }
}

/// Promise: whatever single object is lost or damaged, the log is an error or complete, and the chain is an error.
#[test]
fn a_lost_object_is_never_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path().to_str().unwrap()).unwrap();
    let len = 515;
    // Fabricated in memory and copied as files, for syncing 515 files takes seconds.
    let source = Objects::memory();
    fabricate(&source, &run(), len);
    let listed = source.list(&Prefix::Root).unwrap();
    for item in &listed {
        let at = dir.path().join(item.key.to_string());
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, source.get(&item.key).unwrap()).unwrap();
    }
    assert_eq!(check_chain(&objects, &run()).unwrap(), len);
    let last = len - 1;
    for item in listed
        .iter()
        .step_by(37)
        .chain(&listed[..3])
        .chain(&listed[listed.len() - 3..])
    {
        let at = dir.path().join(item.key.to_string());
        let bytes = std::fs::read(&at).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for damaged in [None, Some(&flipped[..]), Some(&bytes[..bytes.len() - 1])] {
            match damaged {
                None => std::fs::remove_file(&at).unwrap(),
                Some(damaged) => std::fs::write(&at, damaged).unwrap(),
            }
            let gone = matches!(item.key, Key::Slot(_, seq) if seq == last) && damaged.is_none();
            match log(&objects, &run()) {
                Ok(log) if gone => assert_eq!(log.records().len() as u64, last),
                Ok(log) => assert_eq!(log.records().len() as u64, len),
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error}"),
            }
            if !gone {
                let error = check_chain(&objects, &run()).unwrap_err();
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            }
        }
        std::fs::write(&at, &bytes).unwrap();
    }
}

/// Promise: rollups without the slots behind them are an error.
#[test]
fn vanished_slots_are_noticed() {
    let objects = Objects::memory();
    let source = Objects::memory();
    fabricate(&source, &run(), 300);
    let rollup = Key::Rollup(run(), 255);
    objects
        .put_content(&rollup, source.get(&rollup).unwrap())
        .unwrap();
    assert!(matches!(log(&objects, &run()), Err(StoreError::Corrupt { .. })));
    let slot = Key::Slot(run(), 7);
    objects.create(&slot, source.get(&slot).unwrap()).unwrap();
    assert!(matches!(log(&objects, &run()), Err(StoreError::Corrupt { .. })));
}

/// Promise: what is not there is answered with what is near.
#[test]
fn near_candidates() {
    let objects = Objects::memory();
    let text = find_step(&objects, &run(), 5).unwrap_err().to_string();
    assert!(text.contains("tpde save"), "{text}");
    fabricate(&objects, &run(), 10);
    let text = find_step(&objects, &run(), 45).unwrap_err().to_string();
    assert!(
        text.contains("20, 30, 40, 50, 60, 70") && text.contains("tpde log llama"),
        "{text}"
    );
    let text = find_step(&objects, &"lama".parse().unwrap(), 45)
        .unwrap_err()
        .to_string();
    assert!(text.contains("llama"), "{text}");
    assert_eq!(runs(&objects).unwrap(), [run()]);
}
