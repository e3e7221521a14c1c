//! Everything that happened in a run.

use super::backward::Verdicts;
use crate::summary::Summary;

/// All records of a run, and which of its commits stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    records: Vec<Summary>,
    /// Of each record, whether it is a commit that a later record forgets.
    forgotten: Vec<bool>,
}

impl Log {
    /// * `records`: oldest first, without gaps.
    pub(super) fn new(records: Vec<Summary>) -> Self {
        let mut verdicts = Verdicts::default();
        let mut forgotten = vec![false; records.len()];
        for (record, forgotten) in records.iter().zip(&mut forgotten).rev() {
            verdicts.note(record);
            *forgotten = record.action.is_commit() && verdicts.is_forgotten(record.seq);
        }
        Self { records, forgotten }
    }

    /// All records, oldest first.
    pub fn records(&self) -> &[Summary] {
        &self.records
    }

    /// The commits that stand, oldest first.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = &Summary> {
        let all = self.records.iter().zip(&self.forgotten);
        all.filter(|(record, forgotten)| record.action.is_commit() && !**forgotten)
            .map(|(record, _)| record)
    }

    /// The commits that are forgotten, oldest first.
    pub fn forgotten(&self) -> impl DoubleEndedIterator<Item = &Summary> {
        let all = self.records.iter().zip(&self.forgotten);
        all.filter(|(_, forgotten)| **forgotten).map(|(record, _)| record)
    }

    /// Whether record `seq` is a commit that a later record forgets.
    pub fn is_forgotten(&self, seq: u64) -> bool {
        let at = usize::try_from(seq).ok();
        at.and_then(|at| self.forgotten.get(at)).is_some_and(|f| *f)
    }
}
