//! The `tpde` command, as a library: the binary and the wheel for Python run the same.
//!
//! ```text
//! args ─▶ commands/* ─▶ session (store, references) ─▶ tpde-store
//!             └─▶ screen (text or JSON on standard output)        failure (standard error, exit code)
//! interrupt   Ctrl-C, between two whole states
//! text        sizes, tables, colours, and names that are safe to print
//! ```

mod args;
mod bars;
mod commands;
mod failure;
mod interrupt;
mod screen;
mod session;
mod text;

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Globals};
use commands::{
    commit, completions, copy, diff, doctor, du, explain, export, forget, gc, import, init, log, ls, policy,
    repack, repair, restore, save, save_part, show, stats, tag, undo, verify, watch,
};
use failure::{Exit, Failure, Report};
use screen::{write_err, write_out};
use session::Session;
use text::style::Style;

/// Runs the command.
///
/// * `typed`: its words, the name of the program first.
///
/// Returns the exit code.
pub fn main(typed: &[OsString]) -> u8 {
    let exit = match Cli::try_parse_from(typed) {
        Ok(cli) => run(&cli, typed.iter().any(is_store)),
        Err(error) => misused(&error, typed.iter().any(|word| word == "--json")),
    };
    exit as u8
}

/// Whether a word of the command line names the store.
fn is_store(word: &OsString) -> bool {
    let word = word.to_string_lossy();
    word == "--store" || word.starts_with("--store=")
}

fn run(cli: &Cli, names_store: bool) -> Exit {
    start_log(&cli.globals);
    match dispatch(&cli.command, &Session::new(&cli.globals, names_store)) {
        Ok(exit) => exit,
        Err(failure) => report(&Report::from(&failure), cli.globals.json),
    }
}

fn dispatch(command: &Command, session: &Session) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(args, session),
        Command::Save(args) => save::run(args, session),
        Command::SavePart(args) => save_part::run(args, session),
        Command::Commit(args) => commit::run(args, session),
        Command::Restore(args) => restore::run(args, session),
        Command::Log(args) => log::run(args, session),
        Command::Show(args) => show::run(args, session),
        Command::Ls(args) => ls::run(args, session),
        Command::Diff(args) => diff::run(args, session),
        Command::Verify(args) => verify::run(args, session),
        Command::Tag(args) => tag::run(args, session),
        Command::Explain(args) => explain::run(args, session),
        Command::Stats(args) => stats::run(args, session),
        Command::Forget(args) => forget::run(args, session),
        Command::Gc(args) => gc::run(args, session),
        Command::Repack(args) => repack::run(args, session),
        Command::Repair(args) => repair::run(args, session),
        Command::Du(args) => du::run(args, session),
        Command::Doctor(args) => doctor::run(args, session),
        Command::Policy(args) => policy::run(args, session),
        Command::Undo(args) => undo::run(args, session),
        Command::Export(args) => export::run(args, session),
        Command::Import(args) => import::run(args, session),
        Command::Watch(args) => watch::run(args, session),
        Command::Copy(args) => copy::run(args, session),
        Command::Completions(args) => completions::run(args, session),
    }
}

/// Help, the version, or what is wrong with the command line.
fn misused(error: &clap::Error, json: bool) -> Exit {
    let painted = |text: StyledStr, style: Style| match style.is_coloured() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match write_out(&painted(error.render(), Style::of_stdout())) {
                Ok(()) => Exit::Done,
                Err(_) => Exit::Failed,
            }
        }
        _ if json => report(
            &Report::new(Exit::Usage, "usage", essence(&error.render().to_string()), None),
            true,
        ),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            write_err(painted(Cli::command().render_help(), Style::of_stderr()).trim_end());
            Exit::Usage
        }
        _ => {
            write_err(painted(error.render(), Style::of_stderr()).trim_end());
            Exit::Usage
        }
    }
}

/// What is wrong, without the usage and the advice that follow it.
fn essence(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let first = |text: &str, end| text.split(end).next().unwrap_or_default().to_owned();
    let text = first(&first(text, "\n\nUsage:"), "\n\nFor more information");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn report(report: &Report, json: bool) -> Exit {
    write_err(&if json {
        report.json()
    } else {
        report.human(Style::of_stderr())
    });
    report.exit()
}

/// Warnings always; more with `-v`, or as `TPDE_LOG` says in the syntax of `RUST_LOG`.
fn start_log(globals: &Globals) {
    let level = match globals.verbose {
        0 if globals.quiet => "error",
        0 => "warn",
        1 => "info,tpde_store=debug",
        2 => "debug",
        _ => "trace",
    };
    let filter = std::env::var("TPDE_LOG")
        .ok()
        .and_then(|wish| EnvFilter::try_new(wish).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(Style::of_stderr().is_coloured())
        .log_internal_errors(false)
        .try_init();
    // A process of Python may run the command more than once, or log by itself.
    drop(started);
}
