//! What is fuzzed: functions that take any bytes, each with what must hold whatever these are.
//!
//! ```text
//! seeds ─▶ mutate ─▶ run: no panic · no more memory than the bytes earn · what is read comes back the same when it is written and read again
//!    ▲                │
//!    └── was read ────┘
//! ```
//! [`drive`] runs a target on inputs that it makes up. It does not see what they cover; `fuzz/` runs the same functions under libFuzzer, which does.

mod drive;
mod file;
mod frame;
mod manifest;
mod mutate;
mod pack;
mod record;

pub use drive::{Tally, drive};

/// A function over any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, in `fuzz/` too.
    pub name: &'static str,
    /// Panics if a promise is broken; says whether the bytes were read, and not refused.
    pub run: fn(&[u8]) -> bool,
    /// Inputs to begin with, most of which are read.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs that are made up in a second or two.
    pub inputs: u32,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    frame::TARGET,
    pack::TARGET,
    manifest::TARGET,
    record::SLOT,
    record::ROLLUP,
    file::SAFETENSORS,
    file::TORCH,
];

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).unwrap()
}

/// All files below a folder of the golden store.
fn golden(folder: &str) -> Vec<Vec<u8>> {
    let files = crate::tree(&crate::golden::folder("v1_0").join(folder));
    files.into_values().filter_map(|(_, bytes)| bytes).collect()
}
