//! `tpde import`: the checkpoints that a trainer left in a folder.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use globset::{Glob, GlobSet};
use serde::Serialize;
use tpde_store::import::{Candidate, InRun, Survey};
use tpde_store::{RunName, SaveRequest, Store, StoreError};

use super::globs;
use super::save::{Notice, notices};
use crate::args::reference;
use crate::bars::Bars;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, duration, ratio, ratio_of, size};

/// Save all checkpoints of a folder, in the order of their steps
///
/// Folders and files whose names say a step are taken: checkpoint-500, step_500, global_step500, iter_0000500, epoch_3,
/// epoch=3-step=1000.ckpt. Everything in such a folder belongs to its checkpoint. What will be done is shown first; nothing in the
/// folder is changed. An import that was cut short goes on where it stopped: what is there is compared, and not written again.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde import [OPTIONS] --run <NAME> <TREE>",
    after_help = "\
Examples:
  tpde import out --run llama               # shows what it found, and asks
  tpde import out --run llama --dry-run
  tpde import out --run llama-sft --parent llama@latest --yes"
)]
pub(crate) struct Args {
    /// The folder that holds the checkpoints
    tree: PathBuf,
    /// The run that they belong to
    #[arg(long, value_name = "NAME")]
    run: RunName,
    /// What the first was fine-tuned from
    #[arg(long, value_name = "REF", value_parser = reference)]
    parent: Option<String>,
    /// Keep matching files as plain bytes, whatever they hold; may be repeated
    #[arg(long, value_name = "GLOB")]
    opaque: Vec<Glob>,
    /// Only show what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Imported {
    tree: String,
    run: String,
    dry_run: bool,
    checkpoints: Vec<Line>,
    passed_over: Vec<Rest>,
    raw_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Line {
    name: String,
    step: u64,
    files: u32,
    raw_bytes: u64,
    outcome: &'static str,
    manifest: Option<String>,
    stored_bytes: Option<u64>,
    ratio: Option<f64>,
    notices: Vec<Notice>,
}

#[derive(Serialize)]
struct Rest {
    name: String,
    why: String,
}

impl Line {
    fn new(candidate: &Candidate) -> Self {
        Self {
            name: candidate.name.clone(),
            step: candidate.step,
            files: candidate.files,
            raw_bytes: candidate.len_bytes,
            outcome: match candidate.in_run {
                InRun::Nothing => "save",
                InRun::SameSize => "compare",
                InRun::Other { .. } => "conflict",
            },
            manifest: None,
            stored_bytes: None,
            ratio: None,
            notices: Vec::new(),
        }
    }

    /// What is to be done, or was done.
    fn remark(&self) -> (Tone, &'static str) {
        match self.outcome {
            "save" => (Tone::Good, "save"),
            "compare" => (Tone::Plain, "in the run with the same size: compare"),
            "conflict" => (Tone::Bad, "in the run with other files"),
            "saved" => (Tone::Good, "saved"),
            _ => (Tone::Plain, "already there"),
        }
    }
}

impl Imported {
    fn new(args: &Args, survey: &Survey) -> Self {
        Self {
            tree: args.tree.display().to_string(),
            run: args.run.to_string(),
            dry_run: true,
            checkpoints: survey.candidates.iter().map(Line::new).collect(),
            passed_over: survey
                .passed_over
                .iter()
                .map(|passed| Rest {
                    name: passed.name.clone(),
                    why: passed.why.clone(),
                })
                .collect(),
            raw_bytes: survey.candidates.iter().map(|c| c.len_bytes).sum(),
            stored_bytes: 0,
            seconds: 0.0,
        }
    }

    fn show_passed_over(&self, page: &mut Page) {
        if self.passed_over.is_empty() {
            return;
        }
        page.gap();
        let mut table = Table::new([Column::Left("not imported"), Column::Left("")]);
        for rest in &self.passed_over {
            table.row([
                Cell::toned(Tone::Name, plain(&rest.name)),
                Cell::toned(Tone::Dim, plain(&rest.why)),
            ]);
        }
        page.table(&table);
    }
}

impl Answer for Imported {
    fn is_notice(&self) -> bool {
        !self.dry_run
    }

