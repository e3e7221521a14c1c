//! `tpde save`: put a checkpoint into the store.

use std::fmt::{Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use globset::Glob;
use serde::Serialize;
use tpde_store::save::{DEFAULT_MAX_DEPTH, DEFAULT_MAX_RESTORE_RATIO};
use tpde_store::{
    ExpectParent, LeftOutWhy, Manifest, ManifestId, Metric, Metrics, RunName, SaveReport, SaveRequest, Store,
    history,
};

use super::globs;
use crate::args::{Line, reference};
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session, now_unix_ms};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{count, duration, ratio, ratio_of, size};

/// Save a checkpoint: a directory, or one file
///
/// Tensors in safetensors and PyTorch files are stored as differences from earlier ones; every other file is kept as it is. A
/// PyTorch file is never executed. Saving the same files to the same step again changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde save [OPTIONS] --run <NAME> --step <N> <SOURCE>",
    after_help = "\
Examples:
  tpde save out/checkpoint-600 --run llama --step 600
  tpde save out/checkpoint-700 --run llama --step 700 --metric loss=1.93 --note 'lr halved'
  tpde save out/sft --run llama-sft --step 0 --parent llama@latest
  tpde save out/state-600 --run llama-state --step 600 --max-restore-ratio 8"
)]
pub(crate) struct Args {
    /// The checkpoint's directory, or one file
    source: PathBuf,
    /// The run that it belongs to
    #[arg(long, value_name = "NAME")]
    run: RunName,
    /// Its training step
    #[arg(long, value_name = "N", value_parser = step, allow_negative_numbers = true)]
    step: u64,
    /// What it was fine-tuned from, for the first checkpoint of a run
    #[arg(long, value_name = "REF", value_parser = reference)]
    parent: Option<String>,
    /// Let it stand for the step even if the run holds that step with other content
    #[arg(long)]
    replace: bool,
    /// Save only if this is the newest checkpoint of the run; `none`: if it has none
    #[arg(long, value_name = "REF|none", value_parser = reference)]
    expect_parent: Option<String>,
    /// Keep matching files as plain bytes, whatever they hold; may be repeated
    #[arg(long, value_name = "GLOB")]
    opaque: Vec<Glob>,
    /// Most differences in a chain: fewer restore faster, more store less
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_DEPTH)]
    max_depth: u8,
    /// Most bytes that a restore of a tensor reads, as a multiple of what it writes; `none` for any number
    #[arg(long, value_name = "R|none", default_value_t = RestoreRatio(Some(DEFAULT_MAX_RESTORE_RATIO)))]
    max_restore_ratio: RestoreRatio,
    /// Store bf16 weights as roundings of their f32 masters, at next to no bytes; they are then not read without them
    #[arg(long)]
    archive_weights: bool,
    /// A number that the trainer knows of it, such as `loss=1.93`; may be repeated
    #[arg(long = "metric", value_name = "NAME=NUMBER")]
    metrics: Vec<Metric>,
    /// Then forget what the store's policy does not keep of this run (see `tpde policy`)
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    line: Line,
    /// A line to remember it by
    #[arg(long, value_name = "TEXT", default_value_t)]
    note: String,
}

/// Reads a training step.
pub(super) fn step(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "a step is a whole number from 0 on".to_owned())
}

/// A ratio, or none.
#[derive(Debug, Clone, Copy)]
struct RestoreRatio(Option<f64>);

impl FromStr for RestoreRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(ratio) if ratio >= 1.0 => Ok(Self(Some(ratio))),
            _ => Err("a number from 1 on, or `none`".to_owned()),
        }
    }
}

impl Display for RestoreRatio {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ratio) => ratio.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[derive(Serialize)]
struct Saved {
    #[serde(flatten)]
    checkpoint: Named,
    already_there: bool,
    files: u32,
    tensors: u32,
    new_tensors: u32,
    raw_bytes: u64,
    stored_bytes: u64,
    ratio: Option<f64>,
    seconds: f64,
    forgotten_steps: Vec<u64>,
    notices: Vec<Notice>,
}

/// What may not have been meant.
#[derive(Serialize)]
pub(super) struct Notice {
    kind: &'static str,
    pub(super) message: String,
}

impl Answer for Saved {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let title = self.checkpoint.title(page);
        if self.already_there {
            let what = page.paint(Tone::Good, "already there");
            let done = match self.stored_bytes {
                0 => "nothing was written".to_owned(),
                stored => format!("what the store had lost of it is stored again ({})", size(stored)),
            };
            page.line(format!("{what}  {title}  {done}"));
            self.show_forgotten(page);
            self.show_notices(page);
            return;
        }
        page.line(format!("{}  {title}", page.paint(Tone::Good, "saved")));
        let took = std::time::Duration::from_secs_f64(self.seconds);
        page.fields(&[
            (
                "files",
                format!("{}, {}", count(self.files.into()), size(self.raw_bytes)),
            ),
            (
                "tensors",
                format!(
                    "{}, {} written",
                    count(self.tensors.into()),
                    count(self.new_tensors.into())
                ),
            ),
            (
                "stored",
                format!(
                    "{} ({}) in {}",
                    size(self.stored_bytes),
                    ratio(self.raw_bytes, self.stored_bytes),
                    duration(took)
                ),
            ),
        ]);
        self.show_forgotten(page);
        self.show_notices(page);
    }
}

impl Saved {
    fn show_forgotten(&self, page: &mut Page) {
        if !self.forgotten_steps.is_empty() {
            let steps: Vec<String> = self.forgotten_steps.iter().map(u64::to_string).collect();
            page.fields(&[("forgotten", format!("{}, by the policy", steps.join(", ")))]);
        }
    }

