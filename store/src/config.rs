//! `tpde.json`: what makes a folder a store, and what a reader must understand to use it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::claim::{Claim, claim};
use crate::error::{Result, StoreError};
use crate::ids::StoreId;
use crate::keys::{Key, Prefix};
use crate::objects::Objects;
use crate::probe;

/// The store format that this build reads and writes.
pub const STORE_FORMAT: u64 = 1;

/// Features that this build can read: none yet.
const KNOWN_FEATURES: &[&str] = &[];

/// Features that this build can write beside: none yet.
const KNOWN_WRITE_FEATURES: &[&str] = &[];

/// Longest `tpde.json`, in bytes.
const MAX_CONFIG_LEN: u64 = 64 << 10;

/// Name of the object.
const NAME: &str = "tpde.json";

/// The store's description, as it stands in `tpde.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The store's format.
    pub format: u64,
    /// Its name for caches.
    pub store_id: StoreId,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// What a reader must understand.
    pub features: Vec<String>,
    /// What a writer must understand, too.
    pub write_features: Vec<String>,
}

/// What may be done with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Reading only: the store uses features that this build does not know.
    ReadOnly {
        /// Those features.
        unknown_features: Vec<String>,
    },
}

impl Access {
    /// Checks that writing is allowed.
    ///
    /// # Errors
    /// `Newer`: the store uses features that this build does not know; upgrade.
    pub fn require_write(&self) -> Result<()> {
        match self {
            Self::ReadWrite => Ok(()),
            Self::ReadOnly { unknown_features } => Err(StoreError::Newer {
                what: "writing to this store".to_owned(),
                detail: format!("it uses {}", unknown_features.join(", ")),
            }),
        }
    }
}

/// The JSON text. Fields that are added later are ignored by this reader; what it must not ignore is a feature.
#[derive(Serialize, Deserialize)]
struct Json {
    format: u64,
    store_id: String,
    created_unix_ms: u64,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    write_features: Vec<String>,
}

/// Only what every format has, to tell a newer store from a broken one.
#[derive(Deserialize)]
struct AnyFormat {
    format: u64,
}

impl Config {
    /// The stored bytes.
    ///
    /// # Errors
    /// `Corrupt` cannot happen for a config that was made here; it is the serialiser's error.
    fn encode(&self) -> Result<Bytes> {
        let json = Json {
            format: self.format,
            store_id: self.store_id.to_string(),
            created_unix_ms: self.created_unix_ms,
            features: self.features.clone(),
            write_features: self.write_features.clone(),
        };
        let mut text =
            serde_json::to_vec_pretty(&json).map_err(|e| StoreError::corrupt(NAME, e.to_string()))?;
        text.push(b'\n');
        Ok(text.into())
    }

    /// Reads the stored bytes.
    ///
    /// # Errors
    /// * `Newer`: the store has another format, or features that this build cannot read.
    /// * `Corrupt`: it is not what `tpde init` writes.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let broken = |e: serde_json::Error| StoreError::corrupt(NAME, e.to_string());
        let AnyFormat { format } = serde_json::from_slice(bytes).map_err(broken)?;
        if format != STORE_FORMAT {
            return Err(StoreError::Newer {
                what: "this store".to_owned(),
                detail: format!("it has format {format}, this build knows {STORE_FORMAT}"),
            });
        }
        let json: Json = serde_json::from_slice(bytes).map_err(broken)?;
        let unknown = unknown(&json.features, KNOWN_FEATURES);
        if !unknown.is_empty() {
            return Err(StoreError::Newer {
                what: "this store".to_owned(),
                detail: format!("it uses {}", unknown.join(", ")),
            });
        }
        let store_id = StoreId::from_hex(&json.store_id).ok_or_else(|| {
            StoreError::corrupt(NAME, format!("store id {:?} is not 32 hex digits", json.store_id))
        })?;
        Ok(Self {
            format: json.format,
            store_id,
            created_unix_ms: json.created_unix_ms,
            features: json.features,
            write_features: json.write_features,
        })
    }

    /// What this build may do with the store.
    pub fn access(&self) -> Access {
        let unknown_features = unknown(&self.write_features, KNOWN_WRITE_FEATURES);
        if unknown_features.is_empty() {
            Access::ReadWrite
        } else {
            Access::ReadOnly { unknown_features }
        }
    }
}

/// Those of `features` that are not `known`.
fn unknown(features: &[String], known: &[&str]) -> Vec<String> {
    let unknown = features.iter().filter(|f| !known.contains(&f.as_str()));
    unknown.cloned().collect()
}

