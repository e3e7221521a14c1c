//! What is in a store, and what of it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::spare::{Proof, lost_hint};
use super::{Amount, Doomed};
use crate::catalog::Sight;
use crate::error::{Result, StoreError};
use crate::history::{self, Log};
use crate::ids::{ManifestId, PackId};
use crate::keys::{Key, Prefix};
use crate::mark::Marked;
use crate::names::RunName;
use crate::objects::{Listed, Objects};
use crate::store::Store;
use crate::tags::{self, TagRecord};

/// Everything that bears on what may be deleted, in the order that makes it safe: records first, then packs and manifests.
pub(crate) struct Survey {
    pub(crate) runs: Vec<(RunName, Log)>,
    pub(crate) tags: Vec<TagRecord>,
    /// The newest record of every tag, of removed ones too.
    tag_records: Vec<Key>,
    pub(crate) packs: BTreeMap<PackId, Listed>,
    pub(crate) manifests: BTreeMap<ManifestId, Listed>,
    /// The packs that exist: those that are there and in no mark of others.
    pub(super) sight: Sight,
    /// Manifests that do not exist, for they are in a mark of others.
    pub(super) marked: BTreeSet<ManifestId>,
}

impl Survey {
    /// Reads all slots and tags, then lists packs and manifests, and asks every pack what it holds.
    ///
    /// * `others`: what does not exist, for others are about to delete it.
    ///
    /// # Errors
    /// `Corrupt` for records that cannot be read; `Newer`, `Backend`.
    pub(crate) fn take(store: &Store, others: &Marked) -> Result<Self> {
        let objects = store.objects();
        let runs = history::runs(objects)?
            .into_iter()
            .map(|run| Ok((run.clone(), history::log(objects, &run)?)))
            .collect::<Result<_>>()?;
        let (tag_records, tags) = tags::newest_of_all(objects)?;
        let (packs, manifests) = list_all(objects)?;
        store.catalog.refresh(objects)?;
        let there = packs.keys().copied().collect();
        Ok(Self {
            runs,
            tags,
            tag_records,
            packs,
            manifests,
            sight: Sight {
                hidden: Arc::new(others.packs.clone()),
                only: Some(Arc::new(there)),
                contents: None,
            },
            marked: others.manifests.iter().copied().collect(),
        })
    }

    /// Every checkpoint that is to be kept, and what to call it.
    pub(crate) fn live(&self) -> BTreeMap<ManifestId, String> {
        let mut live = BTreeMap::new();
        for tag in &self.tags {
            live.insert(tag.target.manifest, format!("tag {}", tag.name));
        }
        for (run, log) in &self.runs {
            for commit in log.commits() {
                live.insert(commit.manifest, format!("{run}@{}", commit.step));
            }
        }
        live
    }

    /// Makes durable what a delete relies on: that records say what they say, and the copies that stay. Whoever wrote them may have
    /// been killed before they were, and a delete may outlive them.
    pub(super) fn settle(&self, store: &Store, doomed: &Doomed) -> Result<()> {
        let newest = |(run, log): &(RunName, Log)| Some(Key::Slot(run.clone(), log.records().last()?.seq));
        let mut keys: Vec<Key> = self.runs.iter().filter_map(newest).collect();
        keys.extend(self.tag_records.iter().cloned());
        let stay = self.packs.keys().filter(|pack| !doomed.packs.contains(pack));
        keys.extend(stay.copied().map(Key::Pack));
        store.objects().settle_all(&keys.iter().collect::<Vec<_>>())
    }

    /// Manifests that some record names and nothing that stands does. One that no record names may be about to be named.
    pub(crate) fn spare_manifests(&self) -> BTreeSet<ManifestId> {
        let live = self.live();
        let forgotten = self.runs.iter().flat_map(|(_, log)| log.forgotten());
        forgotten
            .map(|commit| commit.manifest)
            .filter(|id| !live.contains_key(id) && self.manifests.contains_key(id))
            .collect()
    }

    /// The manifest of a checkpoint that must be there.
    pub(crate) fn manifest(&self, store: &Store, id: ManifestId, name: &str) -> Result<crate::Manifest> {
        let lost = |detail: String| StoreError::Corrupt {
            object: name.to_owned(),
            detail,
            hint: lost_hint(name),
        };
        if self.marked.contains(&id) {
            return Err(lost(format!(
                "another gc is about to delete its manifest {}",
                id.short()
            )));
        }
        match store.named_manifest(id) {
            Err(StoreError::Corrupt { object, detail, .. }) => Err(lost(format!("{object}: {detail}"))),
            other => other,
        }
    }

    /// Packs that nothing live needs.
    ///
    /// # Errors
    /// `Corrupt`, naming the checkpoint, if something live cannot be decoded; `Newer`, `Backend`.
    pub(crate) fn reclaimable_packs(&self, store: &Store) -> Result<BTreeSet<PackId>> {
        self.spare(store, &self.packs.keys().copied().collect(), Proof::Footers)
    }

    /// What nothing live needs, however young it is.
    ///
    /// # Errors
    /// As [`Survey::reclaimable_packs`].
    pub(crate) fn reclaimable(&self, store: &Store) -> Result<Amount> {
        Ok(self.amount(&Doomed {
            packs: self.reclaimable_packs(store)?,
            manifests: self.spare_manifests(),
        }))
    }

    /// Manifests that no record names: of saves that were cut short, or are not finished.
    pub(crate) fn unnamed_manifests(&self) -> BTreeSet<ManifestId> {
        let records = self.runs.iter().flat_map(|(_, log)| log.records());
        let mut named: BTreeSet<ManifestId> = records.map(|record| record.manifest).collect();
        named.extend(self.tags.iter().map(|tag| tag.target.manifest));
        let there = self.manifests.keys().filter(|id| !named.contains(id));
        there.copied().collect()
    }

    /// How much these are.
    pub(super) fn amount(&self, of: &Doomed) -> Amount {
        let packs = of.packs.iter().filter_map(|id| self.packs.get(id));
        let manifests = of.manifests.iter().filter_map(|id| self.manifests.get(id));
        Amount {
            packs: of.packs.len() as u64,
            manifests: of.manifests.len() as u64,
            bytes: packs.chain(manifests).map(|listed| listed.size_bytes).sum(),
        }
    }

    /// How much there is without these.
    pub(super) fn kept(&self, but: &[&Doomed]) -> Amount {
        let all = Amount {
            packs: self.packs.len() as u64,
            manifests: self.manifests.len() as u64,
            bytes: self
                .packs
                .values()
                .chain(self.manifests.values())
                .map(|l| l.size_bytes)
                .sum(),
        };
        but.iter()
            .fold(all, |left, doomed| left.less(self.amount(doomed)))
    }
}

/// All packs and manifests that are there.
pub(crate) fn list_all(
    objects: &Objects,
) -> Result<(BTreeMap<PackId, Listed>, BTreeMap<ManifestId, Listed>)> {
    let packs = objects.list(&Prefix::Packs)?.into_iter();
    let packs = packs.filter_map(|listed| match listed.key {
        Key::Pack(id) => Some((id, listed)),
        _ => None,
    });
    let packs = packs.collect();
    let manifests = objects.list(&Prefix::Manifests)?.into_iter();
    let manifests = manifests.filter_map(|listed| match listed.key {
        Key::Manifest(id) => Some((id, listed)),
        _ => None,
    });
    Ok((packs, manifests.collect()))
}
