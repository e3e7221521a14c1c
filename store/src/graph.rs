//! Graphs: everything that a piece is decoded from.
//!
//! ```text
//! weight 0 ◀─base─ weight 1 ◀─base─ weight 2
//!    ▲                ▲                ▲
//!  given            given            given          master 2 is decoded from all six
//!    │                │                │
//! master 0 ◀─base─ master 1 ◀─base─ master 2
//! ```
//! Ranks fall on every edge and the number of pieces is bounded, so that following a hostile store ends.

use std::collections::HashMap;

use crate::catalog::{Avoided, Catalog, Copy, Piece, Sought};
use crate::error::{Result, StoreError};
use crate::ids::PackId;
use crate::objects::Objects;
use crate::pack::{ContentPrefix, Holder, Part};

/// Most pieces that one piece may be decoded from, itself included: twice what the deepest chain of masters and their weights
/// takes.
pub(crate) const MAX_GRAPH_PIECES: usize = 256;

/// A piece, and which earlier pieces of its graph it reads.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) piece: Piece,
    pub(crate) base: Option<usize>,
    pub(crate) given: Option<usize>,
}

/// A piece and everything below it: each node reads earlier ones, the last is what was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What was asked for.
    pub(crate) fn top(&self) -> &Piece {
        // Made by `resolve` alone, which never makes an empty one.
        &self.nodes[self.nodes.len() - 1].piece
    }

    /// Rank of what was asked for.
    pub(crate) fn rank(&self) -> u8 {
        self.top().entry().rank
    }

    /// The packs of all pieces; one may come more than once.
    pub(crate) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.nodes.iter().map(|node| node.piece.pack)
    }

    /// Bytes of all pieces.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.piece.len_bytes()).sum()
    }

    /// The nodes that node `at` is decoded from, itself last, with their places in this graph.
    pub(crate) fn below(&self, at: usize) -> Vec<(usize, Option<usize>, Option<usize>)> {
        let mut needed = vec![false; at + 1];
        needed[at] = true;
        for i in (0..=at).rev() {
            if needed[i] {
                let node = &self.nodes[i];
                node.base
                    .into_iter()
                    .chain(node.given)
                    .for_each(|n| needed[n] = true);
            }
        }
        let mut place = vec![0; at + 1];
        let mut below = Vec::new();
        for i in (0..=at).filter(|&i| needed[i]) {
            place[i] = below.len();
            let node = &self.nodes[i];
            below.push((i, node.base.map(|n| place[n]), node.given.map(|n| place[n])));
        }
        below
    }

    /// Finds a piece and everything below it. Of a content with several copies, one that is whole is taken.
    ///
    /// # Errors
    /// `Corrupt` if no copy is whole: a piece is missing, ranks do not fall, or there are more than [`MAX_GRAPH_PIECES`]; `Backend`
    /// if the store cannot be read.
    pub(crate) fn resolve(
        catalog: &Catalog,
        objects: &Objects,
        sought: &Sought,
        hints: &[PackId],
    ) -> Result<Self> {
        let mut avoided = Avoided::default();
        let mut first: Option<StoreError> = None;
        loop {
            let error = match Self::attempt(catalog, objects, sought, hints, &avoided)? {
                Attempt::Whole(graph) => return Ok(graph),
                Attempt::Missing => {
                    return Err(
                        first.unwrap_or_else(|| StoreError::corrupt(sought.shown(), "no pack holds it"))
                    );
                }
                Attempt::Broken { copy, error } => {
                    avoided.insert(copy);
                    error
                }
            };
            if avoided.len() > MAX_BROKEN_COPIES {
                return Err(error);
            }
            first.get_or_insert(error);
        }
    }

    /// One way down that leaves out the copies in `avoided`.
    fn attempt(
        catalog: &Catalog,
        objects: &Objects,
        sought: &Sought,
        hints: &[PackId],
        avoided: &Avoided,
    ) -> Result<Attempt> {
        let Some(piece) = catalog.find_anywhere(objects, sought, hints, avoided)? else {
            return Ok(Attempt::Missing);
        };
        let mut open = vec![Open::new(sought, piece)];
        let mut nodes: Vec<Node> = Vec::new();
        let mut known: HashMap<(ContentPrefix, Part), usize> = HashMap::new();
        while let Some(top) = open.last_mut() {
            let Some((wanted, holder)) = top.next_needed() else {
                known.insert(top.key, nodes.len());
                let Open { node, .. } = top;
                nodes.push(node.clone());
                open.pop();
                continue;
            };
            let broken = |top: &Open, detail: String| Attempt::Broken {
                copy: (top.node.piece.pack, top.key.0, top.key.1),
                error: StoreError::corrupt(sought.shown(), detail),
            };
            let rank = top.node.piece.entry().rank;
            if let Some(&at) = known.get(&(wanted.prefix, wanted.part))
                && nodes[at].piece.entry().rank < rank
            {
                top.connect(at);
                continue;
            }
            let hint = match holder {
                Holder::Unknown => None,
                Holder::Here => Some(top.node.piece.pack),
                Holder::Pack(pack) => Some(pack),
            };
            let found = catalog.find_anywhere(objects, &wanted.below(rank), hint.as_slice(), avoided)?;
            let Some(piece) = found else {
                let detail = format!(
                    "no pack holds {}, which {} of rank {rank} is decoded from, at a lower rank",
                    wanted.shown(),
                    top.node.piece.shown()
                );
                return Ok(broken(top, detail));
            };
            if nodes.len() + open.len() >= MAX_GRAPH_PIECES {
                let detail = format!("it is decoded from more than {MAX_GRAPH_PIECES} pieces");
                return Ok(Attempt::Broken {
                    copy: (open[0].node.piece.pack, open[0].key.0, open[0].key.1),
                    error: StoreError::corrupt(sought.shown(), detail),
                });
            }
            open.push(Open::new(&wanted, piece));
        }
        Ok(Attempt::Whole(Self { nodes }))
    }
}

