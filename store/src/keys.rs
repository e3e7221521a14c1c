//! Every object's key, and the way back from a key to what it names.
//!
//! ```text
//! tpde.json                       the store's format
//! packs/ab/<hex>.pack             a pack, under the hash of its bytes
//! manifests/ab/<hex>              a manifest, likewise
//! runs/<run>/<20 digits>          slot `seq` of a run, named u64::MAX - seq: the newest lists first
//! rollups/<run>/<20 digits>       the rollup whose last commit is `seq`
//! tags/<name>/<20 digits>         the record `seq` of a tag
//! policy/<20 digits>              the record `seq` of the store's policy
//! leases/<id>/<20 digits>         renewal `n` of a writer's lease
//! leases/<id>/fence               that lease has ended
//! parts/<id>/<20 digits>          part `rank` of a save of several processes
//! gc/<id>                         a mark: what a gc is about to delete
//! probe/<nonce>/<name>            left by a probe that was interrupted; safe to delete
//! ```
//! Keys are the same on a disk and on a server.

use std::fmt;

use crate::ids::{LeaseId, ManifestId, MarkId, Nonce, PackId, PartsId, is_lower_hex};
use crate::names::{RunName, TagName};

/// Digits in the name of a numbered object: `u64::MAX` has twenty.
const SEQ_DIGITS: usize = 20;

/// The key of one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key {
    /// `tpde.json`.
    Config,
    /// A pack.
    Pack(PackId),
    /// A manifest.
    Manifest(ManifestId),
    /// Commit `seq` of a run.
    Slot(RunName, u64),
    /// The rollup whose last commit is `seq`.
    Rollup(RunName, u64),
    /// Record `seq` of a tag.
    Tag(TagName, u64),
    /// Record `seq` of the store's policy.
    Policy(u64),
    /// Renewal `n` of a writer's lease.
    Lease(LeaseId, u64),
    /// What says that a lease has ended, whatever its writer thinks.
    Fence(LeaseId),
    /// What a gc is about to delete.
    Mark(MarkId),
    /// Part `rank` of a save of several processes.
    Part(PartsId, u64),
    /// A scratch object of the capability probe.
    Probe(Nonce, ProbeObject),
}

/// What the capability probe writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeObject {
    /// Created twice: the second time must lose.
    Twice,
    /// Created by racing threads: one must win.
    Race,
}

/// A folder of keys, to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    /// Everything.
    Root,
    /// All packs.
    Packs,
    /// All manifests.
    Manifests,
    /// Manifests whose id starts with this byte.
    ManifestsUnder(u8),
    /// All runs.
    Runs,
    /// The slots of one run, newest first.
    Slots(RunName),
    /// The rollups of one run, newest first.
    Rollups(RunName),
    /// All tags.
    Tags,
    /// The records of one tag, newest first.
    Tag(TagName),
    /// The records of the store's policy, newest first.
    Policy,
    /// All leases and fences.
    Leases,
    /// The renewals of one lease, newest first, then its fence.
    Lease(LeaseId),
    /// All marks.
    Marks,
    /// The parts of all saves.
    AllParts,
    /// The parts of one save.
    Parts(PartsId),
    /// The scratch objects of all probes.
    Probes,
    /// The scratch objects of one probe.
    Probe(Nonce),
}

/// The 20 digits that name `seq`: larger numbers sort first.
fn descending(seq: u64) -> String {
    format!("{:0SEQ_DIGITS$}", u64::MAX - seq)
}

fn from_descending(digits: &str) -> Option<u64> {
    if digits.len() != SEQ_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(|n: u64| u64::MAX - n)
}

impl ProbeObject {
    fn as_str(self) -> &'static str {
        match self {
            Self::Twice => "twice",
            Self::Race => "race",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("tpde.json"),
            Self::Pack(id) => {
                let hex = id.to_hex();
                write!(f, "packs/{}/{hex}.pack", &hex[..2])
            }
            Self::Manifest(id) => {
                let hex = id.to_hex();
                write!(f, "manifests/{}/{hex}", &hex[..2])
            }
            Self::Slot(run, seq) => write!(f, "runs/{run}/{}", descending(*seq)),
            Self::Rollup(run, seq) => write!(f, "rollups/{run}/{}", descending(*seq)),
            Self::Tag(name, seq) => write!(f, "tags/{name}/{}", descending(*seq)),
            Self::Policy(seq) => write!(f, "policy/{}", descending(*seq)),
            Self::Lease(id, renewal) => write!(f, "leases/{id}/{}", descending(*renewal)),
            Self::Fence(id) => write!(f, "leases/{id}/fence"),
            Self::Mark(id) => write!(f, "gc/{id}"),
            Self::Part(id, rank) => write!(f, "parts/{id}/{}", descending(*rank)),
            Self::Probe(nonce, object) => write!(f, "probe/{nonce}/{}", object.as_str()),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Packs => f.write_str("packs"),
            Self::Manifests => f.write_str("manifests"),
            Self::ManifestsUnder(byte) => write!(f, "manifests/{byte:02x}"),
            Self::Runs => f.write_str("runs"),
            Self::Slots(run) => write!(f, "runs/{run}"),
            Self::Rollups(run) => write!(f, "rollups/{run}"),
            Self::Tags => f.write_str("tags"),
            Self::Tag(name) => write!(f, "tags/{name}"),
            Self::Policy => f.write_str("policy"),
            Self::Leases => f.write_str("leases"),
            Self::Lease(id) => write!(f, "leases/{id}"),
            Self::Marks => f.write_str("gc"),
            Self::AllParts => f.write_str("parts"),
            Self::Parts(id) => write!(f, "parts/{id}"),
            Self::Probes => f.write_str("probe"),
            Self::Probe(nonce) => write!(f, "probe/{nonce}"),
        }
    }
}

