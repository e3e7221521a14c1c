//! Promises about PyTorch files: tensors are found without running anything, and every file comes back byte for byte.

mod hostile;
mod real;

use std::fs;
use std::path::Path;

use globset::{Glob, GlobSet};
use tpde_store::manifest::{FileContent, Manifest};
use tpde_store::{Change, RestoreRequest, Role, SaveReport, Silent, Store, VerifyLevel};
use tpde_tests::torch::{Entry, Item, TensorItem, archive, dict, entries, pickle};
use tpde_tests::{Rng, assert_same_tree, bf16_weights, fast_folder, make_store, restore, save, verify};

/// A folder with a store, a checkpoint and a place to restore to.
struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    step: u64,
}

impl Bench {
    fn new() -> Self {
        let folder = fast_folder();
        let store = make_store(&folder.path().join("store"));
        Self {
            folder,
            store,
            step: 0,
        }
    }

    /// Saves one file as the next step, and restores it to the byte.
    fn keeps(&mut self, name: &str, bytes: &[u8]) -> (SaveReport, Manifest) {
        self.step += 1;
        let from = self.folder.path().join(format!("from{}", self.step));
        fs::create_dir(&from).unwrap();
        fs::write(from.join(name), bytes).unwrap();
        let report = save(&self.store, &from, self.step).unwrap();
        let to = self.folder.path().join(format!("to{}", self.step));
        restore(&self.store, &format!("run@{}", self.step), &to).unwrap();
        assert_same_tree(&from, &to, name);
        let manifest = self.store.manifest(report.manifest).unwrap();
        (report, manifest)
    }

    /// Saves a file that must be kept as plain bytes; why, if there is a reason to tell.
    fn keeps_whole(&mut self, name: &str, bytes: &[u8]) -> Option<&'static str> {
        let (report, manifest) = self.keeps(name, bytes);
        assert!(
            matches!(manifest.files[0].content, FileContent::Opaque { .. }),
            "{name}"
        );
        report.kept_whole.first().map(|kept| kept.why)
    }
}

/// What a manifest says of its tensors.
fn told(manifest: &Manifest) -> Vec<(&str, Role, &'static str, &[u64])> {
    let tensors = manifest.named_tensors();
    tensors
        .map(|(_, t, record)| (t.name.as_str(), t.role, record.dtype.name(), &t.shape[..]))
        .collect()
}

fn globs(glob: &str) -> Option<GlobSet> {
    Some(GlobSet::builder().add(Glob::new(glob).unwrap()).build().unwrap())
}

/// A training state: two weights of which one is tied, a view, an optimizer with moments by number.
fn training_state(rng: &mut Rng) -> (Item, Vec<(u32, Vec<u8>)>) {
    let whole = TensorItem::whole;
    let view = TensorItem {
        offset: 8,
        elems: 96,
        ..whole(4, "HalfStorage", &[4, 6])
    };
    let state = |first: u32| {
        dict([
            ("step", Item::Tensor(whole(9, "FloatStorage", &[]))),
            ("exp_avg", Item::Tensor(whole(first, "FloatStorage", &[40, 25]))),
            (
                "exp_avg_sq",
                Item::Tensor(whole(first + 1, "FloatStorage", &[40, 25])),
            ),
        ])
    };
    let weight = whole(0, "BFloat16Storage", &[40, 25]);
    let item = dict([
        (
            "model",
            dict([
                ("embed.weight", Item::Parameter(weight.clone())),
                ("norm.weight", Item::Tensor(whole(1, "DoubleStorage", &[7]))),
                ("head.weight", Item::Tensor(weight)),
                ("half", Item::Tensor(view)),
            ]),
        ),
        (
            "optimizer",
            dict([
                (
                    "state",
                    Item::Dict(vec![(Item::Int(0), state(5)), (Item::Int(1), state(7))]),
                ),
                (
                    "param_groups",
                    Item::List(vec![dict([(
                        "lr",
                        Item::Raw(vec![b'G', 63, 80, 98, 77, 210, 241, 169, 252]),
                    )])]),
                ),
            ]),
        ),
        ("epoch", Item::Int(-3)),
    ]);
    let mut floats = |count: usize| -> Vec<u8> {
        let words = bf16_weights(rng, count);
        words
            .chunks(2)
            .flat_map(|word| [0, 17, word[0], word[1]])
            .collect()
    };
    let mut storages: Vec<_> = [5, 6, 7, 8].map(|key| (key, floats(1000))).into();
    storages.extend([
        (0, bf16_weights(rng, 1000)),
        (1, vec![7; 56]),
        (4, vec![9; 192]),
        (9, 3f32.to_le_bytes().into()),
    ]);
    storages.push((77, b"of no tensor".to_vec()));
    (item, storages)
}

