//! `tpde verify`: whether everything that is stored can be restored.

use std::time::{Duration, Instant};

use serde::Serialize;
use tpde_store::verify::Affected;
use tpde_store::{VerifyLevel, VerifyRequest};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{count, counted, duration, size};

/// Check that what is stored can be restored
///
/// Finds all damage in one run, says which checkpoints need what is damaged, and ends with code 4 if there is any.
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

/// Checkpoints that a line names.
const MOST_NAMED: usize = 8;

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
    decoded_bytes: u64,
    sound: u64,
    seconds: f64,
    problems: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    object: String,
    detail: String,
    affects: Vec<Named>,
}

impl Found {
    /// The checkpoints that need it, as far as a line holds them.
    fn needed_by(&self) -> String {
        let mut names: Vec<String> = self.affects.iter().map(Named::label).collect();
        // A step that was replaced stands for two checkpoints, which only their ids tell apart.
        let labels = names.clone();
        for (name, checkpoint) in names.iter_mut().zip(&self.affects) {
            if labels.iter().filter(|l| *l == name).count() > 1 {
                *name = format!("{name} ({})", checkpoint.short());
            }
        }
        let more = names.len().saturating_sub(MOST_NAMED);
        names.truncate(MOST_NAMED);
        let mut line = plain(&names.join(", ")).into_owned();
        if more > 0 {
            line.push_str(&format!(" and {} more (--json lists all)", count(more as u64)));
        }
        line
    }
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
            if !problem.affects.is_empty() {
                page.line(format!("  needed by {}", problem.needed_by()));
            }
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
        let sound = match self.ok {
            true => String::new(),
            false => format!("; {} of {} sound", count(self.sound), count(self.checkpoints)),
        };
        page.line(format!("{verdict}  {scope}{sound}"));
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
                    "{} of {}{} in {}",
                    size(self.bytes - self.decoded_bytes),
                    counted(self.packs, "pack"),
                    match self.decoded_bytes {
                        0 => String::new(),
                        bytes => format!(", and decoded {}", size(bytes)),
                    },
                    duration(Duration::from_secs_f64(self.seconds))
                ),
            ),
        ]);
    }
}

fn named(affected: Affected) -> Named {
    Named {
        manifest: affected.manifest.to_hex(),
        run: Some(affected.run),
        seq: None,
        step: Some(affected.step),
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
        decoded_bytes: report.decoded_bytes,
        sound: report.sound,
        seconds: took.as_secs_f64(),
        problems: report
            .problems
            .into_iter()
            .map(|p| Found {
                object: p.object,
                detail: p.detail,
                affects: p.affects.into_iter().map(named).collect(),
            })
            .collect(),
    })?;
    Ok(if ok { Exit::Done } else { Exit::Corrupt })
}
