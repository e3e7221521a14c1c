//! What a watch says: one line an event.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::commands::metric_list;
use crate::commands::save::Notice;
use crate::screen::Answer;
use crate::session::Named;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, duration, ratio, size};

/// Columns of the word that a line begins with.
const WORD_WIDTH: usize = 13;

/// A word in its tone, then a name.
fn start(page: &Page, tone: Tone, word: &str, name: &str) -> String {
    let word = page.paint(tone, &format!("{word:WORD_WIDTH$}"));
    format!("{word}  {}", page.paint(Tone::Name, &plain(name)))
}

/// A checkpoint is in the store.
#[derive(Serialize)]
pub(super) struct Saved {
    pub(super) event: &'static str,
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) checkpoint: Named,
    pub(super) already_there: bool,
    pub(super) files: u32,
    pub(super) tensors: u32,
    pub(super) new_tensors: u32,
    pub(super) raw_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) ratio: Option<f64>,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) unfinished: Vec<String>,
    pub(super) seconds: f64,
    pub(super) notices: Vec<Notice>,
}

impl Answer for Saved {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let word = match self.already_there {
            true => "already there",
            false => "saved",
        };
        let start = start(page, Tone::Good, word, &self.name);
        let mut line = format!("{start}  {}", self.checkpoint.title(page));
        if !self.already_there {
            line.push_str(&format!(
                "  {} stored in {} ({}) in {}",
                size(self.raw_bytes),
                size(self.stored_bytes),
                ratio(self.raw_bytes, self.stored_bytes),
                duration(Duration::from_secs_f64(self.seconds))
            ));
        }
        if !self.metrics.is_empty() {
            line.push_str(&format!("  {}", plain(&metric_list(&self.metrics))));
        }
        page.line(line);
        for why in &self.unfinished {
            let note = format!(
                "  note: it seems unfinished, and did not change any more: {}",
                plain(why)
            );
            page.line(page.paint(Tone::Caution, &note));
        }
        for notice in &self.notices {
            page.line(page.paint(Tone::Caution, &format!("  note: {}", plain(&notice.message))));
        }
    }
}

/// A checkpoint is no longer in the folder.
#[derive(Serialize)]
pub(super) struct Deleted {
    pub(super) event: &'static str,
    pub(super) name: String,
    pub(super) step: Option<u64>,
    pub(super) bytes: u64,
}

impl Answer for Deleted {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let start = start(page, Tone::Plain, "deleted", &self.name);
        page.line(format!("{start}  {}", size(self.bytes)));
    }
}

/// Checkpoints were forgotten.
#[derive(Serialize)]
pub(super) struct Pruned {
    pub(super) event: &'static str,
    pub(super) run: String,
    pub(super) steps: Vec<u64>,
}

impl Answer for Pruned {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let steps: Vec<String> = self.steps.iter().map(u64::to_string).collect();
        let start = start(page, Tone::Plain, "forgotten", &self.run);
        page.line(format!("{start}  {}, by the policy", steps.join(", ")));
    }
}

/// Anything else.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) event: &'static str,
    pub(super) name: Option<String>,
    pub(super) step: Option<u64>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Told {
    pub(super) fn new(event: &'static str, message: impl Into<String>) -> Self {
        Self {
            event,
            name: None,
            step: None,
            message: message.into(),
            hint: None,
        }
    }

    /// The same, of a checkpoint.
    pub(super) fn of(self, name: &str, step: Option<u64>) -> Self {
        Self {
            name: Some(name.to_owned()),
            step,
            ..self
        }
    }

    /// The same, and what to do.
    pub(super) fn with_hint(self, hint: &str) -> Self {
        let hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
        Self { hint, ..self }
    }
}

impl Answer for Told {
    fn is_notice(&self) -> bool {
        !matches!(self.event, "refused" | "kept" | "no_store")
    }

    fn show(&self, page: &mut Page) {
        let tone = match self.is_notice() {
            true => Tone::Dim,
            false => Tone::Caution,
        };
        let word = self.event.replace('_', " ");
        let message = plain(&self.message);
        page.line(match &self.name {
            Some(name) => format!("{}  {message}", start(page, tone, &word, name)),
            None => format!("{}  {message}", page.paint(tone, &format!("{word:WORD_WIDTH$}"))),
        });
        if let Some(hint) = &self.hint {
            page.line(format!("  {} {}", page.paint(Tone::Name, "hint:"), plain(hint)));
        }
    }
}

/// What a watch came to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Ended {
    pub(super) event: &'static str,
    pub(super) saved: u64,
    pub(super) already_there: u64,
    pub(super) waiting: u64,
    pub(super) refused: u64,
    pub(super) deleted: u64,
}

impl Answer for Ended {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let mut parts = vec![format!("{} saved", counted(self.saved, "checkpoint"))];
        for (number, what) in [
            (self.already_there, "already there"),
            (self.waiting, "not finished"),
            (self.refused, "refused"),
            (self.deleted, "deleted"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        page.line(page.paint(Tone::Dim, &parts.join(", ")));
    }
}
