//! Files that lie: whatever they say, the save goes on, and what comes back is what was saved.

use tpde_store::manifest::FileContent;
use tpde_tests::Rng;
use tpde_tests::torch::{Entry, Item, TensorItem, archive, dict, entries, pickle};

use crate::{Bench, told, training_state};

const WORDS: usize = 12;

/// A file of one storage of 12 words of F32, with this pickle.
fn with(pickle: Vec<u8>) -> Vec<u8> {
    archive(&entries(pickle, &[(0, vec![5; 4 * WORDS])]), true)
}

fn tensor(change: impl FnOnce(&mut TensorItem)) -> Vec<u8> {
    let mut item = TensorItem::whole(0, "FloatStorage", &[3, 4]);
    change(&mut item);
    with(pickle(&dict([("w", Item::Tensor(item))])))
}

/// Promise: a storage is a tensor of what the pickle says only if that has its length, of the shape only if that is all of it.
#[test]
fn lying_tensors() {
    let mut bench = Bench::new();
    let flat = &[12u64][..];
    for (name, bytes, shape) in [
        ("good", tensor(|_| {}), &[3, 4][..]),
        ("offset", tensor(|t| t.offset = 1), flat),
        ("past the end", tensor(|t| t.shape = vec![3, 5]), flat),
        ("too few", tensor(|t| t.shape = vec![3, 3]), flat),
        ("huge", tensor(|t| t.shape = vec![u32::MAX >> 1; 60]), flat),
        (
            "many dimensions",
            tensor(|t| (t.shape, t.strides) = (vec![1; 64], vec![1; 64])),
            flat,
        ),
        ("transposed", tensor(|t| t.strides = vec![1, 3]), flat),
        ("lost strides", tensor(|t| t.strides = vec![1]), flat),
        ("empty", tensor(|t| t.shape = vec![0, 4]), flat),
    ] {
        let (_, manifest) = bench.keeps("x.pt", &bytes);
        assert_eq!(told(&manifest)[0].3, shape, "{name}");
        assert_eq!(
            (told(&manifest)[0].0, told(&manifest)[0].2),
            ("w", "F32"),
            "{name}"
        );
    }
    for (name, bytes) in [
        ("longer storage", tensor(|t| t.elems = 13)),
        ("negative length", tensor(|t| t.elems = u32::MAX)),
        ("another dtype", tensor(|t| t.class = "DoubleStorage")),
        ("unknown dtype", tensor(|t| t.class = "QuaternionStorage")),
        ("another key", tensor(|t| t.key = 1)),
    ] {
        assert_eq!(
            bench.keeps_whole("x.pt", &bytes),
            Some("its pickle tells of no tensor"),
            "{name}"
        );
    }
    // Two that contradict each other about one storage.
    let [a, b] = ["FloatStorage", "IntStorage"].map(|class| Item::Tensor(TensorItem::whole(0, class, &[12])));
    assert!(
        bench
            .keeps_whole("x.pt", &with(pickle(&Item::List(vec![a, b]))))
            .is_some()
    );
}

/// Promise: programs that would run for ever, fill the memory, nest without end or call what they please cost nothing and do nothing.
#[test]
fn hostile_programs() {
    let mut bench = Bench::new();
    let repeated = |opcodes: &[u8], times: usize| [&[0x80, 2], &opcodes.repeat(times)[..], b"."].concat();
    let huge = |opcode: u8| [&[0x80, 4, opcode][..], &[0xff; 8], b"."].concat();
    let mut doubling = b"\x80\x02)q\x00".to_vec();
    (0..200u8).for_each(|i| doubling.extend_from_slice(&[b'h', i, b'h', i, 0x86, b'q', i + 1]));
    doubling.push(b'.');
    for (name, program) in [
        ("nothing", Vec::new()),
        ("no end", b"\x80\x02N".to_vec()),
        ("underflow", b"\x80\x020.".to_vec()),
        ("below a mark", b"\x80\x02N(0R.".to_vec()),
        ("no mark", b"\x80\x02Nt.".to_vec()),
        ("odd items", b"\x80\x02}(Nu.".to_vec()),
        ("unknown opcode", b"\x80\x02\xff.".to_vec()),
        ("id as a line", b"\x80\x02Pstorage\n.".to_vec()),
        ("extension", b"\x80\x02\x82\x01.".to_vec()),
        ("unknown memo", b"\x80\x02h\x07.".to_vec()),
        ("append to a number", b"\x80\x02K\x01K\x02a.".to_vec()),
        ("huge text", huge(0x8d)),
        ("huge bytes", huge(0x8e)),
        ("huge integer", b"\x80\x02\x8b\xff\xff\xff\x7f.".to_vec()),
        ("open lists", repeated(b"]", 6 << 20)),
        ("nested lists", repeated(b"](", 1 << 21)),
        ("marks", repeated(b"(", 6 << 20)),
        ("a full memo", repeated(b"N\x940", 3 << 20)),
        ("memo bomb", [b"\x80\x02Nr\xff\xff\xff\xff.".to_vec()].concat()),
        ("doubling", doubling),
        ("a call", b"\x80\x02cos\nsystem\nX\x04\0\0\0exit\x85R.".to_vec()),
        ("a list in itself", b"\x80\x02]q\0h\0a.".to_vec()),
        (
            "deep",
            [
                b"\x80\x02".to_vec(),
                b"]".repeat(100_000),
                b"a".repeat(99_999),
                b".".to_vec(),
            ]
            .concat(),
        ),
    ] {
        assert!(bench.keeps_whole("x.pt", &with(program)).is_some(), "{name}");
    }
    // What is around the tensor does not matter, as long as it can be followed.
    let tail = pickle(&dict([(
        "w",
        Item::Tensor(TensorItem::whole(0, "FloatStorage", &[12])),
    )]))[2..]
        .to_vec();
    let deep = [
        b"\x80\x02".to_vec(),
        b"]".repeat(1000),
        tail[..tail.len() - 1].to_vec(),
        b"a".repeat(1000),
        b".".to_vec(),
    ];
    let (_, manifest) = bench.keeps("x.pt", &with(deep.concat()));
    assert_eq!(told(&manifest)[0].0, "data/0", "too deep for a name");
    let (_, manifest) = bench.keeps(
        "x.pt",
        &with([b"\x80\x02cos\nsystem\nX\x04\0\0\0exit\x85R0".to_vec(), tail].concat()),
    );
    assert_eq!(told(&manifest)[0].0, "w");
}

