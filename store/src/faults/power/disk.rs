//! A disk that remembers each step.
//!
//! Its steps are those of `object_store` 0.14 for a local folder with `with_fsync(true)`, as `strace` shows them (docs/reliability.md): a new
//! object is written under a name of its own, synced, linked to its name, and the folder is synced; folders that are made for it are synced up
//! to the first that was there; a delete is not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::image::{Inode, Left, Step, folder_of};
use crate::objects::{Disk, Entry, Kind, Objects};

/// Where the store's folder is, for whoever asks by path.
const ROOT: &str = "/disk";

/// A sync that is never done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacks {
    Nothing,
    /// Those of files.
    Files,
    /// Those of folders.
    Folders,
    /// Those of folders that this crate asks for beside the backend's.
    Settling,
}

/// The disk.
#[derive(Debug, Clone)]
pub(super) struct PowerDisk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lacks: Lacks,
    state: Mutex<State>,
    /// Whose turn it is to put an object: of several that link one name, one must win.
    turn: Mutex<()>,
    /// The objects that can be seen, for reads.
    seen: InMemory,
}

#[derive(Debug, Clone, Default)]
struct State {
    steps: Vec<Step>,
    folders: BTreeSet<String>,
    files: BTreeMap<String, Inode>,
    contents: Vec<Bytes>,
    /// Steps until the process dies.
    lives_for: Option<usize>,
}

impl PowerDisk {
    pub(super) fn new(lacks: Lacks) -> Self {
        Self(Arc::new(Shared {
            lacks,
            state: Mutex::default(),
            turn: Mutex::default(),
            seen: InMemory::new(),
        }))
    }

    /// A disk with what was left of another.
    pub(super) fn of(left: Left) -> Self {
        let disk = Self::new(Lacks::Nothing);
        {
            let mut state = disk.0.state.lock();
            for (name, bytes) in left {
                match bytes {
                    None => drop(state.folders.insert(name)),
                    Some(bytes) => {
                        if !name.contains('#') {
                            disk.show(&name, &bytes);
                        }
                        state.contents.push(bytes);
                        let inode = state.contents.len() - 1;
                        state.files.insert(name, inode);
                    }
                }
            }
        }
        disk
    }

    /// Another disk, with the same steps behind it.
    pub(super) fn copied(&self) -> Self {
        let state = self.0.state.lock();
        Self(Arc::new(Shared {
            lacks: self.0.lacks,
            state: Mutex::new(state.clone()),
            turn: Mutex::default(),
            seen: self.0.seen.fork(),
        }))
    }

    /// The store on it, as a new process opens it.
    pub(super) fn objects(&self) -> Objects {
        let disk = Arc::new(self.clone());
        Objects::in_folder(Arc::clone(&disk) as Arc<_>, disk, PathBuf::from(ROOT))
    }

