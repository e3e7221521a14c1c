//! A process of its own over the store library, for tests that kill, race or measure real processes.
//!
//! ```text
//! worker save STORE RUN STEP DIR        worker restore STORE REFERENCE TARGET
//! worker race STORE RUN COMMITS ID      worker hold FOLDER       (the index in FOLDER, until its input ends)
//! worker forget STORE RUN KEEP          (all but the newest KEEP)
//! worker gc STORE                       (no grace; writers that are not there any more are given up at once)
//! worker repack STORE
//! ```
//! The index lies in `TPDE_CACHE_DIR`, or in memory if that is not set. Work begins when the input has ended, so that
//! many can begin at once. Exit codes: one for each kind of error, below.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tpde_store::forget::Policy;
use tpde_store::index::SledIndex;
use tpde_store::{
    GcRequest, Objects, RepackRequest, RestoreRequest, RunName, SaveReport, SaveRequest, Silent, Store,
    StoreError, now_unix_ms,
};
use tpde_tests::{Rng, bf16_weights, peak_resident_kib, write_safetensors};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match work(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error.downcast_ref::<StoreError>() {
                Some(StoreError::Conflict { .. }) => 3,
                Some(StoreError::Input { .. }) => 4,
                Some(StoreError::Backend { .. }) => 5,
                Some(StoreError::Corrupt { .. }) => 6,
                Some(StoreError::NotFound { .. }) => 7,
                Some(StoreError::Newer { .. }) => 8,
                Some(StoreError::OutcomeUnknown { .. }) => 9,
                _ => 1,
            })
        }
    }
}

fn work(args: &[&str]) -> Result<(), Failure> {
    match args {
        ["hold", folder] => {
            let held = SledIndex::open(folder.as_ref()).ok_or("the index cannot be held")?;
            println!("held");
            std::io::stdout().flush()?;
            wait_for_the_end_of_input()?;
            drop(held);
        }
        ["save", store, run, step, dir] => {
            wait_for_the_end_of_input()?;
            let request = SaveRequest::new(dir, run.parse()?, step.parse()?);
            told(&open(store)?.save(&request, &Silent)?);
        }
        ["race", store, run, commits, id] => {
            let (run, commits, id): (RunName, u64, u64) = (run.parse()?, commits.parse()?, id.parse()?);
            wait_for_the_end_of_input()?;
            let store = open(store)?;
            for step in id * 1000..id * 1000 + commits {
                let dir = tempfile::tempdir()?;
                let weights = bf16_weights(&mut Rng::new(step), 500);
                write_safetensors(
                    &dir.path().join("m.safetensors"),
                    &[("w", "BF16", vec![500], weights)],
                );
                std::fs::write(dir.path().join("trainer.json"), format!("{{\"step\": {step}}}"))?;
                told(&store.save(&SaveRequest::new(dir.path(), run.clone(), step), &Silent)?);
            }
        }
        ["restore", store, reference, target] => {
            wait_for_the_end_of_input()?;
            let store = open(store)?;
            let request = RestoreRequest {
                manifest: store.resolve(reference)?.manifest,
                target: target.into(),
                files: None,
                tensors: None,
                overwrite: false,
            };
            store.restore(&request, &Silent)?;
        }
        ["forget", store, run, keep] => {
            wait_for_the_end_of_input()?;
            let policy = Policy {
                last: Some(keep.parse()?),
                ..Policy::default()
            };
            open(store)?.prune(&run.parse()?, &policy, now_unix_ms())?;
        }
        ["gc", store] => {
            wait_for_the_end_of_input()?;
            let now = GcRequest {
                grace: Duration::ZERO,
                lease_limit: Duration::ZERO,
                patience: None,
            };
            open(store)?.gc(&now, &Silent)?;
        }
        ["repack", store] => {
            wait_for_the_end_of_input()?;
            open(store)?.repack(&RepackRequest::default(), &Silent)?;
        }
        other => return Err(format!("unknown command {other:?}").into()),
    }
    if let Some(kib) = peak_resident_kib() {
        println!("peak_kib {kib}");
    }
    Ok(())
}

fn open(location: &str) -> Result<Store, StoreError> {
    let cache = std::env::var_os("TPDE_CACHE_DIR").map(PathBuf::from);
    Store::over(Objects::open(location)?, cache)
}

fn wait_for_the_end_of_input() -> std::io::Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn told(report: &SaveReport) {
    let how = if report.already_there {
        "already"
    } else {
        "committed"
    };
    println!(
        "{how} {} {} {}",
        report.seq,
        report.manifest.to_hex(),
        report.stored_bytes
    );
}
