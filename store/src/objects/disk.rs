//! What a store in a folder asks of its disk, beside objects.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Other,
}

/// A disk: this machine's, or one of a test that loses power.
pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    /// Makes the entries of a folder durable.
    fn sync(&self, folder: &Path) -> io::Result<()>;
    /// What lies in a folder.
    fn entries(&self, folder: &Path) -> io::Result<Vec<Entry>>;
    /// When a file was written, by the disk's clock.
    fn modified(&self, file: &Path) -> io::Result<SystemTime>;
    /// Removes a file.
    fn remove_file(&self, file: &Path) -> io::Result<()>;
    /// Removes a folder in which nothing is.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;
}

/// This machine's.
#[derive(Debug)]
pub(super) struct LocalDisk;

impl Disk for LocalDisk {
    fn sync(&self, folder: &Path) -> io::Result<()> {
        if cfg!(unix) {
            File::open(folder)?.sync_all()
        } else {
            // Folders cannot be synced elsewhere; the file system's own journal must do.
            Ok(())
        }
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let entries = fs::read_dir(folder)?.map(|entry| {
            let entry = entry?;
            let kind = entry.file_type()?;
            Ok(Entry {
                name: entry.file_name(),
                kind: match (kind.is_file(), kind.is_dir()) {
                    (true, _) => Kind::File,
                    (_, true) => Kind::Folder,
                    _ => Kind::Other,
                },
            })
        });
        entries.collect()
    }

    fn modified(&self, file: &Path) -> io::Result<SystemTime> {
        fs::metadata(file)?.modified()
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(folder)
    }
}
