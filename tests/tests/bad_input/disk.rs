//! Disks that are full, and files that may not grow.

use super::*;

/// A small file system, mounted for one test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this user may not mount one.
    fn new(at: &Path, bytes: usize) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tpde-test"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "{} stays mounted",
            self.0.display()
        );
    }
}

fn write_large_checkpoint(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let weights = bf16_weights(&mut Rng::new(5), 1 << 20);
    write_safetensors(
        &dir.join("m.safetensors"),
        &[("w", "BF16", vec![1 << 20], weights)],
    );
}

#[test]
fn a_full_disk() {
    // Promise: a save to a full disk says so and what to do, leaves the store as it was and no rubbish that keeps the disk full;
    // a restore to a full disk leaves no part of a file.
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(&scratch.path().join("disk"), 1 << 20) else {
        // Past the capture of a passing test's output.
        let message =
            "NOT RUN: this user may not mount a small disk; only a_file_size_limit covers full disks";
        writeln!(std::io::stderr(), "{message}").unwrap();
        return;
    };
    println!("a full disk: a mounted tmpfs of 1 MiB");
    let at = |name: &str| scratch.path().join(name);
    write_checkpoint(&at("small"), 1);
    write_large_checkpoint(&at("large"));
    let place = disk.0.join("store");
    let store = make_store(&place);
    save(&store, &at("small"), 1).unwrap();
    let (before, files) = (reachable(&store), tree(&place));

    let error = save(&store, &at("large"), 2).unwrap_err();
    assert!(matches!(error, StoreError::Backend { .. }), "{error}");
    says(&error.to_string(), "packs/", "Free some space");
    let store = open_store(&place, None).unwrap();
    assert!(reachable(&store) == before);
    assert_eq!(verify(&store, VerifyLevel::Restore).problems, []);
    let left: Vec<_> = tree(&place)
        .into_iter()
        .filter(|(path, (_, bytes))| bytes.is_some() && !files.contains_key(path))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(left, [] as [PathBuf; 0], "rubbish on a full disk");
    // There is room for little things still.
    write_checkpoint(&at("small2"), 2);
    save(&store, &at("small2"), 2).unwrap();
    restore(&store, "run@2", &at("back2")).unwrap();
    assert_same_tree(&at("small2"), &at("back2"), "after the disk was full");

    let roomy = make_store(&at("roomy"));
    save(&roomy, &at("large"), 1).unwrap();
    let error = restore(&roomy, "run@1", &disk.0.join("back")).unwrap_err();
    says(&error.to_string(), "m.safetensors", "Free some space");
    assert_eq!(
        fs::read_dir(disk.0.join("back")).unwrap().count(),
        0,
        "part of a file was left"
    );
}

/// Runs a worker that may not write files longer than `kib`.
fn limited(kib: usize, args: &[&Path]) -> Output {
    // Blocks of 512 bytes in a POSIX shell; the signal is ignored, so that a long write fails instead.
    let script = format!("trap '' XFSZ; ulimit -f {} || exit 99; exec \"$@\"", 2 * kib);
    Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_worker")])
        .args(args)
        .env_remove("TPDE_CACHE_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_file_size_limit() {
    // Promise: a disk that takes no more bytes of a file (here: a process limit) is an error with a way out, and the store
    // stays as it was; a restore leaves no part of a file.
    let bench = Bench::new();
    println!("a disk that refuses: a limit of 100 KiB on file sizes");
    write_large_checkpoint(&bench.at("large"));
    let arg = |text: &'static str| Path::new(text);
    let (store, large) = (bench.at("store"), bench.at("large"));
    let output = limited(100, &[arg("save"), &store, arg("run"), arg("2"), &large]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    says(&text, "packs/", "Free some space");
    bench.is_as_it_was();

    let roomy = make_store(&bench.at("roomy"));
    save(&roomy, &large, 1).unwrap();
    let (roomy, back) = (bench.at("roomy"), bench.at("back"));
    let output = limited(100, &[arg("restore"), &roomy, arg("run@1"), &back]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    says(&text, "m.safetensors", "run the command again");
    assert_eq!(fs::read_dir(&back).unwrap().count(), 0, "part of a file was left");
}
