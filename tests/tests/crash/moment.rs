//! When a process is killed: at a time, or as soon as something can be seen on the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use tpde_tests::Rng;

/// When the process is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// So long after its start.
    After(Duration),
    /// So long after something new lies in this folder of the store, be it still under a temporary name.
    Begun(&'static str, Duration),
    /// So long after a new object lies in this folder of the store.
    Done(&'static str, Duration),
    /// So long after something is gone from this folder of the store.
    Gone(&'static str, Duration),
}

/// A time of at most `most`.
pub(crate) fn within(rng: &mut Rng, most: Duration) -> Duration {
    Duration::from_micros(rng.draw() % u64::try_from(most.as_micros() + 1).unwrap())
}

/// Waits, busily, for `time` or until the process has ended.
pub(crate) fn spin(child: &mut Child, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time && child.try_wait().unwrap().is_none() {
        std::hint::spin_loop();
    }
}

impl Moment {
    /// How many files it looks at there are.
    pub(crate) fn files(self, place: &Path) -> usize {
        match self {
            Self::After(_) => 0,
            Self::Begun(folder, _) => names_below(&place.join(folder), true).len(),
            Self::Done(folder, _) | Self::Gone(folder, _) => names_below(&place.join(folder), false).len(),
        }
    }

    /// Waits, busily, until it has come or the process has ended.
    ///
    /// * `had`: the files before the process was started.
    pub(crate) fn wait(self, child: &mut Child, place: &Path, had: usize) {
        let (is_gone, then) = match self {
            Self::After(time) => return spin(child, time),
            Self::Begun(_, then) | Self::Done(_, then) => (false, then),
            Self::Gone(_, then) => (true, then),
        };
        let has_come = |now: usize| if is_gone { now < had } else { now > had };
        while !has_come(self.files(place)) {
            if child.try_wait().unwrap().is_some() {
                return;
            }
        }
        spin(child, then);
    }
}

/// The files below `folder`: all, or those that have their own name already.
pub(crate) fn names_below(folder: &Path, temporary_too: bool) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        // A temporary file may go while we look.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ if temporary_too || !entry.file_name().to_string_lossy().contains('#') => {
                    names.insert(entry.path());
                }
                _ => {}
            }
        }
    }
    names
}
