//! Fills packs in order and stores each as it is full.

use std::collections::HashMap;

use crate::error::Result;
use crate::ids::PackId;
use crate::keys::Key;
use crate::pack::{BaseRef, Content, ContentHash, PackWriter};
use crate::store::Store;

/// The pack that is being filled, and where everything went.
pub(super) struct PackQueue<'s> {
    store: &'s Store,
    open: PackWriter,
    /// Contents in the open pack.
    pending: Vec<ContentHash>,
    /// Packs of each content that was added.
    placed: HashMap<ContentHash, Vec<PackId>>,
    written_bytes: u64,
}

impl<'s> PackQueue<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        Self {
            store,
            open: PackWriter::default(),
            pending: Vec::new(),
            placed: HashMap::new(),
            written_bytes: 0,
        }
    }

    /// Adds a piece; closes the open pack first if it would grow too long.
    ///
    /// # Errors
    /// `Backend` if a full pack cannot be stored.
    pub(super) fn add(
        &mut self,
        id: ContentHash,
        content: Content,
        base: Option<BaseRef>,
        rank: u8,
        piece: &[u8],
    ) -> Result<()> {
        if !self.open.is_empty() && !self.open.fits(piece.len()) {
            self.close()?;
        }
        self.open.add(id, content, base, rank, piece);
        if self.pending.last() != Some(&id) {
            self.pending.push(id);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let (pack, bytes, entries) = std::mem::take(&mut self.open).finish();
        self.written_bytes += bytes.len() as u64;
        self.store.objects().put_content(&Key::Pack(pack), bytes)?;
        self.store.catalog.added(pack, entries);
        for id in self.pending.drain(..) {
            self.placed.entry(id).or_default().push(pack);
        }
        Ok(())
    }

    /// Stores what is left. Returns the bytes of all packs written.
    ///
    /// # Errors
    /// `Backend` if it cannot be stored.
    pub(super) fn finish(&mut self) -> Result<u64> {
        if !self.open.is_empty() {
            self.close()?;
        }
        Ok(self.written_bytes)
    }

    /// Packs that hold a content that was added; empty for one that was not. Complete after [`PackQueue::finish`].
    pub(super) fn packs_of(&self, id: &ContentHash) -> Vec<PackId> {
        self.placed.get(id).cloned().unwrap_or_default()
    }
}
