//! Makes sure that what a record is about to name is there for good.

use super::Lease;
use crate::catalog::Sight;
use crate::error::{Result, StoreError};
use crate::ids::ManifestId;
use crate::keys::Key;
use crate::reach::{Reach, contents};
use crate::salvage::Salvage;

/// Times that packs may vanish while they are looked for.
const MAX_LOOKS: u32 = 3;

impl Lease {
    /// Makes sure that a checkpoint and all it is restored from is there, in no mark: what only marked packs hold is read from them,
    /// verified, and stored again. Whether it is; `false` if something of it is gone or about to go.
    ///
    /// # Errors
    /// `Newer`, `Backend`: as for every read and write.
    pub(crate) fn secure(&self, id: ManifestId) -> Result<bool> {
        if self.is_marked(id) {
            return Ok(false);
        }
        let store = self.store();
        let Some(manifest) = store.readable_manifest(id)? else {
            return Ok(false);
        };
        store.objects().settle(&Key::Manifest(id))?;
        for _ in 0..MAX_LOOKS {
            let mut reach = Reach::default();
            match store.reach(&manifest, &mut reach) {
                Ok(()) if store.all_there(&reach.packs)? => return Ok(true),
                Ok(()) => {}
                Err(StoreError::Corrupt { .. }) if !self.sees_everything() => {
                    let everything = store.seeing(Sight::default());
                    let mut salvage = Salvage::new(store, self.id());
                    for (id, part, hints) in contents(&manifest) {
                        match salvage.add(&everything, id, part, &hints) {
                            Ok(()) => {}
                            Err(StoreError::Corrupt { .. }) => return Ok(false),
                            Err(error) => return Err(error),
                        }
                    }
                    salvage.finish()?;
                }
                Err(StoreError::Corrupt { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
