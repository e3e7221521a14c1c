//! How a command ends: its exit code, and what it says when it fails.

use std::io;

use serde::Serialize;
use tpde_core::CodecError;
use tpde_store::StoreError;

use crate::text::escape;
use crate::text::style::{Style, Tone};

/// What a shell script can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It is done.
    Done = 0,
    /// Something outside tpde failed: a file, the disk, the server.
    Failed = 1,
    /// What was typed cannot be used.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// Stored bytes are damaged.
    Corrupt = 4,
    /// The store holds something else than the command assumed.
    Conflict = 5,
    /// A signal ended it.
    Interrupted = 130,
}

/// The codes, as `--help` prints them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: a file (one that a restore would write over, too), the disk or the server is in the way
  2  usage: what was typed cannot be used
  3  not found: no such store, run, checkpoint, tag or file
  4  corrupt: stored bytes are damaged, or `verify` found problems
  5  conflict: the store holds something else than the command assumed
  130  interrupted: by Ctrl-C, or by a request to end";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Correct what was typed.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// There is no such thing.
    #[error("{message}")]
    NotFound { message: String, hint: String },
    /// The store says why.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// A failure, ready to be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

/// The envelope on standard error.
#[derive(Serialize)]
struct Envelope<'r> {
    error: &'r Report,
}

impl Report {
    pub(crate) fn new(exit: Exit, kind: &'static str, message: String, hint: Option<String>) -> Self {
        Self {
            kind,
            message,
            hint,
            exit,
        }
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it; empty if there is nothing to add.
    pub(crate) fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or_default()
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> String {
        let text = serde_json::to_string(&Envelope { error: self });
        escape::json(&text.unwrap_or_default()).into_owned()
    }

    /// `error: …`, and the way out below it.
    pub(crate) fn human(&self, style: Style) -> String {
        let mut text = format!(
            "{} {}",
            style.paint(Tone::Bad, "error:"),
            escape::plain(&self.message)
        );
        if let Some(hint) = &self.hint {
            text.push_str(&format!(
                "\n {} {}",
                style.paint(Tone::Name, "hint:"),
                escape::plain(hint)
            ));
        }
        text
    }
}

impl From<&Failure> for Report {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Usage { message, hint } => {
                Self::new(Exit::Usage, "usage", message.clone(), Some(hint.clone()))
            }
            Failure::NotFound { message, hint } => {
                Self::new(Exit::NotFound, "not_found", message.clone(), Some(hint.clone()))
            }
            Failure::Store(error) => error.into(),
            Failure::Output(_) => Self::new(Exit::Failed, "output", failure.to_string(), None),
        }
    }
}

impl From<&StoreError> for Report {
    fn from(error: &StoreError) -> Self {
        let new = |exit, kind, message, hint: &str| Self::new(exit, kind, message, Some(hint.to_owned()));
        match error {
            StoreError::NotFound { what, hint } => {
                new(Exit::NotFound, "not_found", format!("{what} was not found"), hint)
            }
            StoreError::Corrupt { object, detail, hint } => new(
                Exit::Corrupt,
                "corrupt",
                format!("{object} is damaged: {detail}"),
                hint,
            ),
            StoreError::Conflict { detail, hint } => new(Exit::Conflict, "conflict", detail.clone(), hint),
            StoreError::Newer { what, detail } => new(
                Exit::Failed,
                "newer",
                format!("{what} needs another version of tpde: {detail}"),
                "Upgrade tpde, or use the version that wrote it; nothing was changed",
            ),
            StoreError::OutcomeUnknown { detail, hint } => new(
                Exit::Failed,
                "outcome_unknown",
                format!("outcome unknown: {detail}"),
                hint,
            ),
            StoreError::Input { what, detail, hint } => {
                new(Exit::Failed, "input", format!("{what}: {detail}"), hint)
            }
            StoreError::Backend {
                action,
                key,
                source,
                hint,
            } => new(
                Exit::Failed,
                "backend",
                format!("cannot {action} {key}: {source}"),
                hint,
            ),
            StoreError::Interrupted { detail } => Self::new(
                Exit::Interrupted,
                "interrupted",
                format!("interrupted; {detail}"),
                None,
            ),
            StoreError::Codec(codec) => {
                let (exit, kind) = match codec {
                    CodecError::Unsupported { .. } => (Exit::Failed, "newer"),
                    CodecError::Invalid { .. } => (Exit::Failed, "internal"),
                    _ => (Exit::Corrupt, "corrupt"),
                };
                Self::new(exit, kind, codec.to_string(), None)
            }
            other => Self::new(Exit::Failed, "failed", other.to_string(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a failure is shown whole, its way out on a line of its own, and a stranger's name cannot act.
    #[test]
    fn shown_with_its_hint() {
        let report = Report::from(&StoreError::NotFound {
            what: "run a\x1b[2J".to_owned(),
            hint: "There are: b".to_owned(),
        });
        assert_eq!(
            report.human(Style::PLAIN),
            "error: run a\\u{1b}[2J was not found\n hint: There are: b"
        );
        assert_eq!(report.exit(), Exit::NotFound);
        assert_eq!(
            report.json(),
            r#"{"error":{"kind":"not_found","message":"run a\u001b[2J was not found","hint":"There are: b"}}"#
        );
    }

    /// Promise: the codes in `--help` are the codes there are.
    #[test]
    fn codes_are_documented() {
        let all = [
            (Exit::Done, "done"),
            (Exit::Failed, "failed"),
            (Exit::Usage, "usage"),
            (Exit::NotFound, "not found"),
            (Exit::Corrupt, "corrupt"),
            (Exit::Conflict, "conflict"),
            (Exit::Interrupted, "interrupted"),
        ];
        for (exit, word) in all {
            assert!(
                EXIT_CODES.contains(&format!("\n  {}  {word}", exit as u8)),
                "{word}"
            );
        }
    }
}
