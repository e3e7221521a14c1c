//! docs/reference, a decoder written from docs/format.md alone, against this one: what TPDE writes is what the page says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tpde_core::{Base, Dtype, Frame, Layout, Slice, encode_frame, tensor_id};
use tpde_store::tags::{self, Target};
use tpde_store::{Objects, RunName, SaveRequest, Silent, Store, config};
use tpde_tests::torch::{Item, TensorItem, archive, dict, entries, pickle};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn reference(place: &Path, words: &[&str]) -> Output {
    let python = root().join(".venv/bin/python");
    assert!(
        python.exists(),
        "the reference decoder needs .venv: run `make setup`"
    );
    Command::new(python)
        .arg("-B")
        .arg(root().join("docs/reference/tpde_reference.py"))
        .arg(place)
        .args(words)
        .output()
        .unwrap()
}

/// Runs the reference decoder, which must succeed; what it printed.
fn decoded(place: &Path, words: &[&str]) -> String {
    let output = reference(place, words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the reference decoder, which must refuse what it is given, for the reason that is named.
fn refused(place: &Path, words: &[&str], reason: &str) {
    let output = reference(place, words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.starts_with("refused: ") && text.contains(reason),
        "{text}"
    );
}

/// Repeatable numbers that look random.
fn noise(count: usize, seed: u64) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        })
        .collect()
}

fn bytes_of(dtype: Dtype, words: &[u64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|w| w.to_le_bytes()[..dtype.word_bytes()].to_vec())
        .collect()
}

/// Words as a trained tensor has them: of floats, exponents that thin out downwards; of integers, small numbers of both signs.
fn plausible(dtype: Dtype, count: usize, seed: u64) -> Vec<u64> {
    let bits = 8 * dtype.word_bytes();
    noise(count, seed)
        .iter()
        .map(|dice| match dtype.layout() {
            Layout::Float {
                exponent_bits,
                mantissa_bits,
            } => {
                let down = u64::from(dice.leading_zeros()) * (1 + u64::from(exponent_bits > 5));
                let exponent = ((1 << (exponent_bits - 1)) - 2_u64).saturating_sub(down);
                let mantissa = dice & ((1 << mantissa_bits) - 1);
                (dice >> 58 & 1) << (bits - 1) | exponent << mantissa_bits | mantissa
            }
            _ if dice >> 60 == 0 => dice >> (64 - bits),
            Layout::Signed => (dice >> 59).wrapping_sub(16),
            _ => dice >> 59,
        })
        .collect()
}

/// `words` with about `share` of them moved by a few steps, a few of those by many.
fn moved(words: &[u64], share: f64, seed: u64) -> Vec<u64> {
    let dice = noise(words.len(), seed);
    words
        .iter()
        .zip(dice)
        .map(|(word, dice)| {
            let step = 1 + u64::from((dice as u32).leading_zeros()) + (dice >> 24 & 0xff) / 255 * 100;
            if (dice >> 40) as f64 / f64::from(1 << 24) >= share {
                *word
            } else if dice & 1 == 0 {
                word.wrapping_add(step)
            } else {
                word.wrapping_sub(step)
            }
        })
        .collect()
}

