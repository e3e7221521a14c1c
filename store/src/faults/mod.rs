//! Servers that fail on demand.
//!
//! ```text
//! plan        which requests fail, and how        server   a store in memory that keeps to a plan
//! upload      uploads in several parts, under the same plan
//! ```

mod plan;
mod server;
mod tests;
mod upload;

pub(crate) use plan::{Fault, Lie, Plan};
pub(crate) use server::FaultStore;
