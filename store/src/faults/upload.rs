//! Uploads in several parts, each of whose requests counts and may fail.

use std::fmt;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{MultipartUpload, PutOptions, PutPayload, PutResult, Result, UploadPart};

use super::plan::Request;
use super::server::{Server, Write};

/// One upload.
pub(super) struct Upload {
    server: Arc<Server>,
    at: Path,
    parts: Vec<bytes::Bytes>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.at)
    }
}

impl Upload {
    pub(super) fn new(server: Arc<Server>, at: Path) -> Self {
        Self {
            server,
            at,
            parts: Vec::new(),
        }
    }
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        // Nothing can be seen of a part before the end, so it makes no difference whether a lost one was carried out.
        let fault = self.server.next(Request::Head);
        if fault.is_none() {
            self.parts.extend(part);
        }
        Box::pin(std::future::ready(
            fault.map_or(Ok(()), |fault| Err(fault.error())),
        ))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.server.next(Request::Write);
        let whole = PutPayload::from_iter(std::mem::take(&mut self.parts));
        let write = Write::Put(self.at.clone(), whole, PutOptions::default());
        let put = self.server.write(fault, write)?;
        Ok(put.unwrap_or_else(|| PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        }))
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        self.server
            .next(Request::Head)
            .map_or(Ok(()), |fault| Err(fault.error()))
    }
}
