//! When the store was last verified from this machine: a note beside the index, for `doctor`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::now_unix_ms;
use crate::error::{Result, StoreError};
use crate::store::Store;
use crate::verify::VerifyLevel;

/// What the last verify of everything found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerified {
    /// When it ended, in milliseconds since 1970, by this machine's clock.
    pub unix_ms: u64,
    /// How much it read, in words.
    pub level: String,
    /// Problems that it found.
    pub problems: u64,
}

impl Store {
    /// What the last verify of everything from this machine found; `None` if there was none.
    ///
    /// # Errors
    /// `Input` if the note cannot be read; the next verify writes another.
    pub fn last_verified(&self) -> Result<Option<LastVerified>> {
        let Some(path) = self.verified_note() else {
            return Ok(None);
        };
        let unreadable = |detail: String| {
            StoreError::input(
                path.display().to_string(),
                detail,
                "Run `tpde verify`, which writes it anew",
            )
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| unreadable(e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unreadable(e.to_string())),
        }
    }

    /// Notes that everything was verified. It is a convenience, so what goes wrong is only logged.
    pub(crate) fn note_verified(&self, level: VerifyLevel, problems: usize) {
        let Some(path) = self.verified_note() else {
            return;
        };
        let note = LastVerified {
            unix_ms: now_unix_ms(),
            level: match level {
                VerifyLevel::Quick => "quick",
                VerifyLevel::ReadData => "every byte",
                VerifyLevel::Restore => "every tensor decoded",
            }
            .to_owned(),
            problems: problems as u64,
        };
        let written = serde_json::to_vec(&note)
            .map_err(std::io::Error::from)
            .and_then(|bytes| std::fs::create_dir_all(path.parent().unwrap_or(&path)).map(|()| bytes))
            .and_then(|bytes| std::fs::write(&path, bytes));
        if let Err(error) = written {
            tracing::debug!(%error, "the verify is not noted");
        }
    }

    fn verified_note(&self) -> Option<PathBuf> {
        let folder = self.cache.as_ref()?.join(self.config().store_id.to_string());
        Some(folder.join("verified.json"))
    }
}
