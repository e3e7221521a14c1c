//! A row as bytes: `32 pack · u32 frame · u8 rank · u8 has base · [32 base] · 16 checksum`.
//!
//! The checksum covers the key too, so a row that turns up under another key is damage.

use tpde_core::CodecError;
use tpde_core::TensorId;
use tpde_core::wire::{Reader, Writer};

use super::{ContentKey, Row};
use crate::ids::PackId;

/// Length of a checksum in the cache, in bytes.
pub(super) const SUM_LEN: usize = 16;

/// Name of the structure in messages.
const WHAT: &str = "index row";

/// The checksum of a `value` under `key`.
pub(super) fn sum(key: &ContentKey, value: &[u8]) -> [u8; SUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(value);
    let mut sum = [0; SUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// The bytes to keep under `key`.
pub(super) fn encode(key: &ContentKey, row: &Row) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(row.pack.as_bytes());
    w.u32(row.frame);
    w.u8(row.rank);
    w.u8(u8::from(row.base.is_some()));
    if let Some(base) = &row.base {
        w.raw(base.as_bytes());
    }
    let mut bytes = w.into_bytes();
    bytes.extend_from_slice(&sum(key, &bytes));
    bytes
}

/// Inverse of [`encode`]; `None` if the bytes are not what was kept under `key`.
pub(super) fn decode(key: &ContentKey, bytes: &[u8]) -> Option<Row> {
    let (value, found) = bytes.split_last_chunk::<SUM_LEN>()?;
    if sum(key, value) != *found {
        return None;
    }
    parse(value).ok()
}

fn parse(value: &[u8]) -> Result<Row, CodecError> {
    let mut r = Reader::new(value);
    let pack = PackId::from_bytes(r.array(WHAT)?);
    let (frame, rank) = (r.u32(WHAT)?, r.u8(WHAT)?);
    let base = match r.u8(WHAT)? {
        0 => None,
        _ => Some(TensorId::from_bytes(r.array(WHAT)?)),
    };
    r.end(WHAT)?;
    Ok(Row {
        pack,
        frame,
        base,
        rank,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: a row survives the way through bytes, under its own key and undamaged only.
        #[test]
        fn round_trip(
            key: ContentKey, pack: [u8; 32], frame: u32, rank: u8, base: Option<[u8; 32]>,
            at in any::<prop::sample::Index>(), bit in 0u8..8
        ) {
            let row = Row { pack: PackId::from_bytes(pack), frame, base: base.map(TensorId::from_bytes), rank };
            let bytes = encode(&key, &row);
            prop_assert_eq!(decode(&key, &bytes), Some(row));
            let mut other = key;
            other[at.index(32)] ^= 1 << bit;
            prop_assert_eq!(decode(&other, &bytes), None);
            let at = at.index(bytes.len());
            prop_assert_eq!(decode(&key, &bytes[..at]), None);
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(decode(&key, &flipped), None);
        }
    }
}
