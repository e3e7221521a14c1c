//! Golden files: what a released format looked like, and what it must decode to for ever.
//!
//! `tests/golden/v1_0/` was written once, by `cargo run -p tpde-tests --bin golden -- tests/golden/v1_0`, and is never edited. The inputs are
//! made by functions that are never changed either, so that they need not be kept beside it. A later format gets a folder and a
//! module of its own.

pub mod v1_0;

use std::path::{Path, PathBuf};

use tpde_core::{Dtype, Relation};

/// One slice that was encoded.
#[derive(Debug, Clone)]
pub struct GoldenFrame {
    /// Name of its file, without the ending.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// What it decodes to.
    pub new: Vec<u8>,
    /// What it may have been taken against.
    pub base: Option<Vec<u8>>,
    /// What it may have been given.
    pub given: Option<(Relation, Vec<u8>)>,
}

/// The folder of the golden files of a version, such as `v1_0`.
pub fn folder(version: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("golden").join(version)
}
