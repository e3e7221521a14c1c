//! `tpde commit`: a checkpoint whose parts are all there.

use std::path::PathBuf;

use serde::Serialize;
use tpde_store::{Metric, Metrics, RunName, SaveRequest};

use super::save::{expected_parent, step};
use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, ratio_of, size};

/// Commit a checkpoint that several processes saved in parts
///
/// All parts must be there, and each file in one of them; otherwise nothing is committed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde commit --run llama --step 600 --parts job17.1
  tpde commit --run llama --step 600 --parts job17.1 --metric loss=1.93 --expect-parent llama@500")]
pub(crate) struct Args {
    /// The run that the checkpoint belongs to
    #[arg(long, value_name = "NAME")]
    run: RunName,
    /// Its training step
    #[arg(long, value_name = "N", value_parser = step, allow_negative_numbers = true)]
    step: u64,
    /// The word that its parts share
    #[arg(long, value_name = "WORD")]
    parts: String,
    /// Let it stand for the step even if the run holds that step with other content
    #[arg(long)]
    replace: bool,
    /// Commit only if this is the newest checkpoint of the run; `none`: if it has none
    #[arg(long, value_name = "REF|none", value_parser = reference)]
    expect_parent: Option<String>,
    /// A number that the trainer knows of it, such as `loss=1.93`; may be repeated
    #[arg(long = "metric", value_name = "NAME=NUMBER")]
    metrics: Vec<Metric>,
    /// A line to remember it by
    #[arg(long, value_name = "TEXT", default_value_t)]
    note: String,
}

#[derive(Serialize)]
struct Committed {
    #[serde(flatten)]
    checkpoint: Named,
    already_there: bool,
    files: u32,
    tensors: u32,
    raw_bytes: u64,
    stored_bytes: u64,
    ratio: Option<f64>,
}

impl Answer for Committed {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let verb = match self.already_there {
            true => "already there",
            false => "committed",
        };
        page.line(format!(
            "{}  {}  {}, {} as {}",
            page.paint(Tone::Good, verb),
            self.checkpoint.title(page),
            counted(self.files.into(), "file"),
            size(self.raw_bytes),
            size(self.stored_bytes)
        ));
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let mut request = SaveRequest::new(PathBuf::new(), args.run.clone(), args.step);
    request.replace = args.replace;
    request.expect_parent = expected_parent(&store, session, args.expect_parent.as_ref())?;
    request.metrics = Metrics::new(args.metrics.clone())?;
    request.note.clone_from(&args.note);
    let report = store.commit_parts(&request, &args.parts)?;
    session.answer(&Committed {
        checkpoint: Named {
            manifest: report.manifest.to_hex(),
            run: Some(args.run.to_string()),
            seq: Some(report.seq),
            step: Some(args.step),
        },
        already_there: report.already_there,
        files: report.files,
        tensors: report.tensors,
        raw_bytes: report.raw_bytes,
        stored_bytes: report.stored_bytes,
        ratio: ratio_of(report.raw_bytes, report.stored_bytes),
    })?;
    Ok(Exit::Done)
}
