//! How bytes are taken from an answer: as they come, or no faster than they may.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectStore, Result};

use super::rate::Limiter;

/// Reads answers.
pub(super) struct Download {
    pub(super) limiter: Option<Arc<Limiter>>,
    /// Whether this runs on the thread of its caller, where no task can wait for a moment.
    pub(super) on_thread: bool,
}

impl Download {
    /// All bytes of an answer. One that is cut short is an error: what is stored may be whole.
    pub(super) async fn whole(self, answer: GetResult) -> Result<Bytes> {
        let promised_bytes = answer.range.end.saturating_sub(answer.range.start);
        let bytes = self.all_that_comes(answer).await?;
        match bytes.len() as u64 {
            came_bytes if came_bytes == promised_bytes => Ok(bytes),
            came_bytes => Err(Error::Generic {
                store: "download",
                source: format!("the answer was cut short: {came_bytes} of {promised_bytes} bytes came")
                    .into(),
            }),
        }
    }

    async fn all_that_comes(self, answer: GetResult) -> Result<Bytes> {
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

    /// The bytes of a stretch of an object, or as many of them as it has.
    pub(super) async fn range(self, store: &dyn ObjectStore, at: &Path, range: Range<u64>) -> Result<Bytes> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        self.whole(store.get_opts(at, options).await?).await
    }
}
