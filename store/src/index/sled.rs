//! The index on disk, in sled.
//!
//! sled 0.34 panics on damaged files, so every call into it is caught; the cache is then set aside, and memory
//! serves until the process ends. The next process starts with an empty folder.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ::sled::{Batch, Config, Db, Tree};
use parking_lot::RwLock;
use tpde_core::ID_LEN;

use super::memory::MemoryIndex;
use super::row;
use super::{ContentKey, Index};
use crate::ids::PackId;

/// Memory that sled may use for its pages, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// The layout of keys and rows; another one is set aside.
const SCHEMA_EPOCH: &[u8] = b"tpde-index-3";

/// Where the schema stands.
const SCHEMA_KEY: &[u8] = b"schema";

/// Why the cache cannot be believed.
#[derive(Debug)]
enum Trouble {
    /// sled said so.
    Sled(::sled::Error),
    /// sled panicked.
    Panic,
    /// A row, mark or schema is not what was written.
    Damaged(&'static str),
}

impl From<::sled::Error> for Trouble {
    fn from(error: ::sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled(error) => write!(f, "{error}"),
            Self::Panic => f.write_str("sled panicked"),
            Self::Damaged(what) => f.write_str(what),
        }
    }
}

impl Trouble {
    /// Whether the files are merely held: sled closes them a moment after its last handle is dropped, so an index
    /// that was just closed can still be locked. That is no damage.
    fn is_lock(&self) -> bool {
        match self {
            Self::Sled(::sled::Error::Io(e)) => e.to_string().starts_with("could not acquire lock"),
            _ => false,
        }
    }
}

/// An index in a folder of its own.
#[derive(Debug)]
pub struct SledIndex {
    state: RwLock<State>,
    folder: PathBuf,
    doubtful: AtomicBool,
    /// Held until the index is dropped, after sled's files are closed.
    _lock: File,
}

#[derive(Debug)]
enum State {
    Disk(Disk),
    /// After trouble.
    Memory(MemoryIndex),
}

#[derive(Debug)]
struct Disk {
    db: Db,
    rows: Tree,
    packs: Tree,
}

impl Disk {
    fn open(folder: &Path) -> Result<Self, Trouble> {
        let db = Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        match db.get(SCHEMA_KEY)? {
            Some(found) if found == SCHEMA_EPOCH => {}
            None if !db.was_recovered() => {
                db.insert(SCHEMA_KEY, SCHEMA_EPOCH)?;
                db.flush()?;
            }
            _ => return Err(Trouble::Damaged("another schema")),
        }
        let (rows, packs) = (db.open_tree("rows")?, db.open_tree("packs")?);
        Ok(Self { db, rows, packs })
    }

    fn lookup(&self, content: &ContentKey) -> Result<Option<PackId>, Trouble> {
        match self.rows.get(content)? {
            None => Ok(None),
            Some(bytes) => match row::decode(content, &bytes) {
                Some(pack) => Ok(Some(pack)),
                None => Err(Trouble::Damaged("a row's checksum is wrong")),
            },
        }
    }

    fn insert_pack(&self, pack: &PackId, contents: &[ContentKey]) -> Result<(), Trouble> {
        let mut batch = Batch::default();
        for content in contents {
            batch.insert(&content[..], row::encode(content, pack));
        }
        self.rows.apply_batch(batch)?;
        let mark = row::sum(pack.as_bytes(), b"pack");
        self.packs.insert(pack.as_bytes(), &mark[..])?;
        Ok(())
    }

    fn has_pack(&self, pack: &PackId) -> Result<bool, Trouble> {
        match self.packs.get(pack.as_bytes())? {
            None => Ok(false),
            Some(mark) => marked(pack.as_bytes(), &mark).map(|_| true),
        }
    }

    fn packs(&self) -> Result<BTreeSet<PackId>, Trouble> {
        self.packs
            .iter()
            .map(|entry| {
                let (pack, mark) = entry?;
                marked(&pack, &mark)
            })
            .collect()
    }

    fn clear(&self) -> Result<(), Trouble> {
        // Marks first: a mark must not outlive its rows.
        self.packs.clear()?;
        self.rows.clear()?;
        Ok(())
    }

    fn flush(&self) -> Result<(), Trouble> {
        self.db.flush()?;
        Ok(())
    }
}

/// The pack that the entry `pack` → `mark` stands for.
fn marked(pack: &[u8], mark: &[u8]) -> Result<PackId, Trouble> {
    match <[u8; ID_LEN]>::try_from(pack) {
        Ok(id) if row::sum(&id, b"pack")[..] == *mark => Ok(PackId::from_bytes(id)),
        _ => Err(Trouble::Damaged("a pack's mark is wrong")),
    }
}

/// Runs `call`, with a panic turned into trouble.
fn caught<T>(call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    // Whatever state a panic leaves behind is dropped with the cache.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Trouble::Panic))
}

