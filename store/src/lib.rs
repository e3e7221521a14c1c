//! The TPDE checkpoint store.

pub mod error;
pub mod ids;
pub mod keys;
pub mod names;
pub mod objects;
