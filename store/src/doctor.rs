//! Doctor: is everything well with a store, and what to type if not.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::now_unix_ms;
use crate::error::{Result, StoreError, is_record_of_a_run};
use crate::gc::{DEFAULT_GRACE, Survey};
use crate::ids::Nonce;
use crate::keys::{Key, Prefix, ProbeObject};
use crate::lease;
use crate::mark::{self, Marked};
use crate::probe::probe;
use crate::store::Store;

/// A clock further off than this is worth a word: saves show wrong times, and nothing else happens.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// A store that was not verified for so long is worth a word.
const MAX_UNVERIFIED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bytes that nothing needs are worth a word from this share of the store on.
const MUCH: f64 = 0.1;

/// How serious something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Good,
    /// Worth a look.
    Notice,
    /// Something is lost, or will be.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub health: Health,
    /// In words.
    pub detail: String,
    /// What to type.
    pub advice: Option<String>,
}

fn packs(n: u64) -> String {
    match n {
        1 => "1 pack".to_owned(),
        n => format!("{n} packs"),
    }
}

impl Store {
    /// Looks at everything that can be looked at without reading all bytes.
    ///
    /// Writes and deletes scratch objects, if the store may be written.
    ///
    /// # Errors
    /// `Backend` if the store cannot be listed at all. What else is wrong is a finding.
    pub fn doctor(&self) -> Result<Vec<Finding>> {
        let mut findings = vec![
            self.examine_backend(),
            self.examine_clock()?,
            self.examine_verified(),
        ];
        findings.push(self.examine_leases()?);
        findings.push(self.examine_marks());
        match Survey::take(self, &Marked::default()) {
            Ok(survey) => findings.extend(self.examine_contents(&survey)?),
            Err(error @ StoreError::Backend { .. }) => return Err(error),
            Err(error) => findings.push(Finding {
                what: "log",
                health: Health::Bad,
                detail: error.to_string(),
                advice: match &error {
                    StoreError::Corrupt { object, .. }
                        if is_record_of_a_run(object) || object.starts_with("run ") =>
                    {
                        Some("tpde repair slots".to_owned())
                    }
                    _ => None,
                },
            }),
        }
        Ok(findings)
    }

    fn examine_backend(&self) -> Finding {
        let what = "backend";
        let objects = self.objects();
        if let Err(error) = self.access().require_write() {
            return Finding {
                what,
                health: Health::Notice,
                detail: format!("not tried: {error}"),
                advice: None,
            };
        }
        match probe(objects) {
            Ok(()) => Finding {
                what,
                health: Health::Good,
                detail: "one of several that create a name wins; listings are in order".to_owned(),
                advice: None,
            },
            Err(error) => Finding {
                what,
                health: Health::Bad,
                detail: error.to_string(),
                advice: None,
            },
        }
    }

    /// The server's clock against this machine's, by an object that is written, listed and deleted.
    fn examine_clock(&self) -> Result<Finding> {
        let what = "clock";
        if let Err(error) = self.access().require_write() {
            return Ok(Finding {
                what,
                health: Health::Notice,
                detail: format!("not compared: {error}"),
                advice: None,
            });
        }
        let nonce = Nonce::random()?;
        let key = Key::Probe(nonce, ProbeObject::Twice);
        let (before, took) = (now_unix_ms(), Instant::now());
        let written = self
            .objects()
            .create(&key, Bytes::from_static(b"clock"))
            .and_then(|_| self.objects().list(&Prefix::Probe(nonce)));
        let took = took.elapsed();
        if let Err(error) = self.objects().delete(&key) {
            tracing::debug!(%error, "a scratch object stays");
        }
        self.objects()
            .remove_empty_folders(&[Prefix::Probe(nonce), Prefix::Probes]);
        let listed = match written {
            Ok(listed) => listed,
            Err(error) => {
                return Ok(Finding {
                    what,
                    health: Health::Notice,
                    detail: format!("not compared: {error}"),
                    advice: None,
                });
            }
        };
        let server = listed.first().map_or(before, |listed| listed.modified_unix_ms);
        let after = before.saturating_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        // Servers tell whole seconds.
        let skew = server
            .saturating_sub(after)
            .max(before.saturating_sub(server.saturating_add(999)));
        let skew = Duration::from_millis(skew);
        let is_off = skew > MAX_SKEW;
        Ok(Finding {
            what,
            health: if is_off { Health::Notice } else { Health::Good },
            detail: match skew.as_secs() {
                0 => "this machine and the store agree".to_owned(),
                seconds => format!(
                    "this machine and the store are {seconds} s apart; nothing but shown times depends on it"
                ),
            },
            advice: None,
        })
    }

