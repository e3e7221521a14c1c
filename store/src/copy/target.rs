//! The store that is copied into, as a copy sees it: what of it may be relied on, and how what is new gets there.
//!
//! A pack or manifest of the source is never written under its own name (docs/adr/0015): what the target lacks is stored there in new
//! packs, and a new manifest names them. So whatever a save must heed before it relies on a pack, or writes one, is heeded here.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::abreast::abreast;
use crate::catalog::Sought;
use crate::error::Result;
use crate::graph::Graph;
use crate::ids::{ManifestId, PackId};
use crate::keys::Key;
use crate::lease::Lease;
use crate::manifest::Manifest;
use crate::pack::{Entry, Needs, PackWriter};
use crate::store::Store;

/// A pack that is filled and has its name.
pub(super) struct Sealed {
    pub(super) id: PackId,
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<Entry>,
}

/// The store that is copied into.
pub(super) struct Target<'s> {
    /// As it may be relied on.
    pub(super) store: &'s Store,
    /// What it is written under; nothing is written without.
    lease: Option<&'s Lease>,
}

impl<'s> Target<'s> {
    /// For who only looks.
    pub(super) fn looked_at(store: &'s Store) -> Self {
        Self { store, lease: None }
    }

    /// For the holder of a lease: what is in a mark does not exist.
    pub(super) fn under(lease: &'s Lease) -> Self {
        Self {
            store: lease.store(),
            lease: Some(lease),
        }
    }

    /// Whether a manifest is there, and in no mark.
    pub(super) fn has(&self, manifest: ManifestId) -> bool {
        !self.lease.is_some_and(|lease| lease.is_marked(manifest))
    }

    /// A new pack, of a name that nobody else writes.
    pub(super) fn writer(&self) -> PackWriter {
        self.lease
            .map_or_else(PackWriter::default, |lease| PackWriter::under(lease.id()))
    }

    /// How the target decodes some content, if it holds it whole, in packs that may be relied on.
    pub(super) fn held(&self, sought: &Sought) -> Result<Option<Graph>> {
        self.store.stored_graph(sought, &[])
    }

    /// The pack that holds some content encoded as `entry` is, whether or not what it reads is there.
    pub(super) fn holds_alike(&self, sought: &Sought, entry: &Entry) -> Result<Option<PackId>> {
        let store = self.store;
        let found = store.catalog.find(store.objects(), sought, &[])?;
        let needs = |entry: &Entry| {
            let Needs { base, given } = entry.needs;
            let given = given.map(|(relation, needed)| (relation, needed.prefix));
            (entry.rank, base.map(|base| base.prefix), given)
        };
        let alike = found.filter(|piece| needs(piece.entry()) == needs(entry));
        Ok(alike.map(|piece| piece.pack))
    }

    /// Closes a pack. Its name is one that nobody wrote before.
    pub(super) fn seal(&self, pack: PackWriter) -> Sealed {
        let (id, bytes, entries) = pack.finish();
        Sealed { id, bytes, entries }
    }

    /// Stores packs, several at once.
    pub(super) fn put(&self, packs: Vec<Sealed>) -> Result<()> {
        abreast(&packs, |pack| {
            self.store
                .objects()
                .put_content(&Key::Pack(pack.id), pack.bytes.clone())
        })?;
        for pack in packs {
            self.store.catalog.added(pack.id, pack.entries);
        }
        Ok(())
    }

    /// Whether everything that manifests are about to name is still there.
    pub(super) fn confirm(&self, packs: &BTreeSet<PackId>) -> Result<bool> {
        self.store.all_there(packs)
    }

    /// Stores a manifest, under a name that nobody wrote before; its id and bytes.
    pub(super) fn put_manifest(&self, manifest: &Manifest) -> Result<(ManifestId, u64)> {
        let manifest = Manifest {
            lease: self.lease.map(Lease::id),
            ..manifest.clone()
        };
        let (id, bytes) = manifest.encode()?;
        let len_bytes = bytes.len() as u64;
        self.store
            .objects()
            .put_content(&Key::Manifest(id), bytes.into())?;
        Ok((id, len_bytes))
    }
}
