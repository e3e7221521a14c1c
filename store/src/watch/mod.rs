//! Watch: the checkpoints that a trainer completes while it goes on.
//!
//! ```text
//! look: names, stamps ─▶ watching: unchanged for a while? ─▶ signs: evidently unfinished? ─▶ save ─▶ watching: old enough? ─▶ remove
//!   ▲                                                                                                                          │
//!   └──────────────────────────────────────────────── a while later ───────────────────────────────────────────────────────────┘
//! ```
//! No trainer says when a checkpoint is complete, so three things must agree: nothing in it changes between two looks, nothing in it says
//! that more is to come, and nothing changes while it is read. [`Watching`] decides; it is given looks and a clock, and reads nothing.

mod look;
mod remove;
mod signs;
mod temporary;
mod trainer_state;
mod watching;

use std::collections::BTreeSet;

use globset::GlobSet;

pub use look::{Look, Seen, Tree};
pub use remove::{Leftover, Removal};
pub use signs::Sign;
pub use trainer_state::metrics_of;
pub use watching::{News, Rules, Verdict, Watching};

use crate::error::{Result, StoreError};
use crate::history;
use crate::names::RunName;
use crate::progress::Progress;
use crate::save::same::fingerprint_of;
use crate::store::Store;
use crate::summary::{Summary, short};

impl Store {
    /// The steps of a run that stand; none of a run that is not there.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend` if the run cannot be read.
    pub fn standing_steps(&self, run: &RunName) -> Result<BTreeSet<u64>> {
        Ok(self.steps_of(run)?.into_keys().collect())
    }

    /// Whether a checkpoint was saved to `run` with the same content and forgotten since, and its step is nothing now: saved again, it
    /// would be the run's newest. Reads its files only where the run says that this may be so.
    ///
    /// # Errors
    /// `Input` if a file changes while it is read; `Corrupt`, `Newer`, `Backend` if the run cannot be read.
    pub fn has_forgotten(
        &self,
        look: &Look,
        run: &RunName,
        opaque: &GlobSet,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let log = match history::log(self.objects(), run) {
            Err(StoreError::NotFound { .. }) => return Ok(false),
            other => other?,
        };
        let forgotten: Vec<&Summary> = log
            .forgotten()
            .filter(|commit| commit.step == look.step && commit.totals.raw_bytes == look.len_bytes())
            .collect();
        if forgotten.is_empty() || log.commits().any(|commit| commit.step == look.step) {
            return Ok(false);
        }
        let found = look.scan(self.objects().local_root())?.found;
        let fingerprint = short(&fingerprint_of(&found, opaque, progress)?);
        Ok(forgotten.iter().any(|commit| commit.fingerprint == fingerprint))
    }
}