    fn examine_verified(&self) -> Finding {
        let what = "last verify";
        let advice = || Some("tpde verify".to_owned());
        match self.last_verified() {
            Ok(Some(last)) => {
                let age = Duration::from_millis(now_unix_ms().saturating_sub(last.unix_ms));
                let old = age > MAX_UNVERIFIED;
                let days = age.as_secs() / 86_400;
                let when = match days {
                    0 => "today".to_owned(),
                    1 => "yesterday".to_owned(),
                    days => format!("{days} days ago"),
                };
                Finding {
                    what,
                    health: match (last.problems, old) {
                        (0, false) => Health::Good,
                        (0, true) => Health::Notice,
                        _ => Health::Bad,
                    },
                    detail: format!("{when}, {}: {} problems", last.level, last.problems),
                    advice: (old || last.problems > 0).then(advice).flatten(),
                }
            }
            Ok(None) => Finding {
                what,
                health: Health::Notice,
                detail: "never from this machine".to_owned(),
                advice: advice(),
            },
            Err(error) => Finding {
                what,
                health: Health::Notice,
                detail: error.to_string(),
                advice: advice(),
            },
        }
    }

    fn examine_leases(&self) -> Result<Finding> {
        let standing = lease::standing(self.objects())?;
        let now = now_unix_ms();
        let is_silent = |lease: &lease::Standing| {
            let silent = Duration::from_millis(now.saturating_sub(lease.renewed_unix_ms));
            silent > lease::LIMIT
        };
        let silent: Vec<_> = standing.iter().filter(|lease| is_silent(lease)).collect();
        let what = "writers";
        Ok(match (standing.len(), silent.first()) {
            (0, _) => Finding {
                what,
                health: Health::Good,
                detail: "nobody is writing".to_owned(),
                advice: None,
            },
            (n, None) => Finding {
                what,
                health: Health::Good,
                detail: format!("{n} at work: {}", lease::holder(self.objects(), standing[0].id)),
                advice: None,
            },
            (_, Some(first)) => Finding {
                what,
                health: Health::Notice,
                detail: format!(
                    "{} silent for long, and probably crashed: {}",
                    silent.len(),
                    lease::holder(self.objects(), first.id)
                ),
                advice: Some("tpde gc".to_owned()),
            },
        })
    }

    fn examine_marks(&self) -> Finding {
        let what = "marks";
        match mark::all(self.objects(), None) {
            Ok(marks) if marks.is_empty() => Finding {
                what,
                health: Health::Good,
                detail: "no gc is under way".to_owned(),
                advice: None,
            },
            Ok(marks) => Finding {
                what,
                health: Health::Notice,
                detail: format!(
                    "{} of a gc or a repair that is under way, or was cut short: saves do without {}",
                    marks.len(),
                    packs(Marked::by(&marks).packs.len() as u64)
                ),
                advice: Some("tpde gc".to_owned()),
            },
            Err(error) => Finding {
                what,
                health: Health::Bad,
                detail: error.to_string(),
                advice: None,
            },
        }
    }

    fn examine_contents(&self, survey: &Survey) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let total: u64 = survey
            .packs
            .values()
            .chain(survey.manifests.values())
            .map(|l| l.size_bytes)
            .sum();
        match survey.reclaimable(self) {
            Ok(spare) => {
                #[expect(clippy::cast_precision_loss, reason = "a share")]
                let share = spare.bytes as f64 / total.max(1) as f64;
                findings.push(Finding {
                    what: "contents",
                    health: Health::Good,
                    detail: format!(
                        "every checkpoint that stands can be found: {}",
                        packs(survey.packs.len() as u64)
                    ),
                    advice: None,
                });
                findings.push(Finding {
                    what: "reclaimable",
                    health: if share >= MUCH {
                        Health::Notice
                    } else {
                        Health::Good
                    },
                    detail: format!(
                        "{} bytes in {} that nothing needs",
                        spare.bytes,
                        packs(spare.packs)
                    ),
                    advice: (share >= MUCH).then(|| "tpde gc".to_owned()),
                });
            }
            Err(error @ StoreError::Backend { .. }) => return Err(error),
            Err(error) => findings.push(Finding {
                what: "contents",
                health: Health::Bad,
                detail: error.to_string(),
                advice: Some("tpde verify, then tpde repair packs".to_owned()),
            }),
        }
        let unnamed = survey.unnamed_manifests().len();
        findings.push(Finding {
            what: "orphans",
            health: Health::Good,
            detail: match unnamed {
                0 => "none".to_owned(),
                n => format!(
                    "{n} manifests of saves that were cut short or are not finished: small, and harmless"
                ),
            },
            advice: None,
        });
        let unfinished = self.objects().unfinished(DEFAULT_GRACE)?.len();
        if unfinished > 0 {
            findings.push(Finding {
                what: "unfinished",
                health: Health::Notice,
                detail: format!("{unfinished} files of writes that were cut short"),
                advice: Some("tpde gc".to_owned()),
            });
        }
        Ok(findings)
    }
}
