//! Untrusted text on its way to a terminal.
//!
//! Runs, tensors and files may come from a stranger's store. A control character in such a name could move the cursor,
//! rewrite what was printed, or reverse the reading direction; it is shown as its code instead.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal may act on `c` instead of showing it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' |
            '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// `text` on one line, with nothing in it that a terminal acts on.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    replaced(text, |out, c| {
        out.extend(c.escape_default());
    })
}

/// JSON text with the same characters as `\u` escapes, which mean the same to every reader.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    replaced(text, |out, c| {
        // All of them are in the first plane, and serde_json leaves none of them outside a string.
        let _ = write!(out, "\\u{:04x}", u32::from(c));
    })
}

fn replaced(text: &str, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: no name can move the cursor, colour the screen or turn the text around; letters of any script stay.
    #[test]
    fn nothing_acts_on_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(plain("a\r\nb\tc"), "a\\r\\nb\\tc");
        assert_eq!(plain("\u{9b}31m \u{7f}"), "\\u{9b}31m \\u{7f}");
        assert_eq!(plain("a\u{202e}b\u{2066}"), "a\\u{202e}b\\u{2066}");
        assert_eq!(plain("größe-重み-ß"), "größe-重み-ß");
        assert!(matches!(plain("model.layers.0"), Cow::Borrowed(_)));
        for c in (0..=0x2_ffff).filter_map(char::from_u32) {
            let name = format!("a{c}b");
            assert!(!plain(&name).contains(acts), "{c:?}");
            assert!(!json(&name).contains(acts), "{c:?}");
        }
    }

    /// Promise: escaped JSON says what it said before.
    #[test]
    fn json_keeps_its_meaning() -> serde_json::Result<()> {
        let name = "a\u{9b}b\u{202e}c\u{7f}\x1b\n\"";
        let text = serde_json::to_string(name)?;
        let escaped = json(&text);
        assert!(escaped.is_ascii());
        assert_eq!(serde_json::from_str::<String>(&escaped)?, name);
        Ok(())
    }
}
