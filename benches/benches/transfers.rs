//! How well a line to a server is filled: packs sent and fetched, against plain requests for the same bytes in the same minute.
//!
//! SeaweedFS runs on this machine, over the loopback interface, on the same cores. Every round does each of these once:
//!
//! ```text
//! plain PUT    the packs, as they are, N at a time (the best of several N counts)     transfer stage   the same packs
//! plain GET    the packs, whole, N at a time (the best counts)                        transfer stage   what a restore of the last fetches
//! save, restore    the whole way, against the server and against memory: what encoding and decoding take
//! ```
//! `TPDE_DATA` names a folder with real checkpoints; without it the project's small run is taken. `TPDE_LARGE_MIB` sets the size of the
//! made-up checkpoint (256 if it is not set), `TPDE_ROUNDS` the rounds.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, path};
use tpde_bench::data::{DATA_VARIABLE, Noise, bf16_weight, demo_run, real_runs};
use tpde_bench::machine::describe;
use tpde_bench::report::{Table, bytes, rate};
use tpde_store::keys::{Key, Prefix};
use tpde_store::transfer::Uploads;
use tpde_store::{ManifestId, Objects, Progress, RestoreRequest, SaveRequest, Silent, Stage, Store, config};
use tpde_tests::servers::{BUCKET, Endpoint, seaweedfs};

type Failure = Box<dyn Error>;

/// How many plain requests are made at a time.
const AT_ONCE: [usize; 4] = [2, 4, 8, 16];

fn main() -> Result<(), Failure> {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let rounds = number("TPDE_ROUNDS", 5);
    let scratch = tempfile::tempdir()?;
    let mut cases = Vec::new();
    match std::env::var_os(DATA_VARIABLE) {
        Some(root) => {
            cases.push(("real: every file as one checkpoint", vec![PathBuf::from(root)]));
            let runs = real_runs().unwrap_or_default();
            let chain = runs.into_iter().find(|run| run.name == "state1m-10");
            let steps = chain.into_iter().flat_map(|run| run.steps);
            cases.push((
                "real: training state, 3 steps",
                steps.map(|step| step.source).collect(),
            ));
        }
        None => cases.push((
            "the project's run",
            demo_run().steps.into_iter().map(|step| step.source).collect(),
        )),
    }
    let made_up = scratch.path().join("made-up");
    write_weights(&made_up, number("TPDE_LARGE_MIB", 256) << 20)?;
    cases.push(("made up: bf16 weights", vec![made_up]));

    println!("{rounds} rounds, medians, on {}\n", describe());
    let seaweed = seaweedfs();
    let server = seaweed.endpoint();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // Opening a store chooses the ciphers of the process, which the plain client takes.
    server.part("opened");
    what_a_request_costs(&runtime, &Plain::new(server)?)?;
    let mut stages = Table::new(&[
        "transfer stage",
        "stored bytes",
        "objects",
        "plain PUT",
        "sent",
        "ratio",
        "plain GET",
        "fetched",
        "requests",
        "ratio",
    ]);
    let mut whole = Table::new(&[
        "the whole way",
        "raw bytes",
        "save",
        "encode alone",
        "of raw bytes",
        "restore",
        "decode alone",
        "of raw bytes",
    ]);
    for (number, (name, steps)) in cases.iter().enumerate() {
        let case = Case::new(server, scratch.path(), number, steps)?;
        let mut times = Vec::new();
        for round in 0..=rounds {
            let measured = case.round(&runtime, round)?;
            // The first warms up both sides.
            if round > 0 {
                times.push(measured);
            }
        }
        report(&mut stages, &mut whole, name, &case, &times);
    }
    stages.print();
    whole.print();
    Ok(())
}

/// Seconds of one round.
struct Times {
    plain_put: [f64; AT_ONCE.len()],
    send: f64,
    plain_get: [f64; AT_ONCE.len()],
    fetch: f64,
    fetched: u64,
    requests: u64,
    save: f64,
    encode: f64,
    restore: f64,
    decode: f64,
}

/// One set of checkpoints.
struct Case<'a> {
    server: &'a Endpoint,
    scratch: &'a Path,
    number: usize,
    steps: &'a [PathBuf],
    packs: Vec<(Key, Bytes)>,
    raw_bytes: u64,
}

impl<'a> Case<'a> {
    fn new(
        server: &'a Endpoint,
        scratch: &'a Path,
        number: usize,
        steps: &'a [PathBuf],
    ) -> Result<Self, Failure> {
        let store = store(Objects::memory())?;
        let mut raw_bytes = 0;
        for (step, source) in steps.iter().enumerate() {
            raw_bytes += store.save(&request(source, step)?, &Silent)?.raw_bytes;
        }
        let listed = store.objects().list(&Prefix::Packs)?;
        let packs: Result<_, Failure> = listed
            .into_iter()
            .map(|listed| Ok((listed.key.clone(), store.objects().get(&listed.key)?)))
            .collect();
        Ok(Self {
            server,
            scratch,
            number,
            steps,
            packs: packs?,
            raw_bytes,
        })
    }

