//! The catalog: finds the pack and the piece that hold some content.
//!
//! ```text
//! hint (manifest, footer) ─ index (this machine's cache) ─ footers of all packs that the index does not know
//! ```
//!
//! Whatever a hint or the index says is only where to look first: the footer of the pack is read before anything relies on
//! it, which also confirms that the pack is there. So a missing, stale or damaged index changes no answer, only the time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tpde_core::{Dtype, TensorId};

use crate::abreast::abreast;
use crate::error::{Result, StoreError};
use crate::ids::{BlobId, PackId};
use crate::index::{ContentKey, Index};
use crate::keys::{Key, Prefix};
use crate::objects::{Objects, at_once};
use crate::pack::{ContentHash, ContentPrefix, Entry, PART_LEN, PREFIX_LEN, Part, prefix_of, read_entries};

/// Some content that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) prefix: ContentPrefix,
    /// The whole id, where it is known: nothing else will do then.
    id: Option<ContentHash>,
    pub(crate) part: Part,
    /// Ranks from here on will not do.
    below: Option<u8>,
}

impl Sought {
    /// A part of the content with this id.
    pub(crate) fn whole(id: ContentHash, part: Part) -> Self {
        Self {
            prefix: prefix_of(&id),
            id: Some(id),
            part,
            below: None,
        }
    }

    /// A slice of a tensor.
    pub(crate) fn slice(id: TensorId, dtype: Dtype, number: u32) -> Self {
        Self::whole(*id.as_bytes(), Part::Slice { dtype, number })
    }

    /// A blob.
    pub(crate) fn blob(id: BlobId) -> Self {
        Self::whole(*id.as_bytes(), Part::Blob)
    }

    /// A part of the content whose id begins so: what it decodes to is for the reader's digests to prove.
    pub(crate) fn by_prefix(prefix: ContentPrefix, part: Part) -> Self {
        Self {
            prefix,
            id: None,
            part,
            below: None,
        }
    }

    /// Only a copy whose rank is below `rank`.
    pub(crate) fn below(self, rank: u8) -> Self {
        Self {
            below: Some(rank),
            ..self
        }
    }

    /// Whether what `entry` holds will do.
    fn is(&self, entry: &Entry) -> bool {
        self.id.is_none_or(|id| entry.id == id) && self.below.is_none_or(|below| entry.rank < below)
    }

    /// What to call it in a message.
    pub(crate) fn shown(&self) -> String {
        let what = match self.part {
            Part::Blob => "blob",
            Part::Slice { .. } => "tensor",
        };
        let start = &self.prefix[..6];
        let hex: String = start.iter().map(|b| format!("{b:02x}")).collect();
        format!("{what} {hex}")
    }

    /// What the index files it under.
    fn key(&self) -> ContentKey {
        let mut key = [0; PREFIX_LEN + PART_LEN];
        key[..PREFIX_LEN].copy_from_slice(&self.prefix);
        key[PREFIX_LEN..].copy_from_slice(&self.part.key());
        key
    }
}

/// One stored copy of some content.
pub(crate) type Copy = (PackId, ContentPrefix, Part);

/// Copies that are not to be found.
pub(crate) type Avoided = HashSet<Copy>;

/// A pack's entries, by content and part.
#[derive(Debug)]
struct PackEntries {
    entries: Vec<Entry>,
    by_part: HashMap<(ContentPrefix, Part), (usize, usize)>,
}

impl PackEntries {
    fn new(entries: Vec<Entry>) -> Self {
        let mut by_part: HashMap<_, (usize, usize)> = HashMap::new();
        for (e, entry) in entries.iter().enumerate() {
            for p in 0..entry.pieces.len() {
                // Of two encodings of one content, as of equal bytes of two element types, the one of lower rank will do for
                // whoever reads either.
                by_part
                    .entry((prefix_of(&entry.id), entry.part(p)))
                    .and_modify(|held| {
                        if entries[held.0].rank > entry.rank {
                            *held = (e, p);
                        }
                    })
                    .or_insert((e, p));
            }
        }
        Self { entries, by_part }
    }
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

    /// Bytes of all pieces of its pack.
    pub(crate) fn pack_bytes(&self) -> u64 {
        let last = self.entries.entries.last().and_then(|entry| entry.pieces.last());
        last.map_or(0, |piece| piece.end)
    }

    /// The part of its content that it holds.
    pub(crate) fn part(&self) -> Part {
        self.entry().part(self.piece)
    }

    /// Its stored bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        let range = self.range();
        range.end - range.start
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

/// Which packs exist for whoever looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// These do not: a gc is about to delete them.
    pub(crate) hidden: Arc<HashSet<PackId>>,
    /// Nothing but these does, if this is set.
    pub(crate) only: Option<Arc<HashSet<PackId>>>,
    /// No content but these does, if this is set.
    pub(crate) contents: Option<Arc<HashSet<(ContentPrefix, Part)>>>,
}

impl Sight {
    fn sees(&self, pack: &PackId) -> bool {
        !self.hidden.contains(pack) && self.only.as_ref().is_none_or(|only| only.contains(pack))
    }

