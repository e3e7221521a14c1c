//! The TPDE checkpoint store.
