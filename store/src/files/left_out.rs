//! What lies below a checkpoint's directory and is no part of the checkpoint.

use std::fs;
use std::path::Path;

use super::stale::restore_of;

/// Largest `tpde.json` that is looked into, in bytes.
const MAX_CONFIG_BYTES: u64 = 64 << 10;

/// Something that a save passed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Path below the source, `/` between its parts.
    pub path: String,
    /// Why.
    pub why: LeftOutWhy,
}

/// Why something is no part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOutWhy {
    /// A store: saved into itself, it would grow without end.
    Store,
    /// A file that an interrupted restore did not finish.
    Unfinished,
}

/// Why the entry `name` at `path` is left out; `None` if it is part of the checkpoint.
///
/// * `own`: the folder of the store that is saved to, without links in its path.
pub(crate) fn why(path: &Path, name: &str, is_dir: bool, own: Option<&Path>) -> Option<LeftOutWhy> {
    if is_dir {
        is_store(path, own).then_some(LeftOutWhy::Store)
    } else {
        restore_of(name).is_some().then_some(LeftOutWhy::Unfinished)
    }
}

/// Whether a folder is the store `own`, or any other.
pub(crate) fn is_store(folder: &Path, own: Option<&Path>) -> bool {
    let config = folder.join("tpde.json");
    let Ok(metadata) = fs::metadata(&config) else {
        // The store that is saved to was opened just now, so it has the file.
        return false;
    };
    if own.is_some_and(|own| folder.canonicalize().is_ok_and(|at| at == own)) {
        return true;
    }
    if !metadata.is_file() || metadata.len() > MAX_CONFIG_BYTES {
        return false;
    }
    let text = fs::read(&config).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    json["format"].is_u64() && json["store_id"].is_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a store is known by what its `tpde.json` says, or by being the one in use; another file of that name is none.
    #[test]
    fn stores_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        assert!(!is_store(&at, Some(&at)));
        fs::write(at.join("tpde.json"), "not JSON").unwrap();
        assert!(!is_store(&at, None));
        assert!(is_store(&at, Some(&at)));
        fs::write(at.join("tpde.json"), r#"{"model": "x", "format": 3}"#).unwrap();
        assert!(!is_store(&at, None));
        fs::write(at.join("tpde.json"), r#"{"format": 7, "store_id": "ab"}"#).unwrap();
        assert!(is_store(&at, None));
    }
}
