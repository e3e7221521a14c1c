//! Every command × every fault × every request: the old state or the new one, and nothing that was acknowledged is lost.

use std::sync::Arc;

use super::commands::*;
use super::plan::UNTIL_LET_IN;
use super::world::{Checkpoints, State, forgotten, left_over, opened, ruthless, standing};
use super::{Fault, FaultStore, Plan};
use crate::keys::Prefix;
use crate::progress::Silent;
use crate::{Objects, StoreError};

/// For ever.
const ALL: usize = usize::MAX;
/// Longer than a write is repeated.
const SOME: usize = 6;

/// When a write that is late is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrives {
    /// When its sender has given up.
    GivenUp,
    /// When the command was run again.
    Repeated,
}

/// What goes wrong: how, and from some request on for how many.
const FAULTS: &[(Fault, usize)] = &[
    (Fault::LostRequest, 1),
    (Fault::LostRequest, ALL),
    (Fault::LostResponse, 1),
    (Fault::LostResponse, SOME),
    (Fault::LostResponse, ALL),
    (Fault::Late(1), 1),
    (Fault::Late(3), SOME),
    (Fault::Late(UNTIL_LET_IN), 1),
    (Fault::Late(UNTIL_LET_IN), ALL),
    (Fault::Truncated, 1),
    (Fault::Truncated, ALL),
    (Fault::Conflict, 1),
    (Fault::Conflict, SOME),
    (Fault::Conflict, ALL),
    (Fault::Precondition, SOME),
    (Fault::Internal, 1),
    (Fault::Busy, 1),
    (Fault::Refused, 1),
    (Fault::Refused, ALL),
    (Fault::FalseRefusal, 1),
    (Fault::FalseRefusal, ALL),
];

/// One command with one thing going wrong.
struct Case<'a> {
    given: &'a Given,
    command: &'a Command,
    /// What is in the store before.
    server: &'a FaultStore,
    /// The states that it may leave, the old one first and the new one last.
    states: &'a [Option<State>],
    /// What must be there whatever happens.
    acknowledged: &'a Checkpoints,
}

fn over(server: &Arc<FaultStore>) -> Objects {
    Objects::wrapping(Arc::clone(server) as Arc<_>)
}

impl Case<'_> {
    /// Runs it; gives the number of requests that failed.
    fn check(&self, plan: Plan, arrives: Arrives) -> usize {
        let command = self.command;
        let what = &format!("{}, {plan:?}, {arrives:?}", command.name);
        let server = Arc::new(self.server.copied());
        let objects = over(&server);
        server.plan(Some(plan));
        let done = (command.run)(self.given, &objects);
        server.plan(None);
        let failed = server.failed();
        if failed == 0 {
            done.unwrap();
            return 0;
        }
        if arrives == Arrives::GivenUp {
            server.let_in();
        }
        // The old state or the new one, and the new one if it was said to be there.
        let state = State::of(&objects).unwrap_or_else(|error| panic!("{what}: {error}"));
        let new = self.states.last().unwrap();
        match &done {
            Ok(()) => assert_eq!(&state, new, "{what}: acknowledged"),
            Err(error) => {
                assert!(self.is_apt(plan.fault, error), "{what}: {error:?}");
                assert!(
                    self.states.contains(&state),
                    "{what}: a mix: {state:#?} after {error}"
                );
            }
        }
        if state.is_some() {
            assert_eq!(
                self.given.sources.loss(&objects, self.acknowledged),
                None,
                "{what}"
            );
        }
        // The same again, by a new process, ends well.
        let was_new = &state == new;
        match (command.run)(self.given, &objects) {
            Ok(()) => {}
            Err(error) if was_new && (command.is_done)(&error) => {}
            Err(error) => panic!("{what}: again: {error}, after {done:?}"),
        }
        assert_eq!(&State::of(&objects).unwrap(), new, "{what}: again");
        server.let_in();
        assert_eq!(&State::of(&objects).unwrap(), new, "{what}: let in");
        // Garbage goes, nothing else does, and nobody is in the way.
        opened(&objects)
            .unwrap()
            .gc(&ruthless(), &Silent)
            .unwrap_or_else(|error| panic!("{what}: gc: {error}"));
        let stands = standing(&objects).unwrap();
        let kept = self.acknowledged.intersection(&stands).copied().collect();
        assert_eq!(self.given.sources.loss(&objects, &kept), None, "{what}: after gc");
        assert_eq!(&State::of(&objects).unwrap(), new, "{what}: after gc");
        assert_eq!(left_over(&objects, &Prefix::Marks), 0, "{what}: a mark stays");
        failed
    }

    /// Whether an error is one that a failed request may lead to.
    fn is_apt(&self, fault: Fault, error: &StoreError) -> bool {
        match error {
            StoreError::OutcomeUnknown { .. } | StoreError::Backend { .. } => true,
            // A server that says of a new name that it is taken cannot hold a store.
            StoreError::Input { .. } => {
                self.command.before.is_none() && matches!(fault, Fault::Conflict | Fault::Precondition)
            }
            _ => false,
        }
    }
}

