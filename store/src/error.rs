//! What can go wrong in the store, by what the caller should do next.
//!
//! Few kinds, so that a command line maps each to one exit code; every message names the thing it is about and
//! the next command to type.

use std::io;

use tpde_core::CodecError;

/// The cause of a failed request, as the backend gave it.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The thing does not exist: name another one, or make it first.
    #[error("{what} was not found. {hint}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What to type next.
        hint: String,
    },
    /// Stored bytes failed a check: the same object will not get better.
    #[error("{object} is damaged: {detail}. {hint}")]
    Corrupt {
        /// Key of the object, or the structure inside it.
        object: String,
        /// Expected and found, in words.
        detail: String,
        /// What to type next.
        hint: String,
    },
    /// The store holds something that contradicts the request: decide, then ask again.
    #[error("conflict: {detail}. {hint}")]
    Conflict {
        /// What is there and what was asked for.
        detail: String,
        /// What to type next.
        hint: String,
    },
    /// Written by a newer tpde: upgrade. Nothing was changed.
    #[error(
        "{what} needs another version of tpde: {detail}. Upgrade tpde, or use the version that wrote it; nothing was changed"
    )]
    Newer {
        /// The store or object.
        what: String,
        /// Found and known.
        detail: String,
    },
    /// The request may or may not have taken effect: run the command in the hint to learn which.
    #[error("outcome unknown: {detail}. {hint}")]
    OutcomeUnknown {
        /// What was tried and what came back.
        detail: String,
        /// The command that tells.
        hint: String,
    },
    /// What the user typed or pointed at cannot be used: correct it.
    #[error("{what}: {detail}. {hint}")]
    Input {
        /// The argument or path.
        what: String,
        /// What is wrong with it.
        detail: String,
        /// What to type instead.
        hint: String,
    },
    /// The disk or server failed: mend it and run the same command again; whatever is stored stays stored.
    #[error("cannot {action} {key}: {source}. {hint}")]
    Backend {
        /// The verb: get, put, create, list.
        action: &'static str,
        /// The object's key, or the prefix that was listed.
        key: String,
        /// What the backend said.
        #[source]
        source: Source,
        /// What to do next.
        hint: String,
    },
    /// Whoever waited wants it to stop: nothing is unfinished, and the same command may be run again.
    #[error("interrupted; {detail}")]
    Interrupted {
        /// What was done before.
        detail: String,
    },
    /// A frame could not be encoded or decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What an operating system's error means, without its number.
pub(crate) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Detail of an object whose bytes changed where only a digest tells.
const NOT_WHAT_WAS_SAVED: &str = "its stored bytes do not decode to what was saved";

/// Hint for an object that failed its check.
const DAMAGED_HINT: &str = "Run `tpde verify` to see which checkpoints are affected, and restore this object from a copy of the store";
/// What to do about a damaged record of a run.
const DAMAGED_RECORD_HINT: &str =
    "Run `tpde repair slots`: what other records tell of is written anew, and what is lost is listed";
/// What to do about a damaged pack.
const DAMAGED_PACK_HINT: &str = "Run `tpde verify` to see which checkpoints are affected, and `tpde repair packs` to save what can be saved; or restore this object from a copy of the store";

/// Whether an object can be written anew from what others tell.
pub(crate) fn is_record_of_a_run(object: &str) -> bool {
    object.starts_with("runs/") || object.starts_with("rollups/")
}

/// What to do about a damaged object.
fn damaged_hint(object: &str) -> &'static str {
    if is_record_of_a_run(object) {
        DAMAGED_RECORD_HINT
    } else if object.contains("packs/") {
        DAMAGED_PACK_HINT
    } else {
        DAMAGED_HINT
    }
}

impl StoreError {
    /// `NotFound`.
    pub(crate) fn not_found(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::NotFound {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// `Corrupt` with the usual hint.
    pub(crate) fn corrupt(object: impl Into<String>, detail: impl Into<String>) -> Self {
        let object = object.into();
        Self::Corrupt {
            detail: detail.into(),
            hint: damaged_hint(&object).to_owned(),
            object,
        }
    }

    /// `Conflict`.
    pub(crate) fn conflict(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Conflict {
            detail: detail.into(),
            hint: hint.into(),
        }
    }

    /// `Input`.
    pub(crate) fn input(what: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input {
            what: what.into(),
            detail: detail.into(),
            hint: hint.into(),
        }
    }

    /// `Interrupted`.
    pub(crate) fn interrupted(detail: impl Into<String>) -> Self {
        Self::Interrupted {
            detail: detail.into(),
        }
    }

    /// What decoding the stored `object` said: too new, or damaged.
    pub(crate) fn decoding(object: impl Into<String>, error: CodecError) -> Self {
        match error {
            CodecError::Unsupported { what, found, known } => Self::Newer {
                what: object.into(),
                detail: format!("{what} {found}, this build knows {known}"),
            },
            CodecError::WrongTensor { .. } => Self::corrupt(object, NOT_WHAT_WAS_SAVED),
            CodecError::Corrupt { what, detail } if what.ends_with("digest") => {
                tracing::debug!("{what}: {detail}");
                Self::corrupt(object, NOT_WHAT_WAS_SAVED)
            }
            other => Self::corrupt(object, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a newer object asks for an upgrade, and a broken one is never called new.
    #[test]
    fn decoding_errors_are_told_apart() {
        let newer = CodecError::Unsupported {
            what: "slot format",
            found: 3,
            known: 0,
        };
        let text = StoreError::decoding("runs/a/1", newer).to_string();
        assert!(
            text.contains("runs/a/1") && text.contains("Upgrade tpde"),
            "{text}"
        );
        let broken = CodecError::Corrupt {
            what: "slot",
            detail: "bad sum".to_owned(),
        };
        let digest = CodecError::Corrupt {
            what: "group digest",
            detail: "tiles 0.. decoded to other bytes".to_owned(),
        };
        let text = StoreError::decoding("tensor ab", digest).to_string();
        assert!(
            !text.contains("group") && text.contains("what was saved"),
            "{text}"
        );
        let error = StoreError::decoding("runs/a/1", broken);
        assert!(matches!(error, StoreError::Corrupt { .. }));
        assert!(error.to_string().contains("tpde repair slots"));
        let pack = StoreError::corrupt("tensor ab in packs/ab/abcd.pack", "flipped");
        assert!(pack.to_string().contains("tpde repair packs"));
    }
}
