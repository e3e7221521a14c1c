//! The log of a run of 10 000 checkpoints, on local disk and on SeaweedFS: time of reading all of it, of the newest, of finding a step.

use std::time::Instant;

use rayon::prelude::*;
use tpde_bench::machine::describe;
use tpde_bench::report::Table;
use tpde_store::keys::Prefix;
use tpde_store::objects::Created;
use tpde_store::{
    CommitOptions, Fingerprint, ManifestId, Nonce, Objects, RunName, Store, Totals, commit, config, history,
};
use tpde_tests::servers::seaweedfs;

type Failure = Box<dyn std::error::Error>;

const COMMITS: u64 = 10_000;
const REPEATS: usize = 11;

fn main() -> Result<(), Failure> {
    println!(
        "a run of {COMMITS} checkpoints on local disk, on {}\n",
        describe()
    );
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("store");
    let objects = Objects::open_or_make(place.to_str().ok_or("a temporary path is not UTF-8")?)?;
    config::init(&objects)?;
    let run: RunName = "long".parse()?;
    let start = Instant::now();
    for step in 0..COMMITS {
        let new = commit::NewCommit {
            metrics: tpde_store::Metrics::default(),
            manifest: ManifestId::of(&step.to_le_bytes()),
            fingerprint: Fingerprint::of(&step.to_le_bytes()),
            step: 10 * step,
            nonce: Nonce::random()?,
            created_unix_ms: 1_700_000_000_000 + 61_000 * step,
            totals: Totals {
                raw_bytes: 2_000_000_000,
                stored_bytes: 20_000_000 + step * 17 % 9999,
                tensors: 300,
                new_tensors: 290,
            },
        };
        commit::commit(&objects, &run, &new, &CommitOptions::default())?;
    }
    println!(
        "committing them took {:.1} s ({:.2} ms each, flushed to disk)\n",
        start.elapsed().as_secs_f64(),
        start.elapsed().as_secs_f64() * 1e3 / COMMITS as f64
    );
    let mut table = Table::new(&["request", "median of 11, warm"]);
    let mut time = |name: &str, f: &dyn Fn() -> Result<(), Failure>| -> Result<(), Failure> {
        let mut seconds = Vec::new();
        for _ in 0..REPEATS {
            let start = Instant::now();
            f()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        table.row(vec![name.into(), format!("{:.2} ms", seconds[REPEATS / 2] * 1e3)]);
        Ok(())
    };
    time("the whole log", &|| {
        let log = history::log(&objects, &run)?;
        if log.records().len() as u64 == COMMITS {
            Ok(())
        } else {
            Err(format!("{} commits", log.records().len()).into())
        }
    })?;
    time("the newest checkpoint", &|| {
        Ok(history::newest(&objects, &run).map(drop)?)
    })?;
    time("a step in the middle", &|| {
        Ok(history::find_step(&objects, &run, 50_000).map(drop)?)
    })?;
    table.print();
    on_a_server(&objects, &run)
}

/// The same objects behind SeaweedFS on this machine: every time by a client that was just made, as `tpde log` is.
fn on_a_server(disk: &Objects, run: &RunName) -> Result<(), Failure> {
    let server = seaweedfs();
    let objects = server.endpoint().part("history");
    let all = disk.list(&Prefix::Root)?;
    all.par_iter().try_for_each(|listed| {
        let created = objects.create(&listed.key, disk.get(&listed.key)?)?;
        assert_eq!(created, Created::New, "{}", listed.key);
        Ok::<_, tpde_store::StoreError>(())
    })?;
    let mut table = Table::new(&["request, opening included", "median of 11, cold"]);
    type Request<'a> = &'a dyn Fn(&Objects) -> Result<usize, Failure>;
    let requests: [(&str, Request<'_>, usize); 2] = [
        (
            "the newest 50",
            &|objects| Ok(history::recent(objects, run, 50)?.commits.len()),
            50,
        ),
        (
            "the whole log",
            &|objects| Ok(history::log(objects, run)?.records().len()),
            usize::try_from(COMMITS)?,
        ),
    ];
    for (name, request, expected) in requests {
        let mut seconds = Vec::new();
        for _ in 0..REPEATS {
            let start = Instant::now();
            let store = Store::over(server.endpoint().part("history"), None)?;
            let found = request(store.objects())?;
            seconds.push(start.elapsed().as_secs_f64());
            if found != expected {
                return Err(format!("{found} commits instead of {expected}").into());
            }
        }
        seconds.sort_by(f64::total_cmp);
        table.row(vec![name.into(), format!("{:.0} ms", seconds[REPEATS / 2] * 1e3)]);
    }
    println!("\non SeaweedFS\n");
    table.print();
    Ok(())
}