/// `words` of floats, all moved by about the same distance in value, as training does: small numbers by many steps, large ones
/// seldom by one. Of integers, the same with their bit lengths.
fn trained(dtype: Dtype, words: &[u64], rate_log2: i32, seed: u64) -> Vec<u64> {
    let sizes: Vec<i32> = words
        .iter()
        .map(|word| match dtype.layout() {
            Layout::Float {
                exponent_bits,
                mantissa_bits,
            } => (word >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32,
            _ => 64 - word.min(&!word).leading_zeros() as i32,
        })
        .collect();
    let largest = *sizes.iter().max().unwrap();
    let dice = noise(words.len(), seed);
    words
        .iter()
        .zip(sizes)
        .zip(dice)
        .map(|((word, size), dice)| {
            let unit = (dice >> 11) as f64 / (1u64 << 53) as f64;
            let steps = (2f64.powi((largest - size + rate_log2).min(7)) * 2.0 * unit
                + (dice & 255) as f64 / 256.0) as u64;
            if dice >> 8 & 1 == 0 {
                word.wrapping_add(steps)
            } else {
                word.wrapping_sub(steps)
            }
        })
        .collect()
}

/// Frames in a folder, with what they must decode to and the modes that this codec gave their tiles.
struct Frames {
    folder: tempfile::TempDir,
    expected: Vec<(String, Vec<u8>)>,
    modes: BTreeSet<String>,
}

impl Frames {
    fn add(&mut self, name: String, dtype: Dtype, new: &[u64], base: Option<&[u64]>) {
        let (new, base) = (bytes_of(dtype, new), base.map(|b| bytes_of(dtype, b)));
        let slice = Slice {
            dtype,
            total_elems: (new.len() / dtype.word_bytes()) as u64,
            index: 0,
        };
        let against = base.as_ref().map(|bytes| Base {
            id: tensor_id(bytes),
            bytes,
        });
        let encoded = encode_frame(slice, &new, against, None).unwrap();
        let frame = Frame::parse(&encoded.bytes).unwrap();
        let modes = frame
            .tiles()
            .iter()
            .map(|tile| format!("{:?}", tile.0).to_uppercase());
        let modes: Vec<String> = modes.collect();
        let at = |ending| self.folder.path().join(format!("{name}.{ending}"));
        fs::write(at("frame"), &encoded.bytes).unwrap();
        if let Some(base) = base.filter(|_| encoded.uses_base) {
            fs::write(at("base"), base).unwrap();
        }
        let line = [name]
            .into_iter()
            .chain(modes.clone())
            .collect::<Vec<_>>()
            .join(" ");
        self.modes
            .extend(modes.into_iter().map(|mode| format!("{mode} {}", dtype.name())));
        self.expected.push((line, new));
    }
}

/// Promise: every frame decodes by the text of the format alone: all dtypes, all modes, all edges of tiles, blocks and lanes.
#[test]
fn frames_are_what_the_page_says() {
    let mut frames = Frames {
        folder: tempfile::tempdir().unwrap(),
        expected: Vec::new(),
        modes: BTreeSet::new(),
    };
    for &dtype in Dtype::ALL {
        let name = dtype.name();
        let base = plausible(dtype, 9000, 1);
        frames.add(format!("{name}-anchor"), dtype, &base, None);
        frames.add(format!("{name}-noise"), dtype, &noise(5000, 2), None);
        frames.add(format!("{name}-foreign"), dtype, &base, Some(&noise(9000, 3)));
        for per_mille in [0, 2, 30, 200, 500, 950] {
            let new = moved(&base, f64::from(per_mille) / 1e3, 4);
            frames.add(format!("{name}-{per_mille}"), dtype, &new, Some(&base));
        }
    }
    let bf16 = plausible(Dtype::BF16, 140_000, 5);
    for count in [
        0, 1, 7, 8, 9, 31, 32, 63, 64, 65, 127, 128, 129, 2047, 2048, 2049, 4096, 65_535, 65_536, 140_000,
    ] {
        let (base, name) = (&bf16[..count], format!("length-{count:06}"));
        frames.add(format!("{name}-anchor"), Dtype::BF16, base, None);
        for (share, kind) in [(0.01, "sparse"), (0.9, "dense")] {
            let new = moved(base, share, 6);
            frames.add(format!("{name}-{kind}"), Dtype::BF16, &new, Some(base));
        }
    }
    // What changes, and by how much, depends on the size of the base: a table for each class.
    for dtype in [Dtype::BF16, Dtype::F32, Dtype::I16, Dtype::U64] {
        let base = plausible(dtype, 66_000, 10);
        for rate_log2 in [-12, -9, -6, -3, 0] {
            let new = trained(dtype, &base, rate_log2, 11);
            frames.add(
                format!("trained-{}{rate_log2}", dtype.name()),
                dtype,
                &new,
                Some(&base),
            );
        }
    }
    // One frame with tiles of all modes that BF16 has here, and more than one group.
    let mut mixed = plausible(Dtype::BF16, 5 * 65_536 + 77, 7);
    let base = mixed.clone();
    for (tile, share) in [(1, 0.01), (2, 0.9)] {
        let range = tile * 65_536..(tile + 1) * 65_536;
        let new = moved(&base[range.clone()], share, 8);
        mixed[range].copy_from_slice(&new);
    }
    mixed[3 * 65_536..4 * 65_536].copy_from_slice(&plausible(Dtype::BF16, 65_536, 9));
    mixed[4 * 65_536..5 * 65_536].copy_from_slice(&noise(65_536, 9));
    frames.add("mixed".into(), Dtype::BF16, &mixed, Some(&base));

    let printed = decoded(frames.folder.path(), &["frames"]);
    let mut lines: Vec<&str> = frames.expected.iter().map(|e| e.0.as_str()).collect();
    lines.sort_by_key(|line| line.split(' ').next());
    assert_eq!(printed.lines().collect::<Vec<_>>(), lines);
    for (line, bytes) in &frames.expected {
        let name = line.split(' ').next().unwrap();
        let slice = fs::read(frames.folder.path().join(format!("{name}.slice"))).unwrap();
        assert!(slice == *bytes, "{line}: the reference decodes to other bytes");
    }
    let mixed = frames.expected.last().unwrap().0.as_str();
    assert_eq!(mixed, "mixed SAME SPARSE DENSE FRESH RAW SAME");
    for dtype in Dtype::ALL {
        for mode in ["SAME", "SPARSE", "DENSE", "FRESH", "RAW"] {
            let both = format!("{mode} {}", dtype.name());
            assert!(frames.modes.contains(&both), "no frame has a tile of {both}");
        }
    }

    // A frame of another version, one with an unknown flag, one cut short, one with a byte too many, and a foreign base.
    let frame = fs::read(frames.folder.path().join("BF16-30.frame")).unwrap();
    let base = bytes_of(Dtype::BF16, &bf16);
    let flipped = |at: usize, bit: u8| {
        let mut bad = frame.clone();
        bad[at] ^= bit;
        bad
    };
    let cut = frame[..frame.len() - 1].to_vec();
    let longer = [&frame[..], &[0]].concat();
    for (bad, reason) in [
        (flipped(0, 1), "version"),
        (flipped(2, 4), "frame flags"),
        (cut, "§2"),
        (longer, "behind the end"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bad.frame"), bad).unwrap();
        fs::copy(
            frames.folder.path().join("BF16-30.base"),
            folder.path().join("bad.base"),
        )
        .unwrap();
        refused(folder.path(), &["frames"], reason);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("foreign.frame"), &frame).unwrap();
    fs::write(folder.path().join("foreign.base"), &base[..18_000]).unwrap();
    refused(folder.path(), &["frames"], "another base");
}

/// Writes a safetensors file of `(name, dtype, shape, bytes)`.
fn safetensors(path: &Path, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert((*name).into(), entry);
        data.extend_from_slice(bytes);
    }
    let text = serde_json::to_vec(&header).unwrap();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &text, &data].concat()).unwrap();
}