    fn stored_bytes(&self) -> u64 {
        self.packs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    fn round(&self, runtime: &tokio::runtime::Runtime, round: u64) -> Result<Times, Failure> {
        let part = |what: &str| format!("case-{}-{round}-{what}", self.number);
        let plain = Plain::new(self.server)?;
        let mut plain_put = [0.0; AT_ONCE.len()];
        for (seconds, at_once) in plain_put.iter_mut().zip(AT_ONCE) {
            let folder = part(&format!("plain-{at_once}"));
            *seconds = timed(|| runtime.block_on(plain.put(&folder, &self.packs, at_once)))?.0;
        }
        let sent = self.server.part(&part("sent"));
        let (send, ()) = timed(|| {
            let mut uploads = Uploads::new(&sent);
            for (key, bytes) in &self.packs {
                uploads.send(key.clone(), bytes.clone())?;
            }
            Ok(uploads.finish(&Silent)?)
        })?;

        let far = store(self.server.part(&part("store")))?;
        let near = store(Objects::memory())?;
        let (save, checkpoints) = timed(|| self.save(&far))?;
        let (encode, same) = timed(|| self.save(&near))?;
        let mut plain_get = [0.0; AT_ONCE.len()];
        let folder = part(&format!("plain-{}", AT_ONCE[0]));
        for (seconds, at_once) in plain_get.iter_mut().zip(AT_ONCE) {
            *seconds = timed(|| runtime.block_on(plain.get(&folder, &self.packs, at_once)))?.0;
        }
        let reader = Store::over(self.server.part(&part("store")), None)?;
        let last = *checkpoints.last().ok_or("nothing was saved")?;
        let clock = Clock::default();
        let moved = reader.fetch(last, &clock)?;
        let far = Store::over(self.server.part(&part("store")), None)?;
        let (restore, ()) = timed(|| self.restore(&far, &checkpoints))?;
        let (decode, ()) = timed(|| self.restore(&near, &same))?;
        Ok(Times {
            plain_put,
            send,
            plain_get,
            fetch: clock.seconds()?,
            fetched: moved.bytes,
            requests: moved.requests,
            save,
            encode,
            restore,
            decode,
        })
    }

    fn save(&self, store: &Store) -> Result<Vec<ManifestId>, Failure> {
        let steps = self.steps.iter().enumerate();
        steps
            .map(|(step, source)| Ok(store.save(&request(source, step)?, &Silent)?.manifest))
            .collect()
    }

    fn restore(&self, store: &Store, checkpoints: &[ManifestId]) -> Result<(), Failure> {
        for &manifest in checkpoints {
            let target = tempfile::tempdir_in(self.scratch)?;
            let request = RestoreRequest {
                manifest,
                target: target.path().to_owned(),
                files: None,
                tensors: None,
                overwrite: true,
            };
            store.restore(&request, &Silent)?;
        }
        Ok(())
    }
}

fn store(objects: Objects) -> Result<Store, Failure> {
    config::init(&objects)?;
    Ok(Store::over(objects, None)?)
}

fn request(source: &Path, step: usize) -> Result<SaveRequest, Failure> {
    Ok(SaveRequest::new(source, "bench".parse()?, step as u64))
}

/// Takes the time of a stage: names are found before it, and that is no part of it.
#[derive(Default)]
struct Clock {
    start: Mutex<Option<Instant>>,
    took: Mutex<Option<Duration>>,
}

impl Clock {
    fn seconds(&self) -> Result<f64, Failure> {
        let took = *self.took.lock().map_err(|_| "a measurement panicked")?;
        Ok(took.ok_or("the stage did not end")?.as_secs_f64())
    }
}

impl Progress for Clock {
    fn start(&self, _: Stage, _: u64) {
        if let Ok(mut start) = self.start.lock() {
            *start = Some(Instant::now());
        }
    }

    fn advance(&self, _: u64) {}

    fn finish(&self) {
        if let (Ok(start), Ok(mut took)) = (self.start.lock(), self.took.lock()) {
            *took = start.map(|start| start.elapsed());
        }
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(f64, T), Failure> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed().as_secs_f64(), done))
}