/// Checks a command with every fault at every request.
fn everywhere(command: &Command) {
    let given = &Given::new();
    let server = Arc::new(FaultStore::new());
    if let Some(before) = command.before {
        given.sources.furnish(&over(&server));
        before(given, &opened(&over(&server)).unwrap());
    }
    let acknowledged = match (command.before, command.collects) {
        (None, _) => Checkpoints::new(),
        (_, true) => standing(&over(&server)).unwrap(),
        (_, false) => &standing(&over(&server)).unwrap() | &forgotten(&over(&server)).unwrap(),
    };
    let mut states = vec![State::of(&over(&server)).unwrap()];
    let mut requests = 0;
    for run in command.between.iter().chain([&command.run]) {
        let copied = Arc::new(server.copied());
        run(given, &over(&copied)).unwrap();
        requests = copied.requests();
        states.push(State::of(&over(&copied)).unwrap());
    }
    assert!(requests >= command.requests, "{requests} requests only");
    let case = Case {
        given,
        command,
        server: &server,
        states: &states,
        acknowledged: &acknowledged,
    };
    let (mut cases, mut failed) = (0, 0);
    for &(fault, len) in FAULTS {
        let late = matches!(fault, Fault::Late(UNTIL_LET_IN));
        for arrives in [Arrives::GivenUp, Arrives::Repeated] {
            if arrives == Arrives::Repeated && !late {
                continue;
            }
            let mut of_fault = 0;
            for from in 0..requests {
                let hit = case.check(Plan { fault, from, len }, arrives);
                of_fault += usize::from(hit > 0);
                failed += hit;
            }
            assert!(of_fault > 0, "{fault:?} was never met");
            cases += of_fault;
        }
    }
    println!(
        "{}: {requests} requests, {cases} cases, {failed} failed requests",
        command.name
    );
    // Most faults concern every request; those of creates or of reads concern some.
    assert!(
        cases > requests * FAULTS.len() / 2,
        "{cases} cases of {requests} requests"
    );
}

/// Makes a test of each command.
macro_rules! everywhere {
    ($($name:ident: $command:expr;)*) => {$(
        /// Promise: whichever request of this command fails, in whatever way and for however long: what was acknowledged is restored byte
        /// for byte, the store holds the old state or the new one, the same command again ends well, and a gc leaves it whole.
        #[test]
        fn $name() {
            everywhere(&$command);
        }
    )*};
}

everywhere! {
    init: INIT;
    save: SAVE;
    save_again: SAVE_AGAIN;
    undo: UNDO;
    tag: TAG;
    move_tag: MOVE_TAG;
    remove_tag: REMOVE_TAG;
    forget: FORGET;
    prune: PRUNE;
    policy: POLICY;
    gc: GC;
    repack: REPACK;
    copy: COPY;
    part: PART;
    commit_parts: COMMIT_PARTS;
}
