//! Names of stored things: by content where there is content, by chance where there is none.

use std::fmt;

use tpde_core::Id;

use crate::error::{Result, StoreError};

/// Kind marker: one stored pack, footer included.
pub enum PackKind {}
/// Name of a pack: BLAKE3 of the stored bytes.
pub type PackId = Id<PackKind>;

/// Kind marker: one stored manifest.
pub enum ManifestKind {}
/// Name of a manifest: BLAKE3 of the stored bytes.
pub type ManifestId = Id<ManifestKind>;

/// Kind marker: the bytes of an opaque file part or of a file header.
pub enum BlobKind {}
/// Identity of an opaque file part: BLAKE3 of its bytes.
pub type BlobId = Id<BlobKind>;

/// Kind marker: one stored slot record.
pub enum SlotKind {}
/// BLAKE3 of a slot's stored bytes: the link from each slot to the one before.
pub type SlotHash = Id<SlotKind>;

/// Kind marker: what a checkpoint consists of (its files, blobs and tensor ids), apart from how it is stored.
pub enum FingerprintKind {}
/// Digest of a checkpoint's content: two commits with one fingerprint restore to the same bytes.
pub type Fingerprint = Id<FingerprintKind>;

/// Length of a random name, in bytes.
pub const TOKEN_LEN: usize = 16;

/// Length of a random name in hexadecimal characters.
const TOKEN_HEX_LEN: usize = 2 * TOKEN_LEN;

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; TOKEN_LEN]);

        impl $name {
            /// Draws a new one from the operating system.
            ///
            /// # Errors
            /// `Backend` if the system has no randomness to give; run the command again.
            pub fn random() -> Result<Self> {
                let mut bytes = [0u8; TOKEN_LEN];
                getrandom::fill(&mut bytes).map_err(|e| StoreError::Backend {
                    action: "draw a random",
                    key: $word.to_owned(),
                    source: Box::new(e),
                    hint: "The operating system's random source failed; run the command again".to_owned(),
                })?;
                Ok(Self(bytes))
            }

            /// Wraps bytes that were drawn before.
            pub const fn from_bytes(bytes: [u8; TOKEN_LEN]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; TOKEN_LEN] {
                &self.0
            }

            /// Reads 32 lower-case hexadecimal characters; anything else is `None`.
            pub fn from_hex(text: &str) -> Option<Self> {
                token_from_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

token!(
    /// Name of one store, drawn at `tpde init`: the key of its cache on this machine.
    StoreId,
    "store id"
);
token!(
    /// Drawn once per attempt to write a slot, so that a lost answer can be told from a lost race.
    Nonce,
    "nonce"
);

token!(
    /// Name of one lease, drawn by the writer that holds it and never used again.
    LeaseId,
    "lease id"
);
token!(
    /// Name of one mark, drawn by the gc that wrote it.
    MarkId,
    "mark id"
);

token!(
    /// Name under which the parts of one save lie, made of its run, its step and a word of the savers.
    PartsId,
    "parts id"
);

fn token_from_hex(text: &str) -> Option<[u8; TOKEN_LEN]> {
    if text.len() != TOKEN_HEX_LEN || !text.bytes().all(is_lower_hex) {
        return None;
    }
    let mut bytes = [0u8; TOKEN_LEN];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Whether `c` can stand in the hexadecimal form of an id.
pub(crate) fn is_lower_hex(c: u8) -> bool {
    matches!(c, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: tokens survive the way through text, nothing else parses, and two draws differ.
    #[test]
    fn tokens_round_trip() -> Result<()> {
        let nonce = Nonce::random()?;
        assert_eq!(Nonce::from_hex(&nonce.to_string()), Some(nonce));
        assert_ne!(nonce, Nonce::random()?);
        for bad in ["", "00", &"G".repeat(32), &"A".repeat(32), &"é".repeat(16)] {
            assert_eq!(StoreId::from_hex(bad), None, "{bad:?}");
        }
        Ok(())
    }
}
