//! Promises across crates: what the tests of the store as a whole share.

pub mod fuzz;
pub mod golden;
pub mod servers;
pub mod torch;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tpde_store::keys::{Key, Prefix};
use tpde_store::{
    Objects, RestoreReport, RestoreRequest, RunName, SaveReport, SaveRequest, Silent, Store, StoreError,
    VerifyLevel, VerifyReport, VerifyRequest, config, history,
};

/// Numbers that look random and are the same in every run of a test (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A sequence of its own for each `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// One of `choices`.
    pub fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }
}

/// Bytes of `elems` bf16 weights: random signs and mantissas, exponents near that of 0.02.
pub fn bf16_weights(rng: &mut Rng, elems: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * elems + 8);
    while bytes.len() < 2 * elems {
        let four = rng.draw();
        let low = (four >> 48).trailing_zeros().min(7) as u64;
        // Four weights a draw: sign and mantissa as drawn, the exponent one of a few.
        let exponents = 0x0001_0001_0001_0001 * ((121 - low) << 7);
        bytes.extend_from_slice(&((four & 0x807f_807f_807f_807f) + exponents).to_le_bytes());
    }
    bytes.truncate(2 * elems);
    bytes
}

/// One tensor of a file to be written.
pub type Tensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

/// The safetensors header of tensors of these `(name, dtype, shape, bytes)`, length prefix included.
pub fn safetensors_header(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape, len_bytes) in tensors {
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + len_bytes]});
        header.insert((*name).into(), entry);
        at += len_bytes;
    }
    let text = serde_json::to_vec(&header).unwrap();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&text);
    bytes
}

/// Writes a safetensors file.
pub fn write_safetensors(path: &Path, tensors: &[Tensor<'_>]) {
    let shapes: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, *dtype, &shape[..], bytes.len()))
        .collect();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&safetensors_header(&shapes)).unwrap();
    for (.., bytes) in tensors {
        file.write_all(bytes).unwrap();
    }
}

/// A slice of a real training state (tests/data/state), weights and optimizer, 339 KiB.
pub fn training_state() -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/state");
    fs::read(data.join("step00500.safetensors")).unwrap()
}

/// Changes low bits of one element in fifty of a safetensors file, as a training step would; the header stays.
pub fn train(file: &mut [u8], rng: &mut Rng) {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let data = &mut file[8 + header..];
    for _ in 0..data.len() / 200 {
        data[4 * rng.below(data.len() / 4)] ^= 1 + (rng.draw() & 3) as u8;
    }
}

/// Everything below `root`: permissions, and bytes of files.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = meta.is_file().then(|| fs::read(&path).unwrap());
            if meta.is_dir() {
                open.push(path.clone());
            }
            let name = path.strip_prefix(root).unwrap().to_owned();
            all.insert(name, (meta.permissions().mode() & 0o777, bytes));
        }
    }
    all
}

/// Copies a folder and everything below it.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Fails unless two directories hold the same names, permissions and bytes.
pub fn assert_same_tree(expected: &Path, found: &Path, what: &str) {
    let (expected, found) = (tree(expected), tree(found));
    let shape = |tree: &BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>| {
        tree.iter()
            .map(|(path, (mode, bytes))| (path.clone(), *mode, bytes.as_ref().map(Vec::len)))
            .collect::<Vec<_>>()
    };
    assert_eq!(shape(&expected), shape(&found), "{what}");
    assert!(expected == found, "{what}: a file's bytes differ");
}

/// A folder in memory where the system has one (a flush is then free), else an ordinary temporary folder.
pub fn fast_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Makes a store at `place` and opens it without an index on disk.
pub fn make_store(place: &Path) -> Store {
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

/// Opens the store at `place`, as a new process would.
///
/// # Errors
/// As [`Store::over`].
pub fn open_store(place: &Path, cache: Option<&Path>) -> Result<Store, StoreError> {
    let objects = Objects::open(place.to_str().unwrap())?;
    Store::over(objects, cache.map(Path::to_owned))
}

/// The run that most tests save to.
pub fn run() -> RunName {
    "run".parse().unwrap()
}

/// Saves `dir` as a step of [`run`].
///
/// # Errors
/// As [`Store::save`].
pub fn save(store: &Store, dir: &Path, step: u64) -> Result<SaveReport, StoreError> {
    store.save(&SaveRequest::new(dir, run(), step), &Silent)
}

/// Restores all that `reference` names into `target`.
///
/// # Errors
/// As [`Store::resolve`] and [`Store::restore`].
pub fn restore(store: &Store, reference: &str, target: &Path) -> Result<RestoreReport, StoreError> {
    let request = RestoreRequest {
        manifest: store.resolve(reference)?.manifest,
        target: target.into(),
        files: None,
        tensors: None,
        overwrite: false,
    };
    store.restore(&request, &Silent)
}

/// Verifies the whole store.
pub fn verify(store: &Store, level: VerifyLevel) -> VerifyReport {
    store
        .verify(&VerifyRequest { level, only: None }, &Silent)
        .unwrap()
}

/// Every object of the store that a reader can reach, with its bytes: what a failed save must leave as it was.
pub fn reachable(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let objects = store.objects();
    let mut keys = vec![Key::Config];
    for run in history::runs(objects).unwrap() {
        for commit in history::log(objects, &run).unwrap().commits() {
            keys.push(Key::Slot(run.clone(), commit.seq));
            keys.push(Key::Manifest(commit.manifest));
            keys.extend(
                store
                    .manifest(commit.manifest)
                    .unwrap()
                    .packs
                    .into_iter()
                    .map(Key::Pack),
            );
        }
    }
    keys.into_iter()
        .map(|key| (key.to_string(), objects.get(&key).unwrap().to_vec()))
        .collect()
}

/// Every object of the store, reachable or not, with its bytes.
pub fn everything(objects: &Objects) -> Vec<(Key, Vec<u8>)> {
    let listed = objects.list(&Prefix::Root).unwrap();
    listed
        .into_iter()
        .map(|l| (l.key.clone(), objects.get(&l.key).unwrap().to_vec()))
        .collect()
}

/// A store in memory that holds exactly these objects.
pub fn store_of(all: impl IntoIterator<Item = (Key, Vec<u8>)>) -> Objects {
    let objects = Objects::memory();
    for (key, bytes) in all {
        objects.create(&key, bytes.into()).unwrap();
    }
    objects
}

/// Whether the long rounds were asked for: `TPDE_SOAK=1`, as in `make soak`.
pub fn soak() -> bool {
    std::env::var_os("TPDE_SOAK").is_some_and(|value| value == "1")
}

/// The most memory that this process ever held, where the system tells.
pub fn peak_resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
