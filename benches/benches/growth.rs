//! How much a store grows with each checkpoint, everything included, beside the floor and the best other tool.
//!
//! "Everything" is the difference of the store folder's bytes: packs with their footers, manifest, slot, rollups. Each
//! checkpoint is restored and compared with its source; the store is verified at the strictest level.

use std::path::Path;

use tpde_bench::data::{DATA_VARIABLE, Run, demo_run, real_runs};
use tpde_bench::machine::{describe, tree_bytes};
use tpde_bench::report::{Table, bytes};
use tpde_store::{Objects, RestoreRequest, SaveRequest, Silent, Store, VerifyLevel, VerifyRequest, config};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("growth of a store, in bytes, on {}\n", describe());
    let mut runs = vec![demo_run()];
    match real_runs() {
        Some(more) => runs.extend(more),
        None => println!("{DATA_VARIABLE} is not set: only the project's own run is measured\n"),
    }
    let mut table = Table::new(&[
        "run",
        "checkpoint",
        "raw",
        "grows by",
        "ratio",
        "floor",
        "x floor",
        "best peer",
        "identical",
    ]);
    for run in &runs {
        measure(run, &mut table)?;
    }
    table.print();
    Ok(())
}

fn measure(run: &Run, table: &mut Table) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("store");
    let objects = Objects::open_or_make(place.to_str().ok_or("a temporary path is not UTF-8")?)?;
    config::init(&objects)?;
    let store = Store::over(objects, None)?;
    let mut before = tree_bytes(&place)?;
    for step in &run.steps {
        let report = store.save(
            &SaveRequest::new(&step.source, run.name.parse()?, step.step),
            &Silent,
        )?;
        let after = tree_bytes(&place)?;
        let grown = after - before;
        before = after;
        let target = dir.path().join(format!("back-{}", step.step));
        let request = RestoreRequest {
            manifest: report.manifest,
            target: target.clone(),
            files: None,
            tensors: None,
            overwrite: false,
        };
        store.restore(&request, &Silent)?;
        let identical = same(&step.source, &target)?;
        table.row(vec![
            run.name.into(),
            step.name.into(),
            bytes(report.raw_bytes),
            bytes(grown),
            format!("{:.2}x", report.raw_bytes as f64 / grown as f64),
            step.floor_bytes.map_or(String::new(), bytes),
            step.floor_bytes
                .map_or(String::new(), |f| format!("{:.3}", grown as f64 / f as f64)),
            step.best_peer
                .map_or(String::new(), |(n, name)| format!("{} ({name})", bytes(n))),
            if identical {
                "yes".into()
            } else {
                return Err(format!("{} was not restored", step.name).into());
            },
        ]);
    }
    let verified = store.verify(
        &VerifyRequest {
            level: VerifyLevel::Restore,
            only: None,
        },
        &Silent,
    )?;
    if !verified.problems.is_empty() {
        return Err(format!("verify found {:?}", verified.problems).into());
    }
    Ok(())
}

/// Whether two trees hold the same files with the same bytes; a single file stands in the target under its own name.
fn same(source: &Path, target: &Path) -> Result<bool, Failure> {
    if source.is_file() {
        let name = source.file_name().ok_or("a source has no name")?;
        return Ok(std::fs::read(source)? == std::fs::read(target.join(name))?);
    }
    let mut names = 0;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        names += 1;
        if !same_entry(&entry.path(), &target.join(entry.file_name()))? {
            return Ok(false);
        }
    }
    Ok(std::fs::read_dir(target)?.count() == names)
}

fn same_entry(a: &Path, b: &Path) -> Result<bool, Failure> {
    if a.is_dir() {
        same(a, b)
    } else {
        Ok(std::fs::read(a)? == std::fs::read(b)?)
    }
}
