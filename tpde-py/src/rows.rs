//! Histories and differences as rows that tables take.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tpde_store::{Action, Change, Metrics, Summary, TensorDiff};

/// Metrics as a dictionary.
pub(crate) fn metrics<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for metric in metrics.iter() {
        dict.set_item(metric.name(), metric.value)?;
    }
    Ok(dict)
}

/// A commit of a run.
pub(crate) fn commit<'py>(py: Python<'py>, run: &str, commit: &Summary) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("run", run)?;
    row.set_item("step", commit.step)?;
    row.set_item("seq", commit.seq)?;
    row.set_item("commit", commit.manifest.to_hex())?;
    row.set_item("created_unix_ms", commit.created_unix_ms)?;
    row.set_item("raw_bytes", commit.totals.raw_bytes)?;
    row.set_item("stored_bytes", commit.totals.stored_bytes)?;
    row.set_item("tensors", commit.totals.tensors)?;
    row.set_item("new_tensors", commit.totals.new_tensors)?;
    let known = match &commit.action {
        Action::Commit(known) => metrics(py, known)?,
        _ => PyDict::new(py),
    };
    row.set_item("metrics", known)?;
    Ok(row)
}

/// A tensor of either of two checkpoints.
pub(crate) fn tensor_diff<'py>(py: Python<'py>, diff: &TensorDiff) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("file", &diff.file)?;
    row.set_item("name", &diff.name)?;
    row.set_item("dtype", diff.dtype.name())?;
    row.set_item("shape", diff.shape.clone())?;
    row.set_item("role", diff.role.name())?;
    row.set_item("elements", diff.elems())?;
    let (change, comparison) = match diff.change {
        Change::Same => ("same", None),
        Change::Changed(comparison) => ("changed", Some(comparison)),
        Change::Added => ("added", None),
        Change::Removed => ("removed", None),
        Change::Retyped => ("retyped", None),
    };
    row.set_item("change", change)?;
    row.set_item("changed_elements", comparison.map(|c| c.changed))?;
    row.set_item("changed_share", comparison.map(|c| c.changed_share()))?;
    row.set_item("max_ulp", comparison.map(|c| c.max_ulp))?;
    row.set_item("squared_distance", comparison.map(|c| c.squared_distance))?;
    row.set_item("squared_norm", comparison.map(|c| c.squared_norm))?;
    Ok(row)
}
