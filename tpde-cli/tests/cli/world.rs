//! A folder with a store, and the checkpoints of a tiny run to put into it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Elements of the weight that moves from step to step.
const ELEMS: usize = 4096;

/// A temporary folder, in which `tpde` runs.
pub(crate) struct World {
    dir: TempDir,
}

/// What one run of `tpde` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Fails the test unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// The answer as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!(self.err.is_empty() && self.out.lines().count() == 1, "{self:#?}");
        serde_json::from_str(&self.out).expect("one JSON object")
    }

    /// The error as JSON: its kind and its message.
    #[track_caller]
    pub(crate) fn error(&self) -> (String, String) {
        assert!(self.out.is_empty() && self.err.lines().count() == 1, "{self:#?}");
        let value: Value = serde_json::from_str(&self.err).expect("one JSON object");
        let text = |name: &str| value["error"][name].as_str().expect("a text").to_owned();
        (text("kind"), text("message"))
    }
}

impl World {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir }
    }

    /// A store that holds steps 500 and 600 of run `llama`, the newer one tagged `best`.
    pub(crate) fn with_run() -> Self {
        let world = Self::empty();
        world.run("init ckpts").expect(0);
        for step in [500, 600] {
            world.checkpoint(&format!("out/checkpoint-{step}"), step);
            world
                .run(&format!(
                    "save out/checkpoint-{step} --run llama --step {step} --metric loss=1.{step} --note tried"
                ))
                .expect(0);
        }
        world.run("tag best llama@600").expect(0);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a checkpoint directory: a small model in two tensors, and a configuration.
    pub(crate) fn checkpoint(&self, name: &str, step: u64) {
        let dir = self.path(name);
        std::fs::create_dir_all(dir.join("tokenizer")).expect("a folder");
        let moved: Vec<u8> = (0..ELEMS as u64)
            .flat_map(|i| {
                let drift = if i % 37 == step % 37 { 1 } else { 0 };
                u16::try_from(0x3c00 + i * 7 % 900 + drift)
                    .expect("bf16")
                    .to_le_bytes()
            })
            .collect();
        let norm = [0x80, 0x3f].repeat(64);
        let tensors = [("model.layers.0.weight", moved), ("model.norm.weight", norm)];
        write_safetensors(&dir.join("model.safetensors"), &tensors);
        std::fs::write(dir.join("config.json"), format!("{{\"step\": {step}}}\n")).expect("a file");
        std::fs::write(dir.join("tokenizer/vocab.txt"), "a\nb\n").expect("a file");
    }

    /// A command in this folder, with the store named and nothing of the tester's environment in the way.
    pub(crate) fn tpde(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tpde"));
        command
            .current_dir(self.dir.path())
            .env("TPDE_STORE", "ckpts")
            .env("TPDE_CACHE_DIR", self.path("cache"));
        for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TPDE_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `tpde` with the words of `line`.
    pub(crate) fn run(&self, line: &str) -> Ran {
        ran(self.tpde().args(line.split_whitespace()))
    }

    /// Flips one byte in the middle of every pack.
    pub(crate) fn damage_packs(&self) {
        let mut packs = 0;
        for folder in std::fs::read_dir(self.path("ckpts/packs")).expect("packs") {
            for pack in std::fs::read_dir(folder.expect("a folder").path()).expect("a folder") {
                damage(&pack.expect("a pack").path());
                packs += 1;
            }
        }
        assert!(packs > 0);
    }

    /// Flips one byte in the middle of the newest record of the run.
    pub(crate) fn damage_newest_slot(&self) {
        let slots = std::fs::read_dir(self.path("ckpts/runs/llama")).expect("slots");
        let newest = slots.map(|slot| slot.expect("a slot").path()).min();
        damage(&newest.expect("a slot"));
    }
}

fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::remove_file(file).expect("a file");
    std::fs::write(file, bytes).expect("a file");
}

/// Runs `command` to its end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("tpde starts");
    Ran {
        code: status.code().expect("tpde ends by itself"),
        out: String::from_utf8(stdout).expect("UTF-8"),
        err: String::from_utf8(stderr).expect("UTF-8"),
    }
}

/// Writes bf16 vectors as a safetensors file.
pub(crate) fn write_safetensors(path: &Path, tensors: &[(&str, Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, bytes) in tensors {
        let end = at + bytes.len();
        let entry = serde_json::json!({
            "dtype": "BF16", "shape": [bytes.len() / 2], "data_offsets": [at, end],
        });
        header.insert((*name).to_owned(), entry);
        at = end;
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    tensors.iter().for_each(|(_, bytes)| file.extend(bytes));
    std::fs::write(path, file).expect("a file");
}
