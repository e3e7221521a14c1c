//! Errors of the store as the exceptions of `tpde._errors`, one class a kind.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use tpde_store::StoreError;

/// The module that has the classes.
static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// Name of the class for a kind of error.
fn class_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } => "NotFoundError",
        StoreError::Corrupt { .. } => "CorruptError",
        StoreError::Conflict { .. } => "ConflictError",
        StoreError::Newer { .. } => "NewerError",
        StoreError::OutcomeUnknown { .. } => "OutcomeUnknownError",
        StoreError::Input { .. } => "InputError",
        StoreError::Backend { .. } => "BackendError",
        StoreError::Interrupted { .. } => "CancelledError",
        _ => "TpdeError",
    }
}

/// The exception for an error.
pub(crate) fn raised(py: Python<'_>, error: &StoreError) -> PyErr {
    let text = error.to_string();
    let class = CLASSES
        .get_or_try_init(py, || PyModule::import(py, "tpde._errors").map(Bound::unbind))
        .and_then(|module| module.bind(py).getattr(class_of(error)))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, text),
        Err(_) => PyRuntimeError::new_err(text),
    }
}

/// Results of the store as results of Python.
pub(crate) trait Raised<T> {
    /// Turns the error into an exception.
    fn raised(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raised<T> for tpde_store::error::Result<T> {
    fn raised(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raised(py, &error))
    }
}