impl Key {
    /// Reads a key back; `None` for anything that this build does not write.
    ///
    /// Inverse of `Display`: exactly the strings that some key prints are read.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let first = parts.next()?;
        if text == "tpde.json" {
            return Some(Self::Config);
        }
        let second = parts.next()?;
        if parts.clone().next().is_none() {
            return match first {
                "policy" => from_descending(second).map(Self::Policy),
                "gc" => MarkId::from_hex(second).map(Self::Mark),
                _ => None,
            };
        }
        let third = parts.next()?;
        if parts.next().is_some() {
            return None;
        }
        match first {
            "packs" => {
                let hex = third.strip_suffix(".pack")?;
                id_under(second, hex).map(Self::Pack)
            }
            "manifests" => id_under(second, third).map(Self::Manifest),
            "runs" => Some(Self::Slot(second.parse().ok()?, from_descending(third)?)),
            "rollups" => Some(Self::Rollup(second.parse().ok()?, from_descending(third)?)),
            "tags" => Some(Self::Tag(second.parse().ok()?, from_descending(third)?)),
            "leases" => {
                let id = LeaseId::from_hex(second)?;
                match third {
                    "fence" => Some(Self::Fence(id)),
                    digits => Some(Self::Lease(id, from_descending(digits)?)),
                }
            }
            "parts" => Some(Self::Part(PartsId::from_hex(second)?, from_descending(third)?)),
            "probe" => {
                let object = match third {
                    "twice" => ProbeObject::Twice,
                    "race" => ProbeObject::Race,
                    _ => return None,
                };
                Some(Self::Probe(Nonce::from_hex(second)?, object))
            }
            _ => None,
        }
    }
}

/// Reads `<hex>` that must lie in the folder of its own first two characters.
fn id_under<K>(folder: &str, hex: &str) -> Option<tpde_core::Id<K>> {
    if !hex.bytes().all(is_lower_hex) || hex.get(..2) != Some(folder) {
        return None;
    }
    hex.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let run = "[A-Za-z0-9][A-Za-z0-9_-]{0,12}";
        prop_oneof![
            Just(Key::Config),
            any::<[u8; 32]>().prop_map(|b| Key::Pack(PackId::from_bytes(b))),
            any::<[u8; 32]>().prop_map(|b| Key::Manifest(ManifestId::from_bytes(b))),
            (run, any::<u64>()).prop_map(|(r, s)| Key::Slot(r.parse().unwrap(), s)),
            (run, any::<u64>()).prop_map(|(r, s)| Key::Rollup(r.parse().unwrap(), s)),
            (run, any::<u64>()).prop_map(|(r, s)| Key::Tag(format!("z{r}").parse().unwrap(), s)),
            any::<u64>().prop_map(Key::Policy),
            (any::<[u8; 16]>(), any::<u64>()).prop_map(|(b, n)| Key::Lease(LeaseId::from_bytes(b), n)),
            any::<[u8; 16]>().prop_map(|b| Key::Fence(LeaseId::from_bytes(b))),
            (any::<[u8; 16]>(), any::<u64>()).prop_map(|(b, n)| Key::Part(PartsId::from_bytes(b), n)),
            any::<[u8; 16]>().prop_map(|b| Key::Mark(MarkId::from_bytes(b))),
            any::<[u8; 16]>().prop_map(|b| Key::Probe(Nonce::from_bytes(b), ProbeObject::Race)),
        ]
    }

    proptest! {
        /// Promise: a key survives the way through text.
        #[test]
        fn round_trip(key in any_key()) {
            prop_assert_eq!(Key::parse(&key.to_string()), Some(key));
        }

        /// Promise: only what some key prints is read as a key.
        #[test]
        fn no_second_spelling(key in any_key(), at in any::<prop::sample::Index>(), with in "[ -~]") {
            let text = key.to_string();
            let at = at.index(text.len());
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            if let Some(read) = Key::parse(&changed) {
                prop_assert_eq!(read.to_string(), changed);
            }
        }

        /// Promise: of two slots the newer one sorts first.
        #[test]
        fn newest_sorts_first(a: u64, b: u64) {
            prop_assert_eq!(a.cmp(&b), descending(b).cmp(&descending(a)));
        }
    }
}
