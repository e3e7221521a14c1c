//! What a writer does, request by request.
//!
//! ```text
//! PUT lease ─ LIST marks ─ PUT packs ─ HEAD them ─ PUT manifest ─ create record ─ GET fence ─┬ none: acknowledge, DELETE lease
//!     ▲                                   │ gone                                             │ there
//!     └── another lease, knowing nothing ◄┴──────────────────────────────────────────────────┘
//! ```

use crate::packs::{
    BASE, Contents, FIRST_MANIFEST, Holds, LEASES_EACH, Packs, bit, decodable, manifest, name,
};
use crate::rules::Rules;
use crate::state::{At, Checkpoint, Kind, Record, State, lease_bit};

/// What a writer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Save this checkpoint, whose bytes it has.
    Save(Checkpoint),
    /// As `Save`, but the run is another: what is there was found through a manifest of the first run.
    SaveElsewhere(Checkpoint),
    /// Put the first checkpoint back.
    Undo,
    /// Name the first checkpoint.
    Tag,
    /// Write what is live in the first pack into another.
    Repack,
}

/// What becomes of a request that changes the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It takes effect and says so.
    Given,
    /// It takes effect and the answer is lost.
    Lost,
    /// The answer is lost, and it takes effect at any later time, or never.
    Late,
}

/// One step of writer `w`; `None` if it has none of this kind.
pub(crate) fn step(rules: &Rules, task: Task, w: usize, state: &State, answer: Answer) -> Option<State> {
    let mut next = state.clone();
    let me = state.writers[w];
    if answer != Answer::Given {
        next.losses_left = state.losses_left.checked_sub(1)?;
        if !matches!(me.at, At::Listed | At::Confirmed | At::Described) {
            return None;
        }
    }
    let lease = lease_bit(w, me.lease);
    let leased = rules.lease_to_keep || !matches!(task, Task::Undo | Task::Tag);
    let at = match me.at {
        At::Start => {
            if let (false, Some(place)) = (rules.confirm_what_is_there, in_place(task, state)) {
                next.log[place].acknowledged = true;
                next.writers[w].at = At::Done;
                return Some(next);
            }
            if !rules.confirm_after_marks {
                next.writers[w].found = state.packs;
            }
            match rules.lease_before_marks {
                true if leased => next.leases |= lease,
                true => {}
                false => next.writers[w].seen = state.marked(None),
            }
            At::Leased
        }
        At::Leased => {
            match rules.lease_before_marks {
                true => next.writers[w].seen = state.marked(None),
                false => next.leases |= lease,
            }
            if !heeds(rules, task) {
                next.writers[w].seen = 0;
            }
            At::Listed
        }
        At::Listed => return store(rules, task, w, next, answer),
        At::Stored if task == Task::Repack => {
            if !rules.repack_leaves_old {
                next.packs &= !bit(0);
            }
            At::Leaving
        }
        At::Stored => match needs(task) & !decodable(relied_on(rules, w, state)) == 0 {
            true => At::Confirmed,
            // Somebody deleted what this lease should have kept: it is fenced, and its names are burnt.
            false if rules.another_lease_after_miss => another_lease(w, &mut next),
            false => {
                next.writers[w].own = 0;
                At::Listed
            }
        },
        At::Confirmed => return describe(rules, task, w, next, answer),
        At::Described => return record(rules, task, w, next, answer),
        At::Recorded(place) => {
            if rules.look_for_fence && state.fences & lease != 0 {
                another_lease(w, &mut next)
            } else {
                next.log[usize::from(place)].acknowledged = true;
                At::Leaving
            }
        }
        At::Leaving => {
            next.leases &= !lease;
            At::Done
        }
        At::Done | At::Crashed => return None,
    };
    next.writers[w].at = at;
    if matches!(at, At::Done | At::Leaving) {
        // What is never looked at again makes no two states of one.
        let me = &mut next.writers[w];
        (me.seen, me.found, me.tried, me.own) = (0, 0, 0, 0);
    }
    Some(next)
}

