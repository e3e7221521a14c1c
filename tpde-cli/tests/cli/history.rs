//! History, drawn.

use crate::world::{World, ran};

/// Promise: `log --graph` draws stored bytes and a metric, oldest on the left, names the first metric by itself and says which there are
/// if another is asked for; it draws where a run comes from, and what is JSON stays as it was.
#[test]
fn a_log_as_a_graph() {
    let world = World::with_run();
    world.checkpoint("out/checkpoint-700", 700);
    world
        .run("save out/checkpoint-700 --run llama --step 700 --metric acc=0.5 --metric loss=nan")
        .expect(0);
    world
        .run("save out/checkpoint-700 --run tuned --step 0 --parent llama@600")
        .expect(0);
    let plain = world.run("log llama").expect(0).out;
    let graph = world.run("log llama --graph").expect(0).out;
    assert!(
        !plain.contains('●') && graph.matches("  ●").count() == 3,
        "{graph}"
    );
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).to_owned()
    };
    // Only the newest has it.
    assert!(
        line(&graph, "acc").contains("··▄  newest 0.5, least 0.5 at 700"),
        "{graph}"
    );
    let stored = line(&graph, "stored ");
    assert!(
        stored.contains('█') && stored.contains('▁') && stored.contains("most "),
        "{stored}"
    );

    let loss = world.run("log llama --graph --metric loss").expect(0).out;
    assert!(
        line(&loss, "loss").contains("▁█!  newest 1.6, least 1.5 at 500, most 1.6 at 600"),
        "{loss}"
    );
    let wrong = world.run("log llama --graph --metric los").expect(3).err;
    assert!(wrong.contains("There are: acc, loss"), "{wrong}");
    world.run("log llama --metric loss").expect(2);

    let all = world.run("log --graph").expect(0).out;
    assert!(all.contains("╰─ from llama@600 ("), "{all}");
    assert_eq!(all.matches("╰─").count(), 1, "{all}");
    assert_eq!(
        world.run("log llama --graph --json").expect(0).out,
        world.run("log llama --json").expect(0).out
    );
}

/// Promise: the heatmap says the share of every cell in figures, with colour and without; columns can be chosen.
#[test]
fn a_diff_as_a_heatmap() {
    let world = World::with_run();
    let map = world.run("diff llama@500 llama@600 --heatmap").expect(0).out;
    let row = |name: &str| {
        let row = map.lines().find(|line| line.trim_start().starts_with(name));
        row.unwrap_or_else(|| panic!("no {name} in:\n{map}")).to_owned()
    };
    assert!(row("layers.0").contains("▒  5.42"), "{map}");
    assert!(row("norm").contains("·     0"), "{map}");
    assert!(map.contains("per cent") && !map.contains("config.json"), "{map}");
    assert!(
        world
            .run("diff llama@500 llama@600 --heatmap --all")
            .expect(0)
            .out
            .contains("config.json")
    );
    let roles = world
        .run("diff llama@500 llama@600 --heatmap=roles")
        .expect(0)
        .out;
    assert!(roles.contains(" weight"), "{roles}");
    let coloured =
        ran(world
            .tpde()
            .env("CLICOLOR_FORCE", "1")
            .args(["diff", "llama@500", "llama@600", "--heatmap"]));
    assert!(
        coloured.out.contains("\x1b[38;5;231;48;5;") && coloured.out.contains("▒  5.42"),
        "{coloured:?}"
    );
    world.run("diff llama@500 llama@600 --heatmap=layers").expect(2);
}

/// Promise: `show` says how deep its tensors lie and what a restore reads, and does so even if some of that is gone.
#[test]
fn what_a_restore_reads() {
    let world = World::with_run();
    let shown = world.run("show llama@600 --json").json();
    assert_eq!(shown["depths"], serde_json::json!([1, 1]));
    assert_eq!(shown["restore"]["packs"], 2);
    let explained = world.run("explain llama@600 --json").json();
    for name in ["pieces", "read_bytes"] {
        assert_eq!(shown["restore"][name], explained["restore"][name], "{name}");
    }
    let text = world.run("show llama@600").expect(0).out;
    assert!(
        text.contains("at most 1 link; 1 tensor with none, 1 with 1"),
        "{text}"
    );
    assert!(
        text.contains("pieces of 2 packs") && text.contains("loss 1.6") && text.contains("tried"),
        "{text}"
    );
    std::fs::remove_dir_all(world.path("ckpts/packs")).expect("packs");
    let text = world.run("show llama@600").expect(0).out;
    assert!(text.contains("`tpde verify llama@600` tells"), "{text}");
    assert!(world.run("show llama@600 --json").json()["restore"].is_null());
}
