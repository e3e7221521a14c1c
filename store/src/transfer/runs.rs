//! Which stretches of which packs are asked for: neighbours in one request.
//!
//! ```text
//! pack   ▓▓▓▓░▓▓▓▓▓▓▓░░░░░░░░░░░▓▓▓▓      ▓ wanted   ░ not
//! runs   └──────────┘           └──┘
//! ```

use std::ops::Range;

use crate::ids::PackId;

/// A gap up to this long is read through: what it takes to receive it is less than what another request costs.
///
/// Measured in docs/adr/0014.
pub(super) const GAP_BYTES: u64 = 256 << 10;

/// A run is not made longer than this, so that there are enough of them to keep several connections busy.
pub(super) const RUN_BYTES: u64 = 8 << 20;

/// One request: a stretch of a pack, and the pieces in it, by where they start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) pack: PackId,
    pub(super) range: Range<u64>,
    pub(super) pieces: Vec<Range<u64>>,
}

impl Run {
    pub(super) fn len_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The runs that cover all pieces, each piece in one of them.
pub(super) fn runs(pieces: impl IntoIterator<Item = (PackId, Range<u64>)>) -> Vec<Run> {
    let mut wanted: Vec<(PackId, Range<u64>)> = pieces.into_iter().collect();
    wanted.sort_unstable_by(|(a, x), (b, y)| (a, x.start, x.end).cmp(&(b, y.start, y.end)));
    wanted.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for (pack, piece) in wanted {
        if let Some(run) = runs.last_mut()
            && run.pack == pack
            && piece.start <= run.range.end.saturating_add(GAP_BYTES)
            && piece.end.saturating_sub(run.range.start) <= RUN_BYTES
        {
            run.range.end = run.range.end.max(piece.end);
            run.pieces.push(piece);
        } else {
            runs.push(Run {
                pack,
                range: piece.clone(),
                pieces: vec![piece],
            });
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: neighbours share a request, far pieces and packs do not, each piece is asked for once, and no request grows too
    /// long.
    #[test]
    fn neighbours_share_a_request() {
        let [a, b] = [PackId::of(b"a"), PackId::of(b"b")];
        let (a, b) = (a.min(b), a.max(b));
        let far = 20 + GAP_BYTES;
        let wanted = [
            (b, 0..10),
            (a, far + 1..far + 5),
            (a, 10..20),
            (a, 0..10),
            (a, 10..20),
        ];
        let found = runs(wanted);
        let ranges: Vec<_> = found.iter().map(|r| (r.pack, r.range.clone())).collect();
        assert_eq!(ranges, [(a, 0..20), (a, far + 1..far + 5), (b, 0..10)]);
        assert_eq!(found[0].pieces, [0..10, 10..20]);
        assert_eq!(runs([(a, 0..20), (a, far..far + 5)]).len(), 1);

        let many = (0..100).map(|i| (a, i << 20..(i + 1) << 20));
        let cut = runs(many);
        assert!(cut.iter().all(|r| r.len_bytes() <= RUN_BYTES));
        assert_eq!(cut.len(), 13);
        // A piece that is longer than a run is one.
        assert_eq!(runs([(a, 0..3 * RUN_BYTES)]).len(), 1);
        assert_eq!(runs([]), []);
    }
}
