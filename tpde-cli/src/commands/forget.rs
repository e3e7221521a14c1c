//! `tpde forget`: checkpoints out of a run's log.

use std::collections::BTreeSet;

use serde::Serialize;
use tpde_store::forget::{Plan, Policy, Selection};
use tpde_store::{RunName, StoreError};

use super::policy::Rules;
use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, now_unix_ms};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, size};

/// Forget checkpoints of a run: those that no rule keeps, or those that are named
///
/// They leave the log; nothing is deleted, and `tpde undo RUN` puts them back. The newest checkpoint is kept unless it is named, and
/// so are the contents of those that a tag stands for.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde forget [OPTIONS] <RUN | REF...>",
    after_help = "\
Examples:
  tpde forget llama --keep-last 3 --keep-every 1000 --keep-best loss:3 --keep-tags --dry-run
  tpde forget llama@600 llama@700
  tpde undo llama"
)]
pub(crate) struct Args {
    /// The run, with rules; or the checkpoints to forget
    #[arg(required = true, value_name = "RUN | REF", value_parser = reference)]
    targets: Vec<String>,
    #[command(flatten)]
    rules: Rules,
    /// Say what would go and stay, and how many bytes nothing else needs; change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Forgot {
    run: String,
    dry_run: bool,
    forgotten: Vec<Line>,
    kept: Vec<KeptLine>,
    tags: Vec<String>,
    reclaimable_bytes: u64,
    records: Vec<u64>,
}

#[derive(Serialize)]
struct Line {
    seq: u64,
    step: u64,
    manifest: String,
}

#[derive(Serialize)]
struct KeptLine {
    #[serde(flatten)]
    line: Line,
    rules: Vec<String>,
}

impl Line {
    fn new(commit: &tpde_store::Summary) -> Self {
        Self {
            seq: commit.seq,
            step: commit.step,
            manifest: commit.manifest.to_hex(),
        }
    }
}

impl Answer for Forgot {
    fn show(&self, page: &mut Page) {
        let gone = counted(self.forgotten.len() as u64, "checkpoint");
        let verb = match (self.forgotten.is_empty(), self.dry_run) {
            (true, _) => "nothing to forget in",
            (false, true) => "would forget",
            (false, false) => "forgot",
        };
        if self.forgotten.is_empty() {
            page.line(format!("{} {}", page.paint(Tone::Good, verb), self.run));
        } else {
            let title = format!("{gone} of {}", self.run);
            page.line(format!("{}  {title}", page.paint(Tone::Good, verb)));
        }
        let mut table = Table::new([
            Column::Left(""),
            Column::Right("step"),
            Column::Left("checkpoint"),
            Column::Left("kept by"),
        ]);
        let short = |line: &Line| line.manifest.get(..12).unwrap_or_default().to_owned();
        if self.dry_run {
            let mut rows: Vec<(&Line, String)> = self.forgotten.iter().map(|l| (l, String::new())).collect();
            rows.extend(self.kept.iter().map(|k| (&k.line, k.rules.join(", "))));
            rows.sort_by_key(|(line, _)| std::cmp::Reverse(line.seq));
            for (line, rules) in rows {
                let goes = rules.is_empty();
                table.row([
                    if goes {
                        Cell::toned(Tone::Caution, "forget")
                    } else {
                        Cell::toned(Tone::Good, "keep")
                    },
                    line.step.to_string().into(),
                    Cell::toned(Tone::Dim, short(line)),
                    rules.into(),
                ]);
            }
            page.table(&table);
        }
        let mut fields = Vec::new();
        if !self.forgotten.is_empty() {
            fields.push(("kept", count(self.kept.len() as u64)));
            fields.push(("needed by nothing else", size(self.reclaimable_bytes)));
        }
        if !self.tags.is_empty() {
            fields.push(("stay under their tags", self.tags.join(", ")));
        }
        page.fields(&fields);
        if !self.forgotten.is_empty() && !self.dry_run {
            page.line(page.paint(Tone::Dim, &format!("  `tpde undo {}` puts them back", self.run)));
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let policy = args.rules.policy();
    let (run, selection) = if policy == Policy::default() && is_named(&args.targets) {
        let (run, seqs) = named(&args.targets, session, &store)?;
        (run, Selection::Commits(seqs))
    } else {
        let ([run], false) = (&args.targets[..], is_named(&args.targets)) else {
            return Err(Failure::Usage {
                message: "rules are for one run".to_owned(),
                hint: "Name one run and what to keep of it, or name the checkpoints without rules".to_owned(),
            });
        };
        (run.parse::<RunName>()?, Selection::Policy(policy))
    };
    let plan = store.plan_forget(&run, &selection, now_unix_ms())?;
    let records = match args.dry_run || plan.forget.is_empty() {
        true => Vec::new(),
        false => store.forget(&plan, now_unix_ms())?.records,
    };
    session.answer(&answer(&plan, args.dry_run, records))?;
    Ok(Exit::Done)
}

/// Whether the targets are checkpoints, not a run.
fn is_named(targets: &[String]) -> bool {
    targets.len() > 1 || targets.iter().any(|t| t.contains(['@', '~']))
}

/// The run and the places of the checkpoints that are named.
fn named(
    targets: &[String],
    session: &Session,
    store: &tpde_store::Store,
) -> Result<(RunName, BTreeSet<u64>), Failure> {
    let mut found: Option<(RunName, BTreeSet<u64>)> = None;
    for target in targets {
        let place = session
            .resolve(store, target)?
            .place
            .ok_or_else(|| StoreError::NotFound {
                what: format!("a commit of {target}"),
                hint: "It is stored and belongs to no run: there is nothing to forget".to_owned(),
            })?;
        match &mut found {
            None => found = Some((place.run, BTreeSet::from([place.seq]))),
            Some((run, seqs)) if *run == place.run => {
                seqs.insert(place.seq);
            }
            Some((run, _)) => {
                return Err(Failure::Usage {
                    message: format!("{target} is of run {}, others are of run {run}", place.run),
                    hint: "Forget the checkpoints of one run at a time".to_owned(),
                });
            }
        }
    }
    found.ok_or_else(|| Failure::Usage {
        message: "nothing is named".to_owned(),
        hint: "Name a run and rules, or checkpoints".to_owned(),
    })
}

fn answer(plan: &Plan, dry_run: bool, records: Vec<u64>) -> Forgot {
    Forgot {
        run: plan.run.to_string(),
        dry_run,
        forgotten: plan.forget.iter().map(Line::new).collect(),
        kept: plan
            .keep
            .iter()
            .map(|kept| KeptLine {
                line: Line::new(&kept.commit),
                rules: kept.rules.clone(),
            })
            .collect(),
        tags: plan.tagged.clone(),
        reclaimable_bytes: plan.reclaimable_bytes,
        records,
    }
}
