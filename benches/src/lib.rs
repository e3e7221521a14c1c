//! What the measurements share: the data sets, the machine, and a table on the screen.
//!
//! Each file in `benches/benches/` is one measurement, run by `make bench`; what it printed on a named machine is kept in
//! `benches/record/`.

pub mod data;
pub mod machine;
pub mod report;
