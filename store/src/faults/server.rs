//! A store in memory that fails on demand: for tests of every protocol in this crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::plan::{Effect, Fault, Lie, Plan, Request};
use super::upload::Upload;

/// What somebody else does just before a request.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A change on its way.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Put(Path, PutPayload, PutOptions),
    Delete(Path),
    Copy(Path, Path, CopyOptions),
}

/// Memory, with requests counted and failures planned.
#[derive(Default)]
pub(crate) struct FaultStore {
    server: Arc<Server>,
}

/// What a store and its uploads share.
#[derive(Default)]
pub(super) struct Server {
    memory: InMemory,
    requests: AtomicUsize,
    failed: AtomicUsize,
    plan: Mutex<Option<(usize, Plan)>>,
    meanwhile: Mutex<Option<(usize, Meanwhile)>>,
    /// Changes on their way, each with the request before which it arrives.
    late: Mutex<Vec<(usize, Write)>>,
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
        Self::of(Server {
            lie: Some(lie),
            ..Server::default()
        })
    }

    fn of(server: Server) -> Self {
        Self {
            server: Arc::new(server),
        }
    }

    /// Another server that holds the same objects.
    pub(crate) fn copied(&self) -> Self {
        Self::of(Server {
            memory: self.server.memory.fork(),
            ..Server::default()
        })
    }

    /// Does `what` once, before the request that comes after `requests` more.
    pub(crate) fn meanwhile(&self, requests: usize, what: impl FnOnce() + Send + 'static) {
        *self.server.meanwhile.lock() = Some((self.requests() + requests, Box::new(what)));
    }

    /// Whether what was to be done meanwhile is still waiting for its request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.server.meanwhile.lock().is_some()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.server.requests.load(Ordering::SeqCst)
    }

    /// Requests so far that failed by a plan.
    pub(crate) fn failed(&self) -> usize {
        self.server.failed.load(Ordering::SeqCst)
    }

    /// Fails requests from now on by `plan`, or none.
    pub(crate) fn plan(&self, plan: Option<Plan>) {
        *self.server.plan.lock() = plan.map(|p| (self.requests(), p));
    }

    /// Carries out every write that is still on its way, in order.
    pub(crate) fn let_in(&self) {
        self.server.deliver(usize::MAX);
    }
}

impl Server {
    /// Counts one request; says how it fails.
    pub(super) fn next(&self, request: Request) -> Option<Fault> {
        let index = self.requests.fetch_add(1, Ordering::SeqCst);
        self.deliver(index);
        let due = self.meanwhile.lock().take_if(|(at, _)| *at <= index);
        if let Some((_, what)) = due {
            // Requests of its own need a thread of their own: this one is in the middle of one.
            std::thread::spawn(what)
                .join()
                .expect("what is done meanwhile does not fail");
        }
        let (start, plan) = (*self.plan.lock())?;
        let from = start + plan.from;
        let is_hit = (from..from.saturating_add(plan.len)).contains(&index) && plan.fault.concerns(request);
        is_hit.then(|| {
            self.failed.fetch_add(1, Ordering::SeqCst);
            plan.fault
        })
    }

    /// Carries out the late writes that arrive before request `index`.
    fn deliver(&self, index: usize) {
        let mut late = self.late.lock();
        for (_, write) in late.extract_if(.., |(at, _)| *at <= index) {
            // Whoever sent it does not wait for the answer.
            let _ = self.carry_out(write);
        }
    }

    fn carry_out(&self, write: Write) -> Result<Option<PutResult>> {
        let done = match write {
            Write::Put(at, payload, options) => {
                let put = self.memory.put_opts(&at, payload, options).now_or_never();
                put.map(|put| put.map(Some))
            }
            Write::Delete(at) => self
                .memory
                .delete(&at)
                .now_or_never()
                .map(|done| done.map(|()| None)),
            Write::Copy(from, to, options) => {
                let copied = self.memory.copy_opts(&from, &to, options).now_or_never();
                copied.map(|done| done.map(|()| None))
            }
        };
        done.expect("memory does not wait")
    }

