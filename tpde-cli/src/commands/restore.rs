//! `tpde restore`: get a checkpoint's files back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use globset::Glob;
use serde::Serialize;
use tpde_store::RestoreRequest;

use super::globs;
use crate::args::{Line, reference};
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, duration, size};

/// Restore a checkpoint's files, byte for byte
///
/// Every tensor and file is compared with its digest before it gets its name. An interrupted restore leaves nothing unfinished.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde restore [OPTIONS] <REF> <TARGET>",
    after_help = "\
Examples:
  tpde restore llama@600 restored
  tpde restore llama@latest head --tensors 'lm_head.*'
  tpde restore best configs --files '*.json'"
)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "REF", value_parser = reference)]
    checkpoint: String,
    /// The directory to write into; made if it is not there
    target: PathBuf,
    /// Only tensors whose names match, in safetensors files that hold nothing else (of x.pt: x.pt.safetensors); may be repeated
    #[arg(long, value_name = "GLOB")]
    tensors: Vec<Glob>,
    /// Only files whose paths match (`*` matches slashes too); may be repeated
    #[arg(long, value_name = "GLOB")]
    files: Vec<Glob>,
    /// Write over files that are there; others in the directory stay
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    line: Line,
}

#[derive(Serialize)]
struct Restored {
    #[serde(flatten)]
    checkpoint: Named,
    target: String,
    files: u32,
    tensors: u32,
    bytes: u64,
    seconds: f64,
    of_files: u32,
    of_tensors: u32,
    stale_files: u64,
    other_files: u64,
    requests: u64,
    fetched_bytes: u64,
    #[serde(skip)]
    is_excerpt: bool,
}

impl Answer for Restored {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        page.line(format!(
            "{}  {}",
            page.paint(Tone::Good, "restored"),
            self.checkpoint.title(page)
        ));
        let mut fields = vec![
            ("into", plain(&self.target).into_owned()),
            (
                "wrote",
                format!(
                    "{}, {}, {}, every byte verified",
                    part(self.files, self.of_files, "file"),
                    part(self.tensors, self.of_tensors, "tensor"),
                    size(self.bytes)
                ),
            ),
            ("took", duration(Duration::from_secs_f64(self.seconds))),
        ];
        if self.requests > 0 {
            let requests = counted(self.requests, "request");
            fields.push(("fetched", format!("{} in {requests}", size(self.fetched_bytes))));
        }
        page.fields(&fields);
        let mut note = |text: String| page.line(page.paint(Tone::Caution, &format!("  note: {text}")));
        if self.is_excerpt {
            note(
                "files of tensors hold only what was asked for; they are not the files that were saved"
                    .into(),
            );
        }
        if self.stale_files > 0 {
            let files = counted(self.stale_files, "unfinished file");
            note(format!("removed {files} of an interrupted restore"));
        }
        if self.other_files > 0 {
            let files = counted(self.other_files, "other file");
            note(format!(
                "{files} in the directory, not of this checkpoint, stayed as before"
            ));
        }
    }
}

/// `3 files`, or `1 of 3 files`.
fn part(n: u32, of: u32, one: &str) -> String {
    match n == of {
        true => counted(n.into(), one),
        false => format!("{n} of {}", counted(of.into(), one)),
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store_over(&args.line)?;
    let found = session.resolve(&store, &args.checkpoint)?;
    let request = RestoreRequest {
        manifest: found.manifest,
        target: args.target.clone(),
        files: globs(&args.files)?,
        tensors: globs(&args.tensors)?,
        overwrite: args.overwrite,
    };
    let bars = session.bars();
    let began = Instant::now();
    let report = store.restore(&request, &bars)?;
    let took = began.elapsed();
    drop(bars);
    session.answer(&Restored {
        checkpoint: Named::from(&found),
        target: args.target.display().to_string(),
        files: report.files,
        tensors: report.tensors,
        bytes: report.bytes,
        of_files: report.of_files,
        of_tensors: report.of_tensors,
        stale_files: report.stale_files,
        other_files: report.other_files,
        requests: report.moved.requests,
        fetched_bytes: report.moved.bytes,
        is_excerpt: !args.tensors.is_empty(),
        seconds: took.as_secs_f64(),
    })?;
    Ok(Exit::Done)
}
