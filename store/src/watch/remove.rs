//! Removes a checkpoint that is in the store, and nothing else.
//!
//! ```text
//! stands in its run? ─▶ its packs are there? ─▶ same bytes here? ─▶ rename ─▶ as it was? ─▶ delete what was looked at, file by file
//!                                                                                └ no ─▶ rename back
//! ```
//! Under the new name it is nobody's checkpoint any more: killed from there on, it leaves something that no watch, no import and no
//! trainer takes for one. The next watch compares what is left with the commit, and deletes that and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use super::look::{Look, Tree};
use crate::error::{Result, StoreError};
use crate::files::scan::{Found, Place, Scan, scan, shown, unreadable};
use crate::files::source::Stamp;
use crate::history;
use crate::ids::ManifestId;
use crate::import::step_named;
use crate::names::RunName;
use crate::progress::Progress;
use crate::save::same::are_of;
use crate::store::Store;

/// What stands before the name of a checkpoint that is being deleted.
const PREFIX: &str = ".tpde-deleting-";

/// The checkpoint that something in a tree was, if its name says that it is being deleted.
pub(super) fn leftover_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// What became of a checkpoint that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed {
        /// Bytes of its files.
        bytes: u64,
    },
    /// All of it is there, as it was, or some of it under the name that it has while it is deleted.
    Kept {
        /// Why, as a sentence without its end.
        why: String,
    },
}

/// What a deletion that was cut short left behind, and what became of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The name that the checkpoint had.
    pub name: String,
    /// Its step, if the name says one.
    pub step: Option<u64>,
    /// What became of it.
    pub removal: Removal,
}

fn kept(why: impl Into<String>) -> Removal {
    Removal::Kept { why: why.into() }
}

/// A file or an empty folder that is to be deleted, and what it was when it was compared.
struct Doomed {
    path: PathBuf,
    stamp: Option<Stamp>,
}

impl Store {
    /// Removes a checkpoint of a tree that was saved as `id`.
    ///
    /// Law: whatever is deleted is, byte for byte, a file of a commit that stands in `run` and whose packs are there. Links are never
    /// followed to what is deleted.
    ///
    /// # Errors
    /// As [`Store::is_saved_as`]; then nothing was deleted.
    pub fn remove_saved(
        &self,
        tree: &Tree,
        look: &Look,
        (run, id): (&RunName, ManifestId),
        progress: &dyn Progress,
    ) -> Result<Removal> {
        if let Some(left) = look.left_out.first() {
            return Ok(kept(format!("{left} is in it, and is no part of the checkpoint")));
        }
        if !self.stands(run, look.step, id)? {
            return Ok(kept(format!("it no longer stands in run {run}")));
        }
        if self.is_whole(id)? != Some(true) {
            return Ok(kept("the store has lost some of it; run `tpde doctor`"));
        }
        if !self.is_saved_as(&look.path, id, progress)? {
            return Ok(kept("its files are not those that were saved"));
        }
        let aside = tree.aside(&look.name);
        if fs::symlink_metadata(&aside).is_ok() {
            return Ok(kept(format!("{} is in the way", shown(&aside))));
        }
        fs::rename(&look.path, &aside).map_err(|error| unreadable(&look.path, &error))?;
        let moved = Look {
            path: aside.clone(),
            ..look.clone()
        };
        let now = tree.look_again(&moved);
        if !now.is_as_moved(look) {
            return Ok(match put_back(&aside, &look.path) {
                Ok(()) => kept("it changed before it was deleted"),
                Err(error) => kept(format!("it changed, and is {} now: {error}", shown(&aside))),
            });
        }
        let doomed = look.entries.iter().map(|entry| Doomed {
            path: match look.is_file {
                true => aside.clone(),
                false => aside.join(&entry.path),
            },
            stamp: entry.stamp,
        });
        Ok(delete(&aside, doomed.collect(), look.len_bytes()))
    }

    /// Goes on with deletions that were cut short: deletes what is left of each checkpoint, as far as it is, byte for byte, the commit's
    /// of that step in `run`.
    ///
    /// * `names`: what [`Seen::leftovers`](super::Seen) told.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend` if the run cannot be read.
    pub fn finish_removals(
        &self,
        tree: &Tree,
        names: &[String],
        run: &RunName,
        progress: &dyn Progress,
    ) -> Result<Vec<Leftover>> {
        let mut done = Vec::new();
        for name in names {
            let aside = tree.aside(name);
            let is_file = fs::symlink_metadata(&aside).is_ok_and(|found| found.is_file());
            let step = step_named(name, is_file);
            let removal = match step {
                Some(step) => self.finish_one(&aside, name, (run, step), progress)?,
                None => kept(format!("{} says no step", shown(&aside))),
            };
            done.push(Leftover {
                name: name.clone(),
                step,
                removal,
            });
        }
        Ok(done)
    }

