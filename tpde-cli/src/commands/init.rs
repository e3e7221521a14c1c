//! `tpde init`: make a store.

use serde::Serialize;
use tpde_store::{Objects, config};

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Session, typed};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;

/// Make a store in an empty or new folder
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde init [OPTIONS] [PATH]",
    after_help = "\
Example:
  tpde init ckpts
  export TPDE_STORE=ckpts        # from here on, no --store"
)]
pub(crate) struct Args {
    /// The folder, made if it is not there; may be given with --store or TPDE_STORE instead
    path: Option<String>,
}

#[derive(Serialize)]
struct Made {
    store: String,
    store_id: String,
    format: u64,
}

impl Answer for Made {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        page.line(format!(
            "{} a store in {}",
            page.paint(Tone::Good, "made"),
            page.paint(Tone::Strong, &plain(&self.store))
        ));
        let next = format!(
            "  tpde save DIR --store {} --run NAME --step N",
            plain(&self.store)
        );
        page.line(page.paint(Tone::Dim, &next));
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let path = session.place(args.path.as_deref())?;
    let objects = Objects::open_or_make(path).map_err(typed)?;
    let config = config::init(&objects).map_err(typed)?;
    session.answer(&Made {
        store: path.to_owned(),
        store_id: config.store_id.to_string(),
        format: config.format,
    })?;
    Ok(Exit::Done)
}
