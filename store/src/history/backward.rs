//! Reading a run's records from the newest back, no further than they are asked for.

use crate::action::Action;
use crate::error::Result;
use crate::names::RunName;
use crate::objects::Objects;
use crate::rollup::{ROLLUP_EVERY, Rollup};
use crate::seqs::SeqSet;
use crate::slot::{StoredSlot, history_from};
use crate::summary::Summary;

/// What later records say of earlier ones: the latest that names a commit decides.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Vec<(SeqSet, bool)>);

impl Verdicts {
    /// Takes note of a record; later records must have been noted before.
    pub(super) fn note(&mut self, record: &Summary) {
        match &record.action {
            Action::Forget(seqs) => self.0.push((seqs.clone(), true)),
            Action::Undo(seqs) => self.0.push((seqs.clone(), false)),
            Action::Commit(_) | Action::Other { .. } => {}
        }
    }

    /// Whether a commit is forgotten, all later records having been noted.
    pub(super) fn is_forgotten(&self, seq: u64) -> bool {
        let latest = self.0.iter().find(|(seqs, _)| seqs.contains(seq));
        latest.is_some_and(|(_, forgotten)| *forgotten)
    }
}

/// A run's records, newest first; each step back costs one read.
#[derive(Debug)]
pub struct Backward<'o> {
    objects: &'o Objects,
    run: RunName,
    /// What the newest slot says, until it is handed out.
    newest: Option<Vec<Summary>>,
    /// The oldest record handed out.
    reached: u64,
    verdicts: Verdicts,
    /// Of the block at hand, oldest first, what was not looked at yet.
    block: Vec<Summary>,
}

impl<'o> Backward<'o> {
    /// Starts at the newest slot of a run.
    pub fn new(objects: &'o Objects, newest: &StoredSlot) -> Self {
        Self {
            objects,
            run: newest.slot.run.clone(),
            newest: Some(newest.records()),
            reached: newest.slot.seq,
            verdicts: Verdicts::default(),
            block: Vec::new(),
        }
    }

    /// The next older records, oldest first; `None` at the beginning of the run.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend`: as for every read.
    pub(super) fn block(&mut self) -> Result<Option<Vec<Summary>>> {
        if let Some(newest) = self.newest.take() {
            self.reached = history_from(self.reached);
            return Ok(Some(newest));
        }
        let Some(below) = self.reached.checked_sub(1) else {
            return Ok(None);
        };
        let block = if self.reached.is_multiple_of(ROLLUP_EVERY as u64) {
            self.reached -= ROLLUP_EVERY as u64;
            Rollup::read(self.objects, &self.run, below)?.summaries
        } else {
            let slot = StoredSlot::referred(self.objects, &self.run, self.reached)?.slot;
            self.reached = history_from(self.reached);
            slot.history
        };
        Ok(Some(block))
    }

    /// The next older commit that stands and is `wanted`. Call it again for the one before.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend`: as for every read.
    pub fn find(&mut self, mut wanted: impl FnMut(&Summary) -> bool) -> Result<Option<Summary>> {
        loop {
            while let Some(record) = self.block.pop() {
                self.verdicts.note(&record);
                if record.action.is_commit() && !self.verdicts.is_forgotten(record.seq) && wanted(&record) {
                    return Ok(Some(record));
                }
            }
            match self.block()? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
        }
    }
}
