//! Which packs everything live can do without.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::survey::Survey;
use crate::catalog::{Sight, Sought};
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

/// For each stored part of a content, the packs that some live content reads it from, each with one that does.
type Readers = HashMap<(ContentHash, Part), Vec<(PackId, usize)>>;

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
        let (mut live, readers) = self.live_contents(&everything)?;
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
        let mut proofs = Proofs {
            wanted: proof,
            readers,
            found: HashMap::new(),
        };
        for pack in candidates {
            let of_pack: Vec<usize> = users.get(&pack).into_iter().flatten().copied().collect();
            // What is in another gc's mark does not exist, whatever comes out of this.
            let is_there = view.catalog.sees(&pack);
            view.catalog.hide(pack);
            let moved = match proofs.stay_whole(&everything, &view, pack, &live)? {
                true => elsewhere(&view, &live, &of_pack, proof)?,
                false => None,
            };
            let Some(moved) = moved else {
                if is_there {
                    view.catalog.unhide(&pack);
                }
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

    /// Every content of every live checkpoint, once, with the packs that it is decoded from; and who reads what.
    fn live_contents(&self, store: &Store) -> Result<(Vec<Live>, Readers)> {
        let mut seen = HashSet::new();
        let mut live = Vec::new();
        let mut readers = Readers::new();
        for (id, name) in self.live() {
            let manifest = self.manifest(store, id, &name)?;
            for (content, part, hints) in contents(&manifest) {
                if !seen.insert((content, part)) {
                    continue;
                }
                let sought = Sought::whole(content, part);
                let graph = Graph::resolve(&store.catalog, store.objects(), &sought, &hints);
                let graph = graph.map_err(|error| match error {
                    StoreError::Corrupt { object, detail, .. } => {
                        let sees_all = store.seeing(Sight::default());
                        let in_marks = Graph::resolve(&sees_all.catalog, sees_all.objects(), &sought, &hints);
                        let in_marks = in_marks.and_then(|graph| decode(&sees_all, content, part, &graph));
                        let is_marked = in_marks.is_ok();
                        StoreError::Corrupt {
                            object: name.clone(),
                            detail: match is_marked {
                                true => format!("{object} lies only in packs that another gc, or a repair, has marked"),
                                false => format!("{object}: {detail}"),
                            },
                            hint: match is_marked {
                                true => "Nothing was deleted and nothing is lost: run `tpde repack`, which stores it again, then this".to_owned(),
                                false => lost_hint(&name),
                            },
                        }
                    }
                    other => other,
                })?;
                for node in graph.nodes() {
                    let piece = &node.piece;
                    let of_part = readers.entry((piece.entry().id, piece.part())).or_default();
                    if !of_part.iter().any(|(pack, _)| *pack == piece.pack) {
                        of_part.push((piece.pack, live.len()));
                    }
                }
                live.push(Live {
                    id: content,
                    part,
                    hints,
                    packs: packs_of(&graph),
                });
            }
        }
        Ok((live, readers))
    }
}

/// What to do about a checkpoint that is not whole.
///
/// * `name`: `run@step`, or `tag NAME`.
pub(super) fn lost_hint(name: &str) -> String {
    match name.strip_prefix("tag ") {
        Some(tag) => format!(
            "Nothing was deleted. Save the same step again, or put up with the loss: `tpde tag --delete {tag}`"
        ),
        None => format!(
            "Nothing was deleted. Save the same step again, or put up with the loss: `tpde forget {name}`"
        ),
    }
}

/// What was found out of the copies that stay.
struct Proofs {
    wanted: Proof,
    readers: Readers,
    /// Whether a live content decodes from what stays.
    found: HashMap<usize, bool>,
}

impl Proofs {
    /// Whether what reads other copies of what `pack` holds decodes: a sound copy never goes while the one that is read is damaged, be it of
    /// something live or of a base that nobody keeps for its own sake.
    fn stay_whole(&mut self, everything: &Store, view: &Store, pack: PackId, live: &[Live]) -> Result<bool> {
        if self.wanted == Proof::Footers {
            return Ok(true);
        }
        for key in everything.catalog.contents_of(everything.objects(), pack)? {
            let others = self.readers.get(&key).into_iter().flatten();
            let others: Vec<usize> = others
                .filter(|(read, _)| *read != pack)
                .map(|(_, at)| *at)
                .collect();
            for at in others {
                // Whoever reads this pack is looked at when it is moved.
                if !live[at].packs.contains(&pack) && !self.decodes(view, at, &live[at])? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn decodes(&mut self, view: &Store, at: usize, content: &Live) -> Result<bool> {
        if let Some(&decodes) = self.found.get(&at) {
            return Ok(decodes);
        }
        let sought = Sought::whole(content.id, content.part);
        let graph = Graph::resolve(&view.catalog, view.objects(), &sought, &content.hints);
        let decodes = match graph.and_then(|graph| decode(view, content.id, content.part, &graph)) {
            Ok(()) => true,
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!("another copy stays: {error}");
                false
            }
            Err(error) => return Err(error),
        };
        self.found.insert(at, decodes);
        Ok(decodes)
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
