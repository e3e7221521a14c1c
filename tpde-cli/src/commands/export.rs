//! `tpde export`: checkpoints as plain folders, as a trainer leaves them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tpde_store::reference::Reference;
use tpde_store::{ManifestId, RestoreRequest, RunName, Store, TagName, history, tags};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, typed};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, duration, size};

/// Write checkpoints of a run into folders `checkpoint-STEP`, byte for byte
///
/// Each is restored as `tpde restore` does it; a folder that holds it already is compared and left alone, so an export that was cut
/// short goes on where it stopped. `tpde import` reads such a tree back.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde export [OPTIONS] <RUN|REF> <DIR>",
    after_help = "\
Examples:
  tpde export llama out                     # out/checkpoint-500, out/checkpoint-600, …
  tpde export llama out --last 3
  tpde export llama out --steps 500,600
  tpde export best out                      # one checkpoint"
)]
pub(crate) struct Args {
    /// A run, for all of its checkpoints, or one checkpoint
    #[arg(value_name = "RUN|REF", value_parser = reference)]
    what: String,
    /// The directory to make the folders in
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Only the last N by step
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    last: Option<usize>,
    /// Only these steps
    #[arg(long, value_name = "STEP,…", value_delimiter = ',')]
    steps: Vec<u64>,
    /// Write over files that are there; others in the folders stay
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct Exported {
    run: String,
    target: String,
    checkpoints: Vec<Folder>,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Folder {
    step: u64,
    manifest: String,
    directory: String,
    already_there: bool,
    files: u32,
    bytes: u64,
}

impl Answer for Exported {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let done = page.paint(Tone::Good, "exported");
        page.line(format!("{done}  {}", page.paint(Tone::Strong, &self.run)));
        let mut table = Table::new([
            Column::Right("step"),
            Column::Right("files"),
            Column::Right("bytes"),
            Column::Left("into"),
            Column::Left(""),
        ]);
        for folder in &self.checkpoints {
            let there = if folder.already_there {
                "was there, byte for byte"
            } else {
                ""
            };
            table.row([
                Cell::toned(Tone::Strong, folder.step.to_string()),
                count(folder.files.into()).into(),
                size(folder.bytes).into(),
                Cell::toned(Tone::Name, plain(&folder.directory)),
                Cell::toned(Tone::Dim, there),
            ]);
        }
        page.table(&table);
        let took = duration(Duration::from_secs_f64(self.seconds));
        let line = format!(
            "  {}, {} written in {took}, every byte verified",
            counted(self.checkpoints.len() as u64, "checkpoint"),
            size(self.bytes)
        );
        page.line(page.paint(Tone::Dim, &line));
    }
}

/// A run, and what of it is to be written, by step.
type Chosen = (RunName, BTreeMap<u64, ManifestId>);

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let (run, chosen) = chosen(&store, args, session)?;
    let bars = session.bars();
    let began = Instant::now();
    let mut checkpoints = Vec::new();
    for (step, manifest) in chosen {
        let directory = args.target.join(format!("checkpoint-{step}"));
        let (files, bytes, already_there) =
            match is_there(&directory) && store.is_saved_as(&directory, manifest, &bars).unwrap_or(false) {
                true => {
                    let manifest = store.named_manifest(manifest)?;
                    let files = manifest.files.iter();
                    let files = files.filter(|f| f.content != tpde_store::manifest::FileContent::Directory);
                    (
                        u32::try_from(files.count()).unwrap_or(u32::MAX),
                        manifest.raw_bytes(),
                        true,
                    )
                }
                false => {
                    let request = RestoreRequest {
                        manifest,
                        target: directory.clone(),
                        files: None,
                        tensors: None,
                        overwrite: args.overwrite,
                    };
                    let report = store.restore(&request, &bars)?;
                    (report.files, report.bytes, false)
                }
            };
        checkpoints.push(Folder {
            step,
            manifest: manifest.to_hex(),
            directory: directory.display().to_string(),
            already_there,
            files,
            bytes,
        });
    }
    drop(bars);
    session.answer(&Exported {
        run: run.to_string(),
        target: args.target.display().to_string(),
        bytes: checkpoints
            .iter()
            .filter(|f| !f.already_there)
            .map(|f| f.bytes)
            .sum(),
        checkpoints,
        seconds: began.elapsed().as_secs_f64(),
    })?;
    Ok(Exit::Done)
}

fn is_there(directory: &Path) -> bool {
    directory.symlink_metadata().is_ok()
}

/// What the words on the command line choose.
fn chosen(store: &Store, args: &Args, session: &Session) -> Result<Chosen, Failure> {
    let word = args.what.parse::<Reference>().map_err(typed)?;
    if let Reference::Word(word) = &word
        && let Ok(run) = word.parse::<RunName>()
        && !is_tag(store, word)?
        && history::newest(store.objects(), &run)?.is_some()
    {
        let log = history::log(store.objects(), &run)?;
        let mut all: BTreeMap<u64, ManifestId> = log
            .commits()
            .map(|commit| (commit.step, commit.manifest))
            .collect();
        if let Some(last) = args.last {
            let before = all.len().saturating_sub(last);
            all = all.into_iter().skip(before).collect();
        }
        if !args.steps.is_empty() {
            let wanted: BTreeSet<u64> = args.steps.iter().copied().collect();
            for &step in &wanted {
                // For the message, with the steps near it.
                history::find_step(store.objects(), &run, step)?;
            }
            all.retain(|step, _| wanted.contains(step));
        }
        if all.is_empty() {
            return Err(Failure::NotFound {
                message: format!("a checkpoint to export of run {run} was not found"),
                hint: format!("Run `tpde log {run}` to see what there is"),
            });
        }
        return Ok((run, all));
    }
    if args.last.is_some() || !args.steps.is_empty() {
        return Err(Failure::Usage {
            message: format!(
                "{} is one checkpoint: --last and --steps choose among those of a run",
                args.what
            ),
            hint: "Name a run, or leave them out".to_owned(),
        });
    }
    let found = session.resolve(store, &args.what)?;
    match found.place {
        Some(place) => Ok((place.run, BTreeMap::from([(place.step, found.manifest)]))),
        None => Err(Failure::NotFound {
            message: format!("a step of checkpoint {} was not found", args.what),
            hint: format!(
                "It belongs to no run: `tpde restore {} DIR` writes its files",
                args.what
            ),
        }),
    }
}

fn is_tag(store: &Store, word: &str) -> Result<bool, Failure> {
    match word.parse::<TagName>() {
        Ok(name) => Ok(tags::get(store.objects(), &name)?.is_some()),
        Err(_) => Ok(false),
    }
}
