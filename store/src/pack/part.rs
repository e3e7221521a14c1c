//! How content is looked up: the first half of its id, and which part of it is meant.

use tpde_core::{Dtype, ID_LEN, Relation};

/// Hash of some content, tensor or blob: what entries are looked up by.
pub type ContentHash = [u8; ID_LEN];

/// Bytes of an id that name what an entry reads: whatever is found by them is proved by digests.
pub const PREFIX_LEN: usize = 16;

/// The first bytes of an id.
pub type ContentPrefix = [u8; PREFIX_LEN];

/// The first [`PREFIX_LEN`] bytes of an id.
pub fn prefix_of(id: &ContentHash) -> ContentPrefix {
    let mut prefix = [0; PREFIX_LEN];
    prefix.copy_from_slice(&id[..PREFIX_LEN]);
    prefix
}

/// A part of some content that is stored as one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A slice of a tensor. Its element type counts: equal bytes of another are cut and coded otherwise.
    Slice {
        /// Element type.
        dtype: Dtype,
        /// Which slice, from 0.
        number: u32,
    },
    /// A blob.
    Blob,
}

/// Bytes of a part in a key of the index.
pub(crate) const PART_LEN: usize = 5;

impl Part {
    /// The part of a given tensor that belongs to this part of the tensor that it is given for.
    pub(crate) fn given(self, relation: Relation) -> Self {
        match self {
            Self::Slice { dtype, number } => Self::Slice {
                dtype: relation.given_dtype(dtype),
                number,
            },
            Self::Blob => self,
        }
    }

    /// The part as the index files it.
    pub(crate) fn key(self) -> [u8; PART_LEN] {
        let (code, number) = match self {
            Self::Slice { dtype, number } => (dtype.code(), number),
            Self::Blob => (u8::MAX, 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [code, a, b, c, d]
    }
}