/// Promise: names are each one's own, and not longer than a manifest can bear.
#[test]
fn odd_names() {
    let mut bench = Bench::new();
    let item = |key| Item::Tensor(TensorItem::whole(key, "ByteStorage", &[3]));
    let text = |t: &str| Item::Text(t.to_owned());
    let long = "x".repeat(1000);
    let dict = Item::Dict(vec![
        (text("data/1"), item(0)),
        (text(&long), item(1)),
        (text("a.b"), item(2)),
        (text("a"), dict([("b", item(3))])),
        (Item::Raw(b"N".to_vec()), item(4)),
        (text("\u{1b}[31m"), item(5)),
    ]);
    let storages: Vec<_> = (0..6).map(|key| (key, vec![key as u8; 3])).collect();
    let (_, manifest) = bench.keeps("x.pt", &archive(&entries(pickle(&dict), &storages), false));
    let names: Vec<_> = told(&manifest).iter().map(|t| t.0).collect();
    assert_eq!(names, ["data/1", "data/1'", "a.b", "a.b'", "4", "\u{1b}[31m"]);
}

/// Promise: entries that overlap, lie outside the file or under the directory make the file opaque.
#[test]
fn lying_archives() {
    let mut bench = Bench::new();
    let (item, storages) = training_state(&mut Rng::new(6));
    let good = archive(&entries(pickle(&item), &storages), false);
    let find =
        |from: usize, what: &[u8]| from + good[from..].windows(what.len()).position(|w| w == what).unwrap();
    // Of the entry `data/5`, in the directory: its sizes, and where it starts.
    let directory = find(find(0, b"PK\x01\x02"), b"archive/data/5") - 46;
    let mut lie = |name: &str, places: &[(usize, u32)]| {
        let mut bad = good.clone();
        for &(at, number) in places {
            bad[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        assert!(bench.keeps_whole("x.pt", &bad).is_some(), "{name}");
    };
    let sizes = |n| [(directory + 20, n), (directory + 24, n)];
    lie("longer than the file", &sizes(good.len() as u32));
    lie("over the next entry", &sizes(4500));
    lie(
        "over the directory",
        &sizes((find(0, b"PK\x01\x02") + 100) as u32),
    );
    lie("wide without a field", &sizes(u32::MAX));
    lie("starts past the end", &[(directory + 42, good.len() as u32)]);
    lie("starts in the directory", &[(directory + 42, directory as u32)]);
    lie("starts elsewhere", &[(directory + 42, 1)]);
    let other = find(0, b"archive/data/6") as u32 - 30;
    lie("starts where another does", &[(directory + 42, other)]);
    let end = good.len() - 22;
    lie("directory past the end", &[(end + 16, good.len() as u32)]);
    lie("longer directory", &[(end + 12, good.len() as u32)]);
    lie("another count", &[(end + 8, 0x0007_0007)]);
    lie("another disk", &[(end + 4, 1)]);
}

/// Promise: no cut and no flip of a bit of a file makes its save fail, or what comes back differ.
#[test]
fn every_cut_and_flip() {
    let mut bench = Bench::new();
    let item = dict([(
        "w",
        Item::Parameter(TensorItem::whole(0, "FloatStorage", &[3, 4])),
    )]);
    let storages = [(0, (0..4 * WORDS as u8).collect::<Vec<u8>>()), (1, vec![1; 3])];
    let good = archive(
        &[&entries(pickle(&item), &storages)[..], &[Entry::new("x", *b"")]].concat(),
        true,
    );
    let mut rng = Rng::new(7);
    let (mut taken_apart, mut whole) = (0, 0);
    for round in 0..400 {
        let mut bad = good.clone();
        match round % 4 {
            0 => bad.truncate(rng.below(good.len())),
            _ => {
                // Mostly where the numbers are.
                let half = good.len() / 2;
                let at = if round % 4 == 1 {
                    rng.below(good.len())
                } else {
                    half + rng.below(good.len() - half)
                };
                bad[at] ^= 1 << rng.below(8);
            }
        }
        let (_, manifest) = bench.keeps("x.pt", &bad);
        match manifest.files[0].content {
            FileContent::Torch { .. } => taken_apart += 1,
            _ => whole += 1,
        }
    }
    assert!(taken_apart > 50 && whole > 50, "{taken_apart} {whole}");
}