/// Promise: names, roles, dtypes and shapes are those of the pickle, with and without wide records; storages that are shared are
/// stored once; what is no tensor's is kept.
#[test]
fn a_training_state() {
    let mut bench = Bench::new();
    let (item, storages) = training_state(&mut Rng::new(1));
    let mut fingerprints = Vec::new();
    for (name, wide) in [("state.pt", false), ("state.pth.tar", true), ("any name", true)] {
        let (report, manifest) = bench.keeps(name, &archive(&entries(pickle(&item), &storages), wide));
        assert_eq!(report.kept_whole, []);
        assert_eq!(
            told(&manifest),
            [
                ("optimizer.state.0.exp_avg", Role::ExpAvg, "F32", &[40, 25][..]),
                ("optimizer.state.0.exp_avg_sq", Role::ExpAvgSq, "F32", &[40, 25]),
                ("optimizer.state.1.exp_avg", Role::ExpAvg, "F32", &[40, 25]),
                ("optimizer.state.1.exp_avg_sq", Role::ExpAvgSq, "F32", &[40, 25]),
                ("model.embed.weight", Role::Weight, "BF16", &[40, 25]),
                ("model.norm.weight", Role::Weight, "F64", &[7]),
                ("model.half", Role::Weight, "F16", &[96]),
                ("optimizer.state.0.step", Role::Other, "F32", &[]),
            ],
            "{name}"
        );
        fingerprints.push(manifest.fingerprint());
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 3);
    assert_eq!(verify(&bench.store, VerifyLevel::Restore).problems, []);
}

/// Promise: the next step of a run costs what changed, container included; diff says what changed.
#[test]
fn two_steps() {
    let mut bench = Bench::new();
    let mut rng = Rng::new(2);
    let (item, mut storages) = training_state(&mut rng);
    let (first, _) = bench.keeps("state.pt", &archive(&entries(pickle(&item), &storages), true));
    for (_, bytes) in storages.iter_mut().filter(|(_, bytes)| bytes.len() >= 2000) {
        for _ in 0..20 {
            let at = rng.below(bytes.len() / 4) * 4;
            bytes[at] ^= 1;
        }
    }
    let (second, manifest) = bench.keeps("state.pt", &archive(&entries(pickle(&item), &storages), true));
    // Every changed storage has another checksum in the container, twice; ids and tables take most of the rest.
    assert!(second.stored_bytes < 2500, "{}", second.stored_bytes);
    assert!(
        first.stored_bytes > 4 * second.stored_bytes,
        "{}",
        first.stored_bytes
    );
    assert_eq!(manifest.tensors.iter().filter(|t| t.has_base).count(), 5);
    let diff = bench
        .store
        .diff(first.manifest, second.manifest, &Silent)
        .unwrap();
    let changed: Vec<_> = diff
        .tensors
        .iter()
        .filter(|t| matches!(t.change, Change::Changed(_)))
        .collect();
    assert_eq!((changed.len(), diff.tensors.len()), (5, 8));
    let at = bench.store.resolve("run@2").unwrap();
    let explained = bench.store.explain(&at, &Silent).unwrap();
    assert_eq!(explained.total_bytes(), {
        let slot = explained.container.slot_bytes;
        second.stored_bytes + slot
    });
}

