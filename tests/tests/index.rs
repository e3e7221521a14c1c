//! The index is a cache: whatever becomes of it, the store gives the same answers.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tpde_store::ids::PackId;
use tpde_store::keys::Key;
use tpde_store::{Manifest, ManifestId, Objects, SaveReport, Silent, Store, StoreError, VerifyLevel, config};
use tpde_tests::{Rng, make_store, open_store, restore, save, train, training_state, tree, verify};

const SEED: u64 = 7;
const SEQUENCES: u64 = 8;
const OPERATIONS: u64 = 20;

/// What happens to the index between two operations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    Reopened,
    Deleted,
    Truncated,
    Flipped,
    Foreign,
    Outdated,
    Locked,
    ReadOnly,
    AFileInItsPlace,
}

const FAULTS: &[Fault] = &[
    Fault::Nothing,
    Fault::Reopened,
    Fault::Deleted,
    Fault::Truncated,
    Fault::Flipped,
    Fault::Foreign,
    Fault::Outdated,
    Fault::Locked,
    Fault::ReadOnly,
    Fault::AFileInItsPlace,
];

/// A process that holds an index; it lets go when dropped.
struct Holder(Child, Option<(ChildStdin, BufReader<ChildStdout>)>);

impl Holder {
    fn of(home: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command
            .arg("hold")
            .arg(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        let ends = child.stdin.take().map(|input| (input, output));
        Self(child, ends)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some((input, mut output)) = self.1.take() {
            drop(input);
            // What it says at its end must find a reader.
            let mut rest = Vec::new();
            output.read_to_end(&mut rest).unwrap();
        }
        assert!(self.0.wait().unwrap().success());
    }
}

/// A folder that nobody may write to, not even the superuser, whom permissions do not stop; writable again when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None` if this user may not mount; permissions then are what stops it.
    fn of(folder: &Path) -> Option<Self> {
        let mount = |args: &[&str], at: &[&Path]| {
            let mut command = Command::new("mount");
            let status = command.args(args).args(at).stderr(Stdio::null()).status();
            status.is_ok_and(|s| s.success())
        };
        if !mount(&["--bind"], &[folder, folder]) {
            return None;
        }
        let bound = Self(folder.to_owned());
        assert!(
            mount(&["-o", "remount,bind,ro"], &[folder]),
            "a bind mount that cannot be made read-only"
        );
        Some(bound)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "{} stays mounted",
            self.0.display()
        );
    }
}

/// Every path below `folder`, sorted; files may come and go meanwhile, and the folder may be missing.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(all_below(&entry.path()));
        }
        all.push(entry.path());
    }
    all.sort();
    all
}

/// Removes a folder, again if sled, which may be closing, wrote to it meanwhile.
fn remove(folder: &Path) {
    while folder.exists() {
        match fs::remove_dir_all(folder) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                panic!("{}: {e}", folder.display())
            }
            _ => {}
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, (_, bytes)) in tree(from) {
        match bytes {
            None => fs::create_dir_all(to.join(name)).unwrap(),
            Some(bytes) => {
                fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
                fs::write(to.join(name), bytes).unwrap();
            }
        }
    }
}

/// The store under test: on disk, with an index on disk that things happen to.
struct Subject {
    place: PathBuf,
    cache: PathBuf,
    /// The folder of this store's index.
    home: PathBuf,
    /// An index of another store that holds some of the same contents, and an early one of this store.
    foreign: PathBuf,
    outdated: PathBuf,
    store: Option<Store>,
    holder: Option<Holder>,
    read_only: Option<ReadOnly>,
}

impl Subject {
    fn store(&mut self) -> &Store {
        let open = || open_store(&self.place, Some(&self.cache)).unwrap();
        self.store.get_or_insert_with(open)
    }

    /// Restores order, so that one fault does not hide the next.
    fn mend(&mut self) {
        self.holder = None;
        self.read_only = None;
        if self.home.is_file() {
            fs::remove_file(&self.home).unwrap();
        }
        self.set_writable(true);
    }

    fn set_writable(&self, writable: bool) {
        let mode = |dir: bool| match (writable, dir) {
            (true, true) => 0o755,
            (true, false) => 0o644,
            (false, true) => 0o555,
            (false, false) => 0o444,
        };
        for path in all_below(&self.cache) {
            let permissions = fs::Permissions::from_mode(mode(path.is_dir()));
            // sled may be closing: what is gone needs no permissions.
            match fs::set_permissions(&path, permissions) {
                Err(e) if e.kind() != ErrorKind::NotFound => panic!("{}: {e}", path.display()),
                _ => {}
            }
        }
    }

    /// A file of the index and its bytes, if there is one with any.
    fn some_file(&self, rng: &mut Rng) -> Option<(PathBuf, Vec<u8>)> {
        let files: Vec<_> = all_below(&self.home)
            .into_iter()
            .filter_map(|path| Some((fs::read(&path).ok().filter(|b| !b.is_empty())?, path)))
            .map(|(bytes, path)| (path, bytes))
            .collect();
        (!files.is_empty()).then(|| rng.pick(&files).clone())
    }

