//! What a backend's error means for the caller: was the write surely not done, or is that unknown?

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, ErrorKind};

use object_store::Error;

use crate::error::{StoreError, in_words};
use crate::keys::Key;

/// Whether a failed write may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It did not.
    Definite,
    /// It may have: a timeout, a lost response, a server's own failure.
    Unknown,
}

impl Doubt {
    /// Judges `error`. Whatever is not known to be definite is unknown.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::NotFound { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. } => Self::Definite,
            other if io_cause(other).is_some_and(|e| refuses(e.kind())) => Self::Definite,
            _ => Self::Unknown,
        }
    }
}

/// Failures of a disk that come before the object is linked under its name.
fn refuses(kind: ErrorKind) -> bool {
    is_full(kind)
        || matches!(
            kind,
            ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::NotFound
                | ErrorKind::InvalidFilename
                | ErrorKind::Unsupported
        )
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// The I/O error somewhere below `error`.
fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut cause: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// The error of this crate for a failed `action` on `key`.
pub(super) fn describe(location: &str, action: &'static str, key: &dyn Display, error: Error) -> StoreError {
    if matches!(error, Error::NotFound { .. }) {
        return StoreError::not_found(
            format!("{key} in {location}"),
            "Run `tpde verify` to see what is missing, or `tpde log` to see what there is",
        );
    }
    let hint = match (&error, io_cause(&error).map(io::Error::kind)) {
        (_, Some(kind)) if is_full(kind) => "Free some space and run the command again: nothing was lost",
        (_, Some(ErrorKind::ReadOnlyFilesystem)) => {
            "The file system is read-only: mount it writable and run the command again"
        }
        (Error::PermissionDenied { .. }, _) | (_, Some(ErrorKind::PermissionDenied)) => {
            "Check who may read and write the store, then run the command again"
        }
        (Error::Unauthenticated { .. }, _) => "Check the credentials, then run the command again",
        (Error::NotSupported { .. } | Error::NotImplemented { .. }, _) => {
            "This backend cannot do what a store needs; keep the store elsewhere"
        }
        _ => "Run the command again; what is stored stays stored",
    };
    let shown = match Key::parse(&key.to_string()) {
        // The digits of a record say nothing to a person.
        Some(Key::Tag(name, _)) => format!("tag {name}"),
        _ => key.to_string(),
    };
    StoreError::Backend {
        action,
        key: format!("{shown} in {location}"),
        source: match io_cause(&error) {
            Some(cause) => in_words(cause).into(),
            None => Box::new(error),
        },
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: ErrorKind) -> Error {
        Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(kind)),
        }
    }

    /// Promise: a full disk is told as one, with the way out, and is not mistaken for a lost response.
    #[test]
    fn a_full_disk_is_definite() {
        let error = generic(ErrorKind::StorageFull);
        assert_eq!(Doubt::of(&error), Doubt::Definite);
        let text = describe("/data", "put", &"packs/ab", error).to_string();
        assert!(
            text.contains("Free some space") && text.contains("packs/ab") && !text.contains("Generic"),
            "{text}"
        );
    }

    /// Promise: a timeout is never taken for a failure.
    #[test]
    fn a_timeout_is_unknown() {
        assert_eq!(Doubt::of(&generic(ErrorKind::TimedOut)), Doubt::Unknown);
        assert_eq!(Doubt::of(&generic(ErrorKind::ConnectionReset)), Doubt::Unknown);
        let opaque = Error::Generic {
            store: "test",
            source: "503".into(),
        };
        assert_eq!(Doubt::of(&opaque), Doubt::Unknown);
    }
}
