//! Copying from one store into another.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tpde_store::copy::{COPY_OF, Fate, copy};
use tpde_store::forget::Selection;
use tpde_store::keys::{Key, Prefix};
use tpde_store::pack::read_entries;
use tpde_store::{
    CopyReport, CopyRequest, Metrics, Objects, Progress, SaveRequest, Silent, Source, Stage, Store,
    StoreError, VerifyLevel, VerifyRequest, config, history, tags,
};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

/// Elements of the weight: more than two tiles.
const ELEMS: usize = 150_000;

/// Two stores on disk, and checkpoints beside them.
struct Bench {
    dir: tempfile::TempDir,
    source: Store,
    target: Store,
}

fn store_at(dir: &Path) -> Store {
    fs::create_dir(dir).unwrap();
    let objects = Objects::open(dir.to_str().unwrap()).unwrap();
    config::init(&objects).unwrap();
    Store::over(objects, None).unwrap()
}

fn names(names: &[&str]) -> CopyRequest {
    CopyRequest {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        now_unix_ms: 77,
        ..CopyRequest::default()
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| store_at(&dir.path().join(name)));
        Self { dir, source, target }
    }

    /// The files of a step: a weight of which a part moves with every step, one that stays, and a text.
    fn files(&self, step: u64) -> PathBuf {
        let dir = self.dir.path().join(format!("checkpoint-{step}"));
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            let mut moved = weights(ELEMS, 1);
            for changed in 1..=step as usize {
                moved
                    .iter_mut()
                    .skip(2 * changed)
                    .step_by(2 * 97)
                    .for_each(|byte| *byte ^= 1);
            }
            let tensors = [
                ("model.moved", "BF16", vec![ELEMS], moved),
                ("model.kept", "BF16", vec![5000], weights(5000, 9)),
            ];
            safetensors(&dir.join("model.safetensors"), &tensors);
            fs::write(dir.join("note.txt"), format!("step {step}\n").repeat(100)).unwrap();
        }
        dir
    }

    fn save_into(&self, store: &Store, run: &str, step: u64, max_depth: u8) {
        let mut request = SaveRequest::new(self.files(step), run.parse().unwrap(), step);
        request.metrics = Metrics::new(vec![format!("loss={step}.5").parse().unwrap()]).unwrap();
        request.note = format!("the {step}th");
        request.environment = BTreeMap::from([("host".to_owned(), "here".to_owned())]);
        request.max_depth = max_depth;
        store.save(&request, &Silent).unwrap();
    }

    fn save(&self, run: &str, step: u64) {
        self.save_into(&self.source, run, step, 16);
    }

    fn copy(&self, request: &CopyRequest) -> Result<CopyReport, StoreError> {
        copy(&self.source, &self.target, request, &Silent)
    }

    /// Restores a step from the target and compares it with what was saved.
    #[track_caller]
    fn check(&self, run: &str, step: u64) {
        // Opened anew: nothing that the copy remembers may help.
        let target = Store::over(self.target.objects().clone(), None).unwrap();
        let restored = tempfile::tempdir().unwrap();
        restore(&target, &format!("{run}@{step}"), restored.path()).unwrap();
        same_tree(&self.files(step), restored.path());
    }

    /// Checks that every object of the target is sound, and that no piece was stored twice.
    #[track_caller]
    fn check_all(&self) {
        let request = VerifyRequest {
            level: VerifyLevel::Restore,
            only: None,
        };
        let report = self.target.verify(&request, &Silent).unwrap();
        assert_eq!(report.problems, []);
    }

    /// Every object of the target, and its size.
    fn objects(&self) -> Vec<(String, u64)> {
        let listed = self.target.objects().list(&Prefix::Root).unwrap();
        listed.iter().map(|l| (l.key.to_string(), l.size_bytes)).collect()
    }

    /// The pieces of all packs of the target: their ids, and how often each is there.
    fn pieces(&self) -> BTreeMap<([u8; 32], String), u32> {
        let mut pieces = BTreeMap::new();
        for listed in self.target.objects().list(&Prefix::Packs).unwrap() {
            let Key::Pack(pack) = listed.key else { continue };
            let entries = read_entries(self.target.objects(), pack).unwrap();
            // The first is the lease that the pack was written under.
            for entry in entries.into_iter().skip(1) {
                for piece in 0..entry.pieces.len() {
                    *pieces
                        .entry((entry.id, format!("{:?}", entry.part(piece))))
                        .or_default() += 1;
                }
            }
        }
        pieces
    }
}

fn steps(store: &Store, run: &str) -> Vec<u64> {
    let log = history::log(store.objects(), &run.parse().unwrap()).unwrap();
    log.commits().map(|commit| commit.step).collect()
}

