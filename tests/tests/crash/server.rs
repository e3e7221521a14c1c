//! Writers of SeaweedFS that are killed, and SeaweedFS itself, killed under them.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tpde_store::{Store, StoreError, VerifyLevel, config, history};
use tpde_tests::servers::{BUCKET, Endpoint, seaweedfs};
use tpde_tests::{Rng, run, save, soak, train, training_state, verify};

use super::held::{Checkpoint, Held};
use super::moment::{spin, within};

const SEED: u64 = 2;
/// The part of the bucket that the store is.
const PART: &str = "crash";
/// Saves before the first kill.
const UNDISTURBED: u64 = 3;
/// Exit codes of the worker for `Backend` and `OutcomeUnknown`: what a server may do that dies.
const OF_THE_SERVER: [i32; 2] = [5, 9];
/// Longest that a server which has come up again may keep refusing to serve.
const DEADLINE: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Server,
}

/// What became of the saves.
#[derive(Debug, Default)]
struct Outcomes {
    /// Acknowledged.
    acknowledged: u32,
    /// Not acknowledged, and committed.
    committed: u32,
    /// Not committed.
    nothing: u32,
}

fn worker(endpoint: &Endpoint, step: u64, source: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_worker"))
        .args(["save", &format!("s3://{BUCKET}/{PART}"), "run", &step.to_string()])
        .arg(source)
        .envs(endpoint.variables())
        .env_remove("TPDE_CACHE_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does `work` again for as long as the server is not yet itself.
fn patiently<T>(work: impl Fn() -> Result<T, StoreError>) -> T {
    let start = Instant::now();
    loop {
        match work() {
            Ok(done) => return done,
            Err(StoreError::Backend { .. } | StoreError::OutcomeUnknown { .. })
                if start.elapsed() < DEADLINE => {}
            Err(error) => panic!("after {:?}: {error}", start.elapsed()),
        }
    }
}

#[test]
fn a_killed_client_or_server_loses_nothing_acknowledged() {
    // Promise: whether the client dies in a save or the server does, with SIGKILL, and is started again on its files: a save
    // whose process ended well is there, one that did not is there whole or not at all, and the same again works.
    let rounds: u64 = if soak() { 200 } else { 6 };
    let mut server = seaweedfs();
    config::init(&server.endpoint().part(PART)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("checkpoint");
    let mut rng = Rng::new(SEED);
    let mut state = training_state();
    let mut held = Held::default();
    let mut whole = Duration::ZERO;
    let mut outcomes = [Outcomes::default(), Outcomes::default()];
    for step in 0..UNDISTURBED + rounds {
        train(&mut state, &mut rng);
        let checkpoint = Checkpoint::new(&state, step);
        checkpoint.write(&source);
        let start = Instant::now();
        let mut child = worker(server.endpoint(), step, &source);
        let mut after = held.clone();
        after.add(step, &checkpoint);
        if step < UNDISTURBED {
            // The kills are spread over the time that this takes.
            assert!(child.wait().unwrap().success());
            whole = whole.max(start.elapsed());
            held = after;
            continue;
        }
        let victim = if step % 2 == 0 {
            Victim::Client
        } else {
            Victim::Server
        };
        let open = || Store::over(server.endpoint().part(PART), None);
        if step % 6 < 2 {
            // As soon as the commit can be seen.
            let store = open().unwrap();
            while !after.is_what_stands(&store).unwrap() && child.try_wait().unwrap().is_none() {}
        } else {
            spin(&mut child, within(&mut rng, whole));
        }
        if victim == Victim::Client {
            child.kill().unwrap();
        } else {
            server.kill();
            server.start_again();
        }
        let status = child.wait().unwrap();
        let context = format!("seed {SEED}, step {step}, {victim:?}, {status}");
        assert!(ended_as_expected(victim, status), "{context}");

        let open = || Store::over(server.endpoint().part(PART), None);
        let is_new = patiently(|| after.is_what_stands(&open()?));
        assert!(is_new || patiently(|| held.is_what_stands(&open()?)), "{context}");
        assert!(is_new || !status.success(), "{context}: acknowledged and lost");
        let outcome = &mut outcomes[usize::from(victim == Victim::Server)];
        match (status.success(), is_new) {
            (true, _) => outcome.acknowledged += 1,
            (false, true) => outcome.committed += 1,
            (false, false) => outcome.nothing += 1,
        }
        let report = patiently(|| save(&open()?, &source, step));
        assert_eq!((report.seq, report.already_there), (step, is_new), "{context}");
        held = after;
        let store = patiently(open);
        assert_eq!(verify(&store, VerifyLevel::Quick).problems, [], "{context}");
        if step % 20 < 2 {
            assert_eq!(verify(&store, VerifyLevel::Restore).problems, [], "{context}");
            held.some_come_back(&store, &mut rng, &context);
        }
    }
    let store = Store::over(server.endpoint().part(PART), None).unwrap();
    assert_eq!(
        history::check_chain(store.objects(), &run()).unwrap(),
        UNDISTURBED + rounds
    );
    held.all_come_back(&store);
    let [client, killed_server] = &outcomes;
    println!("{rounds} kills; clients: {client:?}; servers: {killed_server:?}");
    // The test says nothing unless kills cut saves short, before the commit and after it.
    let before: u32 = outcomes.iter().map(|o| o.nothing).sum();
    let after: u32 = outcomes.iter().map(|o| o.committed + o.acknowledged).sum();
    assert!(u64::from(before.min(after)) * 6 >= rounds, "{outcomes:?}");
}

fn ended_as_expected(victim: Victim, status: ExitStatus) -> bool {
    status.success()
        || match victim {
            Victim::Client => status.signal() == Some(9),
            Victim::Server => status.code().is_some_and(|code| OF_THE_SERVER.contains(&code)),
        }
}
