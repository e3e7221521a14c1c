//! Columns that line up.

use super::style::{Style, Tone};

/// One cell: text that is safe to print, and how it stands out.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in `tone`.
    pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

/// A column's heading, and the side that its cells stand on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

/// Rows under headings. A column in which every cell is empty is left out; under a heading, one of dashes too.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [Column; N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Drops the rows; the headings stay.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    /// The lines, two spaces in, two between columns; the headings dim and left out if all are empty.
    pub(crate) fn render(&self, style: Style) -> String {
        let headings = self.columns.map(|c| Cell::toned(Tone::Dim, c.heading()));
        let has_headings = headings.iter().any(|h| !h.text.is_empty());
        let rows = || has_headings.then_some(&headings).into_iter().chain(&self.rows);
        let mut widths = [0; N];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let says = |at: usize| {
            let is_said = |row: &[Cell; N]| match row[at].text.as_str() {
                "" => false,
                "-" => headings[at].text.is_empty(),
                _ => true,
            };
            self.rows.is_empty() || self.rows.iter().any(is_said)
        };
        let said: [bool; N] = std::array::from_fn(says);
        let mut out = String::new();
        for row in rows() {
            let mut line = String::new();
            // Spaces are owed until something follows them, so no line ends in any.
            let mut owed = 0;
            let cells = row.iter().zip(self.columns).zip(widths).zip(said);
            for ((cell, column), width) in cells.filter_map(|(cell, said)| said.then_some(cell)) {
                let pad = width - cell.text.chars().count();
                let (before, after) = match column {
                    Column::Left(_) => (0, pad),
                    Column::Right(_) => (pad, 0),
                };
                owed += 2 + before;
                if !cell.text.is_empty() {
                    line.push_str(&" ".repeat(owed));
                    line.push_str(&style.paint(cell.tone, &cell.text));
                    owed = 0;
                }
                owed += after;
            }
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: numbers end, words begin in one column; lines end without spaces.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new([Column::Right("step"), Column::Left("name"), Column::Left("")]);
        table.row(["5".into(), "ä".into(), "x".into()]);
        table.row(["12345".into(), "long name".into(), "".into()]);
        let text = table.render(Style::PLAIN);
        assert_eq!(text, "   step  name\n      5  ä          x\n  12345  long name\n");
        let mut table = Table::new([Column::Right("a"), Column::Right("b"), Column::Left("c")]);
        table.row(["1".into(), "-".into(), "x".into()]);
        table.row(["2".into(), "".into(), "y".into()]);
        assert_eq!(table.render(Style::PLAIN), "  a  c\n  1  x\n  2  y\n");
        let mut table = Table::new([Column::Left(""), Column::Left(""), Column::Left("c")]);
        table.row(["".into(), "-".into(), "x".into()]);
        assert_eq!(table.render(Style::PLAIN), "     c\n  -  x\n");
    }
}
