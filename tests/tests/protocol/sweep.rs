//! What a gc does, request by request.
//!
//! ```text
//! list all ─ PUT mark ─ LIST leases ─ wait, fence the expired ─ LIST marks ─ LIST slots ─ LIST tags ─ LIST packs ─┬ DELETE … ─ DELETE mark
//!                                                                                   a doubt: nothing is deleted ──┘
//! ```

use crate::packs::{MANIFESTS, Packs, bit, redundant};
use crate::rules::Rules;
use crate::state::{Gc, Needs, Phase, State};
use crate::writer::Answer;

/// One step of gc `g`; `None` if it has none of this kind.
pub(crate) fn step(rules: &Rules, g: usize, state: &State, answer: Answer) -> Option<State> {
    let mut next = state.clone();
    let mut me = state.gcs[g];
    if answer != Answer::Given && (me.phase != Phase::Deleting || me.deletes == 0) {
        return None;
    }
    me.phase = match me.phase {
        Phase::Start => {
            let live = state.slots_need().and(state.tags_need());
            if live.met_by(state.packs) {
                let names = match rules.mark_named_manifests_only {
                    true => state.named(),
                    false => MANIFESTS,
                };
                me.doomed = redundant(state.packs, state.packs, live.contents, g == 0);
                me.doomed |= state.packs & names & MANIFESTS & !live.manifests;
            }
            match me.doomed {
                0 => Phase::Deleting,
                _ => Phase::Computed,
            }
        }
        Phase::Computed => {
            next.marks[g] = Some(me.doomed);
            Phase::Marked
        }
        Phase::Marked => {
            // A fenced lease has ended: its writer will look, and find the fence.
            me.waits = match rules.wait_for_leases {
                true => state.leases & !state.fences,
                false => 0,
            };
            Phase::Waiting
        }
        Phase::Waiting if me.waits & state.leases & !state.fences != 0 => return None,
        Phase::Waiting => {
            me.waits = 0;
            match rules.marks_before_packs {
                true => Phase::ListingMarks,
                false => Phase::ListingSlots,
            }
        }
        Phase::ListingMarks => {
            if rules.heed_other_marks {
                me.others = state.marked(Some(g));
            }
            match rules.marks_before_packs {
                true => Phase::ListingSlots,
                false => decide(rules, g, &mut me),
            }
        }
        Phase::ListingSlots => {
            me.live = state.slots_need();
            Phase::ListingTags
        }
        Phase::ListingTags => {
            me.live = me.live.and(state.tags_need());
            Phase::ListingPacks
        }
        Phase::ListingPacks => {
            me.exist = state.packs;
            match rules.marks_before_packs {
                true => decide(rules, g, &mut me),
                false => Phase::ListingMarks,
            }
        }
        Phase::Deleting if me.deletes != 0 => return delete(rules, g, state, answer),
        Phase::Deleting => {
            for (of, mark) in next.marks.iter_mut().enumerate() {
                if mark.is_some_and(|packs| may_go(rules, of == g, packs, state)) {
                    *mark = None;
                }
            }
            if !rules.fences_stay {
                next.fences = 0;
            }
            Phase::Done
        }
        Phase::Done | Phase::Crashed => return None,
    };
    next.gcs[g] = me;
    Some(next)
}

/// Leases that gc `g` may find expired now; whether their writers live is not known.
pub(crate) fn expirable(g: usize, state: &State) -> u16 {
    let me = state.gcs[g];
    match me.phase {
        Phase::Waiting => me.waits & state.leases & !state.fences,
        _ => 0,
    }
}

/// Gc `g` finds `lease` expired.
pub(crate) fn expire(rules: &Rules, g: usize, state: &State, lease: u16) -> State {
    let mut next = state.clone();
    match rules.fence_expired {
        true => next.fences |= lease,
        false => next.gcs[g].waits &= !lease,
    }
    next
}

/// Whether a mark of these packs can be removed.
///
/// That a request is still on its way, or will be repeated, cannot be seen; that it is not, is known once the grace has
/// passed since it was first sent. A gc knows which of its own deletes were not answered.
fn may_go(rules: &Rules, own: bool, packs: Packs, state: &State) -> bool {
    if own {
        return !rules.answered_before_unmarking || packs & state.late_deletes == 0;
    }
    let gone = packs & state.packs == 0;
    let settled = packs & state.unsettled() == 0;
    (gone || !rules.retire_empty_marks_only) && (settled || !rules.retire_after_grace)
}

/// What of its mark can go, as far as its lists say.
fn decide(rules: &Rules, g: usize, me: &mut Gc) -> Phase {
    let relied_on = me.exist & !me.others;
    let marked = me.doomed & me.exist;
    me.deletes = match rules.reach_again {
        // In doubt, nothing.
        true if !me.live.met_by(relied_on) => 0,
        true => {
            let manifests = marked & MANIFESTS & !me.live.manifests;
            manifests | redundant(marked, relied_on, me.live.contents, g == 0)
        }
        false => marked,
    };
    (me.others, me.exist, me.doomed) = (0, 0, 0);
    me.live = Needs::default();
    Phase::Deleting
}

fn delete(rules: &Rules, g: usize, state: &State, answer: Answer) -> Option<State> {
    let mut next = state.clone();
    let pack = bit(state.gcs[g].deletes.trailing_zeros() as usize);
    match answer {
        Answer::Given => {
            next.packs &= !pack;
            next.gcs[g].deletes &= !pack;
        }
        // No other than `Late` that lands at once.
        Answer::Lost => return None,
        Answer::Late => {
            next.losses_left = state.losses_left.checked_sub(1)?;
            next.late_deletes |= pack;
            if !rules.answered_before_unmarking {
                next.gcs[g].deletes &= !pack;
            }
        }
    }
    Some(next)
}