/// Most copies that are found broken before the search ends: a hostile store has more.
const MAX_BROKEN_COPIES: usize = 64;

/// How one way down ended.
enum Attempt {
    Whole(Graph),
    /// There is no copy, or none that is not avoided.
    Missing,
    /// A copy reads something that is not there.
    Broken {
        copy: Copy,
        error: StoreError,
    },
}

/// A piece whose needs are not all resolved.
struct Open {
    key: (ContentPrefix, Part),
    node: Node,
}

impl Open {
    fn new(sought: &Sought, piece: Piece) -> Self {
        Self {
            key: (sought.prefix, sought.part),
            node: Node {
                piece,
                base: None,
                given: None,
            },
        }
    }

    /// What it reads and has not been connected with.
    fn next_needed(&self) -> Option<(Sought, Holder)> {
        let needs = &self.node.piece.entry().needs;
        let part = self.key.1;
        if let (Some(base), None) = (needs.base, self.node.base) {
            return Some((Sought::by_prefix(base.prefix, part), base.holder));
        }
        let (relation, given) = needs.given.filter(|_| self.node.given.is_none())?;
        Some((
            Sought::by_prefix(given.prefix, part.given(relation)),
            given.holder,
        ))
    }

    fn connect(&mut self, at: usize) {
        if self.node.piece.entry().needs.base.is_some() && self.node.base.is_none() {
            self.node.base = Some(at);
        } else {
            self.node.given = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpde_core::{Dtype, Relation};

    use crate::index::MemoryIndex;
    use crate::keys::Key;
    use crate::pack::{Content, Needed, Needs, PackWriter, prefix_of};

    /// Id, dtype, base, given, rank.
    type MadeUp = (u8, Dtype, Option<Needed>, Option<(Relation, Needed)>, u8);

    /// A store of made-up pieces, each under an id of one repeated byte.
    struct Bench {
        objects: Objects,
        catalog: Catalog,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                objects: Objects::memory(),
                catalog: Catalog::new(Box::new(MemoryIndex::default())),
            }
        }

        /// Stores a pack of entries.
        fn pack(&self, entries: &[MadeUp]) -> PackId {
            let mut writer = PackWriter::default();
            for &(id, dtype, base, given, rank) in entries {
                let content = Content::Slices { dtype, first: 0 };
                writer.add([id; 32], content, Needs { base, given }, rank, &[id; 10]);
            }
            let (pack, bytes, _) = writer.finish();
            self.objects.put_content(&Key::Pack(pack), bytes).unwrap();
            pack
        }

        fn resolve(&self, id: u8, dtype: Dtype) -> Result<Graph> {
            let part = Part::Slice { dtype, number: 0 };
            Graph::resolve(&self.catalog, &self.objects, &Sought::whole([id; 32], part), &[])
        }

        fn refusal(&self, id: u8) -> String {
            let error = self.resolve(id, Dtype::F32).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            error.to_string()
        }
    }

    fn needed(id: u8, holder: Holder) -> Needed {
        let prefix = prefix_of(&[id; 32]);
        Needed { prefix, holder }
    }

    fn anywhere(id: u8) -> Option<Needed> {
        Some(needed(id, Holder::Unknown))
    }

    fn rounded(id: u8, holder: Holder) -> Option<(Relation, Needed)> {
        Some((Relation::Rounded, needed(id, holder)))
    }

