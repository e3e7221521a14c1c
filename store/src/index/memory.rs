//! The index in memory: the twin that says what the one on disk must answer, and its stand-in.

use std::collections::{BTreeSet, HashMap};

use parking_lot::RwLock;

use super::{ContentKey, Index};
use crate::ids::PackId;

/// An index that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    rows: HashMap<ContentKey, PackId>,
    packs: BTreeSet<PackId>,
}

impl Index for MemoryIndex {
    fn lookup(&self, content: &ContentKey) -> Option<PackId> {
        self.known.read().rows.get(content).copied()
    }

    fn insert_pack(&self, pack: &PackId, contents: &[ContentKey]) {
        let mut known = self.known.write();
        known
            .rows
            .extend(contents.iter().map(|content| (*content, *pack)));
        known.packs.insert(*pack);
    }

    fn has_pack(&self, pack: &PackId) -> bool {
        self.known.read().packs.contains(pack)
    }

    fn packs(&self) -> BTreeSet<PackId> {
        self.known.read().packs.clone()
    }

    fn clear(&self) {
        *self.known.write() = Known::default();
    }

    fn flush(&self) {}

    fn is_doubtful(&self) -> bool {
        false
    }
}
