//! Processes that die at work: writers of every kind on a disk, writers of a server, and the server.
//!
//! `TPDE_SOAK=1` kills many more. `--nocapture` prints what the kills hit.

mod disk;
mod held;
mod moment;
mod server;
