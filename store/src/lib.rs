//! The TPDE checkpoint store: immutable objects on a disk or a server, and one conditional create as the commit.
//!
//! ```text
//! store       an open store: save, restore, verify, diff, stats
//! watch       checkpoints that a trainer completes while it goes on
//! import      checkpoints that a trainer left in a folder
//! copy        commits of one store into another
//! heatmap     where in a model two checkpoints differ
//! distrust    a store without the packs that are damaged under a checkpoint
//! part        some elements of a tensor, from the bytes that they take
//! lease       what keeps gc from what a writer relies on         mark    what a gc is about to delete
//! save        files ─▶ ids ─▶ bases ─▶ frames ─▶ packs ─▶ manifest ─▶ slot        restore, backwards
//! content     a piece back into bytes, verified                   graph: all that a piece is decoded from
//! transfer    packs and pieces on their way, many at a time
//! catalog     which piece of which pack holds some content
//! roles       what a tensor is to its run, told by its name
//! manifest, pack, files                  what a checkpoint consists of, where it is kept, where it came from
//! repair      what can be saved of a damaged store            du      where the bytes are
//! repack      the same contents in fewer bytes                 gc      what nothing needs goes
//! forget      commits out of the log, and back            reach   what the others need      salvage     pieces into new packs
//! reference   run@step, tags, id prefixes → a manifest
//! tags        names for checkpoints
//! history     newest slot + rollups → the log of a run
//! commit      one create-only slot per checkpoint, exactly once
//! slot, rollup, summary, action, seqs, metrics     what a run's records say
//! config, probe                          what makes a place a store, and whether it can be one
//! index       which pack holds which content: a cache that may be thrown away
//! objects     get, create, list over any backend                   abreast  many requests at once
//! keys, names, ids, error                the words of all of them
//! ```
//! Each line uses only those below it.
//!
//! ```
//! use tpde_store::{Objects, SaveRequest, Silent, Store, config};
//!
//! let objects = Objects::memory();
//! config::init(&objects)?;
//! let store = Store::over(objects, None)?;
//! # let dir = tempfile::tempdir()?;
//! # let checkpoint = dir.path();
//! std::fs::write(checkpoint.join("config.json"), "{}")?;
//! let report = store.save(&SaveRequest::new(checkpoint, "llama".parse()?, 600), &Silent)?;
//! assert_eq!(store.resolve("llama@600")?.manifest, report.manifest);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod abreast;
pub mod action;
mod catalog;
mod claim;
mod clock;
pub mod commit;
mod compress;
pub mod config;
mod content;
pub mod copy;
pub mod diff;
mod distrust;
pub mod doctor;
pub mod du;
pub mod error;
pub mod explain;
#[cfg(test)]
mod faults;
mod files;
pub mod forget;
pub mod gc;
mod graph;
pub mod heatmap;
pub mod history;
pub mod ids;
pub mod import;
pub mod index;
pub mod keys;
mod lease;
pub mod manifest;
mod mark;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod pack;
mod part;
pub mod probe;
pub mod progress;
mod reach;
pub mod reference;
pub mod repack;
pub mod repair;
pub mod restore;
pub mod roles;
pub mod rollup;
mod salvage;
pub mod save;
mod seal;
pub mod seqs;
pub mod slot;
pub mod stats;
mod store;
pub mod summary;
pub mod tags;
pub mod transfer;
pub mod verified;
pub mod verify;
pub mod watch;
mod window;

pub use action::Action;
pub use clock::now_unix_ms;
pub use commit::{CommitOptions, ExpectParent, NewCommit, Outcome};
pub use config::{Access, Config};
pub use copy::{CopyReport, CopyRequest};
pub use diff::{Change, Diff, FileChange, FileDiff, TensorDiff};
pub use doctor::{Finding, Health};
pub use du::{RunUsage, Usage};
pub use error::{Result, StoreError};
pub use explain::{Container, Explanation, RestoreCost, RoleShare};
pub use files::left_out::{LeftOut, LeftOutWhy};
pub use files::memory::{MemoryBytes, MemoryFile};
pub use forget::{Forgotten, Policy, Undone};
pub use gc::{GcReport, GcRequest};
pub use heatmap::Heatmap;
pub use ids::{BlobId, Fingerprint, ManifestId, Nonce, PackId, StoreId};
pub use manifest::Manifest;
pub use metrics::{Metric, Metrics};
pub use names::{RunName, TagName};
pub use objects::{Objects, Rate};
pub use progress::{Progress, Silent, Stage};
pub use reference::{Place, Resolved};
pub use repack::{RepackReport, RepackRequest};
pub use restore::load::{Sink, Wanted};
pub use restore::{RestoreReport, RestoreRequest};
pub use roles::Role;
pub use save::parts::{PartOf, PartReport};
pub use save::{KeptWhole, SaveReport, SaveRequest, Source};
pub use seqs::SeqSet;
pub use stats::{RunStats, Stats};
pub use store::{DEFAULT_PACK_CACHE_BYTES, OpenOptions, Store};
pub use summary::{Summary, Totals};
pub use transfer::Moved;
pub use verify::{Problem, VerifyLevel, VerifyReport, VerifyRequest};
