//! Walks a checkpoint directory.

use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::left_out::{LeftOut, is_store, why};
use super::memory::MemoryBytes;
use super::paths;
use crate::error::{Result, StoreError, in_words};

/// Most nested directories.
const MAX_DEPTH: usize = 64;
/// Permission bits that are kept.
pub(crate) const MODE_BITS: u32 = 0o777;

/// One entry of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Path below the root, `/` between its parts.
    pub(crate) path: String,
    /// Where its bytes are.
    pub(crate) place: Place,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) is_dir: bool,
    pub(crate) len_bytes: u64,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Disk(PathBuf),
    Memory(MemoryBytes),
}

/// A checkpoint's directory, walked.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// What is to be saved, by path.
    pub(crate) found: Vec<Found>,
    /// What was passed by.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Lists everything below `root` (or `root` alone, if it is a file), sorted by path.
///
/// A symbolic link to a file is followed: its content is what a restore needs. Stores, and what a restore did not finish, are
/// left out.
///
/// * `own`: the folder of the store that is saved to, if it is one on this machine.
///
/// # Errors
/// `Input`: nothing there, a store, a link to a directory or to nothing, a socket or device, a name that is not UTF-8 or too
/// long.
pub(crate) fn scan(root: &Path, own: Option<&Path>) -> Result<Scan> {
    let metadata = fs::metadata(root).map_err(|e| unreadable(root, &e))?;
    let own = own.and_then(|own| own.canonicalize().ok());
    let is_inside = |own: &PathBuf| root.canonicalize().is_ok_and(|at| at.starts_with(own));
    if own.as_ref().is_some_and(is_inside) || metadata.is_dir() && is_store(root, own.as_deref()) {
        return Err(StoreError::input(
            shown(root),
            "it is a store, or part of one, and no checkpoint",
            "Name the directory that holds the checkpoint's files",
        ));
    }
    let mut scan = Scan::default();
    if metadata.is_file() {
        let name = root.file_name().ok_or_else(|| unnamed(root))?;
        let name = name.to_str().ok_or_else(|| unnamed(root))?;
        scan.found.push(entry(name.to_owned(), root, &metadata)?);
    } else if !metadata.is_dir() {
        return Err(special(root));
    } else {
        walk(root, "", 0, own.as_deref(), &mut scan)?;
        if scan.found.is_empty() {
            return Err(StoreError::input(
                shown(root),
                "the directory is empty",
                "Name the directory that holds the checkpoint's files",
            ));
        }
    }
    scan.found.sort_by(|a, b| a.path.cmp(&b.path));
    scan.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(scan)
}

fn walk(dir: &Path, below: &str, depth: usize, own: Option<&Path>, scan: &mut Scan) -> Result<()> {
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
        if let Some(why) = why(&source, name, metadata.is_dir(), own) {
            scan.left_out.push(LeftOut { path, why });
            continue;
        }
        if metadata.is_dir() {
            if link.is_symlink() {
                return Err(StoreError::input(
                    shown(&source),
                    "it is a symbolic link to a directory, which is not followed",
                    "Copy the directory in its place, or remove the link",
                ));
            }
            scan.found.push(entry(path.clone(), &source, &metadata)?);
            walk(&source, &path, depth + 1, own, scan)?;
        } else if metadata.is_file() {
            scan.found.push(entry(path, &source, &metadata)?);
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
        place: Place::Disk(source.to_owned()),
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

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let hint = match path.symlink_metadata() {
            Ok(_) => "It is a symbolic link that leads nowhere: mend or remove it",
            Err(_) => "Check the path",
        };
        return StoreError::not_found(shown(path), hint);
    }
    StoreError::input(
        shown(path),
        in_words(error),
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
        assert!(
            scan(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
        fs::create_dir_all(at("b/empty")).unwrap();
        fs::write(at("b/x"), "12").unwrap();
        fs::write(at("a"), "1").unwrap();
        std::os::unix::fs::symlink(at("a"), at("c")).unwrap();
        let found = scan(dir.path(), None).unwrap().found;
        let paths: Vec<_> = found
            .iter()
            .map(|f| (f.path.as_str(), f.is_dir, f.len_bytes))
            .collect();
        assert_eq!(
            paths.iter().map(|p| p.0).collect::<Vec<_>>(),
            ["a", "b", "b/empty", "b/x", "c"]
        );
        assert_eq!(paths[4], ("c", false, 1));
        assert_eq!(scan(&at("a"), None).unwrap().found.len(), 1);

        std::os::unix::fs::symlink(at("nowhere"), at("d")).unwrap();
        assert!(matches!(scan(dir.path(), None), Err(StoreError::NotFound { .. })));
        fs::remove_file(at("d")).unwrap();
        std::os::unix::fs::symlink(at("b"), at("d")).unwrap();
        assert!(
            scan(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("link to a directory")
        );
        fs::remove_file(at("d")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("s")).unwrap();
        assert!(
            scan(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("neither a file")
        );
    }

    /// Promise: the store that is saved to, any other store and unfinished files are left out and named; a store alone, or a
    /// folder inside one, is refused; a mistyped path is not called a link.
    #[test]
    fn what_is_left_out() {
        use crate::files::left_out::LeftOutWhy::{Store, Unfinished};
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for folder in ["own/packs", "deep/other"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("own/tpde.json"), "damaged").unwrap();
        fs::write(at("deep/other/tpde.json"), r#"{"format": 1, "store_id": "0"}"#).unwrap();
        for file in [
            ".tpde-acbca950-0.partial",
            "deep/.tpde-acbca950.partial",
            "w",
            ".tpde-x.partial",
        ] {
            fs::write(at(file), "1").unwrap();
        }
        let own = at("own");
        let scanned = scan(dir.path(), Some(&own)).unwrap();
        let found: Vec<_> = scanned.found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(found, [".tpde-x.partial", "deep", "w"]);
        let left: Vec<_> = scanned
            .left_out
            .iter()
            .map(|l| (l.path.as_str(), l.why))
            .collect();
        assert_eq!(
            left,
            [
                (".tpde-acbca950-0.partial", Unfinished),
                ("deep/.tpde-acbca950.partial", Unfinished),
                ("deep/other", Store),
                ("own", Store),
            ]
        );
        for store in ["own", "own/packs", "deep/other"] {
            let error = scan(&at(store), Some(&own)).unwrap_err().to_string();
            assert!(error.contains("it is a store"), "{store}: {error}");
        }
        let error = scan(&at("mistyped"), None).unwrap_err().to_string();
        assert!(!error.contains("link"), "{error}");
    }
}
