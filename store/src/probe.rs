//! The capability probe: does this backend do what every commit relies on?
//!
//! Several servers accept a conditional create and ignore the condition; two trainers would then overwrite each
//! other's commits in silence. So the promises are tried before a store is made.

use std::collections::HashSet;

use bytes::Bytes;

use crate::error::{Result, StoreError};
use crate::ids::Nonce;
use crate::keys::{Key, Prefix, ProbeObject};
use crate::objects::{Created, Objects};

/// Creates that race for one name.
const RACERS: u8 = 8;

/// Tries, under names of its own, what a store needs of its backend, and cleans up.
///
/// # Errors
/// * `Input`: a capability is missing; the message names it. Keep the store elsewhere.
/// * `Backend`, `OutcomeUnknown`: the backend failed; run the command again.
pub fn probe(objects: &Objects) -> Result<()> {
    let nonce = Nonce::random()?;
    let result = conditional_create(objects, nonce)
        .and_then(|()| race(objects, nonce))
        .and_then(|()| order(objects, nonce));
    for object in [ProbeObject::Twice, ProbeObject::Race] {
        match (&result, objects.delete(&Key::Probe(nonce, object))) {
            (Ok(()), Err(error)) => return Err(error),
            (_, deleted) => {
                if let Err(error) = deleted {
                    tracing::debug!(%error, "a scratch object of the probe stays");
                }
            }
        }
    }
    objects.remove_empty_folders(&[Prefix::Probe(nonce), Prefix::Probes]);
    result
}

fn missing(objects: &Objects, capability: &str, seen: &str) -> StoreError {
    StoreError::input(
        objects.location(),
        format!("its backend lacks {capability}: {seen}"),
        "Commits would be lost there: keep the store on a disk, or on a server that honours conditional writes",
    )
}

/// Create, create again, read whole and in part, list.
fn conditional_create(objects: &Objects, nonce: Nonce) -> Result<()> {
    let key = Key::Probe(nonce, ProbeObject::Twice);
    let (first, second) = (Bytes::from_static(b"0123456789"), Bytes::from_static(b"other"));
    let lacking = |capability, seen: &str| Err(missing(objects, capability, seen));
    if objects.create(&key, first.clone())? == Created::AlreadyExists {
        return lacking(
            "conditional create",
            "a name that was never used is said to exist",
        );
    }
    if objects.get(&key)? != first {
        return lacking("read after write", "other bytes came back than were written");
    }
    if objects.create(&key, second)? == Created::New {
        return lacking("conditional create", "a second create of one name was accepted");
    }
    if objects.get(&key)? != first {
        return lacking(
            "conditional create",
            "a create that was refused changed the object",
        );
    }
    match objects.get_range(&key, 2..5) {
        Ok(bytes) if bytes == first[2..5] => {}
        Ok(_) | Err(StoreError::Corrupt { .. }) => {
            return lacking("ranged reads", "bytes 2..5 of ten came back wrong");
        }
        Err(error) => return Err(error),
    }
    if objects.get_tail(&key, 3)? != (first.slice(7..), 10) {
        return lacking("ranged reads", "the last three bytes of ten came back wrong");
    }
    let listed = objects.list(&Prefix::Probe(nonce))?;
    if !listed.iter().any(|l| l.key == key && l.size_bytes == 10) {
        return lacking(
            "listing after write",
            "an object that was just written is not listed",
        );
    }
    Ok(())
}

/// Eight creates of one name at once: one wins, and its bytes are what is stored.
fn race(objects: &Objects, nonce: Nonce) -> Result<()> {
    let key = Key::Probe(nonce, ProbeObject::Race);
    let start = std::sync::Barrier::new(usize::from(RACERS));
    let outcomes: Vec<Result<(u8, Created)>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                let (key, start) = (&key, &start);
                scope.spawn(move || {
                    start.wait();
                    let created = objects.create(key, Bytes::from(vec![racer]))?;
                    Ok((racer, created))
                })
            })
            .collect();
        let lost = || StoreError::corrupt("the probe", "a racing thread ended early");
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap_or_else(|_| Err(lost())))
            .collect()
    });
    let mut winners = HashSet::new();
    for outcome in outcomes {
        let (racer, created) = outcome?;
        if created == Created::New {
            winners.insert(racer);
        }
    }
    if winners.len() != 1 {
        return Err(missing(
            objects,
            "atomic conditional create",
            &format!(
                "{} of {RACERS} racing creates of one name were accepted",
                winners.len()
            ),
        ));
    }
    let stored = objects.get(&key)?;
    if stored.len() != 1 || !winners.contains(&stored[0]) {
        return Err(missing(
            objects,
            "atomic conditional create",
            "the bytes of a create that was refused are stored",
        ));
    }
    Ok(())
}

/// The newest record of a run is the first of a listing, where the backend is said to sort.
fn order(objects: &Objects, nonce: Nonce) -> Result<()> {
    match objects.lists_in_order(&Prefix::Probe(nonce))? {
        true => Ok(()),
        false => Err(missing(
            objects,
            "sorted listings",
            "two objects are not listed in the order of their keys",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, FaultStore, Lie, Plan};
    use std::sync::Arc;

    /// Promise: honest backends pass, and nothing is left behind.
    #[test]
    fn honest_backends_pass() {
        let dir = tempfile::tempdir().unwrap();
        for objects in [
            Objects::memory(),
            Objects::open(dir.path().to_str().unwrap()).unwrap(),
        ] {
            probe(&objects).unwrap();
            assert_eq!(objects.shallow(&Prefix::Root).unwrap(), (vec![], vec![]));
        }
    }

    /// Promise: every lie is found, named, and cleaned up after.
    #[test]
    fn liars_are_refused() {
        for (lie, capability) in [
            (Lie::CreateOverwrites, "conditional create"),
            (Lie::CreatePretends, "conditional create"),
            (Lie::RacersWin, "atomic conditional create"),
            (Lie::RangesAreIgnored, "ranged reads"),
            (Lie::ListsNothing, "listing after write"),
            (Lie::ListsBackwards, "sorted listings"),
        ] {
            let objects = Objects::wrapping(Arc::new(FaultStore::lying(lie)));
            let error = probe(&objects).unwrap_err();
            assert!(matches!(error, StoreError::Input { .. }), "{lie:?}: {error}");
            assert!(error.to_string().contains(capability), "{lie:?}: {error}");
            let left = objects.shallow(&Prefix::Root).unwrap();
            assert_eq!(left, (vec![], vec![]), "{lie:?}");
        }
    }

    /// Promise: a backend that fails is not called a liar, and a probe never passes by failing.
    #[test]
    fn failures_are_not_lies() {
        for fault in [Fault::Refused, Fault::LostRequest, Fault::LostResponse] {
            let (mut from, mut hit) = (0, true);
            while hit {
                let faults = Arc::new(FaultStore::new());
                faults.plan(Some(Plan { fault, from, len: 1 }));
                let result = probe(&Objects::wrapping(faults.clone()));
                hit = faults.requests() > from;
                let blamed = matches!(result, Err(StoreError::Input { .. }));
                assert!(!blamed, "{fault:?} at {from}: {result:?}");
                assert_eq!(result.is_err(), hit, "{fault:?} at {from}");
                from += 1;
            }
            assert!(from > 10, "the probe makes more requests than that");
        }
    }
}