    /// Whether no content is left out.
    pub(crate) fn contains_all(&self) -> bool {
        self.contents.is_none()
    }

    fn sees_content(&self, sought: &Sought) -> bool {
        let contents = self.contents.as_ref();
        contents.is_none_or(|contents| contents.contains(&(sought.prefix, sought.part)))
    }
}

/// Finds content; see the module. Clones share all that was learned.
#[derive(Clone)]
pub(crate) struct Catalog {
    known: Arc<Known>,
    sight: Sight,
}

/// What was learned of the packs.
struct Known {
    index: Box<dyn Index>,
    /// What was read; `None` of a pack that is missing or damaged.
    read: Mutex<HashMap<PackId, Option<Arc<PackEntries>>>>,
    /// Every pack of each content, once all packs were asked.
    holders: Mutex<HashMap<ContentKey, Vec<PackId>>>,
    scanned: Mutex<Scanned>,
    /// Footers that somebody is reading: whoever wants the same one waits for it.
    reading: Mutex<HashMap<PackId, Arc<Mutex<()>>>>,
}

/// Footers that are read at one time.
const PACKS_AT_ONCE: usize = 64;

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
            .field("packs_read", &self.known.read.lock().len())
            .finish_non_exhaustive()
    }
}

impl Catalog {
    pub(crate) fn new(index: Box<dyn Index>) -> Self {
        Self {
            known: Arc::new(Known {
                index,
                read: Mutex::default(),
                holders: Mutex::default(),
                scanned: Mutex::new(Scanned::Nothing),
                reading: Mutex::default(),
            }),
            sight: Sight::default(),
        }
    }

    /// The same catalog for somebody for whom only some packs exist.
    pub(crate) fn seeing(&self, sight: Sight) -> Self {
        Self {
            known: Arc::clone(&self.known),
            sight,
        }
    }

    /// Whether a pack exists for whoever looks.
    pub(crate) fn sees(&self, pack: &PackId) -> bool {
        self.sight.sees(pack)
    }

    /// What exists for whoever looks.
    pub(crate) fn sight(&self) -> &Sight {
        &self.sight
    }

