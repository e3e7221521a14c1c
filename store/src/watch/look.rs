//! One look at a tree of checkpoints: what is there, and what would show that it changed.

use std::fs;
use std::path::{Path, PathBuf};

use globset::GlobSet;

use super::remove::leftover_of;
use super::signs::{Sign, signs};
use super::temporary::is_temporary;
use crate::error::{Result, StoreError};
use crate::files::left_out::is_store;
use crate::files::scan::{Place, Scan, scan, shown, unreadable};
use crate::files::source::Stamp;
use crate::import::{
    NEWEST, Named, PassedOver, below, check_is_tree, has_extension, is_already, named, step_named,
};
use crate::store::Store;

/// Largest file that is read to learn which checkpoint is the newest, in bytes.
const MAX_NEWEST_BYTES: u64 = 256;

/// A folder that a trainer writes its checkpoints to; it need not be there yet.
#[derive(Debug, Clone)]
pub struct Tree {
    path: PathBuf,
    /// The folder of the store that is saved to, if it is one on this machine.
    own: Option<PathBuf>,
}

/// What one look at a tree found.
#[derive(Debug)]
pub struct Seen {
    /// Its checkpoints, by step: finished or not.
    pub looks: Vec<Look>,
    /// What may have been meant as a checkpoint and is none, by name.
    pub passed_over: Vec<PassedOver>,
    /// What deletions that were cut short left behind: the names that the checkpoints had.
    pub leftovers: Vec<String>,
    /// Where there are checkpoints, if there are none in the tree itself.
    pub below: Option<PathBuf>,
    newest: Option<Newest>,
}

/// What the trainer's own note says of its newest checkpoint.
#[derive(Debug)]
pub(super) struct Newest {
    /// Name of the file that says so.
    pub(super) file: String,
    pub(super) step: u64,
}

/// A checkpoint of a tree, as it was when somebody looked.
#[derive(Debug, Clone)]
pub struct Look {
    /// Its name in the tree.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The step that its name says.
    pub step: u64,
    /// Whether it is one file.
    pub(super) is_file: bool,
    /// What it consists of, by path.
    pub(super) entries: Vec<Entry>,
    /// What lies in it and is no part of it.
    pub(super) left_out: Vec<String>,
    /// Why it cannot be listed.
    pub(super) trouble: Option<String>,
}

/// A file or directory of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Path in the checkpoint, `/` between its parts.
    pub(super) path: String,
    /// Of a file, what changes when it is written to.
    pub(super) stamp: Option<Stamp>,
}