/// All files and folders below `dir`: path, permissions, bytes.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let (mut all, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            let bytes = if meta.is_dir() {
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            all.push((name, meta.permissions().mode() & 0o777, bytes));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

fn new_store(place: &Path) -> Store {
    let objects = Objects::open_or_make(place.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

fn save(store: &Store, dir: &Path, run: &str, step: u64) {
    let request = SaveRequest::new(dir, run.parse().unwrap(), step);
    store.save(&request, &Silent).unwrap();
}

/// Restores with the reference decoder and compares every file.
fn comes_back(place: &Path, run: &str, step: u64, source: &Path) {
    let out = tempfile::tempdir().unwrap();
    let back = out.path().join("back");
    decoded(
        place,
        &["restore", run, &step.to_string(), back.to_str().unwrap()],
    );
    let (expected, found) = (tree(source), tree(&back));
    let names =
        |tree: &[(PathBuf, u32, Vec<u8>)]| tree.iter().map(|f| (f.0.clone(), f.1)).collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "{run}@{step}");
    assert!(expected == found, "{run}@{step}: a file's bytes differ");
}

fn sub_folders(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// A model of all dtypes at a step of a run that trains a little, jumps, and trains on.
fn write_model(dir: &Path, step: u64) {
    fs::create_dir_all(dir.join("sub/empty")).unwrap();
    let shares = [0.0, 0.01, 0.9, 0.0, 0.003];
    let at_step = |dtype: Dtype, count: usize, seed: u64| {
        let first = plausible(dtype, count, seed);
        let words = (1..=step).fold(first, |words, s| moved(&words, shares[s as usize % 5], seed + s));
        bytes_of(dtype, &words)
    };
    let dtypes = Dtype::ALL
        .iter()
        .filter(|d| d.word_bytes() as u64 * 8 == d.shape_bits());
    let mut tensors: Vec<(&str, &str, Vec<usize>, Vec<u8>)> = dtypes
        .map(|&d| (d.name(), d.name(), vec![2, 300], at_step(d, 600, 11)))
        .collect();
    tensors.push(("complex", "C64", vec![500], at_step(Dtype::C64, 1000, 12)));
    tensors.push(("halves", "F4", vec![500, 4], at_step(Dtype::F4, 1000, 13)));
    tensors.push(("tiles", "BF16", vec![700, 101], at_step(Dtype::BF16, 70_700, 14)));
    // The same bytes under another dtype, and under another name from step to step.
    tensors.push(("shared", "F16", vec![70_700], at_step(Dtype::BF16, 70_700, 14)));
    let name = ["odd", "even"][step as usize % 2];
    tensors.push((name, "U8", vec![20_000], bytes_of(Dtype::U8, &noise(20_000, 15))));
    tensors.push(("none", "I64", vec![0, 3], Vec::new()));
    tensors.push(("scalar", "F64", vec![], at_step(Dtype::F64, 1, 16)));
    // More than a slice, nearly all zero, so that a slow decoder has little to do.
    let mut long = vec![0; (33 << 20) + 6];
    (0..=step).for_each(|s| long[33 << 20] ^= 1 << s);
    tensors.push(("long", "BF16", vec![long.len() / 2], long));
    safetensors(&dir.join("model.safetensors"), &tensors);

    let moment = |key, class, shape: &[u32]| Item::Tensor(TensorItem::whole(key, class, shape));
    let state = dict([
        ("exp_avg", moment(0, "FloatStorage", &[20, 30])),
        ("exp_avg_sq", moment(2, "FloatStorage", &[20, 30])),
        ("step", moment(1, "LongStorage", &[])),
    ]);
    let storages = [
        (0, at_step(Dtype::F32, 600, 17)),
        (1, step.to_le_bytes().to_vec()),
        (2, at_step(Dtype::F32, 600, 18)),
    ];
    let program = pickle(&dict([("state", Item::Dict(vec![(Item::Int(3), state)]))]));
    fs::write(
        dir.join("optimizer.pt"),
        archive(&entries(program, &storages), step.is_multiple_of(2)),
    )
    .unwrap();

    fs::write(
        dir.join("sub/config.json"),
        format!("{{\"step\": {step}}}\n").repeat(200),
    )
    .unwrap();
    fs::write(dir.join("empty.bin"), "").unwrap();
    let log: String = (0..11 << 15)
        .map(|line| format!("step {step} line {line:>13}\n"))
        .collect();
    assert!(log.len() > 8 << 20);
    fs::write(dir.join("log.txt"), log).unwrap();
    fs::write(dir.join("noise.bin"), bytes_of(Dtype::U64, &noise(1000, step))).unwrap();
    fs::set_permissions(dir.join("sub/config.json"), fs::Permissions::from_mode(0o640)).unwrap();
}

/// Promise: a store restores by the text of the format alone: all kinds of files, chains of tensors and of blobs, tensors of
/// several slices; and what is damaged is refused.
#[test]
fn a_store_is_what_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let store = new_store(&place);
    for step in 0..6 {
        let out = dir.path().join(format!("step{step}"));
        write_model(&out, step);
        save(&store, &out, "run", step);
    }
    for step in 0..6 {
        comes_back(&place, "run", step, &dir.path().join(format!("step{step}")));
    }

    let resolved = store.resolve("run@3").unwrap().manifest;
    let target = Target {
        manifest: resolved,
        run: "run".parse::<RunName>().unwrap(),
        seq: 3,
        step: 3,
    };
    for (name, force) in [("gone", false), ("best", false), ("best", true)] {
        store.tag(&name.parse().unwrap(), &target, force, 1).unwrap();
    }
    tags::remove(store.objects(), &"gone".parse().unwrap(), 2).unwrap();
    let listed = decoded(&place, &["list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 7, "{listed}");
    assert_eq!(lines[3], format!("run\tcommit 3\tstep 3\tmanifest {resolved}"));
    assert_eq!(lines[6], "tag best\trun\tcommit 3\tstep 3");

    // Each kind of object with a flipped bit, put right again behind it.
    let target = dir.path().join("never");
    let restore = ["restore", "run", "5", target.to_str().unwrap()];
    for (kind, reason) in [("packs", "hash to"), ("manifests", "damaged"), ("runs", "seal")] {
        let folder = sub_folders(&place.join(kind));
        let paths: Vec<PathBuf> = folder.iter().flat_map(|f| sub_folders(f)).collect();
        for path in paths.iter().filter(|p| {
            kind != "manifests" || p.ends_with(store.resolve("run@5").unwrap().manifest.to_string())
        }) {
            let good = fs::read(path).unwrap();
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 16;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(path, &bad).unwrap();
            refused(&place, &restore, reason);
            fs::write(path, &good).unwrap();
        }
    }
    assert!(!target.exists());
}

/// Promise: a real training state, weights and optimizer, restores by the text of the format alone.
#[test]
fn a_real_training_state_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let store = new_store(&place);
    let source = |step: u64| {
        let out = dir.path().join(step.to_string());
        fs::create_dir_all(&out).unwrap();
        let file = root().join(format!("tests/data/state/step{step:05}.safetensors"));
        fs::write(out.join("state.safetensors"), fs::read(file).unwrap()).unwrap();
        out
    };
    for step in [500, 501, 510] {
        save(&store, &source(step), "state", step);
    }
    for step in [500, 501, 510] {
        comes_back(&place, "state", step, &source(step));
    }
}

/// Promise: a run of many commits, whose history is in rollups, reads by the text of the format alone.
#[test]
fn a_long_history_reads_back() {
    const COMMITS: u64 = 600;
    let dir = tempfile::tempdir().unwrap();
    let (place, out) = (dir.path().join("store"), dir.path().join("out"));
    let store = new_store(&place);
    fs::create_dir(&out).unwrap();
    for step in 0..COMMITS {
        fs::write(out.join("step.txt"), step.to_string()).unwrap();
        save(&store, &out, "long", step);
    }
    assert_eq!(sub_folders(&place.join("rollups/long")).len(), 2);
    assert_eq!(decoded(&place, &["list"]).lines().count() as u64, COMMITS);
    comes_back(&place, "long", COMMITS - 1, &out);
}
