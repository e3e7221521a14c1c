//! Listings: what lies under a prefix.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::{Listed, Objects, folder, path};
use crate::error::Result;
use crate::keys::{Key, Prefix};

impl Objects {
    /// All objects under `prefix`, by ascending key. What is not a key of this format is passed over.
    ///
    /// # Errors
    /// `Backend`: the disk or server failed; a partial listing is never returned.
    pub fn list(&self, prefix: &Prefix) -> Result<Vec<Listed>> {
        let (store, folder) = (Arc::clone(&self.store), folder(prefix));
        self.collect(
            prefix,
            async move { store.list(folder.as_ref()).try_collect().await },
        )
    }

    /// The objects under `prefix` whose key sorts after `offset`, by ascending key.
    ///
    /// # Errors
    /// As [`Objects::list`].
    pub fn list_after(&self, prefix: &Prefix, offset: &Key) -> Result<Vec<Listed>> {
        if !self.sorted && self.server.is_some() {
            // Such a server cannot begin in the middle.
            let after = offset.to_string();
            let mut listed = self.list(prefix)?;
            listed.retain(|l| l.key.to_string() > after);
            return Ok(listed);
        }
        let (store, folder, offset) = (Arc::clone(&self.store), folder(prefix), path(offset));
        self.collect(prefix, async move {
            store
                .list_with_offset(folder.as_ref(), &offset)
                .try_collect()
                .await
        })
    }

    fn collect(
        &self,
        prefix: &Prefix,
        listing: impl Future<Output = object_store::Result<Vec<object_store::ObjectMeta>>> + Send + 'static,
    ) -> Result<Vec<Listed>> {
        let metas = self
            .driver
            .run(listing)
            .map_err(|e| self.failed("list", prefix, e))?;
        let mut listed: Vec<Listed> = metas
            .into_iter()
            .filter_map(|meta| {
                let modified = std::time::SystemTime::from(meta.last_modified);
                let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(Listed {
                    key: Key::parse(meta.location.as_ref())?,
                    size_bytes: meta.size,
                    modified_unix_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                })
            })
            .collect();
        // By text, which is the order of the keys on every backend.
        listed.sort_by_cached_key(|l| l.key.to_string());
        Ok(listed)
    }

    /// The `most` newest objects of a numbered `prefix` ([`Prefix::Slots`], [`Prefix::Rollups`],
    /// [`Prefix::Tag`]), newest first.
    ///
    /// One page of a server's listing; on a disk the names of the folder, without looking at the files.
    ///
    /// # Errors
    /// As [`Objects::list`].
    pub fn list_newest(&self, prefix: &Prefix, most: usize) -> Result<Vec<Key>> {
        if let Some(folders) = &self.folders {
            let names = folders.names(&prefix.to_string());
            let mut names = names.map_err(|e| self.failed_on_disk("list", prefix, e))?;
            names.sort_unstable();
            let keys = names
                .iter()
                .filter_map(|name| Key::parse(&format!("{prefix}/{name}")));
            return Ok(keys.take(most).collect());
        }
        if !self.sorted {
            let listed = self.list(prefix)?;
            return Ok(listed.into_iter().map(|l| l.key).take(most).collect());
        }
        let (store, folder) = (Arc::clone(&self.store), folder(prefix));
        self.driver
            .run(async move {
                store
                    .list(folder.as_ref())
                    .try_filter_map(async |meta| Ok(Key::parse(meta.location.as_ref())))
                    .take(most)
                    .try_collect()
                    .await
            })
            .map_err(|e| self.failed("list", prefix, e))
    }

    /// Whether the objects under `prefix` come in the order of their keys, where this backend is relied on for that.
    pub(crate) fn lists_in_order(&self, prefix: &Prefix) -> Result<bool> {
        if !self.sorted {
            return Ok(true);
        }
        let (store, folder) = (Arc::clone(&self.store), folder(prefix));
        let listed: Vec<object_store::ObjectMeta> = self
            .driver
            .run(async move { store.list(folder.as_ref()).try_collect().await })
            .map_err(|e| self.failed("list", prefix, e))?;
        Ok(listed.is_sorted_by_key(|meta| meta.location.as_ref().to_owned()))
    }

    /// Names of the folders directly under `prefix`, ascending. On a disk an empty folder counts.
    ///
    /// # Errors
    /// As [`Objects::list`].
    pub fn list_folders(&self, prefix: &Prefix) -> Result<Vec<String>> {
        Ok(self.shallow(prefix)?.0)
    }

    /// Names of the folders and of the objects directly under `prefix`.
    pub(crate) fn shallow(&self, prefix: &Prefix) -> Result<(Vec<String>, Vec<String>)> {
        let (store, at) = (Arc::clone(&self.store), folder(prefix));
        let listed = self
            .driver
            .run(async move { store.list_with_delimiter(at.as_ref()).await })
            .map_err(|e| self.failed("list", prefix, e))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        let mut folders: Vec<String> = listed.common_prefixes.iter().filter_map(name).collect();
        folders.sort_unstable();
        let objects = listed.objects.iter();
        Ok((folders, objects.filter_map(|o| name(&o.location)).collect()))
    }
}
