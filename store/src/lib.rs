//! The TPDE checkpoint store.

mod catalog;
mod claim;
pub mod commit;
mod compress;
pub mod config;
mod content;
pub mod error;
#[cfg(test)]
mod faults;
mod files;
pub mod history;
pub mod ids;
pub mod index;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod objects;
pub mod pack;
pub mod probe;
pub mod progress;
pub mod reference;
pub mod restore;
pub mod rollup;
pub mod save;
mod seal;
pub mod slot;
mod store;
pub mod summary;
pub mod tags;

pub use error::{Result, StoreError};
pub use store::Store;