/// Gives the lease back, forgets all that was known under it, and begins again; leaves if that was its last.
fn another_lease(w: usize, next: &mut State) -> At {
    let me = &mut next.writers[w];
    next.leases &= !lease_bit(w, me.lease);
    (me.seen, me.found, me.tried, me.own) = (0, 0, 0, 0);
    if usize::from(me.lease) + 1 == LEASES_EACH {
        return At::Leaving;
    }
    me.lease += 1;
    At::Start
}

/// Whether an unanswered create lets writer `w` say "outcome unknown" and leave.
pub(crate) fn may_give_up(w: usize, state: &State) -> bool {
    state.writers[w].at == At::Described
        && state
            .late_create
            .is_some_and(|(_, record)| usize::from(record.by) == w)
}

fn heeds(rules: &Rules, task: Task) -> bool {
    let across = matches!(task, Task::SaveElsewhere(_));
    rules.heed_marks && (rules.heed_marks_across_runs || !across)
}

fn needs(task: Task) -> Contents {
    match task {
        Task::Save(of) | Task::SaveElsewhere(of) => of.needs(),
        Task::Undo | Task::Tag => Checkpoint::First.needs(),
        Task::Repack => BASE,
    }
}

/// The commit that a save finds in place of its own.
fn in_place(task: Task, state: &State) -> Option<usize> {
    match task {
        Task::Save(of) | Task::SaveElsewhere(of) => state.stands_by(of),
        Task::Undo | Task::Tag | Task::Repack => None,
    }
}

/// What exists for writer `w`.
fn relied_on(rules: &Rules, w: usize, state: &State) -> Packs {
    let me = state.writers[w];
    let there = match rules.confirm_after_marks {
        true => state.packs,
        false => me.found,
    };
    (there & !me.seen) | (me.own & state.packs)
}

/// Stores what is missing: a save from its memory, the others from packs that can still be read.
fn store(rules: &Rules, task: Task, w: usize, mut next: State, answer: Answer) -> Option<State> {
    let exists = decodable(relied_on(rules, w, &next));
    let missing = needs(task) & !exists;
    let readable = decodable(next.packs) & BASE != 0;
    let forgotten = next.stands_by(Checkpoint::First).is_none();
    let mine = own_record(task, w, &next).is_some();
    let write = match task {
        _ if missing == 0 && task != Task::Repack => None,
        Task::Save(_) | Task::SaveElsewhere(_) if missing & BASE == 0 => Some(Holds::DeltaOnBase),
        Task::Save(Checkpoint::Next) | Task::SaveElsewhere(Checkpoint::Next) => Some(Holds::Both),
        Task::Save(_) | Task::SaveElsewhere(_) => Some(Holds::Base),
        Task::Undo | Task::Tag | Task::Repack if readable => Some(Holds::Base),
        Task::Undo | Task::Tag | Task::Repack => return leave(w, next, answer),
    };
    let idle = match task {
        Task::Undo => !forgotten && !mine,
        // Only what stands is named or worth repacking.
        Task::Tag => forgotten && !mine,
        Task::Repack => next.slots_need().and(next.tags_need()).contents & BASE == 0,
        Task::Save(_) | Task::SaveElsewhere(_) => false,
    };
    if idle {
        return leave(w, next, answer);
    }
    let Some(holds) = write else {
        next.writers[w].at = At::Stored;
        return (answer == Answer::Given).then_some(next);
    };
    let me = &mut next.writers[w];
    let lease = LEASES_EACH * w + usize::from(me.lease);
    let pack = bit(name(rules.names, holds, lease, me.seen));
    match answer {
        Answer::Given => {
            me.own |= pack;
            me.tried = 0;
            me.at = At::Stored;
            next.packs |= pack;
        }
        // No other than `Late` that lands at once.
        Answer::Lost => return None,
        Answer::Late => {
            me.tried |= pack;
            next.late_puts |= pack;
        }
    }
    Some(next)
}

fn leave(w: usize, mut next: State, answer: Answer) -> Option<State> {
    let me = &mut next.writers[w];
    (me.seen, me.found, me.tried, me.own) = (0, 0, 0, 0);
    me.at = At::Leaving;
    (answer == Answer::Given).then_some(next)
}