fn fates(report: &CopyReport) -> Vec<(u64, Fate)> {
    report
        .commits
        .iter()
        .map(|commit| (commit.step, commit.fate))
        .collect()
}

fn tag(store: &Store, name: &str, reference: &str) {
    let resolved = store.resolve(reference).unwrap();
    let place = resolved.place.unwrap();
    let target = tags::Target {
        manifest: resolved.manifest,
        run: place.run,
        seq: place.seq,
        step: place.step,
    };
    store.tag(&name.parse().unwrap(), &target, true, 5).unwrap();
}

/// Promise: a copied checkpoint restores to the same bytes, under its run and step, with its metrics, note, environment, time, parent
/// and tags; no piece is stored twice; copying again writes nothing.
#[test]
fn everything_comes_along() {
    let bench = Bench::new();
    for step in 1..=5 {
        bench.save("llama", step);
    }
    let mut tuned = SaveRequest::new(bench.files(9), "a-tuned".parse().unwrap(), 0);
    tuned.parent = Some(bench.source.resolve("llama@3").unwrap().manifest);
    bench.source.save(&tuned, &Silent).unwrap();
    tag(&bench.source, "best", "llama@4");

    let mut request = names(&[]);
    request.tags = true;
    let report = bench.copy(&request).unwrap();
    assert!(report.commits.iter().all(|commit| commit.fate == Fate::Copied));
    assert_eq!(steps(&bench.target, "llama"), [1, 2, 3, 4, 5]);
    for step in 1..=5 {
        bench.check("llama", step);
        let [theirs, ours] = [&bench.source, &bench.target].map(|store| {
            let resolved = store.resolve(&format!("llama@{step}")).unwrap();
            (resolved.manifest, store.manifest(resolved.manifest).unwrap())
        });
        let mut environment = theirs.1.environment.clone();
        environment.insert(COPY_OF.to_owned(), theirs.0.to_hex());
        assert_eq!(ours.1.environment, environment);
        assert_eq!(
            (
                ours.1.created_unix_ms,
                &ours.1.note,
                &ours.1.metrics,
                ours.1.fingerprint()
            ),
            (
                theirs.1.created_unix_ms,
                &theirs.1.note,
                &theirs.1.metrics,
                theirs.1.fingerprint()
            )
        );
    }
    let [theirs, ours] = [&bench.source, &bench.target].map(|store| {
        let log = history::log(store.objects(), &"llama".parse().unwrap()).unwrap();
        let told = log.commits().map(|c| {
            (
                c.created_unix_ms,
                c.totals.raw_bytes,
                c.totals.new_tensors,
                c.action.clone(),
            )
        });
        told.collect::<Vec<_>>()
    });
    assert_eq!(ours, theirs);
    let tuned = bench.target.resolve("a-tuned@0").unwrap().manifest;
    let parent = bench.target.manifest(tuned).unwrap().parent;
    assert_eq!(parent, Some(bench.target.resolve("llama@3").unwrap().manifest));
    let best = bench.target.resolve("best").unwrap();
    assert_eq!(best, bench.target.resolve("llama@4").unwrap());
    bench.check_all();
    assert!(bench.pieces().values().all(|&times| times == 1));

    let before = bench.objects();
    let again = bench.copy(&request).unwrap();
    assert!(
        again
            .commits
            .iter()
            .all(|commit| commit.fate == Fate::AlreadyThere)
    );
    assert_eq!((again.sent_bytes, again.packs, again.read_bytes), (0, 0, 0));
    assert_eq!(again.tags[0].fate, Fate::AlreadyThere);
    assert_eq!(bench.objects(), before);
}

/// Promise: one step brings what it is decoded from and no more; what is copied later sends only what is missing still; a dry run says
/// the same bytes and writes nothing; the copy of a copy names the first.
#[test]
fn only_what_is_missing() {
    let bench = Bench::new();
    for step in 1..=4 {
        bench.save("llama", step);
    }
    let before = bench.objects();
    let mut dry = names(&["llama@3"]);
    dry.dry_run = true;
    let told = bench.copy(&dry).unwrap();
    assert_eq!((told.packs, bench.objects()), (0, before));
    let report = bench.copy(&names(&["llama@3"])).unwrap();
    assert!(told.sent_bytes > 0 && report.sent_bytes > told.sent_bytes);
    bench.check("llama", 3);
    assert_eq!(steps(&bench.target, "llama"), [3]);
    let brought = bench.pieces().len();

    // What step 1 is made of came with step 3, but for its text.
    let first = bench.copy(&names(&["llama@1"])).unwrap();
    assert!(first.sent_bytes < report.sent_bytes / 10, "{first:?}");
    let rest = bench.copy(&names(&["llama"])).unwrap();
    assert_eq!(
        fates(&rest),
        [
            (1, Fate::AlreadyThere),
            (2, Fate::Copied),
            (3, Fate::AlreadyThere),
            (4, Fate::Copied)
        ]
    );
    assert!(bench.pieces().len() > brought);
    assert!(bench.pieces().values().all(|&times| times == 1));
    bench.check_all();

    let third = store_at(&bench.dir.path().join("third"));
    copy(&bench.target, &third, &names(&["llama@4"]), &Silent).unwrap();
    let manifest = third
        .manifest(third.resolve("llama@4").unwrap().manifest)
        .unwrap();
    let first = bench.source.resolve("llama@4").unwrap().manifest;
    assert_eq!(manifest.environment[COPY_OF], first.to_hex());
}

