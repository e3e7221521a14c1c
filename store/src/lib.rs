//! The TPDE checkpoint store.

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
