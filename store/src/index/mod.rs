//! The index: which pack holds which content. A disposable cache on this machine, never part of the store.
//!
//! ```text
//! TPDE_CACHE_DIR | XDG_CACHE_HOME/tpde | ~/.cache/tpde
//!   └ <store id>/ lock          held while open; a second process does without a cache
//!                 index/        sled
//!                 index.bad-1/  the last one that was set aside
//!                 verified.json when the store was last verified from here
//! ```
//! A miss never means that the content is absent, only that this cache does not know. A hit may be stale: the pack
//! may be gone from the store, so confirm it before relying on it. On any doubt (an error, a panic, a row whose
//! checksum is wrong, another schema) the cache is set aside and an empty one takes its place.

mod memory;
mod row;
mod sled;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::ids::{PackId, StoreId};
use crate::pack::{PART_LEN, PREFIX_LEN};

pub use self::memory::MemoryIndex;
pub use self::sled::SledIndex;

/// What a row is filed under: the first bytes of the id of a tensor or blob, and which part of it.
pub type ContentKey = [u8; PREFIX_LEN + PART_LEN];

/// What a cache of locations does. Every implementation gives the same answers to the same calls, until something
/// is damaged; then it may forget, and never invents.
pub trait Index: Send + Sync {
    /// The pack that `content` was last inserted with, or `None` if this cache does not know.
    fn lookup(&self, content: &ContentKey) -> Option<PackId>;

    /// Adds a row for each content of a pack, then marks the pack as known. A later row of the same content takes the
    /// place of an earlier one.
    ///
    /// A crash in between leaves rows without the mark, which is harmless: the pack is read again.
    fn insert_pack(&self, pack: &PackId, contents: &[ContentKey]);

    /// Whether [`Index::insert_pack`] has completed for `pack`.
    fn has_pack(&self, pack: &PackId) -> bool;

    /// All packs that are known.
    fn packs(&self) -> BTreeSet<PackId>;

    /// Forgets everything.
    fn clear(&self);

    /// Makes what was inserted outlive this process, where there is something to outlive it in.
    fn flush(&self);

    /// Whether something was found damaged since this was opened; it has been emptied since, so index the packs
    /// again.
    fn is_doubtful(&self) -> bool;
}

/// Opens the cache of the store `store_id` in the folder `cache`, or one in memory if that cannot be.
///
/// Never fails: damage is set aside, and a cache that another process holds is done without.
///
/// * `cache`: [`cache_folder`] of this user; `None` keeps the index in memory.
pub fn open_index(store_id: &StoreId, cache: Option<&Path>) -> Box<dyn Index> {
    let opened = cache.and_then(|cache| SledIndex::open(&cache.join(store_id.to_string())));
    match opened {
        Some(index) => Box::new(index),
        None => Box::new(MemoryIndex::default()),
    }
}

/// This user's cache folder: `TPDE_CACHE_DIR`, else `XDG_CACHE_HOME/tpde`, else `~/.cache/tpde`; `None` if the
/// environment names none of them.
pub fn cache_folder() -> Option<PathBuf> {
    cache_folder_in(|name| std::env::var_os(name))
}

fn cache_folder_in(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    folder("TPDE_CACHE_DIR")
        // The XDG rules: a relative path is to be ignored.
        .or_else(|| {
            folder("XDG_CACHE_HOME")
                .filter(|p| p.is_absolute())
                .map(|p| p.join("tpde"))
        })
        .or_else(|| folder("HOME").map(|p| p.join(".cache/tpde")))
}

#[cfg(test)]
mod tests;