/// Moves a damaged cache out of the way, and keeps only the last such one. Best effort.
fn set_aside(folder: &Path, trouble: &Trouble) {
    tracing::info!(folder = %folder.display(), %trouble, "the index cannot be used; starting an empty one");
    let mut newest = 0;
    let siblings = folder.parent().and_then(|p| p.read_dir().ok());
    for sibling in siblings.into_iter().flatten().flatten() {
        let name = sibling.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("index.bad-"));
        if let Some(number) = number.and_then(|n| n.parse::<u64>().ok()) {
            newest = newest.max(number);
            removed(&sibling.path());
        }
    }
    let aside = folder.with_file_name(format!("index.bad-{}", newest.saturating_add(1)));
    if let Err(error) = std::fs::rename(folder, &aside) {
        tracing::debug!(%error, "the damaged index cannot be moved");
        removed(folder);
    }
}

fn removed(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::debug!(folder = %folder.display(), %error, "cannot be removed");
    }
}

impl SledIndex {
    /// Opens the index in `home`/index, making it where there is none; a damaged one is set aside first.
    ///
    /// `None` if another process (or another index of this one, be it one that is just closing) holds it, or the folder cannot be used: do without.
    pub fn open(home: &Path) -> Option<Self> {
        let lock = match locked(home) {
            Ok(lock) => lock,
            Err(error) => {
                tracing::debug!(home = %home.display(), %error, "no index on disk");
                return None;
            }
        };
        let folder = home.join("index");
        let mut doubtful = false;
        let disk = match caught(|| Disk::open(&folder)) {
            Ok(disk) => disk,
            Err(trouble) if trouble.is_lock() => {
                tracing::debug!(home = %home.display(), %trouble, "no index on disk");
                return None;
            }
            Err(trouble) => {
                set_aside(&folder, &trouble);
                doubtful = true;
                caught(|| Disk::open(&folder))
                    .inspect_err(|trouble| tracing::debug!(%trouble, "no index on disk"))
                    .ok()?
            }
        };
        Some(Self {
            state: RwLock::new(State::Disk(disk)),
            folder,
            doubtful: AtomicBool::new(doubtful),
            _lock: lock,
        })
    }

    /// Asks the disk; after trouble, now or before, the memory.
    fn ask<T>(
        &self,
        disk: impl FnOnce(&Disk) -> Result<T, Trouble>,
        memory: impl FnOnce(&MemoryIndex) -> T,
    ) -> T {
        let trouble = match &*self.state.read() {
            State::Disk(open) => match caught(|| disk(open)) {
                Ok(answer) => return answer,
                Err(trouble) => trouble,
            },
            State::Memory(twin) => return memory(twin),
        };
        self.distrust(&trouble);
        match &*self.state.read() {
            State::Memory(twin) => memory(twin),
            State::Disk(_) => memory(&MemoryIndex::default()),
        }
    }

    /// Closes the disk for good, and goes on in memory, empty.
    fn distrust(&self, trouble: &Trouble) {
        self.doubtful.store(true, Ordering::SeqCst);
        let mut state = self.state.write();
        if let State::Disk(_) = &*state {
            let disk = std::mem::replace(&mut *state, State::Memory(MemoryIndex::default()));
            close(disk);
            set_aside(&self.folder, trouble);
        }
    }
}

/// Drops sled's handles, which may panic when its files are damaged.
fn close(state: State) {
    let closed = caught(|| {
        drop(state);
        Ok(())
    });
    if let Err(trouble) = closed {
        tracing::debug!(%trouble, "closing the index");
    }
}

/// Makes `home` and takes its lock.
fn locked(home: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(home)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(home.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(std::io::Error::other("another process holds it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Index for SledIndex {
    fn lookup(&self, content: &ContentKey) -> Option<PackId> {
        self.ask(|disk| disk.lookup(content), |twin| twin.lookup(content))
    }

    fn insert_pack(&self, pack: &PackId, contents: &[ContentKey]) {
        self.ask(
            |disk| disk.insert_pack(pack, contents),
            |twin| twin.insert_pack(pack, contents),
        );
    }

    fn has_pack(&self, pack: &PackId) -> bool {
        self.ask(|disk| disk.has_pack(pack), |twin| twin.has_pack(pack))
    }

    fn packs(&self) -> BTreeSet<PackId> {
        self.ask(Disk::packs, MemoryIndex::packs)
    }

    fn clear(&self) {
        self.ask(Disk::clear, MemoryIndex::clear);
    }

    fn flush(&self) {
        self.ask(Disk::flush, MemoryIndex::flush);
    }

    fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::SeqCst)
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        self.flush();
        let empty = State::Memory(MemoryIndex::default());
        close(std::mem::replace(&mut *self.state.write(), empty));
    }
}
