//! An open store: where its objects are, what may be done with it, and how content is found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::{Catalog, Sight, Sought};
use crate::config::{self, Access, Config};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::index::{cache_folder, open_index};
use crate::keys::{Key, Prefix};
use crate::manifest::Manifest;
use crate::objects::{Environment, Objects, PackCache, Rate};
use crate::reference::{self, Resolved};

/// What this machine keeps of packs on a server, unless the caller says otherwise, in bytes.
pub const DEFAULT_PACK_CACHE_BYTES: u64 = 4 << 30;

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// No more than this many bytes a second come and go, of all requests together.
    pub rate: Option<Rate>,
    /// Most bytes of packs on a server that this machine keeps in its cache folder; 0 for none.
    pub pack_cache_bytes: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            rate: None,
            pack_cache_bytes: DEFAULT_PACK_CACHE_BYTES,
        }
    }
}

/// A store of checkpoints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Objects,
    config: Config,
    access: Access,
    pub(crate) catalog: Catalog,
    /// This user's cache folder, if there is one.
    pub(crate) cache: Option<PathBuf>,
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
        Self::open_with(location, &OpenOptions::default())
    }

    /// Opens a store.
    ///
    /// * `location`: a path or a URL.
    ///
    /// # Errors
    /// As [`config::open`].
    pub fn open_with(location: &str, options: &OpenOptions) -> Result<Self> {
        let objects = Objects::open_at_rate(location, &Environment::of_process(), options.rate)?;
        let cache = cache_folder();
        let store = Self::over(objects, cache.clone())?;
        let Some(cache) = cache.filter(|_| options.pack_cache_bytes > 0) else {
            return Ok(store);
        };
        let folder = cache.join(store.config.store_id.to_string()).join("packs");
        let cache = PackCache::new(&folder, options.pack_cache_bytes);
        Ok(Self {
            objects: store.objects.with_pack_cache(cache),
            ..store
        })
    }

    /// Opens the store that `objects` reach, with its index below `cache` (in memory if `None`).
    ///
    /// # Errors
    /// As [`config::open`].
    pub fn over(objects: Objects, cache: Option<PathBuf>) -> Result<Self> {
        let (config, access) = config::open(&objects).map_err(|error| no_config(&objects, error))?;
        let index = open_index(&config.store_id, cache.as_deref().map(Path::new));
        Ok(Self {
            objects,
            config,
            access,
            catalog: Catalog::new(index),
            cache,
        })
    }

    /// The same store for somebody for whom only some packs exist.
    pub(crate) fn seeing(&self, sight: Sight) -> Self {
        Self {
            catalog: self.catalog.seeing(sight),
            ..self.clone()
        }
    }

    /// The same store for somebody for whom these packs do not exist either.
    pub(crate) fn without(&self, packs: impl IntoIterator<Item = PackId>) -> Self {
        let sight = self.sight();
        let mut hidden = (*sight.hidden).clone();
        hidden.extend(packs);
        self.seeing(Sight {
            hidden: Arc::new(hidden),
            ..sight
        })
    }

    /// The same store with its objects reached by another way.
    pub(crate) fn by_way_of(&self, objects: Objects) -> Self {
        Self {
            objects,
            ..self.clone()
        }
    }

    /// What exists for whoever holds this.
    pub(crate) fn sight(&self) -> Sight {
        self.catalog.sight().clone()
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

    /// Reads the manifest of a checkpoint that a run, a tag or a listing named.
    ///
    /// # Errors
    /// As [`Store::manifest`]; `Corrupt` instead of `NotFound`: what was named must be there.
    pub fn named_manifest(&self, id: ManifestId) -> Result<Manifest> {
        self.manifest(id).map_err(|error| match error {
            StoreError::NotFound { .. } => {
                StoreError::corrupt(Key::Manifest(id).to_string(), "it is missing")
            }
            other => other,
        })
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
                // Where only some contents exist, that is what is wanted.
                match self.catalog.sight().contains_all() {
                    true => tracing::warn!("stored again: {error}"),
                    false => tracing::debug!("stored again: {error}"),
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What to do about a `tpde.json` that is damaged, or is not where a store seems to be: nothing can be asked without it.
fn no_config(objects: &Objects, error: StoreError) -> StoreError {
    const FROM_A_COPY: &str = "Restore tpde.json from a copy of the store (a few lines of JSON); nothing else needs it, and nothing is lost";
    let at = objects.location();
    match error {
        StoreError::Corrupt { object, detail, .. } => StoreError::Corrupt {
            object,
            detail,
            hint: FROM_A_COPY.to_owned(),
        },
        StoreError::NotFound { what, hint } => match objects.shallow(&Prefix::Root) {
            Ok((folders, _)) if folders.iter().any(|f| f == "packs" || f == "runs") => StoreError::Corrupt {
                object: format!("store {at}"),
                detail: "it holds objects of a store, and tpde.json is missing".to_owned(),
                hint: FROM_A_COPY.to_owned(),
            },
            Ok((folders, files)) if !folders.is_empty() || !files.is_empty() => StoreError::not_found(
                what,
                "The folder holds other things: name the one that holds tpde.json, or make a store in a new folder with \
                 `tpde init PATH`",
            ),
            _ => StoreError::not_found(what, hint),
        },
        other => other,
    }
}
