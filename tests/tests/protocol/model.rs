//! The protocol as a state machine that stateright explores.

use stateright::{Model, Property};

use crate::packs::{FIRST, FIRST_MANIFEST, Packs, bit, each};
use crate::rules::Rules;
use crate::state::{At, Checkpoint, Gc, Kind, Needs, Phase, Record, State, Writer};
use crate::writer::{Answer, Task};
use crate::{sweep, writer};

/// Nobody's nonce.
const NOBODY: u8 = u8::MAX;
const THE_FIRST: u8 = FIRST_MANIFEST as u8;

/// Who takes part, and what may go wrong how often.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) rules: Rules,
    pub(crate) writers: Vec<Task>,
    pub(crate) gcs: usize,
    /// Whether the first checkpoint is forgotten from the start.
    pub(crate) forgotten: bool,
    /// How often it may be forgotten later.
    pub(crate) forgets: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Write(usize, Answer),
    GiveUp(usize),
    CrashWriter(usize),
    Collect(usize, Answer),
    Expire(usize, u16),
    CrashGc(usize),
    Forget,
    LatePut(Packs),
    LateDelete(Packs),
    LateCreate,
}

/// The promise that everything else is for.
pub(crate) const WHOLE: &str = "what is acknowledged and not forgotten is whole";
/// Garbage goes.
pub(crate) const GARBAGE_GOES: &str = "garbage is deleted";
/// A save that was fenced is acknowledged under its second lease.
pub(crate) const FENCED_SAVES: &str = "a fenced writer stores again and is acknowledged";
/// An undo is acknowledged.
pub(crate) const UNDOES: &str = "an undo is acknowledged";
/// A tag is acknowledged although its checkpoint is forgotten.
pub(crate) const TAGS: &str = "a tag outlives a forget";
/// A crashed gc's mark goes.
pub(crate) const MARK_GOES: &str = "the mark of a crashed gc is removed";