/// Promise: tensors that are asked for come in a safetensors file beside the name of theirs, which it never replaces.
#[test]
fn some_tensors() {
    let mut bench = Bench::new();
    let (item, storages) = training_state(&mut Rng::new(3));
    let (report, _) = bench.keeps("state.pt", &archive(&entries(pickle(&item), &storages), true));
    let target = bench.folder.path().join("some");
    let request = RestoreRequest {
        manifest: report.manifest,
        target: target.clone(),
        files: None,
        tensors: globs("model.{norm,embed}.*"),
        overwrite: true,
    };
    let done = bench.store.restore(&request, &Silent).unwrap();
    assert_eq!((done.files, done.tensors, done.other_files), (1, 2, 0));
    let bytes = fs::read(target.join("state.pt.safetensors")).unwrap();
    let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(found.tensor("model.norm.weight").unwrap().data(), [7; 56]);
    assert_eq!(found.tensor("model.embed.weight").unwrap().shape(), [40, 25]);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);

    // A file that has the name already is not mixed up with it.
    let from = bench.folder.path().join("both");
    fs::create_dir(&from).unwrap();
    fs::write(
        from.join("state.pt"),
        archive(&entries(pickle(&item), &storages), true),
    )
    .unwrap();
    fs::write(from.join("state.pt.safetensors"), &bytes).unwrap();
    let manifest = save(&bench.store, &from, 9).unwrap().manifest;
    let request = RestoreRequest { manifest, ..request };
    let error = bench.store.restore(&request, &Silent).unwrap_err().to_string();
    assert!(
        error.contains("state.pt.safetensors") && error.contains("--files"),
        "{error}"
    );
}

/// Promise: a file that is asked to be opaque is, whatever it holds.
#[test]
fn opaque_by_wish() {
    let bench = Bench::new();
    let (item, storages) = training_state(&mut Rng::new(4));
    let path = bench.folder.path().join("state.pt");
    fs::write(&path, archive(&entries(pickle(&item), &storages), true)).unwrap();
    let mut request = tpde_store::SaveRequest::new(Path::new(&path), tpde_tests::run(), 1);
    request.opaque = globs("*.pt").unwrap();
    let report = bench.store.save(&request, &Silent).unwrap();
    assert_eq!((report.tensors, report.kept_whole), (0, vec![]));
}

/// Promise: other archives and files are not PyTorch's, and nothing is said of them; of PyTorch's that cannot be used, it is.
#[test]
fn what_is_kept_whole() {
    let mut bench = Bench::new();
    let (item, storages) = training_state(&mut Rng::new(5));
    let good = entries(pickle(&item), &storages);
    let says = |why: Option<&str>, words: &str| {
        assert!(why.is_some_and(|why| why.contains(words)), "{why:?}: {words}")
    };

    for (name, bytes) in [
        ("config.json", b"{}".to_vec()),
        ("empty.pt", Vec::new()),
        ("x.pt", vec![1; 100]),
        ("x.npz", archive(&[Entry::new("a.npy", *b"1234")], false)),
        (
            "args.bin",
            archive(&entries(pickle(&dict([("lr", Item::Int(1))])), &[]), true),
        ),
        ("x.zip", archive(&good, true)[..5000].to_vec()),
    ] {
        assert_eq!(bench.keeps_whole(name, &bytes), None, "{name}");
    }
    says(
        bench.keeps_whole("cut.pt", &archive(&good, true)[..5000]),
        "truncated",
    );
    let old = [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(),
        vec![3; 100],
    ]
    .concat();
    says(bench.keeps_whole("old.pt", &old), "before version 1.6");
    let mut compressed = good.clone();
    compressed[3].method = 8;
    says(
        bench.keeps_whole("deflated.pt", &archive(&compressed, true)),
        "compressed",
    );
    let mut secret = good.clone();
    secret[0].flags |= 1;
    says(
        bench.keeps_whole("secret.pt", &archive(&secret, true)),
        "encrypted",
    );
    let mut big_endian = good.clone();
    big_endian[1].bytes = b"big".to_vec();
    says(
        bench.keeps_whole("mainframe.pt", &archive(&big_endian, true)),
        "big-endian",
    );
    let mut twice = good.clone();
    twice.push(good[3].clone());
    says(
        bench.keeps_whole("twice.pt", &archive(&twice, true)),
        "several entries",
    );
    let mut nothing = good;
    nothing[0].bytes = b"\x80\x02N.".to_vec();
    says(
        bench.keeps_whole("nothing.pt", &archive(&nothing, true)),
        "no tensor",
    );
}
