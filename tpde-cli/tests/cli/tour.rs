//! The way through the README.

use std::collections::BTreeMap;
use std::path::Path;

use crate::world::World;

/// Every file below `dir`, by its path.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").display().to_string();
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// Promise: the commands of the README work in their order, and every file comes back byte for byte.
#[test]
fn readme() {
    let world = World::empty();
    world.checkpoint("out/checkpoint-500", 500);
    world.checkpoint("out/checkpoint-600", 600);
    assert!(world.run("init store").expect(0).out.contains("made"));
    let saved = world.run("save out/checkpoint-500 --store store --run llama --step 500");
    assert!(saved.expect(0).out.contains("llama@500"));
    let later = |line: &str| crate::world::ran(world.tpde().env("TPDE_STORE", "store").args(line.split(' ')));
    later("save out/checkpoint-600 --run llama --step 600").expect(0);
    let log = later("log llama").expect(0).out;
    let (newer, older) = (log.find(" 600 "), log.find(" 500 "));
    assert!(newer.is_some() && newer < older, "{log}");
    let diff = later("diff llama@500 llama@600").expect(0).out;
    assert!(
        diff.contains("model.layers.0.weight") && diff.contains("config.json"),
        "{diff}"
    );
    assert!(!diff.contains("model.norm.weight"), "it did not change:\n{diff}");
    later("restore llama@500 restored").expect(0);
    assert_eq!(
        files(&world.path("restored")),
        files(&world.path("out/checkpoint-500"))
    );
    later("restore llama@latest restored --overwrite").expect(0);
    assert_eq!(
        files(&world.path("restored")),
        files(&world.path("out/checkpoint-600"))
    );
}

/// Promise: the rest of a checkpoint's life: tags, parts of it, checks, what it costs.
#[test]
fn the_other_commands() {
    let world = World::with_run();
    let again = world
        .run("save out/checkpoint-600 --run llama --step 600")
        .expect(0);
    assert!(again.out.contains("already there"), "{}", again.out);
    for reference in ["llama@600", "llama", "llama~0", "best"] {
        let shown = world.run(&format!("show {reference}")).expect(0).out;
        assert!(
            shown.starts_with("llama@600") && shown.contains("llama@500"),
            "{shown}"
        );
    }
    assert!(world.run("tag").expect(0).out.contains("best"));
    assert!(world.run("tag best").expect(0).out.contains("llama@600"));
    world.run("tag best llama@500 --force").expect(0);
    assert!(world.run("log llama").expect(0).out.contains("best"));
    world.run("tag --delete best").expect(0);
    assert!(world.run("tag").expect(0).out.contains("no tags yet"));

    assert!(
        world
            .run("ls llama")
            .expect(0)
            .out
            .contains("tokenizer/vocab.txt")
    );
    assert!(
        world
            .run("ls llama --tensors")
            .expect(0)
            .out
            .contains("model.norm.weight")
    );
    world.run("restore llama part --tensors *.norm.*").expect(0);
    assert_eq!(files(&world.path("part")).len(), 1);
    world
        .run("restore llama json --files *.json --files *.txt")
        .expect(0);
    assert_eq!(files(&world.path("json")).len(), 2);
    for level in ["", "--quick", "--read-data", "--restore", "llama@500 --restore"] {
        let verified = world.run(&format!("verify {level}")).expect(0).out;
        assert!(verified.contains("no problems"), "{verified}");
    }
    assert!(world.run("stats").expect(0).out.contains("packs"));
    assert!(world.run("diff llama llama").expect(0).out.contains("identical"));
    assert!(world.run("completions bash").expect(0).out.contains("_tpde"));
}

/// Promise: a fine-tune starts from its parent, a plain file stays plain, and depth 0 stores anchors.
#[test]
fn choices_of_a_save() {
    let world = World::with_run();
    world.checkpoint("tuned", 700);
    let save = "save tuned --run tuned --step 0 --json";
    let saved = world
        .run(&format!("{save} --parent llama@600 --expect-parent none"))
        .expect(0)
        .json();
    assert_eq!(saved["new_tensors"], 1);
    let shown = world.run("show tuned --json").json();
    assert_eq!(
        (&shown["parent"]["run"], &shown["max_depth"]),
        (&"llama".into(), &2.into())
    );

    world
        .run("save tuned --run plain --step 0 --opaque *.safetensors")
        .expect(0);
    assert_eq!(world.run("show plain --json").json()["tensors"], 0);
    world.checkpoint("tuned", 701);
    world
        .run("save tuned --run tuned --step 1 --max-depth 0 --expect-parent tuned@0")
        .expect(0);
    assert_eq!(world.run("show tuned --json").json()["max_depth"], 0);
}
