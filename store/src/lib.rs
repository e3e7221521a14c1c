//! The TPDE checkpoint store.

mod compress;
pub mod error;
mod files;
pub mod ids;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod objects;
pub mod pack;
