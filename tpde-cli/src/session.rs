//! One run of the command: which store, and what the words on the command line stand for in it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;

use serde::Serialize;
pub(crate) use tpde_store::now_unix_ms;
use tpde_store::{DEFAULT_PACK_CACHE_BYTES, OpenOptions, Resolved, Store, StoreError};

use crate::args::{Globals, Line};
use crate::bars::Bars;
use crate::failure::Failure;
use crate::interrupt::{Moment, Watch};
use crate::screen::{Answer, Screen};
use crate::text::page::Page;
use crate::text::style::Tone;

/// What the global options say.
#[derive(Debug)]
pub(crate) struct Session {
    location: Option<String>,
    /// Whether the command line named the store, and not the environment.
    is_typed: bool,
    pack_cache_bytes: u64,
    screen: Screen,
    bars_wanted: bool,
    watch: Arc<Watch>,
}

impl Session {
    /// * `is_typed`: whether `--store` stood on the command line.
    pub(crate) fn new(globals: &Globals, is_typed: bool) -> Self {
        Self {
            location: globals.store.clone().filter(|s| !s.is_empty()),
            is_typed,
            pack_cache_bytes: globals.pack_cache.unwrap_or(DEFAULT_PACK_CACHE_BYTES),
            screen: Screen {
                json: globals.json,
                quiet: globals.quiet,
            },
            // Log lines and bars would write over each other.
            bars_wanted: !globals.quiet && !globals.json && globals.verbose == 0,
            watch: Watch::start(globals.json),
        }
    }

    /// Where a store is to be made: at `path`, or where the options say.
    ///
    /// # Errors
    /// `Usage` if nothing was named, or two places were.
    pub(crate) fn place<'s>(&'s self, path: Option<&'s str>) -> Result<&'s str, Failure> {
        match (path, self.location.as_deref()) {
            (Some(path), Some(other)) if self.is_typed && path != other => Err(Failure::Usage {
                message: format!("two places are named: {path} and --store {other}"),
                hint: format!("Write `tpde init {path}` or `tpde init {other}`"),
            }),
            (Some(path), _) | (None, Some(path)) => Ok(path),
            (None, None) => Err(Failure::Usage {
                message: "no place is named".to_owned(),
                hint: "Write `tpde init PATH`".to_owned(),
            }),
        }
    }

    /// Opens the store that was named.
    ///
    /// # Errors
    /// `Usage` if none was named or its name cannot be one; otherwise as [`Store::open`].
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        self.store_over(&Line { bwlimit: None })
    }

    /// Opens the store that was named, over a line that others need too.
    ///
    /// # Errors
    /// As [`Session::store`].
    pub(crate) fn store_over(&self, line: &Line) -> Result<Store, Failure> {
        let location = self.location.as_deref().ok_or_else(|| Failure::Usage {
            message: "no store is named".to_owned(),
            hint: "Add `--store PATH` or set TPDE_STORE; `tpde init PATH` makes a store".to_owned(),
        })?;
        let options = OpenOptions {
            rate: line.bwlimit,
            pack_cache_bytes: self.pack_cache_bytes,
        };
        Store::open_with(location, &options).map_err(typed)
    }

    /// Opens a store that a command of several names by itself.
    ///
    /// # Errors
    /// `Usage` if `--store` was typed as well, or the name cannot be one; otherwise as [`Store::open`].
    pub(crate) fn other_store(&self, location: &str) -> Result<Store, Failure> {
        if self.is_typed {
            return Err(Failure::Usage {
                message: "this command names its stores itself, and takes no --store".to_owned(),
                hint: "Write `tpde copy SRC DST`".to_owned(),
            });
        }
        Store::open(location).map_err(typed)
    }

    /// Finds the checkpoint that `reference` names.
    ///
    /// # Errors
    /// `Usage` if it names none or several; otherwise as [`Store::resolve`].
    pub(crate) fn resolve(&self, store: &Store, reference: &str) -> Result<Resolved, Failure> {
        store.resolve(reference).map_err(typed)
    }

    /// Bars for a long job.
    pub(crate) fn bars(&self) -> Bars {
        Bars::new(self.bars_wanted, Arc::clone(&self.watch))
    }

    /// Says what a signal would break into from here on.
    pub(crate) fn enter(&self, moment: Moment) {
        self.watch.enter(moment);
    }

    /// Whether a signal came while something was waited for.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }

    /// Asks a question on the terminal; `None` where there is none to ask on.
    ///
    /// # Errors
    /// `Output` if the terminal cannot be written or read.
    pub(crate) fn confirm(&self, question: &str) -> Result<Option<bool>, Failure> {
        let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
        if self.screen.json || !asks {
            return Ok(None);
        }
        let mut terminal = io::stderr().lock();
        write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush())?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
    }

    /// Whether the answer is for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.screen.json
    }

    /// Prints what the command has to say.
    ///
    /// # Errors
    /// `Output` if standard output cannot be written.
    pub(crate) fn answer<A: Answer>(&self, answer: &A) -> Result<(), Failure> {
        self.screen.print(answer).map_err(Failure::Output)
    }
}

/// An error about the words of the command line is a usage error.
pub(crate) fn typed(error: StoreError) -> Failure {
    match error {
        StoreError::Input { what, detail, hint } => Failure::Usage {
            message: format!("{what}: {detail}"),
            hint,
        },
        other => Failure::Store(other),
    }
}

/// A checkpoint, as every answer names it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Named {
    pub(crate) manifest: String,
    pub(crate) run: Option<String>,
    pub(crate) seq: Option<u64>,
    pub(crate) step: Option<u64>,
}

impl Named {
    /// `run@step`, or the id's beginning where there is no run.
    pub(crate) fn label(&self) -> String {
        match (&self.run, self.step) {
            (Some(run), Some(step)) => format!("{run}@{step}"),
            _ => self.short().to_owned(),
        }
    }

    /// The id's beginning: enough for a person.
    pub(crate) fn short(&self) -> &str {
        self.manifest.get(..12).unwrap_or(&self.manifest)
    }

    /// Label and id, painted.
    pub(crate) fn title(&self, page: &Page) -> String {
        let id = page.paint(Tone::Dim, self.short());
        match self.run {
            Some(_) => format!("{}  {id}", page.paint(Tone::Strong, &self.label())),
            None => page.paint(Tone::Strong, self.short()),
        }
    }
}

impl From<&Resolved> for Named {
    fn from(found: &Resolved) -> Self {
        let place = found.place.as_ref();
        Self {
            manifest: found.manifest.to_hex(),
            run: place.map(|p| p.run.to_string()),
            seq: place.map(|p| p.seq),
            step: place.map(|p| p.step),
        }
    }
}