/// Prints the gap between two pieces that takes as long to read through as another request does.
fn what_a_request_costs(runtime: &tokio::runtime::Runtime, plain: &Plain) -> Result<(), Failure> {
    const OBJECT_BYTES: u64 = 32 << 20;
    const REQUESTS: u64 = 256;
    let mut noise = Noise::new(3);
    let object: Bytes = (0..OBJECT_BYTES / 8)
        .flat_map(|_| noise.word().to_le_bytes())
        .collect();
    let at = path::Path::from("what-a-request-costs");
    runtime.block_on(plain.0.put(&at, object.into()))?;
    let seconds_of = |len: u64, at_once: usize| -> Result<f64, Failure> {
        let read = || {
            let gets = (0..REQUESTS).map(|n| {
                let (store, at) = (Arc::clone(&plain.0), at.clone());
                let start = n * 7919 * 4096 % (OBJECT_BYTES - len);
                async move { store.get_range(&at, start..start + len).await }
            });
            let answers = stream::iter(gets)
                .buffer_unordered(at_once)
                .try_for_each(async |_| Ok(()));
            Ok(runtime.block_on(answers)?)
        };
        timed(read)?;
        Ok(timed(read)?.0 / REQUESTS as f64)
    };
    for at_once in [1, 16] {
        let (short, long) = (seconds_of(1 << 10, at_once)?, seconds_of(1 << 20, at_once)?);
        let byte_seconds = (long - short) / f64::from(1 << 20);
        println!(
            "{at_once} at once: a request of 1 KiB takes {:.2} ms, one of 1 MiB {:.2} ms; a gap of {:.0} KiB costs as much as a request",
            1e3 * short,
            1e3 * long,
            short / byte_seconds / 1024.0
        );
    }
    println!();
    Ok(())
}

/// The client underneath, and nothing else.
struct Plain(Arc<dyn ObjectStore>);

impl Plain {
    fn new(server: &Endpoint) -> Result<Self, Failure> {
        let client = AmazonS3Builder::new()
            .with_endpoint(&server.url)
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_access_key_id(&server.key.0)
            .with_secret_access_key(&server.key.1)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .build()?;
        Ok(Self(Arc::new(client)))
    }

    async fn put(&self, folder: &str, packs: &[(Key, Bytes)], at_once: usize) -> Result<(), Failure> {
        let puts = packs.iter().map(|(key, bytes)| {
            let (store, at, bytes) = (Arc::clone(&self.0), place(folder, key), bytes.clone());
            Ok(async move { store.put(&at, bytes.into()).await.map(drop) })
        });
        stream::iter(puts)
            .try_buffer_unordered(at_once)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    async fn get(&self, folder: &str, packs: &[(Key, Bytes)], at_once: usize) -> Result<(), Failure> {
        let gets = packs.iter().map(|(key, _)| {
            let (store, at) = (Arc::clone(&self.0), place(folder, key));
            async move { store.get(&at).await?.bytes().await }
        });
        let mut answers = stream::iter(gets).buffer_unordered(at_once);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }
}

fn place(folder: &str, key: &Key) -> path::Path {
    path::Path::from(format!("{folder}/{key}"))
}

fn median(times: &[Times], of: impl Fn(&Times) -> f64) -> f64 {
    let mut values: Vec<f64> = times.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(stages: &mut Table, whole: &mut Table, name: &str, case: &Case<'_>, times: &[Times]) {
    let best = |of: fn(&Times) -> &[f64; AT_ONCE.len()]| {
        let medians = (0..AT_ONCE.len()).map(|at| (median(times, |t| of(t)[at]), AT_ONCE[at]));
        medians.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    };
    let stored = case.stored_bytes();
    let (put, put_at_once) = best(|t| &t.plain_put);
    let (get, get_at_once) = best(|t| &t.plain_get);
    let (send, fetch) = (median(times, |t| t.send), median(times, |t| t.fetch));
    let fetched = times.last().map_or(0, |t| t.fetched);
    let requests = times.last().map_or(0, |t| t.requests);
    let share = |share: f64| format!("{:.0} %", 100.0 * share);
    stages.row(vec![
        name.to_owned(),
        bytes(stored),
        case.packs.len().to_string(),
        format!("{} ({put_at_once} at once)", rate(stored, put)),
        rate(stored, send),
        share(put / send),
        format!("{} ({get_at_once} at once)", rate(stored, get)),
        format!("{} of {}", rate(fetched, fetch), bytes(fetched)),
        requests.to_string(),
        share((fetched as f64 / fetch) / (stored as f64 / get)),
    ]);
    let seconds = |of: fn(&Times) -> f64| format!("{:.2} s", median(times, of));
    whole.row(vec![
        name.to_owned(),
        bytes(case.raw_bytes),
        seconds(|t| t.save),
        seconds(|t| t.encode),
        rate(case.raw_bytes, median(times, |t| t.save)),
        seconds(|t| t.restore),
        seconds(|t| t.decode),
        rate(case.raw_bytes, median(times, |t| t.restore)),
    ]);
}

/// A checkpoint of made-up bf16 weights, in tensors of 32 MiB.
fn write_weights(dir: &Path, len_bytes: u64) -> Result<(), Failure> {
    const TENSOR_BYTES: u64 = 32 << 20;
    fs::create_dir(dir)?;
    let mut noise = Noise::new(7);
    for number in 0..len_bytes.div_ceil(TENSOR_BYTES) {
        let header = format!(
            r#"{{"w.{number}":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{TENSOR_BYTES}]}}}}"#,
            TENSOR_BYTES / 2
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend((0..TENSOR_BYTES / 2).flat_map(|_| bf16_weight(&mut noise).to_le_bytes()));
        fs::write(dir.join(format!("weights-{number:03}.safetensors")), file)?;
    }
    Ok(())
}
