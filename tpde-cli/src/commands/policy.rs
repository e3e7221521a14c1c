//! `tpde policy`: what `tpde save --prune` keeps.

use std::time::Duration;

use serde::Serialize;
use tpde_store::Policy;
use tpde_store::forget::{Best, parse_age};

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, now_unix_ms};
use crate::text::page::Page;
use crate::text::style::Tone;

/// Show or set what `tpde save --prune` keeps
///
/// The rules are kept in the store and hold for every run, whoever saves. A checkpoint stays if one of them keeps it; the newest of a
/// run always stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde policy --keep-last 3 --keep-every 1000 --keep-best loss:3 --keep-tags
  tpde policy                    # what is set
  tpde policy --clear            # no policy: nothing is forgotten")]
pub(crate) struct Args {
    #[command(flatten)]
    rules: Rules,
    /// Keep no policy in the store
    #[arg(long, conflicts_with_all = ["keep_last", "keep_every", "keep_best", "keep_tags", "keep_within"])]
    clear: bool,
}

/// What to keep.
#[derive(Debug, clap::Args)]
pub(crate) struct Rules {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u64>,
    /// Keep those whose step is a multiple of N
    #[arg(long, value_name = "N")]
    keep_every: Option<u64>,
    /// Keep the N lowest by a metric, or with `:max` the N highest; may be repeated
    #[arg(long, value_name = "METRIC:N[:max]")]
    keep_best: Vec<Best>,
    /// Keep those that a tag stands for
    #[arg(long)]
    keep_tags: bool,
    /// Keep those saved within this time, such as 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    keep_within: Option<Duration>,
}

impl Rules {
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            every: self.keep_every,
            best: self.keep_best.clone(),
            tags: self.keep_tags,
            within: self.keep_within,
        }
    }
}

#[derive(Serialize)]
struct Kept {
    /// As the options that set it; empty if there is none.
    rules: Vec<String>,
}

impl Kept {
    fn new(policy: Option<&Policy>) -> Self {
        let mut rules = Vec::new();
        if let Some(policy) = policy {
            rules.extend(policy.last.map(|n| format!("--keep-last {n}")));
            rules.extend(policy.every.map(|n| format!("--keep-every {n}")));
            rules.extend(policy.best.iter().map(|best| format!("--keep-best {best}")));
            rules.extend(policy.tags.then(|| "--keep-tags".to_owned()));
            rules.extend(
                policy
                    .within
                    .map(|age| format!("--keep-within {}", shown_age(age))),
            );
        }
        Self { rules }
    }
}

/// An age in the largest unit that says it exactly.
fn shown_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(604_800, 'w'), (86_400, 'd'), (3600, 'h'), (60, 'm')];
    match units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

impl Answer for Kept {
    fn show(&self, page: &mut Page) {
        if self.rules.is_empty() {
            page.line("no policy: `tpde save --prune` is refused, and nothing is forgotten");
            return;
        }
        page.line("`tpde save --prune` keeps what one of these keeps, and the newest:");
        for rule in &self.rules {
            page.line(format!("  {}", page.paint(Tone::Name, rule)));
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let policy = args.rules.policy();
    if args.clear {
        store.set_policy(None, now_unix_ms())?;
    } else if policy != Policy::default() {
        store.set_policy(Some(policy), now_unix_ms())?;
    }
    session.answer(&Kept::new(store.policy()?.as_ref()))?;
    Ok(Exit::Done)
}
