//! What a record of a run does to it.

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::metrics::{MAX_METRICS_LEN, Metrics};
use crate::seqs::{MAX_SEQS_LEN, SeqSet};

/// Kinds from here on may be passed over by a reader that does not know them.
const PASSED_OVER_FROM: u8 = 128;

/// Most bytes of what a record says beyond its numbers.
pub(crate) const MAX_DETAILS_LEN: usize = 4096;

const _: () = assert!(MAX_METRICS_LEN <= MAX_DETAILS_LEN && MAX_SEQS_LEN <= MAX_DETAILS_LEN);

const WHAT: &str = "record of a run";

/// What a record does to its run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Adds a checkpoint, of which these numbers are known.
    Commit(Metrics),
    /// Takes commits out of the log. Their contents may be deleted once they have been out for a while.
    Forget(SeqSet),
    /// Puts commits back that were taken out.
    Undo(SeqSet),
    /// Something newer that this build may pass over.
    Other {
        /// Its kind.
        code: u8,
        /// What it says.
        details: Vec<u8>,
    },
}

impl Action {
    /// A commit without metrics.
    pub fn commit() -> Self {
        Self::Commit(Metrics::default())
    }

    /// Whether it adds a checkpoint.
    pub fn is_commit(&self) -> bool {
        matches!(self, Self::Commit(_))
    }

    /// The metrics of a commit.
    pub fn metrics(&self) -> Option<&Metrics> {
        match self {
            Self::Commit(metrics) => Some(metrics),
            _ => None,
        }
    }

    /// The kind's byte on the wire.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Commit(_) => 0,
            Self::Forget(_) => 1,
            Self::Undo(_) => 2,
            Self::Other { code, .. } => *code,
        }
    }

    /// Writes what it says behind a length.
    pub(crate) fn write_details(&self, w: &mut Writer) {
        let mut details = Writer::new();
        match self {
            Self::Commit(metrics) if metrics.is_empty() => {}
            Self::Commit(metrics) => metrics.write(&mut details),
            Self::Forget(seqs) | Self::Undo(seqs) => seqs.write(&mut details),
            Self::Other { details: known, .. } => details.raw(known),
        }
        w.prefixed(&details.into_bytes());
    }

    /// Reads what a record of kind `code` says.
    ///
    /// # Errors
    /// `Unsupported` for a kind that must be understood and is not known; `Corrupt`, `Truncated`.
    pub(crate) fn read_details(code: u8, r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let details = r.prefixed(WHAT)?;
        if details.len() > MAX_DETAILS_LEN {
            return Err(CodecError::Corrupt {
                what: WHAT,
                detail: format!("{} bytes, the limit is {MAX_DETAILS_LEN}", details.len()),
            });
        }
        let mut r = Reader::new(details);
        let action = match code {
            0 if details.is_empty() => Self::commit(),
            0 => Self::Commit(Metrics::read(&mut r)?),
            1 => Self::Forget(SeqSet::read(&mut r)?),
            2 => Self::Undo(SeqSet::read(&mut r)?),
            code if code >= PASSED_OVER_FROM => Self::Other {
                code,
                details: r.take(details.len(), WHAT)?.to_vec(),
            },
            other => {
                return Err(CodecError::Unsupported {
                    what: "kind of record in a run",
                    found: u64::from(other),
                    known: 2,
                });
            }
        };
        r.end(WHAT)?;
        Ok(action)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metrics::tests::any_metrics;
    use crate::seqs::tests::any_seqs;
    use proptest::prelude::*;

    /// Any action, those of later builds included.
    pub(crate) fn any_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            any_metrics().prop_map(Action::Commit),
            any_seqs().prop_map(Action::Forget),
            any_seqs().prop_map(Action::Undo),
            (128u8.., prop::collection::vec(any::<u8>(), 0..9))
                .prop_map(|(code, details)| Action::Other { code, details }),
        ]
    }

    proptest! {
        /// Promise: an action survives the way through bytes.
        #[test]
        fn round_trip(action in any_action()) {
            let mut w = Writer::new();
            action.write_details(&mut w);
            let bytes = w.into_bytes();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(Action::read_details(action.code(), &mut r)?, action);
            r.end("action")?;
        }
    }

    /// Promise: what must be understood is refused if it is not, as newer and not as damage.
    #[test]
    fn a_newer_kind() {
        for code in 3..128 {
            let error = Action::read_details(code, &mut Reader::new(&[1, 7])).unwrap_err();
            assert!(matches!(error, CodecError::Unsupported { .. }), "{code}: {error}");
        }
    }
}
