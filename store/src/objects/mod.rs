//! Objects by key: a synchronous face over any object store.
//!
//! ```text
//! caller's thread ─ Objects::{get, create, list…} ─ Driver ─┬ inline (disk, memory): I/O on this thread
//!                                                           └ runtime (servers): a task, this thread waits
//! ```
//! Every object is written once. [`Objects::create`] is the only primitive on which agreement between writers
//! rests; everything else is named by its content and may be written by anybody, any number of times.

mod answer;
mod at_once;
mod cache;
mod cloud;
mod disk;
mod download;
mod driver;
mod durable;
mod environment;
mod listing;
mod location;
mod open;
mod outcome;
mod pace;
mod paced;
mod profile;
mod rate;
mod s3;
mod server;
mod trial;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::error::{Result, StoreError};
use crate::ids::{ManifestId, PackId};
use crate::keys::{Key, Prefix};
use download::Download;
use driver::Driver;
use durable::Folders;
use outcome::Doubt;
use pace::Pace;
use rate::Limiter;

pub(crate) use at_once::{REQUESTS_AT_ONCE, at_once};
pub use cache::PackCache;
#[cfg(test)]
pub(crate) use disk::{Disk, Entry, Kind};
pub use environment::Environment;
pub use rate::{Rate, parse_bytes};

/// What a conditional create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object did not exist, and now holds these bytes.
    New,
    /// Somebody's object was there before; nothing was written.
    AlreadyExists,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What the object is.
    pub key: Key,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The backend's own clock at its last write, in milliseconds since 1970.
    pub modified_unix_ms: u64,
}

/// All objects of one store. Cheap to clone; safe to use from any thread, rayon's included.
///
/// Calls block until the backend answered. Do not call from inside an async task: hand the work to a blocking
/// thread instead.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The same objects through a client that asks once: for writes.
    writer: Arc<dyn ObjectStore>,
    driver: Driver,
    location: Arc<str>,
    /// The address of the server, if there is one.
    server: Option<Arc<str>>,
    /// Set on a local disk only.
    folders: Option<Arc<Folders>>,
    /// Whether listings come in lexicographic order, so that a first page is enough for the newest.
    sorted: bool,
    /// Pieces of packs that this machine kept.
    cache: Option<Arc<PackCache>>,
    /// Holds bytes back, if they shall not go as fast as they can.
    limiter: Option<Arc<Limiter>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.location)
    }
}

fn path(key: &Key) -> Path {
    Path::from(key.to_string())
}

fn folder(prefix: &Prefix) -> Option<Path> {
    match prefix {
        Prefix::Root => None,
        other => Some(Path::from(other.to_string())),
    }
}

/// Whether `key` is the name of these very bytes.
fn is_named_after(key: &Key, bytes: &[u8]) -> bool {
    match key {
        Key::Pack(id) => PackId::of(bytes) == *id,
        Key::Manifest(id) => ManifestId::of(bytes) == *id,
        _ => false,
    }
}

impl Objects {
    /// A store in this process's memory, empty: for tests and for trying things out.
    pub fn memory() -> Self {
        Self {
            driver: Driver::Inline,
            sorted: true,
            ..Self::over(Arc::new(object_store::memory::InMemory::new()), "memory")
        }
    }

    /// Wraps any backend; `location` is what messages call it.
    ///
    /// Requests run on a small runtime that the whole process shares. Listings are taken to be unsorted.
    pub fn over(store: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self {
            writer: Arc::clone(&store),
            store,
            driver: Driver::Runtime,
            location: location.into(),
            server: None,
            folders: None,
            sorted: false,
            cache: None,
            limiter: None,
        }
    }

