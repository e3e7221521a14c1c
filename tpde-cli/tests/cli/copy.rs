//! From one store into another.

use crate::tour::files;
use crate::world::World;

/// Promise: what was copied restores as it was saved; a dry run writes nothing, a second copy neither; the screens say what went.
#[test]
fn there_and_nothing_twice() {
    let world = World::with_run();
    world.run("init other").expect(0);
    let dry = world.run("copy ckpts other --dry-run").expect(0).out;
    assert!(dry.contains("would copy") && dry.contains("llama@500"), "{dry}");
    assert!(
        world
            .run("log --store other")
            .expect(0)
            .out
            .contains("no checkpoints yet")
    );

    let one = world.run("copy ckpts other llama@600").expect(0).out;
    assert!(one.contains("1 checkpoint, 0 already there"), "{one}");
    let rest = world.run("copy ckpts other --tags").expect(0).out;
    assert!(
        rest.contains("1 checkpoint, 1 already there") && rest.contains("best"),
        "{rest}"
    );
    let again = world.run("copy ckpts other --tags").expect(0).out;
    assert!(
        again.contains("0 checkpoints, 2 already there") && again.contains("0 B in 0 packs"),
        "{again}"
    );

    for step in [500, 600] {
        world
            .run(&format!("restore llama@{step} back{step} --store other"))
            .expect(0);
        let restored = files(&world.path(&format!("back{step}")));
        assert_eq!(restored, files(&world.path(&format!("out/checkpoint-{step}"))));
    }
    let shown = world.run("show best --store other --json").json();
    let first = world.run("show best --json").json();
    assert_eq!(shown["environment"]["copy-of"], first["manifest"]);
    for name in ["fingerprint", "metrics", "note", "created_unix_ms", "step"] {
        assert_eq!(shown[name], first[name], "{name}");
    }
    assert!(
        world
            .run("verify --restore --store other")
            .expect(0)
            .out
            .contains("no problems")
    );
}

/// Promise: what is in the way, or not there, is said with the way out, by the exit codes that there are.
#[test]
fn what_is_refused() {
    let world = World::with_run();
    world.run("init other").expect(0);
    world
        .run("save out/checkpoint-600 --run llama --step 500 --store other")
        .expect(0);
    for (line, code, says) in [
        ("copy ckpts other", 5, "--replace"),
        ("copy ckpts nowhere", 3, "tpde init"),
        ("copy ckpts other nope", 3, "There are: llama"),
        ("copy ckpts other llama@", 2, "run@step"),
        ("copy ckpts other --store ckpts", 2, "tpde copy SRC DST"),
    ] {
        let said = world.run(line).expect(code).err;
        assert!(said.contains(says), "{line}: {said}");
    }
    let replaced = world.run("copy ckpts other --replace").expect(0).out;
    assert!(replaced.contains("in the place of another"), "{replaced}");
    world.damage_packs();
    world.run("init third").expect(0);
    world.run("copy ckpts third").expect(4);
}