    /// Bytes of all pieces of a pack; 0 of one that cannot be read.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn pieces_bytes(&self, objects: &Objects, pack: PackId) -> Result<u64> {
        let entries = self.entries(objects, pack)?;
        let pieces = entries.iter().flat_map(|e| &e.entries).flat_map(|e| &e.pieces);
        Ok(pieces.map(|range| range.end - range.start).sum())
    }

    /// Every part of every content that a pack holds; none of one that cannot be read.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn contents_of(&self, objects: &Objects, pack: PackId) -> Result<Vec<(ContentHash, Part)>> {
        let held = self.entries(objects, pack)?;
        let entries = held.iter().flat_map(|held| &held.entries);
        Ok(entries
            .flat_map(|entry| (0..entry.pieces.len()).map(|piece| (entry.id, entry.part(piece))))
            .collect())
    }

    /// From here on a pack does not exist for whoever looks.
    pub(crate) fn hide(&mut self, pack: PackId) {
        Arc::make_mut(&mut self.sight.hidden).insert(pack);
    }

    /// Takes [`Catalog::hide`] back.
    pub(crate) fn unhide(&mut self, pack: &PackId) {
        Arc::make_mut(&mut self.sight.hidden).remove(pack);
    }

    /// Finds one part of some content.
    ///
    /// * `hints`: packs to look into first.
    ///
    /// `None` means that no readable pack holds it.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn find(&self, objects: &Objects, sought: &Sought, hints: &[PackId]) -> Result<Option<Piece>> {
        self.find_but(objects, sought, hints, &Avoided::new())
    }

    fn find_but(
        &self,
        objects: &Objects,
        sought: &Sought,
        hints: &[PackId],
        avoided: &Avoided,
    ) -> Result<Option<Piece>> {
        for &pack in hints {
            if let Some(piece) = self.in_pack(objects, pack, sought, avoided)? {
                return Ok(Some(piece));
            }
        }
        if let Some(piece) = self.by_index(objects, sought, avoided)? {
            return Ok(Some(piece));
        }
        self.scan(objects, Scanned::New)?;
        self.by_index(objects, sought, avoided)
    }

    /// Finds a part that the store must hold: if nobody knows it, all packs are asked again before giving up, because an index
    /// may have lost rows without noticing, and knows one copy of each content only.
    ///
    /// # Errors
    /// As [`Catalog::find`].
    pub(crate) fn find_anywhere(
        &self,
        objects: &Objects,
        sought: &Sought,
        hints: &[PackId],
        avoided: &Avoided,
    ) -> Result<Option<Piece>> {
        if let Some(piece) = self.find_but(objects, sought, hints, avoided)? {
            return Ok(Some(piece));
        }
        self.scan(objects, Scanned::All)?;
        let holders = self.known.holders.lock().get(&sought.key()).cloned();
        for pack in holders.unwrap_or_default() {
            if let Some(piece) = self.in_pack(objects, pack, sought, avoided)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn by_index(&self, objects: &Objects, sought: &Sought, avoided: &Avoided) -> Result<Option<Piece>> {
        match self.known.index.lookup(&sought.key()) {
            Some(pack) => self.in_pack(objects, pack, sought, avoided),
            None => Ok(None),
        }
    }

    fn in_pack(
        &self,
        objects: &Objects,
        pack: PackId,
        sought: &Sought,
        avoided: &Avoided,
    ) -> Result<Option<Piece>> {
        if !self.sight.sees(&pack)
            || !self.sight.sees_content(sought)
            || avoided.contains(&(pack, sought.prefix, sought.part))
        {
            return Ok(None);
        }
        let Some(entries) = self.entries(objects, pack)? else {
            return Ok(None);
        };
        let found = entries.by_part.get(&(sought.prefix, sought.part)).copied();
        let found = found.filter(|&(entry, _)| sought.is(&entries.entries[entry]));
        Ok(found.map(|(entry, piece)| Piece {
            entries,
            entry,
            piece,
            pack,
        }))
    }

    /// A pack's entries; `None` if the pack is missing or damaged, which `verify` reports and a search steps over.
    fn entries(&self, objects: &Objects, pack: PackId) -> Result<Option<Arc<PackEntries>>> {
        let known = || self.known.read.lock().get(&pack).cloned();
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = Arc::clone(self.known.reading.lock().entry(pack).or_default());
        let _turn = turn.lock();
        if let Some(known) = known() {
            return Ok(known);
        }
        let entries =
            readable(read_entries(objects, pack))?.map(|entries| Arc::new(PackEntries::new(entries)));
        self.known.read.lock().insert(pack, entries.clone());
        self.known.reading.lock().remove(&pack);
        Ok(entries)
    }

    /// Reads the entries of packs that will be asked about, many at once.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn warm(&self, objects: &Objects, packs: &[PackId]) -> Result<()> {
        abreast(packs, |&pack| self.entries(objects, pack)).map(drop)
    }

    /// Takes packs into the index: once those that it does not know, once all of them.
    fn scan(&self, objects: &Objects, wanted: Scanned) -> Result<()> {
        // Held throughout: whoever misses meanwhile waits, and then looks again.
        let mut scanned = self.known.scanned.lock();
        if *scanned >= wanted {
            return Ok(());
        }
        if wanted == Scanned::All {
            tracing::debug!("asking all packs: some content that the store should hold is not in the index");
        }
        let index = &self.known.index;
        if wanted == Scanned::All || index.is_doubtful() {
            index.clear();
        }
        let listed = objects.list(&Prefix::Packs)?.into_iter();
        let unknown: Vec<PackId> = listed
            .filter_map(|listed| match listed.key {
                Key::Pack(pack) if !index.has_pack(&pack) => Some(pack),
                _ => None,
            })
            .collect();
        // A few at a time, so that the footers of a large store are not all held at once.
        for some in unknown.chunks(PACKS_AT_ONCE) {
            let read = at_once(objects, some, |&pack| readable(read_entries(objects, pack)))?;
            for (&pack, entries) in some.iter().zip(&read) {
                if let Some(entries) = entries {
                    self.add_to_index(pack, entries);
                }
            }
        }
        index.flush();
        *scanned = wanted;
        Ok(())
    }

    /// Asks all packs afresh, so that what is found from here on is there now.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn refresh(&self, objects: &Objects) -> Result<()> {
        self.known.read.lock().clear();
        self.known.holders.lock().clear();
        *self.known.scanned.lock() = Scanned::Nothing;
        self.scan(objects, Scanned::All)
    }

    /// Forgets what was read of a pack that turned out to be gone.
    pub(crate) fn forget(&self, pack: &PackId) {
        self.known.read.lock().remove(pack);
    }

    fn add_to_index(&self, pack: PackId, entries: &[Entry]) {
        let keys: Vec<ContentKey> = entries
            .iter()
            .flat_map(|entry| {
                (0..entry.pieces.len()).map(|piece| Sought::whole(entry.id, entry.part(piece)).key())
            })
            .collect();
        let mut holders = self.known.holders.lock();
        for key in &keys {
            let packs = holders.entry(*key).or_default();
            if packs.last() != Some(&pack) {
                packs.push(pack);
            }
        }
        drop(holders);
        self.known.index.insert_pack(&pack, &keys);
    }

    /// A pack was just written: everything in it can be found from now on.
    pub(crate) fn added(&self, pack: PackId, entries: Vec<Entry>) {
        self.add_to_index(pack, &entries);
        let entries = Arc::new(PackEntries::new(entries));
        self.known.read.lock().insert(pack, Some(entries));
    }

    /// Makes what was learned outlive this process.
    pub(crate) fn flush(&self) {
        self.known.index.flush();
    }
}

/// `None` for a pack that is missing or damaged; the reason goes to the log.
fn readable(entries: Result<Vec<Entry>>) -> Result<Option<Vec<Entry>>> {
    match entries {
        Ok(entries) => Ok(Some(entries)),
        // What the index says of packs that are gone, or of a copy of this store, is no news.
        Err(error @ StoreError::NotFound { .. }) => {
            tracing::debug!("{error}");
            Ok(None)
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::warn!("{error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
