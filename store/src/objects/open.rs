//! From what the user typed to a backend.

use std::path::Path;
use std::sync::Arc;

use object_store::local::LocalFileSystem;

use super::disk::{Disk, LocalDisk};
use super::driver::Driver;
use super::durable::Folders;
use super::environment::Environment;
use super::location::{Location, Service};
use super::rate::{Limiter, Rate};
use super::{Objects, cloud, outcome, s3};
use crate::error::{Result, StoreError};

impl Objects {
    /// Opens the backend at `location`: a path, a `file://` URL, or a place on a server such as `s3://bucket/prefix`. A folder
    /// must exist.
    ///
    /// Servers' settings are the variables of this process. Nothing is asked of a server yet.
    ///
    /// # Errors
    /// * `NotFound`: there is no such folder; `tpde init` makes one.
    /// * `Input`: the location is a file, or of a kind that this build does not know, or a setting cannot be used.
    /// * `Backend`: there are no credentials for the server; the message says what to set.
    pub fn open(location: &str) -> Result<Self> {
        Self::open_with(location, &Environment::of_process())
    }

    /// Opens the backend at `location` as [`Objects::open`] does, with variables of the caller's own.
    ///
    /// # Errors
    /// As [`Objects::open`].
    pub fn open_with(location: &str, environment: &Environment) -> Result<Self> {
        Self::open_at_rate(location, environment, None)
    }

    /// Opens the backend at `location` as [`Objects::open_with`] does.
    ///
    /// * `rate`: no more than this many bytes a second come and go, of all requests together.
    ///
    /// # Errors
    /// As [`Objects::open`].
    pub fn open_at_rate(location: &str, environment: &Environment, rate: Option<Rate>) -> Result<Self> {
        let limiter = rate.map(|rate| Arc::new(Limiter::new(rate)));
        let opened = match Location::parse(location)? {
            Location::Folder(root) => Self::folder(location, &root),
            Location::Memory => Ok(Self::memory()),
            Location::Bucket {
                service,
                bucket,
                prefix,
            } => {
                let open = match service {
                    Service::S3 => s3::open,
                    Service::Gs => cloud::gs,
                    Service::Az => cloud::az,
                };
                let server = open(location, &bucket, prefix, environment, limiter.as_ref())?;
                Ok(Self {
                    writer: server.writer,
                    sorted: server.sorted,
                    server: Some(server.address.into()),
                    ..Self::over(server.reader, location)
                })
            }
        }?;
        Ok(Self { limiter, ..opened })
    }

    /// Opens the backend at `location` as [`Objects::open`] does, making a folder first where there is none.
    ///
    /// # Errors
    /// As for `open`; `Backend` if the folder cannot be made.
    pub fn open_or_make(location: &str) -> Result<Self> {
        if let Location::Folder(root) = Location::parse(location)? {
            make_folder(&root).map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => StoreError::input(
                    location,
                    "a file stands in the way, a store is a folder",
                    "Choose another path",
                ),
                _ => unusable("make", location, e),
            })?;
        }
        Self::open(location)
    }

    fn folder(location: &str, root: &Path) -> Result<Self> {
        match std::fs::metadata(root) {
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
            .map_err(|e| outcome::describe(location, None, "open", &"the folder", e))?
            .with_fsync(true);
        Ok(Self {
            driver: Driver::Inline,
            folders: Some(Arc::new(Folders::new(Arc::new(LocalDisk), root))),
            ..Self::over(Arc::new(files), location)
        })
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
    LocalDisk.sync(parent)
}

fn unusable(action: &'static str, location: &str, error: std::io::Error) -> StoreError {
    let error = object_store::Error::Generic {
        store: "folder",
        source: Box::new(error),
    };
    outcome::describe(location, None, action, &"the folder", error)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Promise: settings that cannot be used are told before anything is sent, and what is used is never repeated.
    #[test]
    fn settings_of_servers() {
        let key = [("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "SECRET")];
        let with = |more: &[(&'static str, &'static str)]| {
            let all = [&[("HOME", "/nonexistent")], more].concat();
            Objects::open_with("s3://bucket/x", &all.into_iter().collect())
        };
        let opened = with(&key).unwrap();
        assert!(opened.sorted && opened.local_root().is_none());
        assert_eq!(
            opened.server.as_deref(),
            Some("https://s3.us-east-1.amazonaws.com")
        );
        let both = [
            &key[..],
            &[
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:9/"),
            ],
        ]
        .concat();
        assert_eq!(with(&both).unwrap().server.as_deref(), Some("http://127.0.0.1:9"));
        for (more, reason) in [
            (&[("AWS_EC2_METADATA_DISABLED", "true")][..], "no credentials"),
            (&key[..1], "AWS_SECRET_ACCESS_KEY is not"),
            (&[("AWS_SECRET_ACCESS_KEY", "SECRET")], "AWS_ACCESS_KEY_ID is not"),
            (&[("AWS_PROFILE", "gone")], "AWS_PROFILE=gone"),
            (
                &[key[0], key[1], ("AWS_ENDPOINT_URL", "storage.example.org")],
                "AWS_ENDPOINT_URL",
            ),
            (
                &[key[0], key[1], ("AWS_ENDPOINT_URL_S3", "https://u:p@host")],
                "AWS_ENDPOINT_URL_S3",
            ),
        ] {
            let text = with(more).unwrap_err().to_string();
            assert!(text.contains(reason), "{reason}: {text}");
            assert!(!text.contains("SECRET\"") && !text.contains("u:p"), "{text}");
        }
        let express = Objects::open_with("s3://b--use1-az4--x-s3", &key.into_iter().collect()).unwrap();
        assert!(!express.sorted);
        let error = Objects::open_with("az://container/x", &Environment::default()).unwrap_err();
        assert!(
            error.to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"),
            "{error}"
        );
        Objects::open_with("memory://", &Environment::default()).unwrap();
    }
}
