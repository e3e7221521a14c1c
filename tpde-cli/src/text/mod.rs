//! From values to words on a screen.

pub(crate) mod escape;
pub(crate) mod heat;
pub(crate) mod page;
pub(crate) mod spark;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod units;