impl Model for Protocol {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let record = |kind| Record {
            kind,
            of: Checkpoint::First,
            manifest: THE_FIRST,
            by: NOBODY,
            acknowledged: true,
        };
        let mut log = vec![record(Kind::Commit)];
        if self.forgotten {
            log.push(record(Kind::Forget));
        }
        let writer = Writer {
            at: At::Start,
            lease: 0,
            seen: 0,
            found: 0,
            tried: 0,
            own: 0,
        };
        let gc = Gc {
            phase: Phase::Start,
            doomed: 0,
            waits: 0,
            others: 0,
            live: Needs::default(),
            exist: 0,
            deletes: 0,
        };
        vec![State {
            packs: bit(FIRST) | bit(FIRST_MANIFEST),
            log,
            leases: 0,
            fences: 0,
            marks: vec![None; self.gcs],
            late_puts: 0,
            late_deletes: 0,
            late_create: None,
            writers: vec![writer; self.writers.len()],
            gcs: vec![gc; self.gcs],
            crashes_left: self.crashes,
            losses_left: self.losses,
            forgets_left: self.forgets,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let answers: &[Answer] = match state.losses_left {
            0 => &[Answer::Given],
            _ => &[Answer::Given, Answer::Lost, Answer::Late],
        };
        for (w, writer) in state.writers.iter().enumerate() {
            events.extend(answers.iter().map(|answer| Event::Write(w, *answer)));
            if writer::may_give_up(w, state) {
                events.push(Event::GiveUp(w));
            }
            if state.crashes_left > 0 && !matches!(writer.at, At::Start | At::Done | At::Crashed) {
                events.push(Event::CrashWriter(w));
            }
        }
        for (g, gc) in state.gcs.iter().enumerate() {
            events.extend(answers.iter().map(|answer| Event::Collect(g, *answer)));
            let leases = sweep::expirable(g, state);
            let each_lease = (0..u16::BITS).map(|place| 1 << place);
            events.extend(
                each_lease
                    .filter(|lease| leases & lease != 0)
                    .map(|lease| Event::Expire(g, lease)),
            );
            if state.crashes_left > 0 && !matches!(gc.phase, Phase::Start | Phase::Done | Phase::Crashed) {
                events.push(Event::CrashGc(g));
            }
        }
        if state.forgets_left > 0 && state.stands_by(Checkpoint::First).is_some() {
            events.push(Event::Forget);
        }
        events.extend(each(state.late_puts).map(|pack| Event::LatePut(bit(pack))));
        events.extend(each(state.late_deletes).map(|pack| Event::LateDelete(bit(pack))));
        if state.late_create.is_some() {
            events.push(Event::LateCreate);
        }
    }

    fn next_state(&self, state: &State, event: Event) -> Option<State> {
        let mut next = state.clone();
        match event {
            Event::Write(w, answer) => {
                next = writer::step(&self.rules, self.writers[w], w, state, answer)?;
            }
            Event::Collect(g, answer) => next = sweep::step(&self.rules, g, state, answer)?,
            Event::Expire(g, lease) => next = sweep::expire(&self.rules, g, state, lease),
            Event::GiveUp(w) => next.writers[w].at = At::Leaving,
            Event::CrashWriter(w) => {
                next.crashes_left -= 1;
                let me = &mut next.writers[w];
                (me.seen, me.found, me.tried, me.own) = (0, 0, 0, 0);
                me.at = At::Crashed;
            }
            Event::CrashGc(g) => {
                next.crashes_left -= 1;
                let me = &mut next.gcs[g];
                (me.phase, me.doomed, me.waits, me.deletes) = (Phase::Crashed, 0, 0, 0);
                (me.others, me.exist) = (0, 0);
                me.live = Needs::default();
            }
            Event::Forget => {
                next.forgets_left -= 1;
                next.log.push(Record {
                    kind: Kind::Forget,
                    of: Checkpoint::First,
                    manifest: THE_FIRST,
                    by: NOBODY,
                    acknowledged: true,
                });
            }
            Event::LatePut(pack) => {
                next.late_puts &= !pack;
                next.packs |= pack;
            }
            Event::LateDelete(pack) => {
                next.late_deletes &= !pack;
                next.packs &= !pack;
            }
            Event::LateCreate => {
                let (place, record) = next.late_create.take()?;
                // Another record under that name: the create fails, and nobody hears of it.
                if usize::from(place) == next.log.len() {
                    next.log.push(record);
                }
            }
        }
        next.forget_ended_leases();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WHOLE, |_, state: &State| state.acknowledged_is_whole()),
            Property::sometimes(GARBAGE_GOES, |_, state: &State| state.first_pack_is_gone()),
            Property::sometimes(FENCED_SAVES, |model: &Self, state: &State| {
                model.done_by(state, |task| matches!(task, Task::Save(_)), |w| w.lease > 0)
            }),
            Property::sometimes(UNDOES, |model: &Self, state: &State| {
                model.done_by(state, |task| task == Task::Undo, |_| true)
            }),
            Property::sometimes(TAGS, |model: &Self, state: &State| {
                model.done_by(state, |task| task == Task::Tag, |_| true)
                    && state.stands_by(Checkpoint::First).is_none()
                    && state.first_pack_is_gone()
            }),
            Property::sometimes(MARK_GOES, |_, state: &State| {
                let mut gcs = state.gcs.iter().zip(&state.marks);
                state.first_pack_is_gone()
                    && gcs.any(|(gc, mark)| gc.phase == Phase::Crashed && mark.is_none())
            }),
        ]
    }
}

impl Protocol {
    /// Whether a writer with such a task, in such a state, is through with a record of its own acknowledged.
    fn done_by(&self, state: &State, task: impl Fn(Task) -> bool, and: impl Fn(&Writer) -> bool) -> bool {
        state.writers.iter().enumerate().any(|(w, writer)| {
            let own = |record: &Record| record.acknowledged && usize::from(record.by) == w;
            task(self.writers[w]) && writer.at == At::Done && and(writer) && state.log.iter().any(own)
        })
    }
}
