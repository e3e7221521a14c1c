//! Import: the checkpoints that a trainer left in one folder, in the order of their steps.
//!
//! ```text
//! tree ─▶ names with a step in them ─▶ what is there of each (files, bytes), what is passed over and why ─▶ one save after another
//! ```
//! Nothing is read here but names and sizes. Whatever lies in a checkpoint's folder belongs to it, the `global_step500` and `latest` that
//! DeepSpeed puts into `checkpoint-500` included.

mod names;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::files::left_out::is_store;
use crate::files::scan::{scan, shown, unreadable};
use crate::history;
use crate::names::RunName;
use crate::store::Store;
use crate::summary::{Summary, count};

pub(crate) use names::has_extension;
use names::{Counted, count_in};

/// Files in which trainers note which checkpoint is the newest.
pub(crate) const NEWEST: &[&str] = &["latest", "latest_checkpointed_iteration.txt"];

/// A checkpoint of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name in the tree.
    pub name: String,
    /// The step, or the epoch where the tree counts those, that its name says.
    pub step: u64,
    /// Files in it.
    pub files: u32,
    /// Their bytes.
    pub len_bytes: u64,
    /// What the run has for this step.
    pub in_run: InRun,
}

/// What a run has for a step, as far as that can be known without reading files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InRun {
    /// Nothing.
    Nothing,
    /// A checkpoint of the same size: a save compares the files, and writes nothing if they are the same.
    SameSize,
    /// A checkpoint of another size.
    Other {
        /// Its bytes.
        raw_bytes: u64,
    },
}

/// Something in the tree that is not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its name in the tree.
    pub name: String,
    /// Why, as a sentence without its end.
    pub why: String,
}

/// A tree of checkpoints, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// The checkpoints, by step.
    pub candidates: Vec<Candidate>,
    /// The rest, by name.
    pub passed_over: Vec<PassedOver>,
}

impl Store {
    /// Looks at a tree of checkpoints that are to be saved to `run`.
    ///
    /// # Errors
    /// `Input` if the tree cannot be read, or has no checkpoint in it; the message names a folder below it that has. `Corrupt`,
    /// `Newer`, `Backend` if the run cannot be read.
    pub fn survey(&self, tree: &Path, run: &RunName) -> Result<Survey> {
        check_is_tree(tree)?;
        let (named, passed_over) = named(tree)?;
        let mut survey = Survey {
            candidates: Vec::new(),
            passed_over,
        };
        let in_run = self.steps_of(run)?;
        for Named { name, path, step } in named {
            let last = survey.candidates.last();
            let taken = last.filter(|last| last.step == step);
            let found = match taken {
                Some(last) => Err(is_already(&last.name, step)),
                None => self.candidate(&name, &path, step, &in_run),
            };
            match found {
                Ok(candidate) => survey.candidates.push(candidate),
                Err(why) => survey.passed_over.push(PassedOver { name, why }),
            }
        }
        survey.passed_over.sort_by(|a, b| a.name.cmp(&b.name));
        if survey.candidates.is_empty() {
            return Err(nothing_in(tree, &survey));
        }
        Ok(survey)
    }

    fn candidate(
        &self,
        name: &str,
        path: &Path,
        step: u64,
        in_run: &BTreeMap<u64, Summary>,
    ) -> std::result::Result<Candidate, String> {
        // What a save would refuse is no reason to give up the others.
        let scanned = scan(path, self.objects().local_root());
        let scanned = scanned.map_err(|error| match error {
            StoreError::Input { what, detail, .. } if what == shown(path) => detail,
            other => other.to_string(),
        })?;
        let files = scanned.found.iter().filter(|file| !file.is_dir);
        let len_bytes = files.clone().map(|file| file.len_bytes).sum();
        Ok(Candidate {
            path: path.to_owned(),
            name: name.to_owned(),
            step,
            files: count(files.count()),
            len_bytes,
            in_run: match in_run.get(&step).map(|commit| commit.totals.raw_bytes) {
                None => InRun::Nothing,
                Some(raw_bytes) if raw_bytes == len_bytes => InRun::SameSize,
                Some(raw_bytes) => InRun::Other { raw_bytes },
            },
        })
    }

