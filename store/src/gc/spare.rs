//! Which packs everything live can do without.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::survey::Survey;
use crate::catalog::Sought;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::PackId;
use crate::pack::{ContentHash, Part};
use crate::reach::contents;
use crate::salvage::decode;
use crate::store::Store;

/// What is asked of a copy that stays in the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// That the footers say that it is whole.
    Footers,
    /// That it decodes to what it is named after.
    Decoded,
}

/// A content that must stay, and the packs that it is decoded from.
struct Live {
    id: ContentHash,
    part: Part,
    hints: Vec<PackId>,
    packs: Vec<PackId>,
}

impl Survey {
    /// Those of `candidates` without which, all together, everything live can still be decoded: of several copies the newest stays.
    ///
    /// # Errors
    /// `Corrupt`, naming the checkpoint, if something live cannot be decoded even with all packs; `Newer`, `Backend`.
    pub(super) fn spare(
        &self,
        store: &Store,
        candidates: &BTreeSet<PackId>,
        proof: Proof,
    ) -> Result<BTreeSet<PackId>> {
        let everything = store.seeing(self.sight.clone());
        let mut live = self.live_contents(&everything)?;
        let mut users: HashMap<PackId, HashSet<usize>> = HashMap::new();
        for (at, content) in live.iter().enumerate() {
            for pack in &content.packs {
                users.entry(*pack).or_default().insert(at);
            }
        }
        // Oldest first: what was stored again, or repacked, takes the place of what was there before.
        let mut candidates: Vec<PackId> = candidates
            .iter()
            .filter(|pack| self.packs.contains_key(pack))
            .copied()
            .collect();
        candidates.sort_by_key(|pack| (self.packs[pack].modified_unix_ms, *pack));

        let mut view = everything.clone();
        let mut spare = BTreeSet::new();
        let mut proofs = Proofs::of(proof, &live);
        for pack in candidates {
            let of_pack: Vec<usize> = users.get(&pack).into_iter().flatten().copied().collect();
            view.catalog.hide(pack);
            let moved = match proofs.stay_whole(&everything, &view, pack, &live)? {
                true => elsewhere(&view, &live, &of_pack, proof)?,
                false => None,
            };
            let Some(moved) = moved else {
                view.catalog.unhide(&pack);
                continue;
            };
            for (at, packs) in moved {
                for old in std::mem::replace(&mut live[at].packs, packs) {
                    if let Some(of_old) = users.get_mut(&old) {
                        of_old.remove(&at);
                    }
                }
                for new in &live[at].packs {
                    users.entry(*new).or_default().insert(at);
                }
            }
            spare.insert(pack);
        }
        Ok(spare)
    }

    /// Every content of every live checkpoint, once, with the packs that it is decoded from.
    fn live_contents(&self, store: &Store) -> Result<Vec<Live>> {
        let mut seen = HashSet::new();
        let mut live = Vec::new();
        for (id, name) in self.live() {
            let manifest = self.manifest(store, id, &name)?;
            for (content, part, hints) in contents(&manifest) {
                if !seen.insert((content, part)) {
                    continue;
                }
                let sought = Sought::whole(content, part);
                let graph = Graph::resolve(&store.catalog, store.objects(), &sought, &hints);
                let graph = graph.map_err(|error| match error {
                    StoreError::Corrupt { object, detail, .. } => StoreError::Corrupt {
                        object: name.clone(),
                        detail: format!("{object}: {detail}"),
                        hint: format!(
                            "Nothing was deleted. Save the same step again, or put up with the loss: `tpde forget {name}`"
                        ),
                    },
                    other => other,
                })?;
                live.push(Live {
                    id: content,
                    part,
                    hints,
                    packs: packs_of(&graph),
                });
            }
        }
        Ok(live)
    }
}

/// What was found out of the copies that stay.
struct Proofs {
    wanted: Proof,
    /// Where each live content is in the list.
    places: HashMap<(ContentHash, Part), usize>,
    /// Whether the copy that stays decodes.
    found: HashMap<usize, bool>,
}

impl Proofs {
    fn of(wanted: Proof, live: &[Live]) -> Self {
        let places = live.iter().enumerate();
        Self {
            wanted,
            places: places
                .map(|(at, content)| ((content.id, content.part), at))
                .collect(),
            found: HashMap::new(),
        }
    }

    /// Whether the live contents of which `pack` holds a copy that nobody reads decode from those that are read.
    fn stay_whole(&mut self, everything: &Store, view: &Store, pack: PackId, live: &[Live]) -> Result<bool> {
        if self.wanted == Proof::Footers {
            return Ok(true);
        }
        for key in everything.catalog.contents_of(everything.objects(), pack)? {
            let Some(&at) = self.places.get(&key) else {
                continue;
            };
            let content = &live[at];
            if content.packs.contains(&pack) {
                continue;
            }
            let decodes = match self.found.get(&at) {
                Some(&decodes) => decodes,
                None => {
                    let sought = Sought::whole(content.id, content.part);
                    let graph = Graph::resolve(&view.catalog, view.objects(), &sought, &content.hints);
                    let decodes = graph.and_then(|graph| decode(view, content.id, content.part, &graph));
                    let decodes = match decodes {
                        Ok(()) => true,
                        Err(error @ StoreError::Corrupt { .. }) => {
                            tracing::warn!("another copy stays: {error}");
                            false
                        }
                        Err(error) => return Err(error),
                    };
                    self.found.insert(at, decodes);
                    decodes
                }
            };
            if !decodes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A content's place in the list, and the packs that it is decoded from now.
type Moved = (usize, Vec<PackId>);

/// Where these contents are decoded from by whoever sees what `view` sees; `None` if one is not whole there.
fn elsewhere(view: &Store, live: &[Live], of_pack: &[usize], proof: Proof) -> Result<Option<Vec<Moved>>> {
    let mut moved = Vec::with_capacity(of_pack.len());
    for &at in of_pack {
        let content = &live[at];
        let sought = Sought::whole(content.id, content.part);
        match Graph::resolve(&view.catalog, view.objects(), &sought, &content.hints) {
            Ok(graph) => moved.push((at, graph)),
            Err(StoreError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    if proof == Proof::Decoded {
        // A good copy never goes in favour of a damaged one.
        for (at, graph) in &moved {
            match decode(view, live[*at].id, live[*at].part, graph) {
                Ok(()) => {}
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::warn!("another copy stays: {error}");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(
        moved
            .into_iter()
            .map(|(at, graph)| (at, packs_of(&graph)))
            .collect(),
    ))
}

/// The packs of a graph, each once.
fn packs_of(graph: &Graph) -> Vec<PackId> {
    let packs: BTreeSet<PackId> = graph.packs().collect();
    packs.into_iter().collect()
}
