//! `tpde copy`: checkpoints of one store into another.

use std::time::{Duration, Instant};

use serde::Serialize;
use tpde_store::copy::{CopiedCommit, CopiedTag, Fate, copy};
use tpde_store::{CopyReport, CopyRequest};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, now_unix_ms, typed};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{counted, duration, size};

/// Copy checkpoints from one store into another: what it lacks, and nothing twice
///
/// They keep their runs, steps, metrics and times; their ids change, for a checkpoint's id covers the packs that it lies in (`tpde show`
/// names the first id as `copy-of`, and its fingerprint stays). A copy that was cut short goes on where it stopped. Stored bytes are
/// held against their names on the way; `tpde verify --store DST --restore` decodes them, too.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde copy [OPTIONS] <SRC> <DST> [WHAT]...",
    after_help = "\
Examples:
  tpde copy ckpts s3://bucket/ckpts                   # all runs
  tpde copy ckpts s3://bucket/ckpts llama --tags      # one run, and its tags
  tpde copy s3://bucket/ckpts /data/ckpts llama@600 best --dry-run"
)]
pub(crate) struct Args {
    /// The store to copy from
    #[arg(value_name = "SRC")]
    source: String,
    /// The store to copy into; `tpde init` makes one
    #[arg(value_name = "DST")]
    target: String,
    /// Runs (all of their checkpoints), checkpoints (`llama@600`, `llama@latest`), tags; all runs if none is given
    #[arg(value_name = "WHAT", value_parser = reference)]
    names: Vec<String>,
    /// Copy the tags of what is copied, too; those that are named are copied anyway
    #[arg(long)]
    tags: bool,
    /// Where DST has another checkpoint or tag in the place of one, let the copy stand
    #[arg(long)]
    replace: bool,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Copied {
    source: String,
    target: String,
    dry_run: bool,
    checkpoints: Vec<Checkpoint>,
    tags: Vec<Tag>,
    packs: u64,
    sent_bytes: u64,
    read_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Checkpoint {
    run: String,
    step: u64,
    source_manifest: String,
    manifest: Option<String>,
    seq: Option<u64>,
    outcome: &'static str,
    raw_bytes: u64,
    sent_bytes: u64,
}

#[derive(Serialize)]
struct Tag {
    tag: String,
    outcome: &'static str,
}

/// What became of something, in one word.
fn outcome(fate: Fate) -> &'static str {
    match fate {
        Fate::Copied => "copied",
        Fate::Replaced => "replaced",
        Fate::AlreadyThere => "already_there",
        Fate::Mended => "mended",
        Fate::LeftOut => "left_out",
    }
}

impl From<&CopiedCommit> for Checkpoint {
    fn from(commit: &CopiedCommit) -> Self {
        Self {
            run: commit.run.to_string(),
            step: commit.step,
            source_manifest: commit.source.to_hex(),
            manifest: commit.target.map(|(manifest, _)| manifest.to_hex()),
            seq: commit.target.map(|(_, seq)| seq),
            outcome: outcome(commit.fate),
            raw_bytes: commit.raw_bytes,
            sent_bytes: commit.sent_bytes,
        }
    }
}

impl From<&CopiedTag> for Tag {
    fn from(tag: &CopiedTag) -> Self {
        Self {
            tag: tag.name.to_string(),
            outcome: outcome(tag.fate),
        }
    }
}

impl Copied {
    fn new(args: &Args, report: &CopyReport, took: Duration) -> Self {
        Self {
            source: args.source.clone(),
            target: args.target.clone(),
            dry_run: args.dry_run,
            checkpoints: report.commits.iter().map(Checkpoint::from).collect(),
            tags: report.tags.iter().map(Tag::from).collect(),
            packs: report.packs,
            sent_bytes: report.sent_bytes,
            read_bytes: report.read_bytes,
            seconds: took.as_secs_f64(),
        }
    }

    /// The checkpoints that were not there, one a line.
    fn show_sent(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::Left("checkpoint"),
            Column::Right("raw"),
            Column::Right("sent"),
            Column::Left(""),
        ]);
        let mut shown = 0;
        for checkpoint in self.checkpoints.iter().filter(|c| c.outcome != "already_there") {
            shown += 1;
            table.row([
                Cell::toned(Tone::Strong, format!("{}@{}", checkpoint.run, checkpoint.step)),
                size(checkpoint.raw_bytes).into(),
                size(checkpoint.sent_bytes).into(),
                match checkpoint.outcome {
                    "copied" => Cell::from(""),
                    "replaced" => Cell::toned(Tone::Caution, "in the place of another"),
                    _ => Cell::toned(Tone::Caution, "was there, and lacked contents"),
                },
            ]);
        }
        if shown > 0 {
            page.table(&table);
        }
    }
}

impl Answer for Copied {
    fn is_notice(&self) -> bool {
        !self.dry_run
    }

    fn show(&self, page: &mut Page) {
        let there = self.checkpoints.iter().filter(|c| c.outcome == "already_there");
        let there = there.count() as u64;
        let done = match self.dry_run {
            true => page.paint(Tone::Caution, "would copy"),
            false => page.paint(Tone::Good, "copied"),
        };
        page.line(format!(
            "{done}  {} → {}",
            plain(&self.source),
            plain(&self.target)
        ));
        self.show_sent(page);
        let new = self.checkpoints.len() as u64 - there;
        let mut fields = vec![(
            "checkpoints",
            format!("{}, {} already there", counted(new, "checkpoint"), there),
        )];
        if !self.tags.is_empty() {
            let tags: Vec<String> = self
                .tags
                .iter()
                .map(|tag| match tag.outcome {
                    "left_out" => format!("{} (left out: its checkpoint is forgotten or replaced)", tag.tag),
                    "already_there" => format!("{} (already there)", tag.tag),
                    _ => tag.tag.clone(),
                })
                .collect();
            fields.push(("tags", tags.join(", ")));
        }
        let took = duration(Duration::from_secs_f64(self.seconds));
        fields.push(match self.dry_run {
            true => ("to send", format!("{} of stored pieces", size(self.sent_bytes))),
            false => (
                "sent",
                format!(
                    "{} in {}, {} read, in {took}",
                    size(self.sent_bytes),
                    counted(self.packs, "pack"),
                    size(self.read_bytes)
                ),
            ),
        });
        page.fields(&fields);
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let source = session.other_store(&args.source)?;
    let target = session.other_store(&args.target)?;
    let request = CopyRequest {
        names: args.names.clone(),
        tags: args.tags,
        replace: args.replace,
        dry_run: args.dry_run,
        now_unix_ms: now_unix_ms(),
    };
    let bars = session.bars();
    let began = Instant::now();
    let report = copy(&source, &target, &request, &bars).map_err(typed)?;
    let took = began.elapsed();
    drop(bars);
    session.answer(&Copied::new(args, &report, took))?;
    Ok(Exit::Done)
}
