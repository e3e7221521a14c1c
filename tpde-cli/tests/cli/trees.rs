//! Trees of checkpoints, as trainers keep them: out of a store, and into one.

use crate::tour::files;
use crate::world::World;

/// Promise: an export writes what was saved, into a folder a step; again it compares and writes nothing; what is in the way stays.
#[test]
fn export() {
    let world = World::with_run();
    let said = world.run("export llama tree").expect(0).out;
    assert!(
        said.contains("2 checkpoints") && said.contains("tree/checkpoint-600"),
        "{said}"
    );
    assert_eq!(files(&world.path("tree")), files(&world.path("out")));
    let again = world.run("export llama tree --last 1 --json").expect(0).json();
    assert_eq!(
        (&again["bytes"], &again["checkpoints"][0]["already_there"]),
        (&0.into(), &true.into())
    );
    assert_eq!(again["checkpoints"].as_array().map(Vec::len), Some(1));

    let config = world.path("tree/checkpoint-500/config.json");
    std::fs::write(&config, "mine").expect("a file");
    let refused = world.run("export llama tree").expect(1).err;
    assert!(refused.contains("--overwrite"), "{refused}");
    assert_eq!(std::fs::read(&config).expect("a file"), b"mine");
    world.run("export llama tree --overwrite").expect(0);
    assert_eq!(files(&world.path("tree")), files(&world.path("out")));

    world.run("export best one").expect(0);
    world.run("export llama some --steps 500").expect(0);
    assert!(world.path("one/checkpoint-600").is_dir() && !world.path("one/checkpoint-500").exists());
    assert!(world.path("some/checkpoint-500").is_dir() && !world.path("some/checkpoint-600").exists());
    for (line, code, says) in [
        ("export llama some --steps 501", 3, "500, 600"),
        ("export best some --last 1", 2, "Name a run"),
        ("export llama some --last 1 --steps 500", 2, "cannot be used with"),
        ("export nope some", 3, "There are: "),
    ] {
        let said = world.run(line).expect(code).err;
        assert!(said.contains(says), "{line}: {said}");
    }
}

/// Promise: an import shows what it will do and does it only when told to; it takes steps in the order of their numbers with all that
/// lies in their folders, passes over the rest and says why; again it compares and writes nothing.
#[test]
fn import() {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    for step in [1000, 200, 90] {
        world.checkpoint(&format!("tree/checkpoint-{step}"), step);
    }
    let deepspeed = world.path("tree/checkpoint-200/global_step200");
    std::fs::create_dir(&deepspeed).expect("a folder");
    std::fs::write(
        deepspeed.join("mp_rank_00_model_states.pt"),
        "PK\x03\x04, and no archive",
    )
    .expect("a file");
    std::fs::write(world.path("tree/checkpoint-200/latest"), "global_step200").expect("a file");
    world.checkpoint("tree/epoch_1", 1);
    world.checkpoint("tree/step-200", 200);
    std::fs::create_dir(world.path("tree/checkpoint-300")).expect("a folder");
    std::fs::write(world.path("tree/trainer_state.json"), "{}").expect("a file");

    let asked = world.run("import tree --run llama").expect(2);
    assert!(
        asked.err.contains("--yes") && asked.out.contains("to import"),
        "{asked:?}"
    );
    let shown = world.run("import tree --run llama --dry-run").expect(0).out;
    for (name, why) in [
        ("epoch_1", "counts epochs"),
        ("step-200", "checkpoint-200 is step 200 already"),
        ("checkpoint-300", "empty"),
        ("trainer_state.json", "no step's"),
    ] {
        let line = shown.lines().find(|line| line.trim_start().starts_with(name));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {shown}");
    }
    assert!(world.run("log").expect(0).out.contains("no checkpoints yet"));

    world.run("import tree --run llama --yes").expect(0);
    let log = world.run("log llama --json").json();
    let steps: Vec<_> = log["checkpoints"]
        .as_array()
        .expect("checkpoints")
        .iter()
        .map(|c| c["step"].clone())
        .collect();
    assert_eq!(steps, [1000, 200, 90]);
    world.run("export llama back").expect(0);
    for step in [90, 200, 1000] {
        let folder = format!("checkpoint-{step}");
        assert_eq!(
            files(&world.path("back").join(&folder)),
            files(&world.path("tree").join(&folder))
        );
    }
    // What is no tensor file although its name says so is kept, and said.
    let again = world.run("import tree --run llama --yes --json").json();
    let notice = &again["checkpoints"][1]["notices"][0];
    assert_eq!(notice["kind"], "kept_whole", "{again}");
    assert_eq!(again["stored_bytes"], 0);
    assert_eq!(again["checkpoints"][0]["outcome"], "already_there");
}

/// Promise: an import that was cut short goes on; a step with other files ends it before anything is written; a folder that holds none
/// is refused with a way out.
#[test]
fn imports_that_go_on_or_not() {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    for step in [1, 2, 3] {
        world.checkpoint(&format!("tree/step_{step}"), step);
    }
    world.run("save tree/step_1 --run llama --step 1").expect(0);
    let went_on = world.run("import tree --run llama --yes --json").json();
    let outcomes: Vec<_> = went_on["checkpoints"]
        .as_array()
        .expect("list")
        .iter()
        .map(|c| c["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["already_there", "saved", "saved"]);

    world.checkpoint("tree/step_4", 4);
    std::fs::write(world.path("tree/step_2/more.txt"), "more").expect("a file");
    let refused = world.run("import tree --run llama --yes").expect(5);
    assert!(
        refused.err.contains("step_2") && refused.err.contains("--replace"),
        "{refused:?}"
    );
    assert!(!world.run("log llama").expect(0).out.contains("  4  "));

    for (tree, says) in [
        (".", "There are some in ./tree"),
        ("tree/step_1", "looks like a checkpoint itself"),
        ("cache", "global_step500"),
    ] {
        let said = world.run(&format!("import {tree} --run x --yes")).expect(1).err;
        assert!(said.contains(says), "{tree}: {said}");
    }
    world.run("import nowhere --run x --yes").expect(3);
}
