//! Du: where the bytes of a store are, and which of them nothing needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::catalog::Sought;
use crate::error::Result;
use crate::gc::{Amount, Survey};
use crate::graph::Graph;
use crate::ids::PackId;
use crate::keys::{Key, Prefix};
use crate::mark::Marked;
use crate::names::RunName;
use crate::reach::contents;
use crate::store::Store;

/// What one run takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunUsage {
    /// The run.
    pub run: RunName,
    /// Checkpoints that stand.
    pub checkpoints: u64,
    /// Checkpoints that are forgotten.
    pub forgotten: u64,
    /// Bytes of the files of those that stand.
    pub raw_bytes: u64,
    /// Stored bytes of pieces that this run alone needs, and of its manifests.
    pub own_bytes: u64,
    /// Stored bytes of pieces that other runs or tags need too.
    pub shared_bytes: u64,
}

/// Where the bytes are. Every byte is in exactly one of `own_bytes` of some run, `shared_bytes`, `tagged_bytes`, `unused_bytes`,
/// `reclaimable`, `unnamed` and `records_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Each run, by name.
    pub runs: Vec<RunUsage>,
    /// Pieces that several runs, or a run and a tag, need.
    pub shared_bytes: u64,
    /// Pieces and manifests of checkpoints that only tags stand for.
    pub tagged_bytes: u64,
    /// Pieces that nothing needs in packs of which something is needed, and the footers of those packs: what a repack may free.
    pub unused_bytes: u64,
    /// Packs and manifests that nothing needs: what a gc frees.
    pub reclaimable: Amount,
    /// Manifests that no record names: of saves that were cut short, or are not finished.
    pub unnamed: Amount,
    /// Slots, rollups, tags, leases, marks, the policy and `tpde.json`.
    pub records_bytes: u64,
}

impl Usage {
    /// All bytes of the store.
    pub fn stored_bytes(&self) -> u64 {
        let own: u64 = self.runs.iter().map(|run| run.own_bytes).sum();
        own + self.shared_bytes
            + self.tagged_bytes
            + self.unused_bytes
            + self.reclaimable.bytes
            + self.unnamed.bytes
            + self.records_bytes
    }
}

/// Who needs a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Run(usize),
    Tag,
    Several,
}

impl Store {
    /// Says where the bytes of the store are.
    ///
    /// # Errors
    /// `Corrupt`, naming the checkpoint, if something that stands cannot be decoded; `Newer`, `Backend`.
    ///
    /// Cost: reads the manifests of all checkpoints that stand and the footers of all packs.
    pub fn usage(&self) -> Result<Usage> {
        let survey = Survey::take(self, &Marked::default())?;
        let spare = survey.reclaimable_packs(self)?;
        let mut usage = Usage {
            reclaimable: survey.reclaimable(self)?,
            ..Usage::default()
        };
        let mut pieces: HashMap<(PackId, u64), (u64, Owner)> = HashMap::new();
        let mut manifests: BTreeMap<_, Owner> = BTreeMap::new();
        let mut needed_by_run: Vec<BTreeSet<(PackId, u64)>> = Vec::new();
        let owners = (0..survey.runs.len()).map(Owner::Run).chain([Owner::Tag]);
        for owner in owners {
            let of_owner: BTreeSet<_> = match owner {
                Owner::Run(at) => survey.runs[at].1.commits().map(|c| c.manifest).collect(),
                _ => survey.tags.iter().map(|tag| tag.target.manifest).collect(),
            };
            let mut needed = BTreeSet::new();
            for id in of_owner {
                let several = manifests.contains_key(&id);
                // A tag on a checkpoint that stands needs nothing of its own.
                if owner == Owner::Tag && several {
                    continue;
                }
                manifests
                    .entry(id)
                    .and_modify(|of| *of = Owner::Several)
                    .or_insert(owner);
                let manifest = self.named_manifest(id)?;
                for (content, part, hints) in contents(&manifest) {
                    let sought = Sought::whole(content, part);
                    let graph = Graph::resolve(&self.catalog, self.objects(), &sought, &hints)?;
                    for node in graph.nodes() {
                        let key = (node.piece.pack, node.piece.range().start);
                        needed.insert(key);
                        pieces
                            .entry(key)
                            .and_modify(|(_, of)| {
                                if *of != owner {
                                    *of = Owner::Several;
                                }
                            })
                            .or_insert((node.piece.len_bytes(), owner));
                    }
                }
            }
            needed_by_run.push(needed);
        }
        self.add_up(&survey, &spare, &pieces, &manifests, &needed_by_run, &mut usage)?;
        Ok(usage)
    }

    fn add_up(
        &self,
        survey: &Survey,
        spare: &BTreeSet<PackId>,
        pieces: &HashMap<(PackId, u64), (u64, Owner)>,
        manifests: &BTreeMap<crate::ids::ManifestId, Owner>,
        needed_by_run: &[BTreeSet<(PackId, u64)>],
        usage: &mut Usage,
    ) -> Result<()> {
        for (run, log) in &survey.runs {
            usage.runs.push(RunUsage {
                run: run.clone(),
                checkpoints: log.commits().count() as u64,
                forgotten: log.forgotten().count() as u64,
                raw_bytes: log.commits().map(|c| c.totals.raw_bytes).sum(),
                own_bytes: 0,
                shared_bytes: 0,
            });
        }
        let mut in_packs = 0;
        let sizes = manifests.iter().filter_map(|(id, owner)| {
            let listed = survey.manifests.get(id)?;
            Some((listed.size_bytes, *owner))
        });
        let needed = pieces.iter().filter(|((pack, _), _)| !spare.contains(pack));
        let needed = needed
            .map(|(_, found)| *found)
            .inspect(|(len, _)| in_packs += len);
        for (len, owner) in needed.collect::<Vec<_>>().into_iter().chain(sizes) {
            match owner {
                Owner::Run(at) => usage.runs[at].own_bytes += len,
                Owner::Tag => usage.tagged_bytes += len,
                Owner::Several => usage.shared_bytes += len,
            }
        }
        for (run, needed) in usage.runs.iter_mut().zip(needed_by_run) {
            let shared = needed.iter().filter_map(|key| pieces.get(key));
            let shared = shared.filter(|(_, owner)| *owner == Owner::Several);
            run.shared_bytes = shared.map(|(len, _)| len).sum();
        }
        let kept = survey.packs.iter().filter(|(id, _)| !spare.contains(id));
        let kept_bytes: u64 = kept.map(|(_, listed)| listed.size_bytes).sum();
        usage.unused_bytes = kept_bytes.saturating_sub(in_packs);
        for id in survey.unnamed_manifests() {
            usage.unnamed.manifests += 1;
            usage.unnamed.bytes += survey.manifests[&id].size_bytes;
        }
        for listed in self.objects().list(&Prefix::Root)? {
            if !matches!(listed.key, Key::Pack(_) | Key::Manifest(_)) {
                usage.records_bytes += listed.size_bytes;
            }
        }
        Ok(())
    }
}
