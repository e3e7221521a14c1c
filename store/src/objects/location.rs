//! What the user typed, taken apart: which kind of backend, and which place in it.
//!
//! ```text
//! /data/ckpts   file:///data/ckpts   s3://bucket/prefix   gs://bucket/prefix   az://container/prefix   memory://
//! ```
//! Endpoints, regions and credentials are no part of a location: it is printed, logged and kept in shell histories.

use std::path::PathBuf;

use object_store::path::Path;

use crate::error::{Result, StoreError};

/// Longest name of a bucket or container.
const MAX_BUCKET_LEN: usize = 63;

/// A service that keeps objects in buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Amazon S3, and whatever speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage; its buckets are called containers.
    Az,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A place in a bucket.
    Bucket {
        /// Whose.
        service: Service,
        /// Its name.
        bucket: String,
        /// What every key of the store begins with; empty for the whole bucket.
        prefix: Path,
    },
    /// This process's memory, empty.
    Memory,
}

impl Location {
    /// Reads what was typed.
    ///
    /// # Errors
    /// `Input`, saying what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |detail: String| {
            Err(StoreError::input(
                format!("store location {:?}", shown(text)),
                detail,
                "Give a path, for example `/data/checkpoints`, or `s3://bucket/prefix`",
            ))
        };
        if text.is_empty() {
            return wrong("it is empty".to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let parsed = match scheme {
            "file" => folder(rest),
            "s3" => bucket(Service::S3, rest),
            "gs" => bucket(Service::Gs, rest),
            "az" => bucket(Service::Az, rest),
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err("a store in memory has no name: write memory://".to_owned()),
            "s3a" | "s3n" => Err(format!("write s3://{rest}")),
            "gcs" => Err(format!("write gs://{rest}")),
            "abfs" | "abfss" | "azure" | "adl" | "wasb" | "wasbs" => {
                Err("write az://container/prefix; the account is AZURE_STORAGE_ACCOUNT_NAME".to_owned())
            }
            "http" | "https" => Err(
                "a URL of a server is no store: write s3://bucket/prefix, and name the server in AWS_ENDPOINT_URL"
                    .to_owned(),
            ),
            _ => Err(format!("{scheme}:// is not a kind of store")),
        };
        parsed.or_else(wrong)
    }
}

/// The text without what may be a password before an @.
fn shown(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => text.to_owned(),
    }
}

/// A path below the root, of a file URL.
fn folder(rest: &str) -> std::result::Result<Location, String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("a file URL names an absolute path, as in file:///data/store".to_owned());
    }
    let decoded =
        percent_decoded(path).ok_or("a % in it is not followed by two hexadecimal digits of UTF-8")?;
    Ok(Location::Folder(PathBuf::from(decoded)))
}

/// A bucket's name, and what comes after it.
fn bucket(service: Service, rest: &str) -> std::result::Result<Location, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err(
            "credentials and accounts are no part of a location: set variables, see docs/backends.md"
                .to_owned(),
        );
    }
    if rest.contains(['?', '#']) {
        return Err(
            "a location has no ? and no #: endpoint, region and the like are variables, see docs/backends.md"
                .to_owned(),
        );
    }
    let is_named = bucket
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$'));
    if bucket.is_empty() || bucket.len() > MAX_BUCKET_LEN || !is_named {
        return Err(format!("{bucket:?} is not the name of a bucket"));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let prefix = Path::parse(prefix).map_err(|_| {
        format!("{prefix:?} cannot begin a key: no empty part, no `.`, no `..`, no control characters")
    })?;
    Ok(Location::Bucket {
        service,
        bucket: bucket.to_owned(),
        prefix,
    })
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

    /// Promise: every location is read as what it names.
    #[test]
    fn locations() {
        let at = |text: &str| Location::parse(text).unwrap();
        assert_eq!(at("a/b"), Location::Folder("a/b".into()));
        assert_eq!(at("file:///a%20b"), Location::Folder("/a b".into()));
        assert_eq!(at("file://localhost/a"), Location::Folder("/a".into()));
        assert_eq!(at("memory://"), Location::Memory);
        for (text, service, prefix) in [
            ("s3://my-bucket", Service::S3, ""),
            ("s3://my-bucket/", Service::S3, ""),
            ("s3://my-bucket/a/b c/", Service::S3, "a/b c"),
            ("gs://my-bucket/a", Service::Gs, "a"),
            ("az://my-bucket/a", Service::Az, "a"),
        ] {
            let bucket = "my-bucket".to_owned();
            let prefix = Path::parse(prefix).unwrap();
            let expected = Location::Bucket {
                service,
                bucket,
                prefix,
            };
            assert_eq!(at(text), expected, "{text}");
        }
    }

    /// Promise: what is no location is refused with its reason, and no password is repeated.
    #[test]
    fn refused() {
        for (bad, reason) in [
            ("", "empty"),
            ("ftp://x", "not a kind of store"),
            ("https://s3.example.org/bucket", "AWS_ENDPOINT_URL"),
            ("s3a://b/x", "write s3://b/x"),
            ("abfss://c@account/x", "az://"),
            ("memory://x", "no name"),
            ("file://host/a", "absolute"),
            ("file:///a%2", "hexadecimal"),
            ("file:///a%+1", "hexadecimal"),
            ("file:///%ff", "UTF-8"),
            ("s3://", "name of a bucket"),
            ("s3:///x", "name of a bucket"),
            ("s3://a b/x", "name of a bucket"),
            ("s3://b/x//y", "cannot begin a key"),
            ("s3://b/../y", "cannot begin a key"),
            ("s3://b/x?region=eu", "variables"),
            ("s3://key:secret@b/x", "variables"),
        ] {
            let text = Location::parse(bad).unwrap_err().to_string();
            assert!(text.contains(reason), "{bad}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
