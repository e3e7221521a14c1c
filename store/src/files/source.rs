//! Reads a user's file that may change under our hands, or one that stands in memory.
//!
//! Files are read by position into our own buffers, never mapped: a file that shrinks is an error, not a signal.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::memory::MemoryBytes;
use super::scan::shown;
use crate::error::{Result, StoreError};

/// A file that is to be saved.
#[derive(Debug)]
pub(crate) struct SourceFile {
    origin: Origin,
    /// The parts of the file that it stands for; `None` for all of it.
    parts: Option<Vec<Part>>,
}

/// Where the bytes of a [`SourceFile`] are.
#[derive(Debug, Clone)]
enum Origin {
    /// A file, and what it looked like when it was first seen.
    ///
    /// It is opened for each read, so that a checkpoint of thousands of files needs no thousands of descriptors.
    Disk { path: PathBuf, seen: Stamp },
    /// Bytes that nobody changes.
    Memory { name: String, bytes: MemoryBytes },
}

/// What the bytes of one read come from.
enum Opened<'a> {
    File(&'a Path, File),
    Memory(&'a MemoryBytes),
}

/// A part of a file in a [`SourceFile`] that stands for several.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Where it starts among them.
    at: u64,
    /// Where it starts in the file.
    offset_bytes: u64,
    len_bytes: u64,
}

/// What changes when a file is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) len_bytes: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, i64),
    inode: (u64, u64),
}

impl Stamp {
    /// Of the file at `path`. It is opened, for a network's file system may tell old sizes of files that are not.
    ///
    /// # Errors
    /// `NotFound` or `Input`, naming the path.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let seen = File::open(path).and_then(|file| file.metadata());
        seen.map(|seen| Self::of(&seen)).map_err(|e| unreadable(path, &e))
    }

    fn of(m: &Metadata) -> Self {
        Self {
            len_bytes: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            inode: (m.dev(), m.ino()),
        }
    }
}

impl SourceFile {
    /// Looks at `path`.
    ///
    /// # Errors
    /// `NotFound` or `Input`, naming the path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let seen = Stamp::at(path)?;
        Ok(Self {
            origin: Origin::Disk {
                path: path.to_owned(),
                seen,
            },
            parts: None,
        })
    }

    /// A file that stands in memory.
    pub(crate) fn of_memory(name: &str, bytes: &MemoryBytes) -> Self {
        Self {
            origin: Origin::Memory {
                name: name.to_owned(),
                bytes: bytes.clone(),
            },
            parts: None,
        }
    }

    /// What is left of the file without `holes`, as if it were a file.
    ///
    /// * `holes`: offset and length of each, in bytes; they ascend, lie in the file and do not overlap.
    pub(crate) fn without(&self, holes: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let end = (self.origin_bytes(), 0);
        let (mut at, mut offset_bytes, mut parts) = (0, 0, Vec::new());
        for (hole_at, hole_bytes) in holes.into_iter().chain([end]) {
            let len_bytes = hole_at - offset_bytes;
            if len_bytes > 0 {
                parts.push(Part {
                    at,
                    offset_bytes,
                    len_bytes,
                });
            }
            at += len_bytes;
            offset_bytes = hole_at + hole_bytes;
        }
        Self {
            origin: self.origin.clone(),
            parts: Some(parts),
        }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        match &self.parts {
            None => self.origin_bytes(),
            Some(parts) => parts.last().map_or(0, |last| last.at + last.len_bytes),
        }
    }

    fn origin_bytes(&self) -> u64 {
        match &self.origin {
            Origin::Disk { seen, .. } => seen.len_bytes,
            Origin::Memory { bytes, .. } => bytes.len_bytes(),
        }
    }

    pub(crate) fn shown(&self) -> String {
        match &self.origin {
            Origin::Disk { path, .. } => shown(path),
            Origin::Memory { name, .. } => name.clone(),
        }
    }

    /// Reads exactly `len_bytes` at `offset_bytes`.
    ///
    /// # Errors
    /// `Input` if the file was written to, replaced, removed or cannot be read.
    pub(crate) fn read_at(&self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>> {
        let opened = self.opened()?;
        let mut buffer = vec![0; len_bytes];
        let Some(parts) = &self.parts else {
            self.fill(&opened, &mut buffer, offset_bytes)?;
            return Ok(buffer);
        };
        let first = parts.partition_point(|part| part.at + part.len_bytes <= offset_bytes);
        let (mut at, mut rest) = (offset_bytes, &mut buffer[..]);
        for part in &parts[first..] {
            let inside = at - part.at;
            let left = usize::try_from(part.len_bytes - inside).unwrap_or(usize::MAX);
            let (bytes, others) = rest.split_at_mut(left.min(rest.len()));
            self.fill(&opened, bytes, part.offset_bytes + inside)?;
            at += bytes.len() as u64;
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        match rest.is_empty() {
            true => Ok(buffer),
            false => Err(self.ends_before(offset_bytes + len_bytes as u64)),
        }
    }

    fn opened(&self) -> Result<Opened<'_>> {
        match &self.origin {
            Origin::Memory { bytes, .. } => Ok(Opened::Memory(bytes)),
            Origin::Disk { path, seen } => {
                let file = File::open(path).map_err(|e| unreadable(path, &e))?;
                let now = file.metadata().map_err(|e| unreadable(path, &e))?;
                match Stamp::of(&now) == *seen {
                    true => Ok(Opened::File(path, file)),
                    false => Err(self.changed(&resized(seen, &now))),
                }
            }
        }
    }

    fn fill(&self, opened: &Opened<'_>, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let end = offset_bytes.saturating_add(buffer.len() as u64);
        match opened {
            Opened::Memory(bytes) => match bytes.read_at(offset_bytes, buffer) {
                true => Ok(()),
                false => Err(self.ends_before(end)),
            },
            Opened::File(path, file) => match file.read_exact_at(buffer, offset_bytes) {
                Ok(()) => Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.ends_before(end)),
                Err(e) => Err(unreadable(path, &e)),
            },
        }
    }

    fn ends_before(&self, byte: u64) -> StoreError {
        self.changed(&format!("it ends before byte {byte}"))
    }

    /// Checks that the file is still the one that was opened.
    ///
    /// # Errors
    /// `Input` if it was written to, replaced or removed.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let Origin::Disk { path, seen } = &self.origin else {
            return Ok(());
        };
        match std::fs::metadata(path) {
            Ok(now) if Stamp::of(&now) == *seen => Ok(()),
            Ok(now) => Err(self.changed(&resized(seen, &now))),
            Err(e) => Err(self.changed(&e.to_string())),
        }
    }

    /// The error of a file that did not hold still.
    pub(crate) fn changed(&self, detail: &str) -> StoreError {
        StoreError::input(
            self.shown(),
            format!("it changed while it was being saved ({detail})"),
            "Wait until the trainer has finished writing it and save again; the store is as it was",
        )
    }
}

