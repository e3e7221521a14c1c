//! Leases against listings and fences.

use std::time::Duration;

use super::*;
use crate::config;

fn first() -> (Objects, Record) {
    let objects = Objects::memory();
    config::init(&objects).unwrap();
    let record = Record {
        id: LeaseId::random().unwrap(),
        renewal: 0,
        host: "here".to_owned(),
        process: 1,
        work: "a test".to_owned(),
        created_unix_ms: 1,
    };
    put(&objects, &record).unwrap();
    (objects, record)
}

fn renewals(objects: &Objects, id: LeaseId) -> Vec<u64> {
    let listed = objects.list(&Prefix::Lease(id)).unwrap().into_iter();
    let renewals = listed.filter_map(|listed| match listed.key {
        Key::Lease(_, renewal) => Some(renewal),
        _ => None,
    });
    let mut renewals: Vec<u64> = renewals.collect();
    renewals.sort_unstable();
    renewals
}

/// Promise: while a lease is renewed its first renewal and the one before the newest are there all the time, so no listing misses it; few of
/// them are; none is left at the end.
#[test]
fn a_listing_never_misses_a_lease() {
    let (objects, record) = first();
    let id = record.id;
    let mut renewal = Renewal::start_every(Duration::from_millis(1), objects.clone(), record);
    let mut before = vec![0];
    loop {
        let now = renewals(&objects, id);
        assert_eq!(now.first(), Some(&0), "{now:?}");
        assert!(now.len() <= 4, "{now:?}");
        let newest = *before.last().unwrap();
        assert!(now.last().unwrap() >= &newest, "{before:?} {now:?}");
        assert!(standing(&objects).unwrap().iter().any(|lease| lease.id == id));
        if *now.last().unwrap() >= 8 {
            break;
        }
        before = now;
    }
    renewal.end();
    assert_eq!(renewals(&objects, id), [0; 0]);
    assert!(standing(&objects).unwrap().is_empty());
}

/// Promise: a fence ends a lease for good, and leaves one object of it; its holder finds out.
#[test]
fn a_fence_ends_a_lease() {
    let (objects, _) = first();
    let store = Store::over(objects.clone(), None).unwrap();
    let lease = Lease::take(&store, "a test").unwrap();
    assert!(lease.holds().unwrap());
    assert!(holder(&objects, lease.id()).contains("a test"));
    fence(&objects, lease.id()).unwrap();
    fence(&objects, lease.id()).unwrap();
    assert!(!lease.holds().unwrap());
    let is_standing = || {
        standing(&objects)
            .unwrap()
            .iter()
            .any(|other| other.id == lease.id())
    };
    assert!(!is_standing());
    // A renewal that was on its way does not revive it.
    let late = Record {
        renewal: 7,
        ..first().1
    };
    put(
        &objects,
        &Record {
            id: lease.id(),
            ..late
        },
    )
    .unwrap();
    assert!(!is_standing());
    let id = lease.id();
    drop(lease);
    assert!(objects.head(&Key::Fence(id)).unwrap().is_some());
}

/// Promise: work under a lease that a gc gave up is done again under another, and given up itself after a few.
#[test]
fn lost_leases_are_replaced() {
    let (objects, _) = first();
    let store = Store::over(objects.clone(), None).unwrap();
    let mut leases = Vec::new();
    let done = under_lease(&store, "a test", |lease| {
        leases.push(lease.id());
        if leases.len() < 3 {
            fence(&objects, lease.id())?;
        }
        Ok(Some(leases.len()))
    });
    assert_eq!(done.unwrap(), 3);
    assert!(leases[0] != leases[1] && leases[1] != leases[2]);
    let never: Result<()> = under_lease(&store, "a test", |lease| {
        fence(&objects, lease.id())?;
        Ok(Some(()))
    });
    assert!(matches!(never, Err(StoreError::Conflict { .. })), "{never:?}");
}
