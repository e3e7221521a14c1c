//! Folders of a store on a disk: durable entries, cheap names.
//!
//! The backend syncs each file, its folder, and the folders that it made itself. It does not sync a folder that
//! *another* writer made a moment before, nor the entry of a file that it found in place: a power cut could then
//! take away a pack that a durable slot refers to. Here every folder above a write is synced once by this process,
//! and the folder of a found file each time.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

/// The folders of one store.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    /// Folders whose own entry this process has made durable.
    settled: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            settled: Mutex::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the entry of the file `key` and all folders above it durable.
    pub(super) fn settle(&self, key: &str) -> io::Result<()> {
        if let Some(folder) = self.root.join(key).parent() {
            sync(folder)?;
        }
        self.settle_above(key)
    }

    /// Makes the folders above the file `key` durable, up to the root; each is synced once by this process.
    pub(super) fn settle_above(&self, key: &str) -> io::Result<()> {
        let file = self.root.join(key);
        for folder in file.ancestors().skip(1) {
            if folder == self.root || self.settled.lock().contains(folder) {
                break;
            }
            if let Some(parent) = folder.parent() {
                sync(parent)?;
            }
        }
        let done = file.ancestors().skip(1).take_while(|f| *f != self.root);
        self.settled.lock().extend(done.map(Path::to_path_buf));
        Ok(())
    }

    /// Names in the folder `prefix`, unsorted; none if it does not exist.
    pub(super) fn names(&self, prefix: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not text is no key of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// Files that an upload was cut short in, older than `grace`: the backend writes `<name>#<n>` and then links it to its name.
    pub(super) fn unfinished(&self, grace: Duration) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
                    // One that vanishes meanwhile is finished.
                    let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed());
                    if age.is_ok_and(|age| age.is_ok_and(|age| age >= grace)) {
                        found.push(entry.path());
                    }
                }
            }
        }
        Ok(found)
    }

    /// Removes the folder `prefix` unless something is in it.
    pub(super) fn remove_if_empty(&self, prefix: &str) {
        if let Err(e) = std::fs::remove_dir(self.root.join(prefix)) {
            tracing::debug!(prefix, error = %e, "folder stays");
        }
    }
}

fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Makes the entries of `folder` durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        // Folders cannot be synced elsewhere; the file system's own journal must do.
        Ok(())
    }
}