    /// Promise: a graph holds each piece once, whatever reads it, below everything that reads it; hints may be right, wrong or
    /// missing.
    #[test]
    fn shared_pieces_come_once() {
        let bench = Bench::new();
        let first = bench.pack(&[
            (1, Dtype::BF16, None, None, 0),
            (2, Dtype::F32, None, rounded(1, Holder::Here), 1),
        ]);
        let wrong = PackId::of(b"nothing");
        bench.pack(&[
            (3, Dtype::BF16, Some(needed(1, Holder::Pack(first))), None, 1),
            (
                4,
                Dtype::F32,
                Some(needed(2, Holder::Pack(wrong))),
                rounded(3, Holder::Here),
                2,
            ),
        ]);
        let graph = bench.resolve(4, Dtype::F32).unwrap();
        let ids: Vec<u8> = graph.nodes().iter().map(|n| n.piece.entry().id[0]).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        let edges: Vec<_> = graph.nodes().iter().map(|n| (n.base, n.given)).collect();
        assert_eq!(
            edges,
            [(None, None), (None, Some(0)), (Some(0), None), (Some(1), Some(2))]
        );
        assert_eq!((graph.rank(), graph.stored_bytes()), (2, 40));
        // The graph of the third alone leaves the second out.
        assert_eq!(graph.below(2), [(0, None, None), (2, Some(0), None)]);
        assert_eq!(graph.below(3).len(), 4);
        // What is wanted counts by its type too.
        assert!(bench.resolve(4, Dtype::BF16).is_err());
    }

    /// Promise: of two encodings of one content in a pack, the one of lower rank is read.
    #[test]
    fn the_lower_rank_is_read() {
        let bench = Bench::new();
        bench.pack(&[
            (1, Dtype::F32, None, None, 0),
            (2, Dtype::F32, anywhere(1), None, 1),
            (2, Dtype::F32, None, None, 0),
            (3, Dtype::F32, anywhere(2), None, 1),
        ]);
        assert_eq!(bench.resolve(3, Dtype::F32).unwrap().nodes().len(), 2);
    }

    /// Promise: a copy of too high a rank, or one that is not whole, does no harm while another copy will do, wherever it is and
    /// whatever a hint says.
    #[test]
    fn another_copy_is_found() {
        let bench = Bench::new();
        bench.pack(&[(1, Dtype::F32, None, None, 0)]);
        let high = bench.pack(&[
            (1, Dtype::F32, anywhere(9), None, 5),
            (9, Dtype::F32, None, None, 0),
        ]);
        bench.pack(&[(2, Dtype::F32, Some(needed(1, Holder::Pack(high))), None, 1)]);
        assert_eq!(bench.resolve(2, Dtype::F32).unwrap().nodes().len(), 2);

        bench.pack(&[(3, Dtype::F32, None, None, 0)]);
        let broken = bench.pack(&[(3, Dtype::F32, anywhere(77), None, 2)]);
        bench.pack(&[(4, Dtype::F32, Some(needed(3, Holder::Pack(broken))), None, 3)]);
        for (id, pieces) in [(3, 1), (4, 2)] {
            assert_eq!(bench.resolve(id, Dtype::F32).unwrap().nodes().len(), pieces);
        }
    }

    /// Promise: circles, ranks that do not fall and pieces that are missing are refused by name.
    #[test]
    fn ways_that_do_not_end_are_refused() {
        let bench = Bench::new();
        bench.pack(&[
            (1, Dtype::F32, anywhere(2), None, 5),
            (2, Dtype::F32, anywhere(1), None, 4),
            (3, Dtype::F32, anywhere(3), None, 200),
            (4, Dtype::F32, anywhere(5), None, 3),
            (5, Dtype::F32, None, rounded(6, Holder::Unknown), 3),
            (6, Dtype::BF16, None, None, 0),
            (7, Dtype::F32, None, rounded(99, Holder::Here), 1),
        ]);
        for circle in [1, 3, 4] {
            assert!(bench.refusal(circle).contains("rank"), "{circle}");
        }
        assert!(bench.refusal(7).contains("tensor 636363636363"));
        assert!(bench.refusal(98).contains("no pack holds it"));
        assert_eq!(bench.resolve(5, Dtype::F32).unwrap().nodes().len(), 2);
    }

    /// Promise: the number of pieces is bounded, whatever a footer says.
    #[test]
    fn too_many_pieces_are_refused() {
        let bench = Bench::new();
        // Two chains, and two pieces that read both.
        let chain = |dtype, len: u8| {
            let link = move |n: u8| {
                let base = (n > 0).then(|| needed(n - 1, Holder::Here));
                (n, dtype, base, None, n)
            };
            (0..len).map(link).collect::<Vec<_>>()
        };
        bench.pack(&chain(Dtype::F32, 140));
        assert_eq!(bench.resolve(139, Dtype::F32).unwrap().nodes().len(), 140);
        let mut others = chain(Dtype::BF16, 117);
        others.push((
            200,
            Dtype::F32,
            Some(needed(138, Holder::Unknown)),
            rounded(115, Holder::Here),
            250,
        ));
        others.push((
            201,
            Dtype::F32,
            Some(needed(139, Holder::Unknown)),
            rounded(115, Holder::Here),
            250,
        ));
        bench.pack(&others);
        assert_eq!(
            bench.resolve(200, Dtype::F32).unwrap().nodes().len(),
            MAX_GRAPH_PIECES
        );
        assert!(bench.refusal(201).contains("more than 256 pieces"));
    }
}
