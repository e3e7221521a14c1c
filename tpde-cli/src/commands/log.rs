//! `tpde log`: what a run holds, newest first.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tpde_store::{ManifestId, RunName, Store, Summary, history, tags};

use super::{by_name, metric_list, parent_of};
use crate::args::run_of;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::spark::{Scale, bar, sparkline};
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, ratio, ratio_of, size, utc};

/// Columns of a sparkline.
const SPARK_COLUMNS: usize = 60;

/// Columns of a bar.
const BAR_COLUMNS: usize = 10;

/// List the checkpoints of a run, newest first, and what each costs
///
/// With --graph, sparklines show how stored bytes (on a logarithmic scale) and a metric went, oldest on the left; where there are many
/// checkpoints, a column is the mean of several, `·` stands for no number and `!` for one that is not finite. Bars compare stored bytes.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde log [OPTIONS] [RUN]",
    after_help = "\
Examples:
  tpde log llama
  tpde log -n 5                  # the five newest of every run
  tpde log llama --all           # the forgotten ones, too
  tpde log llama --graph --metric eval/loss
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
    /// Draw how stored bytes and a metric went, and where the run comes from
    #[arg(long)]
    graph: bool,
    /// The metric to draw; without it the first, by name, that the newest checkpoint has
    #[arg(long, value_name = "NAME", requires = "graph")]
    metric: Option<String>,
}

#[derive(Serialize)]
struct RunLog {
    run: String,
    checkpoints: Vec<Entry>,
    #[serde(skip)]
    older_records: u64,
    #[serde(skip)]
    graph: Option<Graph>,
}

/// What is drawn beside the list.
struct Graph {
    metric: Option<String>,
    /// The checkpoint of another run that this one began with.
    from: Option<Named>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(skip)]
    id: ManifestId,
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

/// The first of the metrics that the newest of `checkpoints` with any has.
fn first_metric(checkpoints: &[Entry]) -> Option<String> {
    checkpoints
        .iter()
        .find_map(|entry| entry.metrics.keys().next().cloned())
}

impl RunLog {
    /// Sparklines above the list.
    fn show_graph(&self, graph: &Graph, page: &mut Page) {
        let stored = |entry: &Entry| Some(entry.stored_bytes as f64);
        let metric = graph.metric.as_ref();
        let measured = |entry: &Entry| metric.and_then(|name| entry.metrics.get(name).copied());
        let mut fields = vec![(
            "stored".to_owned(),
            self.drawn(stored, Scale::Logarithmic, |value| size(whole(value))),
        )];
        if let Some(name) = metric {
            let shown = |value: f64| format!("{value}");
            fields.push((
                plain(name).into_owned(),
                self.drawn(measured, Scale::Linear, shown),
            ));
        }
        let fields: Vec<(&str, String)> = fields
            .iter()
            .map(|(name, text)| (name.as_str(), text.clone()))
            .collect();
        page.fields(&fields);
        page.gap();
    }

    /// How a number went, oldest first, and its newest, least and most.
    fn drawn(
        &self,
        of: impl Fn(&Entry) -> Option<f64>,
        scale: Scale,
        shown: impl Fn(f64) -> String,
    ) -> String {
        let values: Vec<Option<f64>> = self.checkpoints.iter().rev().map(&of).collect();
        let mut line = sparkline(&values, SPARK_COLUMNS, scale);
        let finite = || {
            let steps = self.checkpoints.iter().rev();
            steps.filter_map(|e| of(e).filter(|v| v.is_finite()).map(|v| (v, e.step)))
        };
        if let Some(newest) = finite().last()
            && let Some(least) = finite().min_by(|a, b| a.0.total_cmp(&b.0))
            && let Some(most) = finite().max_by(|a, b| a.0.total_cmp(&b.0))
        {
            let at = |(value, step): (f64, u64)| format!("{} at {step}", shown(value));
            line.push_str(&format!(
                "  newest {}, least {}, most {}",
                shown(newest.0),
                at(least),
                at(most)
            ));
        }
        line
    }

