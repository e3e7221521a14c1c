//! What is deleted, and what is not.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::forget::Selection;
use crate::objects::Objects;
use crate::progress::{Silent, Stage};
use crate::save::SaveRequest;

/// A tree with one checkpoint, which is saved.
struct World {
    dir: TempDir,
    store: Store,
    tree: Tree,
    id: ManifestId,
}

/// Does something when the files were compared.
struct Then<F: Fn()>(F);

impl<F: Fn() + Sync> Progress for Then<F> {
    fn start(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {
        (self.0)();
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        let store = Store::over(objects, None).unwrap();
        let path = dir.path().join("out");
        for (name, text) in [
            ("step_5/a", "one"),
            ("step_5/b/c", "two"),
            ("step_5/b/d", "three"),
        ] {
            let at = path.join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        }
        let tree = Tree::new(&store, &path).unwrap();
        let saved = store
            .save(&SaveRequest::new(path.join("step_5"), run(), 5), &Silent)
            .unwrap();
        Self {
            id: saved.manifest,
            dir,
            store,
            tree,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    fn look(&self) -> Look {
        self.tree.look().unwrap().looks.remove(0)
    }

    fn remove(&self, look: &Look) -> Removal {
        self.remove_with(look, &Silent)
    }

    fn remove_with(&self, look: &Look, progress: &dyn Progress) -> Removal {
        let saved = (&run(), self.id);
        self.store
            .remove_saved(&self.tree, look, saved, progress)
            .unwrap()
    }

    fn finish(&self) -> Vec<Leftover> {
        let names = self.tree.look().unwrap().leftovers;
        self.store
            .finish_removals(&self.tree, &names, &run(), &Silent)
            .unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.at("")).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn run() -> RunName {
    "run".parse().unwrap()
}

#[track_caller]
fn is_kept(removal: &Removal, says: &str) {
    assert!(
        matches!(removal, Removal::Kept { why } if why.contains(says)),
        "{removal:?}"
    );
}

/// Promise: what is saved goes, and nothing of it is left; links in it go, and not what they lead to.
#[test]
fn all_of_it() {
    let world = World::new();
    assert_eq!(world.remove(&world.look()), Removal::Removed { bytes: 11 });
    assert_eq!(world.names(), [""; 0]);

    fs::create_dir(world.at("step_6")).unwrap();
    fs::write(world.dir.path().join("elsewhere"), "kept").unwrap();
    symlink(world.dir.path().join("elsewhere"), world.at("step_6/link")).unwrap();
    let request = SaveRequest::new(world.at("step_6"), run(), 6);
    let id = world.store.save(&request, &Silent).unwrap().manifest;
    let removed = world
        .store
        .remove_saved(&world.tree, &world.look(), (&run(), id), &Silent);
    assert_eq!(removed.unwrap(), Removal::Removed { bytes: 4 });
    assert_eq!(fs::read(world.dir.path().join("elsewhere")).unwrap(), b"kept");

    fs::write(world.at("step_7.pt"), "file").unwrap();
    let id = world
        .store
        .save(&SaveRequest::new(world.at("step_7.pt"), run(), 7), &Silent);
    let saved = (&run(), id.unwrap().manifest);
    let removed = world
        .store
        .remove_saved(&world.tree, &world.look(), saved, &Silent);
    assert_eq!(removed.unwrap(), Removal::Removed { bytes: 4 });
    assert_eq!(world.names(), [""; 0]);
}

/// Promise: a checkpoint stays, under its name, if its files are others, if something is in it that was not saved, or if it no longer
/// stands in its run.
#[test]
fn what_is_not_saved_stays() {
    let world = World::new();
    let look = world.look();
    fs::write(world.at("step_5/a"), "eno").unwrap();
    is_kept(&world.remove(&look), "not those that were saved");
    fs::write(world.at("step_5/a"), "one").unwrap();
    fs::write(world.at("step_5/new"), "").unwrap();
    is_kept(&world.remove(&look), "not those that were saved");
    fs::remove_file(world.at("step_5/new")).unwrap();
    // The same bytes, written anew after the look.
    is_kept(&world.remove(&look), "it changed");
    fs::write(world.at("step_5/.tpde-acbca950-0.partial"), "").unwrap();
    is_kept(&world.remove(&world.look()), "no part of the checkpoint");
    fs::remove_file(world.at("step_5/.tpde-acbca950-0.partial")).unwrap();
    let plan = Selection::Commits([0].into());
    let plan = world.store.plan_forget(&run(), &plan, 1).unwrap();
    world.store.forget(&plan, 1).unwrap();
    is_kept(&world.remove(&world.look()), "no longer stands");
    assert_eq!(world.names(), ["step_5"]);
    assert_eq!(world.look().len_bytes(), 11);
}

/// Promise: what comes between the comparison and the deletion is seen: the checkpoint gets its name again.
#[test]
fn a_change_at_the_last_moment() {
    let world = World::new();
    let late = Then(|| fs::write(world.at("step_5/late"), "late").unwrap());
    is_kept(&world.remove_with(&world.look(), &late), "it changed");
    assert_eq!(world.names(), ["step_5"]);
    assert_eq!(fs::read(world.at("step_5/late")).unwrap(), b"late");
    assert_eq!(fs::read(world.at("step_5/a")).unwrap(), b"one");
}

/// Promise: a deletion that was cut short anywhere leaves nothing that looks like a checkpoint, and is finished by the next; what was not
/// saved stays, whatever its name.
#[test]
fn cut_short() {
    for gone in [&[][..], &["a"], &["a", "b/c"], &["a", "b/c", "b/d"]] {
        let world = World::new();
        fs::rename(world.at("step_5"), world.at(".tpde-deleting-step_5")).unwrap();
        for name in gone {
            fs::remove_file(world.at(".tpde-deleting-step_5").join(name)).unwrap();
        }
        let seen = world.tree.look().unwrap();
        assert!(seen.looks.is_empty() && seen.passed_over.is_empty(), "{seen:?}");
        let done = world.finish();
        assert!(
            matches!(
                done[..],
                [Leftover {
                    step: Some(5),
                    removal: Removal::Removed { .. },
                    ..
                }]
            ),
            "{gone:?}: {done:?}"
        );
        assert_eq!(world.names(), [""; 0]);
    }
    let world = World::new();
    fs::rename(world.at("step_5"), world.at(".tpde-deleting-step_5")).unwrap();
    fs::write(world.at(".tpde-deleting-step_5/b/d"), "mine!").unwrap();
    fs::write(world.at(".tpde-deleting-step_5/mine"), "mine").unwrap();
    is_kept(&world.finish()[0].removal, "look at it");
    assert!(!world.at(".tpde-deleting-step_5/b/c").exists());
    assert_eq!(fs::read(world.at(".tpde-deleting-step_5/b/d")).unwrap(), b"mine!");
    assert_eq!(fs::read(world.at(".tpde-deleting-step_5/mine")).unwrap(), b"mine");
    // Of a step that the run does not have.
    fs::rename(
        world.at(".tpde-deleting-step_5"),
        world.at(".tpde-deleting-step_6"),
    )
    .unwrap();
    is_kept(&world.finish()[0].removal, "for step 6");
}

/// Promise: a link in the place of a leftover is not followed.
#[test]
fn links_are_not_followed() {
    let world = World::new();
    fs::rename(world.at("step_5"), world.dir.path().join("elsewhere")).unwrap();
    symlink(
        world.dir.path().join("elsewhere"),
        world.at(".tpde-deleting-step_5"),
    )
    .unwrap();
    is_kept(&world.finish()[0].removal, "is a link");
    assert!(world.dir.path().join("elsewhere/b/c").exists());
}