/// Promise: a base that the target decodes by a longer way only is sent along by the source's shorter one, so that nothing in the target
/// breaks the order of ranks.
#[test]
fn a_longer_way_will_not_do() {
    let bench = Bench::new();
    for step in [1, 2] {
        bench.save("llama", step);
    }
    // Here step 1 is a difference from step 5: its rank is that of step 2 over there.
    for step in [5, 1] {
        bench.save_into(&bench.target, "other", step, 16);
    }
    let rank = |store: &Store, reference: &str| {
        let manifest = store
            .manifest(store.resolve(reference).unwrap().manifest)
            .unwrap();
        manifest.tensors.iter().map(|record| record.rank).max()
    };
    assert_eq!(
        (rank(&bench.source, "llama@2"), rank(&bench.target, "other@1")),
        (Some(1), Some(1))
    );
    bench.copy(&names(&["llama@2"])).unwrap();
    bench.check("llama", 2);
    bench.check("other", 1);
    assert_eq!(rank(&bench.target, "llama@2"), Some(1));
    assert!(
        bench.pieces().values().any(|&times| times == 2),
        "step 1 both ways"
    );
    // The shorter way serves step 1, too.
    let first = bench.copy(&names(&["llama@1"])).unwrap();
    assert!(first.sent_bytes < 2000, "{first:?}");
    bench.check_all();
}

/// Promise: where the target has other checkpoints, nothing at all is copied before `replace` is said; then the copy stands for the step.
/// The same holds for tags.
#[test]
fn conflicts_come_first() {
    let bench = Bench::new();
    bench.save("llama", 1);
    bench.save("llama", 2);
    tag(&bench.source, "best", "llama@1");
    let mut other = SaveRequest::new(bench.files(8), "llama".parse().unwrap(), 2);
    bench.target.save(&other, &Silent).unwrap();
    let before = bench.objects();
    let error = bench.copy(&names(&["llama"])).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert!(error.to_string().contains("llama@2"), "{error}");
    assert_eq!(bench.objects(), before);

    // A tag elsewhere is in the way of a tag, and a run of its name, too.
    other.step = 7;
    other.source = Source::Path(bench.files(7));
    bench.target.save(&other, &Silent).unwrap();
    tag(&bench.target, "best", "llama@7");
    let error = bench.copy(&names(&["llama@1", "best"])).unwrap_err();
    assert!(
        error.to_string().contains("tag best stands for llama@7"),
        "{error}"
    );
    assert_eq!(steps(&bench.target, "llama"), [2, 7]);

    let mut request = names(&["llama", "best"]);
    request.replace = true;
    let report = bench.copy(&request).unwrap();
    assert_eq!(fates(&report), [(1, Fate::Copied), (2, Fate::Replaced)]);
    assert_eq!(report.tags[0].fate, Fate::Replaced);
    bench.check("llama", 1);
    bench.check("llama", 2);
    assert_eq!(
        bench.target.resolve("best").unwrap(),
        bench.target.resolve("llama@1").unwrap()
    );

    save(&bench.source, &bench.files(1), 1).unwrap();
    tag(&bench.target, "run", "llama@7");
    let error = bench.copy(&names(&["run"])).unwrap_err();
    assert!(error.to_string().contains("would hide the run"), "{error}");
}

