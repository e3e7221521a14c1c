//! Parts of checkpoints, committed long ago or never.
//!
//! A part keeps nothing from being deleted: when it is as old as the grace, so are the packs that it names. Without it a commit says that
//! the part is not there, and nothing is lost that could still be had.

use super::{GcRequest, millis};
use crate::error::Result;
use crate::keys::{Key, Prefix};
use crate::store::Store;

impl Store {
    /// Parts that are older than the grace.
    ///
    /// # Errors
    /// `Backend`: as for every listing.
    pub(super) fn stale_parts(&self, request: &GcRequest, now_unix_ms: u64) -> Result<Vec<Key>> {
        let listed = self.objects().list(&Prefix::AllParts)?.into_iter();
        let stale = listed.filter(|part| {
            matches!(part.key, Key::Part(..))
                && part.modified_unix_ms.saturating_add(millis(request.grace)) <= now_unix_ms
        });
        Ok(stale.map(|part| part.key).collect())
    }

    /// Deletes them; gives their number.
    ///
    /// # Errors
    /// As [`Store::stale_parts`].
    pub(super) fn delete_stale_parts(&self, request: &GcRequest, now_unix_ms: u64) -> Result<u64> {
        let stale = self.stale_parts(request, now_unix_ms)?;
        let unanswered = self.delete_all(&stale);
        let mut folders: Vec<Prefix> = Vec::new();
        for key in &stale {
            if let Key::Part(id, _) = key
                && !folders.contains(&Prefix::Parts(*id))
            {
                folders.push(Prefix::Parts(*id));
            }
        }
        if !folders.is_empty() {
            folders.push(Prefix::AllParts);
            self.objects().remove_empty_folders(&folders);
        }
        Ok(stale.len() as u64 - unanswered)
    }
}
