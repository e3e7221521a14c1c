//! Objects that are tried out: what is written goes to a folder on this machine, and is looked for there first.
//!
//! ```text
//! put ─▶ folder          get ─▶ folder ─ not there ─▶ the store          delete ─▶ refused
//! ```

use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{Objects, outcome};

#[derive(Debug)]
struct Trial {
    folder: LocalFileSystem,
    store: Arc<dyn ObjectStore>,
}

impl Objects {
    /// The same objects for somebody who may want to undo everything: nothing that is written here reaches the store, and the folder holds
    /// it.
    ///
    /// # Errors
    /// `Backend` if `folder` is not there.
    pub(crate) fn trial(&self, folder: &FsPath) -> crate::error::Result<Self> {
        let files = LocalFileSystem::new_with_prefix(folder);
        let folder = files.map_err(|e| self.failed("use", &folder.display(), e))?;
        let trial: Arc<dyn ObjectStore> = Arc::new(Trial {
            folder,
            store: Arc::clone(&self.store),
        });
        Ok(Self {
            store: Arc::clone(&trial),
            writer: trial,
            folders: None,
            cache: None,
            ..self.clone()
        })
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a trial of {}", self.store)
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::NotImplemented {
        operation: "anything but put, get and list".to_owned(),
        implementer: "a trial".to_owned(),
    })
}

#[async_trait::async_trait]
impl ObjectStore for Trial {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.folder.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.folder.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        match self.folder.get_opts(at, options.clone()).await {
            Err(error) if outcome::is_missing(&error) => self.store.get_opts(at, options).await,
            answer => answer,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|_| refused()).boxed()
    }

    /// What is in the folder comes first, so the whole is in no order.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list(prefix).chain(self.store.list(prefix)).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        refused()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::PackId;
    use crate::keys::{Key, Prefix};

    /// Promise: a trial sees the store and what was tried; the store sees nothing of the trial, and keeps what it has.
    #[test]
    fn nothing_reaches_the_store() {
        let key = |text: &'static [u8]| Key::Pack(PackId::of(text));
        let store = Objects::memory();
        store
            .put_content(&key(b"old"), Bytes::from_static(b"old"))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let trial = store.trial(folder.path()).unwrap();
        trial
            .put_content(&key(b"new"), Bytes::from_static(b"new"))
            .unwrap();
        assert_eq!(trial.get(&key(b"old")).unwrap(), "old");
        assert_eq!(trial.get(&key(b"new")).unwrap(), "new");
        assert_eq!(trial.head(&key(b"new")).unwrap(), Some(3));
        assert_eq!(trial.list(&Prefix::Packs).unwrap().len(), 2);
        assert_eq!(store.list(&Prefix::Packs).unwrap().len(), 1);
        assert!(trial.delete(&key(b"old")).is_err());
        drop(trial);
        assert_eq!(store.get(&key(b"old")).unwrap(), "old");
        assert_eq!(store.head(&key(b"new")).unwrap(), None);
    }
}
