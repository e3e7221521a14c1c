//! Repair: what can be saved of a damaged store, and a list of what cannot.
//!
//! | what | from what it is mended |
//! |---|---|
//! | the index of this machine | the footers of all packs |
//! | packs | contents that still decode, out of damaged packs into new ones |
//! | slots and rollups | what other slots and rollups tell of the same records, and manifests that no record names |
//!
//! Nothing is invented: a record that cannot be told from others is lost, and listed.

mod packs;
mod slots;

use crate::error::Result;
use crate::ids::PackId;
use crate::store::Store;

pub use packs::{LostCheckpoint, RepairedPacks};
pub use slots::{LostRecord, RepairedRun};

impl Store {
    /// Builds this machine's index of the store anew. Returns the packs that it knows, and those that cannot be read.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub fn repair_index(&self) -> Result<(u64, Vec<PackId>)> {
        self.catalog.refresh(self.objects())?;
        let (packs, _) = crate::gc::list_all(self.objects())?;
        let mut unreadable = Vec::new();
        for &pack in packs.keys() {
            if self.catalog.contents_of(self.objects(), pack)?.is_empty() {
                unreadable.push(pack);
            }
        }
        Ok(((packs.len() - unreadable.len()) as u64, unreadable))
    }
}

#[cfg(test)]
mod tests;