    /// The commits of a run that count, by step; none of a run that is not there.
    pub(crate) fn steps_of(&self, run: &RunName) -> Result<BTreeMap<u64, Summary>> {
        match history::log(self.objects(), run) {
            Ok(log) => Ok(log
                .commits()
                .map(|commit| (commit.step, commit.clone()))
                .collect()),
            Err(StoreError::NotFound { .. }) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }
}

/// Something in a tree whose name says a step.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) step: u64,
}

/// What lies in a tree: by step, then by name, what may be a checkpoint; and the rest. Reads nothing but names.
///
/// # Errors
/// `Input`, `NotFound` if the tree cannot be read.
pub(crate) fn named(tree: &Path) -> Result<(Vec<Named>, Vec<PassedOver>)> {
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    for (name, path) in entries(tree)? {
        match counted(&name, &path) {
            Ok((counted, step)) => found.push((counted, Named { name, path, step })),
            Err(why) => rest.push(PassedOver { name, why }),
        }
    }
    let counts_steps = found.iter().any(|(counted, _)| *counted == Counted::Steps);
    found.sort_by(|(_, a), (_, b)| (a.step, &a.name).cmp(&(b.step, &b.name)));
    let mut all = Vec::new();
    for (counted, named) in found {
        if counts_steps && counted == Counted::Epochs {
            let why = "it counts epochs, the others steps".to_owned();
            rest.push(PassedOver {
                name: named.name,
                why,
            });
        } else {
            all.push(named);
        }
    }
    Ok((all, rest))
}

/// Why a second checkpoint of a step is passed over.
pub(crate) fn is_already(name: &str, step: u64) -> String {
    format!("{name} is step {step} already")
}

/// The step that a name says, if it says one.
///
/// * `is_file`: whether it may end in the extension of a file.
pub(crate) fn step_named(name: &str, is_file: bool) -> Option<u64> {
    count_in(name, is_file).map(|(_, step)| step)
}

/// Checks that a folder is no checkpoint itself: what DeepSpeed puts below one is a part of it.
///
/// # Errors
/// `Input`, naming the folder above it.
pub(crate) fn check_is_tree(tree: &Path) -> Result<()> {
    match is_one(tree) {
        true => Err(nothing_in(tree, &Survey::default())),
        false => Ok(()),
    }
}

/// Names and paths of what lies in a folder, by name.
fn entries(tree: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(tree).map_err(|error| unreadable(tree, &error))? {
        let path = entry.map_err(|error| unreadable(tree, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        entries.insert(name.into_owned(), path);
    }
    Ok(entries)
}

/// What the name of an entry counts, or why it is passed over.
fn counted(name: &str, path: &Path) -> std::result::Result<(Counted, u64), String> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|entry| entry.is_symlink());
    if is_link {
        return Err("it is a link; what it leads to is imported by its own name".to_owned());
    }
    if path.is_dir() && is_store(path, None) {
        return Err("it is a store".to_owned());
    }
    if NEWEST.contains(&name) {
        return Err("it only says which checkpoint is the newest".to_owned());
    }
    count_in(name, !path.is_dir()).ok_or_else(|| "its name is no step's".to_owned())
}

/// Whether a folder is a checkpoint itself: what DeepSpeed puts below it is a part of it.
fn is_one(tree: &Path) -> bool {
    let whole = tree.canonicalize().unwrap_or_else(|_| tree.to_owned());
    whole
        .file_name()
        .is_some_and(|name| count_in(&name.to_string_lossy(), false).is_some())
}

/// A folder of a tree that has checkpoints in it.
pub(crate) fn below(tree: &Path, passed_over: &[PassedOver]) -> Option<PathBuf> {
    let has_some = |path: &Path| {
        entries(path).is_ok_and(|all| all.iter().any(|(name, path)| counted(name, path).is_ok()))
    };
    let folders = passed_over.iter().map(|passed| tree.join(&passed.name));
    folders.filter(|path| path.is_dir()).find(|path| has_some(path))
}

fn nothing_in(tree: &Path, survey: &Survey) -> StoreError {
    let hint = match below(tree, &survey.passed_over) {
        _ if is_one(tree) => {
            "It looks like a checkpoint itself: name the folder above it, or save it alone with `tpde save`".to_owned()
        }
        Some(below) => format!("There are some in {}", shown(&below)),
        None => "Their names say a step, such as checkpoint-500, step_500, global_step500 or epoch_3; save others one by one with \
                 `tpde save`"
            .to_owned(),
    };
    StoreError::input(shown(tree), "it is no folder of checkpoints", hint)
}
