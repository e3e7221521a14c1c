//! Shares as a grid of cells that get hotter.
//!
//! Every cell says its number and has a block that gets denser, so that nothing is lost where there are no colours.

use super::style::{Style, Tone};

/// Columns of a cell: a block, a space, five for the number.
const CELL_COLUMNS: usize = 7;
/// Columns that a cell may take for the sake of its heading, where there are few.
const WIDE_COLUMNS: usize = 10;
/// How many are few.
const FEW: usize = 6;

/// The blocks, each up to its share.
const BLOCKS: [(f64, char); 4] = [(0.01, '░'), (0.1, '▒'), (0.5, '▓'), (f64::INFINITY, '█')];
/// Stands for no change at all.
const UNCHANGED: char = '·';

/// What the blocks mean.
pub(crate) const LEGEND: &str =
    "per cent of the elements that changed: · none  ░ below 1  ▒ below 10  ▓ below 50  █ 50 and more";

/// Background colours (of 256) from cool to hot, half a power of ten apart; the hottest is all of it.
const HEATS: [u8; 9] = [17, 18, 19, 25, 30, 64, 94, 130, 124];

/// A row of cells, `None` where there is nothing to share.
pub(crate) struct HeatRow<'t> {
    pub(crate) name: &'t str,
    pub(crate) shares: Vec<Option<f64>>,
}

/// The lines of a grid: headings, then a line a row; headings that are longer than a cell are cut.
pub(crate) fn grid(headings: &[String], rows: &[HeatRow<'_>], style: Style) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let most = if headings.len() <= FEW {
        WIDE_COLUMNS
    } else {
        CELL_COLUMNS
    };
    let longest = headings.iter().map(|h| h.chars().count()).max().unwrap_or(0);
    let cell = longest.clamp(CELL_COLUMNS, most);
    let mut out = format!("  {:width$}", "");
    for heading in headings {
        let cut = cut(heading, cell);
        out.push_str(&" ".repeat(1 + cell - cut.chars().count()));
        out.push_str(&style.paint(Tone::Dim, &cut));
    }
    out.push('\n');
    for row in rows {
        let pad = width - row.name.chars().count();
        let mut line = format!("  {}{}", style.paint(Tone::Name, row.name), " ".repeat(pad));
        for share in &row.shares {
            line.push_str(&" ".repeat(1 + cell - CELL_COLUMNS));
            match *share {
                Some(share) => {
                    let text = format!("{} {:>5}", block(share), percent(share));
                    line.push_str(&style.on(heat(share), &text));
                }
                None => line.push_str(&" ".repeat(CELL_COLUMNS)),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A heading that fits a cell.
fn cut(heading: &str, cell: usize) -> String {
    if heading.chars().count() <= cell {
        return heading.to_owned();
    }
    heading.chars().take(cell - 1).chain(['…']).collect()
}

fn block(share: f64) -> char {
    let denser = BLOCKS.iter().find(|(below, _)| share < *below);
    match denser {
        _ if share <= 0.0 => UNCHANGED,
        Some((_, block)) => *block,
        None => UNCHANGED,
    }
}

/// `None` for no change.
fn heat(share: f64) -> Option<u8> {
    if share <= 0.0 {
        return None;
    }
    // 10^-4 and below is the coolest.
    let halves = (2.0 * share.log10() + 8.0).clamp(0.0, 8.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the places there are"
    )]
    let at = halves as usize;
    HEATS.get(at).copied()
}

/// A share in per cent in at most five characters; nothing that differs reads as none, or as all when it is less.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        p if p <= 0.0 => "0".to_owned(),
        p if p < 0.01 => "<.01".to_owned(),
        p if p < 9.995 => format!("{p:.2}"),
        p if p < 99.95 => format!("{p:.1}"),
        p if p < 100.0 => ">99.9".to_owned(),
        _ => "100".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: without colours every cell still says its number and how much that is; what is not there is empty.
    #[test]
    fn readable_without_colour() {
        let rows = [
            HeatRow {
                name: "embed",
                shares: vec![Some(0.0), None],
            },
            HeatRow {
                name: "layers.10",
                shares: vec![Some(0.1234), Some(1.0)],
            },
        ];
        let headings = ["weight".to_owned(), "exp_avg_sq".to_owned()];
        assert_eq!(
            grid(&headings, &rows, Style::PLAIN),
            "                weight exp_avg_sq\n  embed        ·     0\n  layers.10    ▓  12.3    █   100\n"
        );
        let many = vec!["post_attention".to_owned(); 7];
        assert!(grid(&many, &rows, Style::PLAIN).starts_with("            post_a… post_a…"));
    }

    /// Promise: a change never reads as none, less than all never as all; five characters are enough; hotter is never cooler.
    #[test]
    fn shares_are_honest() {
        for (share, text) in [
            (0.0, "0"),
            (1e-9, "<.01"),
            (0.0123, "1.23"),
            (0.099_96, "10.0"),
            (0.999_6, ">99.9"),
            (1.0, "100"),
        ] {
            assert_eq!(percent(share), text);
        }
        let shares: Vec<f64> = (0..=1000).map(|n| (f64::from(n) / 1000.0).powi(4)).collect();
        assert!(shares.iter().all(|&share| percent(share).len() <= 5));
        let place = |share: f64| heat(share).map(|code| HEATS.iter().position(|&c| c == code));
        assert!(shares.is_sorted_by_key(|&share| place(share)));
        assert_eq!((block(0.0), block(1e-9), block(1.0)), ('·', '░', '█'));
    }
}