    fn show(&self, page: &mut Page) {
        let done = match self.dry_run {
            true => page.paint(Tone::Strong, "to import"),
            false => page.paint(Tone::Good, "imported"),
        };
        let run = page.paint(Tone::Strong, &self.run);
        page.line(format!("{done}  {} into run {run}", plain(&self.tree)));
        let mut table = Table::new([
            Column::Right("step"),
            Column::Left("from"),
            Column::Right("files"),
            Column::Right("size"),
            Column::Right("stored"),
            Column::Right("ratio"),
            Column::Left(""),
        ]);
        for line in &self.checkpoints {
            let (tone, remark) = line.remark();
            let stored = line.stored_bytes.filter(|_| line.outcome == "saved");
            table.row([
                Cell::toned(Tone::Strong, line.step.to_string()),
                Cell::toned(Tone::Name, plain(&line.name)),
                count(line.files.into()).into(),
                size(line.raw_bytes).into(),
                stored.map_or_else(String::new, size).into(),
                stored
                    .map_or_else(String::new, |stored| ratio(line.raw_bytes, stored))
                    .into(),
                Cell::toned(tone, remark),
            ]);
        }
        page.table(&table);
        if self.dry_run {
            self.show_passed_over(page);
            return;
        }
        let line = format!(
            "  {}, {} stored in {} ({}) in {}",
            counted(self.checkpoints.len() as u64, "checkpoint"),
            size(self.raw_bytes),
            size(self.stored_bytes),
            ratio(self.raw_bytes, self.stored_bytes),
            duration(Duration::from_secs_f64(self.seconds))
        );
        page.line(page.paint(Tone::Dim, &line));
        for line in &self.checkpoints {
            for notice in &line.notices {
                let note = format!("  note: {}: {}", plain(&line.name), plain(&notice.message));
                page.line(page.paint(Tone::Caution, &note));
            }
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let opaque = globs(&args.opaque)?.unwrap_or_default();
    let parent = args.parent.as_ref().map(|text| session.resolve(&store, text));
    let mut parent = parent.transpose()?.map(|found| found.manifest);
    let survey = store.survey(&args.tree, &args.run)?;
    let mut imported = Imported::new(args, &survey);
    let is_shown = args.dry_run || !session.is_json();
    if is_shown {
        session.answer(&imported)?;
    }
    refuse_conflicts(args, &survey)?;
    if args.dry_run {
        return Ok(Exit::Done);
    }
    if !args.yes {
        let all = counted(survey.candidates.len() as u64, "checkpoint");
        match session.confirm(&format!("Import {all} into run {}?", args.run))? {
            Some(true) => {}
            Some(false) => return Ok(Exit::Done),
            None => {
                return Err(Failure::Usage {
                    message: "there is no terminal to ask on".to_owned(),
                    hint: "Add `--yes` to do it, or `--dry-run` to see what would be done".to_owned(),
                });
            }
        }
    }
    let bars = session.bars().for_series();
    let began = Instant::now();
    for (line, candidate) in imported.checkpoints.iter_mut().zip(&survey.candidates) {
        let mut request = request(args, candidate, &opaque);
        // Those that follow have one in the run.
        request.parent = parent.take();
        save(&store, &request, line, &bars)?;
    }
    drop(bars);
    imported.dry_run = false;
    imported.stored_bytes = imported
        .checkpoints
        .iter()
        .filter_map(|line| line.stored_bytes)
        .sum();
    imported.seconds = began.elapsed().as_secs_f64();
    session.answer(&imported)?;
    Ok(Exit::Done)
}

fn request(args: &Args, candidate: &Candidate, opaque: &GlobSet) -> SaveRequest {
    let mut request = SaveRequest::new(&candidate.path, args.run.clone(), candidate.step);
    request.opaque = opaque.clone();
    request
}

/// Saves one checkpoint, and notes what became of it.
fn save(store: &Store, request: &SaveRequest, line: &mut Line, bars: &Bars) -> Result<(), Failure> {
    let report = store.save(request, bars)?;
    line.outcome = match report.already_there {
        true => "already_there",
        false => "saved",
    };
    line.manifest = Some(report.manifest.to_hex());
    line.raw_bytes = report.raw_bytes;
    line.stored_bytes = Some(report.stored_bytes);
    line.ratio = ratio_of(report.raw_bytes, report.stored_bytes);
    line.notices = notices(store, request, &report)?;
    Ok(())
}

/// Ends before anything is written if a step is surely in the run with other files.
fn refuse_conflicts(args: &Args, survey: &Survey) -> Result<(), Failure> {
    let other = survey
        .candidates
        .iter()
        .find_map(|candidate| match candidate.in_run {
            InRun::Other { raw_bytes } => Some((candidate, raw_bytes)),
            InRun::Nothing | InRun::SameSize => None,
        });
    let Some((candidate, raw_bytes)) = other else {
        return Ok(());
    };
    Err(Failure::Store(StoreError::Conflict {
        detail: format!(
            "{} has {}, and step {} of run {} has {}: other files",
            candidate.name,
            counted(candidate.len_bytes, "byte"),
            candidate.step,
            args.run,
            counted(raw_bytes, "byte")
        ),
        hint: format!(
            "Choose another run, or save it with `tpde save {} --run {} --step {} --replace` first",
            candidate.path.display(),
            args.run,
            candidate.step
        ),
    }))
}
