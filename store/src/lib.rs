//! The TPDE checkpoint store.

pub mod commit;
pub mod error;
pub mod history;
pub mod ids;
pub mod keys;
pub mod names;
pub mod objects;
pub mod rollup;
pub mod slot;
pub mod summary;

mod claim;
mod seal;

#[cfg(test)]
mod faults;
