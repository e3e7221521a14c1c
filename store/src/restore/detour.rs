//! Another way to the same bytes, when a pack turns out to be damaged or gone while it is read.
//!
//! Names are resolved by the footers of packs, which say nothing of damage in the rest of a pack. So a piece may fail though another pack
//! holds a sound copy of it: one that was stored again, salvaged, or repacked.

use std::borrow::Cow;
use std::collections::HashMap;

use parking_lot::Mutex;

use crate::catalog::{Catalog, Sought};
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::PackId;
use crate::keys::Key;
use crate::objects::Objects;
use crate::pack::MAX_PACK_BYTES;
use crate::store::Store;
use crate::transfer::Pieces;

/// Some content, and what it is decoded from.
pub(super) struct Source {
    sought: Sought,
    hints: Vec<PackId>,
    graph: Graph,
}

impl Source {
    /// * `hints`: packs to look into first.
    ///
    /// # Errors
    /// As [`Graph::resolve`].
    pub(super) fn resolve(
        catalog: &Catalog,
        objects: &Objects,
        sought: Sought,
        hints: Vec<PackId>,
    ) -> Result<Self> {
        let graph = Graph::resolve(catalog, objects, &sought, &hints)?;
        Ok(Self { sought, hints, graph })
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }
}

/// What a restore learned of packs that did not give what they should.
pub(super) struct Detours<'s> {
    store: &'s Store,
    /// Whether a pack is what it is named after, of those that were looked at.
    sound: Mutex<HashMap<PackId, bool>>,
}

impl<'s> Detours<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        Self {
            store,
            sound: Mutex::default(),
        }
    }

    /// Reads some content; if that fails, by other copies, for as long as there are some.
    ///
    /// * `pieces`: a way to the pieces of `source`; after a failure they come from the store alone.
    ///
    /// # Errors
    /// The first error, if no way leads to the content; `Backend` if the store cannot be read.
    pub(super) fn read<T>(
        &self,
        source: &Source,
        pieces: Pieces<'_>,
        mut read: impl FnMut(Pieces<'_>, &Graph) -> Result<T>,
    ) -> Result<T> {
        let mut first = match read(pieces, &source.graph) {
            Err(error) if is_of_a_pack(&error) => error,
            done => return done,
        };
        let objects = self.store.objects();
        let mut graph = Cow::Borrowed(&source.graph);
        loop {
            let was_damaged = self.look_at(&graph)?;
            if was_damaged {
                if matches!(first, StoreError::Newer { .. }) {
                    first = StoreError::corrupt(
                        format!("a pack of {}", source.sought.shown()),
                        "its bytes are not what it is named after",
                    );
                }
                let hidden: Vec<PackId> = self
                    .sound
                    .lock()
                    .iter()
                    .filter(|(_, sound)| !**sound)
                    .map(|(p, _)| *p)
                    .collect();
                let without = self.store.without(hidden);
                graph = match Graph::resolve(&without.catalog, objects, &source.sought, &source.hints) {
                    Ok(graph) => Cow::Owned(graph),
                    Err(StoreError::Corrupt { .. }) => return Err(first),
                    Err(error) => return Err(error),
                };
            }
            match read(objects.into(), &graph) {
                Ok(read) => {
                    tracing::warn!("another copy was read instead of a damaged one: {first}");
                    return Ok(read);
                }
                // Sound packs, read from the store itself, and no content: it is not there to be had.
                Err(error) if is_of_a_pack(&error) && !was_damaged => return Err(first),
                Err(error) if is_of_a_pack(&error) => {}
                failed => return failed,
            }
        }
    }

    /// Looks at every byte of a graph's packs; whether one of them is not what it is named after. Each is read once in a restore, one at
    /// a time, for there may be many and they are large.
    fn look_at(&self, graph: &Graph) -> Result<bool> {
        let mut sound = self.sound.lock();
        let mut all = true;
        for pack in graph.packs() {
            let is_sound = match sound.get(&pack) {
                Some(&known) => known,
                None => self.is_sound(pack)?,
            };
            sound.insert(pack, is_sound);
            all &= is_sound;
        }
        Ok(!all)
    }

    fn is_sound(&self, pack: PackId) -> Result<bool> {
        let key = Key::Pack(pack);
        match self.store.objects().get_bounded(&key, MAX_PACK_BYTES as u64) {
            Ok(Some(bytes)) if PackId::of(&bytes) == pack => Ok(true),
            Ok(Some(_)) | Err(StoreError::Corrupt { .. }) => {
                tracing::debug!("{key} is damaged; another copy is looked for");
                Ok(false)
            }
            Ok(None) => {
                tracing::debug!("{key} is gone; another copy is looked for");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_of_a_pack(error: &StoreError) -> bool {
    // A damaged frame may look like one of a later version.
    matches!(
        error,
        StoreError::Corrupt { .. } | StoreError::NotFound { .. } | StoreError::Newer { .. }
    )
}
