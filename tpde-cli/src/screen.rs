//! Where answers go: standard output, as text for people or as JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::text::escape;
use crate::text::page::Page;
use crate::text::style::Style;

/// What a command has to say, in both forms.
pub(crate) trait Answer: Serialize {
    /// Whether it only tells of what was done, so that `--quiet` leaves it out.
    fn is_notice(&self) -> bool {
        false
    }

    /// Writes it for people.
    fn show(&self, page: &mut Page);
}

/// The form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Screen {
    /// Prints `answer`; the JSON is one object on one line. A reader that has read enough is no error.
    ///
    /// # Errors
    /// Standard output cannot be written, a full disk for example.
    pub(crate) fn print<A: Answer>(self, answer: &A) -> io::Result<()> {
        if self.json {
            let text = serde_json::to_string(answer).map_err(io::Error::other)?;
            write_out(&format!("{}\n", escape::json(&text)))
        } else if self.quiet && answer.is_notice() {
            Ok(())
        } else {
            let mut page = Page::new(Style::of_stdout());
            answer.show(&mut page);
            write_out(&page.into_text())
        }
    }
}

/// Writes `text` to standard output; whoever closed it early has what they wanted.
pub(crate) fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line to standard error, as far as somebody reads it.
pub(crate) fn write_err(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
