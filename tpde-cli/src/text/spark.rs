//! A row of numbers as a row of blocks, and a number as a bar.

/// Blocks of rising height.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Blocks of rising width, an eighth each; nothing stands for none.
const WIDTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Stands where there is no number.
const NOTHING: char = '·';
/// Stands for a number that is not finite.
const NOT_FINITE: char = '!';

/// How numbers become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From the least to the most.
    Linear,
    /// The same of their logarithms; numbers below 1 count as 1.
    Logarithmic,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.max(1.0).ln(),
        }
    }
}

/// One column: what its numbers come to.
#[derive(Debug, Clone, Copy)]
enum Bin {
    Nothing,
    NotFinite,
    Mean(f64),
}

fn bin(values: &[Option<f64>]) -> Bin {
    let there = || values.iter().flatten();
    if there().any(|value| !value.is_finite()) {
        return Bin::NotFinite;
    }
    match there().count() {
        0 => Bin::Nothing,
        n => Bin::Mean(there().map(|value| value / n as f64).sum()),
    }
}

/// `values` from left to right, in at most `columns` columns: where there are more, a column stands for the mean of several. `·`
/// stands for none, `!` if one of a column's numbers is not finite.
pub(crate) fn sparkline(values: &[Option<f64>], columns: usize, scale: Scale) -> String {
    let columns = columns.min(values.len());
    let bins: Vec<Bin> = (0..columns)
        .map(|i| bin(&values[i * values.len() / columns..(i + 1) * values.len() / columns]))
        .collect();
    let heights = || {
        bins.iter().filter_map(|bin| match bin {
            Bin::Mean(mean) => Some(scale.of(*mean)),
            Bin::Nothing | Bin::NotFinite => None,
        })
    };
    let least = heights().fold(f64::INFINITY, f64::min);
    let most = heights().fold(f64::NEG_INFINITY, f64::max);
    let draw = |bin: &Bin| match bin {
        Bin::Nothing => NOTHING,
        Bin::NotFinite => NOT_FINITE,
        Bin::Mean(mean) => {
            // Halved first, so that no difference of finite numbers overflows.
            let share = (scale.of(*mean) / 2.0 - least / 2.0) / (most / 2.0 - least / 2.0);
            HEIGHTS[if share.is_nan() { 3 } else { eighths(share, 7) }]
        }
    };
    bins.iter().map(draw).collect()
}

/// The share of the whole that `value` is of `most`, as a bar of at most `columns` columns. What is not nothing is seen.
pub(crate) fn bar(value: u64, most: u64, columns: usize) -> String {
    if value == 0 || most == 0 {
        return String::new();
    }
    let eighth = eighths(value as f64 / most as f64, 8 * columns).max(1);
    let full = std::iter::repeat_n(HEIGHTS[7], eighth / 8);
    full.chain((eighth % 8).checked_sub(1).map(|at| WIDTHS[at]))
        .collect()
}

/// `share` of `whole`, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the whole before"
)]
fn eighths(share: f64, whole: usize) -> usize {
    (share.clamp(0.0, 1.0) * whole as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64], columns: usize, scale: Scale) -> String {
        let values: Vec<Option<f64>> = values.iter().map(|&v| Some(v)).collect();
        sparkline(&values, columns, scale)
    }

    /// Promise: the least is lowest and the most highest, on either scale; equal numbers stand in the middle.
    #[test]
    fn heights() {
        assert_eq!(
            line(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 60, Scale::Linear),
            "▁▂▃▄▅▆▇█"
        );
        assert_eq!(line(&[1.0, 10.0, 100.0], 60, Scale::Linear), "▁▂█");
        assert_eq!(line(&[1.0, 10.0, 100.0], 60, Scale::Logarithmic), "▁▅█");
        assert_eq!(line(&[0.0, 1.0, 0.5], 60, Scale::Logarithmic), "▄▄▄");
        assert_eq!(line(&[-3.0, 7.0], 60, Scale::Linear), "▁█");
        assert_eq!(line(&[f64::MIN, f64::MAX, 0.0], 60, Scale::Linear), "▁█▅");
        assert_eq!(line(&[], 60, Scale::Linear), "");
    }

    /// Promise: a number that is missing or not finite is seen, whatever shares a column with it.
    #[test]
    fn nothing_and_not_finite() {
        let values = [Some(1.0), None, Some(f64::NAN), Some(2.0), Some(f64::INFINITY)];
        assert_eq!(sparkline(&values, 60, Scale::Linear), "▁·!█!");
        assert_eq!(sparkline(&values, 2, Scale::Linear), "▄!");
        assert_eq!(sparkline(&[None, None], 60, Scale::Linear), "··");
    }

    /// Promise: more numbers than columns share them, in order, each once.
    #[test]
    fn columns_are_means() {
        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        let drawn = line(&many, 60, Scale::Linear);
        assert_eq!(drawn.chars().count(), 60);
        assert!(drawn.chars().is_sorted() && drawn.starts_with('▁') && drawn.ends_with('█'));
        assert_eq!(line(&[0.0, 2.0, 10.0, 10.0, 0.0], 2, Scale::Linear), "▁█");
    }

    /// Promise: a bar is as long as its share, and nothing is longer than the most or shorter than what can be seen.
    #[test]
    fn bars() {
        assert_eq!(bar(100, 100, 4), "████");
        assert_eq!(bar(50, 100, 4), "██");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(15, 32, 4), "█▉");
        assert_eq!(bar(0, 100, 4), "");
        assert_eq!(bar(0, 0, 4), "");
    }
}
