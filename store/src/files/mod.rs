//! The user's files: finding them, understanding them, reading and writing them safely.

pub(crate) mod left_out;
#[cfg(test)]
pub(crate) mod made_up;
pub(crate) mod memory;
pub(crate) mod paths;
pub(crate) mod safetensors;
pub(crate) mod scan;
pub(crate) mod source;
pub(crate) mod stale;
pub(crate) mod target;
pub(crate) mod torch;
