//! `tpde log`: what a run holds, newest first.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tpde_store::{RunName, Store, Summary, history, tags};

use super::{by_name, metric_list};
use crate::args::run_of;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, ratio, ratio_of, size, utc};

/// List the checkpoints of a run, newest first, and what each costs
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde log [OPTIONS] [RUN]",
    after_help = "\
Examples:
  tpde log llama
  tpde log -n 5                  # the five newest of every run
  tpde log llama --all           # the forgotten ones, too
  tpde log llama --json | jq '.checkpoints[].step'"
)]
pub(crate) struct Args {
    /// The run; all of them if none is given
    #[arg(value_parser = run_of)]
    run: Option<RunName>,
    /// Only the newest N
    #[arg(short = 'n', long = "limit", value_name = "N")]
    limit: Option<usize>,
    /// Those that are forgotten, too
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct RunLog {
    run: String,
    checkpoints: Vec<Entry>,
    #[serde(skip)]
    older_records: u64,
}

#[derive(Serialize)]
struct Entry {
    seq: u64,
    step: u64,
    manifest: String,
    created_unix_ms: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    ratio: Option<f64>,
    tensors: u32,
    new_tensors: u32,
    tags: Vec<String>,
    replaced: bool,
    forgotten: bool,
    metrics: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct AllRuns {
    runs: Vec<RunLog>,
}

impl Entry {
    /// What a person should know of it: that it no longer counts, and its tags.
    fn remarks(&self) -> String {
        let replaced = self.replaced.then(|| "replaced".to_owned());
        let forgotten = self.forgotten.then(|| "forgotten".to_owned());
        replaced
            .into_iter()
            .chain(forgotten)
            .chain(self.tags.iter().cloned())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Tags by run and commit.
type Tags = BTreeMap<(RunName, u64), Vec<String>>;

impl Answer for RunLog {
    fn show(&self, page: &mut Page) {
        page.line(page.paint(Tone::Strong, &self.run));
        let mut table = Table::new([
            Column::Right("step"),
            Column::Left("saved (UTC)"),
            Column::Right("raw"),
            Column::Right("stored"),
            Column::Right("ratio"),
            Column::Right("new tensors"),
            Column::Left("checkpoint"),
            Column::Left(""),
            Column::Left(""),
        ]);
        for entry in &self.checkpoints {
            table.row([
                Cell::toned(Tone::Strong, entry.step.to_string()),
                utc(entry.created_unix_ms).into(),
                size(entry.raw_bytes).into(),
                size(entry.stored_bytes).into(),
                Cell::toned(Tone::Good, ratio(entry.raw_bytes, entry.stored_bytes)),
                format!(
                    "{} of {}",
                    count(entry.new_tensors.into()),
                    count(entry.tensors.into())
                )
                .into(),
                Cell::toned(Tone::Dim, entry.manifest.get(..12).unwrap_or(&entry.manifest)),
                Cell::toned(Tone::Caution, entry.remarks()),
                plain(&metric_list(&entry.metrics)).into(),
            ]);
        }
        page.table(&table);
        let sum = |of: fn(&Entry) -> u64| self.checkpoints.iter().map(of).sum::<u64>();
        let (raw_bytes, stored_bytes) = (sum(|e| e.raw_bytes), sum(|e| e.stored_bytes));
        let mut line = format!(
            "  {}, {} stored in {} ({})",
            counted(self.checkpoints.len() as u64, "checkpoint"),
            size(raw_bytes),
            size(stored_bytes),
            ratio(raw_bytes, stored_bytes)
        );
        if self.older_records > 0 {
            line.push_str(&format!(
                "; {} not shown",
                counted(self.older_records, "older record")
            ));
        }
        page.line(page.paint(Tone::Dim, &line));
    }
}

impl Answer for AllRuns {
    fn show(&self, page: &mut Page) {
        if self.runs.is_empty() {
            page.line("no checkpoints yet");
            let example = "  tpde save out/checkpoint-600 --run llama --step 600";
            page.line(page.paint(Tone::Dim, example));
        }
        for run in &self.runs {
            page.gap();
            run.show(page);
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let mut tagged = Tags::new();
    for tag in tags::list(store.objects())? {
        let place = (tag.target.run, tag.target.seq);
        tagged.entry(place).or_default().push(tag.name.to_string());
    }
    match &args.run {
        Some(run) => session.answer(&log_of(&store, run, args, &tagged)?)?,
        None => {
            let runs = history::runs(store.objects())?
                .iter()
                .map(|run| log_of(&store, run, args, &tagged))
                .collect::<Result<_, _>>()?;
            session.answer(&AllRuns { runs })?;
        }
    }
    Ok(Exit::Done)
}

fn log_of(store: &Store, run: &RunName, args: &Args, tagged: &Tags) -> Result<RunLog, Failure> {
    let (commits, older_records) = commits_of(store, run, args)?;
    // The newest commit of a step that stands is the one that counts.
    let mut steps = BTreeSet::new();
    let entry = |(s, forgotten): &(Summary, bool)| Entry {
        seq: s.seq,
        step: s.step,
        manifest: s.manifest.to_hex(),
        created_unix_ms: s.created_unix_ms,
        raw_bytes: s.totals.raw_bytes,
        stored_bytes: s.totals.stored_bytes,
        ratio: ratio_of(s.totals.raw_bytes, s.totals.stored_bytes),
        tensors: s.totals.tensors,
        new_tensors: s.totals.new_tensors,
        replaced: !forgotten && !steps.insert(s.step),
        forgotten: *forgotten,
        metrics: s.action.metrics().map(by_name).unwrap_or_default(),
        tags: tagged.get(&(run.clone(), s.seq)).cloned().unwrap_or_default(),
    };
    Ok(RunLog {
        run: run.to_string(),
        checkpoints: commits.iter().map(entry).collect(),
        older_records,
    })
}

/// The commits to list, newest first, each with whether it is forgotten, and how many records are older than the last of them.
fn commits_of(store: &Store, run: &RunName, args: &Args) -> Result<(Vec<(Summary, bool)>, u64), Failure> {
    let most = args.limit.unwrap_or(usize::MAX);
    if args.limit.is_some() && !args.all {
        let recent = history::recent(store.objects(), run, most)?;
        let commits = recent.commits.into_iter().map(|commit| (commit, false));
        return Ok((commits.collect(), recent.older_records));
    }
    let log = history::log(store.objects(), run)?;
    let listed = |s: &&Summary| s.action.is_commit() && (args.all || !log.is_forgotten(s.seq));
    let all: Vec<&Summary> = log.records().iter().rev().filter(listed).collect();
    let shown = all
        .iter()
        .take(most)
        .map(|s| ((*s).clone(), log.is_forgotten(s.seq)));
    let older_records = all.get(most).map_or(0, |next| next.seq + 1);
    Ok((shown.collect(), older_records))
}
