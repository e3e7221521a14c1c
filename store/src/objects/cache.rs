//! Pieces of packs that this machine has fetched or written before (docs/adr/0014).
//!
//! ```text
//! <cache folder>/<store id>/packs/<pack>      records, in the order in which they came
//! record   u64 start in the pack | u64 length | [32] BLAKE3 of pack, start and bytes | bytes
//! ```
//! A disposable copy: whatever is read from it is compared with the record's hash, and a file in which anything is wrong is dropped,
//! as if it had never been there. Packs never change, so nothing in it gets stale. Files that were not used for longest go first.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::ids::PackId;

const HEADER_BYTES: usize = 48;

/// Longest record that is believed: no piece of a pack is longer.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Once it is full, it is emptied down to this many of its sixteen parts, so that it is not full again at once.
const KEPT_SIXTEENTHS: u64 = 14;

/// Pieces of packs on this machine's disk.
#[derive(Debug)]
pub struct PackCache {
    folder: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: HashMap<PackId, Records>,
    /// Bytes of all files, as far as is known; `None` before they were counted.
    total_bytes: Option<u64>,
    /// The disk refused something: this process does without.
    broken: bool,
}

/// What a file holds.
#[derive(Debug, Default)]
struct Records {
    /// By where a piece starts in its pack: its length, and where its bytes are in the file.
    by_start: HashMap<u64, (u64, u64)>,
    /// Where the last whole record ends.
    end: u64,
}

impl Records {
    /// Takes in the records from where it stopped; gives the length of the file.
    fn read_on(&mut self, file: &mut File) -> io::Result<u64> {
        let len = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        while self.end + HEADER_BYTES as u64 <= len {
            file.seek(SeekFrom::Start(self.end))?;
            file.read_exact(&mut header)?;
            let (start, bytes) = (number(&header, 0), number(&header, 8));
            let at = self.end + HEADER_BYTES as u64;
            if bytes > MAX_RECORD_BYTES || at + bytes > len {
                break;
            }
            self.by_start.insert(start, (bytes, at));
            self.end = at + bytes;
        }
        Ok(len)
    }
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn sum(pack: PackId, start: u64, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(pack.as_bytes());
    hasher.update(&start.to_le_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

impl PackCache {
    /// A cache in `folder`, which is made when something is first kept.
    ///
    /// * `limit_bytes`: what its files may take together.
    pub fn new(folder: &Path, limit_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            limit_bytes,
            state: Mutex::default(),
        }
    }

    fn file(&self, pack: &PackId) -> PathBuf {
        self.folder.join(pack.to_string())
    }

    /// Whether this piece of a pack is kept here, as far as is known without reading it.
    pub(crate) fn has(&self, (pack, range): &(PackId, Range<u64>)) -> bool {
        self.place(pack, range).is_some()
    }

    /// Where the bytes of a piece are in the file of its pack.
    fn place(&self, pack: &PackId, range: &Range<u64>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.broken {
            return None;
        }
        let records = state
            .packs
            .entry(*pack)
            .or_insert_with(|| self.open(pack).unwrap_or_default());
        let &(len, at) = records.by_start.get(&range.start)?;
        (len == range.end - range.start).then_some(at)
    }

    /// Reads what a file holds, and marks it as used.
    fn open(&self, pack: &PackId) -> io::Result<Records> {
        let mut records = Records::default();
        let mut file = OpenOptions::new().read(true).append(true).open(self.file(pack))?;
        records.read_on(&mut file)?;
        file.set_modified(SystemTime::now())?;
        Ok(records)
    }

    /// A piece of a pack, compared with its hash; `None` if it is not kept here, or not any more what it was.
    pub(crate) fn get(&self, at: &(PackId, Range<u64>)) -> Option<Bytes> {
        let (pack, range) = at;
        let place = self.place(pack, range)?;
        match read(&self.file(pack), *pack, range, place) {
            Ok(Some(bytes)) => return Some(bytes),
            Ok(None) => {
                tracing::warn!(%pack, "a cached piece is damaged; it is fetched again");
                // Others may have dropped it before.
                let _ = fs::remove_file(self.file(pack));
            }
            Err(error) => tracing::debug!(%pack, %error, "not read from the cache"),
        }
        self.state.lock().packs.remove(pack);
        None
    }

    /// Keeps pieces of a pack, each with where it starts. A disk that refuses is no error: this process does without then.
    pub(crate) fn keep<'b>(&self, pack: PackId, pieces: impl Iterator<Item = (u64, &'b [u8])>) {
        let mut state = self.state.lock();
        if state.broken {
            return;
        }
        let known = state
            .packs
            .entry(pack)
            .or_insert_with(|| self.open(&pack).unwrap_or_default());
        let new: Vec<(u64, &[u8])> = pieces
            .filter(|(start, bytes)| {
                known
                    .by_start
                    .get(start)
                    .is_none_or(|r| r.0 != bytes.len() as u64)
            })
            .collect();
        let more: u64 = new.iter().map(|(_, b)| (b.len() + HEADER_BYTES) as u64).sum();
        if new.is_empty() || more > self.limit_bytes {
            return;
        }
        let kept = self.make_room(&mut state, more).and_then(|()| {
            let records = state.packs.entry(pack).or_default();
            self.append(pack, records, &new)
        });
        match kept {
            Ok(()) => state.total_bytes = state.total_bytes.map(|n| n + more),
            Err(error) => {
                tracing::debug!(%error, "nothing more is cached");
                state.broken = true;
            }
        }
    }

