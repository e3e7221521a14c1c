//! The TPDE codec.

pub mod error;
pub mod id;
pub mod wire;
