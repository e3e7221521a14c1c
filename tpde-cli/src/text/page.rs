//! What one command prints for people.

use super::heat::{HeatRow, grid};
use super::style::{Style, Tone};
use super::table::Table;

/// A screen's worth of text.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    style: Style,
}

impl Page {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            text: String::new(),
            style,
        }
    }

    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// A piece of a line, in `tone`.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        self.style.paint(tone, text)
    }

    /// A line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// An empty line between two parts; none at the top.
    pub(crate) fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// A name on the left for each text on the right.
    pub(crate) fn fields(&mut self, fields: &[(&str, String)]) {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in fields {
            let name = self.paint(Tone::Dim, &format!("{name:width$}"));
            self.line(format!("  {name}  {text}"));
        }
    }

    /// A table.
    pub(crate) fn table<const N: usize>(&mut self, table: &Table<N>) {
        let text = table.render(self.style);
        self.text.push_str(&text);
    }
    /// Shares by row and column.
    pub(crate) fn heatmap(&mut self, headings: &[String], rows: &[HeatRow<'_>]) {
        let text = grid(headings, rows, self.style);
        self.text.push_str(&text);
    }
}
