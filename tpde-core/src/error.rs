//! What can go wrong in the codec, by what the caller should do next.

use crate::id::TensorId;

/// Why a frame could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end before the structure does: fetch the rest and call again.
    #[error("truncated: {what} needs {needed} bytes at offset {offset}, {left} are left")]
    Truncated {
        /// The structure that was being read.
        what: &'static str,
        /// Where in the input it starts, in bytes.
        offset: usize,
        /// How many bytes it needs.
        needed: usize,
        /// How many bytes there are.
        left: usize,
    },
    /// A digest, range or consistency check failed: the same bytes will not get better.
    #[error("corrupt: {what} ({detail})")]
    Corrupt {
        /// The structure that failed its check.
        what: &'static str,
        /// Expected and found, in words.
        detail: String,
    },
    /// Written by a newer format: upgrade the reader.
    #[error("unsupported: {what} {found}; this build reads up to {known}. Upgrade tpde")]
    Unsupported {
        /// What is too new (version, flag, dtype).
        what: &'static str,
        /// The value found.
        found: u64,
        /// The highest value that this build knows.
        known: u64,
    },
    /// The base given is not the tensor that the frame was taken against.
    #[error("base mismatch: {detail}")]
    BaseMismatch {
        /// Which base was needed and which was given.
        detail: String,
    },
    /// The arguments do not fit each other (lengths, dtype): a bug in the caller.
    #[error("invalid argument: {detail}")]
    Invalid {
        /// Which argument, expected and found.
        detail: String,
    },
    /// Everything decoded, but to another tensor than the one named.
    #[error("corrupt: decoded to tensor {found}, expected {expected}")]
    WrongTensor {
        /// The id that was asked for.
        expected: TensorId,
        /// The id of the bytes that came out.
        found: TensorId,
    },
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, CodecError>;

/// A failed consistency check of `what`.
pub(crate) fn corrupt(what: &'static str, detail: impl Into<String>) -> CodecError {
    CodecError::Corrupt {
        what,
        detail: detail.into(),
    }
}
