//! `tpde stats`: what the store holds, and what it saves.

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, ratio, ratio_of, size};

/// Count what the store holds, run by run and object by object
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde stats [OPTIONS]",
    after_help = "\
Examples:
  tpde stats
  tpde stats --json | jq .ratio"
)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Counted {
    store: String,
    store_id: String,
    raw_bytes: u64,
    stored_bytes: u64,
    ratio: Option<f64>,
    runs: Vec<Run>,
    packs: Objects,
    manifests: Objects,
    other: Objects,
}

#[derive(Serialize)]
struct Run {
    run: String,
    checkpoints: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct Objects {
    objects: u64,
    bytes: u64,
}

impl Answer for Counted {
    fn show(&self, page: &mut Page) {
        page.line(page.paint(Tone::Strong, &plain(&self.store)));
        page.fields(&[
            ("files as saved", size(self.raw_bytes)),
            (
                "stored",
                format!(
                    "{} ({})",
                    size(self.stored_bytes),
                    ratio(self.raw_bytes, self.stored_bytes)
                ),
            ),
        ]);
        if !self.runs.is_empty() {
            page.gap();
            let mut table = Table::new([
                Column::Left("run"),
                Column::Right("checkpoints"),
                Column::Right("raw"),
                Column::Right("stored"),
                Column::Right("ratio"),
            ]);
            for run in &self.runs {
                table.row([
                    Cell::toned(Tone::Name, plain(&run.run)),
                    count(run.checkpoints).into(),
                    size(run.raw_bytes).into(),
                    size(run.stored_bytes).into(),
                    Cell::toned(Tone::Good, ratio(run.raw_bytes, run.stored_bytes)),
                ]);
            }
            page.table(&table);
        }
        page.gap();
        let mut table = Table::new([
            Column::Left("objects"),
            Column::Right("count"),
            Column::Right("size"),
        ]);
        for (name, objects) in [
            ("packs", &self.packs),
            ("manifests", &self.manifests),
            ("slots, tags, other", &self.other),
        ] {
            table.row([
                name.into(),
                count(objects.objects).into(),
                size(objects.bytes).into(),
            ]);
        }
        page.table(&table);
    }
}

pub(crate) fn run(_: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let stats = store.stats()?;
    let (raw_bytes, stored_bytes) = (stats.raw_bytes(), stats.stored_bytes());
    session.answer(&Counted {
        store: store.objects().location().to_owned(),
        store_id: store.config().store_id.to_string(),
        raw_bytes,
        stored_bytes,
        ratio: ratio_of(raw_bytes, stored_bytes),
        runs: stats
            .runs
            .iter()
            .map(|r| Run {
                run: r.run.clone(),
                checkpoints: r.checkpoints,
                raw_bytes: r.raw_bytes,
                stored_bytes: r.stored_bytes,
                ratio: ratio_of(r.raw_bytes, r.stored_bytes),
            })
            .collect(),
        packs: Objects {
            objects: stats.packs,
            bytes: stats.pack_bytes,
        },
        manifests: Objects {
            objects: stats.manifests,
            bytes: stats.manifest_bytes,
        },
        other: Objects {
            objects: stats.other_objects,
            bytes: stats.other_bytes,
        },
    })?;
    Ok(Exit::Done)
}
