//! Hot loops. `scalar` is the definition; every other variant must equal it byte for byte.

pub(crate) mod scalar;
