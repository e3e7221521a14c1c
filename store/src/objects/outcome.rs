//! What a backend's error means for the caller: was the write surely not done, or is that unknown?

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, ErrorKind};

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::answer::Answer;
use super::s3::{NO_CREDENTIALS_HINT, NoCredentials};
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
            other if is_undecided(other) => Self::Definite,
            // A connection that was never made carried nothing.
            other if transport(other).is_some_and(|t| t.kind() == HttpErrorKind::Connect) => Self::Definite,
            other if transport(other).is_some() => Self::Unknown,
            other if Answer::of(other).is_some_and(|a| a.refuses()) => Self::Definite,
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
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>())
}

/// Codes of a server that did nothing, because another conditional write of the same name was under way.
const CONTENDED: [&str; 2] = ["ConditionalRequestConflict", "OperationAborted"];

/// Codes for a bucket or container that does not exist.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Whether a create was refused before it was known who wins: nothing was written, and nothing may be there.
pub(super) fn is_undecided(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. }) && Answer::of(error).is_some_and(|a| a.is(&CONTENDED))
}

/// Whether the object does not exist, its bucket being there.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
        && !Answer::of(error).is_some_and(|a| a.is_page || a.is(&NO_BUCKET))
}

/// The error for an answer that is a web page.
pub(super) fn page() -> Error {
    Error::Generic {
        store: "server",
        source: A_PAGE.into(),
    }
}

/// The error for an object that is said to be there whenever it is to be created, and is not.
pub(super) fn absent() -> Error {
    Error::Generic {
        store: "server",
        source: "it is said to be there, and is not".into(),
    }
}

const A_PAGE: &str = "a web page came instead of an object";

/// How far a request over the network came, if that is what failed.
fn transport<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a HttpError> {
    causes(error).find_map(|cause| cause.downcast_ref::<HttpError>())
}

/// An error and all that caused it, the outermost first.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

/// The error of this crate for a failed `action` on `key`.
///
/// * `server`: the address that was asked, if the store is on one.
pub(super) fn describe(
    location: &str,
    server: Option<&str>,
    action: &'static str,
    key: &dyn Display,
    error: Error,
) -> StoreError {
    let answer = Answer::of(&error);
    if answer.as_ref().is_some_and(|a| a.is(&NO_BUCKET)) {
        return StoreError::not_found(
            format!(
                "the bucket of {location} (asked at {})",
                server.unwrap_or("its server")
            ),
            "Correct its name or the endpoint, or make the bucket first: tpde makes none",
        );
    }
    if is_missing(&error) {
        return StoreError::not_found(
            format!("{key} in {location}"),
            "Run `tpde verify` to see what is missing, or `tpde log` to see what there is",
        );
    }
    let shown = match Key::parse(&key.to_string()) {
        // The digits of a record say nothing to a person.
        Some(Key::Tag(name, _)) => format!("tag {name}"),
        _ => key.to_string(),
    };
    let (source, hint) = match server {
        Some(address) => of_server(address, answer.as_ref(), &error),
        None => (
            match io_cause(&error) {
                Some(cause) => in_words(cause),
                None => error.to_string(),
            },
            of_disk(&error),
        ),
    };
    StoreError::Backend {
        action,
        key: match shown.as_str() {
            "" => location.to_owned(),
            _ => format!("{shown} in {location}"),
        },
        source: source.into(),
        hint: hint.to_owned(),
    }
}

/// What to do about a failure of a disk, or of a backend that is not known.
fn of_disk(error: &Error) -> &'static str {
    match (error, io_cause(error).map(io::Error::kind)) {
        (_, Some(kind)) if is_full(kind) => "Free some space and run the command again: nothing was lost",
        (_, Some(ErrorKind::ReadOnlyFilesystem)) => {
            "The file system is read-only: mount it writable and run the command again"
        }
        (Error::PermissionDenied { .. }, _) | (_, Some(ErrorKind::PermissionDenied)) => {
            "Check who may read and write the store, then run the command again"
        }
        (Error::Unauthenticated { .. }, _) => "Check the credentials, then run the command again",
        (Error::NotSupported { .. } | Error::NotImplemented { .. }, _) => LACKING,
        _ => AGAIN,
    }
}

const AGAIN: &str = "Run the command again; what is stored stays stored";
const LACKING: &str = "This backend cannot do what a store needs; keep the store elsewhere";
const ENDPOINT: &str = "Check the endpoint (AWS_ENDPOINT_URL), HTTPS_PROXY and NO_PROXY: something else than a store of objects answers";

/// What a server's failure was, and what to do about it.
fn of_server(address: &str, answer: Option<&Answer>, error: &Error) -> (String, &'static str) {
    if let Some(none) = causes(error).find_map(|cause| cause.downcast_ref::<NoCredentials>()) {
        return (none.to_string(), NO_CREDENTIALS_HINT);
    }
    if let Some(answer) = answer {
        return (format!("{answer} (at {address})"), advice(answer));
    }
    let deepest = || causes(error).last().map_or_else(String::new, ToString::to_string);
    let deepest = io_cause(error).map_or_else(deepest, in_words);
    if let Some(transport) = transport(error) {
        return match transport.kind() {
            HttpErrorKind::Connect => (
                format!("{address} cannot be reached: {deepest}"),
                "Check the endpoint (AWS_ENDPOINT_URL) and the network, then run the command again",
            ),
            HttpErrorKind::Timeout => (format!("{address} does not answer in time: {deepest}"), AGAIN),
            _ => (format!("the connection to {address} failed: {deepest}"), AGAIN),
        };
    }
    let text = error.to_string();
    let is_foreign = [A_PAGE, "invalid list response", "non-partial", "redirect"];
    if text.contains("redirect without LOCATION") {
        (format!("{address} says that the bucket is elsewhere"), REGION)
    } else if is_foreign.iter().any(|word| text.contains(word)) {
        (
            format!("{address} does not answer as a store of objects does: {deepest}"),
            ENDPOINT,
        )
    } else if matches!(error, Error::NotSupported { .. } | Error::NotImplemented { .. }) {
        (text, LACKING)
    } else {
        (format!("{deepest} (at {address})"), AGAIN)
    }
}

const REGION: &str = "Set AWS_REGION to the region of the bucket";

/// What to do about a refusal.
fn advice(answer: &Answer) -> &'static str {
    if answer.is_page {
        return ENDPOINT;
    }
    match answer.code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => {
            "The credentials have expired: renew them, for example with `aws sso login`, and run the command again"
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AuthFailure" | "NotSignedUp" => {
            "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they are for this endpoint"
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => REGION,
        "RequestTimeTooSkewed" => "Set the clock of this machine, and run the command again",
        _ if answer.status.starts_with("403") => {
            "Check that the credentials may get, put and list objects there (without the right to list, what is not there is refused too)"
        }
        _ if answer.status.starts_with("401") => "Check the credentials, then run the command again",
        _ if answer.status.starts_with("501") => LACKING,
        _ if answer.status.starts_with('4') && !answer.is_busy() => {
            "Check the endpoint and the location; the server refuses the request itself"
        }
        _ => AGAIN,
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
        let text = describe("/data", None, "put", &"packs/ab", error).to_string();
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
