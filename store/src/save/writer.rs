//! Fills packs in order and sends each on its way as it is full.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::ids::{LeaseId, PackId};
use crate::keys::Key;
use crate::pack::{Content, ContentHash, ContentPrefix, Entry, Holder, Needs, PackWriter, Part, prefix_of};
use crate::progress::{Progress, Silent};
use crate::store::Store;
use crate::transfer::Uploads;

/// The pack that is being filled, and where everything went.
pub(crate) struct PackQueue<'s> {
    store: &'s Store,
    open: PackWriter,
    /// Pieces in the open pack.
    pending: Vec<(ContentHash, Part)>,
    /// Where every piece went; `None` stands for the open pack.
    holders: HashMap<(ContentPrefix, Part), Option<PackId>>,
    /// Packs of each content that was added.
    placed: HashMap<ContentHash, Vec<PackId>>,
    written: Vec<PackId>,
    written_bytes: u64,
    uploads: Uploads,
    /// What is in the packs that are on their way.
    sent: HashMap<PackId, Vec<Entry>>,
    lease: LeaseId,
}

impl<'s> PackQueue<'s> {
    /// * `lease`: goes into every pack, so that no other writer ever writes one of this name.
    pub(crate) fn new(store: &'s Store, lease: LeaseId) -> Self {
        Self {
            store,
            open: PackWriter::under(lease),
            pending: Vec::new(),
            holders: HashMap::new(),
            placed: HashMap::new(),
            written: Vec::new(),
            written_bytes: 0,
            uploads: Uploads::new(store.objects()),
            sent: HashMap::new(),
            lease,
        }
    }

    /// Adds a piece; closes the open pack first if it would grow too long.
    ///
    /// * `needs`: what is read and whose holder is unknown is looked for among the pieces that were added before.
    ///
    /// # Errors
    /// `Backend` if a full pack cannot be stored.
    pub(crate) fn add(
        &mut self,
        id: ContentHash,
        content: Content,
        mut needs: Needs,
        rank: u8,
        piece: &[u8],
    ) -> Result<()> {
        if !self.open.is_empty() && !self.open.fits(piece.len()) {
            self.close()?;
        }
        let part = match content {
            Content::Slices { dtype, first } => Part::Slice { dtype, number: first },
            Content::Blob { .. } => Part::Blob,
        };
        let base = needs.base.as_mut().map(|base| (base, part));
        let given = needs.given.as_mut();
        let given = given.map(|(relation, given)| (given, part.given(*relation)));
        for (needed, part) in base.into_iter().chain(given) {
            if needed.holder == Holder::Unknown {
                needed.holder = match self.holders.get(&(needed.prefix, part)) {
                    None => Holder::Unknown,
                    Some(None) => Holder::Here,
                    Some(Some(pack)) => Holder::Pack(*pack),
                };
            }
        }
        self.open.add(id, content, needs, rank, piece);
        self.holders.insert((prefix_of(&id), part), None);
        self.pending.push((id, part));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let (pack, bytes, entries) =
            std::mem::replace(&mut self.open, PackWriter::under(self.lease)).finish();
        self.written.push(pack);
        self.written_bytes += bytes.len() as u64;
        if let Some(cache) = self.store.objects().pack_cache() {
            // The next checkpoint is taken against this one.
            let pieces = entries.iter().flat_map(|entry| &entry.pieces);
            cache.keep(pack, pieces.map(|p| (p.start, &bytes[as_usize(p)])));
        }
        self.sent.insert(pack, entries);
        let sent = self.uploads.send(Key::Pack(pack), bytes);
        self.note_stored();
        sent?;
        for (id, part) in self.pending.drain(..) {
            self.holders.insert((prefix_of(&id), part), Some(pack));
            let packs = self.placed.entry(id).or_default();
            if packs.last() != Some(&pack) {
                packs.push(pack);
            }
        }
        Ok(())
    }

    /// Takes what was stored meanwhile into the catalog: from then on it can be found.
    fn note_stored(&mut self) {
        for key in self.uploads.take_stored() {
            let Key::Pack(pack) = key else { continue };
            if let Some(entries) = self.sent.remove(&pack) {
                self.store.catalog.added(pack, entries);
            }
        }
    }

    /// Closes the open pack and waits until all are stored.
    ///
    /// # Errors
    /// `Backend` if one cannot be stored: the first that failed.
    pub(crate) fn send_all(&mut self, progress: &dyn Progress) -> Result<()> {
        if !self.open.is_empty() {
            self.close()?;
        }
        let finished = self.uploads.finish(progress);
        self.note_stored();
        finished
    }

    /// Stores what is left. Returns the bytes of all packs written.
    ///
    /// # Errors
    /// As [`PackQueue::send_all`].
    pub(crate) fn finish(&mut self) -> Result<u64> {
        self.send_all(&Silent)?;
        Ok(self.written_bytes)
    }

    /// Notes that a pack which was there before holds a part of a content that is added here.
    pub(super) fn holds(&mut self, id: ContentHash, pack: PackId) {
        self.placed.entry(id).or_default().push(pack);
    }

    /// The packs that were stored.
    pub(crate) fn written(&self) -> impl Iterator<Item = PackId> {
        self.written.iter().copied()
    }

    /// Packs that hold a content that was added; empty for one that was not. Complete after [`PackQueue::finish`].
    pub(crate) fn packs_of(&self, id: &ContentHash) -> Vec<PackId> {
        self.placed.get(id).cloned().unwrap_or_default()
    }
}

/// What a failed save has stored can be found by the next one in this process.
impl Drop for PackQueue<'_> {
    fn drop(&mut self) {
        self.uploads.settle();
        self.note_stored();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a pack has at most 2^26 bytes")]
fn as_usize(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
