//! The protocol of saving, forgetting and collecting garbage, as a model whose states are all visited.
//!
//! Each request to the object store is one step; any number of steps of others comes between two of a writer's. A
//! process may stop for ever at any point, a lease may be found expired at any time although its writer lives, and a
//! request without an answer may have taken effect, take effect later, or never. docs/adr/0012 says what follows for
//! the code.
//!
//! `TPDE_SOAK=1` visits larger configurations too. `--nocapture` prints states and losses.

mod explore;
mod model;
mod packs;
mod rules;
mod state;
mod sweep;
mod writer;

use std::time::Instant;

use explore::{explore, explore_shortest};
use model::{FENCED_SAVES, GARBAGE_GOES, MARK_GOES, Protocol, TAGS, UNDOES};
use rules::{Names, Rules};
use state::Checkpoint::{Next, Same};
use writer::Task::{self, Repack, Save, SaveElsewhere, Tag, Undo};

/// One gc and these writers; the first checkpoint is forgotten, and nothing goes wrong but that leases expire.
fn with(writers: &[Task]) -> Protocol {
    Protocol {
        rules: Rules::ALL,
        writers: writers.to_vec(),
        gcs: 1,
        forgotten: true,
        forgets: 0,
        crashes: 0,
        losses: 0,
    }
}

