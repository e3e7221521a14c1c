//! Walks a checkpoint directory.

use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::paths;
use crate::error::{Result, StoreError};

/// Most nested directories.
const MAX_DEPTH: usize = 64;
/// Permission bits that are kept.
pub(crate) const MODE_BITS: u32 = 0o777;

/// One entry of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Path below the root, `/` between its parts.
    pub(crate) path: String,
    /// Where it lies.
    pub(crate) source: PathBuf,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) is_dir: bool,
    pub(crate) len_bytes: u64,
}

/// Lists everything below `root` (or `root` alone, if it is a file), sorted by path.
///
/// A symbolic link to a file is followed: its content is what a restore needs.
///
/// # Errors
/// `Input`: nothing there, a link to a directory or to nothing, a socket or device, a name that is not UTF-8 or too long.
pub(crate) fn scan(root: &Path) -> Result<Vec<Found>> {
    let metadata = fs::metadata(root).map_err(|e| unreadable(root, &e))?;
    let mut found = Vec::new();
    if metadata.is_file() {
        let name = root.file_name().ok_or_else(|| unnamed(root))?;
        let name = name.to_str().ok_or_else(|| unnamed(root))?;
        found.push(entry(name.to_owned(), root, &metadata)?);
    } else if !metadata.is_dir() {
        return Err(special(root));
    } else {
        walk(root, "", 0, &mut found)?;
        if found.is_empty() {
            return Err(StoreError::input(
                shown(root),
                "the directory is empty",
                "Name the directory that holds the checkpoint's files",
            ));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(dir: &Path, below: &str, depth: usize, found: &mut Vec<Found>) -> Result<()> {
    if depth > MAX_DEPTH {
        let detail = format!("directories are nested more than {MAX_DEPTH} deep");
        return Err(StoreError::input(
            shown(dir),
            detail,
            "Save a directory further down",
        ));
    }
    for entry_here in fs::read_dir(dir).map_err(|e| unreadable(dir, &e))? {
        let source = entry_here.map_err(|e| unreadable(dir, &e))?.path();
        let name = source
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| unnamed(&source))?;
        let path = if below.is_empty() {
            name.to_owned()
        } else {
            format!("{below}/{name}")
        };
        let link = fs::symlink_metadata(&source).map_err(|e| unreadable(&source, &e))?;
        let metadata = fs::metadata(&source).map_err(|e| unreadable(&source, &e))?;
        if metadata.is_dir() {
            if link.is_symlink() {
                return Err(StoreError::input(
                    shown(&source),
                    "it is a symbolic link to a directory, which is not followed",
                    "Copy the directory in its place, or remove the link",
                ));
            }
            found.push(entry(path.clone(), &source, &metadata)?);
            walk(&source, &path, depth + 1, found)?;
        } else if metadata.is_file() {
            found.push(entry(path, &source, &metadata)?);
        } else {
            return Err(special(&source));
        }
    }
    Ok(())
}

fn entry(path: String, source: &Path, metadata: &Metadata) -> Result<Found> {
    // What a restore would refuse must not be saved.
    if let Some(fault) = paths::fault(&path) {
        return Err(StoreError::input(
            shown(source),
            format!("its name cannot be kept: {fault}"),
            "Rename it and save again",
        ));
    }
    Ok(Found {
        path,
        source: source.to_owned(),
        mode: metadata.permissions().mode() & MODE_BITS,
        is_dir: metadata.is_dir(),
        len_bytes: if metadata.is_dir() { 0 } else { metadata.len() },
    })
}

fn special(path: &Path) -> StoreError {
    let hint = "Remove the pipe, socket or device and save again";
    StoreError::input(shown(path), "it is neither a file nor a directory", hint)
}

/// A path for a message.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn unreadable(path: &Path, error: &std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let hint = "Check the path; a symbolic link must lead to a file";
        return StoreError::not_found(shown(path), hint);
    }
    StoreError::input(
        shown(path),
        error.to_string(),
        "Check its permissions and run the command again",
    )
}

fn unnamed(path: &Path) -> StoreError {
    StoreError::input(
        shown(path),
        "its name is not valid UTF-8",
        "Rename it and save again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: files and directories are listed in one order; links and odd things are followed or refused by name.
    #[test]
    fn trees() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        assert!(scan(dir.path()).unwrap_err().to_string().contains("is empty"));
        fs::create_dir_all(at("b/empty")).unwrap();
        fs::write(at("b/x"), "12").unwrap();
        fs::write(at("a"), "1").unwrap();
        std::os::unix::fs::symlink(at("a"), at("c")).unwrap();
        let found = scan(dir.path()).unwrap();
        let paths: Vec<_> = found
            .iter()
            .map(|f| (f.path.as_str(), f.is_dir, f.len_bytes))
            .collect();
        assert_eq!(
            paths.iter().map(|p| p.0).collect::<Vec<_>>(),
            ["a", "b", "b/empty", "b/x", "c"]
        );
        assert_eq!(paths[4], ("c", false, 1));
        assert_eq!(scan(&at("a")).unwrap().len(), 1);

        std::os::unix::fs::symlink(at("nowhere"), at("d")).unwrap();
        assert!(matches!(scan(dir.path()), Err(StoreError::NotFound { .. })));
        fs::remove_file(at("d")).unwrap();
        std::os::unix::fs::symlink(at("b"), at("d")).unwrap();
        assert!(
            scan(dir.path())
                .unwrap_err()
                .to_string()
                .contains("link to a directory")
        );
        fs::remove_file(at("d")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("s")).unwrap();
        assert!(
            scan(dir.path())
                .unwrap_err()
                .to_string()
                .contains("neither a file")
        );
    }
}