    fn show_notices(&self, page: &mut Page) {
        for notice in &self.notices {
            page.line(page.paint(Tone::Caution, &format!("  note: {}", plain(&notice.message))));
        }
    }
}

/// Runs that are looked at for a parent that was not named.
const MOST_RUNS: usize = 8;

/// What may not have been meant by a save that is done.
pub(super) fn notices(
    store: &Store,
    request: &SaveRequest,
    report: &SaveReport,
) -> Result<Vec<Notice>, Failure> {
    let mut notices = Vec::new();
    for left in &report.left_out {
        let what = match left.why {
            LeftOutWhy::Store => "a store",
            LeftOutWhy::Unfinished => "an unfinished file of an interrupted restore",
            _ => "no part of a checkpoint",
        };
        notices.push(Notice {
            kind: "left_out",
            message: format!("{} was left out: it is {what}", left.path),
        });
    }
    for kept in &report.kept_whole {
        notices.push(Notice {
            kind: "kept_whole",
            message: format!("{} was kept as plain bytes: {}", kept.path, kept.why),
        });
    }
    if report.already_there {
        return Ok(notices);
    }
    let run = &request.run;
    let highest = history::newest_of(store.objects(), run)?.slot.max_step;
    if highest > request.step {
        notices.push(Notice {
            kind: "older_step",
            message: format!(
                "{run} holds step {highest}; {run}@latest is the newest commit, now step {}",
                request.step
            ),
        });
    }
    if report.seq == 0
        && request.parent.is_none()
        && report.new_tensors > 0
        && let Some(other) = same_tensors(store, run, report.manifest)?
    {
        notices.push(Notice {
            kind: "same_tensors",
            message: format!(
                "{other} has the same tensors: with --parent {other}@latest, differences from it would have been stored"
            ),
        });
    }
    Ok(notices)
}

/// Another run whose newest checkpoint has tensors of the same names, types and shapes.
fn same_tensors(store: &Store, run: &RunName, saved: ManifestId) -> Result<Option<RunName>, Failure> {
    let shapes = |manifest: &Manifest| {
        let tensors = manifest.named_tensors();
        let mut shapes: Vec<_> = tensors
            .map(|(_, named, record)| (named.name.clone(), record.dtype.name(), named.shape.clone()))
            .collect();
        shapes.sort();
        shapes
    };
    let ours = shapes(&store.manifest(saved)?);
    let others = history::runs(store.objects())?;
    for other in others.into_iter().filter(|other| other != run).take(MOST_RUNS) {
        // A hint is not worth an error: what cannot be read is passed by.
        let newest = history::newest_of(store.objects(), &other);
        let commit = newest.and_then(|newest| history::newest_commit(store.objects(), &newest));
        let manifest = commit.map(|commit| commit.and_then(|commit| store.manifest(commit.manifest).ok()));
        if manifest
            .ok()
            .flatten()
            .is_some_and(|manifest| shapes(&manifest) == ours)
        {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// What `--expect-parent` says.
pub(super) fn expected_parent(
    store: &Store,
    session: &Session,
    word: Option<&String>,
) -> Result<ExpectParent, Failure> {
    Ok(match word {
        None => ExpectParent::Any,
        Some(word) if word == "none" => ExpectParent::NoCommits,
        Some(text) => ExpectParent::Newest(session.resolve(store, text)?.manifest),
    })
}

pub(super) fn no_policy() -> tpde_store::StoreError {
    tpde_store::StoreError::NotFound {
        what: "a policy in this store".to_owned(),
        hint: "Set one first, for example `tpde policy --keep-last 3 --keep-every 1000`".to_owned(),
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store_over(&args.line)?;
    let resolve = |text: &String| session.resolve(&store, text);
    let mut request = SaveRequest::new(&args.source, args.run.clone(), args.step);
    request.parent = args.parent.as_ref().map(resolve).transpose()?.map(|r| r.manifest);
    request.replace = args.replace;
    request.expect_parent = expected_parent(&store, session, args.expect_parent.as_ref())?;
    request.opaque = globs(&args.opaque)?.unwrap_or_default();
    request.max_depth = args.max_depth;
    request.max_restore_ratio = args.max_restore_ratio.0;
    request.archive_weights = args.archive_weights;
    request.metrics = Metrics::new(args.metrics.clone())?;
    request.note.clone_from(&args.note);

    let policy = match args.prune {
        true => Some(store.policy()?.ok_or_else(no_policy)?),
        false => None,
    };
    let bars = session.bars();
    let began = Instant::now();
    let report = store.save(&request, &bars)?;
    let took = began.elapsed();
    drop(bars);
    let mut notices = notices(&store, &request, &report)?;
    let mut forgotten_steps = Vec::new();
    if let Some(policy) = policy {
        match store.prune(&args.run, &policy, now_unix_ms()) {
            Ok(forgotten) => forgotten_steps.extend(forgotten.iter().map(|commit| commit.step)),
            Err(error) => notices.push(Notice {
                kind: "not_pruned",
                message: format!("saved, and nothing was forgotten: {error}"),
            }),
        }
    }
    session.answer(&Saved {
        forgotten_steps,
        checkpoint: Named {
            manifest: report.manifest.to_hex(),
            run: Some(args.run.to_string()),
            seq: Some(report.seq),
            step: Some(args.step),
        },
        already_there: report.already_there,
        files: report.files,
        tensors: report.tensors,
        new_tensors: report.new_tensors,
        raw_bytes: report.raw_bytes,
        stored_bytes: report.stored_bytes,
        ratio: ratio_of(report.raw_bytes, report.stored_bytes),
        seconds: took.as_secs_f64(),
        notices,
    })?;
    Ok(Exit::Done)
}
