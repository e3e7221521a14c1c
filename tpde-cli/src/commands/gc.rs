//! `tpde gc`: bytes back from what nothing needs.

use std::time::Duration;

use serde::Serialize;
use tpde_store::forget::parse_age;
use tpde_store::gc::{Amount, GcRequest};
use tpde_store::{GcReport, now_unix_ms};

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, duration, size};

/// Delete what no checkpoint and no tag needs
///
/// Frees the bytes of what was forgotten, of saves that were cut short and of copies. Safe beside any number of saves and other gcs on any number of
/// hosts: it waits for those at work. What it deletes cannot be put back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde gc --dry-run              # what would go, and how many bytes
  tpde gc
  tpde gc --grace 1h             # also what was written an hour ago")]
pub(crate) struct Args {
    /// Say what would be deleted; delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave alone what is younger, by the server's clock; no request may be on its way for so long
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_age)]
    grace: Duration,
    /// Wait no longer than this for saves that are at work [default: as long as they need]
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    patience: Option<Duration>,
    /// Give up a writer that was silent for so long; if it lives, it notices and begins again
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_age)]
    lease_limit: Duration,
}

#[derive(Serialize)]
struct Line {
    packs: u64,
    manifests: u64,
    bytes: u64,
}

impl From<Amount> for Line {
    fn from(amount: Amount) -> Self {
        Self {
            packs: amount.packs,
            manifests: amount.manifests,
            bytes: amount.bytes,
        }
    }
}

impl Line {
    fn shown(&self) -> String {
        let what = [(self.packs, "pack"), (self.manifests, "manifest")];
        let what: Vec<String> = what
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, name)| counted(n, name))
            .collect();
        match what.is_empty() {
            true => "nothing".to_owned(),
            false => format!("{}  ({})", size(self.bytes), what.join(", ")),
        }
    }
}

#[derive(Serialize)]
struct Collected {
    dry_run: bool,
    collected: Line,
    young: Line,
    young_until_unix_ms: Option<u64>,
    spared: Line,
    kept: Line,
    given_up: Vec<String>,
    unanswered: u64,
    retired_marks: u64,
    parts: u64,
    unfinished: u64,
}

impl Collected {
    fn new(report: GcReport, dry_run: bool) -> Self {
        Self {
            dry_run,
            collected: report.collected.into(),
            young: report.young.into(),
            young_until_unix_ms: (report.young_until_unix_ms > 0).then_some(report.young_until_unix_ms),
            spared: report.spared.into(),
            kept: report.kept.into(),
            given_up: report.given_up,
            unanswered: report.unanswered,
            retired_marks: report.retired_marks,
            parts: report.parts,
            unfinished: report.unfinished,
        }
    }
}

impl Answer for Collected {
    fn is_notice(&self) -> bool {
        !self.dry_run
    }

    fn show(&self, page: &mut Page) {
        let verb = match self.dry_run {
            true => page.paint(Tone::Strong, "would delete"),
            false => page.paint(Tone::Good, "deleted"),
        };
        page.line(format!("{verb}  {}", self.collected.shown()));
        let mut fields = vec![("stays", self.kept.shown())];
        if let Some(until) = self.young_until_unix_ms {
            let left = Duration::from_millis(until.saturating_sub(now_unix_ms()));
            fields.push((
                "too young",
                format!("{}, all of it in {}", self.young.shown(), duration(left)),
            ));
        }
        if self.spared.bytes > 0 {
            fields.push(("needed again", self.spared.shown()));
        }
        if self.retired_marks > 0 {
            let what = counted(self.retired_marks, "mark");
            fields.push(("removed", format!("{what} of gcs that were cut short")));
        }
        if self.parts > 0 {
            let what = counted(self.parts, "part");
            fields.push((
                "parts",
                format!("{what} of checkpoints that were saved by several"),
            ));
        }
        if self.unfinished > 0 {
            let what = counted(self.unfinished, "upload");
            fields.push(("unfinished", format!("{what}, cut short")));
        }
        if self.unanswered > 0 {
            let what = counted(self.unanswered, "delete");
            fields.push((
                "unanswered",
                format!("{what}; the next `tpde gc` looks after them"),
            ));
        }
        page.fields(&fields);
        for who in &self.given_up {
            page.line(format!(
                "given up: {}, silent for too long; if it lives, it begins again",
                plain(who)
            ));
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let request = GcRequest {
        grace: args.grace,
        lease_limit: args.lease_limit,
        patience: args.patience,
    };
    let report = match args.dry_run {
        true => store.plan_gc(&request)?,
        false => {
            let bars = session.bars();
            store.gc(&request, &bars)?
        }
    };
    session.answer(&Collected::new(report, args.dry_run))?;
    Ok(Exit::Done)
}
