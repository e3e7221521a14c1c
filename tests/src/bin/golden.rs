//! Writes the golden files of the format, once: `golden FOLDER`.

use std::path::PathBuf;
use std::process::ExitCode;

use tpde_core::{Base, Given, Slice, encode_frame, tensor_id};
use tpde_store::Silent;
use tpde_tests::golden::v1_0;
use tpde_tests::make_store;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: golden FOLDER");
        return ExitCode::from(2);
    };
    if folder.exists() {
        eprintln!(
            "{} is there: golden files are written once and never changed",
            folder.display()
        );
        return ExitCode::FAILURE;
    }
    let frames = folder.join("frames");
    std::fs::create_dir_all(&frames).unwrap();
    for golden in v1_0::frames() {
        let slice = Slice {
            dtype: golden.dtype,
            total_elems: (golden.new.len() / golden.dtype.word_bytes()) as u64,
            index: 0,
        };
        let base = golden.base.as_ref().map(|bytes| Base {
            id: tensor_id(bytes),
            bytes,
        });
        let given = golden.given.as_ref().map(|(relation, bytes)| Given {
            relation: *relation,
            id: tensor_id(bytes),
            bytes,
        });
        let frame = encode_frame(slice, &golden.new, base, given).unwrap();
        std::fs::write(frames.join(format!("{}.frame", golden.name)), frame.bytes).unwrap();
    }
    let checkpoints = tempfile::tempdir().unwrap();
    let store = make_store(&folder.join("store"));
    for step in v1_0::STEPS {
        let checkpoint = checkpoints.path().join(step.to_string());
        v1_0::checkpoint(&checkpoint, step).unwrap();
        store.save(&v1_0::request(&checkpoint, step), &Silent).unwrap();
    }
    ExitCode::SUCCESS
}
