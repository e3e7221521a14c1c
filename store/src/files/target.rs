//! Writes restored files: under a temporary name, flushed, then renamed; never through a symbolic link.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scan::{MODE_BITS, shown};
use super::stale::{Alive, partial_name, remove_stale};
use crate::error::{Result, StoreError, in_words};
use crate::ids::Nonce;

/// A directory that restored files go into.
#[derive(Debug)]
pub(crate) struct TargetDir {
    root: PathBuf,
    /// What unfinished files are named after.
    restore: String,
    files: AtomicUsize,
    /// Tells other restores that this one is running.
    _alive: Option<Alive>,
}

/// A file that is being written; removed again unless it is committed.
///
/// It is opened for each write, so that a checkpoint of thousands of files needs no thousands of descriptors.
#[derive(Debug)]
pub(crate) struct TargetFile {
    temporary: PathBuf,
    path: PathBuf,
    mode: u32,
    committed: bool,
}

impl TargetDir {
    /// Creates `root` if it is not there.
    ///
    /// # Errors
    /// `Input` if it is something else than a directory, or cannot be made.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        if root.metadata().is_ok_and(|m| !m.is_dir()) {
            let hint = "Name a directory to restore into; it is made if it is not there";
            return Err(StoreError::input(
                shown(root),
                "it is a file, and a restore writes a directory",
                hint,
            ));
        }
        fs::create_dir_all(root).map_err(|e| failed(root, &e))?;
        let restore = Nonce::random()?.to_string()[..8].to_owned();
        Ok(Self {
            root: root.to_owned(),
            _alive: Alive::new(root, &restore),
            restore,
            files: AtomicUsize::new(0),
        })
    }

    /// Removes what interrupted restores left where `paths` go. Gives the number of files.
    pub(crate) fn remove_stale(&self, paths: &[&str]) -> u64 {
        remove_stale(&self.folders(paths))
    }

    /// The root, and the directories that hold `paths`.
    fn folders(&self, paths: &[&str]) -> BTreeSet<PathBuf> {
        let parents = paths
            .iter()
            .filter_map(|p| self.root.join(p).parent().map(Path::to_owned));
        parents.chain([self.root.clone()]).collect()
    }

    /// Counts the files below the root that are none of `paths`. Links and what cannot be listed are not followed.
    pub(crate) fn others(&self, paths: &BTreeSet<&str>) -> u64 {
        let mut count = 0;
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let at = entry.path();
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(at);
                    continue;
                }
                let path = at.strip_prefix(&self.root).ok().and_then(Path::to_str);
                let own = partial_name(&self.restore, None);
                count += u64::from(!path.is_some_and(|p| paths.contains(p) || p == own));
            }
        }
        count
    }

    /// Where `path` (checked when the manifest was read) will lie, if nothing is in the way.
    ///
    /// # Errors
    /// `Input` if a symbolic link stands where a directory or file goes, or a file is there and `overwrite` is not set.
    pub(crate) fn place(&self, path: &str, overwrite: bool) -> Result<PathBuf> {
        let mut at = self.root.clone();
        for part in path.split('/') {
            at.push(part);
            if at.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
                let hint = "Remove the link, or restore into an empty directory";
                return Err(StoreError::input(
                    shown(&at),
                    "a symbolic link is in the way",
                    hint,
                ));
            }
        }
        if !overwrite && at.is_file() {
            let hint = "Restore into an empty directory, or add --overwrite";
            return Err(StoreError::input(shown(&at), "a file is already there", hint));
        }
        Ok(at)
    }

    /// Makes a directory, and those above it.
    ///
    /// # Errors
    /// As [`TargetDir::place`]; `Input` if it cannot be made.
    pub(crate) fn directory(&self, path: &str) -> Result<()> {
        let at = self.place(path, true)?;
        fs::create_dir_all(&at).map_err(|e| failed(&at, &e))
    }

    /// Sets a directory's permissions; last, because a read-only one takes no files.
    ///
    /// # Errors
    /// `Input` if they cannot be set.
    pub(crate) fn directory_mode(&self, path: &str, mode: u32) -> Result<()> {
        let at = self.place(path, true)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode & MODE_BITS)).map_err(|e| failed(&at, &e))
    }

    /// Starts a file of `len_bytes`.
    ///
    /// # Errors
    /// As [`TargetDir::place`]; `Input` if it cannot be made or the disk is full.
    pub(crate) fn file(&self, path: &str, mode: u32, len_bytes: u64, overwrite: bool) -> Result<TargetFile> {
        let at = self.place(path, overwrite)?;
        let Some(parent) = at.parent() else {
            return Err(StoreError::input(
                shown(&at),
                "it has no name",
                "Restore into a directory",
            ));
        };
        fs::create_dir_all(parent).map_err(|e| failed(parent, &e))?;
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(partial_name(&self.restore, Some(number)));
        // Nobody else reads it before it has its own permissions.
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary);
        let file = made.map_err(|e| failed(&temporary, &e))?;
        let target = TargetFile {
            temporary,
            path: at,
            mode,
            committed: false,
        };
        file.set_len(len_bytes).map_err(|e| failed(&target.path, &e))?;
        Ok(target)
    }

    /// Flushes the directories that hold `paths`, so that renames survive a power loss.
    ///
    /// # Errors
    /// `Input` if the disk refuses.
    pub(crate) fn sync(&self, paths: &[&str]) -> Result<()> {
        self.folders(paths).iter().try_for_each(|dir| {
            File::open(dir)
                .and_then(|d| d.sync_all())
                .map_err(|e| failed(dir, &e))
        })
    }
}

