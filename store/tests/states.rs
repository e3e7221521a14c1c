//! Whole training states: weights, masters and moments, which are coded given one another.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tpde_store::manifest::TensorRecord;
use tpde_store::{
    Manifest, Objects, RestoreRequest, Role, SaveReport, SaveRequest, Silent, Store, StoreError, VerifyLevel,
    VerifyRequest, config,
};

/// A small training run: f32 masters that drift, weights that are their roundings, moments.
struct State {
    masters: Vec<f32>,
    step: u32,
}

const ELEMS: usize = 90_000;

fn dice(i: usize, seed: u32) -> u32 {
    let x = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    (x ^ x >> 13).wrapping_mul(0xc2b2_ae35) >> 3
}

/// Numbers of many sizes, as trained tensors have them.
fn number(i: usize, seed: u32, scale: f32) -> f32 {
    let d = dice(i, seed);
    let sign = if d & 1 == 0 { 1.0 } else { -1.0 };
    sign * scale * (1.0 + (d >> 8 & 0xf_ffff) as f32 / 1e6) / (1 << (d >> 1 & 7)) as f32
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// Rounds to nearest even, as trainers do.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).to_le_bytes()[..2]
        .try_into()
        .unwrap()
}

impl State {
    fn new() -> Self {
        Self {
            masters: (0..ELEMS).map(|i| number(i, 1, 0.05)).collect(),
            step: 0,
        }
    }

    fn train(&mut self) {
        self.step += 1;
        for (i, master) in self.masters.iter_mut().enumerate() {
            *master += number(i, 100 + self.step, 2e-6);
        }
    }

    fn weights(&self) -> Vec<u8> {
        self.masters.iter().flat_map(|&m| bf16(m)).collect()
    }

    /// Second moments of many sizes, and first moments whose sizes follow them.
    fn moments(&self) -> (Vec<u8>, Vec<u8>) {
        let size = |i: usize| 10f32.powi(-(dice(i, 7) as i32 & 15));
        let first = (0..ELEMS).map(|i| number(i, 200 + self.step, size(i)));
        let second =
            (0..ELEMS).map(|i| size(i) * size(i) * (1.0 + (dice(i, 300 + self.step) & 0xffff) as f32 * 1e-6));
        (bytes(first), bytes(second))
    }

    fn write_model(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let tensors = [("model.w", "BF16", self.weights())];
        safetensors(&dir.join("model.safetensors"), &tensors);
    }

    /// The model, and the optimizer's state in two more files.
    fn write(&self, dir: &Path) {
        self.write_model(dir);
        let (first, second) = self.moments();
        let masters = bytes(self.masters.iter().copied());
        safetensors(
            &dir.join("optimizer-1.safetensors"),
            &[
                ("optimizer.exp_avg.w", "F32", first),
                ("optimizer.master.w", "F32", masters),
            ],
        );
        safetensors(
            &dir.join("optimizer-2.safetensors"),
            &[("optimizer.exp_avg_sq.w", "F32", second)],
        );
    }
}

fn safetensors(path: &Path, tensors: &[(&str, &str, Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, bytes) in tensors {
        let width = if *dtype == "BF16" { 2 } else { 4 };
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry =
            serde_json::json!({"dtype": dtype, "shape": [bytes.len() / width], "data_offsets": offsets});
        header.insert((*name).into(), entry);
        data.extend_from_slice(bytes);
    }
    let text = serde_json::to_vec(&header).unwrap();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &text, &data].concat()).unwrap();
}

fn new_store(place: &Path) -> Store {
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

fn open(place: &Path) -> Store {
    Store::over(Objects::open(place.to_str().unwrap()).unwrap(), None).unwrap()
}

fn request(dir: &Path, step: u64) -> SaveRequest {
    SaveRequest::new(dir, "run".parse().unwrap(), step)
}

fn save(store: &Store, dir: &Path, step: u64) -> SaveReport {
    store.save(&request(dir, step), &Silent).unwrap()
}

fn restore(store: &Store, reference: &str, target: &Path) -> Result<(), StoreError> {
    let request = RestoreRequest {
        manifest: store.resolve(reference)?.manifest,
        target: target.into(),
        files: None,
        tensors: None,
        overwrite: false,
    };
    store.restore(&request, &Silent).map(drop)
}

fn assert_comes_back(store: &Store, reference: &str, source: &Path, scratch: &Path) {
    let target = scratch.join(format!("back-{reference}"));
    restore(store, reference, &target).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let back = fs::read(target.join(path.file_name().unwrap())).unwrap();
        assert!(
            fs::read(&path).unwrap() == back,
            "{reference}: {}",
            path.display()
        );
    }
    fs::remove_dir_all(target).unwrap();
}

/// Tensors of a checkpoint by role.
fn by_role(store: &Store, report: &SaveReport) -> (Manifest, BTreeMap<&'static str, TensorRecord>) {
    let manifest = store.manifest(report.manifest).unwrap();
    let tensors = manifest.named_tensors();
    let tensors = tensors
        .map(|(_, named, record)| (named.role.name(), record.clone()))
        .collect();
    (manifest, tensors)
}

