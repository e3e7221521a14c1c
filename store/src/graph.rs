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

use crate::catalog::{Catalog, Piece, Sought};
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
                node.base.into_iter().chain(node.given).for_each(|n| needed[n] = true);
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

    /// Finds a piece and everything below it.
    ///
    /// # Errors
    /// `Corrupt` if a piece is missing, ranks do not fall, or there are more than [`MAX_GRAPH_PIECES`]; `Backend` if the store
    /// cannot be read.
    pub(crate) fn resolve(
        catalog: &Catalog,
        objects: &Objects,
        sought: &Sought,
        hints: &[PackId],
    ) -> Result<Self> {
        let piece = catalog
            .find_anywhere(objects, sought, hints)?
            .ok_or_else(|| StoreError::corrupt(sought.shown(), "no pack holds it"))?;
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
            let rank = top.node.piece.entry().rank;
            let is_below = |piece: &Piece| piece.entry().rank < rank;
            if let Some(&at) = known.get(&(wanted.prefix, wanted.part))
                && is_below(&nodes[at].piece)
            {
                top.connect(at);
                continue;
            }
            let hint = match holder {
                Holder::Unknown => None,
                Holder::Here => Some(top.node.piece.pack),
                Holder::Pack(pack) => Some(pack),
            };
            let found = catalog.find_anywhere(objects, &wanted, hint.as_slice())?;
            let piece = found.ok_or_else(|| {
                let detail = format!("no pack holds {}, which it is decoded from", wanted.shown());
                StoreError::corrupt(sought.shown(), detail)
            })?;
            if !is_below(&piece) {
                return Err(StoreError::corrupt(
                    piece.shown(),
                    "its rank is not below that of what is decoded from it",
                ));
            }
            if nodes.len() + open.len() >= MAX_GRAPH_PIECES {
                let detail = format!("it is decoded from more than {MAX_GRAPH_PIECES} pieces");
                return Err(StoreError::corrupt(sought.shown(), detail));
            }
            open.push(Open::new(&wanted, piece));
        }
        Ok(Self { nodes })
    }
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
        Some((Sought::by_prefix(given.prefix, part.given(relation)), given.holder))
    }

    fn connect(&mut self, at: usize) {
        if self.node.piece.entry().needs.base.is_some() && self.node.base.is_none() {
            self.node.base = Some(at);
        } else {
            self.node.given = Some(at);
        }
    }
}
