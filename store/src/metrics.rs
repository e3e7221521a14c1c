//! Metrics: the numbers that a trainer knows about a checkpoint, such as its loss.
//!
//! They stand in the manifest, and in the run's summaries too, so that a log, a plot or `--keep-best` reads no manifest.

use std::fmt;
use std::str::FromStr;

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use crate::error::StoreError;

/// Most metrics of one checkpoint.
pub const MAX_METRICS: usize = 32;

/// Longest name of a metric, in bytes.
pub const MAX_METRIC_NAME_LEN: usize = 64;

/// Most bytes of a list on the wire.
pub(crate) const MAX_METRICS_LEN: usize = 1 + MAX_METRICS * (1 + MAX_METRIC_NAME_LEN + 8);

const WHAT: &str = "metrics";

/// One number and its name.
#[derive(Debug, Clone)]
pub struct Metric {
    name: String,
    /// Its value; whatever the trainer said, NaN included.
    pub value: f64,
}

/// Two metrics are equal if their bits are: a NaN equals itself.
impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value.to_bits() == other.value.to_bits()
    }
}
impl Eq for Metric {}

impl Metric {
    /// A number under a name: 1 to 64 bytes without control characters, `=` or spaces around it.
    ///
    /// # Errors
    /// `Input`, naming what is wrong with the name.
    pub fn new(name: &str, value: f64) -> Result<Self, StoreError> {
        if let Some(fault) = name_fault(name) {
            return Err(StoreError::input(
                format!("metric {name:?}"),
                fault,
                "Name it with a few letters, for example `loss` or `eval/loss`",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > MAX_METRIC_NAME_LEN {
        Some("a name has 1 to 64 bytes")
    } else if name.contains('=') || name.chars().any(char::is_control) || name.trim() != name {
        Some("a name has no `=`, no control character, and no space at its ends")
    } else {
        None
    }
}

impl FromStr for Metric {
    type Err = StoreError;

    /// Reads `name=number`.
    ///
    /// # Errors
    /// `Input`, with the form that is expected.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let wrong = |detail: &str| {
            StoreError::input(
                format!("metric {text:?}"),
                detail,
                "Write name=number, for example loss=1.93",
            )
        };
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("there is no `=` in it"))?;
        let value = value
            .trim()
            .parse()
            .map_err(|_| wrong("what follows the `=` is not a number"))?;
        Self::new(name.trim(), value)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The metrics of one checkpoint, by ascending name, each name once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics(Vec<Metric>);

impl Metrics {
    /// Takes a list in any order.
    ///
    /// # Errors
    /// `Input` if a name comes twice, or there are more than [`MAX_METRICS`].
    pub fn new(mut list: Vec<Metric>) -> Result<Self, StoreError> {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = list.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(StoreError::input(
                format!("metric {}", pair[0].name),
                "it is given twice",
                "Give each metric once",
            ));
        }
        if list.len() > MAX_METRICS {
            return Err(StoreError::input(
                "the metrics",
                format!("there are {}, a checkpoint holds {MAX_METRICS}", list.len()),
                "Give those that you will want to see in the log",
            ));
        }
        Ok(Self(list))
    }

    /// The metric of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        let at = self.0.binary_search_by(|m| m.name.as_str().cmp(name)).ok()?;
        Some(self.0[at].value)
    }

    /// All of them, by name.
    pub fn iter(&self) -> std::slice::Iter<'_, Metric> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.varint(self.0.len() as u64);
        for metric in &self.0 {
            w.prefixed(metric.name.as_bytes());
            w.u64(metric.value.to_bits());
        }
    }

    /// Inverse of [`Metrics::write`].
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let corrupt = |detail: String| CodecError::Corrupt { what: WHAT, detail };
        let count = r.size(MAX_METRICS, WHAT)?;
        let mut list: Vec<Metric> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = r.text(WHAT)?;
            if let Some(fault) = name_fault(name) {
                return Err(corrupt(format!("{name:?}: {fault}")));
            }
            if list.last().is_some_and(|before| before.name.as_str() >= name) {
                return Err(corrupt(format!("{name:?} is out of order")));
            }
            list.push(Metric {
                name: name.to_owned(),
                value: f64::from_bits(r.u64(WHAT)?),
            });
        }
        Ok(Self(list))
    }
}

impl<'a> IntoIterator for &'a Metrics {
    type Item = &'a Metric;
    type IntoIter = std::slice::Iter<'a, Metric>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any metrics at all.
    pub(crate) fn any_metrics() -> impl Strategy<Value = Metrics> {
        prop::collection::btree_map("[a-zé/_]{1,12}", any::<u64>(), 0..5).prop_map(|map| {
            let metric = |(name, bits): (String, u64)| Metric::new(&name, f64::from_bits(bits)).unwrap();
            Metrics::new(map.into_iter().map(metric).collect()).unwrap()
        })
    }

    proptest! {
        /// Promise: metrics survive the way through bytes, NaN and all; a cut is an error.
        #[test]
        fn round_trip(metrics in any_metrics()) {
            let mut w = Writer::new();
            metrics.write(&mut w);
            let bytes = w.into_bytes();
            prop_assert!(bytes.len() <= MAX_METRICS_LEN);
            prop_assert_eq!(&Metrics::read(&mut Reader::new(&bytes))?, &metrics);
            for cut in 0..bytes.len() {
                prop_assert!(Metrics::read(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }
    }

    /// Promise: what a person types is read, or told what is wrong with it.
    #[test]
    fn typed() {
        let metric: Metric = "eval/loss=1.25".parse().unwrap();
        assert_eq!((metric.name(), metric.value), ("eval/loss", 1.25));
        assert_eq!(metric.to_string(), "eval/loss=1.25");
        assert!("loss=NaN".parse::<Metric>().unwrap().value.is_nan());
        for wrong in [
            "loss",
            "loss=",
            "=1",
            "a\nb=1",
            "loss=low",
            &format!("{}=1", "x".repeat(65)),
        ] {
            let error = wrong.parse::<Metric>().unwrap_err();
            assert!(matches!(error, StoreError::Input { .. }), "{wrong:?}: {error}");
        }
        let twice = vec![metric.clone(), metric];
        assert!(Metrics::new(twice).unwrap_err().to_string().contains("twice"));
        let many = (0..33)
            .map(|i| Metric::new(&format!("m{i}"), 0.0).unwrap())
            .collect();
        assert!(Metrics::new(many).unwrap_err().to_string().contains("33"));
    }
}
