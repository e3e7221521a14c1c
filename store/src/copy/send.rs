//! Pieces out of packs of the source, into packs of the target.
//!
//! ```text
//! source packs, read whole and held against their names, several at once ─▶ pieces, in order ─▶ packs of the target, stored several at once
//! ```
//! A piece has no hash of its own: only a whole pack can be held against its name. What of it is not needed is read, and not sent.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::lacking::{Finder, Key, Lacking};
use super::target::{Sealed, Target};
use crate::abreast::abreast;
use crate::catalog::Piece;
use crate::error::{Result, StoreError};
use crate::ids::PackId;
use crate::keys;
use crate::pack::{Content, Holder, MAX_PACK_BYTES, Needed, Part, prefix_of};
use crate::progress::Progress;
use crate::store::Store;

/// Most bytes of source packs that are read at once; as many are being stored meanwhile, and one more pack is open.
const WINDOW_BYTES: u64 = 128 << 20;

/// Pieces of one checkpoint that lie in one source pack.
struct Job<'l> {
    checkpoint: usize,
    pack: PackId,
    pieces: Vec<&'l Piece>,
}

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Packs of the target that were written for each checkpoint, in order, and their bytes.
    pub(super) packs: Vec<Vec<(PackId, u64)>>,
    /// Where each piece went.
    pub(super) holders: HashMap<Key, PackId>,
    /// Bytes of source packs that were read.
    pub(super) read_bytes: u64,
}

/// Sends what several checkpoints lack; each gets packs of its own.
///
/// # Errors
/// `Corrupt` if a pack of the source is missing or does not match its name; `Backend` if a store cannot be read or written.
pub(super) fn send(
    source: &Store,
    target: &Target<'_>,
    lacking: &[Lacking],
    finder: &Finder<'_>,
    progress: &dyn Progress,
) -> Result<Sent> {
    let jobs = jobs(lacking);
    let mut packer = Packer::new(target, finder, lacking.len());
    let mut read_bytes = 0;
    let mut full: Vec<Sealed> = Vec::new();
    for window in by_bytes(&jobs) {
        // What the last window filled is stored while this one is read.
        let (read, stored) = std::thread::scope(|scope| {
            let storing = scope.spawn(|| target.put(std::mem::take(&mut full)));
            let read = abreast(window, |job| whole_pack(source, job.pack));
            (read, storing.join())
        });
        stored.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        for (job, bytes) in window.iter().zip(read?) {
            read_bytes += bytes.len() as u64;
            packer.begin(job.checkpoint);
            for piece in &job.pieces {
                packer.add(piece, &slice_of(piece, &bytes)?);
                progress.advance(piece.len_bytes());
            }
        }
        full = packer.take_full();
    }
    packer.close();
    full.extend(packer.take_full());
    target.put(full)?;
    Ok(Sent {
        packs: packer.packs,
        holders: packer.holders,
        read_bytes,
    })
}

/// Pieces by checkpoint and source pack, in the order in which packs are first needed.
fn jobs(lacking: &[Lacking]) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for (checkpoint, lacking) in lacking.iter().enumerate() {
        let first = jobs.len();
        let mut place: HashMap<PackId, usize> = HashMap::new();
        for piece in &lacking.pieces {
            let at = *place.entry(piece.pack).or_insert_with(|| {
                jobs.push(Job {
                    checkpoint,
                    pack: piece.pack,
                    pieces: Vec::new(),
                });
                jobs.len() - 1
            });
            jobs[at].pieces.push(piece);
        }
        for job in &mut jobs[first..] {
            job.pieces.sort_by_key(|piece| piece.range().start);
        }
    }
    jobs
}

/// Cuts jobs into runs that are read at once: what of a pack is needed tells no more than how much it has at least.
fn by_bytes<'j, 'l>(jobs: &'j [Job<'l>]) -> impl Iterator<Item = &'j [Job<'l>]> {
    let mut rest = jobs;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let over = rest.iter().position(|job| {
            sum += job.pieces.iter().map(|p| p.pack_bytes()).max().unwrap_or(0);
            sum > WINDOW_BYTES
        });
        let (window, after) = rest.split_at(over.unwrap_or(rest.len()).max(1).min(rest.len()));
        rest = after;
        (!window.is_empty()).then_some(window)
    })
}

