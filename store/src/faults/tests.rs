//! The faults themselves.

use std::sync::Arc;

use futures::executor::block_on;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::plan::UNTIL_LET_IN;
use super::*;

fn planned(fault: Fault) -> (Arc<FaultStore>, Path) {
    let store = Arc::new(FaultStore::new());
    let at = Path::from("a");
    block_on(store.put(&at, "0123".into())).unwrap();
    store.plan(Some(Plan {
        fault,
        from: 0,
        len: 1,
    }));
    (store, at)
}

/// Promise: what is said to be carried out is, what is not is not; deletes count as other requests do.
#[test]
fn effects_on_deletes_and_creates() {
    for (fault, is_done) in [
        (Fault::LostRequest, false),
        (Fault::LostResponse, true),
        (Fault::Internal, true),
        (Fault::Busy, false),
        (Fault::Refused, false),
        (Fault::FalseRefusal, true),
    ] {
        let (store, at) = planned(fault);
        block_on(store.delete(&at)).unwrap_err();
        assert_eq!((store.failed(), store.requests()), (1, 2), "{fault:?}");
        assert_eq!(block_on(store.head(&at)).is_err(), is_done, "{fault:?}");
        let (store, _) = planned(fault);
        let new = Path::from("b");
        block_on(store.put_opts(&new, "x".into(), PutOptions::from(PutMode::Create))).unwrap_err();
        assert_eq!(block_on(store.head(&new)).is_ok(), is_done, "{fault:?}");
    }
}

/// Promise: a late write arrives when it is due, or when it is let in, and not before.
#[test]
fn late_writes() {
    let (store, at) = planned(Fault::Late(2));
    block_on(store.delete(&at)).unwrap_err();
    block_on(store.head(&at)).unwrap();
    block_on(store.head(&at)).unwrap_err();
    let (store, at) = planned(Fault::Late(UNTIL_LET_IN));
    block_on(store.delete(&at)).unwrap_err();
    block_on(store.head(&at)).unwrap();
    store.let_in();
    block_on(store.head(&at)).unwrap_err();
}

/// Promise: of an object half comes without a word, and of a listing with one; a write is not concerned.
#[test]
fn truncated_answers() {
    let (store, at) = planned(Fault::Truncated);
    let got = block_on(async { store.get(&at).await?.bytes().await }).unwrap();
    assert_eq!(got, &b"01"[..]);
    let (store, at) = planned(Fault::Truncated);
    block_on(store.put(&at, "xy".into())).unwrap();
    assert_eq!(store.failed(), 0);
}

/// Promise: a create is refused as if something were there, and nothing is.
#[test]
fn conflicts() {
    for fault in [Fault::Conflict, Fault::Precondition] {
        let (store, _) = planned(fault);
        let new = Path::from("b");
        let error =
            block_on(store.put_opts(&new, "x".into(), PutOptions::from(PutMode::Create))).unwrap_err();
        assert!(matches!(
            error,
            Error::AlreadyExists { .. } | Error::Precondition { .. }
        ));
        block_on(store.head(&new)).unwrap_err();
    }
}

/// Promise: each request of an upload in parts counts, and nothing is there unless its end was carried out.
#[test]
fn uploads_in_parts() {
    for from in 0..4 {
        for fault in [Fault::LostRequest, Fault::LostResponse] {
            let store = FaultStore::new();
            store.plan(Some(Plan { fault, from, len: 1 }));
            let at = Path::from("a");
            let done = block_on(async {
                let mut upload = store.put_multipart(&at).await?;
                upload.put_part("01".into()).await?;
                upload.put_part("23".into()).await?;
                upload.complete().await
            });
            assert!(done.is_err(), "{from}");
            assert_eq!((store.requests(), store.failed()), (from + 1, 1));
            let there = from == 3 && fault == Fault::LostResponse;
            assert_eq!(block_on(store.head(&at)).is_ok(), there, "{fault:?} at {from}");
        }
    }
}
