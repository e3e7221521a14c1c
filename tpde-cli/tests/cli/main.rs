//! Promises of the `tpde` binary, kept by running it.

mod copy;
mod exits;
mod forget;
mod history;
mod json;
mod notices;
mod screens;
mod tour;
mod trees;
mod watch;
mod world;
