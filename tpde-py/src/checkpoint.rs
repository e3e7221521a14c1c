//! A checkpoint of a store: what it consists of, and its bytes into memory.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tpde_store::manifest::FileContent;
use tpde_store::{Manifest, Place, Silent, Wanted};

use crate::errors::Raised;
use crate::memory::Targets;
use crate::rows;
use crate::store::Opened;

/// A tensor of a checkpoint.
#[pyclass(frozen, get_all, module = "tpde._tpde")]
pub(crate) struct Tensor {
    /// Number by which its bytes are asked for.
    number: usize,
    /// The file that it is in.
    file: String,
    name: String,
    /// As safetensors names it.
    dtype: &'static str,
    shape: Vec<u64>,
    role: &'static str,
    len_bytes: u64,
    /// BLAKE3 of its bytes, in hex.
    id: String,
    /// Elements as parts count them: those of less than a byte are the bytes that hold them.
    word_bytes: usize,
}

/// A file of a checkpoint.
#[pyclass(frozen, get_all, module = "tpde._tpde")]
pub(crate) struct File {
    /// Number by which its bytes are asked for.
    number: usize,
    path: String,
    len_bytes: u64,
    /// Whether tensors were found in it.
    holds_tensors: bool,
}

/// A checkpoint of a store.
#[pyclass(frozen, module = "tpde._tpde")]
pub(crate) struct Checkpoint {
    opened: Arc<Opened>,
    manifest: Manifest,
    id: String,
    place: Option<Place>,
}

impl Checkpoint {
    pub(crate) fn new(opened: Arc<Opened>, manifest: Manifest, id: String, place: Option<Place>) -> Self {
        Self {
            opened,
            manifest,
            id,
            place,
        }
    }
}

#[pymethods]
impl Checkpoint {
    /// The manifest's id, in hex.
    #[getter]
    fn commit(&self) -> &str {
        &self.id
    }

    /// The run that it is committed to; `None` if it never was.
    #[getter]
    fn run(&self) -> Option<&str> {
        self.place.as_ref().map(|place| place.run.as_str())
    }

    #[getter]
    fn step(&self) -> u64 {
        self.place.as_ref().map_or(self.manifest.step, |place| place.step)
    }

    #[getter]
    fn created_unix_ms(&self) -> u64 {
        self.manifest.created_unix_ms
    }

    #[getter]
    fn note(&self) -> &str {
        &self.manifest.note
    }

    #[getter]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        rows::metrics(py, &self.manifest.metrics)
    }

    #[getter]
    fn environment<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in &self.manifest.environment {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    /// Its tensors, file by file, in their order there.
    fn tensors(&self) -> Vec<Tensor> {
        let tensor = |(file, number, name, shape, role): (&str, usize, &str, &Vec<u64>, &'static str)| {
            let record = &self.manifest.tensors[number];
            Tensor {
                number,
                file: file.to_owned(),
                name: name.to_owned(),
                dtype: record.dtype.name(),
                shape: shape.clone(),
                role,
                len_bytes: record.len_bytes,
                id: record.id.to_hex(),
                word_bytes: record.dtype.word_bytes(),
            }
        };
        let named = self.manifest.named_tensors();
        named
            .map(|(file, t, _)| tensor((file, t.tensor as usize, &t.name, &t.shape, t.role.name())))
            .collect()
    }

    /// Its files, without its directories.
    fn files(&self) -> Vec<File> {
        let files = self.manifest.files.iter().enumerate();
        files
            .filter(|(_, record)| record.content != FileContent::Directory)
            .map(|(number, record)| File {
                number,
                path: record.path.clone(),
                len_bytes: self.manifest.file_len_bytes(record),
                holds_tensors: !record.content.tensors().is_empty(),
            })
            .collect()
    }

    /// Decodes tensors into memory: number, address and length in bytes of each. Every one is verified before this returns; after an
    /// error the memory holds anything.
    fn read_tensors(&self, py: Python<'_>, wanted: Vec<(usize, usize, usize)>) -> PyResult<()> {
        let mut targets = Vec::with_capacity(wanted.len());
        let mut tensors = Vec::with_capacity(wanted.len());
        for (number, address, len_bytes) in wanted {
            let record = self.manifest.tensors.get(number);
            if record.is_none_or(|record| record.len_bytes != len_bytes as u64) {
                return Err(PyValueError::new_err(format!(
                    "tensor {number} does not have {len_bytes} bytes"
                )));
            }
            targets.push((address, len_bytes));
            tensors.push(Wanted::Tensor(number));
        }
        let targets = Targets::new(targets)?;
        self.load(py, &tensors, &targets)
    }

    /// The bytes of a file.
    fn read_file<'py>(&self, py: Python<'py>, number: usize) -> PyResult<Bound<'py, PyBytes>> {
        let record = self.manifest.files.get(number);
        let len_bytes = record.map_or(0, |record| self.manifest.file_len_bytes(record));
        let len_bytes = usize::try_from(len_bytes)?;
        PyBytes::new_with(py, len_bytes, |bytes| {
            let targets = Targets::new(vec![(bytes.as_mut_ptr() as usize, len_bytes)])?;
            self.load(py, &[Wanted::File(number)], &targets)
        })
    }

    /// Some elements of a tensor, from the bytes that they take.
    fn read_part<'py>(
        &self,
        py: Python<'py>,
        number: usize,
        start: u64,
        end: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let Some(record) = self.manifest.tensors.get(number) else {
            return Err(PyValueError::new_err(format!("there is no tensor {number}")));
        };
        let bytes = py.detach(|| {
            self.opened
                .read(|store| store.tensor_part(&self.manifest, record, start..end))
        });
        Ok(PyBytes::new(py, &bytes.raised(py)?))
    }
}

impl Checkpoint {
    fn load(&self, py: Python<'_>, wanted: &[Wanted], targets: &Targets) -> PyResult<()> {
        py.detach(|| {
            self.opened
                .read(|store| store.load(&self.manifest, wanted, targets, &Silent))
        })
        .raised(py)?;
        Ok(())
    }
}
