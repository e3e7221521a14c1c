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

use std::env;
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
        ("another lease after a miss", Rules { another_lease_after_miss: false, ..all }, one_loss(stands(save()))),
        ("look for the fence", Rules { look_for_fence: false, ..all }, save()),
        ("confirm what is there", Rules { confirm_what_is_there: false, ..all }, with(&[Save(Next), Save(Next)])),
        ("manifests that are named", Rules { mark_named_manifests_only: false, commit_again_without_manifest: false, ..all }, save()),
        ("commit again without manifest", Rules { commit_again_without_manifest: false, ..all }, with(&[Save(Next), Save(Next)])),
        ("mark named only", Rules { mark_named_manifests_only: false, ..all }, with(&[Save(Next), Save(Next)])),
        ("a lease to undo", Rules { lease_to_keep: false, ..all }, with(&[Undo])),
        ("a lease to tag", Rules { lease_to_keep: false, ..all }, tag),
        ("names of the lease: never", Rules { names: Names::OfTheContents, ..all }, with(&[Save(Same)])),
        ("names of the lease: if marked, late delete", Rules { names: Names::SaltedIfMarked, ..all }, one_loss(with(&[Save(Same)]))),
        ("names of the lease: if marked, two gcs", Rules { names: Names::SaltedIfMarked, ..all }, two_gcs(with(&[Save(Same)]))),
        ("repack leaves the old", Rules { repack_leaves_old: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("wait for leases", Rules { wait_for_leases: false, ..all }, save()),
        ("fence the expired", Rules { fence_expired: false, ..all }, save()),
        ("fences stay", Rules { fences_stay: false, ..all }, save()),
        ("reach again", Rules { reach_again: false, ..all }, save()),
        ("heed others' marks", Rules { heed_other_marks: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("marks before packs", Rules { marks_before_packs: false, ..all }, two_gcs(stands(with(&[Repack])))),
        ("retire empty marks only", Rules { retire_empty_marks_only: false, ..all }, two_gcs(save())),
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
            println!("XX without `{name}` nothing is lost in {} states", without.states);
continue;
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
    let faults = |writers: &[Task]| Protocol {
        crashes: 1,
        losses: 1,
        ..with(writers)
    };
    let stands = |protocol, forgets| Protocol {
        forgotten: false,
        forgets,
        ..protocol
    };
    let two_gcs = |protocol| Protocol { gcs: 2, ..protocol };
    let saves = [GARBAGE_GOES, FENCED_SAVES];
    let undoes = [GARBAGE_GOES, UNDOES];
    let collects = [GARBAGE_GOES, MARK_GOES];

    holds(
        "two saves of one step",
        &faults(&[Save(Next), Save(Next)]),
        &saves,
    );
    holds("save, undo", &faults(&[Save(Next), Undo]), &undoes);
    let tag = faults(&[Save(Next), Tag]);
    holds("save, tag", &stands(tag, 1), &[GARBAGE_GOES, TAGS]);
    holds("save, repack", &stands(faults(&[Save(Next), Repack]), 1), &saves);
    holds("save, two gcs", &two_gcs(faults(&[Save(Next)])), &collects);
    holds("undo, two gcs", &two_gcs(faults(&[Undo])), &undoes);
    let repack = Protocol {
        losses: 0,
        ..faults(&[Save(Same), Repack])
    };
    holds("save, repack, two gcs", &two_gcs(stands(repack, 0)), &collects);
    if env::var_os("TPDE_SOAK").is_none_or(|value| value != "1") {
        return;
    }

    let more = |protocol| Protocol {
        crashes: 2,
        losses: 2,
        ..protocol
    };
    holds(
        "soak: two saves",
        &more(faults(&[Save(Next), Save(Same)])),
        &saves,
    );
    holds(
        "soak: one save, two gcs",
        &more(two_gcs(faults(&[Save(Next)]))),
        &collects,
    );
    holds(
        "soak: undo, repack, two gcs",
        &two_gcs(faults(&[Undo, Repack])),
        &undoes,
    );
    holds(
        "soak: save, undo, two gcs",
        &two_gcs(with(&[Save(Next), Undo])),
        &undoes,
    );
    holds(
        "soak: three writers",
        &with(&[Save(Next), Undo, Save(Same)]),
        &undoes,
    );
}