impl TargetFile {
    /// Writes `bytes` at `offset_bytes`.
    ///
    /// # Errors
    /// `Input` if the disk is full or refuses.
    pub(crate) fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        let write = || {
            File::options()
                .write(true)
                .open(&self.temporary)?
                .write_all_at(bytes, offset_bytes)
        };
        write().map_err(|e| failed(&self.path, &e))
    }

    /// Flushes the content, sets the permissions and gives the file its name.
    ///
    /// # Errors
    /// `Input` if the disk refuses.
    pub(crate) fn commit(mut self) -> Result<()> {
        let finish = || -> io::Result<()> {
            let file = File::options().write(true).open(&self.temporary)?;
            file.set_permissions(fs::Permissions::from_mode(self.mode & MODE_BITS))?;
            file.sync_all()?;
            fs::rename(&self.temporary, &self.path)
        };
        finish().map_err(|e| failed(&self.path, &e))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for TargetFile {
    fn drop(&mut self) {
        if !self.committed {
            // An error is already on its way to the user; a leftover .partial is named for what it is.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Free some space and run the command again"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "Restore into an empty directory",
        _ => "Check the path and its permissions and run the command again",
    };
    StoreError::input(shown(path), in_words(error), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: an uncommitted file leaves nothing; a committed one has its bytes and mode; links are not written through.
    #[test]
    fn files_appear_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let target = TargetDir::create(&root).unwrap();
        drop(target.file("a/x", 0o644, 10, false).unwrap());
        assert_eq!(fs::read_dir(root.join("a")).unwrap().count(), 0);

        let file = target.file("a/x", 0o750, 4, false).unwrap();
        file.write_at(2, b"cd").unwrap();
        file.write_at(0, b"ab").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(root.join("a/x")).unwrap(), b"abcd");
        assert_eq!(
            fs::metadata(root.join("a/x")).unwrap().permissions().mode() & MODE_BITS,
            0o750
        );
        assert!(
            target
                .file("a/x", 0o644, 1, false)
                .unwrap_err()
                .to_string()
                .contains("--overwrite")
        );

        std::os::unix::fs::symlink(dir.path(), root.join("link")).unwrap();
        let error = target
            .file("link/escape", 0o644, 1, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(!dir.path().join("escape").exists());
    }
}
