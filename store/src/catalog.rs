//! The catalog: finds the pack and the piece that hold some content.
//!
//! ```text
//! hint (manifest, footer) ─ index (this machine's cache) ─ footers of all packs that the index does not know
//! ```
//!
//! Whatever a hint or the index says is only where to look first: the footer of the pack is read before anything relies on
//! it, which also confirms that the pack is there. So a missing, stale or damaged index changes no answer, only the time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tpde_core::TensorId;

use crate::error::{Result, StoreError};
use crate::ids::{BlobId, PackId};
use crate::index::{ContentKey, Index};
use crate::keys::{Key, Prefix};
use crate::objects::Objects;
use crate::pack::{BLOB_PART, ContentHash, Entry, read_entries};

/// A pack's entries, by content and part.
#[derive(Debug)]
struct PackEntries {
    entries: Vec<Entry>,
    by_part: HashMap<(ContentHash, u32), (usize, usize)>,
}

impl PackEntries {
    fn new(entries: Vec<Entry>) -> Self {
        let mut by_part = HashMap::new();
        for (e, entry) in entries.iter().enumerate() {
            for (p, part) in parts(entry).enumerate() {
                by_part.insert((entry.id, part), (e, p));
            }
        }
        Self { entries, by_part }
    }
}

/// The parts that an entry holds, in the order of its pieces.
fn parts(entry: &Entry) -> impl Iterator<Item = u32> + '_ {
    (0u32..)
        .take(entry.pieces.len())
        .map(|i| entry.part().saturating_add(i))
}

/// One stored piece: a frame or a blob.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    entries: Arc<PackEntries>,
    entry: usize,
    piece: usize,
    /// The pack that holds it.
    pub(crate) pack: PackId,
}

impl Piece {
    pub(crate) fn entry(&self) -> &Entry {
        &self.entries.entries[self.entry]
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.entry().pieces[self.piece].clone()
    }

    /// What to call it in a message.
    pub(crate) fn shown(&self) -> String {
        let range = self.range();
        format!("{} (bytes {}..{})", Key::Pack(self.pack), range.start, range.end)
    }
}

/// Finds content; see the module.
pub(crate) struct Catalog {
    index: Box<dyn Index>,
    read: Mutex<HashMap<PackId, Arc<PackEntries>>>,
    scanned: Mutex<Scanned>,
}

/// Which packs were asked since this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scanned {
    Nothing,
    /// Those that the index did not know.
    New,
    /// All, into an empty index.
    All,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("packs_read", &self.read.lock().len())
            .finish_non_exhaustive()
    }
}

