//! An open store, as `python/tpde` uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tpde_store::forget::Best;
use tpde_store::{
    ExpectParent, ManifestId, MemoryBytes, MemoryFile, Metric, Metrics, OpenOptions, PartOf, Policy,
    RestoreRequest, RunName, SaveRequest, Silent, StoreError, history, now_unix_ms,
};

use crate::checkpoint::Checkpoint;
use crate::errors::Raised;
use crate::memory::Staging;
use crate::rows;

/// Shorthand for results of the store.
type Stored<T> = Result<T, StoreError>;

/// A store, and the threads that work for it.
pub(crate) struct Opened {
    store: tpde_store::Store,
    pool: Arc<rayon::ThreadPool>,
}

impl Opened {
    /// Reads, on all cores: nobody trains meanwhile. Python's lock must be free.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&tpde_store::Store) -> T) -> T {
        work(&self.store)
    }

    /// Does some work on its threads. Python's lock must be free.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce(&tpde_store::Store) -> T + Send) -> T {
        self.pool.install(|| work(&self.store))
    }
}

/// What a save did.
#[pyclass(frozen, get_all, module = "tpde._tpde")]
pub(crate) struct SaveReport {
    /// The manifest's id, in hex.
    commit: String,
    seq: u64,
    already_there: bool,
    raw_bytes: u64,
    stored_bytes: u64,
    tensors: u32,
    new_tensors: u32,
}

impl From<tpde_store::SaveReport> for SaveReport {
    fn from(report: tpde_store::SaveReport) -> Self {
        Self {
            commit: report.manifest.to_hex(),
            seq: report.seq,
            already_there: report.already_there,
            raw_bytes: report.raw_bytes,
            stored_bytes: report.stored_bytes,
            tensors: report.tensors,
            new_tensors: report.new_tensors,
        }
    }
}

/// Bytes of a file: some of a staging buffer, or Python's own.
#[derive(FromPyObject)]
enum Stretch {
    Staged(Py<Staging>, usize, usize),
    Plain(Vec<u8>),
}

/// Where the files of a checkpoint are: in memory, or below a path.
#[derive(FromPyObject)]
enum Files {
    Memory(Vec<(String, Vec<Stretch>)>),
    Path(PathBuf),
}

/// What a save is told beside its files, by name.
#[derive(FromPyObject, Default)]
#[pyo3(from_item_all)]
struct Options {
    metrics: BTreeMap<String, f64>,
    note: String,
    environment: BTreeMap<String, String>,
    replace: bool,
    /// Manifest id that the run's newest must have, the empty string if it must have none.
    expect_parent: Option<String>,
    /// Manifest id of what deltas may be taken against at first.
    parent: Option<String>,
}

fn manifest_id(hex: &str) -> Stored<ManifestId> {
    hex.parse().map_err(|_| StoreError::Input {
        what: format!("{hex:?}"),
        detail: "it is no id of a checkpoint".to_owned(),
        hint: "An id has 64 digits, as `commit` of a handle or a row has it".to_owned(),
    })
}

fn metrics(numbers: &BTreeMap<String, f64>) -> Stored<Metrics> {
    let metrics = numbers.iter().map(|(name, &value)| Metric::new(name, value));
    metrics.collect::<Stored<Vec<Metric>>>().and_then(Metrics::new)
}

/// Raises what a save would say of some metrics.
#[pyfunction]
pub(crate) fn check_metrics(py: Python<'_>, numbers: BTreeMap<String, f64>) -> PyResult<()> {
    metrics(&numbers).map(|_| ()).raised(py)
}

fn request(
    py: Python<'_>,
    files: Option<Files>,
    run: &str,
    step: u64,
    options: Options,
) -> PyResult<SaveRequest> {
    let name: RunName = run.parse::<RunName>().raised(py)?;
    let mut request = match files {
        Some(Files::Path(path)) => SaveRequest::new(path, name, step),
        Some(Files::Memory(files)) => SaveRequest::of_memory(memory_files(py, files)?, name, step),
        None => SaveRequest::of_memory(Vec::new(), name, step),
    };
    request.metrics = metrics(&options.metrics).raised(py)?;
    request.note = options.note;
    request.environment = options.environment;
    request.replace = options.replace;
    request.parent = options
        .parent
        .as_deref()
        .map(manifest_id)
        .transpose()
        .raised(py)?;
    request.expect_parent = match options.expect_parent.as_deref() {
        None => ExpectParent::Any,
        Some("") => ExpectParent::NoCommits,
        Some(id) => ExpectParent::Newest(manifest_id(id).raised(py)?),
    };
    Ok(request)
}

