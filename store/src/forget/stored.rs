//! The store's policy: what `save --prune` keeps, for whoever saves.
//!
//! A line of create-only records, newest first in a listing; setting another policy, or none, adds a record.
//!
//! ```text
//! u8 format · varint seq · u8 has rules · [ varint last · varint every · varint n, n × (text metric, varint count, u8 highest)
//!   · u8 tags · varint within seconds ] · 16 nonce · varint time · 32 seal           0 stands for a rule that is not there
//! ```

use std::time::Duration;

use bytes::Bytes;
use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use super::policy::{Best, Policy};
use crate::claim::{Claim, claim};
use crate::error::{Result, StoreError};
use crate::ids::Nonce;
use crate::keys::{Key, Prefix};
use crate::metrics::{MAX_METRIC_NAME_LEN, MAX_METRICS};
use crate::objects::Objects;
use crate::seal::{seal, unseal};
use crate::store::Store;

const FORMAT: u8 = 1;
const WHAT: &str = "policy";

/// One record of the store's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    seq: u64,
    policy: Option<Policy>,
    nonce: Nonce,
    created_unix_ms: u64,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT);
        w.varint(self.seq);
        w.u8(u8::from(self.policy.is_some()));
        if let Some(policy) = &self.policy {
            w.varint(policy.last.unwrap_or(0));
            w.varint(policy.every.unwrap_or(0));
            w.varint(policy.best.len() as u64);
            for best in &policy.best {
                w.prefixed(best.metric.as_bytes());
                w.varint(best.count);
                w.u8(u8::from(best.highest));
            }
            w.u8(u8::from(policy.tags));
            w.varint(policy.within.map_or(0, |within| within.as_secs()));
        }
        w.raw(self.nonce.as_bytes());
        w.varint(self.created_unix_ms);
        seal(w.into_bytes())
    }

    fn decode(sealed: &[u8]) -> std::result::Result<Self, CodecError> {
        let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
        let mut r = Reader::new(unseal(WHAT, sealed)?);
        let format = r.u8(WHAT)?;
        if format != FORMAT {
            return Err(CodecError::Unsupported {
                what: "policy format",
                found: format.into(),
                known: FORMAT.into(),
            });
        }
        let flag = |r: &mut Reader<'_>| match r.u8(WHAT)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(corrupt(format!("flag {other}"))),
        };
        let rule = |value: u64| (value > 0).then_some(value);
        let seq = r.varint(WHAT)?;
        let mut policy = None;
        if flag(&mut r)? {
            let (last, every) = (rule(r.varint(WHAT)?), rule(r.varint(WHAT)?));
            let mut best = Vec::new();
            for _ in 0..r.size(MAX_METRICS, WHAT)? {
                let metric = r.text(WHAT)?.to_owned();
                if metric.is_empty() || metric.len() > MAX_METRIC_NAME_LEN {
                    return Err(corrupt(format!("metric {metric:?}")));
                }
                let count = r.varint(WHAT)?;
                let highest = flag(&mut r)?;
                best.push(Best {
                    metric,
                    count,
                    highest,
                });
            }
            policy = Some(Policy {
                last,
                every,
                best,
                tags: flag(&mut r)?,
                within: rule(r.varint(WHAT)?).map(Duration::from_secs),
            });
        }
        let record = Self {
            seq,
            policy,
            nonce: Nonce::from_bytes(r.array(WHAT)?),
            created_unix_ms: r.varint(WHAT)?,
        };
        r.end(WHAT)?;
        Ok(record)
    }

    fn from_bytes(seq: u64, bytes: &Bytes) -> Result<Self> {
        let key = || Key::Policy(seq).to_string();
        let record = Self::decode(bytes).map_err(|e| StoreError::decoding(key(), e))?;
        if record.seq != seq {
            return Err(StoreError::corrupt(
                key(),
                format!("it holds record {}", record.seq),
            ));
        }
        Ok(record)
    }
}

fn newest(objects: &Objects) -> Result<Option<Record>> {
    match objects.list_newest(&Prefix::Policy, 1)?.first() {
        Some(key @ Key::Policy(seq)) => Record::from_bytes(*seq, &objects.get(key)?).map(Some),
        _ => Ok(None),
    }
}