fn resized(seen: &Stamp, now: &Metadata) -> String {
    format!("{} bytes became {}", seen.len_bytes, now.len())
}

fn unreadable(path: &Path, error: &std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let hint = "It was removed while the checkpoint was being saved; save again";
        return StoreError::not_found(shown(path), hint);
    }
    StoreError::input(
        shown(path),
        error.to_string(),
        "Check the disk and its permissions and run the command again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what is left of a file without its holes reads like a file, from any offset.
    #[test]
    fn a_file_with_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let bytes: Vec<u8> = (0..100).collect();
        std::fs::write(&path, &bytes).unwrap();
        let whole = SourceFile::open(&path).unwrap();
        for holes in [
            vec![],
            vec![(0, 3), (3, 0), (10, 5), (15, 40), (99, 1)],
            vec![(0, 100)],
            vec![(7, 93)],
        ] {
            let is_left = |i: &u64| !holes.iter().any(|&(at, len)| (at..at + len).contains(i));
            let left: Vec<u8> = (0..100)
                .zip(&bytes)
                .filter(|(i, _)| is_left(i))
                .map(|(_, &byte)| byte)
                .collect();
            let source = whole.without(holes.iter().copied());
            assert_eq!(source.len_bytes(), left.len() as u64, "{holes:?}");
            for from in 0..=left.len() {
                for to in from..=left.len() {
                    assert_eq!(source.read_at(from as u64, to - from).unwrap(), left[from..to]);
                }
            }
            assert!(source.read_at(left.len() as u64, 1).is_err());
        }
    }

    /// Promise: a file that shrinks, grows, is replaced or removed is an error that names it.
    #[test]
    fn a_file_that_does_not_hold_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        std::fs::write(&path, [7; 100]).unwrap();
        let source = SourceFile::open(&path).unwrap();
        assert_eq!(source.read_at(90, 10).unwrap(), [7; 10]);
        source.check_unchanged().unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(50)
            .unwrap();
        let error = source.read_at(90, 10).unwrap_err().to_string();
        assert!(
            error.contains("changed while it was being saved") && error.contains("w"),
            "{error}"
        );
        assert!(source.check_unchanged().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(source.check_unchanged().is_err());
        assert!(matches!(
            SourceFile::open(&path),
            Err(StoreError::NotFound { .. })
        ));
    }
}