/// Promise: what the target lost of a checkpoint that it has is sent again, and the commit that stands is whole again; a lost manifest is
/// written anew.
#[test]
fn losses_are_mended() {
    let bench = Bench::new();
    bench.save("llama", 1);
    bench.save("llama", 2);
    bench.copy(&names(&[])).unwrap();
    let second = bench.target.resolve("llama@2").unwrap().manifest;
    let path = |key: &Key| bench.dir.path().join("target").join(key.to_string());
    let manifest = bench.target.manifest(second).unwrap();
    let mut newest: Vec<_> = manifest
        .packs
        .iter()
        .map(|&pack| path(&Key::Pack(pack)))
        .collect();
    newest.sort_by_key(|path| fs::metadata(path).unwrap().len());
    fs::remove_file(&newest[0]).unwrap();
    let fresh = |store: &Store| Store::over(store.objects().clone(), None).unwrap();
    let target = fresh(&bench.target);
    let report = copy(&bench.source, &target, &names(&[]), &Silent).unwrap();
    assert_eq!(fates(&report), [(1, Fate::AlreadyThere), (2, Fate::Mended)]);
    assert_eq!(target.resolve("llama@2").unwrap().manifest, second);
    bench.check("llama", 2);

    fs::remove_file(path(&Key::Manifest(second))).unwrap();
    let target = fresh(&bench.target);
    let report = copy(&bench.source, &target, &names(&[]), &Silent).unwrap();
    assert_eq!(fates(&report), [(1, Fate::AlreadyThere), (2, Fate::Copied)]);
    bench.check("llama", 2);
    bench.check("llama", 1);
}

/// Somebody who does something to the target while a copy is at it, once.
struct Meanwhile<F: Fn() + Sync>(Once, F);

impl<F: Fn() + Sync> Progress for Meanwhile<F> {
    fn start(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {
        self.0.call_once(&self.1);
    }
    fn finish(&self) {}
}

/// Promise: a pack that goes from the target while a copy relies on it is missed before the commit, and what was in it is sent.
#[test]
fn packs_that_go_meanwhile() {
    let bench = Bench::new();
    bench.save("llama", 1);
    bench.save("llama", 2);
    bench.copy(&names(&["llama@1"])).unwrap();
    let packs = bench.dir.path().join("target/packs");
    let progress = Meanwhile(Once::new(), || fs::remove_dir_all(&packs).unwrap());
    let report = copy(&bench.source, &bench.target, &names(&["llama@2"]), &progress).unwrap();
    assert!(progress.0.is_completed());
    assert_eq!(fates(&report), [(2, Fate::Copied)]);
    bench.check("llama", 2);
}

/// Promise: a pack of the source that does not match its name is never copied from; what was copied before stays whole.
#[test]
fn damage_is_not_copied() {
    let bench = Bench::new();
    bench.save("llama", 1);
    bench.copy(&names(&[])).unwrap();
    bench.save("llama", 2);
    let second = bench
        .source
        .manifest(bench.source.resolve("llama@2").unwrap().manifest)
        .unwrap();
    let first = bench.source.manifest(second.parent.unwrap()).unwrap();
    let pack = second
        .packs
        .iter()
        .find(|pack| !first.packs.contains(pack))
        .unwrap();
    let at = bench.dir.path().join("source").join(Key::Pack(*pack).to_string());
    let mut bytes = fs::read(&at).unwrap();
    bytes[10] ^= 1;
    fs::remove_file(&at).unwrap();
    fs::write(&at, bytes).unwrap();
    let before = bench.objects();
    let error = bench.copy(&names(&[])).unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { object, .. } if *object == Key::Pack(*pack).to_string()),
        "{error}"
    );
    assert_eq!(bench.objects(), before);
    bench.check("llama", 1);
}

/// Promise: forgotten and replaced commits stay behind, and so do the tags that stand for them, unless they are named: then that is said.
#[test]
fn what_no_longer_counts_stays() {
    let bench = Bench::new();
    bench.save("llama", 1);
    bench.save("llama", 2);
    tag(&bench.source, "old", "llama@2");
    let mut again = SaveRequest::new(bench.files(7), "llama".parse().unwrap(), 2);
    again.replace = true;
    bench.source.save(&again, &Silent).unwrap();
    bench.save("llama", 3);
    let run = "llama".parse().unwrap();
    let selection = Selection::Commits([0].into());
    let plan = bench.source.plan_forget(&run, &selection, 1).unwrap();
    bench.source.forget(&plan, 1).unwrap();

    let error = bench.copy(&names(&["old"])).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let mut request = names(&[]);
    request.tags = true;
    let report = bench.copy(&request).unwrap();
    assert_eq!(steps(&bench.target, "llama"), [2, 3]);
    assert_eq!((report.tags.len(), report.tags[0].fate), (1, Fate::LeftOut));
    let restored = tempfile::tempdir().unwrap();
    restore(&bench.target, "llama@2", restored.path()).unwrap();
    same_tree(&bench.files(7), restored.path());
    for nothing in ["nope", "llama@1", "llama~9"] {
        let error = bench.copy(&names(&[nothing])).unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
}
