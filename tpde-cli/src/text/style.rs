//! Colour, where somebody looks.

use std::ffi::OsString;
use std::io::IsTerminal;

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    /// Headings, and what was asked for.
    Strong,
    /// What is there for completeness.
    Dim,
    /// Names that can be typed back.
    Name,
    /// It is well.
    Good,
    /// Look here.
    Caution,
    /// It is not well.
    Bad,
}

/// Whether tones become colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// For standard output, by what it is and by the environment.
    pub(crate) fn of_stdout() -> Self {
        Self::choose(std::io::stdout().is_terminal(), |name| std::env::var_os(name))
    }

    /// For standard error, likewise.
    pub(crate) fn of_stderr() -> Self {
        Self::choose(std::io::stderr().is_terminal(), |name| std::env::var_os(name))
    }

    /// `NO_COLOR` (any value but the empty one) wins, then `CLICOLOR_FORCE`, then a terminal without `CLICOLOR=0`.
    fn choose(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = |name| variable(name).filter(|v| !v.is_empty());
        let is = |name, expected: &str| value(name).is_some_and(|v| v == expected);
        let colour = value("NO_COLOR").is_none()
            && (value("CLICOLOR_FORCE").is_some_and(|v| v != "0")
                || is_terminal && !is("CLICOLOR", "0") && !is("TERM", "dumb"));
        Self { colour }
    }

    /// Never any colour.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false };

    /// Whether tones become colours.
    pub(crate) fn is_coloured(self) -> bool {
        self.colour
    }

    /// `text` in `tone`.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Dim => "2",
            Tone::Name => "36",
            Tone::Good => "32",
            Tone::Caution => "33",
            Tone::Bad => "1;31",
        };
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// White `text` on a background of the 256 colours.
    pub(crate) fn on(self, background: Option<u8>, text: &str) -> String {
        match background {
            Some(background) if self.colour => format!("\x1b[38;5;231;48;5;{background}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the three conventions about colour hold, and a pipe gets none.
    #[test]
    fn conventions() {
        let choose = |is_terminal, set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
            Style::choose(is_terminal, find).is_coloured()
        };
        assert!(choose(true, &[]));
        assert!(!choose(false, &[]));
        assert!(!choose(true, &[("NO_COLOR", "1")]));
        assert!(choose(true, &[("NO_COLOR", "")]));
        assert!(!choose(true, &[("CLICOLOR", "0")]));
        assert!(choose(false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!choose(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!choose(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
        assert!(!choose(true, &[("TERM", "dumb")]));
    }
}
