//! Runs the checker, and tells what it found in words.

use std::collections::BTreeSet;
use std::thread::available_parallelism;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::model::{Event, Protocol, WHOLE};
use crate::state::State;

/// What an exploration found.
pub(crate) struct Found {
    /// Distinct states.
    pub(crate) states: usize,
    /// The longest of the shortest ways to a state.
    pub(crate) depth: usize,
    /// How the promise is broken.
    pub(crate) loss: Option<Vec<String>>,
    /// What was seen to happen.
    pub(crate) seen: BTreeSet<&'static str>,
}

/// Goes through all states, or until the promise is broken.
pub(crate) fn explore(protocol: &Protocol) -> Found {
    let threads = available_parallelism().map_or(1, usize::from);
    explore_with(protocol, threads)
}

/// As [`explore`], on one thread: the loss that it finds is as short as any.
pub(crate) fn explore_shortest(protocol: &Protocol) -> Found {
    explore_with(protocol, 1)
}

fn explore_with(protocol: &Protocol, threads: usize) -> Found {
    let checker = protocol
        .clone()
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .threads(threads)
        .spawn_bfs()
        .join();
    let mut found = Found {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        loss: None,
        seen: BTreeSet::new(),
    };
    for (name, path) in checker.discoveries() {
        if name == WHOLE {
            found.loss = Some(tell(protocol, path));
        } else {
            found.seen.insert(name);
        }
    }
    found
}

/// One line for each step.
fn tell(protocol: &Protocol, path: Path<State, Event>) -> Vec<String> {
    let steps = path.into_vec().into_iter();
    steps
        .filter_map(|(state, event)| {
            Some(match event? {
                Event::Write(w, answer) => {
                    let at = state.writers[w].at;
                    format!("{:?} {w}, {at:?}: {answer:?}", protocol.writers[w])
                }
                Event::Collect(g, answer) => format!("gc {g}, {:?}: {answer:?}", state.gcs[g].phase),
                other => format!("{other:?}"),
            })
        })
        .collect()
}
