//! Names that people choose: runs and tags.
//!
//! Both become folder names on every backend, so they keep to letters that no file system, URL or shell treats
//! specially; `@` and `~` stay free for references.

use std::fmt;
use std::str::FromStr;

use crate::error::StoreError;
use crate::ids::is_lower_hex;

/// Longest name, in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// A bare word of at least this many hexadecimal characters is a manifest's prefix.
pub const MIN_PREFIX_LEN: usize = 6;

/// Name of a run: 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`, without `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunName(String);

/// Name of a tag: as [`RunName`], and not six or more lower-case hexadecimal characters, which would read as a
/// manifest's prefix.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagName(String);

impl RunName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TagName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunName {
    type Err = StoreError;

    /// # Errors
    /// `Input`, naming the offending character and a name that would do.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        checked("run name", text).map(Self)
    }
}

impl FromStr for TagName {
    type Err = StoreError;

    /// # Errors
    /// `Input`, naming what is wrong and a name that would do.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let name = checked("tag name", text)?;
        if looks_like_prefix(&name) {
            return Err(StoreError::input(
                format!("tag name {text:?}"),
                "it reads as the beginning of a manifest id",
                format!("Choose a name with another letter in it, for example `v-{name}`"),
            ));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a bare word can be the beginning of a manifest id.
pub(crate) fn looks_like_prefix(text: &str) -> bool {
    (MIN_PREFIX_LEN..=64).contains(&text.len()) && text.bytes().all(is_lower_hex)
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn checked(what: &str, text: &str) -> Result<String, StoreError> {
    let wrong = |detail: String| {
        Err(StoreError::input(
            format!("{what} {text:?}"),
            detail,
            suggestion(text),
        ))
    };
    if text.is_empty() {
        return wrong("it is empty".to_owned());
    }
    if let Some((at, c)) = text.char_indices().find(|&(_, c)| !allowed(c)) {
        return wrong(format!("{c:?} at byte {at} is not one of A-Z a-z 0-9 . _ -"));
    }
    if text.starts_with(['.', '-']) {
        return wrong("it must not start with '.' or '-'".to_owned());
    }
    if text.contains("..") {
        return wrong("it must not contain \"..\"".to_owned());
    }
    if text.len() > MAX_NAME_LEN {
        return wrong(format!(
            "it is {} bytes long, the limit is {MAX_NAME_LEN}",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

/// A valid name close to `text`, in a sentence.
fn suggestion(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(MAX_NAME_LEN)
        .collect();
    while name.contains("..") {
        name = name.replace("..", ".");
    }
    match name.trim_start_matches(['.', '-']) {
        "" => "Choose a name such as `llama-7b`".to_owned(),
        name => format!("Use `{name}` instead"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Promise: what is refused is refused with its reason and with a name that is accepted.
    #[test]
    fn refusals_name_the_character_and_a_way_out() {
        for (text, reason) in [
            ("", "empty"),
            ("a b", "' ' at byte 1"),
            ("a@3", "'@' at byte 1"),
            ("a~3", "'~'"),
            ("a/b", "'/'"),
            ("é", "'é' at byte 0"),
            (".a", "start"),
            ("-a", "start"),
            ("a..b", "\"..\""),
        ] {
            let message = text.parse::<RunName>().unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
        let long = "x".repeat(MAX_NAME_LEN + 1);
        assert!(long.parse::<RunName>().is_err());
        assert!(long[1..].parse::<RunName>().is_ok());
        assert!("20250101".parse::<RunName>().is_ok());
        assert!("20250101".parse::<TagName>().is_err());
        assert!("v-20250101".parse::<TagName>().is_ok());
    }

    proptest! {
        /// Promise: any suggested name is itself valid.
        #[test]
        fn suggestions_are_valid(text in "\\PC{0,140}") {
            if text.parse::<RunName>().is_err() {
                let hint = suggestion(&text);
                let name = hint.split('`').nth(1).unwrap();
                prop_assert!(name.parse::<RunName>().is_ok(), "{name:?} from {text:?}");
            }
        }
    }
}