    /// Carries out a write as its fault, if it has one, allows.
    pub(super) fn write(&self, fault: Option<Fault>, write: Write) -> Result<Option<PutResult>> {
        let Some(fault) = fault else {
            return self.carry_out(write);
        };
        match fault.effect() {
            Effect::Never => {}
            // The caller is not told what became of it.
            Effect::Done => drop(self.carry_out(write)),
            Effect::Late(requests) => {
                let at = self
                    .requests
                    .load(Ordering::SeqCst)
                    .saturating_add(requests.saturating_sub(1));
                self.late.lock().push((at, write));
            }
        }
        Err(fault.error())
    }
}

/// The first half of an answer.
async fn half(answer: GetResult) -> Result<GetResult> {
    let (meta, range) = (answer.meta.clone(), answer.range.clone());
    let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
    let bytes = answer.bytes().await?;
    let half = bytes.slice(..bytes.len() / 2);
    Ok(GetResult {
        payload: GetResultPayload::Stream(Box::pin(futures::stream::iter([Ok(half)]))),
        meta,
        range,
        attributes,
        extensions,
    })
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let server = &self.server;
        let request = match options.mode {
            PutMode::Create => Request::Create,
            _ => Request::Write,
        };
        let fault = server.next(request);
        match server.lie {
            Some(Lie::CreateOverwrites) => options.mode = PutMode::Overwrite,
            Some(Lie::RacersWin) if at.as_ref().ends_with("race") => options.mode = PutMode::Overwrite,
            _ => {}
        }
        let nothing = || PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        };
        match server.write(fault, Write::Put(at.clone(), payload, options)) {
            Err(Error::AlreadyExists { .. }) if server.lie == Some(Lie::CreatePretends) => Ok(nothing()),
            put => put.map(|put| put.unwrap_or_else(nothing)),
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.server.next(Request::Head) {
            Some(fault) => Err(fault.error()),
            None => Ok(Box::new(Upload::new(Arc::clone(&self.server), at.clone()))),
        }
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> Result<GetResult> {
        let request = match options.head {
            true => Request::Head,
            false => Request::Get,
        };
        let fault = self.server.next(request);
        if self.server.lie == Some(Lie::RangesAreIgnored) {
            options.range = None;
        }
        match fault {
            None => self.server.memory.get_opts(at, options).await,
            Some(Fault::Truncated) => half(self.server.memory.get_opts(at, options).await?).await,
            Some(fault) => Err(fault.error()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let server = Arc::clone(&self.server);
        let deleted = locations.map(move |at| {
            let at = at?;
            let fault = server.next(Request::Write);
            server.write(fault, Write::Delete(at.clone())).map(|_| at)
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.server.lie == Some(Lie::ListsNothing) {
            return Box::pin(futures::stream::empty());
        }
        let listed = self.server.memory.list(prefix);
        match self.server.next(Request::List) {
            Some(fault) => {
                let half = listed.collect::<Vec<_>>().map(move |all| {
                    let some = match fault {
                        Fault::Truncated => all.len() / 2,
                        _ => 0,
                    };
                    futures::stream::iter(all.into_iter().take(some).chain([Err(fault.error())]))
                });
                half.flatten_stream().boxed()
            }
            None if self.server.lie == Some(Lie::ListsBackwards) => {
                let all = listed.collect::<Vec<_>>();
                let backwards = all.map(|all| futures::stream::iter(all.into_iter().rev()));
                Box::pin(backwards.flatten_stream())
            }
            None => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.server.next(Request::List) {
            Some(fault) => Err(fault.error()),
            None => self.server.memory.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.server.next(Request::Write);
        let write = Write::Copy(from.clone(), to.clone(), options);
        self.server.write(fault, write).map(drop)
    }
}
