//! `tpde completions`: the Tab key.

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::args::Cli;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::page::Page;

/// Print the script that teaches a shell to complete tpde's commands
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde completions [OPTIONS] <SHELL>",
    after_help = "\
Examples:
  source <(tpde completions bash)
  tpde completions fish > ~/.config/fish/completions/tpde.fish"
)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

impl Answer for Script {
    fn show(&self, page: &mut Page) {
        page.line(self.script.trim_end());
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tpde", &mut script);
    session.answer(&Script {
        shell: args.shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    })?;
    Ok(Exit::Done)
}
