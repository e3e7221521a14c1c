//! Where the checkpoints come from.

use std::path::{Path, PathBuf};

/// Variable that names a folder with more real checkpoints than the project carries.
pub const DATA_VARIABLE: &str = "TPDE_DATA";

/// One checkpoint of a run to be saved, and what its growth is held against.
#[derive(Debug, Clone)]
pub struct Step {
    /// Training step, or any number that orders the run.
    pub step: u64,
    /// What to call it.
    pub name: &'static str,
    /// The directory or file.
    pub source: PathBuf,
    /// What an ideal adaptive code (per tensor and exponent class, tensor payload only) takes, in bytes, if known.
    pub floor_bytes: Option<u64>,
    /// The best other tool measured on the same pair, in bytes, and its name.
    pub best_peer: Option<(u64, &'static str)>,
}

/// A run: its first step is stored alone, each later one after those before it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of the run.
    pub name: &'static str,
    /// Its checkpoints.
    pub steps: Vec<Step>,
}

fn step(step: u64, name: &'static str, source: PathBuf) -> Step {
    Step {
        step,
        name,
        source,
        floor_bytes: None,
        best_peer: None,
    }
}

impl Step {
    fn floor(mut self, bytes: u64) -> Self {
        self.floor_bytes = Some(bytes);
        self
    }

    fn peer(mut self, bytes: u64, name: &'static str) -> Self {
        self.best_peer = Some((bytes, name));
        self
    }
}

/// The runs of the folder that [`DATA_VARIABLE`] names; `None` if it is not set.
///
/// Floors and peers were measured once on these very files; see `benches/record/README.md`.
pub fn real_runs() -> Option<Vec<Run>> {
    let root = PathBuf::from(std::env::var_os(DATA_VARIABLE)?);
    let tiny = |dir: &str| root.join("tinycode").join(dir);
    let state = |n: u64| root.join(format!("state1m/step{n:05}.safetensors"));
    let base = || {
        step(0, "base", tiny("base"))
            .floor(7_130_000)
            .peer(7_130_000, "lmz, tensors alone")
    };
    Some(vec![
        Run {
            name: "tinycode-rl",
            steps: vec![
                base(),
                step(40, "rl-step00040", tiny("rl-step00040")),
                step(50, "rl-step00050", tiny("rl-step00050"))
                    .floor(69_000)
                    .peer(160_000, "pcodec-8 on ulp"),
            ],
        },
        Run {
            name: "tinycode-far",
            steps: vec![base(), step(200, "rl-far", tiny("rl-far")).floor(1_940_000)],
        },
        Run {
            name: "tinycode-ft",
            steps: vec![
                base(),
                step(300, "ft-docs", tiny("ft-docs"))
                    .floor(3_770_000)
                    .peer(4_230_000, "pcodec-8 on ulp"),
            ],
        },
        Run {
            name: "tinymoe",
            steps: vec![step(0, "tinymoe", root.join("tinymoe"))],
        },
        Run {
            name: "state1m-10",
            steps: vec![
                step(500, "step 500", state(500)),
                step(510, "step 510", state(510))
                    .floor(9_720_000)
                    .peer(10_600_000, "pcodec-8 on ulp"),
                step(600, "step 600", state(600)),
            ],
        },
        Run {
            name: "state1m-1",
            steps: vec![
                step(500, "step 500", state(500)),
                step(501, "step 501", state(501))
                    .floor(4_000_000)
                    .peer(9_400_000, "pcodec-8 on ulp"),
            ],
        },
    ])
}

/// The run that the project carries, expanded by `make fixtures`.
///
/// # Panics
/// If it was not expanded: run `make fixtures`.
#[expect(clippy::panic, reason = "a measurement without its data must stop")]
pub fn demo_run() -> Run {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures");
    if !root.is_dir() {
        panic!("{} is missing: run `make fixtures`", root.display());
    }
    let dir = |n: u64| root.join(format!("step-{n:05}"));
    Run {
        name: "demo",
        steps: vec![
            step(0, "base", dir(0)),
            step(40, "rl-step00040", dir(40)),
            step(50, "rl-step00050", dir(50)),
            step(200, "rl-far", dir(200)),
        ],
    }
}

/// Bytes that repeat from a seed; about 2 GB/s.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// One bf16 weight shaped like a trained model's: exponents fall off geometrically below 2^-4.
#[expect(clippy::cast_possible_truncation, reason = "bits are picked out")]
pub fn bf16_weight(noise: &mut Noise) -> u16 {
    let word = noise.word();
    let exponent = 122 - (word as u32 | 1 << 24).trailing_zeros() as u16;
    ((word >> 63) as u16) << 15 | exponent << 7 | ((word >> 32) as u16 & 0x7f)
}
