//! Distrust: a store as somebody sees it who knows that a checkpoint is damaged.

use crate::error::Result;
use crate::ids::ManifestId;
use crate::keys::Key;
use crate::progress::Progress;
use crate::store::Store;
use crate::verify::{VerifyLevel, VerifyRequest};

impl Store {
    /// The same store for somebody for whom the damaged packs of a checkpoint do not exist: what is saved through it does not lean on
    /// them, and what only they hold is stored again. That mends the checkpoint as well, once the same contents are saved.
    ///
    /// Cost: reads every byte of the packs that the checkpoint needs.
    ///
    /// # Errors
    /// `Backend` if they cannot be asked for.
    pub fn distrusting(&self, id: ManifestId, progress: &dyn Progress) -> Result<Self> {
        let request = VerifyRequest {
            level: VerifyLevel::ReadData,
            only: Some(id),
        };
        let report = self.verify(&request, progress)?;
        let damaged = report
            .problems
            .iter()
            .filter_map(|problem| match Key::parse(&problem.object) {
                Some(Key::Pack(pack)) => Some(pack),
                _ => None,
            });
        Ok(self.without(damaged))
    }
}
