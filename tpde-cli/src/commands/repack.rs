//! `tpde repack`: the same checkpoints in fewer bytes.

use std::path::PathBuf;

use serde::Serialize;
use tpde_store::RepackRequest;

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::units::{counted, size};

/// Store what is left of a thinned history in fewer bytes
///
/// Deltas that lean on forgotten checkpoints are made anew against those that stay, and what is needed is copied out of packs that hold little
/// else. No id changes and nothing is deleted: `tpde gc` frees the bytes afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde forget llama --keep-every 1000
  tpde repack
  tpde gc")]
pub(crate) struct Args {
    /// Empty packs of which less than this share is needed
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    min_used: f64,
    /// A folder to work in, with room for a checkpoint and for what is encoded anew [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1, such as 0.5".to_owned()),
    }
}

#[derive(Serialize)]
struct Repacked {
    rebased: u64,
    emptied_packs: u64,
    written_bytes: u64,
    dearer_bytes: u64,
    reclaimable_bytes_before: u64,
    reclaimable_bytes: u64,
}

impl Answer for Repacked {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        if self.written_bytes == 0 {
            page.line(match self.dearer_bytes {
                0 => "nothing to repack".to_owned(),
                dearer => format!(
                    "left as it is: without what is forgotten the checkpoints that stay would take {} more",
                    size(dearer)
                ),
            });
        } else {
            let what = counted(self.rebased, "checkpoint");
            page.line(format!("{}  {what}", page.paint(Tone::Good, "repacked")));
            page.fields(&[
                ("written", size(self.written_bytes)),
                ("emptied", counted(self.emptied_packs, "pack")),
                (
                    "before",
                    format!("{} that nothing needed", size(self.reclaimable_bytes_before)),
                ),
            ]);
        }
        if self.reclaimable_bytes > 0 {
            let freed = size(self.reclaimable_bytes);
            page.line(format!("`tpde gc` frees {freed}, once they are old enough"));
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let request = RepackRequest {
        min_used: args.min_used,
        scratch: args.scratch.clone(),
    };
    let bars = session.bars();
    let report = store.repack(&request, &bars)?;
    drop(bars);
    session.answer(&Repacked {
        rebased: report.rebased,
        emptied_packs: report.emptied_packs,
        written_bytes: report.written_bytes,
        dearer_bytes: report.dearer_bytes,
        reclaimable_bytes_before: report.reclaimable_bytes_before,
        reclaimable_bytes: report.reclaimable_bytes,
    })?;
    Ok(Exit::Done)
}
