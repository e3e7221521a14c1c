//! `tpde save-part`: one process's files of a checkpoint that several save together.

use std::path::PathBuf;

use globset::Glob;
use serde::Serialize;
use tpde_store::{PartOf, RunName, SaveRequest};

use super::globs;
use super::save::step;
use crate::args::Line;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, size};

/// Save one process's part of a checkpoint
///
/// Every process stores its own files; when all have, one of them runs `tpde commit`, and the checkpoint is there. If a part is missing nothing is
/// committed. The same part again is harmless.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde save-part [OPTIONS] --run <NAME> --step <N> --parts <WORD> --part <RANK/OF> <SOURCE>",
    after_help = "\
Examples:
  tpde save-part out/rank0 --run llama --step 600 --parts job17.1 --part 0/8
  tpde save-part out/checkpoint-600 --only '*-00001-of-*' --run llama --step 600 --parts job17.1 --part 1/8
  tpde commit --run llama --step 600 --parts job17.1"
)]
pub(crate) struct Args {
    /// The directory of the files, or one file
    source: PathBuf,
    /// The run that the checkpoint belongs to
    #[arg(long, value_name = "NAME")]
    run: RunName,
    /// Its training step
    #[arg(long, value_name = "N", value_parser = step, allow_negative_numbers = true)]
    step: u64,
    /// A word that all parts of this save share, and another for each try: a job's id and its number of starts
    #[arg(long, value_name = "WORD")]
    parts: String,
    /// Which part this is, from 0, and how many there are
    #[arg(long, value_name = "RANK/OF", value_parser = part)]
    part: (u32, u32),
    /// Only files whose path matches; may be repeated
    #[arg(long, value_name = "GLOB")]
    only: Vec<Glob>,
    /// Keep matching files as plain bytes, whatever they hold; may be repeated
    #[arg(long, value_name = "GLOB")]
    opaque: Vec<Glob>,
    #[command(flatten)]
    line: Line,
}

fn part(text: &str) -> Result<(u32, u32), String> {
    let wrong = || "write the part and the number of parts, such as 3/8".to_owned();
    let (rank, of) = text.split_once('/').ok_or_else(wrong)?;
    match (rank.parse::<u32>(), of.parse::<u32>()) {
        (Ok(rank), Ok(of)) if rank < of => Ok((rank, of)),
        (Ok(_), Ok(of)) if of > 0 => Err(format!("parts of {of} count from 0 to {}", of - 1)),
        _ => Err(wrong()),
    }
}

#[derive(Serialize)]
struct Stored {
    run: String,
    step: u64,
    parts: String,
    part: u32,
    of: u32,
    already_there: bool,
    files: u32,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl Answer for Stored {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let verb = match self.already_there {
            true => "already there",
            false => "stored",
        };
        page.line(format!(
            "{}  part {} of {} of {}@{}: {}, {} as {}",
            page.paint(Tone::Good, verb),
            self.part,
            self.of,
            self.run,
            self.step,
            counted(self.files.into(), "file"),
            size(self.raw_bytes),
            size(self.stored_bytes)
        ));
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store_over(&args.line)?;
    let mut request = SaveRequest::new(&args.source, args.run.clone(), args.step);
    request.opaque = globs(&args.opaque)?.unwrap_or_default();
    let (rank, of) = args.part;
    let part = PartOf {
        save: args.parts.clone(),
        rank,
        of,
    };
    let bars = session.bars();
    let report = store.save_part(&request, &part, globs(&args.only)?.as_ref(), &bars)?;
    drop(bars);
    session.answer(&Stored {
        run: args.run.to_string(),
        step: args.step,
        parts: part.save,
        part: rank,
        of,
        already_there: report.already_there,
        files: report.files,
        raw_bytes: report.raw_bytes,
        stored_bytes: report.stored_bytes,
    })?;
    Ok(Exit::Done)
}