/// The rules with one left out, and who suffers from it.
fn left_out() -> Vec<(&'static str, Rules, Protocol)> {
    let all = Rules::ALL;
    let save = || with(&[Save(Next)]);
    let stands = |protocol| Protocol {
        forgotten: false,
        ..protocol
    };
    let two_gcs = |protocol| Protocol { gcs: 2, ..protocol };
    let one_loss = |protocol| Protocol {
        losses: 1,
        ..protocol
    };
    let tag = Protocol {
        forgets: 1,
        ..stands(with(&[Tag]))
    };
    #[rustfmt::skip]
    let cases = vec![
        ("lease before marks", Rules { lease_before_marks: false, ..all }, save()),
        ("heed marks", Rules { heed_marks: false, ..all }, save()),
        ("heed marks across runs", Rules { heed_marks_across_runs: false, ..all }, with(&[SaveElsewhere(Next)])),
        ("confirm after marks", Rules { confirm_after_marks: false, ..all }, save()),
        ("another lease after a miss", Rules { another_lease_after_miss: false, ..all }, two_gcs(stands(save()))),
        ("look for the fence", Rules { look_for_fence: false, ..all }, save()),
        ("confirm what is there", Rules { confirm_what_is_there: false, ..all }, with(&[Save(Next), Save(Next)])),
        ("manifests that are named", Rules { mark_named_manifests_only: false, commit_again_without_manifest: false, ..all }, save()),
        ("a lease to undo", Rules { lease_to_keep: false, ..all }, with(&[Undo])),
        ("a lease to tag", Rules { lease_to_keep: false, ..all }, tag),
        ("names of the lease: never", Rules { names: Names::OfTheContents, ..all }, with(&[Save(Same)])),
        ("names of the lease: if marked", Rules { names: Names::SaltedIfMarked, ..all }, two_gcs(with(&[Save(Same)]))),
        ("repack leaves the old", Rules { repack_leaves_old: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("wait for leases", Rules { wait_for_leases: false, ..all }, save()),
        ("fence the expired", Rules { fence_expired: false, ..all }, save()),
        ("fences stay", Rules { fences_stay: false, ..all }, save()),
        ("reach again", Rules { reach_again: false, ..all }, save()),
        ("heed others' marks", Rules { heed_other_marks: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("marks before packs", Rules { marks_before_packs: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("retire empty marks only", Rules { retire_empty_marks_only: false, ..all }, two_gcs(save())),
        ("retire after the grace", Rules { retire_after_grace: false, ..all }, one_loss(two_gcs(stands(save())))),
        ("answered before unmarking", Rules { answered_before_unmarking: false, ..all }, one_loss(save())),
    ];
    cases
}

#[test]
fn no_rule_can_be_left_out() {
    // Promise: each rule is there for a loss that happens without it, and that all rules together prevent.
    for (name, rules, protocol) in left_out() {
        assert_ne!(rules, Rules::ALL, "{name}: nothing is left out");
        let without = explore_shortest(&Protocol {
            rules,
            ..protocol.clone()
        });
        let Some(loss) = without.loss else {
            panic!("without `{name}` nothing is lost in {} states", without.states);
        };
        println!("without `{name}`, after {} steps:", loss.len());
        loss.iter().for_each(|step| println!("    {step}"));
        let all = explore(&protocol);
        assert!(
            all.loss.is_none(),
            "with `{name}` still: {:#?}",
            all.loss.unwrap_or_default()
        );
    }
}

/// Visits all states; `happens`: what must be seen in some.
fn holds(name: &str, protocol: &Protocol, happens: &[&str]) {
    let start = Instant::now();
    let found = explore(protocol);
    println!(
        "{name}: {} states, {} deep, {:.1} s; {:?}",
        found.states,
        found.depth,
        start.elapsed().as_secs_f64(),
        found.seen
    );
    assert!(
        found.loss.is_none(),
        "{name}: {:#?}",
        found.loss.unwrap_or_default()
    );
    for what in happens {
        assert!(
            found.seen.contains(what),
            "{name}: never seen: {what}; seen: {:?}",
            found.seen
        );
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    // Promise: with every rule kept, no crash, lost answer or expired lease costs a commit, an undo or a tag that was
    // acknowledged; and garbage goes, also after a gc that crashed.
    let crash = |writers: &[Task]| Protocol {
        crashes: 1,
        ..with(writers)
    };
    let loss = |writers: &[Task]| Protocol {
        losses: 1,
        ..with(writers)
    };
    let both = |writers: &[Task]| Protocol {
        losses: 1,
        ..crash(writers)
    };
    // The first checkpoint stands, and may be forgotten at any time.
    let stands = |protocol| Protocol {
        forgotten: false,
        forgets: 1,
        ..protocol
    };
    let two_gcs = |protocol| Protocol { gcs: 2, ..protocol };
    let saves = [GARBAGE_GOES, FENCED_SAVES];
    let undoes = [GARBAGE_GOES, UNDOES];
    let collects = [GARBAGE_GOES, MARK_GOES];
    let (save, same_step) = ([Save(Next)], [Save(Next), Save(Next)]);
    let (tag, repack) = ([Save(Next), Tag], [Save(Next), Repack]);

    #[rustfmt::skip]
    let configurations = [
        ("two saves of one step, a crash", crash(&same_step), saves),
        ("save, undo, a crash, a loss", both(&[Save(Next), Undo]), undoes),
        ("save, tag, a loss", stands(loss(&tag)), [GARBAGE_GOES, TAGS]),
        ("save, repack, a crash, a loss", stands(both(&repack)), saves),
        ("save, two gcs, a crash", two_gcs(crash(&save)), collects),
        ("save, two gcs, a loss", two_gcs(stands(loss(&save))), saves),
        ("undo, two gcs, a crash, a loss", two_gcs(both(&[Undo])), undoes),
        ("save, repack, two gcs, a crash", two_gcs(Protocol { forgets: 0, ..stands(crash(&[Save(Same), Repack])) }), collects),
    ];
    for (name, protocol, happens) in configurations {
        holds(name, &protocol, &happens);
    }
    if !tpde_tests::soak() {
        return;
    }

    let more = |protocol| Protocol {
        crashes: 2,
        losses: 2,
        ..protocol
    };
    #[rustfmt::skip]
    let larger = [
        ("soak: two saves of one step, a crash, a loss", both(&same_step), saves),
        ("soak: save, tag, a crash, a loss", stands(both(&tag)), [GARBAGE_GOES, TAGS]),
        ("soak: save, two gcs, a crash, a loss", two_gcs(stands(both(&save))), collects),
        ("soak: undo, two gcs, two of each", more(two_gcs(with(&[Undo]))), undoes),
        ("soak: undo, repack, two gcs", two_gcs(with(&[Undo, Repack])), undoes),
        ("soak: save, two of each", more(stands(with(&save))), saves),
        ("soak: two saves, two losses", Protocol { losses: 2, ..with(&[Save(Next), Save(Same)]) }, saves),
        ("soak: save, undo, two gcs", two_gcs(with(&[Save(Next), Undo])), undoes),
    ];
    for (name, protocol, happens) in larger {
        holds(name, &protocol, &happens);
    }
}