impl Store {
    /// The policy that is kept in the store, if there is one.
    ///
    /// # Errors
    /// `Corrupt`, `Newer`, `Backend`: as for every read.
    pub fn policy(&self) -> Result<Option<Policy>> {
        Ok(newest(self.objects())?.and_then(|record| record.policy))
    }

    /// Keeps another policy in the store, or none.
    ///
    /// # Errors
    /// `Input` for a policy without rules, or with one that keeps nothing; `OutcomeUnknown`, `Backend`: the same again is harmless.
    pub fn set_policy(&self, policy: Option<Policy>, now_unix_ms: u64) -> Result<()> {
        self.access().require_write()?;
        policy.as_ref().map_or(Ok(()), Policy::check)?;
        let nonce = Nonce::random()?;
        let mut before = newest(self.objects())?;
        loop {
            if before
                .as_ref()
                .map_or(policy.is_none(), |before| before.policy == policy)
            {
                return match &before {
                    Some(before) => self.objects().settle(&Key::Policy(before.seq)),
                    None => Ok(()),
                };
            }
            let seq = before.as_ref().map_or(0, |before| before.seq.saturating_add(1));
            let record = Record {
                seq,
                policy: policy.clone(),
                nonce,
                created_unix_ms: now_unix_ms,
            };
            let hint = "Run `tpde policy` to see; the same command again is harmless";
            let bytes = Bytes::from(record.encode());
            match claim(self.objects(), &Key::Policy(seq), &bytes, hint, |found| {
                Ok(Record::from_bytes(seq, found)?.nonce == nonce)
            })? {
                Claim::Ours => return Ok(()),
                Claim::Taken(theirs) => before = Some(Record::from_bytes(seq, &theirs)?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use proptest::prelude::*;

    fn any_policy() -> impl Strategy<Value = Option<Policy>> {
        let best = ("[a-z]{1,9}", 1u64.., any::<bool>()).prop_map(|(metric, count, highest)| Best {
            metric,
            count,
            highest,
        });
        let rules = (
            proptest::option::of(1u64..),
            proptest::option::of(1u64..),
            prop::collection::vec(best, 0..4),
            any::<bool>(),
            proptest::option::of(1u64..),
        );
        proptest::option::of(rules.prop_map(|(last, every, best, tags, within)| Policy {
            last,
            every,
            best,
            tags,
            within: within.map(Duration::from_secs),
        }))
    }

    proptest! {
        /// Promise: a policy survives the way through bytes; no cut and no flip of it is read.
        #[test]
        fn round_trip_and_damage(policy in any_policy(), seq: u64, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let record = Record { seq, policy, nonce: Nonce::from_bytes([3; 16]), created_unix_ms: 5 };
            let bytes = record.encode();
            prop_assert_eq!(&Record::decode(&bytes)?, &record);
            let at = at.index(bytes.len());
            prop_assert!(Record::decode(&bytes[..at]).is_err());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(Record::decode(&flipped).is_err());
        }
    }

    /// Promise: the last policy that was set counts, the same again writes nothing, and racing writers all come through.
    #[test]
    fn set_and_set_again() {
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        let store = Store::over(objects, None).unwrap();
        assert_eq!(store.policy().unwrap(), None);
        let last = |n| {
            Some(Policy {
                last: Some(n),
                ..Policy::default()
            })
        };
        store.set_policy(last(3), 1).unwrap();
        store.set_policy(last(3), 2).unwrap();
        assert_eq!(store.objects().list(&Prefix::Policy).unwrap().len(), 1);
        std::thread::scope(|scope| {
            (10..18).for_each(|n| {
                let store = &store;
                scope.spawn(move || store.set_policy(last(n), 3).unwrap());
            });
        });
        assert_eq!(store.objects().list(&Prefix::Policy).unwrap().len(), 9);
        assert!(store.policy().unwrap().unwrap().last >= Some(10));
        store.set_policy(None, 4).unwrap();
        assert_eq!(store.policy().unwrap(), None);
        assert!(store.set_policy(Some(Policy::default()), 5).is_err());
    }
}