    fn finish_one(
        &self,
        aside: &Path,
        name: &str,
        (run, step): (&RunName, u64),
        progress: &dyn Progress,
    ) -> Result<Removal> {
        let is_real = fs::symlink_metadata(aside).is_ok_and(|found| found.is_dir() || found.is_file());
        if !is_real || fs::remove_dir(aside).is_ok() {
            return Ok(match is_real {
                true => Removal::Removed { bytes: 0 },
                false => kept(format!("{} is a link", shown(aside))),
            });
        }
        let found = match scan(aside, self.objects().local_root()) {
            Ok(Scan { found, .. }) => found,
            Err(error) => return Ok(kept(error.to_string())),
        };
        let not_saved = || {
            kept(format!(
                "{} is not what run {run} has for step {step}",
                shown(aside)
            ))
        };
        let commit = match history::find_step(self.objects(), run, step) {
            Err(StoreError::NotFound { .. }) => return Ok(not_saved()),
            other => other?,
        };
        if self.is_whole(commit.manifest)? != Some(true) {
            return Ok(kept("the store has lost some of it; run `tpde doctor`"));
        }
        let mut named = found.clone();
        if aside.is_file() {
            named.iter_mut().for_each(|file| name.clone_into(&mut file.path));
        }
        let stamps: Vec<Option<Stamp>> = found.iter().map(stamp_of).collect();
        let are_saved = match are_of(&self.named_manifest(commit.manifest)?, &named, progress) {
            Err(StoreError::Input { .. } | StoreError::NotFound { .. }) => return Ok(not_saved()),
            other => other?,
        };
        let mut doomed = Vec::new();
        let mut bytes = 0;
        for ((file, stamp), is_saved) in found.iter().zip(stamps).zip(are_saved) {
            // A folder goes if nothing is left in it.
            if let Place::Disk(path) = &file.place
                && (is_saved || file.is_dir)
            {
                bytes += file.len_bytes;
                let path = path.clone();
                doomed.push(Doomed { path, stamp });
            }
        }
        Ok(delete(aside, doomed, bytes))
    }

    /// Whether the commit `id` is what `run` has for a step.
    fn stands(&self, run: &RunName, step: u64, id: ManifestId) -> Result<bool> {
        match history::find_step(self.objects(), run, step) {
            Ok(commit) => Ok(commit.manifest == id),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Tree {
    /// Where a checkpoint is while it is deleted.
    fn aside(&self, name: &str) -> PathBuf {
        self.path().join(format!("{PREFIX}{name}"))
    }
}

fn stamp_of(file: &Found) -> Option<Stamp> {
    match &file.place {
        Place::Disk(path) if !file.is_dir => Stamp::at(path).ok(),
        _ => None,
    }
}

/// Gives a checkpoint its name again; what has that name meanwhile stays.
fn put_back(aside: &Path, path: &Path) -> std::io::Result<()> {
    if aside.is_file() {
        // A rename would replace another file.
        return fs::hard_link(aside, path).and_then(|()| fs::remove_file(aside));
    }
    fs::rename(aside, path)
}

/// Deletes what was looked at, the last path first, so that folders are empty when their turn comes; then `aside` itself.
///
/// What changed since, and what is not among it, stays.
fn delete(aside: &Path, mut doomed: Vec<Doomed>, bytes: u64) -> Removal {
    let Ok(root) = aside.canonicalize() else {
        return kept(format!("{} is gone", shown(aside)));
    };
    doomed.sort_by(|a, b| b.path.cmp(&a.path));
    for Doomed { path, stamp } in doomed {
        // No folder on the way has become a link to elsewhere.
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        let is_inside = path == aside || parent.is_some_and(|parent| parent.starts_with(&root));
        let done = match stamp {
            _ if !is_inside => Ok(()),
            None => fs::remove_dir(&path),
            Some(stamp) if Stamp::at(&path).is_ok_and(|now| now == stamp) => fs::remove_file(&path),
            Some(_) => Ok(()),
        };
        if let Err(error) = done {
            tracing::debug!(%error, path = %path.display(), "it stays");
        }
    }
    let _ = fs::remove_dir(aside);
    match fs::symlink_metadata(aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Removal::Removed { bytes },
        _ => kept(format!(
            "what came or changed meanwhile, or cannot be deleted, is in {}: look at it, then move or delete it",
            shown(aside)
        )),
    }
}

#[cfg(test)]
mod tests;
