//! `tpde du`: where the bytes of a store are.

use serde::Serialize;
use tpde_store::Usage;

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, ratio, size};

/// Say where the bytes of the store are, run by run, and what would free some
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde du
  tpde du --json")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Line {
    run: String,
    checkpoints: u64,
    forgotten: u64,
    raw_bytes: u64,
    own_bytes: u64,
    shared_bytes: u64,
}

#[derive(Serialize)]
struct Shown {
    runs: Vec<Line>,
    stored_bytes: u64,
    shared_bytes: u64,
    tagged_bytes: u64,
    unused_bytes: u64,
    reclaimable_bytes: u64,
    unnamed_bytes: u64,
    records_bytes: u64,
}

impl From<Usage> for Shown {
    fn from(usage: Usage) -> Self {
        let runs = usage.runs.iter().map(|run| Line {
            run: run.run.to_string(),
            checkpoints: run.checkpoints,
            forgotten: run.forgotten,
            raw_bytes: run.raw_bytes,
            own_bytes: run.own_bytes,
            shared_bytes: run.shared_bytes,
        });
        Self {
            runs: runs.collect(),
            stored_bytes: usage.stored_bytes(),
            shared_bytes: usage.shared_bytes,
            tagged_bytes: usage.tagged_bytes,
            unused_bytes: usage.unused_bytes,
            reclaimable_bytes: usage.reclaimable.bytes,
            unnamed_bytes: usage.unnamed.bytes,
            records_bytes: usage.records_bytes,
        }
    }
}

impl Answer for Shown {
    fn show(&self, page: &mut Page) {
        if !self.runs.is_empty() {
            let mut table = Table::new([
                Column::Left("run"),
                Column::Right("checkpoints"),
                Column::Right("forgotten"),
                Column::Right("as files"),
                Column::Right("alone"),
                Column::Right("shared"),
                Column::Right("ratio"),
            ]);
            for run in &self.runs {
                table.row([
                    Cell::toned(Tone::Name, &run.run),
                    count(run.checkpoints).into(),
                    count(run.forgotten).into(),
                    size(run.raw_bytes).into(),
                    size(run.own_bytes).into(),
                    size(run.shared_bytes).into(),
                    ratio(run.raw_bytes, run.own_bytes + run.shared_bytes).into(),
                ]);
            }
            page.table(&table);
        }
        let mut fields = vec![("all of it", size(self.stored_bytes))];
        for (name, bytes) in [
            ("several runs", self.shared_bytes),
            ("tags alone", self.tagged_bytes),
            ("footers, unused", self.unused_bytes),
            ("records", self.records_bytes),
            ("unfinished saves", self.unnamed_bytes),
        ] {
            if bytes > 0 {
                fields.push((name, size(bytes)));
            }
        }
        if self.reclaimable_bytes > 0 {
            fields.push((
                "needless",
                format!("{}  `tpde gc` frees them", size(self.reclaimable_bytes)),
            ));
        }
        page.fields(&fields);
        let forgotten: u64 = self.runs.iter().map(|run| run.forgotten).sum();
        if forgotten > 0 && self.unused_bytes * 4 > self.stored_bytes {
            let what = counted(forgotten, "forgotten checkpoint");
            page.line(format!(
                "{what}: `tpde repack` frees what only their packs still hold"
            ));
        }
    }
}

pub(crate) fn run(_: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    session.answer(&Shown::from(store.usage()?))?;
    Ok(Exit::Done)
}
