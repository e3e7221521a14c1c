//! Servers and disks that fail on demand, and what must hold whatever they do.
//!
//! ```text
//! plan        which requests fail, and how        server   a store in memory that keeps to a plan
//! upload      uploads in several parts, under the same plan
//! world       a small store, what it says, and how to tell that all of it is whole
//! commands    everything that writes
//! everywhere  every command × every fault × every request
//! power       a disk that loses what was not synced, at every step
//! ```

mod commands;
mod everywhere;
mod plan;
mod power;
mod server;
mod tests;
mod upload;
mod world;

pub(crate) use plan::{Fault, Lie, Plan};
pub(crate) use server::FaultStore;