    /// What stands in the graph's column beside an entry.
    fn mark(&self, entry: &Entry) -> &'static str {
        match (&self.graph, entry.forgotten || entry.replaced) {
            (None, _) => "",
            (Some(_), false) => "●",
            (Some(_), true) => "○",
        }
    }
}

/// A number of bytes that was a number of bytes before.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "made from a u64; a float's `as` saturates"
)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

impl Answer for RunLog {
    fn show(&self, page: &mut Page) {
        page.line(page.paint(Tone::Strong, &self.run));
        if let Some(graph) = &self.graph {
            self.show_graph(graph, page);
        }
        let most = self.checkpoints.iter().map(|e| e.stored_bytes).max().unwrap_or(0);
        let mut table = Table::new([
            Column::Left(""),
            Column::Right("step"),
            Column::Left("saved (UTC)"),
            Column::Right("raw"),
            Column::Right("stored"),
            Column::Left(""),
            Column::Right("ratio"),
            Column::Right("new tensors"),
            Column::Left("checkpoint"),
            Column::Left(""),
            Column::Left(""),
        ]);
        for entry in &self.checkpoints {
            let bar = match self.graph {
                Some(_) => bar(entry.stored_bytes, most, BAR_COLUMNS),
                None => String::new(),
            };
            table.row([
                self.mark(entry).into(),
                Cell::toned(Tone::Strong, entry.step.to_string()),
                utc(entry.created_unix_ms).into(),
                size(entry.raw_bytes).into(),
                size(entry.stored_bytes).into(),
                Cell::toned(Tone::Name, bar),
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
        if let Some(from) = self.graph.as_ref().and_then(|graph| graph.from.as_ref()) {
            page.line(format!("  ╰─ from {} ({})", plain(&from.label()), from.short()));
        }
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
    let mut runs = match &args.run {
        Some(run) => vec![log_of(&store, run, args, &tagged)?],
        None => history::runs(store.objects())?
            .iter()
            .map(|run| log_of(&store, run, args, &tagged))
            .collect::<Result<_, _>>()?,
    };
    if args.graph {
        draw(&store, &mut runs, args.metric.as_ref())?;
    }
    match (&args.run, runs.pop()) {
        (Some(_), Some(run)) => session.answer(&run)?,
        (_, last) => {
            runs.extend(last);
            session.answer(&AllRuns { runs })?;
        }
    }
    Ok(Exit::Done)
}

/// Finds out what is to be drawn beside each run.
fn draw(store: &Store, runs: &mut [RunLog], metric: Option<&String>) -> Result<(), Failure> {
    let known = || {
        runs.iter()
            .flat_map(|run| &run.checkpoints)
            .flat_map(|e| e.metrics.keys())
    };
    if let Some(metric) = metric
        && !known().any(|name| name == metric)
    {
        let names: BTreeSet<&str> = known().map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().collect();
        return Err(Failure::NotFound {
            message: format!("a checkpoint with the metric {metric} was not found"),
            hint: match names.is_empty() {
                true => {
                    "None of those listed has a metric; `tpde save --metric NAME=NUMBER` keeps one".to_owned()
                }
                false => format!("There are: {}", names.join(", ")),
            },
        });
    }
    for run in runs {
        let oldest = run.checkpoints.last().filter(|entry| entry.seq == 0);
        // A drawing is not worth an error: what cannot be read is not drawn.
        let manifest = oldest.and_then(|entry| store.manifest(entry.id).ok());
        let from = manifest.and_then(|manifest| parent_of(store, &manifest).ok().flatten());
        run.graph = Some(Graph {
            metric: metric.cloned().or_else(|| first_metric(&run.checkpoints)),
            from: from.filter(|from| from.run.as_ref() != Some(&run.run)),
        });
    }
    Ok(())
}

fn log_of(store: &Store, run: &RunName, args: &Args, tagged: &Tags) -> Result<RunLog, Failure> {
    let (commits, older_records) = commits_of(store, run, args)?;
    // The newest commit of a step that stands is the one that counts.
    let mut steps = BTreeSet::new();
    let entry = |(s, forgotten): &(Summary, bool)| Entry {
        id: s.manifest,
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
        graph: None,
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
