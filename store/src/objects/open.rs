//! From what the user typed to a backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;

use super::driver::Driver;
use super::durable::{Folders, sync};
use super::{Objects, outcome};
use crate::error::{Result, StoreError};

impl Objects {
    /// Opens the backend at `location`: a path, or a `file://` URL. The folder must exist.
    ///
    /// # Errors
    /// * `NotFound`: there is no such folder; `tpde init` makes one.
    /// * `Input`: the location is a file, or of a kind that this build does not know.
    pub fn open(location: &str) -> Result<Self> {
        let root = local_path(location)?;
        match std::fs::metadata(&root) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(StoreError::input(
                    location,
                    "it is a file, a store is a folder",
                    "Name the folder that holds tpde.json",
                ));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::not_found(
                    format!("store {location}"),
                    format!("Run `tpde init {location}` to make one"),
                ));
            }
            Err(e) => return Err(unusable("open", location, e)),
        }
        let root = root.canonicalize().map_err(|e| unusable("open", location, e))?;
        let files = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| outcome::describe(location, "open", &"the folder", e))?
            .with_fsync(true);
        Ok(Self {
            driver: Driver::Inline,
            folders: Some(Arc::new(Folders::new(root))),
            ..Self::over(Arc::new(files), location)
        })
    }

    /// Opens the backend at `location` as [`Objects::open`] does, making the folder first where there is none.
    ///
    /// # Errors
    /// `Input` as for `open`; `Backend` if the folder cannot be made.
    pub fn open_or_make(location: &str) -> Result<Self> {
        make_folder(&local_path(location)?).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => StoreError::input(
                location,
                "a file stands in the way, a store is a folder",
                "Choose another path",
            ),
            _ => unusable("make", location, e),
        })?;
        Self::open(location)
    }
}

/// Makes `folder` and what is missing above it, durably.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other?,
    }
    sync(parent)
}

fn unusable(action: &'static str, location: &str, error: std::io::Error) -> StoreError {
    let error = object_store::Error::Generic {
        store: "folder",
        source: Box::new(error),
    };
    outcome::describe(location, action, &"the folder", error)
}

/// The path that `location` names on this machine.
fn local_path(location: &str) -> Result<PathBuf> {
    let wrong = |detail: String| {
        Err(StoreError::input(
            format!("store location {location:?}"),
            detail,
            "Give a path, for example `/data/checkpoints`",
        ))
    };
    if location.is_empty() {
        return wrong("it is empty".to_owned());
    }
    let Some((scheme, rest)) = location.split_once("://") else {
        return Ok(PathBuf::from(location));
    };
    match scheme {
        "file" => {}
        "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" | "http" | "https" => {
            return wrong(format!("{scheme}:// is not built in yet"));
        }
        _ => return wrong(format!("{scheme}:// is not a kind of store")),
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return wrong("a file URL names an absolute path, as in file:///data/store".to_owned());
    }
    match percent_decoded(path) {
        Some(path) => Ok(PathBuf::from(path)),
        None => wrong("a % in it is not followed by two hexadecimal digits of UTF-8".to_owned()),
    }
}

/// `%41` → `A`; `None` if an escape is broken or the result is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut out = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let hex = piece
            .get(..2)
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?;
        out.push(u8::from_str_radix(hex, 16).ok()?);
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: every location is opened, or refused with its reason.
    #[test]
    fn locations() {
        assert_eq!(local_path("a/b").unwrap(), PathBuf::from("a/b"));
        assert_eq!(local_path("file:///a%20b").unwrap(), PathBuf::from("/a b"));
        assert_eq!(local_path("file://localhost/a").unwrap(), PathBuf::from("/a"));
        for (bad, reason) in [
            ("", "empty"),
            ("s3://bucket/x", "not built in yet"),
            ("ftp://x", "not a kind of store"),
            ("file://host/a", "absolute"),
            ("file:///a%2", "hexadecimal"),
            ("file:///a%+1", "hexadecimal"),
            ("file:///%ff", "UTF-8"),
        ] {
            let text = local_path(bad).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
    }

    /// Promise: a missing store names the command that makes it; a file in the way is an error, not a crash.
    #[test]
    fn missing_and_blocked() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("x/y z");
        let text = at.to_str().unwrap();
        let error = Objects::open(text).unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }));
        assert!(error.to_string().contains("tpde init"), "{error}");
        Objects::open_or_make(text).unwrap();
        Objects::open(text).unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"").unwrap();
        for bad in [file.clone(), file.join("below")] {
            let error = Objects::open_or_make(bad.to_str().unwrap()).unwrap_err();
            assert!(matches!(error, StoreError::Input { .. }), "{error}");
        }
    }
}
