//! An open store: where its objects are, what may be done with it, and how content is found.

use std::path::{Path, PathBuf};

use crate::catalog::{Catalog, Sought};
use crate::config::{self, Access, Config};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::index::{cache_folder, open_index};
use crate::keys::Key;
use crate::manifest::Manifest;
use crate::objects::Objects;
use crate::reference::{self, Resolved};

/// A store of checkpoints.
#[derive(Debug)]
pub struct Store {
    objects: Objects,
    config: Config,
    access: Access,
    pub(crate) catalog: Catalog,
}

impl Store {
    /// Makes a store in an empty place and opens it.
    ///
    /// # Errors
    /// As [`config::init`].
    pub fn init(location: &str) -> Result<Self> {
        let objects = Objects::open_or_make(location)?;
        config::init(&objects)?;
        Self::over(objects, cache_folder())
    }

    /// Opens a store.
    ///
    /// * `location`: a path or a URL.
    ///
    /// # Errors
    /// As [`config::open`].
    pub fn open(location: &str) -> Result<Self> {
        Self::over(Objects::open(location)?, cache_folder())
    }

    /// Opens the store that `objects` reach, with its index below `cache` (in memory if `None`).
    ///
    /// # Errors
    /// As [`config::open`].
    pub fn over(objects: Objects, cache: Option<PathBuf>) -> Result<Self> {
        let (config, access) = config::open(&objects)?;
        let index = open_index(&config.store_id, cache.as_deref().map(Path::new));
        Ok(Self {
            objects,
            config,
            access,
            catalog: Catalog::new(index),
        })
    }

    /// The objects behind it.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Its description.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What may be done with it.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Finds the checkpoint that `text` names: `run@step`, `run@latest`, `run~2`, a tag or a hash prefix.
    ///
    /// # Errors
    /// As [`reference::resolve`].
    pub fn resolve(&self, text: &str) -> Result<Resolved> {
        reference::resolve(&self.objects, text)
    }

    /// Reads a manifest, checked against its name.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Newer`, `Backend`.
    pub fn manifest(&self, id: ManifestId) -> Result<Manifest> {
        Manifest::decode(id, &self.objects.get(&Key::Manifest(id))?)
    }

    /// Everything that some stored content is decoded from, or `None` if it is not whole: then it must be stored again.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(crate) fn stored_graph(&self, sought: &Sought, hints: &[PackId]) -> Result<Option<Graph>> {
        if self.catalog.find(&self.objects, sought, hints)?.is_none() {
            return Ok(None);
        }
        match Graph::resolve(&self.catalog, &self.objects, sought, hints) {
            Ok(graph) => Ok(Some(graph)),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!("stored again: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
