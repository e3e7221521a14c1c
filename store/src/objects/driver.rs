//! Who runs a request: the calling thread, or a runtime that the process shares.

use std::sync::OnceLock;
use std::sync::mpsc;

use object_store::Error;
use tokio::runtime::{Builder, Runtime};

/// Threads that drive servers' connections; the work of a request is done by its caller.
const RUNTIME_THREADS: usize = 2;

/// How requests are driven to their end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Driver {
    /// On the calling thread: for backends that never wait for a socket or a timer.
    Inline,
    /// As a task of the shared runtime, while the calling thread waits.
    Runtime,
}

/// The runtime, started by the first request that needs one.
fn runtime() -> Result<&'static Runtime, Error> {
    static SHARED: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("tpde-io")
            .enable_all()
            .build()
    });
    started.as_ref().map_err(|e| Error::NotSupported {
        source: format!("the runtime did not start: {e}").into(),
    })
}

impl Driver {
    /// Waits for `request`.
    ///
    /// The task is spawned rather than blocked on, so that a thread which already belongs to some runtime gets an
    /// answer instead of a panic.
    pub(super) fn run<T: Send + 'static>(
        self,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self {
            Self::Inline => futures::executor::block_on(request),
            Self::Runtime => {
                let (send, receive) = mpsc::sync_channel(1);
                runtime()?.spawn(async move {
                    // The receiver waits below; if it is gone, nobody wants the answer.
                    let _ = send.send(request.await);
                });
                receive.recv().unwrap_or_else(|_| {
                    Err(Error::Generic {
                        store: "runtime",
                        source: "the request's task ended without an answer".into(),
                    })
                })
            }
        }
    }
}