    /// Any backend without the runtime, listed in order: for tests on a wrapper of memory.
    #[cfg(test)]
    pub(crate) fn wrapping(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            driver: Driver::Inline,
            sorted: true,
            ..Self::over(store, "test")
        }
    }

    /// A store in the folder `root` of any disk: for tests on one that loses power.
    #[cfg(test)]
    pub(crate) fn in_folder(files: Arc<dyn ObjectStore>, disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self {
            driver: Driver::Inline,
            folders: Some(Arc::new(Folders::new(disk, root))),
            ..Self::over(files, "test")
        }
    }

    /// What the user called this store.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The folder on this machine's disk, if the store is one.
    pub fn local_root(&self) -> Option<&std::path::Path> {
        self.folders.as_deref().map(Folders::root)
    }

    /// The same objects, with pieces of packs kept in `cache` if they come from a server. Only what asks for pieces looks there.
    pub fn with_pack_cache(self, cache: PackCache) -> Self {
        let cache = self.is_far().then(|| Arc::new(cache));
        Self { cache, ..self }
    }

    /// Pieces of packs that this machine kept, if it keeps any.
    pub(crate) fn pack_cache(&self) -> Option<&PackCache> {
        self.cache.as_deref()
    }

    /// Whether an answer is waited for, so that it pays to ask for several things at a time.
    pub(crate) fn is_far(&self) -> bool {
        matches!(self.driver, Driver::Runtime)
    }

    /// The whole object.
    ///
    /// # Errors
    /// * `NotFound`: no such object.
    /// * `Backend`: the disk or server failed; run the command again.
    pub fn get(&self, key: &Key) -> Result<Bytes> {
        let (store, path, download) = (Arc::clone(&self.store), path(key), self.download());
        self.driver
            .run(async move { download.whole(store.get(&path).await?).await })
            .map_err(|e| self.failed("get", key, e))
    }

    /// The whole object if it has at most `most_bytes`, its first `most_bytes` and one more otherwise; `None` if there is none.
    ///
    /// One request.
    ///
    /// # Errors
    /// `Backend`: the disk or server failed, or something answers that is no store of objects.
    pub(crate) fn get_bounded(&self, key: &Key, most_bytes: u64) -> Result<Option<Bytes>> {
        let (store, at, download) = (Arc::clone(&self.store), path(key), self.download());
        let got = self
            .driver
            .run(async move { download.range(&*store, &at, 0..most_bytes + 1).await });
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if outcome::is_missing(&error) => Ok(None),
            // Servers refuse any range of an empty object; what is no server of objects answers with something else.
            Err(error) => match self.get(key) {
                Ok(bytes) if bytes.is_empty() => Ok(Some(bytes)),
                Ok(bytes) if answer::is_page(&bytes) => Err(self.failed("get", key, outcome::page())),
                _ => Err(self.failed("get", key, error)),
            },
        }
    }

    /// Bytes `range` of the object; exactly `range.end - range.start` of them.
    ///
    /// # Errors
    /// As [`Objects::get`]; `Corrupt` if the object ends before the range does.
    pub fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        let (store, path, download) = (Arc::clone(&self.store), path(key), self.download());
        let asked = range.clone();
        let got = self
            .driver
            .run(async move { download.range(&*store, &path, asked).await });
        let short = |found: u64| {
            StoreError::corrupt(
                key.to_string(),
                format!("bytes {range:?} were asked for, the object has {found}"),
            )
        };
        match got {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(bytes) => Err(short(range.start + bytes.len() as u64)),
            Err(error) => match self.head(key)? {
                Some(size) if size < range.end => Err(short(size)),
                _ => Err(self.failed("get", key, error)),
            },
        }
    }

    /// The last `len_bytes` bytes of the object (all of it, if it is shorter), and its whole size in bytes.
    ///
    /// One request.
    ///
    /// # Errors
    /// As [`Objects::get`].
    pub fn get_tail(&self, key: &Key, len_bytes: u64) -> Result<(Bytes, u64)> {
        let (store, path, download) = (Arc::clone(&self.store), path(key), self.download());
        let options = GetOptions {
            range: Some(GetRange::Suffix(len_bytes.max(1))),
            ..GetOptions::default()
        };
        let got = self.driver.run(async move {
            let got = store.get_opts(&path, options).await?;
            let size = got.meta.size;
            Ok((download.whole(got).await?, size))
        });
        match got {
            Ok((bytes, size)) => {
                let surplus = bytes
                    .len()
                    .saturating_sub(usize::try_from(len_bytes).unwrap_or(usize::MAX));
                Ok((bytes.slice(surplus..), size))
            }
            Err(error @ object_store::Error::NotFound { .. }) => Err(self.failed("get", key, error)),
            // Servers refuse any range of an empty object.
            Err(error) => match self.head(key)? {
                Some(0) => Ok((Bytes::new(), 0)),
                _ => Err(self.failed("get", key, error)),
            },
        }
    }

    /// Size of the object in bytes, or `None` if there is none.
    ///
    /// # Errors
    /// `Backend`: the disk or server failed; run the command again.
    pub fn head(&self, key: &Key) -> Result<Option<u64>> {
        let (store, path) = (Arc::clone(&self.store), path(key));
        match self.driver.run(async move { store.head(&path).await }) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look up", key, error)),
        }
    }

    /// Stores `bytes` under a key that is named after them.
    ///
    /// Idempotent: an object that is already there is read and compared; if it is damaged, it is replaced, since its name
    /// says what belongs there. A write whose answer was lost is repeated. On `Ok` the object is durable and right.
    ///
    /// # Errors
    /// * `Corrupt`: other bytes are stored under this name, and `bytes` are not what it stands for.
    /// * `Backend`: the disk or server failed; run the command again.
    pub fn put_content(&self, key: &Key, bytes: Bytes) -> Result<Created> {
        let mut pace = self.pace();
        loop {
            let mode = match self.head(key)? {
                None => PutMode::Create,
                Some(_) if self.get(key)? == bytes => {
                    self.settle(key)?;
                    return Ok(Created::AlreadyExists);
                }
                Some(size_bytes) if is_named_after(key, &bytes) => {
                    tracing::warn!(%key, size_bytes, "the stored object is damaged; it is replaced");
                    PutMode::Overwrite
                }
                Some(_) => {
                    let detail = "other bytes are stored there, and the name stands for neither";
                    return Err(StoreError::corrupt(key.to_string(), detail));
                }
            };
            match self.try_put(key, bytes.clone(), mode) {
                Ok(Created::New) => return Ok(Created::New),
                // Somebody was faster: look at theirs.
                Ok(Created::AlreadyExists) if pace.again() => {}
                Ok(Created::AlreadyExists) => return Err(self.failed("put", key, outcome::absent())),
                Err(error) if Doubt::of(&error) == Doubt::Unknown && pace.again() => {}
                Err(error) => return Err(self.failed("put", key, error)),
            }
        }
    }

    /// Creates the object if, and only if, there is none.
    ///
    /// Of any number of racing callers exactly one gets [`Created::New`]. One request; it is repeated only while the server says
    /// that it did nothing because another create of this name was under way.
    ///
    /// # Errors
    /// * `OutcomeUnknown`: the answer was lost; read the object back to learn what happened.
    /// * `Backend`: nothing was written; mend the cause and call again.
    pub fn create(&self, key: &Key, bytes: Bytes) -> Result<Created> {
        self.try_put(key, bytes, PutMode::Create)
            .map_err(|error| match Doubt::of(&error) {
                Doubt::Unknown => StoreError::OutcomeUnknown {
                    detail: format!("creating {key} was asked for, and the answer was lost ({error})"),
                    hint: "Run the same command again".to_owned(),
                },
                Doubt::Definite => self.failed("create", key, error),
            })
    }

    /// Creates an object whose name nobody uses for other bytes, and asks until it is answered: on `Ok` it is there.
    ///
    /// # Errors
    /// `OutcomeUnknown`, `Backend`: it may not be there.
    pub(crate) fn create_own(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        let mut pace = self.pace();
        loop {
            match self.create(key, bytes.clone()) {
                Ok(Created::New) => return Ok(()),
                // An earlier request arrived; but some servers say so of what is not there, too.
                Ok(Created::AlreadyExists) => match self.head(key)? {
                    Some(_) => return Ok(()),
                    None if pace.again() => {}
                    None => return Err(self.failed("create", key, outcome::absent())),
                },
                Err(StoreError::OutcomeUnknown { .. }) if pace.again() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes over what is there, if anything is: for what is damaged, and for nothing else.
    ///
    /// # Errors
    /// `OutcomeUnknown`, `Backend`: either what was there is there, or `bytes` are; the same again is harmless.
    pub(crate) fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let mut pace = self.pace();
        loop {
            match self.try_put(key, bytes.clone(), PutMode::Overwrite) {
                Ok(_) => return Ok(()),
                Err(error) if Doubt::of(&error) == Doubt::Unknown && pace.again() => {}
                Err(error) => return Err(self.failed("write over", key, error)),
            }
        }
    }

    fn try_put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> object_store::Result<Created> {
        let mut pace = self.pace();
        if let (Some(limiter), None) = (&self.limiter, &self.server) {
            // A disk takes an object whole.
            limiter.wait(bytes.len());
        }
        let created = loop {
            let (writer, path, bytes) = (Arc::clone(&self.writer), path(key), bytes.clone());
            let options = PutOptions::from(mode.clone());
            let put = self
                .driver
                .run(async move { writer.put_opts(&path, bytes.into(), options).await });
            match put {
                Ok(_) => break Created::New,
                Err(error) if outcome::is_undecided(&error) => {
                    if !pace.again() {
                        return Err(error);
                    }
                }
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    break Created::AlreadyExists;
                }
                Err(error) => return Err(error),
            }
        };
        if let Some(folders) = &self.folders {
            let settled = match created {
                // The backend synced the file's own folder.
                Created::New => folders.settle_above(key).map(|()| folders.note(key)),
                Created::AlreadyExists => folders.settle(&[key]),
            };
            settled.map_err(|source| object_store::Error::Generic {
                store: "folder",
                source: Box::new(source),
            })?;
        }
        Ok(created)
    }

    /// The attempts of a write that is about to be made.
    pub(crate) fn pace(&self) -> Pace {
        Pace::of(self.driver)
    }

    /// Makes sure that an object which somebody else wrote is durable before anything refers to it: its writer may have been killed
    /// before it was.
    pub(crate) fn settle(&self, key: &Key) -> Result<()> {
        self.settle_all(&[key])
    }

    /// Makes sure that objects which somebody else wrote are durable before anything refers to them.
    pub(crate) fn settle_all(&self, keys: &[&Key]) -> Result<()> {
        match (&self.folders, keys.first()) {
            (Some(folders), Some(first)) => folders
                .settle(keys)
                .map_err(|e| self.failed_on_disk("sync", first, e)),
            _ => Ok(()),
        }
    }

    /// Deletes the object, if it is there.
    ///
    /// One request, which is not repeated: after an error it may still take effect at any later time.
    ///
    /// # Errors
    /// `Backend`: the disk or server failed, or did not answer.
    pub(crate) fn delete(&self, key: &Key) -> Result<()> {
        let (writer, path) = (Arc::clone(&self.writer), path(key));
        match self.driver.run(async move { writer.delete(&path).await }) {
            Ok(()) => Ok(()),
            Err(error) if outcome::is_missing(&error) => Ok(()),
            Err(error) => Err(self.failed("delete", key, error)),
        }
    }

    /// Files of uploads to a disk that were cut short, older than `grace` by the disk's own clock; none on a server.
    ///
    /// # Errors
    /// `Backend`: the disk failed.
    pub(crate) fn unfinished(&self, grace: Duration) -> Result<Vec<PathBuf>> {
        let Some(folders) = &self.folders else {
            return Ok(Vec::new());
        };
        folders
            .unfinished(grace)
            .map_err(|e| self.failed_on_disk("list", &Prefix::Root, e))
    }

    /// Removes such files; gives how many.
    ///
    /// # Errors
    /// `Backend`: the disk failed.
    pub(crate) fn remove_unfinished(&self, files: &[PathBuf]) -> Result<u64> {
        if let Some(folders) = &self.folders {
            for file in files {
                folders
                    .remove(file)
                    .map_err(|e| self.failed_on_disk("delete", &file.display(), e))?;
            }
        }
        Ok(files.len() as u64)
    }

    /// Removes these folders where folders exist and nothing is in them; best effort.
    pub(crate) fn remove_empty_folders(&self, prefixes: &[Prefix]) {
        if let Some(folders) = &self.folders {
            for prefix in prefixes {
                folders.remove_if_empty(&prefix.to_string());
            }
        }
    }

    fn failed_on_disk(
        &self,
        action: &'static str,
        key: &dyn fmt::Display,
        error: std::io::Error,
    ) -> StoreError {
        let error = object_store::Error::Generic {
            store: "folder",
            source: Box::new(error),
        };
        self.failed(action, key, error)
    }

    /// How what a server sends is read.
    fn download(&self) -> Download {
        Download {
            limiter: self.limiter.clone(),
            on_thread: !self.is_far(),
        }
    }

    fn failed(&self, action: &'static str, key: &dyn fmt::Display, error: object_store::Error) -> StoreError {
        outcome::describe(&self.location, self.server.as_deref(), action, key, error)
    }
}

#[cfg(test)]
mod tests;
