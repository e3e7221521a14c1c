//! Repacking: a thinned history in fewer bytes, and never in more.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test makes up numbers and stops at the first surprise"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use tpde_store::forget::Selection;
use tpde_store::gc::GcRequest;
use tpde_store::keys::Prefix;
use tpde_store::{
    Objects, RepackReport, RepackRequest, RunName, Silent, Store, VerifyLevel, VerifyRequest, config,
};

mod checkpoints;
use checkpoints::{restore, safetensors, same_tree, save, weights};

const ELEMS: usize = 60_000;

fn run() -> RunName {
    "run".parse().unwrap()
}

/// A store of checkpoints, and their files.
struct World {
    dir: tempfile::TempDir,
    objects: Objects,
}

impl World {
    fn new() -> Self {
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            objects,
        }
    }

    fn store(&self) -> Store {
        Store::over(self.objects.clone(), None).unwrap()
    }

    fn source(&self, step: u64) -> std::path::PathBuf {
        self.dir.path().join(step.to_string())
    }

    /// Saves a step: weights that move, weights that never do, a text that changes and one that does not.
    fn save(&self, step: u64, moving: &[u8]) {
        self.save_beside(step, moving, 500);
    }

    /// The same, with so many weights that never move.
    fn save_beside(&self, step: u64, moving: &[u8], fixed: usize) {
        let source = self.source(step);
        fs::create_dir_all(&source).unwrap();
        let tensors = [
            ("moving", "BF16", vec![ELEMS], moving.to_vec()),
            ("fixed", "BF16", vec![fixed], weights(fixed, 9)),
        ];
        safetensors(&source.join("m.safetensors"), &tensors);
        fs::write(source.join("state.json"), format!("{{\"step\": {step}}}")).unwrap();
        fs::write(source.join("tokenizer.json"), "words ".repeat(2_000)).unwrap();
        save(&self.store(), &source, step).unwrap();
    }

    fn forget(&self, steps: &[u64]) {
        let store = self.store();
        let selection = Selection::Commits(steps.iter().copied().collect());
        let plan = store.plan_forget(&run(), &selection, 1).unwrap();
        store.forget(&plan, 1).unwrap();
    }

    fn repack(&self) -> RepackReport {
        self.store().repack(&RepackRequest::default(), &Silent).unwrap()
    }

    fn gc(&self) {
        let request = GcRequest {
            grace: Duration::ZERO,
            ..GcRequest::default()
        };
        self.store().gc(&request, &Silent).unwrap();
    }

    fn pack_bytes(&self) -> u64 {
        let packs = self.objects.list(&Prefix::Packs).unwrap();
        packs.iter().map(|listed| listed.size_bytes).sum()
    }

    /// Every one of `steps` is there, byte for byte.
    fn check(&self, steps: &[u64]) {
        let request = VerifyRequest {
            level: VerifyLevel::Restore,
            only: None,
        };
        assert_eq!(self.store().verify(&request, &Silent).unwrap().problems, []);
        for step in steps {
            let back = self.dir.path().join("back");
            restore(&self.store(), &format!("run@{step}"), &back).unwrap();
            same_tree(&self.source(*step), &back);
            fs::remove_dir_all(&back).unwrap();
        }
    }
}

/// Moves every `nth` weight from `first` on by an ulp or a few.
fn moved(bytes: &[u8], first: usize, nth: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for word in (first..bytes.len() / 2).step_by(nth) {
        bytes[2 * word] ^= 1 + (word * 7 % 6) as u8;
    }
    bytes
}

/// Promise: what only forgotten checkpoints keep from being deleted goes after a repack, whatever small things the kept ones share with
/// them; a second repack finds nothing to do.
#[test]
fn the_forgotten_go() {
    let world = World::new();
    let base = weights(ELEMS, 1);
    world.save(0, &base);
    let one = moved(&base, 0, 40);
    world.save(1, &one);
    world.save(2, &moved(&one, 5, 60));
    // Far from all, and nearest to the first.
    world.save(3, &moved(&base, 1, 2));
    world.forget(&[0, 1]);
    let before = world.pack_bytes();
    let report = world.repack();
    assert_eq!((report.rebased, report.dearer_bytes), (2, 0), "{report:?}");
    world.check(&[2, 3]);
    world.gc();
    let after = world.pack_bytes();
    assert!(after < before, "{before} before, {after} after, {report:?}");
    world.check(&[2, 3]);
    let again = world.repack();
    assert_eq!(
        (again.rebased, again.emptied_packs, again.written_bytes),
        (0, 0, 0)
    );
}

/// Promise: a forgotten checkpoint stays for as long as it is the cheapest base of those that are kept: a repack never makes a store larger.
#[test]
fn the_best_base_stays() {
    let world = World::new();
    let base = weights(ELEMS, 1);
    world.save(0, &base);
    // Each moved other weights: two of them are twice as far from one another as from the first.
    for step in 1..=6 {
        world.save(step, &moved(&base, step as usize, 7));
    }
    world.forget(&[0]);
    let before = world.pack_bytes();
    let report = world.repack();
    assert_eq!(report.rebased, 0, "{report:?}");
    assert!(report.dearer_bytes > 0, "{report:?}");
    world.gc();
    assert!(world.pack_bytes() <= before);
    world.check(&[1, 2, 3, 4, 5, 6]);
    assert_eq!(world.repack().written_bytes, 0);
}

/// Promise: a pack that stays for what it shares with a kept checkpoint is no reason to store again what is decoded from the rest of it.
#[test]
fn a_shared_base_stays() {
    let world = World::new();
    let base = weights(ELEMS, 1);
    world.save_beside(0, &base, 90_000);
    world.save_beside(1, &moved(&base, 0, 7), 90_000);
    world.save_beside(2, &moved(&base, 3, 7), 90_000);
    world.forget(&[0]);
    let before = world.pack_bytes();
    let report = world.repack();
    world.gc();
    assert!(world.pack_bytes() <= before, "{report:?}");
    assert_eq!(report.rebased, 0, "{report:?}");
    world.check(&[1, 2]);
}

/// Promise: a checkpoint that only a tag keeps is made whole by itself, or stays as it is.
#[test]
fn a_tag_keeps() {
    let world = World::new();
    let base = weights(ELEMS, 1);
    world.save(0, &base);
    world.save(1, &moved(&base, 0, 40));
    world.save(2, &moved(&base, 3, 50));
    let store = world.store();
    let target = store.resolve("run@1").unwrap();
    let target = tpde_store::tags::Target {
        manifest: target.manifest,
        run: run(),
        seq: 1,
        step: 1,
    };
    store.tag(&"good".parse().unwrap(), &target, false, 1).unwrap();
    world.forget(&[0, 1]);
    let before = world.pack_bytes();
    let report = world.repack();
    world.gc();
    assert!(world.pack_bytes() <= before, "{report:?}");
    let back = world.dir.path().join("back");
    restore(&world.store(), "good", &back).unwrap();
    same_tree(&world.source(1), Path::new(&back));
    fs::remove_dir_all(&back).unwrap();
    world.check(&[2]);
}
