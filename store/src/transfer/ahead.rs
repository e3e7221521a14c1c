//! Windows of work whose pieces are on their way while the window before is worked on.
//!
//! ```text
//! scheduler   window 3 ─▶ runs ─▶ waits for the byte budget
//! line        requests, REQUESTS_AT_ONCE of them, in the order of the windows
//! caller      window 1: decode …       its bytes go back to the budget afterwards
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::{Condvar, Mutex};

use super::budget::Budget;
use super::pieces::{Pieces, Ready, Stretch};
use super::runs::Run;
use crate::error::{Result, StoreError};
use crate::objects::REQUESTS_AT_ONCE;
use crate::window::{FAR_WINDOW_BYTES, windows, windows_of};

/// Most stored bytes that are here or on their way.
const AHEAD_BYTES: u64 = 96 << 20;

/// What a server sent of packs. What this machine had kept, and what comes from a disk, is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Requests for stretches of packs.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Does `work` on all items, a window after another, in their order. Where a server answers, the pieces of the next windows are
/// on their way meanwhile.
///
/// * `memory_bytes`: what an item takes in memory while it is worked on.
/// * `wanted`: the pieces that an item reads. What is left out is read when it is wanted.
/// * `work`: gets a window, and a way to its pieces.
///
/// # Errors
/// The first of `work`, or of a request; as [`crate::objects::Objects::get_range`].
pub(crate) fn ahead<T: Sync>(
    pieces: Pieces<'_>,
    items: &[T],
    memory_bytes: impl Fn(&T) -> u64,
    wanted: impl Fn(&T) -> Vec<Stretch> + Sync,
    mut work: impl FnMut(&[T], Pieces<'_>) -> Result<()>,
) -> Result<Moved> {
    if !pieces.objects.is_far() {
        for window in windows(items, &memory_bytes) {
            work(window, pieces)?;
        }
        return Ok(Moved::default());
    }
    let cut: Vec<&[T]> = windows_of(FAR_WINDOW_BYTES, items, &memory_bytes).collect();
    let line = Line::new();
    let mut moved = Moved::default();
    let (send, arrivals) = mpsc::channel();
    std::thread::scope(|scope| {
        // However this ends, the others are sent home.
        let _end = Closing(&line);
        for _ in 0..REQUESTS_AT_ONCE {
            scope.spawn(|| line.serve(pieces));
        }
        let (line, cut, wanted) = (&line, &cut, &wanted);
        scope.spawn(move || {
            for &window in cut {
                let arrival = Arc::new(Arrival::new(pieces.runs(window.iter().flat_map(wanted))));
                if !line.admit(&arrival) || send.send((window, arrival)).is_err() {
                    break;
                }
            }
        });
        for (window, arrival) in arrivals {
            let (ready, brought) = arrival.wait()?;
            moved.requests += brought.requests;
            moved.bytes += brought.bytes;
            work(window, pieces.with(&ready))?;
            drop(ready);
            line.budget.give(arrival.len_bytes);
        }
        Ok(moved)
    })
}

/// The pieces of one window.
#[derive(Debug)]
struct Arrival {
    runs: Vec<Run>,
    len_bytes: u64,
    state: Mutex<Arriving>,
    changed: Condvar,
}

#[derive(Debug)]
struct Arriving {
    left: usize,
    ready: Ready,
    moved: Moved,
    error: Option<StoreError>,
}

impl Arrival {
    fn new(runs: Vec<Run>) -> Self {
        Self {
            len_bytes: runs.iter().map(Run::len_bytes).sum(),
            state: Mutex::new(Arriving {
                left: runs.len(),
                ready: Ready::new(),
                moved: Moved::default(),
                error: None,
            }),
            runs,
            changed: Condvar::new(),
        }
    }

    fn wait(&self) -> Result<(Ready, Moved)> {
        let mut state = self.state.lock();
        while state.left > 0 && state.error.is_none() {
            self.changed.wait(&mut state);
        }
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok((std::mem::take(&mut state.ready), state.moved)),
        }
    }

    fn fetch(&self, pieces: Pieces<'_>, at: usize) {
        let fetched = pieces.fetch(&self.runs[at]);
        let mut state = self.state.lock();
        state.left -= 1;
        match fetched {
            Ok(fetched) => {
                state.moved.requests += u64::from(fetched.moved_bytes > 0);
                state.moved.bytes += fetched.moved_bytes;
                state.ready.extend(fetched.pieces);
            }
            // A pack that a gc deleted meanwhile: whoever wants the piece looks for another copy.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => state.error = Some(error),
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Requests that wait for a connection.
struct Line {
    budget: Budget,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<(Arc<Arrival>, usize)>,
    closed: bool,
}

impl Line {
    fn new() -> Self {
        Self {
            budget: Budget::new(AHEAD_BYTES),
            jobs: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Queues the requests of a window once there is room for its bytes; `false` if nobody wants them any more.
    fn admit(&self, arrival: &Arc<Arrival>) -> bool {
        if !self.budget.take(arrival.len_bytes) {
            return false;
        }
        let jobs = (0..arrival.runs.len()).map(|at| (Arc::clone(arrival), at));
        self.jobs.lock().queue.extend(jobs);
        self.changed.notify_all();
        true
    }

    /// Makes requests until the line is closed.
    fn serve(&self, pieces: Pieces<'_>) {
        loop {
            let mut jobs = self.jobs.lock();
            while !jobs.closed && jobs.queue.is_empty() {
                self.changed.wait(&mut jobs);
            }
            let (false, Some((arrival, at))) = (jobs.closed, jobs.queue.pop_front()) else {
                return;
            };
            drop(jobs);
            arrival.fetch(pieces, at);
        }
    }
}

/// Closes a line at the end of a scope.
struct Closing<'l>(&'l Line);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.budget.close();
        self.0.jobs.lock().closed = true;
        self.0.changed.notify_all();
    }
}
