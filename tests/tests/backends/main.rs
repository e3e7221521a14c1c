//! Every backend keeps the same promises: memory, a disk, and real servers; what is no store of objects is told for what it is.

mod promises;
mod relay;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Mutex;

use bytes::Bytes;
use promises::{keep, save_at_once};
use relay::{Fate, Relay, Request};
use tpde_store::keys::{Key, Prefix};
use tpde_store::objects::Created;
use tpde_store::{Objects, PackId, Store, StoreError, config};
use tpde_tests::servers::{Endpoint, moto, s3rver, seaweedfs};
use tpde_tests::{Rng, fast_folder, run};

/// A key that no server looks at.
const NO_KEY: (&str, &str) = ("id", "secret");

#[test]
fn memory() {
    // Promise: every promise of promises.rs, in memory.
    let parts: Mutex<BTreeMap<String, Objects>> = Mutex::default();
    keep(&|part| {
        let mut parts = parts.lock().unwrap();
        parts
            .entry(part.to_owned())
            .or_insert_with(Objects::memory)
            .clone()
    });
}

#[test]
fn a_disk() {
    // Promise: the same on a disk.
    let folder = fast_folder();
    keep(&|part| Objects::open_or_make(folder.path().join(part).to_str().unwrap()).unwrap());
}

#[test]
fn moto_server() {
    // Promise: the same on moto, over HTTP.
    let server = moto();
    keep(&|part| server.endpoint.part(part));
}

#[test]
fn seaweedfs_server() {
    // Promise: the same on SeaweedFS, which checks signatures and is made to be raced.
    let server = seaweedfs();
    keep(&|part| server.endpoint().part(part));
    over_a_held_back_line(server.endpoint());
}

/// Promise: bytes that are held back, portion by portion, arrive as those that are not, in both directions, whatever their number.
fn over_a_held_back_line(endpoint: &Endpoint) {
    let slow = endpoint.part_at_rate("slow", "40MB/s");
    let mut rng = Rng::new(1);
    for len in [0, 1, 32 << 10, (32 << 10) + 1, 3_000_001] {
        let bytes: Bytes = (0..len).map(|_| rng.draw() as u8).collect();
        let key = Key::Pack(PackId::of(&bytes));
        assert_eq!(slow.put_content(&key, bytes.clone()).unwrap(), Created::New);
        for objects in [&slow, &endpoint.part("slow")] {
            assert_eq!(objects.get(&key).unwrap(), bytes);
            assert_eq!(objects.get_tail(&key, 100).unwrap().1, len);
            let range = len / 3..len / 2;
            let part = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(objects.get_range(&key, range).unwrap(), part);
        }
        assert_eq!(slow.put_content(&key, bytes).unwrap(), Created::AlreadyExists);
    }
    assert_eq!(
        slow.create(&Key::Slot(run(), 0), "ours".into()).unwrap(),
        Created::New
    );
    let again = slow.create(&Key::Slot(run(), 0), "theirs".into());
    assert_eq!(again.unwrap(), Created::AlreadyExists);
}

