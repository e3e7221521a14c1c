//! The TPDE checkpoint store: immutable objects on a disk or a server, and one conditional create as the commit.
//!
//! ```text
//! reference   run@step, tags, id prefixes → a manifest
//! tags        names for checkpoints
//! history     newest slot + rollups → the log of a run
//! commit      one create-only slot per checkpoint, exactly once
//! slot, rollup, summary                  what a run's records say
//! config, probe                          what makes a place a store, and whether it can be one
//! index       which pack holds which content: a cache that may be thrown away
//! objects     get, create, list over any backend
//! keys, names, ids, error                the words of all of them
//! ```
//! Each line uses only those below it.
//!
//! ```
//! use tpde_store::{CommitOptions, Fingerprint, ManifestId, NewCommit, Nonce, Objects, Outcome, Totals};
//! use tpde_store::{commit, config, reference};
//!
//! let objects = Objects::memory();
//! config::init(&objects)?;
//! let new = NewCommit {
//!     manifest: ManifestId::of(b"a stored manifest"),
//!     fingerprint: Fingerprint::of(b"its content"),
//!     step: 600,
//!     nonce: Nonce::random()?,
//!     created_unix_ms: 1_700_000_000_000,
//!     totals: Totals::default(),
//! };
//! let done = commit::commit(&objects, &"llama".parse()?, &new, &CommitOptions::default())?;
//! assert_eq!(done, Outcome::Committed { seq: 0 });
//! assert_eq!(reference::resolve(&objects, "llama@600")?.manifest, new.manifest);
//! # Ok::<(), tpde_store::StoreError>(())
//! ```

pub mod commit;
pub mod config;
pub mod error;
pub mod history;
pub mod ids;
pub mod index;
pub mod keys;
pub mod names;
pub mod objects;
pub mod probe;
pub mod reference;
pub mod rollup;
pub mod slot;
pub mod summary;
pub mod tags;

mod claim;
mod seal;

#[cfg(test)]
mod faults;

pub use commit::{CommitOptions, ExpectParent, NewCommit, Outcome};
pub use config::{Access, Config};
pub use error::{Result, StoreError};
pub use ids::{BlobId, Fingerprint, ManifestId, Nonce, PackId, SlotHash, StoreId};
pub use index::{ContentKey, Index, Row, cache_folder, open_index};
pub use keys::{Key, Prefix};
pub use names::{RunName, TagName};
pub use objects::{Created, Listed, Objects};
pub use reference::{Place, Reference, Resolved};
pub use rollup::ROLLUP_EVERY;
pub use slot::{Slot, StoredSlot};
pub use summary::{SlotAction, Summary, Totals};
pub use tags::{TagRecord, Target};
