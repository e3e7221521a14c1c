//! A row as bytes: `32 pack · 16 checksum`.
//!
//! The checksum covers the key too, so a row that turns up under another key is damage.

use tpde_core::ID_LEN;

use super::ContentKey;
use crate::ids::PackId;

/// Length of a checksum in the cache, in bytes.
pub(super) const SUM_LEN: usize = 16;

/// The checksum of a `value` under `key`.
pub(super) fn sum(key: &[u8], value: &[u8]) -> [u8; SUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(value);
    let mut sum = [0; SUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// The bytes to keep under `key`.
pub(super) fn encode(key: &ContentKey, pack: &PackId) -> Vec<u8> {
    let mut bytes = pack.as_bytes().to_vec();
    bytes.extend_from_slice(&sum(key, pack.as_bytes()));
    bytes
}

/// Inverse of [`encode`]; `None` if the bytes are not what was kept under `key`.
pub(super) fn decode(key: &ContentKey, bytes: &[u8]) -> Option<PackId> {
    let (value, found) = bytes.split_last_chunk::<SUM_LEN>()?;
    let pack: [u8; ID_LEN] = value.try_into().ok()?;
    (sum(key, value) == *found).then(|| PackId::from_bytes(pack))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promise: a row survives the way through bytes, under its own key and undamaged only.
        #[test]
        fn round_trip(key: ContentKey, pack: [u8; 32], at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let pack = PackId::from_bytes(pack);
            let bytes = encode(&key, &pack);
            prop_assert_eq!(decode(&key, &bytes), Some(pack));
            let mut other = key;
            other[at.index(key.len())] ^= 1 << bit;
            prop_assert_eq!(decode(&other, &bytes), None);
            let at = at.index(bytes.len());
            prop_assert_eq!(decode(&key, &bytes[..at]), None);
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(decode(&key, &flipped), None);
        }
    }
}