/// Makes a store of an empty place: probes what the backend can do, then creates `tpde.json`.
///
/// An `init` that was interrupted may be run again. Of racing callers one makes the store.
///
/// # Errors
/// * `Conflict`: there is a store already, and it is left as it is.
/// * `Input`: the place holds other things, or its backend lacks what a store needs (the message says which).
/// * `OutcomeUnknown`, `Backend`: run `tpde init` again.
pub fn init(objects: &Objects) -> Result<Config> {
    let at = objects.location();
    let already = || {
        StoreError::conflict(
            format!("{at} is a store already"),
            "Use it as it is, or choose another path",
        )
    };
    let (folders, files) = objects.shallow(&Prefix::Root)?;
    if files.iter().any(|f| f == NAME) {
        return Err(already());
    }
    // A probe that was interrupted leaves its folder.
    if let Some(other) = folders.iter().chain(&files).find(|name| *name != "probe") {
        return Err(StoreError::input(
            at,
            format!("it is no store, and holds other things ({other:?})"),
            "Choose an empty or a new folder",
        ));
    }
    probe::probe(objects)?;
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = Config {
        format: STORE_FORMAT,
        store_id: StoreId::random()?,
        created_unix_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        features: Vec::new(),
        write_features: Vec::new(),
    };
    let record = config.encode()?;
    let hint = format!("Run `tpde init {at}` again: it says whether the store is there");
    match claim(
        objects,
        &Key::Config,
        &record,
        &hint,
        |found| Ok(*found == record),
    )? {
        Claim::Ours => Ok(config),
        Claim::Taken(_) => Err(already()),
    }
}

/// Opens a store: reads `tpde.json` and says what may be done. One request.
///
/// # Errors
/// * `NotFound`: no store is there; `tpde init` makes one.
/// * `Newer`: it has a newer format; upgrade.
/// * `Corrupt`: `tpde.json` is damaged.
pub fn open(objects: &Objects) -> Result<(Config, Access)> {
    let at = objects.location();
    let Some(record) = objects.get_bounded(&Key::Config, MAX_CONFIG_LEN)? else {
        return Err(StoreError::not_found(
            format!("store {at}"),
            format!("Run `tpde init {at}` to make one"),
        ));
    };
    if record.len() as u64 > MAX_CONFIG_LEN {
        return Err(StoreError::corrupt(
            NAME,
            format!("it is longer than {MAX_CONFIG_LEN} bytes, which is the limit"),
        ));
    }
    let config = Config::decode(&record)?;
    let access = config.access();
    Ok((config, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a store is made once, opens as what it was made, and leaves nothing of the probe.
    #[test]
    fn init_then_open() {
        let dir = tempfile::tempdir().unwrap();
        for objects in [
            Objects::memory(),
            Objects::open(dir.path().to_str().unwrap()).unwrap(),
        ] {
            let error = open(&objects).unwrap_err();
            assert!(matches!(error, StoreError::NotFound { .. }));
            assert!(error.to_string().contains("tpde init"), "{error}");
            let config = init(&objects).unwrap();
            assert_eq!(open(&objects).unwrap(), (config, Access::ReadWrite));
            let error = init(&objects).unwrap_err();
            assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
            let left = objects.shallow(&Prefix::Root).unwrap();
            assert_eq!(left, (vec![], vec![NAME.to_owned()]));
        }
    }

    /// Promise: a folder with something in it is left alone; an interrupted probe is no obstacle.
    #[test]
    fn a_used_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path().to_str().unwrap()).unwrap();
        std::fs::create_dir(dir.path().join("probe")).unwrap();
        std::fs::write(dir.path().join("thesis.tex"), b"x").unwrap();
        let error = init(&objects).unwrap_err();
        assert!(matches!(error, StoreError::Input { .. }));
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        std::fs::remove_file(dir.path().join("thesis.tex")).unwrap();
        init(&objects).unwrap();
    }

    /// Promise: newer stores and those with unknown features are refused, unknown features of writers forbid writing only, damage
    /// is told as damage.
    #[test]
    fn newer_and_damaged() {
        let with = |text: &str| {
            let objects = Objects::memory();
            objects
                .create(&Key::Config, Bytes::from(text.to_owned()))
                .unwrap();
            open(&objects)
        };
        let id = "0".repeat(32);
        for format in [0, 2] {
            let other = with(&format!(r#"{{"format": {format}, "shape": "unheard of"}}"#)).unwrap_err();
            assert!(matches!(other, StoreError::Newer { .. }), "{other}");
        }
        let (_, access) = with(&format!(
            r#"{{"format":1,"store_id":"{id}","created_unix_ms":1,"features":[],"write_features":["glow"],"later":1}}"#
        ))
        .unwrap();
        let error = access.require_write().unwrap_err();
        assert!(error.to_string().contains("glow"), "{error}");
        let encrypted =
            format!(r#"{{"format":1,"store_id":"{id}","created_unix_ms":1,"features":["encryption"]}}"#);
        let error = with(&encrypted).unwrap_err();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
        for broken in [
            "",
            "{}",
            r#"{"format":1}"#,
            r#"{"format":1,"store_id":"x","created_unix_ms":1,"features":[]}"#,
            &" ".repeat(1 << 17),
        ] {
            let error = with(broken).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{broken:?}: {error}");
        }
    }

    /// Promise: of racing inits exactly one makes the store.
    #[test]
    fn one_init_wins() {
        let objects = Objects::memory();
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| init(&objects))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 1);
    }
}
