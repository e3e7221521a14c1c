//! The `tpde` command.
fn main() {}
