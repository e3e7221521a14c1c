//! Marks: what a gc is about to delete (docs/adr/0012).
//!
//! ```text
//! u8 format · 16 id · varint time · varint n, n × 32 packs · varint n, n × 32 manifests · 32 seal
//! ```
//! Whoever reads a mark before it relies on anything must do without what the mark lists. A mark is written once, by the gc that drew its
//! id, and deleted when nothing of it can be deleted any more.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use rayon::prelude::*;
use tpde_core::wire::{Reader, Writer};
use tpde_core::{CodecError, ID_LEN};

use crate::error::{Result, StoreError};
use crate::ids::{ManifestId, MarkId, PackId};
use crate::keys::{Key, Prefix};
use crate::objects::Objects;
use crate::seal::{seal, unseal};

const FORMAT: u8 = 1;
const WHAT: &str = "mark";
/// Most packs, and most manifests, that one mark lists; what is left over is for the next gc.
pub(crate) const MAX_MARKED: usize = 1 << 20;

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) id: MarkId,
    /// When it was written, in milliseconds since 1970, by the gc's clock: for people.
    pub(crate) created_unix_ms: u64,
    pub(crate) packs: BTreeSet<PackId>,
    pub(crate) manifests: BTreeSet<ManifestId>,
}

impl Mark {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.raw(self.id.as_bytes());
        w.varint(self.created_unix_ms);
        w.varint(self.packs.len() as u64);
        self.packs.iter().for_each(|id| w.raw(id.as_bytes()));
        w.varint(self.manifests.len() as u64);
        self.manifests.iter().for_each(|id| w.raw(id.as_bytes()));
        seal(w.into_bytes())
    }

    fn decode(sealed: &[u8]) -> std::result::Result<Self, CodecError> {
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(CodecError::Unsupported {
                what: "mark format",
                found: format.into(),
                known: FORMAT.into(),
            });
        }
        let id = MarkId::from_bytes(r.array(WHAT)?);
        let created_unix_ms = r.varint(WHAT)?;
        let ids = |r: &mut Reader<'_>| -> std::result::Result<Vec<[u8; ID_LEN]>, CodecError> {
            (0..r.size(MAX_MARKED, WHAT)?).map(|_| r.array(WHAT)).collect()
        };
        let packs = ids(&mut r)?.into_iter().map(PackId::from_bytes).collect();
        let manifests = ids(&mut r)?.into_iter().map(ManifestId::from_bytes).collect();
        r.end(WHAT)?;
        Ok(Self {
            id,
            created_unix_ms,
            packs,
            manifests,
        })
    }

    /// Reads one mark; `None` if it is gone.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be told what it lists: then nothing may be relied on. `Newer`, `Backend`.
    pub(crate) fn read(objects: &Objects, id: MarkId) -> Result<Option<Self>> {
        const HINT: &str = "If no `tpde gc` of this store is running anywhere, delete that object: it says what that gc was about to \
                            delete, and nothing else. Until then nothing can be saved safely";
        let key = Key::Mark(id);
        let bytes: Bytes = match objects.get(&key) {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |detail: String| StoreError::Corrupt {
            object: key.to_string(),
            detail,
            hint: HINT.to_owned(),
        };
        match Self::decode(&bytes) {
            Ok(mark) if mark.id == id => Ok(Some(mark)),
            Ok(mark) => Err(damaged(format!("it holds mark {}", mark.id))),
            Err(error @ CodecError::Unsupported { .. }) => Err(StoreError::decoding(key.to_string(), error)),
            Err(error) => Err(damaged(error.to_string())),
        }
    }
}

/// All marks there are, but one.
///
/// One listing, and one read a mark.
///
/// # Errors
/// As [`Mark::read`].
pub(crate) fn all(objects: &Objects, but: Option<MarkId>) -> Result<Vec<Mark>> {
    let ids: Vec<MarkId> = objects
        .list(&Prefix::Marks)?
        .into_iter()
        .filter_map(|listed| match listed.key {
            Key::Mark(id) if Some(id) != but => Some(id),
            _ => None,
        })
        .collect();
    let read: Vec<Option<Mark>> = ids
        .par_iter()
        .map(|&id| Mark::read(objects, id))
        .collect::<Result<_>>()?;
    Ok(read.into_iter().flatten().collect())
}

/// What some marks list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marked {
    pub(crate) packs: HashSet<PackId>,
    pub(crate) manifests: HashSet<ManifestId>,
}

impl Marked {
    pub(crate) fn by(marks: &[Mark]) -> Self {
        Self {
            packs: marks.iter().flat_map(|mark| &mark.packs).copied().collect(),
            manifests: marks.iter().flat_map(|mark| &mark.manifests).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_mark() -> impl Strategy<Value = Mark> {
        let ids = || prop::collection::btree_set(any::<[u8; 32]>(), 0..4);
        (any::<[u8; 16]>(), any::<u64>(), ids(), ids()).prop_map(|(id, created_unix_ms, packs, manifests)| {
            Mark {
                id: MarkId::from_bytes(id),
                created_unix_ms,
                packs: packs.into_iter().map(PackId::from_bytes).collect(),
                manifests: manifests.into_iter().map(ManifestId::from_bytes).collect(),
            }
        })
    }

    proptest! {
        /// Promise: a mark survives the way through bytes; no cut and no flip of it is read.
        #[test]
        fn round_trip_and_damage(mark in any_mark(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let bytes = mark.encode();
            prop_assert_eq!(&Mark::decode(&bytes)?, &mark);
            let at = at.index(bytes.len());
            prop_assert!(Mark::decode(&bytes[..at]).is_err());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(Mark::decode(&flipped).is_err());
        }
    }

    /// Promise: a mark that cannot be read stops whoever would rely on something, and says what to do.
    #[test]
    fn damage_is_not_passed_over() {
        let objects = Objects::memory();
        let id = MarkId::from_bytes([7; 16]);
        objects
            .create(&Key::Mark(id), Bytes::from_static(b"no mark"))
            .unwrap();
        let error = all(&objects, None).unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { hint, .. } if hint.contains("delete that object")),
            "{error}"
        );
        assert!(all(&objects, Some(id)).unwrap().is_empty());
    }
}