    fn append(&self, pack: PackId, records: &mut Records, new: &[(u64, &[u8])]) -> io::Result<()> {
        let path = self.file(&pack);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)?;
        // Other processes of this user write here too.
        file.lock()?;
        if records.read_on(&mut file)? > records.end {
            // A writer was killed in the middle of a record.
            file.set_len(records.end)?;
        }
        for &(start, bytes) in new {
            let mut header = [0; HEADER_BYTES];
            header[..8].copy_from_slice(&start.to_le_bytes());
            header[8..16].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            header[16..].copy_from_slice(&sum(pack, start, bytes));
            file.write_all(&header)?;
            file.write_all(bytes)?;
        }
        records.read_on(&mut file)?;
        Ok(())
    }

    /// Drops the files that were not used for longest, if there is no room for `more` bytes.
    fn make_room(&self, state: &mut State, more: u64) -> io::Result<()> {
        if state
            .total_bytes
            .is_some_and(|total| total + more <= self.limit_bytes)
        {
            return Ok(());
        }
        make_private(&self.folder)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|&(_, len, _)| len).sum();
        if total + more > self.limit_bytes {
            let most = (self.limit_bytes / 16 * KEPT_SIXTEENTHS).saturating_sub(more);
            for (_, len, path) in files {
                if total <= most {
                    break;
                }
                fs::remove_file(&path)?;
                total -= len;
            }
            // What is gone is found out by looking again.
            state.packs.clear();
        }
        state.total_bytes = Some(total);
        Ok(())
    }
}

/// Reads a record's bytes; `None` if they are not what was kept.
fn read(path: &Path, pack: PackId, range: &Range<u64>, at: u64) -> io::Result<Option<Bytes>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at - HEADER_BYTES as u64))?;
    let mut header = [0; HEADER_BYTES];
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
    let whole = file
        .read_exact(&mut header)
        .and_then(|()| file.read_exact(&mut bytes));
    match whole {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let is_right = header[16..] == sum(pack, range.start, &bytes)
        && number(&header, 0) == range.start
        && number(&header, 8) == range.end - range.start;
    Ok(is_right.then(|| Bytes::from(bytes)))
}

/// Makes a folder that only this user can look into.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(n: u8) -> PackId {
        PackId::of(&[n])
    }

    fn keep(cache: &PackCache, n: u8, start: u64, bytes: &[u8]) {
        cache.keep(pack(n), [(start, bytes)].into_iter());
    }

    /// Promise: what was kept comes back, in this process and in the next, and nothing else does.
    #[test]
    fn what_was_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store/packs");
        let cache = PackCache::new(&folder, 1 << 20);
        assert_eq!(cache.get(&(pack(1), 0..3)), None);
        cache.keep(pack(1), [(0, &b"abc"[..]), (9, &b""[..])].into_iter());
        keep(&cache, 1, 100, b"defg");
        for cache in [cache, PackCache::new(&folder, 1 << 20)] {
            assert_eq!(cache.get(&(pack(1), 0..3)).unwrap(), "abc");
            assert_eq!(cache.get(&(pack(1), 9..9)).unwrap(), "");
            assert_eq!(cache.get(&(pack(1), 100..104)).unwrap(), "defg");
            for absent in [(pack(1), 0..2), (pack(1), 1..3), (pack(2), 0..3)] {
                assert!(!cache.has(&absent) && cache.get(&absent).is_none(), "{absent:?}");
            }
        }
    }

    /// Promise: no flip and no truncation of a file is ever handed out; the file is dropped, and can be filled again.
    #[test]
    fn damage_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(pack(1).to_string());
        keep(
            &PackCache::new(dir.path(), 1 << 20),
            1,
            7,
            b"the bytes of a piece",
        );
        let whole = fs::read(&file).unwrap();
        let is_right_or_absent = |text: &str| {
            let cache = PackCache::new(dir.path(), 1 << 20);
            let got = cache.get(&(pack(1), 7..27));
            assert!(got.is_none_or(|got| got == "the bytes of a piece"), "{text}");
            keep(&cache, 1, 7, b"the bytes of a piece");
            assert_eq!(
                cache.get(&(pack(1), 7..27)).unwrap(),
                "the bytes of a piece",
                "{text}"
            );
        };
        for bit in 0..8 * whole.len() {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &bad).unwrap();
            let cache = PackCache::new(dir.path(), 1 << 20);
            assert_eq!(cache.get(&(pack(1), 7..27)), None, "bit {bit}");
            is_right_or_absent(&format!("bit {bit}"));
        }
        for cut in 0..whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            is_right_or_absent(&format!("cut at {cut}"));
        }
    }

    /// Promise: the files never take more than the limit, and what was used last stays.
    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackCache::new(dir.path(), 4000);
        let len = || -> u64 {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
        };
        let age = |n: u8, seconds: u64| {
            let file = File::options()
                .append(true)
                .open(dir.path().join(pack(n).to_string()));
            let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
            file.unwrap().set_modified(then).unwrap();
        };
        for n in 1..=3 {
            keep(&cache, n, 0, &[n; 1000]);
            age(n, 100 - u64::from(n));
        }
        // Another process reads the oldest.
        assert!(
            PackCache::new(dir.path(), 4000)
                .get(&(pack(1), 0..1000))
                .is_some()
        );
        keep(&cache, 4, 0, &[4; 1000]);
        assert!(len() <= 4000);
        assert!(cache.has(&(pack(1), 0..1000)) && cache.has(&(pack(4), 0..1000)));
        assert!(!cache.has(&(pack(2), 0..1000)));
        keep(&cache, 5, 0, &[5; 5000]);
        assert!(
            !cache.has(&(pack(5), 0..5000)),
            "what is longer than the limit is not kept"
        );
    }
}
