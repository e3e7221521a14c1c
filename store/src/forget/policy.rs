//! What to keep of a run.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Result, StoreError};
use crate::history::Log;
use crate::summary::Summary;

/// Rules, each of which keeps some checkpoints; what none of them keeps is forgotten. The newest checkpoint is always kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The newest so many.
    pub last: Option<u64>,
    /// Those whose step is a multiple of this.
    pub every: Option<u64>,
    /// The best by a metric.
    pub best: Vec<Best>,
    /// Those that a tag stands for.
    pub tags: bool,
    /// Those committed at most so long ago, by the writers' clocks.
    pub within: Option<Duration>,
}

/// So many of the best checkpoints by a metric: `loss:3` keeps the three lowest, `accuracy:3:max` the three highest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Best {
    /// The metric.
    pub metric: String,
    /// How many.
    pub count: u64,
    /// Whether more is better.
    pub highest: bool,
}

impl FromStr for Best {
    type Err = StoreError;

    /// # Errors
    /// `Input`, with the form that is expected.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            StoreError::input(
                format!("{text:?}"),
                "it is not METRIC:N or METRIC:N:max",
                "Write for example `loss:3` (the three lowest) or `accuracy:3:max` (the three highest)",
            )
        };
        let (rest, highest) = match text.strip_suffix(":max") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":min").unwrap_or(text), false),
        };
        let (metric, count) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)?;
        if metric.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            metric: metric.to_owned(),
            count,
            highest,
        })
    }
}

impl fmt::Display for Best {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}{}",
            self.metric,
            self.count,
            if self.highest { ":max" } else { "" }
        )
    }
}

/// Reads `90s`, `30m`, `12h`, `7d` or `2w`.
///
/// # Errors
/// `Input`, with the forms that are expected.
pub fn parse_age(text: &str) -> Result<Duration> {
    let wrong = || {
        StoreError::input(
            format!("age {text:?}"),
            "it is not a number and a unit",
            "Write for example 90s, 30m, 12h, 7d or 2w",
        )
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

impl Policy {
    /// Which commits of `log` are kept, and by which rules, by sequence number.
    ///
    /// * `tagged`: commits that a tag stands for.
    /// * `now_unix_ms`: what `within` counts from.
    ///
    /// # Errors
    /// `Input` if there is no rule, a rule keeps nothing by itself (zero), or no commit has a metric that is asked for.
    pub(super) fn kept(
        &self,
        log: &Log,
        tagged: &HashSet<u64>,
        now_unix_ms: u64,
    ) -> Result<BTreeMap<u64, Vec<String>>> {
        self.check()?;
        let mut kept: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut keep = |commit: &Summary, rule: String| kept.entry(commit.seq).or_default().push(rule);
        let newest_first: Vec<&Summary> = log.commits().rev().collect();
        if let Some(newest) = newest_first.first() {
            keep(newest, "newest".to_owned());
        }
        if let Some(last) = self.last {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            newest_first
                .iter()
                .take(last)
                .for_each(|c| keep(c, format!("last {last}")));
        }
        if let Some(every) = self.every {
            // A step that was replaced counts once.
            let mut steps = HashSet::new();
            let standing = newest_first.iter().filter(|c| steps.insert(c.step));
            standing
                .filter(|c| c.step.is_multiple_of(every))
                .for_each(|c| keep(c, format!("every {every}")));
        }
        for best in &self.best {
            let value = |c: &Summary| {
                c.action
                    .metrics()
                    .and_then(|m| m.get(&best.metric))
                    .filter(|v| !v.is_nan())
            };
            let mut ranked: Vec<(f64, &Summary)> = newest_first
                .iter()
                .filter_map(|c| Some((value(c)?, *c)))
                .collect();
            if ranked.is_empty() {
                let known: BTreeSet<&str> = newest_first
                    .iter()
                    .flat_map(|c| c.action.metrics().into_iter().flatten())
                    .map(|m| m.name())
                    .collect();
                let known: Vec<&str> = known.into_iter().collect();
                return Err(StoreError::input(
                    format!("--keep-best {best}"),
                    format!("no checkpoint has the metric {:?}", best.metric),
                    match known.is_empty() {
                        true => "Save with `--metric NAME=NUMBER` first".to_owned(),
                        false => format!("There are: {}", known.join(", ")),
                    },
                ));
            }
            // Of equals the newer one.
            ranked.sort_by(|a, b| {
                if best.highest {
                    b.0.total_cmp(&a.0)
                } else {
                    a.0.total_cmp(&b.0)
                }
            });
            let count = usize::try_from(best.count).unwrap_or(usize::MAX);
            ranked
                .iter()
                .take(count)
                .for_each(|(_, c)| keep(c, format!("best {best}")));
        }
        if self.tags {
            let tagged = newest_first.iter().filter(|c| tagged.contains(&c.seq));
            tagged.for_each(|c| keep(c, "tag".to_owned()));
        }
        if let Some(within) = self.within {
            let oldest = now_unix_ms.saturating_sub(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
            let young = newest_first.iter().filter(|c| c.created_unix_ms >= oldest);
            young.for_each(|c| keep(c, "age".to_owned()));
        }
        Ok(kept)
    }

    pub(super) fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(StoreError::input(
                "the policy",
                "it has no rule, and would keep nothing but the newest checkpoint",
                "Say what to keep: --keep-last N, --keep-every N, --keep-best METRIC:N, --keep-tags, --keep-within 7d",
            ));
        }
        for (rule, value) in [("--keep-last", self.last), ("--keep-every", self.every)] {
            if value == Some(0) {
                return Err(StoreError::input(
                    rule,
                    "0 keeps nothing",
                    "Give a number from 1 on",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what a person types is read or refused with the form to use.
    #[test]
    fn typed() {
        let best: Best = "eval/loss:3".parse().unwrap();
        assert_eq!(
            (best.metric.as_str(), best.count, best.highest),
            ("eval/loss", 3, false)
        );
        assert_eq!("acc:1:max".parse::<Best>().unwrap().to_string(), "acc:1:max");
        assert_eq!("loss:2:min".parse::<Best>().unwrap().to_string(), "loss:2");
        for wrong in ["loss", "loss:0", "loss:x", ":3", "loss:3:high"] {
            assert!(
                wrong.parse::<Best>().unwrap_err().to_string().contains("loss:3"),
                "{wrong}"
            );
        }
        assert_eq!(parse_age("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for wrong in ["", "7", "d", "7x", "-1d", "7é", "99999999999999999999w"] {
            assert!(
                parse_age(wrong).unwrap_err().to_string().contains("7d"),
                "{wrong}"
            );
        }
    }
}