/// What the index files a part under.
fn index_key(id: &ContentHash, part: u32) -> ContentKey {
    if part == 0 {
        return *id;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(id);
    hasher.update(&part.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl Catalog {
    pub(crate) fn new(index: Box<dyn Index>) -> Self {
        Self {
            index,
            read: Mutex::default(),
            scanned: Mutex::new(Scanned::Nothing),
        }
    }

    /// Finds one part of some content.
    ///
    /// * `part`: a slice number, or [`BLOB_PART`].
    /// * `hints`: packs to look into first.
    ///
    /// `None` means that no readable pack holds it.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn find(
        &self,
        objects: &Objects,
        id: &ContentHash,
        part: u32,
        hints: &[PackId],
    ) -> Result<Option<Piece>> {
        for &pack in hints {
            if let Some(piece) = self.in_pack(objects, pack, id, part)? {
                return Ok(Some(piece));
            }
        }
        if let Some(piece) = self.by_index(objects, id, part)? {
            return Ok(Some(piece));
        }
        self.scan(objects, Scanned::New)?;
        self.by_index(objects, id, part)
    }

    /// Finds a part that the store must hold: if nobody knows it, all packs are asked again before giving up, because an index
    /// may have lost rows without noticing.
    ///
    /// # Errors
    /// As [`Catalog::find`].
    fn find_anywhere(
        &self,
        objects: &Objects,
        id: &ContentHash,
        part: u32,
        hints: &[PackId],
    ) -> Result<Option<Piece>> {
        if let Some(piece) = self.find(objects, id, part, hints)? {
            return Ok(Some(piece));
        }
        self.scan(objects, Scanned::All)?;
        self.by_index(objects, id, part)
    }

    fn by_index(&self, objects: &Objects, id: &ContentHash, part: u32) -> Result<Option<Piece>> {
        match self.index.lookup(&index_key(id, part)) {
            Some(pack) => self.in_pack(objects, pack, id, part),
            None => Ok(None),
        }
    }

    fn in_pack(&self, objects: &Objects, pack: PackId, id: &ContentHash, part: u32) -> Result<Option<Piece>> {
        let Some(entries) = self.entries(objects, pack)? else {
            return Ok(None);
        };
        let found = entries.by_part.get(&(*id, part)).copied();
        Ok(found.map(|(entry, piece)| Piece {
            entries,
            entry,
            piece,
            pack,
        }))
    }

    /// A pack's entries; `None` if the pack is missing or damaged, which `verify` reports and a search steps over.
    fn entries(&self, objects: &Objects, pack: PackId) -> Result<Option<Arc<PackEntries>>> {
        if let Some(known) = self.read.lock().get(&pack) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(entries) = readable(read_entries(objects, pack))? else {
            return Ok(None);
        };
        let entries = Arc::new(PackEntries::new(entries));
        self.read.lock().insert(pack, Arc::clone(&entries));
        Ok(Some(entries))
    }

    /// Takes packs into the index: once those that it does not know, once all of them.
    fn scan(&self, objects: &Objects, wanted: Scanned) -> Result<()> {
        // Held throughout: whoever misses meanwhile waits, and then looks again.
        let mut scanned = self.scanned.lock();
        if *scanned >= wanted {
            return Ok(());
        }
        if wanted == Scanned::All {
            tracing::debug!("asking all packs: some content that the store should hold is not in the index");
        }
        if wanted == Scanned::All || self.index.is_doubtful() {
            self.index.clear();
        }
        for listed in objects.list(&Prefix::Packs)? {
            if let Key::Pack(pack) = listed.key
                && !self.index.has_pack(&pack)
                && let Some(entries) = readable(read_entries(objects, pack))?
            {
                self.add_to_index(pack, &entries);
            }
        }
        self.index.flush();
        *scanned = wanted;
        Ok(())
    }

    /// Forgets what was read of a pack that turned out to be gone.
    pub(crate) fn forget(&self, pack: &PackId) {
        self.read.lock().remove(pack);
    }

    fn add_to_index(&self, pack: PackId, entries: &[Entry]) {
        let keys: Vec<ContentKey> = entries
            .iter()
            .flat_map(|entry| parts(entry).map(|part| index_key(&entry.id, part)))
            .collect();
        self.index.insert_pack(&pack, &keys);
    }

    /// A pack was just written: everything in it can be found from now on.
    pub(crate) fn added(&self, pack: PackId, entries: Vec<Entry>) {
        self.add_to_index(pack, &entries);
        self.read.lock().insert(pack, Arc::new(PackEntries::new(entries)));
    }

    /// Makes what was learned outlive this process.
    pub(crate) fn flush(&self) {
        self.index.flush();
    }

    /// The frames that slice `slice` of a tensor decodes from: an anchor, then each delta on the one before.
    ///
    /// # Errors
    /// `Corrupt` if a link is missing or ranks do not descend.
    pub(crate) fn chain(
        &self,
        objects: &Objects,
        id: TensorId,
        slice: u32,
        hints: &[PackId],
    ) -> Result<Vec<Piece>> {
        self.links(objects, *id.as_bytes(), slice, hints)
    }

    /// The pieces that a part of some content is decoded from, the one without a base first.
    ///
    /// # Errors
    /// `Corrupt` if a link is missing or ranks do not descend.
    pub(crate) fn links(
        &self,
        objects: &Objects,
        id: ContentHash,
        part: u32,
        hints: &[PackId],
    ) -> Result<Vec<Piece>> {
        let short = |id: ContentHash| TensorId::from_bytes(id).short();
        let what = if part == BLOB_PART { "blob" } else { "tensor" };
        let mut links: Vec<Piece> = Vec::new();
        let mut wanted = (id, hints.to_vec());
        loop {
            let piece = self
                .find_anywhere(objects, &wanted.0, part, &wanted.1)?
                .ok_or_else(|| {
                    let detail = match links.is_empty() {
                        true => "no pack holds it".to_owned(),
                        false => format!(
                            "no pack holds {what} {}, which it is stored against",
                            short(wanted.0)
                        ),
                    };
                    StoreError::corrupt(format!("{what} {}", short(id)), detail)
                })?;
            let entry = piece.entry();
            if links.last().is_some_and(|above| entry.rank >= above.entry().rank) {
                return Err(StoreError::corrupt(
                    piece.shown(),
                    "its chain does not lead down to an anchor",
                ));
            }
            let base = entry.base.clone();
            links.push(piece);
            match base {
                Some(base) => wanted = (base.id, base.packs),
                None => break,
            }
        }
        links.reverse();
        Ok(links)
    }

    /// The blobs that a blob decodes from: one without a base, then each on the one before.
    ///
    /// # Errors
    /// `Corrupt` if a link is missing or ranks do not descend.
    pub(crate) fn blob_chain(&self, objects: &Objects, id: BlobId, hints: &[PackId]) -> Result<Vec<Piece>> {
        self.links(objects, *id.as_bytes(), BLOB_PART, hints)
    }
}

/// `None` for a pack that is missing or damaged; the reason goes to the log.
fn readable(entries: Result<Vec<Entry>>) -> Result<Option<Vec<Entry>>> {
    match entries {
        Ok(entries) => Ok(Some(entries)),
        Err(error @ (StoreError::NotFound { .. } | StoreError::Corrupt { .. })) => {
            tracing::warn!("{error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