    fn replace_index(&self, by: &Path) {
        remove(&self.home.join("index"));
        copy_tree(by, &self.home.join("index"));
    }

    fn suffer(&mut self, fault: Fault, rng: &mut Rng) {
        self.mend();
        // Some faults strike while the index is open, some while it is closed.
        if fault == Fault::Reopened || fault == Fault::Locked || rng.below(2) == 0 {
            self.store = None;
        }
        match fault {
            Fault::Nothing | Fault::Reopened => {}
            Fault::Deleted => remove(&self.home),
            Fault::Truncated => {
                if let Some((path, bytes)) = self.some_file(rng) {
                    fs::write(path, &bytes[..rng.below(bytes.len())]).unwrap();
                }
            }
            Fault::Flipped => {
                for _ in 0..1 + rng.below(20) {
                    if let Some((path, mut bytes)) = self.some_file(rng) {
                        // sled's files are mostly zeros: hit what is there.
                        let end = bytes
                            .iter()
                            .rposition(|b| *b != 0)
                            .map_or(bytes.len(), |at| at + 1);
                        bytes[rng.below(end)] ^= 1 << rng.below(8);
                        fs::write(path, bytes).unwrap();
                    }
                }
            }
            Fault::Foreign => self.replace_index(&self.foreign.clone()),
            Fault::Outdated => self.replace_index(&self.outdated.clone()),
            Fault::Locked => self.holder = Some(Holder::of(&self.home)),
            Fault::ReadOnly => {
                fs::create_dir_all(&self.home).unwrap();
                self.set_writable(false);
                self.read_only = ReadOnly::of(&self.home);
            }
            Fault::AFileInItsPlace => {
                remove(&self.home);
                fs::write(&self.home, "in the way").unwrap();
            }
        }
    }
}

/// A manifest without what differs between two stores that were told the same: its time and its parent's name.
///
/// A pack holds the id of the lease it was written under, so it has another name in each of two stores: only their number is told.
fn content_of(store: &Store, id: ManifestId) -> Manifest {
    let manifest = store.manifest(id).unwrap();
    Manifest {
        created_unix_ms: 0,
        parent: None,
        lease: None,
        packs: vec![PackId::of(b"some pack"); manifest.packs.len()],
        ..manifest
    }
}

/// What a save did, in terms that are equal for two stores: its report, and the manifest it made.
fn answer(store: &Store, report: Result<SaveReport, StoreError>) -> String {
    match report {
        Ok(mut report) => {
            let manifest = store.objects().get(&Key::Manifest(report.manifest)).unwrap();
            // The length of a manifest depends on its time.
            if !report.already_there {
                report.stored_bytes -= manifest.len() as u64;
            }
            let content = content_of(store, report.manifest);
            report.manifest = ManifestId::of(b"");
            format!("{report:?} {content:?}")
        }
        // A conflict names the manifest, which differs; its kind does not.
        Err(StoreError::Conflict { .. }) => "conflict".to_owned(),
        Err(other) => panic!("{other}"),
    }
}

/// Writes the next checkpoint of a training run that has several files, one that never changes, and a tensor file that is
/// sometimes renamed.
fn write_checkpoint(dir: &Path, state: &mut [u8], step: u64, rng: &mut Rng) {
    fs::create_dir_all(dir).unwrap();
    train(state, rng);
    let name = ["state.safetensors", "renamed.safetensors"][usize::from(rng.below(4) == 0)];
    fs::write(dir.join(name), &*state).unwrap();
    fs::write(dir.join("tokenizer.json"), "{\"merges\": []}".repeat(50)).unwrap();
    fs::write(
        dir.join("trainer.json"),
        format!("{{\"step\": {step}}}").repeat(20),
    )
    .unwrap();
}