fn sound(store: &Store) {
    let request = VerifyRequest {
        level: VerifyLevel::Restore,
        only: None,
    };
    assert_eq!(store.verify(&request, &Silent).unwrap().problems, []);
}

/// Promise: over a run, masters are given their weights and first moments their second ones, across files, weights stand alone,
/// depths stay within the limit, everything comes back, and masters cost less than under names that tell nothing.
#[test]
fn states_come_back() {
    const MAX_DEPTH: u8 = 3;
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir.path().join("store"));
    let mut state = State::new();
    let sources: Vec<PathBuf> = (0..8).map(|step| dir.path().join(format!("out{step}"))).collect();
    for (step, source) in (0u64..).zip(&sources) {
        state.write(source);
        let mut request = request(source, step);
        request.max_depth = MAX_DEPTH;
        let report = store.save(&request, &Silent).unwrap();
        let (manifest, tensors) = by_role(&store, &report);
        assert!(!manifest.archived_weights);
        assert_eq!(tensors.len(), 4);
        let reads = |role: Role| (tensors[role.name()].has_base, tensors[role.name()].is_given);
        assert_eq!(reads(Role::Weight), (step > 0, false), "step {step}");
        assert_eq!(reads(Role::Master), (step > 0, true), "step {step}");
        assert_eq!(reads(Role::ExpAvg), (false, true), "step {step}");
        assert!(!reads(Role::ExpAvgSq).1, "step {step}");
        let rank = |role: Role| tensors[role.name()].rank;
        assert!(rank(Role::Weight) <= MAX_DEPTH && rank(Role::ExpAvgSq) <= MAX_DEPTH);
        assert!(rank(Role::Master) > rank(Role::Weight) && rank(Role::Master) <= MAX_DEPTH + 1);
        assert_eq!(rank(Role::ExpAvg), rank(Role::ExpAvgSq) + 1);
        state.train();
    }
    for (step, source) in sources.iter().enumerate() {
        assert_comes_back(&store, &format!("run@{step}"), source, dir.path());
    }
    sound(&store);

    // The same masters and first moments, each in a checkpoint of its own, have nothing to be given.
    let (_, tensors) = by_role(
        &store,
        &SaveReport {
            manifest: store.resolve("run@0").unwrap().manifest,
            ..dummy()
        },
    );
    let state = State::new();
    for (role, bytes) in [
        (Role::Master, bytes(state.masters.iter().copied())),
        (Role::ExpAvg, state.moments().0),
    ] {
        let alone = dir.path().join(role.name());
        fs::create_dir(&alone).unwrap();
        let name = format!("optimizer.{}.w", role.name());
        safetensors(&alone.join("a.safetensors"), &[(&name, "F32", bytes)]);
        let elsewhere = new_store(&dir.path().join(format!("{}-store", role.name())));
        let (_, stored) = by_role(&elsewhere, &save(&elsewhere, &alone, 0));
        let (alone, given) = (&stored[role.name()], &tensors[role.name()]);
        assert!(!alone.is_given);
        assert!(
            given.stored_bytes < alone.stored_bytes * 99 / 100,
            "{}: {} given, {} alone",
            role.name(),
            given.stored_bytes,
            alone.stored_bytes
        );
    }
}

fn dummy() -> SaveReport {
    SaveReport {
        manifest: tpde_store::ManifestId::of(b""),
        seq: 0,
        already_there: false,
        raw_bytes: 0,
        stored_bytes: 0,
        files: 0,
        tensors: 0,
        new_tensors: 0,
        left_out: Vec::new(),
        kept_whole: Vec::new(),
    }
}

/// Promise: with the archive option weights cost next to nothing, are read through their masters, and the manifest says so; what
/// is no rounding of its master is stored as itself; without the option nothing of the kind happens, even after it was used.
#[test]
fn archived_weights_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir.path().join("store"));
    let archive = |source: &Path, step: u64| {
        let mut request = request(source, step);
        request.archive_weights = true;
        store.save(&request, &Silent).unwrap()
    };
    let mut state = State::new();
    let at = |name: &str| dir.path().join(name);
    state.write(&at("a"));
    let report = archive(&at("a"), 0);
    let (manifest, tensors) = by_role(&store, &report);
    assert!(manifest.archived_weights);
    let (weight, master) = (&tensors["weight"], &tensors["master"]);
    assert!(weight.stored_bytes < 300, "{}", weight.stored_bytes);
    assert_eq!((weight.rank, weight.is_given), (master.rank + 1, true));
    assert!(!master.is_given);

    state.train();
    state.write(&at("b"));
    archive(&at("b"), 1);
    // Weights that something was added to.
    let mut file = fs::read(at("b").join("model.safetensors")).unwrap();
    let len = file.len();
    file[len - ELEMS..]
        .iter_mut()
        .step_by(2)
        .for_each(|low| *low ^= 5);
    fs::create_dir(at("c")).unwrap();
    for name in ["optimizer-1.safetensors", "optimizer-2.safetensors"] {
        fs::copy(at("b").join(name), at("c").join(name)).unwrap();
    }
    fs::write(at("c").join("model.safetensors"), file).unwrap();
    let (manifest, tensors) = by_role(&store, &archive(&at("c"), 2));
    assert!(!manifest.archived_weights && !tensors["weight"].is_given);

    state.train();
    state.write(&at("d"));
    let (manifest, tensors) = by_role(&store, &save(&store, &at("d"), 3));
    assert!(!manifest.archived_weights && !tensors["weight"].is_given);
    // A weight that an archived checkpoint holds already is read through its master, and that is said.
    fs::remove_file(at("a").join("optimizer-2.safetensors")).unwrap();
    let (manifest, _) = by_role(&store, &save(&store, &at("a"), 4));
    assert!(manifest.archived_weights);
    for (step, name) in ["b", "c", "d", "a"].into_iter().enumerate() {
        assert_comes_back(&store, &format!("run@{}", step + 1), &at(name), dir.path());
    }
    sound(&store);
}

