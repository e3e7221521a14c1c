//! What an interrupted restore left behind, and who may remove it.
//!
//! ```text
//! out/.tpde-acbca950.partial          empty, locked by the restore that runs: while it is, the others are alive
//! out/a/.tpde-acbca950-3.partial      a file that it has not finished
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Digits of the restore's name.
const NAME_LEN: usize = 8;

/// What a file is called before it is whole.
///
/// * `restore`: the restore's name, eight hexadecimal digits. `number`: the file's; `None` for the lock.
pub(crate) fn partial_name(restore: &str, number: Option<usize>) -> String {
    match number {
        Some(number) => format!(".tpde-{restore}-{number}.partial"),
        None => format!(".tpde-{restore}.partial"),
    }
}

/// The restore that a file belongs to, if its name is that of an unfinished one.
pub(crate) fn restore_of(name: &str) -> Option<&str> {
    let middle = name.strip_prefix(".tpde-")?.strip_suffix(".partial")?;
    let (restore, number) = middle.split_once('-').unwrap_or((middle, "0"));
    let is_hex = restore.len() == NAME_LEN && restore.bytes().all(|b| b.is_ascii_hexdigit());
    (is_hex && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(restore)
}

/// Held while a restore runs.
#[derive(Debug)]
pub(crate) struct Alive {
    path: PathBuf,
    /// Locked until it is closed.
    _file: File,
}

impl Alive {
    /// Says that the restore `restore` into `root` is running; `None` where files cannot be locked, and then nobody can tell.
    pub(crate) fn new(root: &Path, restore: &str) -> Option<Self> {
        let path = root.join(partial_name(restore, None));
        let file = File::options().write(true).create_new(true).open(&path).ok()?;
        let alive = Self { path, _file: file };
        alive._file.try_lock().ok()?;
        Some(alive)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Left behind, it is removed by the next restore.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the unfinished files of dead restores from `folders`. Gives how many there were.
///
/// Best effort: what cannot be listed or removed stays, and harms nobody.
pub(crate) fn remove_stale(folders: &BTreeSet<PathBuf>) -> u64 {
    let mut dead: BTreeMap<String, bool> = BTreeMap::new();
    let mut removed = 0;
    for folder in folders {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((name, restore)) = name.to_str().and_then(|n| Some((n, restore_of(n)?))) else {
                continue;
            };
            let is_dead = dead
                .entry(restore.to_owned())
                .or_insert_with(|| is_dead(folder, restore));
            if *is_dead && fs::remove_file(entry.path()).is_ok() {
                removed += u64::from(name != partial_name(restore, None));
            }
        }
    }
    removed
}

/// Whether nobody holds the lock of `restore`, which lies in `folder` or above it.
fn is_dead(folder: &Path, restore: &str) -> bool {
    let name = partial_name(restore, None);
    let lock = folder
        .ancestors()
        .find_map(|at| match File::options().write(true).open(at.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other),
        });
    match lock {
        None => true,
        Some(Ok(lock)) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Some(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what a dead restore left is removed, what a living one works on and what others own stays.
    #[test]
    fn only_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        fs::create_dir(at("a")).unwrap();
        let alive = Alive::new(dir.path(), "00000001").unwrap();
        let kept = ["a/.tpde-00000001-0.partial", ".tpde-notes.partial", "a/w"];
        let stale = ["a/.tpde-00000002-7.partial", ".tpde-00000003-0.partial"];
        for file in kept.iter().chain(&stale) {
            fs::write(at(file), "1").unwrap();
        }
        // The lock of one that was killed.
        fs::write(at(".tpde-00000003.partial"), "").unwrap();
        let folders = BTreeSet::from([at(""), at("a")]);
        assert_eq!(remove_stale(&folders), 2);
        assert!(kept.iter().all(|file| at(file).exists()));
        assert!(stale.iter().all(|file| !at(file).exists()));
        assert!(!at(".tpde-00000003.partial").exists());
        drop(alive);
        assert!(!at(".tpde-00000001.partial").exists());
        assert_eq!(remove_stale(&folders), 1);
    }
}
