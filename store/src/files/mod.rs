//! The user's files: finding them, understanding them, reading and writing them safely.

pub(crate) mod paths;
pub(crate) mod safetensors;
pub(crate) mod scan;
pub(crate) mod source;
pub(crate) mod target;
