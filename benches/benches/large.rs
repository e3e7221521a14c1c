//! A checkpoint of 4 GiB: time and memory of saving it, of saving its successor (2 % of the weights moved by a few ulps),
//! and of restoring both.
//!
//! Every command runs in a process of its own (this program, started again), so that the memory reported is that command's.
//! `TPDE_LARGE_MIB` changes the size, `TPDE_LARGE_DIR` the folder.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tpde_bench::data::{Noise, bf16_weight};
use tpde_bench::machine::{describe, peak_resident_bytes, tree_bytes};
use tpde_bench::report::{Table, bytes, rate};
use tpde_store::{Objects, RestoreRequest, SaveRequest, Silent, Store, config};

type Failure = Box<dyn std::error::Error>;

/// Files of the checkpoint, each with two tensors of half its size.
const SHARDS: u64 = 4;
const DEFAULT_MIB: u64 = 4096;
/// Share of the weights that the second step moves, in 1/65536.
const CHANGED: u64 = 1311;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["save", store, source, step] => {
            let report = open(store)?.save(
                &SaveRequest::new(source, "large".parse()?, step.parse()?),
                &Silent,
            )?;
            println!("{} {}", peak_resident_bytes(), report.stored_bytes);
            Ok(())
        }
        ["restore", store, reference, target] => {
            let store = open(store)?;
            let manifest = store.resolve(reference)?.manifest;
            let request = RestoreRequest {
                manifest,
                target: target.into(),
                files: None,
                tensors: None,
                overwrite: false,
            };
            store.restore(&request, &Silent)?;
            println!("{} 0", peak_resident_bytes());
            Ok(())
        }
        _ => measure(),
    }
}

fn open(place: &str) -> Result<Store, Failure> {
    Ok(Store::over(Objects::open(place)?, None)?)
}

fn measure() -> Result<(), Failure> {
    let mib = std::env::var("TPDE_LARGE_MIB")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(DEFAULT_MIB);
    let dir = match std::env::var_os("TPDE_LARGE_DIR") {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    println!("a checkpoint of {mib} MiB in {SHARDS} files, on {}\n", describe());
    let steps = [dir.path().join("step-1"), dir.path().join("step-2")];
    write_steps(&steps, mib << 20)?;
    let store = dir.path().join("store");
    let place = store.to_str().ok_or("a temporary path is not UTF-8")?;
    config::init(&Objects::open_or_make(place)?)?;
    let mut table = Table::new(&[
        "command",
        "seconds",
        "of raw bytes",
        "peak resident",
        "store holds",
    ]);
    let raw = tree_bytes(&steps[0])?;
    for (i, source) in steps.iter().enumerate() {
        let step = (i + 1).to_string();
        run(
            &mut table,
            &store,
            raw,
            &format!("save step {step}"),
            &["save", place, path(source)?, &step],
        )?;
    }
    for (i, source) in steps.iter().enumerate() {
        let target = dir.path().join(format!("back-{}", i + 1));
        let reference = format!("large@{}", i + 1);
        run(
            &mut table,
            &store,
            raw,
            &format!("restore step {}", i + 1),
            &["restore", place, &reference, path(&target)?],
        )?;
        compare(source, &target)?;
        std::fs::remove_dir_all(&target)?;
    }
    table.print();
    println!("every restored file was compared with its source: identical");
    Ok(())
}

fn path(path: &Path) -> Result<&str, Failure> {
    Ok(path.to_str().ok_or("a temporary path is not UTF-8")?)
}

fn run(table: &mut Table, store: &Path, raw: u64, name: &str, args: &[&str]) -> Result<(), Failure> {
    let start = Instant::now();
    let output = Command::new(std::env::current_exe()?).args(args).output()?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let resident: u64 = text
        .split_whitespace()
        .next()
        .ok_or("the child said nothing")?
        .parse()?;
    table.row(vec![
        name.into(),
        format!("{seconds:.1}"),
        rate(raw, seconds),
        format!("{} MiB", resident >> 20),
        bytes(tree_bytes(store)?),
    ]);
    Ok(())
}

fn write_steps(steps: &[PathBuf; 2], len_bytes: u64) -> Result<(), Failure> {
    let elems = len_bytes / SHARDS / 2 / 2;
    for dir in steps {
        std::fs::create_dir(dir)?;
    }
    for shard in 0..SHARDS {
        let header = format!(
            r#"{{"a.{shard}":{{"dtype":"BF16","shape":[{elems}],"data_offsets":[0,{}]}},"b.{shard}":{{"dtype":"BF16","shape":[{elems}],"data_offsets":[{},{}]}}}}"#,
            2 * elems,
            2 * elems,
            4 * elems
        );
        let mut files = Vec::new();
        for dir in steps {
            let mut file = BufWriter::with_capacity(
                1 << 20,
                File::create(dir.join(format!("model-{shard}.safetensors")))?,
            );
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            files.push(file);
        }
        let (mut noise, mut dice) = (Noise::new(shard * 2 + 1), Noise::new(1000 + shard));
        for _ in 0..2 * elems {
            let weight = bf16_weight(&mut noise);
            let roll = dice.word();
            let moved = if roll & 0xffff < CHANGED {
                weight ^ (1 + (roll >> 32 & 1) as u16)
            } else {
                weight
            };
            files[0].write_all(&weight.to_le_bytes())?;
            files[1].write_all(&moved.to_le_bytes())?;
        }
    }
    Ok(())
}

fn compare(a: &Path, b: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(a)? {
        let name = entry?.file_name();
        let (mut left, mut right) = (File::open(a.join(&name))?, File::open(b.join(&name))?);
        if left.metadata()?.len() != right.metadata()?.len() {
            return Err(format!("{name:?} has another length").into());
        }
        let (mut x, mut y) = (vec![0; 8 << 20], vec![0; 8 << 20]);
        loop {
            let n = left.read(&mut x)?;
            if n == 0 {
                break;
            }
            right.read_exact(&mut y[..n])?;
            if x[..n] != y[..n] {
                return Err(format!("{name:?} differs").into());
            }
        }
    }
    Ok(())
}
