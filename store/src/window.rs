//! Bounds what is in memory at once: work is done a window at a time, in parallel within it.

use tpde_core::Dtype;

use crate::graph::Graph;

/// Most bytes that the work of one window may hold: what comes out, and the stored pieces that it is decoded from.
pub(crate) const WINDOW_BYTES: u64 = 160 << 20;

/// The same where the next windows' pieces are fetched meanwhile: together they stay about as large.
pub(crate) const FAR_WINDOW_BYTES: u64 = 80 << 20;

/// Bytes in memory while a graph is decoded into `len_bytes`: what comes out, the stored pieces, and a tile of each.
pub(crate) fn decoding_bytes(len_bytes: u64, graph: &Graph) -> u64 {
    let tiles = graph.nodes().len() * Dtype::F32.tile_bytes();
    len_bytes
        .saturating_add(graph.stored_bytes())
        .saturating_add((tiles as u64).min(len_bytes.saturating_mul(graph.nodes().len() as u64)))
}

/// Cuts `items` into runs of at most [`WINDOW_BYTES`], of at least one item each.
pub(crate) fn windows<T>(items: &[T], len_bytes: impl Fn(&T) -> u64) -> impl Iterator<Item = &[T]> {
    windows_of(WINDOW_BYTES, items, len_bytes)
}

/// The same, of at most `most_bytes`.
pub(crate) fn windows_of<T>(
    most_bytes: u64,
    items: &[T],
    len_bytes: impl Fn(&T) -> u64,
) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let over = rest.iter().position(|item| {
            sum += len_bytes(item);
            sum > most_bytes
        });
        let (window, after) = rest.split_at(over.unwrap_or(rest.len()).max(1).min(rest.len()));
        rest = after;
        (!window.is_empty()).then_some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: windows keep the order, lose nothing, stay below the limit, and let a single large item through.
    #[test]
    fn nothing_is_lost() {
        let big = WINDOW_BYTES;
        let items = [1, big / 2, big / 2, 5, 3 * big, 0, 0, big, 1];
        let cut: Vec<&[u64]> = windows(&items, |&n| n).collect();
        assert_eq!(cut.concat(), items);
        assert!(
            cut.iter()
                .all(|w| w.len() == 1 || w.iter().sum::<u64>() <= WINDOW_BYTES)
        );
        assert_eq!(windows(&[], |&n: &u64| n).count(), 0);
    }
}
