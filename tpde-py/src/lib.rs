//! What `import tpde` stands on: the store, memory that tensors are copied into, and checkpoints that load into memory.
//!
//! ```text
//! store        save, prune, log, diff      checkpoint   what is in one, and its bytes into memory
//! memory       staging buffers             errors       kinds of errors as classes of Python
//! ```
//! Conversion only: what a training loop wants is in `python/tpde`, what a store does in tpde-store. Python's lock is released around
//! everything that reads, writes, encodes or copies.

mod checkpoint;
mod errors;
mod memory;
mod rows;
mod store;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the `tpde` command.
///
/// * `typed`: its words, the name of the program first.
///
/// Returns the exit code.
#[pyfunction]
fn cli(py: Python<'_>, typed: Vec<OsString>) -> u8 {
    py.detach(|| tpde_cli::main(&typed))
}

/// The module `tpde._tpde`.
#[pymodule]
fn _tpde(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(cli, module)?)?;
    module.add_function(wrap_pyfunction!(store::check_metrics, module)?)?;
    module.add_class::<memory::Staging>()?;
    module.add_class::<store::Store>()?;
    module.add_class::<store::SaveReport>()?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<checkpoint::Tensor>()?;
    module.add_class::<checkpoint::File>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