fn memory_files(py: Python<'_>, files: Vec<(String, Vec<Stretch>)>) -> PyResult<Vec<MemoryFile>> {
    let bytes = |stretch: Stretch| match stretch {
        Stretch::Plain(bytes) => Ok(Bytes::from(bytes)),
        Stretch::Staged(staging, offset, len_bytes) => staging.bind(py).get().stretch(offset, len_bytes),
    };
    let file = |(path, stretches): (String, Vec<Stretch>)| {
        let stretches: PyResult<Vec<Bytes>> = stretches.into_iter().map(bytes).collect();
        Ok(MemoryFile {
            path,
            bytes: stretches?.into_iter().collect::<MemoryBytes>(),
        })
    };
    files.into_iter().map(file).collect()
}

/// An open store.
#[pyclass(frozen, module = "tpde._tpde")]
pub(crate) struct Store {
    opened: Arc<Opened>,
    location: String,
}

impl Store {
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&tpde_store::Store) -> Stored<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| self.opened.run(work)).raised(py)
    }

    fn read<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&tpde_store::Store) -> Stored<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| self.opened.read(work)).raised(py)
    }
}

#[pymethods]
impl Store {
    /// Opens a store.
    ///
    /// * `location`: a path or a URL.
    /// * `create`: make one if there is none.
    /// * `threads`: how many encode and decode; 0 for one a core.
    #[staticmethod]
    fn open(py: Python<'_>, location: String, create: bool, threads: usize) -> PyResult<Self> {
        let open = || match tpde_store::Store::open_with(&location, &OpenOptions::default()) {
            Err(StoreError::NotFound { .. }) if create => tpde_store::Store::init(&location),
            opened => opened,
        };
        let store = py.detach(open).raised(py)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("tpde-{number}"))
            .build()
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok(Self {
            opened: Arc::new(Opened {
                store,
                pool: Arc::new(pool),
            }),
            location,
        })
    }

    #[getter]
    fn location(&self) -> &str {
        &self.location
    }

    /// Saves a checkpoint.
    fn save(
        &self,
        py: Python<'_>,
        files: Files,
        run: &str,
        step: u64,
        options: Options,
    ) -> PyResult<SaveReport> {
        let request = request(py, Some(files), run, step, options)?;
        let report = self.run(py, |store| store.save(&request, &Silent))?;
        Ok(report.into())
    }

    /// Saves one part of a checkpoint of several processes; returns the bytes that were written.
    #[expect(clippy::too_many_arguments, reason = "what names a part")]
    fn save_part(
        &self,
        py: Python<'_>,
        files: Files,
        run: &str,
        step: u64,
        word: String,
        rank: u32,
        of: u32,
    ) -> PyResult<u64> {
        let request = request(py, Some(files), run, step, Options::default())?;
        let part = PartOf { save: word, rank, of };
        let report = self.run(py, |store| store.save_part(&request, &part, None, &Silent))?;
        Ok(report.stored_bytes)
    }

    /// Commits a checkpoint of which all parts are stored.
    fn commit_parts(
        &self,
        py: Python<'_>,
        run: &str,
        step: u64,
        word: &str,
        options: Options,
    ) -> PyResult<SaveReport> {
        let request = request(py, None, run, step, options)?;
        let report = self.run(py, |store| store.commit_parts(&request, word))?;
        Ok(report.into())
    }

    /// Finds a checkpoint: `run@step`, `run@latest`, `run~2`, a tag or the beginning of an id.
    fn checkpoint(&self, py: Python<'_>, reference: &str) -> PyResult<Checkpoint> {
        let (found, manifest) = self.read(py, |store| {
            let found = store.resolve(reference)?;
            let manifest = store.named_manifest(found.manifest)?;
            Ok((found, manifest))
        })?;
        let id = found.manifest.to_hex();
        Ok(Checkpoint::new(
            Arc::clone(&self.opened),
            manifest,
            id,
            found.place,
        ))
    }

    /// The same store for a loop that knows that a checkpoint is damaged: what it saves does not lean on that.
    fn distrusting(&self, py: Python<'_>, reference: &str) -> PyResult<Self> {
        let store = self.read(py, |store| {
            let id = store.resolve(reference)?.manifest;
            store.distrusting(id, &Silent)
        })?;
        Ok(Self {
            opened: Arc::new(Opened {
                store,
                pool: Arc::clone(&self.opened.pool),
            }),
            location: self.location.clone(),
        })
    }

    /// Writes the files of a checkpoint into a directory.
    fn restore(&self, py: Python<'_>, reference: &str, target: PathBuf, overwrite: bool) -> PyResult<()> {
        self.read(py, |store| {
            let request = RestoreRequest {
                manifest: store.resolve(reference)?.manifest,
                target,
                files: None,
                tensors: None,
                overwrite,
            };
            store.restore(&request, &Silent).map(|_| ())
        })
    }

    /// Id of the newest checkpoint of a run; `None` if it has none.
    fn tip(&self, py: Python<'_>, run: &str) -> PyResult<Option<String>> {
        let run: RunName = run.parse::<RunName>().raised(py)?;
        let tip = self.read(py, |store| match history::newest(store.objects(), &run)? {
            None => Ok(None),
            Some(newest) => history::newest_commit(store.objects(), &newest),
        })?;
        Ok(tip.map(|commit| commit.manifest.to_hex()))
    }

    /// Names of the runs.
    fn runs(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let runs = self.read(py, |store| history::runs(store.objects()))?;
        Ok(runs.iter().map(RunName::to_string).collect())
    }

    /// The newest `most` checkpoints that stand in a run, newest first; all of them for `None`.
    fn log<'py>(&self, py: Python<'py>, run: &str, most: Option<usize>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let name: RunName = run.parse::<RunName>().raised(py)?;
        let commits = self.read(py, |store| match most {
            Some(most) => Ok(history::recent(store.objects(), &name, most)?.commits),
            None => {
                let log = history::log(store.objects(), &name)?;
                Ok(log.commits().rev().cloned().collect())
            }
        })?;
        commits
            .iter()
            .map(|commit| rows::commit(py, run, commit))
            .collect()
    }

    /// How the tensors of two checkpoints differ.
    fn diff<'py>(&self, py: Python<'py>, old: &str, new: &str) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let diff = self.read(py, |store| {
            let (old, new) = (store.resolve(old)?.manifest, store.resolve(new)?.manifest);
            store.diff(old, new, &Silent)
        })?;
        diff.tensors
            .iter()
            .map(|tensor| rows::tensor_diff(py, tensor))
            .collect()
    }

    /// Forgets what a policy does not keep of a run; returns the steps.
    ///
    /// * `best`: rules as `tpde forget --keep-best` takes them; `within`: an age such as `7d`.
    #[expect(clippy::too_many_arguments, reason = "the rules of a policy")]
    fn prune(
        &self,
        py: Python<'_>,
        run: &str,
        last: Option<u64>,
        every: Option<u64>,
        best: Vec<String>,
        tags: bool,
        within: Option<&str>,
    ) -> PyResult<Vec<u64>> {
        let name: RunName = run.parse::<RunName>().raised(py)?;
        let best: Stored<Vec<Best>> = best.iter().map(|rule| rule.parse()).collect();
        let within = within.map(tpde_store::forget::parse_age).transpose().raised(py)?;
        let policy = Policy {
            last,
            every,
            best: best.raised(py)?,
            tags,
            within,
        };
        let forgotten = self.run(py, |store| store.prune(&name, &policy, now_unix_ms()))?;
        Ok(forgotten.iter().map(|commit| commit.step).collect())
    }
}
