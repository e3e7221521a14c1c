//! Forgetting, and putting back.

use crate::world::World;

/// Promise: a dry run says what goes and what stays and why, and changes nothing; what is forgotten leaves the log until it is put
/// back; every screen names the next step.
#[test]
fn there_and_back() {
    let world = World::with_run();
    let before = world.run("log llama").expect(0).out;
    let dry = world.run("forget llama --keep-last 1 --dry-run").expect(0).out;
    assert!(
        dry.contains("would forget") && dry.contains("newest, last 1"),
        "{dry}"
    );
    assert_eq!(world.run("log llama").expect(0).out, before);

    let done = world.run("forget llama --keep-best loss:1:max").expect(0).out;
    assert!(
        done.contains("forgot") && done.contains("`tpde undo llama` puts them back"),
        "{done}"
    );
    let log = world.run("log llama").expect(0).out;
    assert!(
        log.contains("1 checkpoint,") && !log.contains("forgotten"),
        "{log}"
    );
    let all = world.run("log llama --all").expect(0).out;
    assert!(
        all.contains("2 checkpoints,") && all.contains("forgotten"),
        "{all}"
    );
    let gone = world.run("restore llama@500 back").expect(3).err;
    assert!(gone.contains("tpde undo llama"), "{gone}");

    world.run("undo llama").expect(0);
    assert_eq!(world.run("log llama").expect(0).out, before);
    world.run("undo llama").expect(3);
}

/// Promise: rules that keep nothing, or that do not go with what is named, are refused with what to type instead.
#[test]
fn what_is_refused() {
    let world = World::with_run();
    for (line, code, says) in [
        ("forget llama", 1, "--keep-last N"),
        ("forget llama --keep-last 0", 1, "from 1 on"),
        ("forget llama --keep-best acc:1", 1, "There are: loss"),
        ("forget llama@500 --keep-last 1", 2, "without rules"),
        ("forget llama --keep-within soon", 2, "7d"),
        ("forget llama --keep-best loss", 2, "loss:3"),
        ("forget nope --keep-last 1", 3, "There are: llama"),
    ] {
        let said = world.run(line).expect(code).err;
        assert!(said.contains(says), "{line}: {said}");
    }
    assert!(world.run("log llama").expect(0).out.contains("2 checkpoints,"));
}

/// Promise: the policy that the store keeps is applied by `save --prune` alone, and without one that is refused before anything is
/// written.
#[test]
fn the_stores_policy() {
    let world = World::with_run();
    world.checkpoint("out/checkpoint-700", 700);
    let refused = world
        .run("save out/checkpoint-700 --run llama --step 700 --prune")
        .expect(3);
    assert!(refused.err.contains("tpde policy --keep-last"), "{}", refused.err);
    // Not the step's digits: an id may have them.
    assert!(world.run("log llama").expect(0).out.contains("2 checkpoints,"));

    let shown = world
        .run("policy --keep-last 2 --keep-within 7d --keep-best loss:1")
        .expect(0)
        .out;
    assert!(
        shown.contains("--keep-within 1w") && shown.contains("--keep-best loss:1"),
        "{shown}"
    );
    world.run("policy --keep-last 2").expect(0);
    let saved = world
        .run("save out/checkpoint-700 --run llama --step 700 --prune")
        .expect(0);
    assert!(saved.out.contains("500, by the policy"), "{}", saved.out);
    let log = world.run("log llama").expect(0).out;
    assert!(log.contains("2 checkpoints,"), "{log}");

    world.run("policy --keep-best acc:1").expect(0);
    world.checkpoint("out/checkpoint-800", 800);
    let saved = world
        .run("save out/checkpoint-800 --run llama --step 800 --prune")
        .expect(0);
    assert!(saved.out.contains("nothing was forgotten"), "{}", saved.out);
    assert!(world.run("policy --clear").expect(0).out.contains("no policy"));
}
