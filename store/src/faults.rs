//! A store in memory that fails on demand: for tests of every protocol in this crate.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not carried out; the caller cannot know.
    LostRequest,
    /// It is carried out; the caller cannot know.
    LostResponse,
    /// It is refused, and says so.
    Refused,
    /// It is carried out, and said to be refused.
    FalseRefusal,
}

/// Which requests fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    /// First request that fails, counted from when the plan was made.
    pub(crate) from: usize,
    /// How many fail from there on.
    pub(crate) len: usize,
}

/// What the server pretends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A conditional create overwrites.
    CreateOverwrites,
    /// A conditional create says that it won, and changes nothing.
    CreatePretends,
    /// Only creates that come in at the same time all win.
    RacersWin,
    /// A range is answered with the start of the object.
    RangesAreIgnored,
    /// Listings are empty.
    ListsNothing,
    /// Listings begin with the last key.
    ListsBackwards,
}

/// What somebody else does just before a request.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// Memory, with requests counted and failures planned.
#[derive(Default)]
pub(crate) struct FaultStore {
    memory: InMemory,
    requests: AtomicUsize,
    plan: Mutex<Option<(usize, Plan)>>,
    meanwhile: Mutex<Option<(usize, Meanwhile)>>,
    lie: Option<Lie>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FaultStore {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn lying(lie: Lie) -> Self {
        Self {
            lie: Some(lie),
            ..Self::default()
        }
    }

    /// Another server that holds the same objects.
    pub(crate) fn copied(&self) -> Self {
        Self {
            memory: self.memory.fork(),
            ..Self::default()
        }
    }

    /// Does `what` once, before the request that comes after `requests` more.
    pub(crate) fn meanwhile(&self, requests: usize, what: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some((self.requests() + requests, Box::new(what)));
    }

    /// Whether what was to be done meanwhile is still waiting for its request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.meanwhile.lock().is_some()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Fails requests from now on by `plan`, or none.
    pub(crate) fn plan(&self, plan: Option<Plan>) {
        *self.plan.lock() = plan.map(|p| (self.requests(), p));
    }

    /// Counts one request; says how it fails. `Refused` and `LostRequest` are to be returned at once.
    fn next(&self) -> Option<Fault> {
        let index = self.requests.fetch_add(1, Ordering::SeqCst);
        let due = self.meanwhile.lock().take_if(|(at, _)| *at <= index);
        if let Some((_, what)) = due {
            // Requests of its own need a thread of their own: this one is in the middle of one.
            std::thread::spawn(what)
                .join()
                .expect("what is done meanwhile does not fail");
        }
        let (start, plan) = (*self.plan.lock())?;
        let from = start + plan.from;
        (from..from.saturating_add(plan.len))
            .contains(&index)
            .then_some(plan.fault)
    }

    fn error(fault: Fault) -> Error {
        match fault {
            Fault::Refused | Fault::FalseRefusal => Error::PermissionDenied {
                path: "planned".to_owned(),
                source: "refused by plan".into(),
            },
            _ => Error::Generic {
                store: "faults",
                source: "connection reset by plan".into(),
            },
        }
    }

    fn before(&self) -> Result<Option<Fault>> {
        match self.next() {
            Some(fault @ (Fault::Refused | Fault::LostRequest)) => Err(Self::error(fault)),
            other => Ok(other),
        }
    }
}

fn after<T>(fault: Option<Fault>, answer: Result<T>) -> Result<T> {
    match fault {
        Some(fault) => Err(FaultStore::error(fault)),
        None => answer,
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.before()?;
        let race = at.as_ref().ends_with("race");
        match self.lie {
            Some(Lie::CreateOverwrites) => options.mode = PutMode::Overwrite,
            Some(Lie::RacersWin) if race => options.mode = PutMode::Overwrite,
            Some(Lie::CreatePretends) => {
                let put = self.memory.put_opts(at, payload, options).await;
                return match put {
                    Err(Error::AlreadyExists { .. }) => Ok(PutResult {
                        e_tag: None,
                        version: None,
                        extensions: Default::default(),
                    }),
                    other => other,
                };
            }
            _ => {}
        }
        after(fault, self.memory.put_opts(at, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = self.before()?;
        if self.lie == Some(Lie::RangesAreIgnored) {
            options.range = None;
        }
        after(fault, self.memory.get_opts(at, options).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.lie == Some(Lie::ListsNothing) {
            return Box::pin(futures::stream::empty());
        }
        match self.next() {
            Some(fault) => Box::pin(futures::stream::iter([Err(Self::error(fault))])),
            None if self.lie == Some(Lie::ListsBackwards) => {
                let all = self.memory.list(prefix).collect::<Vec<_>>();
                let backwards = all.map(|all| futures::stream::iter(all.into_iter().rev()));
                Box::pin(backwards.flatten_stream())
            }
            None => self.memory.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.before()?;
        after(fault, self.memory.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
