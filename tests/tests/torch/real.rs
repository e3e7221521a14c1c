//! Files that PyTorch wrote, where there are any.

use std::path::{Path, PathBuf};

use tpde_store::VerifyLevel;
use tpde_store::manifest::FileContent;
use tpde_tests::verify;

use crate::Bench;

/// Files below `folder` that are called as PyTorch's are.
fn torch_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_named = [".pt", ".pth", ".pth.tar", ".ckpt", ".bin"]
            .iter()
            .any(|end| path.to_string_lossy().ends_with(end));
        if path.is_dir() {
            torch_files(&path, found);
        } else if is_named {
            found.push(path);
        }
    }
}

/// Promise: checkpoints that PyTorch wrote come back byte for byte, and most of each is tensors.
#[test]
fn real_files() {
    let mut files = Vec::new();
    if let Some(folder) = std::env::var_os("TPDE_DATA") {
        torch_files(Path::new(&folder), &mut files);
    }
    if files.is_empty() {
        println!("skipped: no PyTorch file below the folder that TPDE_DATA names");
        return;
    }
    let mut bench = Bench::new();
    for path in &files {
        let bytes = std::fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (report, manifest) = bench.keeps(name, &bytes);
        let file = &manifest.files[0];
        let outside = manifest.blobs_len_bytes(file);
        println!(
            "{name}: {} tensors, {outside} of {} bytes outside them, stored in {}{}",
            report.tensors,
            bytes.len(),
            report.stored_bytes,
            report
                .kept_whole
                .first()
                .map_or(String::new(), |kept| format!("; {}", kept.why))
        );
        if matches!(file.content, FileContent::Torch { .. }) {
            let most = 200_000 + 1500 * u64::from(report.tensors);
            assert!(outside < most, "{name}: {outside} bytes are no tensor's");
        }
    }
    assert_eq!(verify(&bench.store, VerifyLevel::Restore).problems, []);
}
