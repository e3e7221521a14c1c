//! `tpde verify`: whether everything that is stored can be restored.

use std::time::{Duration, Instant};

use serde::Serialize;
use tpde_store::{VerifyLevel, VerifyRequest};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, duration, size};

/// Check that what is stored can be restored
///
/// Finds all damage in one run, and ends with code 4 if there is any.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde verify [OPTIONS] [REF]",
    after_help = "\
Examples:
  tpde verify
  tpde verify llama@600 --restore"
)]
pub(crate) struct Args {
    /// Only this checkpoint, and what it needs
    #[arg(value_name = "REF", value_parser = reference)]
    checkpoint: Option<String>,
    /// Check that everything that is named can be found
    #[arg(long, group = "level")]
    quick: bool,
    /// And every stored byte against its digest (the default)
    #[arg(long, group = "level")]
    read_data: bool,
    /// And decode every tensor and file, as a restore would
    #[arg(long, group = "level")]
    restore: bool,
}

impl Args {
    fn level(&self) -> VerifyLevel {
        match (self.quick, self.restore) {
            (true, _) => VerifyLevel::Quick,
            (_, true) => VerifyLevel::Restore,
            _ => VerifyLevel::ReadData,
        }
    }
}

#[derive(Serialize)]
struct Verified {
    ok: bool,
    level: &'static str,
    only: Option<Named>,
    runs: u64,
    checkpoints: u64,
    packs: u64,
    contents: u64,
    bytes: u64,
    seconds: f64,
    problems: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    object: String,
    detail: String,
}

impl Answer for Verified {
    fn is_notice(&self) -> bool {
        self.ok
    }

    fn show(&self, page: &mut Page) {
        for problem in &self.problems {
            page.line(format!(
                "{} {}",
                page.paint(Tone::Bad, "problem:"),
                page.paint(Tone::Strong, &plain(&problem.object))
            ));
            page.line(format!("  {}", plain(&problem.detail)));
        }
        page.gap();
        let verdict = match self.problems.len() as u64 {
            0 => page.paint(Tone::Good, "no problems"),
            n => page.paint(Tone::Bad, &counted(n, "problem")),
        };
        let scope = match &self.only {
            Some(checkpoint) => checkpoint.title(page),
            None => format!(
                "{} in {}",
                counted(self.checkpoints, "checkpoint"),
                counted(self.runs, "run")
            ),
        };
        page.line(format!("{verdict}  {scope}"));
        let read = match self.level {
            "quick" => "every name can be found; `--read-data` reads the bytes as well",
            "read-data" => "every stored byte against its digest",
            _ => "every tensor and file decoded and compared with its digest",
        };
        page.fields(&[
            ("checked", read.to_owned()),
            (
                "read",
                format!(
                    "{} of {} in {}",
                    size(self.bytes),
                    counted(self.packs, "pack"),
                    duration(Duration::from_secs_f64(self.seconds))
                ),
            ),
        ]);
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let resolve = |text: &String| session.resolve(&store, text);
    let only = args.checkpoint.as_ref().map(resolve).transpose()?;
    let request = VerifyRequest {
        level: args.level(),
        only: only.as_ref().map(|found| found.manifest),
    };
    let bars = session.bars();
    let began = Instant::now();
    let report = store.verify(&request, &bars)?;
    let took = began.elapsed();
    drop(bars);
    let ok = report.problems.is_empty();
    session.answer(&Verified {
        ok,
        level: match request.level {
            VerifyLevel::Quick => "quick",
            VerifyLevel::ReadData => "read-data",
            VerifyLevel::Restore => "restore",
        },
        only: only.as_ref().map(Named::from),
        runs: report.runs,
        checkpoints: report.checkpoints,
        packs: report.packs,
        contents: report.contents,
        bytes: report.bytes,
        seconds: took.as_secs_f64(),
        problems: report
            .problems
            .into_iter()
            .map(|p| Found {
                object: p.object,
                detail: p.detail,
            })
            .collect(),
    })?;
    Ok(if ok { Exit::Done } else { Exit::Corrupt })
}
