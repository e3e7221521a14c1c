//! `tpde undo`: what was forgotten last, back into the log.

use serde::Serialize;
use tpde_store::RunName;

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, now_unix_ms};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::counted;

/// Put back what was forgotten last of a run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde undo llama")]
pub(crate) struct Args {
    /// The run
    run: RunName,
}

#[derive(Serialize)]
struct PutBack {
    run: String,
    steps: Vec<u64>,
    lost_steps: Vec<u64>,
}

impl Answer for PutBack {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        let list = |steps: &[u64]| steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let what = counted(self.steps.len() as u64, "checkpoint");
        let title = format!("{what} of {}", self.run);
        page.line(format!("{}  {title}", page.paint(Tone::Good, "put back")));
        let mut fields = vec![("steps", list(&self.steps))];
        if !self.lost_steps.is_empty() {
            fields.push(("deleted for good", list(&self.lost_steps)));
        }
        page.fields(&fields);
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let undone = store.undo(&args.run, now_unix_ms())?;
    session.answer(&PutBack {
        run: args.run.to_string(),
        steps: undone.back.iter().map(|commit| commit.step).collect(),
        lost_steps: undone.lost.iter().map(|commit| commit.step).collect(),
    })?;
    Ok(Exit::Done)
}
