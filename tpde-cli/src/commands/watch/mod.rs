//! `tpde watch`: checkpoints, as a trainer completes them.

mod told;
mod watcher;

use std::path::PathBuf;
use std::time::Duration;

use globset::Glob;
use tpde_store::RunName;

use crate::args::{Line, reference};
use crate::failure::{Exit, Failure};
use crate::session::Session;

use watcher::Watcher;

/// Longest time that can be given, in seconds: about thirty years.
const MAX_SECONDS: f64 = 1e9;

/// Save the checkpoints of a folder as a trainer completes them
///
/// The checkpoints are those that `tpde import` knows: checkpoint-500, step_500, global_step500, iter_0000500, epoch=3-step=1000.ckpt
/// and so on. One is saved once nothing in it has changed for a while and nothing in it says that more is to come; it then counts as
/// complete. The trainer needs no change. A folder that is not there yet is waited for, and so is a store that does not answer for a
/// while. Started again, it goes on where it stopped.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde watch [OPTIONS] --run <NAME> <OUT_DIR>",
    after_help = "\
Examples:
  tpde watch out --run llama                                # beside the trainer, until Ctrl-C
  tpde watch out --run llama --delete-after-save --keep 2   # the store has the others
  tpde watch out --run llama --once                         # what is complete now, for scripts"
)]
pub(crate) struct Args {
    /// The folder that the trainer writes its checkpoints to
    out_dir: PathBuf,
    /// The run that they belong to
    #[arg(long, value_name = "NAME")]
    run: RunName,
    /// Save what is complete now, then end
    #[arg(long)]
    once: bool,
    /// Time from one look to the next
    #[arg(long, value_name = "SECONDS", value_parser = interval, default_value = "5")]
    every: Duration,
    /// How long nothing in a checkpoint may have changed before it is saved
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    settle: Duration,
    /// How long after its last change one that seems unfinished, and could be loaded, is waited for; then it is saved, and never deleted
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "600")]
    patience: Duration,
    /// Delete a checkpoint from the folder once it is saved, compared with what was saved, and not among the newest
    #[arg(long)]
    delete_after_save: bool,
    /// How many of the newest stay in the folder; trainers resume from the newest
    #[arg(long, value_name = "N", default_value_t = 1, requires = "delete_after_save")]
    keep: usize,
    /// Let a checkpoint that the trainer wrote again stand for its step
    #[arg(long)]
    replace: bool,
    /// What the first was fine-tuned from
    #[arg(long, value_name = "REF", value_parser = reference)]
    parent: Option<String>,
    /// Keep matching files as plain bytes, whatever they hold; may be repeated
    #[arg(long, value_name = "GLOB")]
    opaque: Vec<Glob>,
    /// After each save forget what the store's policy does not keep of this run (see `tpde policy`)
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    line: Line,
}

/// Reads a time.
fn seconds(text: &str) -> Result<Duration, String> {
    let wanted = || format!("a number of seconds from 0 to {MAX_SECONDS:.0}");
    let seconds: f64 = text.parse().map_err(|_| wanted())?;
    match (0.0..=MAX_SECONDS).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(wanted()),
    }
}

/// Reads a time between two looks.
fn interval(text: &str) -> Result<Duration, String> {
    let found = seconds(text)?;
    match found < Duration::from_millis(10) {
        true => Err("a number of seconds from 0.01 on".to_owned()),
        false => Ok(found),
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let mut watcher = Watcher::new(args, session)?;
    watcher.begin()?;
    if args.once {
        watcher.look()?;
        watcher.sleep(args.settle)?;
        watcher.look()?;
        return watcher.end();
    }
    loop {
        watcher.look()?;
        watcher.sleep(args.every)?;
    }
}
