//! What can be typed.

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand};
use tpde_store::objects::parse_bytes;
use tpde_store::reference::Reference;
use tpde_store::{Rate, RunName};

use crate::commands::{
    commit, completions, copy, diff, doctor, du, explain, export, forget, gc, import, init, log, ls, policy,
    repack, repair, restore, save, save_part, show, stats, tag, undo, verify, watch,
};
use crate::failure::EXIT_CODES;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default().dimmed());

const REFERENCES: &str = "\
Checkpoints (REF):
  llama@600      step 600 of run llama
  llama@latest   its newest commit, whatever its step; `llama` alone is the same
  llama~2        two commits before the newest
  best           what the tag `best` stands for
  3fa94c         the checkpoint whose id begins so (six digits or more)";

const EXAMPLE: &str = "\
Example:
  tpde init ckpts
  export TPDE_STORE=ckpts
  tpde save out/checkpoint-600 --run llama --step 600
  tpde log llama
  tpde restore llama@600 restored";

/// Keeps every checkpoint of a training run for the price of a few, and gives each back byte for byte
#[derive(Debug, Parser)]
#[command(
    name = "tpde",
    version,
    styles = STYLES,
    max_term_width = 100,
    subcommand_required = true,
    after_help = format!("{REFERENCES}\n\n{EXAMPLE}\n\n{EXIT_CODES}")
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The store, a folder
    #[arg(
        long,
        global = true,
        env = "TPDE_STORE",
        hide_env_values = true,
        value_name = "PATH"
    )]
    pub(crate) store: Option<String>,
    /// Most bytes of packs from a server that this machine keeps in its cache folder, such as 10GB; `off` for none
    #[arg(
        long,
        global = true,
        env = "TPDE_PACK_CACHE",
        hide_env_values = true,
        value_name = "SIZE|off",
        value_parser = cache_size
    )]
    pub(crate) pack_cache: Option<u64>,
    /// Answer with one JSON object; docs/json.md names its fields
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but what was asked for and what went wrong
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log what happens to standard error; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Save(save::Args),
    Restore(restore::Args),
    SavePart(save_part::Args),
    Commit(commit::Args),
    Log(log::Args),
    Show(show::Args),
    Explain(explain::Args),
    Ls(ls::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    Tag(tag::Args),
    Forget(forget::Args),
    Undo(undo::Args),
    Policy(policy::Args),
    Gc(gc::Args),
    Repack(repack::Args),
    Du(du::Args),
    Doctor(doctor::Args),
    Repair(repair::Args),
    Export(export::Args),
    Import(import::Args),
    Watch(watch::Args),
    Copy(copy::Args),
    Stats(stats::Args),
    Completions(completions::Args),
}

/// Accepts a size in bytes, or none.
fn cache_size(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        size => parse_bytes(size).map_err(|error| format!("{error}, or `off`")),
    }
}

/// How much may go over the line.
#[derive(Debug, Args)]
pub(crate) struct Line {
    /// Most bytes a second to and from the store, such as 50MB/s
    #[arg(long, value_name = "RATE")]
    pub(crate) bwlimit: Option<Rate>,
}

/// Accepts text that can name a checkpoint.
pub(crate) fn reference(text: &str) -> Result<String, String> {
    match text.parse::<Reference>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Accepts a run's name; what names a checkpoint of a run is pointed elsewhere.
pub(crate) fn run_of(text: &str) -> Result<RunName, String> {
    match (text.parse::<RunName>(), text.split(['@', '~']).next()) {
        (Ok(run), _) => Ok(run),
        (Err(_), Some(run)) if run != text && text.parse::<Reference>().is_ok() => Err(format!(
            "it names one checkpoint; `tpde log {run}` lists its run, `tpde show {text}` shows it"
        )),
        (Err(error), _) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Promise: the definition is sound, and the help of every command shows how it is typed.
    #[test]
    fn every_command_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands().filter(|c| c.get_name() != "help") {
            let name = command.get_name().to_owned();
            let help = command.clone().render_help().to_string();
            assert!(
                help.contains("Example") && help.contains(&format!("  tpde {name}")),
                "{help}"
            );
        }
    }
}
