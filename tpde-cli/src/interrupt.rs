//! Ctrl-C: a command ends between two whole states, and says in which it left things.
//!
//! ```text
//! reading, comparing, encoding   ends at once: nothing refers to what was written
//! restoring                      asks the job to stop, which removes what is unfinished
//! committing                     a moment that is waited for
//! copying, importing, watching   ends at once: what is committed stays, and the same again goes on
//! ```
//! A second signal ends whatever goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Exit, Report};
use crate::screen::write_err;
use crate::text::style::Style;

/// What a signal would break into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Opening the store, or a short command.
    Short,
    /// Only reading.
    Reading,
    /// Saving, before the commit.
    Saving,
    /// A save's commit.
    Committing,
    /// A gc, which leaves a mark behind unless it is told to stop.
    Collecting,
    /// Committing one checkpoint after another.
    Series,
    /// Deleting the files of a checkpoint that is in the store.
    Deleting,
    /// Writing restored files.
    Restoring,
    /// Printing the answer.
    Answering,
}

impl Moment {
    /// Whether the first signal waits for the job.
    fn waits(self) -> bool {
        matches!(
            self,
            Self::Committing | Self::Collecting | Self::Deleting | Self::Restoring | Self::Answering
        )
    }

    /// What to say when the command ends here, and what to do next.
    fn left(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Short => ("interrupted", None),
            Self::Reading => ("interrupted; nothing was changed", None),
            Self::Saving => ("interrupted; nothing was committed", None),
            Self::Committing => (
                "interrupted while committing",
                Some("`tpde log` tells whether the checkpoint is there; the same save again is harmless"),
            ),
            Self::Collecting => (
                "interrupted while collecting; nothing that is needed was deleted",
                Some("Run `tpde gc` again: it also clears away what this one left"),
            ),
            Self::Series => (
                "interrupted; what was committed so far stays",
                Some("The same command again goes on where it stopped"),
            ),
            Self::Deleting => (
                "interrupted while deleting a checkpoint that is in the store",
                Some("The same command again deletes the rest of it"),
            ),
            Self::Restoring => (
                "interrupted; unfinished files (.tpde-*.partial) were left behind",
                Some("The next restore into the same directory removes them"),
            ),
            Self::Answering => ("interrupted before the answer was printed", None),
        }
    }
}

/// Follows what goes on, and ends it when a signal comes.
#[derive(Debug)]
pub(crate) struct Watch {
    moment: Mutex<Moment>,
    cancelled: AtomicBool,
    json: bool,
}

impl Watch {
    /// Starts to listen; where that is not possible, signals do what they do to every program.
    pub(crate) fn start(json: bool) -> Arc<Self> {
        let watch = Arc::new(Self {
            moment: Mutex::new(Moment::Short),
            cancelled: AtomicBool::new(false),
            json,
        });
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) {
            let listener = Arc::clone(&watch);
            std::thread::spawn(move || signals.forever().for_each(|_| listener.signal()));
        }
        watch
    }

    /// Says what begins now.
    pub(crate) fn enter(&self, moment: Moment) {
        *self.moment.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    /// Whether the job is to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn signal(&self) {
        // Held to the end: nobody enters the next moment while the process ends in this one.
        let moment = self.moment.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.cancelled.swap(true, Ordering::SeqCst) && moment.waits() {
            return;
        }
        let (message, hint) = moment.left();
        let report = Report::new(
            Exit::Interrupted,
            "interrupted",
            message.to_owned(),
            hint.map(str::to_owned),
        );
        // A bar may stand on the line.
        let clear = if Style::of_stderr().is_coloured() {
            "\r\x1b[2K"
        } else {
            ""
        };
        write_err(&if self.json {
            report.json()
        } else {
            format!("{clear}{}", report.human(Style::of_stderr()))
        });
        std::process::exit(Exit::Interrupted as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what writes is waited for once; what it left behind is said otherwise.
    #[test]
    fn only_what_writes_is_waited_for() {
        for moment in [Moment::Short, Moment::Reading, Moment::Saving] {
            assert!(!moment.waits() && moment.left().1.is_none(), "{moment:?}");
        }
        assert!(Moment::Saving.left().0.contains("nothing was committed"));
        for moment in [
            Moment::Committing,
            Moment::Collecting,
            Moment::Deleting,
            Moment::Restoring,
        ] {
            assert!(moment.waits() && moment.left().1.is_some(), "{moment:?}");
        }
        assert!(!Moment::Series.waits() && Moment::Series.left().1.is_some());
    }
}
