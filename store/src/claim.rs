//! Claiming a name: a conditional create whose lost answer is looked up, never guessed.
//!
//! The record carries a nonce. If the name turns out to be taken by a record with *our* nonce, then the create
//! whose answer was lost had taken effect.

use bytes::Bytes;

use crate::error::{Result, StoreError};
use crate::keys::Key;
use crate::objects::{Created, Objects};

/// Whose record stands under the name.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Ours.
    Ours,
    /// Another writer's: these bytes.
    Taken(Bytes),
}

/// Creates `key` with `record`, or finds out who did.
///
/// The same name and the same bytes are tried again after a lost answer, a few times, so a request that arrives late can only
/// repeat what was asked for.
///
/// * `is_ours`: whether stored bytes carry the nonce of `record`.
/// * `hint`: the command that tells, if the answer stays lost.
///
/// # Errors
/// * `OutcomeUnknown`: no answer said whether the record was written.
/// * `Backend`: it surely was not.
/// * whatever `is_ours` returns.
pub(crate) fn claim(
    objects: &Objects,
    key: &Key,
    record: &Bytes,
    hint: &str,
    is_ours: impl Fn(&Bytes) -> Result<bool>,
) -> Result<Claim> {
    let owner = |found: Bytes| {
        Ok(match is_ours(&found)? {
            true => Claim::Ours,
            false => Claim::Taken(found),
        })
    };
    let mut lost = String::new();
    let mut pace = objects.pace();
    loop {
        match objects.create(key, record.clone()) {
            Ok(Created::New) => return Ok(Claim::Ours),
            Ok(Created::AlreadyExists) => match objects.get(key) {
                Ok(found) => return owner(found),
                // Some servers answer "conflict" while a racing create is still undecided.
                Err(error) => lost = format!("{key} exists, and cannot be read back: {error}"),
            },
            Err(StoreError::OutcomeUnknown { detail, .. }) => lost = detail,
            // A disk may refuse to sync a folder after the file is linked in it: look before believing.
            Err(error) if lost.is_empty() => match objects.head(key) {
                Ok(Some(_)) => lost = error.to_string(),
                _ => return Err(error),
            },
            Err(error) => {
                lost = format!("{lost}; then {error}");
                break;
            }
        }
        if !pace.again() {
            break;
        }
    }
    match objects.settle(key).and_then(|()| objects.get(key)) {
        Ok(found) => owner(found),
        Err(_) => Err(StoreError::OutcomeUnknown {
            detail: lost,
            hint: hint.to_owned(),
        }),
    }
}
