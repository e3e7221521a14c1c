//! Names by content: a tensor is what its bytes hash to.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// Length of every id, in bytes.
pub const ID_LEN: usize = 32;

/// The BLAKE3 hash of some object's bytes; `K` says of what kind of object.
///
/// The kind keeps a pack's name from being passed where a manifest's is meant.
pub struct Id<K> {
    bytes: [u8; ID_LEN],
    kind: PhantomData<fn() -> K>,
}

/// Kind marker: the raw bytes of a tensor (dtype and shape live elsewhere).
pub enum TensorKind {}

/// Identity of a tensor's content: plain BLAKE3 of its raw bytes.
///
/// The same weights in a `.pt` and in a `.safetensors` file are one tensor.
pub type TensorId = Id<TensorKind>;

impl<K> Id<K> {
    /// Wraps a hash that is already known.
    pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self {
            bytes,
            kind: PhantomData,
        }
    }

    /// Hashes `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::from_bytes(*blake3::hash(content).as_bytes())
    }

    /// The hash itself.
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.bytes
    }

    /// Lower-case hexadecimal, 64 characters.
    pub fn to_hex(&self) -> String {
        self.bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The first 12 hexadecimal characters: enough for a person.
    pub fn short(&self) -> String {
        let mut hex = self.to_hex();
        hex.truncate(12);
        hex
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// The text is not 64 hexadecimal characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: expected 64 hexadecimal characters")]
pub struct ParseIdError {
    text: String,
}

impl<K> FromStr for Id<K> {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseIdError {
            text: text.to_owned(),
        };
        if text.len() != 2 * ID_LEN || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0u8; ID_LEN];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        // from_str_radix accepts a sign; an id has none.
        if text.contains(['+', '-']) {
            return Err(wrong());
        }
        Ok(Self::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: an id survives the way through text, and nothing else parses as one.
    #[test]
    fn text_round_trip() {
        let id = TensorId::of(b"weights");
        assert_eq!(id.to_hex().parse::<TensorId>(), Ok(id));
        for bad in ["", "ab", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<TensorId>().is_err(), "{bad:?}");
        }
    }
}