fn kind(task: Task) -> (Kind, Checkpoint) {
    match task {
        Task::Save(of) | Task::SaveElsewhere(of) => (Kind::Commit, of),
        Task::Undo => (Kind::Undo, Checkpoint::First),
        Task::Tag | Task::Repack => (Kind::Tag, Checkpoint::First),
    }
}

/// Place of the record that carries the nonce of writer `w`.
fn own_record(task: Task, w: usize, state: &State) -> Option<usize> {
    let (kind, of) = kind(task);
    let mut log = state.log.iter();
    log.rposition(|record| record.kind == kind && record.of == of && usize::from(record.by) == w)
}

/// Place of the record that will do: one's own, or one that says the same and can be relied on.
fn will_do(rules: &Rules, task: Task, w: usize, state: &State) -> Option<usize> {
    let there = match task {
        Task::Undo => state
            .stands_by(Checkpoint::First)
            .filter(|place| state.log[*place].kind == Kind::Undo),
        _ => in_place(task, state),
    };
    own_record(task, w, state).or(there).filter(|place| {
        let manifest = state.log[*place].needs().manifests;
        !rules.commit_again_without_manifest || manifest & !relied_on(rules, w, state) == 0
    })
}

/// Goes on with a record that will do, or stores a manifest for another.
fn describe(rules: &Rules, task: Task, w: usize, mut next: State, answer: Answer) -> Option<State> {
    if let Some(place) = will_do(rules, task, w, &next) {
        if !rules.commit_again_without_manifest {
            // It is stored again under the name that the record knows.
            next.packs |= next.log[place].needs().manifests;
        }
        next.writers[w].at = At::Recorded(u8::try_from(place).ok()?);
        return (answer == Answer::Given).then_some(next);
    }
    let own = bit(new_manifest(w, &next));
    match task {
        Task::Undo | Task::Tag | Task::Repack => {
            if bit(FIRST_MANIFEST) & !relied_on(rules, w, &next) != 0 {
                return leave(w, next, answer);
            }
            next.writers[w].at = At::Described;
            (answer == Answer::Given).then_some(next)
        }
        Task::Save(_) | Task::SaveElsewhere(_) => {
            match answer {
                Answer::Given => {
                    next.packs |= own;
                    next.writers[w].own |= own;
                    next.writers[w].tried = 0;
                    next.writers[w].at = At::Described;
                }
                // No other than `Late` that lands at once.
                Answer::Lost => return None,
                Answer::Late => {
                    next.writers[w].tried |= own;
                    next.late_puts |= own;
                }
            }
            Some(next)
        }
    }
}

/// The manifest that writer `w` writes under this lease.
fn new_manifest(w: usize, state: &State) -> usize {
    manifest(LEASES_EACH * w + usize::from(state.writers[w].lease))
}

/// Creates the record, or finds out that it is there.
fn record(rules: &Rules, task: Task, w: usize, mut next: State, answer: Answer) -> Option<State> {
    let (kind, of) = kind(task);
    if let Some(place) = will_do(rules, task, w, &next) {
        next.writers[w].at = At::Recorded(u8::try_from(place).ok()?);
        return (answer == Answer::Given).then_some(next);
    }
    // The create of a slot fails unless its writer has read all slots before it; that of a tag knows nothing of them.
    if kind == Kind::Undo && next.stands_by(of).is_some() {
        return leave(w, next, answer);
    }
    let record = Record {
        kind,
        of,
        manifest: u8::try_from(match kind {
            Kind::Commit => new_manifest(w, &next),
            Kind::Forget | Kind::Undo | Kind::Tag => FIRST_MANIFEST,
        })
        .ok()?,
        by: u8::try_from(w).ok()?,
        acknowledged: false,
    };
    let place = u8::try_from(next.log.len()).ok()?;
    match answer {
        Answer::Given => {
            next.log.push(record);
            next.writers[w].at = At::Recorded(place);
        }
        Answer::Lost => next.log.push(record),
        Answer::Late if next.late_create.is_none() => next.late_create = Some((place, record)),
        Answer::Late => return None,
    }
    Some(next)
}