fn packs(place: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(place.join("packs")).unwrap();
    let all = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let mut all: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// Promise: a given tensor that is damaged or gone is an error that names its pack or itself, whatever else is sound; and what is
/// saved afterwards does not lean on it.
#[test]
fn a_given_tensor_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let store = new_store(&place);
    let state = State::new();
    let (model, whole) = (dir.path().join("model"), dir.path().join("whole"));
    state.write_model(&model);
    state.write(&whole);
    save(&store, &model, 0);
    let [weights] = packs(&place).try_into().unwrap();
    save(&store, &whole, 1);
    assert_comes_back(&store, "run@1", &whole, dir.path());

    let sound_bytes = fs::read(&weights).unwrap();
    let mut damaged = sound_bytes.clone();
    damaged[sound_bytes.len() / 2] ^= 8;
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&weights, damaged).unwrap();
    let error = restore(&open(&place), "run@1", &dir.path().join("never")).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let name = weights.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");

    fs::remove_file(&weights).unwrap();
    let error = restore(&open(&place), "run@1", &dir.path().join("never")).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("no pack holds"), "{error}");
    let request = VerifyRequest {
        level: VerifyLevel::Quick,
        only: None,
    };
    assert!(
        !open(&place)
            .verify(&request, &Silent)
            .unwrap()
            .problems
            .is_empty()
    );

    // Everything that leant on the pack is stored again.
    fs::write(whole.join("note.txt"), "again").unwrap();
    save(&open(&place), &whole, 2);
    assert_comes_back(&open(&place), "run@2", &whole, dir.path());
    restore(&open(&place), "run@1", &dir.path().join("healed")).unwrap();
}

/// Promise: a run that goes back to where it was takes its base from there, not from the newest checkpoint; and a run of dense
/// deltas starts a new branch before a restore reads more than the ratio allows.
#[test]
fn bases_are_chosen_by_cost() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir.path().join("store"));
    let mut near = State::new();
    let mut far = State::new();
    for master in &mut far.masters {
        *master *= 1.7;
    }
    // Steps 0 and 1 are near one another; 2 is far; 3 is near again, and its skip bases are 2 and 0.
    let mut costs = Vec::new();
    for step in 0..4 {
        let source = dir.path().join(format!("out{step}"));
        if step == 2 {
            far.write_model(&source);
        } else {
            near.write_model(&source);
            near.train();
        }
        let (_, tensors) = by_role(&store, &save(&store, &source, step));
        costs.push((tensors["weight"].stored_bytes, tensors["weight"].rank));
    }
    assert!(costs[3].0 < costs[2].0 / 3 && costs[3].1 == 1, "{costs:?}");
    assert_comes_back(&store, "run@3", &dir.path().join("out3"), dir.path());

    let deepest = |ratio: Option<f64>, name: &str| {
        let store = new_store(&dir.path().join(name));
        let mut ranks = Vec::new();
        let mut dense = State::new();
        for step in 0..10u64 {
            let source = dir.path().join(format!("{name}-{step}"));
            fs::create_dir(&source).unwrap();
            let masters = bytes(dense.masters.iter().copied());
            safetensors(&source.join("m.safetensors"), &[("w", "F32", masters)]);
            let mut request = request(&source, step);
            request.max_restore_ratio = ratio;
            let (_, tensors) = by_role(&store, &store.save(&request, &Silent).unwrap());
            ranks.push(tensors["weight"].rank);
            assert_comes_back(&store, &format!("run@{step}"), &source, dir.path());
            dense.train();
        }
        ranks.into_iter().max().unwrap()
    };
    let (free, bound) = (deepest(None, "free"), deepest(Some(2.0), "bound"));
    assert!(free == 9 && (1..5).contains(&bound), "{free} and {bound}");
    let senseless = deepest_request(&dir.path().join("out0"));
    assert!(matches!(
        store.save(&senseless, &Silent),
        Err(StoreError::Input { .. })
    ));
}

fn deepest_request(source: &Path) -> SaveRequest {
    let mut request = request(source, 9);
    request.max_restore_ratio = Some(0.5);
    request
}
