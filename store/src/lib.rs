//! The TPDE checkpoint store.

mod claim;
pub mod commit;
mod compress;
pub mod error;
#[cfg(test)]
mod faults;
mod files;
pub mod history;
pub mod ids;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod objects;
pub mod pack;
pub mod rollup;
mod seal;
pub mod slot;
pub mod summary;
