//! `tpde repair`: what can be saved of a damaged store.

use clap::ValueEnum;
use serde::Serialize;
use tpde_store::repair::{LostCheckpoint, RepairedRun};

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, size};

/// Save what can be saved of a damaged store, and list what is lost
///
/// `index` builds this machine's cache anew. `packs` reads every pack and stores what still decodes of damaged ones again. `slots` writes lost
/// records of runs anew from what others tell of them; do not save meanwhile. Nothing is invented, and nothing that can be read is deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde verify                    # what is damaged, and whom it touches
  tpde repair slots
  tpde repair packs
  tpde repair index")]
pub(crate) struct Args {
    /// What to mend
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// This machine's cache of which pack holds what
    Index,
    /// Contents of damaged packs
    Packs,
    /// The records of runs
    Slots,
}

#[derive(Serialize)]
struct Index {
    packs: u64,
    unreadable: Vec<String>,
}

impl Answer for Index {
    fn show(&self, page: &mut Page) {
        let done = page.paint(Tone::Good, "built anew");
        page.line(format!("{done}  the index of {}", counted(self.packs, "pack")));
        for pack in &self.unreadable {
            page.line(format!(
                "  {} pack {pack} cannot be read; see `tpde repair packs`",
                page.paint(Tone::Bad, "✗")
            ));
        }
    }
}

#[derive(Serialize)]
struct Packs {
    packs: u64,
    damaged: Vec<String>,
    written_bytes: u64,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Lost {
    name: String,
    manifest: String,
    contents: Vec<String>,
    detail: String,
}

impl From<LostCheckpoint> for Lost {
    fn from(lost: LostCheckpoint) -> Self {
        Self {
            name: lost.name,
            manifest: lost.manifest.to_hex(),
            contents: lost.contents,
            detail: lost.detail,
        }
    }
}

/// Contents that are named on the screen; all of them are in the JSON.
const MOST_SHOWN: usize = 5;

impl Answer for Packs {
    fn show(&self, page: &mut Page) {
        if self.damaged.is_empty() {
            page.line(format!("{}, none of them damaged", counted(self.packs, "pack")));
        } else {
            page.line(format!(
                "{} of {} damaged",
                page.paint(Tone::Bad, &counted(self.damaged.len() as u64, "pack")),
                self.packs
            ));
            page.fields(&[("saved", format!("{} in new packs", size(self.written_bytes)))]);
        }
        for lost in &self.lost {
            page.line(format!(
                "{} {}  {}",
                page.paint(Tone::Bad, "lost"),
                plain(&lost.name),
                plain(&lost.detail)
            ));
            for content in lost.contents.iter().take(MOST_SHOWN) {
                page.line(format!("  {}", plain(content)));
            }
            if lost.contents.len() > MOST_SHOWN {
                page.line(format!("  and {} more", lost.contents.len() - MOST_SHOWN));
            }
        }
        if let Some(lost) = self.lost.first() {
            let give_up = match lost.name.strip_prefix("tag ") {
                Some(tag) => format!("tpde tag --delete {tag}"),
                None => format!("tpde forget {}", lost.name),
            };
            page.line(format!(
                "Save the same files to the same step again, or give it up: `{}`",
                plain(&give_up)
            ));
        } else if !self.damaged.is_empty() {
            page.line("Nothing is lost; `tpde gc` deletes the damaged packs");
        }
    }
}

#[derive(Serialize)]
struct Slots {
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    run: String,
    slots: Vec<u64>,
    rollups: Vec<u64>,
    found_again: Vec<u64>,
    lost: Vec<LostSeq>,
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct LostSeq {
    seq: u64,
    detail: String,
}

impl From<RepairedRun> for Run {
    fn from(run: RepairedRun) -> Self {
        let lost = run.lost.into_iter().map(|lost| LostSeq {
            seq: lost.seq,
            detail: lost.detail,
        });
        Self {
            run: run.run.to_string(),
            slots: run.slots,
            rollups: run.rollups,
            found_again: run.found_again,
            lost: lost.collect(),
            left_out: run.left_out.iter().map(|id| id.to_hex()).collect(),
        }
    }
}

impl Answer for Slots {
    fn show(&self, page: &mut Page) {
        for run in &self.runs {
            let mut fields = Vec::new();
            let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            for (name, numbers) in [
                ("records", &run.slots),
                ("rollups", &run.rollups),
                ("found again", &run.found_again),
            ] {
                if !numbers.is_empty() {
                    fields.push((name, list(numbers)));
                }
            }
            for lost in &run.lost {
                fields.push(("lost", format!("record {}: {}", lost.seq, lost.detail)));
            }
            for manifest in &run.left_out {
                fields.push((
                    "not in the log",
                    format!("{manifest}, a save that was cut short: `tpde show {manifest}`"),
                ));
            }
            match fields.is_empty() {
                true => page.line(format!("{}  nothing to mend", run.run)),
                false => page.line(page.paint(Tone::Strong, &run.run)),
            }
            page.fields(&fields);
        }
        if self.runs.is_empty() {
            page.line("no runs");
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let is_lost = match args.what {
        What::Index => {
            let (packs, unreadable) = store.repair_index()?;
            let unreadable: Vec<String> = unreadable.iter().map(|id| id.to_hex()).collect();
            let is_lost = !unreadable.is_empty();
            session.answer(&Index { packs, unreadable })?;
            is_lost
        }
        What::Packs => {
            let bars = session.bars();
            let report = store.repair_packs(&bars)?;
            drop(bars);
            let answer = Packs {
                packs: report.packs,
                damaged: report.damaged.iter().map(|id| id.to_hex()).collect(),
                written_bytes: report.written_bytes,
                lost: report.lost.into_iter().map(Lost::from).collect(),
            };
            session.answer(&answer)?;
            !answer.lost.is_empty()
        }
        What::Slots => {
            let runs: Vec<Run> = store.repair_slots()?.into_iter().map(Run::from).collect();
            let is_lost = runs.iter().any(|run| !run.lost.is_empty());
            session.answer(&Slots { runs })?;
            is_lost
        }
    };
    Ok(if is_lost { Exit::Corrupt } else { Exit::Done })
}
