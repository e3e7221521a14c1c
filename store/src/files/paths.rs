//! Paths inside a checkpoint: relative, plain, and the same on every machine.

/// Longest path, in bytes.
pub(crate) const MAX_PATH_LEN: usize = 4096;

/// What is wrong with a path, in words; `None` if it may stand in a checkpoint.
///
/// Law: joining an accepted path to a directory names something inside that directory.
pub(crate) fn fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("it is empty")
    } else if path.len() > MAX_PATH_LEN {
        Some("it is too long")
    } else if path.starts_with('/') {
        Some("it is absolute")
    } else if path.contains(['\0', '\\']) {
        Some("it contains a NUL or a backslash")
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("it has an empty, '.' or '..' part")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: no manifest path leads out of the target directory.
    #[test]
    fn only_plain_paths() {
        for good in ["a", "a/b.json", "..a/b..", "weird name \u{e9}\n", ".hidden"] {
            assert_eq!(fault(good), None, "{good:?}");
        }
        let long = "x".repeat(MAX_PATH_LEN + 1);
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "./a",
            "a/.",
            "a\\..\\b",
            "a\0",
            "a/",
            &long,
        ] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
    }
}