#[test]
fn a_server_that_ignores_conditions_is_refused() {
    // Promise: no store is made where a conditional create overwrites, and the message says what is missing.
    let Some(server) = s3rver() else {
        return;
    };
    let objects = server.endpoint.part("store");
    let error = config::init(&objects).unwrap_err();
    assert!(matches!(error, StoreError::Input { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("s3://bucket/store") && text.contains("lacks conditional create"),
        "{text}"
    );
    assert_eq!(objects.list(&Prefix::Root).unwrap(), [], "the probe cleans up");
}

const BUSY: &str = "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const CONTENDED: &str = "HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\n<Error><Code>ConditionalRequestConflict</Code></Error>";

#[test]
fn no_answer_is_mistaken_for_another() {
    // Promise: whatever becomes of the answer to a create, it is never said to have won or lost unless it has.
    let server = moto();
    for (fate, is_done, is_known) in [
        (Fate::Pass, true, true),
        (Fate::LostRequest, false, false),
        (Fate::LostAnswer, true, false),
        (Fate::DoneBut(BROKEN), true, false),
        (Fate::DoneBut(BUSY), true, false),
        (Fate::Say(BROKEN), false, false),
        (Fate::Say(BUSY), false, false),
    ] {
        // The first write only: a client that repeats it by itself would be told of its own.
        let decide = move |r: &Request| match (r.method.as_str(), r.count) {
            ("PUT", 0) => fate,
            _ => Fate::Pass,
        };
        let relay = Relay::start(&server.endpoint, decide);
        let part = format!("answers{fate:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let part: String = part.chars().take(60).collect();
        let objects = relay.endpoint.part(&part);
        let key = Key::Slot(run(), 0);
        match objects.create(&key, "ours".into()) {
            Ok(created) => assert!(is_known && created == Created::New, "{fate:?}: {created:?}"),
            Err(StoreError::OutcomeUnknown { .. }) => assert!(!is_known, "{fate:?}"),
            Err(other) => panic!("{fate:?}: {other}"),
        }
        assert_eq!(objects.head(&key).unwrap().is_some(), is_done, "{fate:?}");
    }
    // A server that has not decided yet is asked again: it did nothing.
    let decide = |r: &Request| match (r.method.as_str(), r.count) {
        ("PUT", 0 | 1) => Fate::Say(CONTENDED),
        _ => Fate::Pass,
    };
    let objects = Relay::start(&server.endpoint, decide).endpoint.part("contended");
    assert_eq!(
        objects.create(&Key::Slot(run(), 0), "ours".into()).unwrap(),
        Created::New
    );
    let again = objects.create(&Key::Slot(run(), 0), "ours".into());
    assert_eq!(again.unwrap(), Created::AlreadyExists);
}

#[test]
fn writers_on_a_bad_line() {
    // Promise: with every other answer to a write lost or wrong, racing writers lose no commit and make none twice.
    let server = moto();
    config::init(&server.endpoint.part("line")).unwrap();
    let decide = |r: &Request| match (r.method.as_str(), r.count % 12) {
        ("PUT", 1) => Fate::LostRequest,
        ("PUT", 3 | 4) => Fate::LostAnswer,
        ("PUT", 6) => Fate::DoneBut(BROKEN),
        ("PUT", 8) => Fate::Say(BUSY),
        ("PUT", 10) => Fate::Say(CONTENDED),
        ("GET" | "HEAD", 7) => Fate::LostAnswer,
        ("GET", 9) => Fate::Say(BUSY),
        _ => Fate::Pass,
    };
    let relay = Relay::start(&server.endpoint, decide);
    save_at_once(&|| relay.endpoint.part("line"), 3, 8, 5);
}

#[test]
fn requests_over_the_wire() {
    // Promise: opening a store is one request, and the newest of more than a page of records is one more.
    let server = moto();
    let direct = server.endpoint.part("wire");
    config::init(&direct).unwrap();
    for seq in 0..1_003 {
        direct.create(&Key::Slot(run(), seq), "s".into()).unwrap();
    }
    let relay = Relay::start(&server.endpoint, |_| Fate::Pass);
    let store = Store::over(relay.endpoint.part("wire"), None).unwrap();
    assert_eq!(relay.requests(), 1);
    let newest = store.objects().list_newest(&Prefix::Slots(run()), 1).unwrap();
    assert_eq!(newest, [Key::Slot(run(), 1_002)]);
    assert_eq!(relay.requests(), 2);
}

/// The message with which opening a store fails that this answers for.
fn refused(answer: &'static str) -> String {
    let nobody = Endpoint::local(9, NO_KEY);
    let relay = Relay::start(&nobody, move |_| Fate::Say(answer));
    let error = Store::over(relay.endpoint.part("x"), None).unwrap_err();
    assert!(!matches!(error, StoreError::Corrupt { .. }), "{error}");
    error.to_string()
}

#[test]
fn what_is_no_store_is_told() {
    // Promise: a user who is misdirected learns what is wrong, and what to set.
    let page = "<!DOCTYPE html><html><title>Sign in to the network</title></html>";
    for status in [
        "200 OK",
        "403 Forbidden",
        "407 Proxy Authentication Required",
        "404 Not Found",
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\netag: \"x\"\r\nlast-modified: Tue, 03 Jun 2025 10:00:00 GMT\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
            page.len()
        );
        let text = refused(answer.leak());
        assert!(
            text.contains("web page") && text.contains("AWS_ENDPOINT_URL"),
            "{status}: {text}"
        );
        assert!(!text.contains("Sign in"), "{status}: {text}");
    }
    for (status, code, told, advice) in [
        (
            "400 Bad Request",
            "ExpiredToken",
            "ExpiredToken",
            "expired: renew",
        ),
        (
            "403 Forbidden",
            "InvalidAccessKeyId",
            "InvalidAccessKeyId",
            "AWS_ACCESS_KEY_ID",
        ),
        (
            "403 Forbidden",
            "SignatureDoesNotMatch",
            "SignatureDoesNotMatch",
            "AWS_SECRET_ACCESS_KEY",
        ),
        (
            "403 Forbidden",
            "AccessDenied",
            "AccessDenied",
            "may get, put and list",
        ),
        (
            "404 Not Found",
            "NoSuchBucket",
            "the bucket of s3://bucket/x",
            "make the bucket",
        ),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "Malformed",
            "AWS_REGION",
        ),
        (
            "403 Forbidden",
            "RequestTimeTooSkewed",
            "RequestTimeTooSkewed",
            "clock",
        ),
    ] {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>No.</Message></Error>");
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let text = refused(answer.leak());
        assert!(text.contains(told) && text.contains(advice), "{code}: {text}");
    }
    let text = refused("HTTP/1.1 301 Moved Permanently\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert!(text.contains("AWS_REGION"), "{text}");

    // Nobody listens there any more.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = Store::over(Endpoint::local(port, NO_KEY).part("x"), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot be reached") && error.contains("AWS_ENDPOINT_URL"),
        "{error}"
    );
}

#[test]
fn buckets_that_are_not_there() {
    // Promise: a wrong bucket is told as one, whether a store is opened or made.
    let server = moto();
    let objects = server.endpoint.open("s3://no-such-bucket/x");
    for error in [
        config::open(&objects).unwrap_err(),
        config::init(&objects).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
        assert!(
            error.to_string().contains("the bucket of s3://no-such-bucket/x"),
            "{error}"
        );
    }
}
