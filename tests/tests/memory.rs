//! How much memory a save and a restore take.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tpde_tests::{Rng, bf16_weights, make_store, safetensors_header};

const MIB: usize = 1 << 20;
/// Elements of each tensor: one of 224 MiB, several of middling size, many small ones; 600 MiB together.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![("embed".to_owned(), vec![112 * MIB])];
    shapes.extend((0..5).map(|i| (format!("layers.{i}.mlp"), vec![1024, 32 * 1024])));
    shapes.extend((0..7).map(|i| (format!("layers.{i}.attn"), vec![MIB, 4])));
    shapes.push(("norm".to_owned(), vec![4096]));
    shapes
}

/// What any of it may hold at most: fixed windows, less than the checkpoint and its packs by far.
const LIMIT_KIB: u64 = 450 << 10;

/// Writes a checkpoint piece by piece: weights from `seed`; of step 2, two elements in a hundred differ from step 1.
fn write_checkpoint(dir: &Path, step: u64) -> u64 {
    fs::create_dir_all(dir).unwrap();
    let shapes = shapes();
    let elems = |shape: &[usize]| shape.iter().product::<usize>();
    let header: Vec<_> = shapes
        .iter()
        .map(|(name, shape)| (name.as_str(), "BF16", &shape[..], 2 * elems(shape)))
        .collect();
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    file.write_all(&safetensors_header(&header)).unwrap();
    let (mut rng, mut changes) = (Rng::new(3), Rng::new(step));
    for (_, shape) in &shapes {
        let mut left = elems(shape);
        while left > 0 {
            let piece = left.min(4 * MIB);
            let mut bytes = bf16_weights(&mut rng, piece);
            if step > 1 {
                (0..piece / 50).for_each(|_| bytes[2 * changes.below(piece)] ^= 1);
            }
            file.write_all(&bytes).unwrap();
            left -= piece;
        }
    }
    file.flush().unwrap();
    fs::metadata(path).unwrap().len()
}

/// Runs a worker; gives the most memory it held, in KiB, and the bytes that a save stored.
fn measured(args: &[&str]) -> (u64, u64) {
    let output = Command::new(env!("CARGO_BIN_EXE_worker"))
        .args(args)
        .env_remove("TPDE_CACHE_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let word = |start: &str, place: usize| {
        let line = text.lines().find(|l| l.starts_with(start))?;
        line.split(' ').nth(place)?.parse::<u64>().ok()
    };
    let Some(peak) = word("peak_kib", 1) else {
        panic!("this system does not tell how much memory a process took: the ceiling cannot be checked here")
    };
    (peak, word("committed", 3).unwrap_or(0))
}

fn same_bytes(a: &Path, b: &Path) -> bool {
    Command::new("cmp")
        .arg("-s")
        .arg(a)
        .arg(b)
        .status()
        .unwrap()
        .success()
}

#[test]
fn memory_stays_bounded() {
    // Promise: saving and restoring hold windows of a checkpoint in memory, never the checkpoint, and never all of a tensor.
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    make_store(&scratch.path().join("store"));
    let (store, one, two, back) = (at("store"), at("one"), at("two"), at("back"));
    let raw_bytes = write_checkpoint(Path::new(&one), 1);
    assert!(
        raw_bytes >= 590 << 20,
        "the checkpoint is too small to tell: {raw_bytes}"
    );
    let (first, first_bytes) = measured(&["save", &store, "run", "1", &one]);
    write_checkpoint(Path::new(&two), 2);
    let (second, second_bytes) = measured(&["save", &store, "run", "2", &two]);
    let (restored, _) = measured(&["restore", &store, "run@2", &back]);
    let mib = |kib: u64| kib >> 10;
    println!(
        "{} MiB of weights; peak of save 1: {} MiB, of save 2: {} MiB, of restore: {} MiB; stored {} and {} MiB",
        raw_bytes >> 20,
        mib(first),
        mib(second),
        mib(restored),
        first_bytes >> 20,
        second_bytes >> 20
    );
    let file = "model.safetensors";
    assert!(same_bytes(
        &Path::new(&two).join(file),
        &Path::new(&back).join(file)
    ));
    assert!(
        !same_bytes(&Path::new(&one).join(file), &Path::new(&back).join(file)),
        "cmp cannot fail"
    );
    assert!(
        second_bytes < first_bytes / 4,
        "the second save took no delta: {second_bytes} of {first_bytes}"
    );
    for (what, peak) in [("save 1", first), ("save 2", second), ("restore", restored)] {
        assert!(
            peak <= LIMIT_KIB,
            "{what} held {} MiB, at most {} are allowed",
            mib(peak),
            mib(LIMIT_KIB)
        );
    }
}