/// A pack of the source, held against its name.
fn whole_pack(source: &Store, pack: PackId) -> Result<Bytes> {
    let key = keys::Key::Pack(pack);
    let bytes = source.objects().get_bounded(&key, MAX_PACK_BYTES as u64)?;
    let bytes = bytes.ok_or_else(|| StoreError::corrupt(key.to_string(), "it is missing"))?;
    match PackId::of(&bytes) == pack {
        true => Ok(bytes),
        false => Err(StoreError::corrupt(
            key.to_string(),
            format!(
                "its {} bytes are not the ones that it is named after",
                bytes.len()
            ),
        )),
    }
}

fn slice_of(piece: &Piece, pack: &Bytes) -> Result<Bytes> {
    let at = |offset: u64| usize::try_from(offset).ok();
    let range = at(piece.range().start).zip(at(piece.range().end));
    match range.filter(|&(start, end)| start <= end && end <= pack.len()) {
        Some((start, end)) => Ok(pack.slice(start..end)),
        None => Err(StoreError::corrupt(piece.shown(), "the pack ends before")),
    }
}

/// Fills packs of the target.
struct Packer<'t> {
    target: &'t Target<'t>,
    finder: &'t Finder<'t>,
    open: crate::pack::PackWriter,
    checkpoint: usize,
    /// Pieces in the open pack.
    pending: HashSet<Key>,
    full: Vec<Sealed>,
    packs: Vec<Vec<(PackId, u64)>>,
    holders: HashMap<Key, PackId>,
}

impl<'t> Packer<'t> {
    fn new(target: &'t Target<'t>, finder: &'t Finder<'t>, checkpoints: usize) -> Self {
        Self {
            target,
            finder,
            open: target.writer(),
            checkpoint: 0,
            pending: HashSet::new(),
            full: Vec::new(),
            packs: vec![Vec::new(); checkpoints],
            holders: HashMap::new(),
        }
    }

    /// What follows belongs to this checkpoint.
    fn begin(&mut self, checkpoint: usize) {
        if checkpoint != self.checkpoint {
            self.close();
            self.checkpoint = checkpoint;
        }
    }

    fn add(&mut self, piece: &Piece, bytes: &[u8]) {
        if !self.open.is_empty() && !self.open.fits(bytes.len()) {
            self.close();
        }
        let entry = piece.entry();
        let part = piece.part();
        let mut needs = entry.needs;
        if let Some(base) = &mut needs.base {
            base.holder = self.holder(base, part);
        }
        if let Some((relation, given)) = &mut needs.given {
            given.holder = self.holder(given, part.given(*relation));
        }
        let content = match (entry.content, part) {
            (Content::Slices { dtype, .. }, Part::Slice { number, .. }) => {
                Content::Slices { dtype, first: number }
            }
            (other, _) => other,
        };
        self.open.add(entry.id, content, needs, entry.rank, bytes);
        self.pending.insert((prefix_of(&entry.id), part));
    }

    /// Where in the target to look for what a piece reads.
    fn holder(&self, needed: &Needed, part: Part) -> Holder {
        let key = (needed.prefix, part);
        if self.pending.contains(&key) {
            return Holder::Here;
        }
        let pack = self.holders.get(&key).copied();
        pack.or_else(|| self.finder.holder(&key))
            .map_or(Holder::Unknown, Holder::Pack)
    }

    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let sealed = self
            .target
            .seal(std::mem::replace(&mut self.open, self.target.writer()));
        self.packs[self.checkpoint].push((sealed.id, sealed.bytes.len() as u64));
        for key in self.pending.drain() {
            self.holders.insert(key, sealed.id);
        }
        self.full.push(sealed);
    }

    /// Packs that are to be stored.
    fn take_full(&mut self) -> Vec<Sealed> {
        std::mem::take(&mut self.full)
    }
}
