//! Folders of a store on a disk: durable entries, cheap names.
//!
//! The backend syncs each file, its folder, and the folders that it made itself. It does not sync a folder that
//! *another* writer made a moment before, nor the entry of a file that it found in place: a power cut could then
//! take away a pack that a durable slot refers to, for its writer may have been killed before it synced anything. So
//! every folder above a write is synced once by this process, and the folder of a file that was found before anything
//! refers to it.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::disk::{Disk, Kind};
use crate::ids::PackId;
use crate::keys::Key;

/// The folders of one store.
#[derive(Debug)]
pub(super) struct Folders {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Folders whose own entry this process has made durable.
    settled: Mutex<HashSet<PathBuf>>,
    /// Packs of which that is known. Their names are never used again.
    settled_packs: Mutex<HashSet<PackId>>,
}

impl Folders {
    pub(super) fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self {
            disk,
            root,
            settled: Mutex::default(),
            settled_packs: Mutex::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the entries of the files `keys` and all folders above them durable; each folder is synced once, and none for packs of which
    /// it is known.
    pub(super) fn settle(&self, keys: &[&Key]) -> io::Result<()> {
        let is_open = |key: &&&Key| match key {
            Key::Pack(id) => !self.settled_packs.lock().contains(id),
            _ => true,
        };
        let keys: Vec<&&Key> = keys.iter().filter(is_open).collect();
        let files: Vec<PathBuf> = keys.iter().map(|key| self.root.join(key.to_string())).collect();
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        let mut missing = BTreeSet::new();
        for folder in folders {
            match self.disk.sync(folder) {
                // What is not there cannot be relied on, and whoever relies on it finds that out.
                Err(e) if e.kind() == io::ErrorKind::NotFound => drop(missing.insert(folder)),
                other => other?,
            }
        }
        for (key, file) in keys.into_iter().zip(&files) {
            if !file.parent().is_some_and(|folder| missing.contains(folder)) {
                self.settle_above(key)?;
                self.note(key);
            }
        }
        Ok(())
    }

    /// Notes that the entry of a file is durable.
    pub(super) fn note(&self, key: &Key) {
        if let Key::Pack(id) = key {
            self.settled_packs.lock().insert(*id);
        }
    }

    /// Makes the folders above the file `key` durable, up to the root; each is synced once by this process.
    pub(super) fn settle_above(&self, key: &Key) -> io::Result<()> {
        let file = self.root.join(key.to_string());
        for folder in file.ancestors().skip(1) {
            if folder == self.root || self.settled.lock().contains(folder) {
                break;
            }
            if let Some(parent) = folder.parent() {
                self.disk.sync(parent)?;
            }
        }
        let done = file.ancestors().skip(1).take_while(|f| *f != self.root);
        self.settled.lock().extend(done.map(Path::to_path_buf));
        Ok(())
    }

    /// Names in the folder `prefix`, unsorted; none if it does not exist.
    pub(super) fn names(&self, prefix: &str) -> io::Result<Vec<String>> {
        let entries = match self.disk.entries(&self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        // A name that is not text is no key of ours.
        let names = entries
            .into_iter()
            .filter_map(|entry| entry.name.into_string().ok());
        Ok(names.collect())
    }

    /// Files that an upload was cut short in, older than `grace`: the backend writes `<name>#<n>` and then links it to its name.
    pub(super) fn unfinished(&self, grace: Duration) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in self.disk.entries(&folder)? {
                let at = folder.join(&entry.name);
                match entry.kind {
                    Kind::Folder => folders.push(at),
                    Kind::File if is_unfinished(&entry.name.to_string_lossy()) => {
                        // One that vanishes meanwhile is finished.
                        let age = self.disk.modified(&at).map(|t| t.elapsed());
                        if age.is_ok_and(|age| age.is_ok_and(|age| age >= grace)) {
                            found.push(at);
                        }
                    }
                    Kind::File | Kind::Other => {}
                }
            }
        }
        Ok(found)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, file: &Path) -> io::Result<()> {
        match self.disk.remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the folder `prefix` unless something is in it.
    pub(super) fn remove_if_empty(&self, prefix: &str) {
        if let Err(e) = self.disk.remove_folder(&self.root.join(prefix)) {
            tracing::debug!(prefix, error = %e, "folder stays");
        }
    }
}

fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
