//! Files of a checkpoint that stand in memory, as a training loop has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::paths;
use super::scan::{Found, Place};
use crate::error::{Result, StoreError};

/// Permission bits of a file that never was on a disk.
const FILE_MODE: u32 = 0o644;
/// Permission bits of a directory that never was on a disk.
const DIRECTORY_MODE: u32 = 0o755;

/// A file of a checkpoint, in memory.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    /// Its path in the checkpoint, `/` between its parts.
    pub path: String,
    /// What is in it.
    pub bytes: MemoryBytes,
}

/// Bytes in stretches, one after another. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBytes {
    /// Where each starts, and what it is.
    stretches: Arc<[(u64, Bytes)]>,
    len_bytes: u64,
}

impl FromIterator<Bytes> for MemoryBytes {
    fn from_iter<I: IntoIterator<Item = Bytes>>(stretches: I) -> Self {
        let mut len_bytes = 0;
        let placed = stretches.into_iter().map(|bytes| {
            let at = len_bytes;
            len_bytes += bytes.len() as u64;
            (at, bytes)
        });
        let stretches = placed.collect();
        Self { stretches, len_bytes }
    }
}

impl MemoryBytes {
    /// How many there are.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fills `buffer` from `offset_bytes` on; `false` if there are not as many.
    pub(crate) fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> bool {
        let first = self
            .stretches
            .partition_point(|(at, bytes)| at + bytes.len() as u64 <= offset_bytes);
        let (mut at, mut rest) = (offset_bytes, buffer);
        for (start, bytes) in &self.stretches[first..] {
            if rest.is_empty() {
                break;
            }
            let inside = usize::try_from(at - start).unwrap_or(usize::MAX);
            let bytes = bytes.get(inside..).unwrap_or_default();
            let (here, others) = rest.split_at_mut(bytes.len().min(rest.len()));
            here.copy_from_slice(&bytes[..here.len()]);
            at += here.len() as u64;
            rest = others;
        }
        rest.is_empty()
    }
}

/// Lists files in memory as a directory of them would be, sorted by path.
///
/// # Errors
/// `Input`: no files, or a path that a restore would refuse, or one that stands twice or below a file.
pub(crate) fn list(files: &[MemoryFile]) -> Result<Vec<Found>> {
    let refused = |path: &str, detail: String| {
        StoreError::input(
            path,
            detail,
            "Give every file of the checkpoint a path of its own",
        )
    };
    if files.is_empty() {
        return Err(refused("the checkpoint", "there are no files in it".to_owned()));
    }
    let mut directories = BTreeSet::new();
    let mut found = Vec::with_capacity(files.len());
    for file in files {
        if let Some(fault) = paths::fault(&file.path) {
            return Err(refused(&file.path, format!("its name cannot be kept: {fault}")));
        }
        directories.extend(file.path.match_indices('/').map(|(at, _)| &file.path[..at]));
        found.push(Found {
            path: file.path.clone(),
            place: Place::Memory(file.bytes.clone()),
            mode: FILE_MODE,
            is_dir: false,
            len_bytes: file.bytes.len_bytes(),
        });
    }
    found.extend(directories.into_iter().map(|path| Found {
        path: path.to_owned(),
        place: Place::Memory(MemoryBytes::from_iter([])),
        mode: DIRECTORY_MODE,
        is_dir: true,
        len_bytes: 0,
    }));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    match found.windows(2).find(|pair| pair[0].path == pair[1].path) {
        Some(twice) => Err(refused(&twice[0].path, "there are two of that name".to_owned())),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> MemoryFile {
        MemoryFile {
            path: path.to_owned(),
            bytes: MemoryBytes::from_iter([Bytes::from_static(b"x")]),
        }
    }

    /// Promise: bytes in stretches read like a file, from any offset.
    #[test]
    fn stretches_read_as_one() {
        let all: Vec<u8> = (0..50).collect();
        for cuts in [vec![], vec![50], vec![0, 1, 1, 30], vec![10, 20, 30, 40]] {
            let mut stretches = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([all.len()]) {
                stretches.push(Bytes::copy_from_slice(&all[from..cut]));
                from = cut;
            }
            let bytes: MemoryBytes = stretches.into_iter().collect();
            assert_eq!(bytes.len_bytes(), 50);
            for from in 0..=all.len() {
                for to in from..=all.len() {
                    let mut read = vec![0; to - from];
                    assert!(bytes.read_at(from as u64, &mut read));
                    assert_eq!(read, all[from..to]);
                }
            }
            assert!(!bytes.read_at(50, &mut [0]));
            assert!(!bytes.read_at(49, &mut [0, 0]));
        }
    }

    /// Promise: directories are listed as a disk would have them; what could not be restored is refused by name.
    #[test]
    fn listed_like_a_directory() {
        let found = list(&[file("b/c/x"), file("a"), file("b/y")]).unwrap();
        let paths: Vec<(&str, bool)> = found.iter().map(|f| (f.path.as_str(), f.is_dir)).collect();
        let expected = [
            ("a", false),
            ("b", true),
            ("b/c", true),
            ("b/c/x", false),
            ("b/y", false),
        ];
        assert_eq!(paths, expected);
        let refused: [&[&str]; 5] = [&[], &["../x"], &["/x"], &["a", "a"], &["a", "a/b"]];
        for paths in refused {
            let files: Vec<MemoryFile> = paths.iter().map(|path| file(path)).collect();
            assert!(matches!(list(&files), Err(StoreError::Input { .. })), "{paths:?}");
        }
    }
}