    /// All steps so far.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.0.state.lock().steps.clone()
    }

    /// How many there were.
    pub(super) fn count(&self) -> usize {
        self.0.state.lock().steps.len()
    }

    /// From now on, whoever uses it dies after so many steps; or does not.
    pub(super) fn lives_for(&self, steps: Option<usize>) {
        self.0.state.lock().lives_for = steps;
    }

    fn show(&self, name: &str, bytes: &Bytes) {
        let put = self
            .0
            .seen
            .put(&Path::from(name), bytes.clone().into())
            .now_or_never();
        put.expect("memory does not wait")
            .expect("memory takes everything");
    }

    fn hide(&self, name: &str) {
        let deleted = self.0.seen.delete(&Path::from(name)).now_or_never();
        deleted
            .expect("memory does not wait")
            .expect("memory lets everything go");
    }

    fn check_alive(&self) -> io::Result<()> {
        match self.0.state.lock().lives_for {
            Some(0) => Err(io::Error::other("the process is dead")),
            _ => Ok(()),
        }
    }

    /// Takes one step.
    fn step(&self, step: Step) -> io::Result<()> {
        self.check_alive()?;
        let mut state = self.0.state.lock();
        if let Some(left) = &mut state.lives_for {
            *left -= 1;
        }
        match &step {
            Step::MakeFolder(name) => drop(state.folders.insert(name.clone())),
            Step::RemoveFolder(name) => drop(state.folders.remove(name)),
            Step::Create(name, inode) => {
                state.contents.push(Bytes::new());
                state.files.insert(name.clone(), *inode);
            }
            Step::Write(inode, bytes) => state.contents[*inode] = bytes.clone(),
            Step::Link(inode, name) => {
                self.show(name, &state.contents[*inode]);
                state.files.insert(name.clone(), *inode);
            }
            Step::Rename(from, to) => {
                let inode = state.files.remove(from).expect("what is renamed is there");
                self.show(to, &state.contents[inode]);
                state.files.insert(to.clone(), inode);
            }
            Step::Remove(name) => {
                state.files.remove(name);
                self.hide(name);
            }
            Step::SyncFile(_) if self.0.lacks == Lacks::Files => return Ok(()),
            Step::SyncFolder(_) if self.0.lacks == Lacks::Folders => return Ok(()),
            Step::SyncFile(_) | Step::SyncFolder(_) => {}
        }
        state.steps.push(step);
        Ok(())
    }

    fn is_folder(&self, name: &str) -> bool {
        name.is_empty() || self.0.state.lock().folders.contains(name)
    }

    fn is_file(&self, name: &str) -> bool {
        self.0.state.lock().files.contains_key(name)
    }

    /// Makes a folder and what is missing above it, and syncs all that changed.
    fn make_folders(&self, folder: &str) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut above = folder;
        while !self.is_folder(above) {
            missing.push(above);
            above = folder_of(above);
        }
        for name in missing.iter().rev() {
            self.step(Step::MakeFolder((*name).to_owned()))?;
        }
        for name in missing.into_iter().chain([above]) {
            self.step(Step::SyncFolder(name.to_owned()))?;
        }
        Ok(())
    }

    /// What the backend does for a new object; `false` if there was one.
    fn put(&self, name: &str, bytes: Bytes, mode: &PutMode) -> io::Result<bool> {
        let _turn = self.0.turn.lock();
        let folder = folder_of(name);
        if !self.is_folder(folder) {
            self.make_folders(folder)?;
        }
        let staged = (1..)
            .map(|n| format!("{name}#{n}"))
            .find(|staged| !self.is_file(staged));
        let staged = staged.expect("there are enough numbers");
        let inode = self.0.state.lock().contents.len();
        self.step(Step::Create(staged.clone(), inode))?;
        self.step(Step::Write(inode, bytes))?;
        self.step(Step::SyncFile(inode))?;
        if *mode == PutMode::Create {
            if self.is_file(name) {
                self.step(Step::Remove(staged))?;
                return Ok(false);
            }
            self.step(Step::Link(inode, name.to_owned()))?;
            self.step(Step::SyncFolder(folder.to_owned()))?;
            self.step(Step::Remove(staged))?;
        } else {
            self.step(Step::Rename(staged, name.to_owned()))?;
            self.step(Step::SyncFolder(folder.to_owned()))?;
        }
        Ok(true)
    }

    fn delete(&self, at: &Path) -> Result<()> {
        match self.is_file(at.as_ref()) {
            true => self.step(Step::Remove(at.to_string())).map_err(failed),
            false => Err(Error::NotFound {
                path: at.to_string(),
                source: "it is not there".into(),
            }),
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::Generic {
        store: "disk",
        source: error.into(),
    }
}

/// A path of whoever asks, as a name.
fn name_of(path: &FilePath) -> io::Result<String> {
    let below = path.strip_prefix(ROOT).map_err(io::Error::other)?;
    Ok(below.to_str().expect("names are text").to_owned())
}

impl Disk for PowerDisk {
    fn sync(&self, folder: &FilePath) -> io::Result<()> {
        let name = name_of(folder)?;
        match (self.0.lacks, self.is_folder(&name)) {
            (Lacks::Settling, _) => Ok(()),
            (_, true) => self.step(Step::SyncFolder(name)),
            (_, false) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn entries(&self, folder: &FilePath) -> io::Result<Vec<Entry>> {
        self.check_alive()?;
        let name = name_of(folder)?;
        if !self.is_folder(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let state = self.0.state.lock();
        let files = state.files.keys().map(|file| (file, Kind::File));
        let all = files.chain(state.folders.iter().map(|folder| (folder, Kind::Folder)));
        let inside = all.filter(|(entry, _)| folder_of(entry) == name);
        let entries = inside.map(|(entry, kind)| Entry {
            name: entry.rsplit('/').next().unwrap_or(entry).into(),
            kind,
        });
        Ok(entries.collect())
    }

    fn modified(&self, _: &FilePath) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn remove_file(&self, file: &FilePath) -> io::Result<()> {
        let name = name_of(file)?;
        match self.is_file(&name) {
            true => self.step(Step::Remove(name)),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_folder(&self, folder: &FilePath) -> io::Result<()> {
        let name = name_of(folder)?;
        match (self.is_folder(&name), self.entries(folder)?.is_empty()) {
            (true, true) => self.step(Step::RemoveFolder(name)),
            _ => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
    }
}

impl fmt::Display for PowerDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PowerDisk")
    }
}

#[async_trait::async_trait]
impl ObjectStore for PowerDisk {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self
            .put(at.as_ref(), payload.into(), &options.mode)
            .map_err(failed)?
        {
            true => Ok(PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            }),
            false => Err(Error::AlreadyExists {
                path: at.to_string(),
                source: "it is there".into(),
            }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed(io::ErrorKind::Unsupported.into()))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_alive().map_err(failed)?;
        self.0.seen.get_opts(at, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let disk = self.clone();
        let deleted = locations.map(move |at| at.and_then(|at| disk.delete(&at).map(|()| at)));
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check_alive() {
            Ok(()) => self.0.seen.list(prefix),
            Err(error) => futures::stream::iter([Err(failed(error))]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check_alive().map_err(failed)?;
        let mut listed = self.0.seen.list_with_delimiter(prefix).await?;
        // A folder counts even if nothing is in it.
        let above = prefix.map_or("", |prefix| prefix.as_ref());
        let state = self.0.state.lock();
        let folders = state.folders.iter().filter(|folder| folder_of(folder) == above);
        listed.common_prefixes = folders.map(|folder| Path::from(folder.as_str())).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failed(io::ErrorKind::Unsupported.into()))
    }
}
