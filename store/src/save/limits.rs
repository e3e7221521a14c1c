//! How much a restore may read, and what it does read.

use std::collections::HashMap;

use crate::catalog::Piece;
use crate::graph::{Graph, MAX_GRAPH_PIECES};
use crate::pack::{ContentPrefix, Part, prefix_of};

/// Everything that a restore of one slice reads: stored bytes by content, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads(HashMap<(ContentPrefix, Part), u64>);

impl Reads {
    /// What a stored slice is decoded from, itself included.
    pub(super) fn of(graph: &Graph) -> Self {
        let key = |piece: &Piece| (prefix_of(&piece.entry().id), piece.part());
        let nodes = graph.nodes().iter();
        Self(
            nodes
                .map(|node| (key(&node.piece), node.piece.len_bytes()))
                .collect(),
        )
    }

    /// Both.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// And one more piece.
    pub(super) fn with(mut self, prefix: ContentPrefix, part: Part, stored_bytes: u64) -> Self {
        self.0.insert((prefix, part), stored_bytes);
        self
    }

    fn stored_bytes(&self) -> u64 {
        self.0.values().sum()
    }
}

/// What a caller allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most links below a tensor; one more for a tensor that is given another.
    pub(crate) max_depth: u8,
    /// Most stored bytes that a restore of a tensor may read, as a multiple of its own.
    pub(crate) max_restore_ratio: Option<f64>,
}

impl Limits {
    /// Whether a slice may be stored so.
    ///
    /// * `rank`: the rank that it would have.
    /// * `reads`: what its restore would read, itself included.
    /// * `raw_bytes`: bytes of the slice.
    pub(super) fn allow(&self, rank: u8, is_given: bool, reads: &Reads, raw_bytes: u64) -> bool {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a ratio; slices are far below 2^52 bytes"
        )]
        let within = |ratio: f64| reads.stored_bytes() as f64 <= ratio * raw_bytes as f64;
        rank <= self.max_depth.saturating_add(u8::from(is_given))
            && reads.0.len() <= MAX_GRAPH_PIECES
            && self.max_restore_ratio.is_none_or(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(pieces: &[(u8, u64)]) -> Reads {
        pieces.iter().fold(Reads::default(), |reads, &(n, bytes)| {
            reads.with([n; 16], Part::Blob, bytes)
        })
    }

    /// Promise: what two branches share counts once, and each limit refuses on its own.
    #[test]
    fn limits_refuse() {
        let both = reads(&[(1, 100), (2, 50)]).and(&reads(&[(2, 50), (3, 30)]));
        let limits = |max_depth, max_restore_ratio| Limits {
            max_depth,
            max_restore_ratio,
        };
        assert!(limits(4, Some(1.8)).allow(4, false, &both, 100));
        assert!(!limits(4, Some(1.79)).allow(4, false, &both, 100));
        assert!(!limits(4, None).allow(5, false, &both, 100));
        assert!(limits(4, None).allow(5, true, &both, 100));
        let many: Vec<(u8, u64)> = (0..=255).map(|n| (n, 1)).collect();
        assert!(limits(4, None).allow(1, false, &reads(&many), 100));
        let more = reads(&many).with(
            [7; 16],
            Part::Slice {
                dtype: tpde_core::Dtype::F32,
                number: 0,
            },
            1,
        );
        assert!(!limits(4, None).allow(1, false, &more, 100));
    }
}