#[test]
fn the_index_changes_no_answer() {
    // Promise: with an index that is deleted, truncated, flipped, another store's, out of date, locked, read-only or no folder
    // at all, at any moment between operations, saves, restores, diffs and verifies answer as with an index in memory.
    let mut struck = vec![0; FAULTS.len()];
    let (mut set_aside, mut refused_writes) = (0, 0);
    let mut answers = [0; 5];
    for sequence in 0..SEQUENCES {
        let mut rng = Rng::new(SEED + sequence);
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let mut state = training_state();

        let home = |place: &Path, cache: &Path| {
            let store = open_store(place, None).unwrap();
            cache.join(store.config().store_id.to_string())
        };
        // Another store that holds the first checkpoint too, and one of its own.
        write_checkpoint(&at("step0"), &mut state, 0, &mut rng);
        write_checkpoint(&at("elsewhere"), &mut training_state(), 1, &mut rng);
        make_store(&at("other"));
        let other = open_store(&at("other"), Some(&at("other-cache"))).unwrap();
        save(&other, &at("step0"), 0).unwrap();
        save(&other, &at("elsewhere"), 1).unwrap();
        drop(other);

        let memory = Objects::memory();
        config::init(&memory).unwrap();
        let twin = || Store::over(memory.clone(), None).unwrap();
        make_store(&at("store"));
        let mut subject = Subject {
            home: home(&at("store"), &at("cache")),
            place: at("store"),
            cache: at("cache"),
            foreign: home(&at("other"), &at("other-cache")).join("index"),
            outdated: at("outdated"),
            store: None,
            holder: None,
            read_only: None,
        };
        let first = save(subject.store(), &at("step0"), 0);
        assert_eq!(answer(subject.store(), first), {
            let twin = twin();
            answer(&twin, save(&twin, &at("step0"), 0))
        });
        subject.store = None;
        assert!(
            subject.home.join("index").is_dir() && subject.foreign.is_dir(),
            "no index was made"
        );
        copy_tree(&subject.home.join("index"), &subject.outdated);

        let mut saved = vec![0];
        for operation in 1..=OPERATIONS {
            let fault = rng.below(FAULTS.len());
            subject.suffer(FAULTS[fault], &mut rng);
            struck[fault] += 1;
            if FAULTS[fault] == Fault::ReadOnly && fs::write(subject.home.join("probe"), "").is_err() {
                refused_writes += 1;
            }
            let what = rng.below(10);
            let context = format!(
                "sequence {sequence}, operation {operation} ({what}) after {:?}",
                FAULTS[fault]
            );
            let aside = |path: &PathBuf| path.to_string_lossy().contains("/index.bad-");
            subject.store();
            set_aside += u32::from(all_below(&subject.home).iter().any(aside));
            let (twin, store) = (twin(), subject.store());
            let reference = |rng: &mut Rng| format!("run@{}", rng.pick(&saved));
            match what {
                // A new step; one that is there; one that is there with other content.
                0..4 => {
                    write_checkpoint(&at(&format!("step{operation}")), &mut state, operation, &mut rng);
                    let (step, source) = match what {
                        3 => (*rng.pick(&saved), *rng.pick(&saved)),
                        _ => (operation, operation),
                    };
                    let source = at(&format!("step{source}"));
                    assert_eq!(
                        answer(store, save(store, &source, step)),
                        answer(&twin, save(&twin, &source, step)),
                        "{context}"
                    );
                    if what != 3 {
                        saved.push(operation);
                    }
                    answers[usize::from(what == 3)] += 1;
                }
                4..6 => {
                    let reference = reference(&mut rng);
                    let (a, b) = (at("back-a"), at("back-b"));
                    assert_eq!(
                        restore(store, &reference, &a).unwrap(),
                        restore(&twin, &reference, &b).unwrap(),
                        "{context}"
                    );
                    let source = at(&format!("step{}", &reference[4..]));
                    assert!(
                        tree(&a) == tree(&source) && tree(&b) == tree(&source),
                        "{context}"
                    );
                    fs::remove_dir_all(a).unwrap();
                    fs::remove_dir_all(b).unwrap();
                    answers[2] += 1;
                }
                6..8 => {
                    let (old, new) = (reference(&mut rng), reference(&mut rng));
                    let diff = |store: &Store| {
                        let id = |r: &str| store.resolve(r).unwrap().manifest;
                        store.diff(id(&old), id(&new), &Silent).unwrap()
                    };
                    assert_eq!(diff(store), diff(&twin), "{context}");
                    answers[3] += 1;
                }
                _ => {
                    let level = *rng.pick(&[VerifyLevel::Quick, VerifyLevel::ReadData, VerifyLevel::Restore]);
                    let (a, b) = (verify(store, level), verify(&twin, level));
                    assert_eq!(a.problems, [], "{context}");
                    // Manifests differ in time and so do their names, not in what they need.
                    assert_eq!(a, b, "{context}");
                    answers[4] += 1;
                }
            }
        }
        subject.mend();
    }
    println!("operations after which a damaged index lay aside: {set_aside}");
    if refused_writes == 0 {
        // Past the capture of a passing test's output.
        let message =
            "NOT RUN: the superuser writes everywhere and may not mount here; no read-only index was tried";
        writeln!(std::io::stderr(), "{message}").unwrap();
    }
    assert!(set_aside >= 5, "no damage was ever noticed");
    println!("faults: {:?}", FAULTS.iter().zip(&struck).collect::<Vec<_>>());
    println!("saves, saves again, restores, diffs, verifies: {answers:?}");
    assert!(
        struck.iter().all(|n| *n >= 5),
        "a fault was hardly tried: {struck:?}"
    );
    assert!(
        answers.iter().all(|n| *n >= 5),
        "an operation was hardly tried: {answers:?}"
    );
}
