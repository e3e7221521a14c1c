//! A server in memory that counts what goes over the line, and fails or waits when told to.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::{Condvar, Mutex};
use tpde_store::Objects;

/// What went over the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Reads of packs, and their bytes.
    pub(crate) gets: u64,
    pub(crate) got_bytes: u64,
    /// Packs that were stored, and their bytes.
    pub(crate) puts: u64,
    pub(crate) put_bytes: u64,
    /// Packs that were sent and refused.
    pub(crate) refused: u64,
    /// Listings of packs.
    pub(crate) lists: u64,
}

/// What becomes of packs that are sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// All after this many are refused.
    pub(crate) most_puts: Option<u64>,
    /// None is stored before this many are on their way at one time.
    pub(crate) meet: usize,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    rules: Rules,
    /// Packs on their way, and whether as many as `meet` ever were.
    under_way: usize,
    met: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    memory: InMemory,
    state: Mutex<State>,
    changed: Condvar,
}

impl Counting {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A client of it, as of a server.
    pub(crate) fn client(self: &Arc<Self>) -> Objects {
        Objects::over(Arc::clone(self) as Arc<dyn ObjectStore>, "counting")
    }

    /// What went over the line since this was last asked.
    pub(crate) fn take(&self) -> Counts {
        std::mem::take(&mut self.state.lock().counts)
    }

    pub(crate) fn set(&self, rules: Rules) {
        let mut state = self.state.lock();
        state.rules = rules;
        state.met = false;
    }

    /// Changes a byte near the start of every pack.
    pub(crate) fn damage_packs(&self) {
        let damage = async {
            let all: Vec<ObjectMeta> = self.memory.list(None).try_collect().await?;
            for meta in all.iter().filter(|meta| is_pack(&meta.location)) {
                let mut bytes = self.memory.get(&meta.location).await?.bytes().await?.to_vec();
                bytes[40] ^= 1;
                self.memory.put(&meta.location, bytes.into()).await?;
            }
            Ok::<(), Error>(())
        };
        futures::executor::block_on(damage).unwrap();
    }

    /// Waits until as many packs are on their way as are to meet.
    fn meet(&self) {
        let mut state = self.state.lock();
        state.under_way += 1;
        state.met |= state.under_way >= state.rules.meet;
        self.changed.notify_all();
        while !state.met {
            self.changed.wait(&mut state);
        }
    }

    fn admits(&self, len_bytes: u64) -> bool {
        let mut state = self.state.lock();
        if state
            .rules
            .most_puts
            .is_some_and(|most| state.counts.puts >= most)
        {
            state.counts.refused += 1;
            return false;
        }
        state.counts.puts += 1;
        state.counts.put_bytes += len_bytes;
        true
    }
}

fn is_pack(at: &Path) -> bool {
    at.as_ref().ends_with(".pack")
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !is_pack(at) {
            return self.memory.put_opts(at, payload, options).await;
        }
        // Tasks share two threads: whoever waits must not wait on one of them.
        tokio::task::block_in_place(|| self.meet());
        let admitted = self.admits(payload.content_length() as u64);
        self.state.lock().under_way -= 1;
        match admitted {
            true => self.memory.put_opts(at, payload, options).await,
            false => Err(Error::PermissionDenied {
                path: at.to_string(),
                source: "the disk of the server is full".into(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let is_read = is_pack(at) && !options.head;
        let got = self.memory.get_opts(at, options).await?;
        if is_read {
            let counts = &mut self.state.lock().counts;
            counts.gets += 1;
            counts.got_bytes += got.range.end - got.range.start;
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let is_of_packs = prefix.is_some_and(|prefix| prefix.as_ref() == "packs");
        self.state.lock().counts.lists += u64::from(is_of_packs);
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
