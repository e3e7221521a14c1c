//! The checksum that ends every small record: 32 bytes of BLAKE3 over everything before it.
//!
//! It is the same in every format version, so damage is told from novelty: a record is read only after its seal
//! holds, and a version byte that was flipped is damage.

use tpde_core::CodecError;

/// Length of the seal, in bytes.
pub(crate) const SEAL_LEN: usize = blake3::OUT_LEN;

/// Appends the seal.
pub(crate) fn seal(mut record: Vec<u8>) -> Vec<u8> {
    let sum = blake3::hash(&record);
    record.extend_from_slice(sum.as_bytes());
    record
}

/// The record without its seal.
///
/// # Errors
/// `Truncated` or `Corrupt`: the bytes are not what was sealed, and will not get better.
pub(crate) fn unseal<'a>(what: &'static str, sealed: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let Some((record, sum)) = sealed.split_last_chunk::<SEAL_LEN>() else {
        return Err(CodecError::Truncated {
            what,
            offset: 0,
            needed: SEAL_LEN,
            left: sealed.len(),
        });
    };
    let found = blake3::hash(record);
    if found == *sum {
        return Ok(record);
    }
    Err(CodecError::Corrupt {
        what,
        detail: format!("{} bytes do not match their checksum", sealed.len()),
    })
}
