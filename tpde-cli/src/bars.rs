//! Progress bars on standard error, while somebody watches.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tpde_store::{Progress, Stage};

use crate::interrupt::{Moment, Watch};
use crate::text::escape::plain;

/// At most 80 columns.
const TEMPLATE: &str =
    "  {msg:<9} {bar:20} {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta}";
/// How often a bar that does not move is drawn again.
const REDRAW: Duration = Duration::from_millis(200);

/// A bar for the stage that is under way.
#[derive(Debug)]
pub(crate) struct Bars {
    shown: bool,
    bar: Mutex<Option<ProgressBar>>,
    watch: Arc<Watch>,
    stage: Mutex<Option<Stage>>,
    /// What a save is, before its commit.
    saving: Moment,
}

impl Bars {
    /// Bars, unless they are not `wanted` or nobody would see them.
    pub(crate) fn new(wanted: bool, watch: Arc<Watch>) -> Self {
        Self {
            shown: wanted && std::io::stderr().is_terminal(),
            bar: Mutex::new(None),
            watch,
            stage: Mutex::new(None),
            saving: Moment::Saving,
        }
    }

    /// The same, for one save after another.
    pub(crate) fn for_series(self) -> Self {
        self.watch.enter(Moment::Series);
        let mut bars = self;
        bars.saving = Moment::Series;
        bars
    }

    fn replace(&self, with: Option<ProgressBar>) {
        let before = std::mem::replace(
            &mut *self.bar.lock().unwrap_or_else(PoisonError::into_inner),
            with,
        );
        if let Some(bar) = before {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn start(&self, stage: Stage, total_bytes: u64) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Some(stage);
        self.watch.enter(match stage {
            Stage::Hash | Stage::Encode | Stage::Send => self.saving,
            Stage::Restore => Moment::Restoring,
            Stage::Collect => Moment::Collecting,
            Stage::Copy => Moment::Series,
            _ => Moment::Reading,
        });
        if !self.shown || total_bytes == 0 {
            return;
        }
        let bar = ProgressBar::new(total_bytes).with_message(match stage {
            Stage::Hash => "reading",
            Stage::Encode => "encoding",
            Stage::Send => "sending",
            Stage::Fetch => "fetching",
            Stage::Restore => "restoring",
            Stage::Verify => "verifying",
            Stage::Compare => "comparing",
            Stage::Copy => "copying",
            Stage::Explain => "explaining",
            _ => "working",
        });
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.enable_steady_tick(REDRAW);
        self.replace(Some(bar));
    }

    fn advance(&self, bytes: u64) {
        if self.shown
            && let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner)
        {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        self.replace(None);
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A save encodes once more if a pack has gone meanwhile, and says so by starting again.
        if matches!(stage, Some(Stage::Encode | Stage::Send)) {
            self.watch.enter(Moment::Committing);
        }
    }

    fn waiting(&self, writers: usize, who: &str) {
        let others = match writers {
            0 | 1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shown {
            let bar = bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.enable_steady_tick(REDRAW);
                bar
            });
            bar.set_message(format!("waiting for {}{others}", plain(who)));
        }
    }

    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }
}

impl Drop for Bars {
    /// An error ends a stage too, and its message wants a clean line.
    fn drop(&mut self) {
        self.replace(None);
        self.watch.enter(Moment::Answering);
    }
}
