//! How bytes are taken from an answer: as they come, or no faster than they may.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, Result};

use super::rate::Limiter;

/// Reads answers.
pub(super) struct Download {
    pub(super) limiter: Option<Arc<Limiter>>,
    /// Whether this runs on the thread of its caller, where no task can wait for a moment.
    pub(super) on_thread: bool,
}

impl Download {
    /// All bytes of an answer.
    pub(super) async fn whole(self, answer: GetResult) -> Result<Bytes> {
        let Some(limiter) = self.limiter else {
            return answer.bytes().await;
        };
        if self.on_thread {
            let bytes = answer.bytes().await?;
            limiter.wait(bytes.len());
            return Ok(bytes);
        }
        let mut all = BytesMut::new();
        let mut portions = answer.into_stream();
        while let Some(portion) = portions.try_next().await? {
            limiter.pass(portion.len()).await;
            all.extend_from_slice(&portion);
        }
        Ok(all.freeze())
    }

    /// The bytes of a stretch of an object.
    pub(super) async fn range(self, store: &dyn ObjectStore, at: &Path, range: Range<u64>) -> Result<Bytes> {
        if self.limiter.is_none() {
            return store.get_range(at, range).await;
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        self.whole(store.get_opts(at, options).await?).await
    }
}
