//! What a lease says: who holds it, for people who wait for it.
//!
//! ```text
//! u8 format · 16 id · varint renewal · text host · varint process · text work · varint time · 32 seal
//! ```
//! Nothing is decided by what it says; its name and the server's own time of it are what counts.

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::ids::LeaseId;
use crate::seal::{seal, unseal};

const FORMAT: u8 = 1;
const WHAT: &str = "lease";

/// One renewal of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: LeaseId,
    pub(super) renewal: u64,
    pub(super) host: String,
    pub(super) process: u64,
    /// What the holder is at, for instance `save llama@600`.
    pub(super) work: String,
    pub(super) created_unix_ms: u64,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.raw(self.id.as_bytes());
        w.varint(self.renewal);
        w.prefixed(self.host.as_bytes());
        w.varint(self.process);
        w.prefixed(self.work.as_bytes());
        w.varint(self.created_unix_ms);
        seal(w.into_bytes())
    }

    pub(super) fn decode(sealed: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(CodecError::Unsupported {
                what: "lease format",
                found: format.into(),
                known: FORMAT.into(),
            });
        }
        let record = Self {
            id: LeaseId::from_bytes(r.array(WHAT)?),
            renewal: r.varint(WHAT)?,
            host: r.text(WHAT)?.to_owned(),
            process: r.varint(WHAT)?,
            work: r.text(WHAT)?.to_owned(),
            created_unix_ms: r.varint(WHAT)?,
        };
        r.end(WHAT)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: a lease survives the way through bytes; no cut and no flip of it is read.
        #[test]
        fn round_trip_and_damage(
            words in ("[ -~]{0,20}", "[ -~]{0,20}"), numbers: (u64, u64, u64), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let record = Record {
                id: LeaseId::from_bytes([3; 16]),
                renewal: numbers.0,
                host: words.0,
                process: numbers.1,
                work: words.1,
                created_unix_ms: numbers.2,
            };
            let bytes = record.encode();
            prop_assert_eq!(&Record::decode(&bytes)?, &record);
            let at = at.index(bytes.len());
            prop_assert!(Record::decode(&bytes[..at]).is_err());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(Record::decode(&flipped).is_err());
        }
    }
}