impl Tree {
    /// A tree that is saved to `store`.
    ///
    /// # Errors
    /// `Input` if `path` is there and is no folder, or is a store, or looks like a checkpoint itself.
    pub fn new(store: &Store, path: &Path) -> Result<Self> {
        let own = store.objects().local_root().map(Path::to_owned);
        let tree = Self {
            path: path.to_owned(),
            own: own.and_then(|own| own.canonicalize().ok()),
        };
        check_is_tree(path)?;
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => Err(StoreError::input(
                shown(path),
                "it is no folder",
                "Name the folder that the trainer writes its checkpoints to; `tpde save` takes a single file",
            )),
            Ok(_) if tree.is_in_store() => Err(StoreError::input(
                shown(path),
                "it is a store, or part of one",
                "Name the folder that the trainer writes its checkpoints to",
            )),
            Ok(_) => fs::read_dir(path)
                .map(|_| tree)
                .map_err(|error| unreadable(path, &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(tree),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn is_in_store(&self) -> bool {
        let at = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        is_store(&at, self.own.as_deref()) || self.own.as_ref().is_some_and(|own| at.starts_with(own))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at all of it.
    ///
    /// # Errors
    /// `NotFound` if it is not there, `Input` if it cannot be read. What is wrong with a single checkpoint is a sign of it.
    pub fn look(&self) -> Result<Seen> {
        let (all, rest) = named(&self.path)?;
        let leftovers = rest.iter().filter_map(|rest| leftover_of(&rest.name));
        let leftovers = leftovers.map(str::to_owned).collect();
        let below = all.is_empty().then(|| below(&self.path, &rest)).flatten();
        let mut passed_over: Vec<PassedOver> = rest
            .into_iter()
            .filter(|rest| is_of_interest(&self.path, &rest.name))
            .collect();
        let mut looks: Vec<Look> = Vec::new();
        for Named { name, path, step } in all {
            match looks.last().filter(|last| last.step == step) {
                Some(last) => passed_over.push(PassedOver {
                    why: is_already(&last.name, step),
                    name,
                }),
                None => looks.push(self.look_at(name, path, step)),
            }
        }
        passed_over.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Seen {
            looks,
            passed_over,
            leftovers,
            below,
            newest: newest(&self.path),
        })
    }

    /// Looks at one checkpoint again.
    pub fn look_again(&self, look: &Look) -> Look {
        self.look_at(look.name.clone(), look.path.clone(), look.step)
    }

    /// What says that a checkpoint is not finished. Reads the beginnings and ends of its files.
    ///
    /// * `opaque`: files that are kept as plain bytes, and need not be what their names say.
    pub fn signs(&self, seen: &Seen, look: &Look, opaque: &GlobSet) -> Vec<Sign> {
        signs(look, seen.newest.as_ref(), opaque)
    }

    fn look_at(&self, name: String, path: PathBuf, step: u64) -> Look {
        let mut look = Look {
            is_file: path.is_file(),
            name,
            path,
            step,
            entries: Vec::new(),
            left_out: Vec::new(),
            trouble: None,
        };
        if let Err(error) = look.list(self.own.as_deref()) {
            look.trouble = Some(match error {
                StoreError::Input { what, detail, .. } if what == shown(&look.path) => detail,
                StoreError::Input { what, detail, .. } => format!("{what}: {detail}"),
                StoreError::NotFound { what, .. } => format!("{what} is not there"),
                other => other.to_string(),
            });
        }
        look
    }
}

impl Look {
    /// Bytes of its files.
    pub fn len_bytes(&self) -> u64 {
        let stamps = self.entries.iter().filter_map(|entry| entry.stamp);
        stamps.map(|stamp| stamp.len_bytes).sum()
    }

    /// Whether the same files are there, and none was written to or replaced.
    pub fn is_as(&self, other: &Self) -> bool {
        (self.is_file, &self.entries, &self.left_out, &self.trouble)
            == (other.is_file, &other.entries, &other.left_out, &other.trouble)
    }

    /// The same, of a look under another name.
    pub(super) fn is_as_moved(&self, other: &Self) -> bool {
        match (&self.entries[..], &other.entries[..]) {
            // A file alone is listed under its own name.
            ([here], [there]) if self.is_file && other.is_file => here.stamp == there.stamp,
            _ => self.is_as(other),
        }
    }

    /// When the last of its files was written to, by the clock of its file system.
    pub(super) fn modified(&self) -> (i64, i64) {
        let stamps = self.entries.iter().filter_map(|entry| entry.stamp);
        stamps.map(|stamp| stamp.modified).max().unwrap_or_default()
    }

    /// Lists its files as a save does.
    ///
    /// # Errors
    /// As for a save.
    pub(super) fn scan(&self, own: Option<&Path>) -> Result<Scan> {
        scan(&self.path, own)
    }

    fn list(&mut self, own: Option<&Path>) -> Result<()> {
        let Scan { found, left_out } = self.scan(own)?;
        self.left_out.extend(left_out.into_iter().map(|left| left.path));
        for file in found {
            let stamp = match (&file.place, file.is_dir) {
                (Place::Disk(path), false) => Some(Stamp::at(path)?),
                _ => None,
            };
            self.entries.push(Entry {
                path: file.path,
                stamp,
            });
        }
        Ok(())
    }
}

/// Whether something without a step may have been meant as a checkpoint: a folder, or a file of tensors, with a number in its name.
fn is_of_interest(tree: &Path, name: &str) -> bool {
    let is_like_one = has_extension(name) || tree.join(name).is_dir();
    let has_number = name.contains(|c: char| c.is_ascii_digit());
    is_like_one && has_number && !name.starts_with('.') && !is_temporary(name)
}

/// What the trainer notes beside its checkpoints once one is complete.
fn newest(tree: &Path) -> Option<Newest> {
    let of = |file: &&str| {
        let path = tree.join(file);
        let is_small =
            fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_NEWEST_BYTES);
        let text = is_small.then(|| fs::read_to_string(&path).ok()).flatten()?;
        let word = text.trim();
        Some(Newest {
            step: word.parse().ok().or_else(|| step_named(word, false))?,
            file: (*file).to_owned(),
        })
    };
    NEWEST.iter().filter_map(of).max_by_key(|newest| newest.step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::objects::Objects;

    fn tree(path: &Path) -> Result<Tree> {
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        Tree::new(&Store::over(objects, None).unwrap(), path)
    }

    /// Promise: a look finds the checkpoints that an import finds; whatever happens to a file of one shows in the next look.
    #[test]
    fn what_changes_shows() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in [
            "checkpoint-20/sub",
            "checkpoint-3",
            "tmp-checkpoint-40",
            "checkpoint-3-merged",
            "runs",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("checkpoint-20/a"), "one").unwrap();
        fs::write(at("checkpoint-20/sub/b"), "two").unwrap();
        fs::write(at("step_3.pt"), "three").unwrap();
        fs::write(at("epoch=3-val_loss=1.2.ckpt"), "four").unwrap();
        fs::write(at("latest"), "checkpoint-3\n").unwrap();
        let tree = tree(dir.path()).unwrap();
        let seen = tree.look().unwrap();
        let names: Vec<&str> = seen.looks.iter().map(|look| look.name.as_str()).collect();
        assert_eq!(names, ["checkpoint-3", "checkpoint-20"]);
        assert_eq!(seen.looks[0].trouble.as_deref(), Some("the directory is empty"));
        assert_eq!(seen.looks[1].len_bytes(), 6);
        assert_eq!(seen.newest.as_ref().map(|newest| newest.step), Some(3));
        let passed: Vec<&str> = seen.passed_over.iter().map(|rest| rest.name.as_str()).collect();
        assert_eq!(
            passed,
            ["checkpoint-3-merged", "epoch=3-val_loss=1.2.ckpt", "step_3.pt"]
        );

        let mut before = seen.looks[1].clone();
        assert!(tree.look_again(&before).is_as(&before));
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(at("checkpoint-20/a"), "onesies").unwrap(),
            &|| fs::write(at("checkpoint-20/c"), "").unwrap(),
            // Replaced by another of the same size and time: its inode tells.
            &|| {
                let modified = fs::metadata(at("checkpoint-20/a")).unwrap().modified().unwrap();
                fs::write(at("new"), "onesies").unwrap();
                let new = fs::File::options().write(true).open(at("new")).unwrap();
                new.set_modified(modified).unwrap();
                fs::rename(at("new"), at("checkpoint-20/a")).unwrap();
            },
            &|| fs::remove_file(at("checkpoint-20/sub/b")).unwrap(),
            &|| fs::create_dir(at("checkpoint-20/d")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            change();
            let now = tree.look_again(&before);
            assert!(!now.is_as(&before), "change {number}");
            before = now;
        }
    }

    /// Promise: what cannot be watched is refused with a next step; what is not there yet can be.
    #[test]
    fn what_can_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        tree(&at("later")).unwrap();
        assert!(matches!(
            tree(&at("later")).unwrap().look(),
            Err(StoreError::NotFound { .. })
        ));
        fs::write(at("file"), "").unwrap();
        fs::create_dir_all(at("step_7")).unwrap();
        let store = Store::init(at("store").to_str().unwrap()).unwrap();
        for (path, says) in [
            ("file", "no folder"),
            ("step_7", "looks like a checkpoint itself"),
            ("store", "it is a store"),
            ("store/packs", "it is a store"),
        ] {
            fs::create_dir_all(at("store/packs")).unwrap();
            let error = Tree::new(&store, &at(path)).unwrap_err().to_string();
            assert!(error.contains(says), "{path}: {error}");
        }
    }
}
