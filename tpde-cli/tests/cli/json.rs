//! What programs read: docs/json.md, held against the binary.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::world::{Ran, World};

/// The page.
fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md");
    std::fs::read_to_string(path).expect("docs/json.md")
}

/// The first example under each heading of a command.
fn examples() -> BTreeMap<String, Value> {
    let page = page();
    let sections = page.split("\n## ").skip(1);
    let example = |section: &str| {
        let heading = section.lines().next()?.trim_matches('`').to_owned();
        let (_, rest) = section.split_once("```json\n")?;
        let (json, _) = rest.split_once("```")?;
        let value = serde_json::from_str(json).expect("the examples are JSON");
        Some((heading, value))
    };
    sections.filter_map(example).collect()
}

/// Every field of `value` by its path; the elements of a list count as one.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let at = format!("{at}.{name}");
                found.insert(at.clone());
                fields(value, &at, found);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| fields(value, &format!("{at}[]"), found)),
        _ => {}
    }
}

/// A line of each kind that `tpde watch` says, as if it were an answer, with the heading that it stands under.
fn watched(world: &World) -> BTreeMap<String, Ran> {
    for step in [1, 2] {
        world.checkpoint(&format!("watched/step_{step}"), step);
        let state = format!(r#"{{"log_history": [{{"loss": 1.{step}}}]}}"#);
        std::fs::write(
            world.path(&format!("watched/step_{step}/trainer_state.json")),
            state,
        )
        .expect("a file");
    }
    world.run("init third").expect(0);
    world.run("policy --keep-last 1 --store third").expect(0);
    let line = "watch watched --run llama --once --settle 0 --delete-after-save --prune --store third --json";
    let ran = world.run(line).expect(0);
    let kind = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("one JSON object a line");
        match event["event"].as_str().expect("a word") {
            "saved" => "tpde watch".to_owned(),
            other => format!("tpde watch: {other}"),
        }
    };
    let alone = |line: &str| Ran {
        code: 0,
        out: format!("{line}\n"),
        err: String::new(),
    };
    ran.out.lines().map(|line| (kind(line), alone(line))).collect()
}

/// Promise: every command answers with one object on one line, or one a line, whose fields are exactly those of the example in docs/json.md;
/// every field is explained there.
#[test]
fn fields_are_the_documented_ones() {
    let world = World::with_run();
    world.checkpoint("out/checkpoint-700", 700);
    std::fs::write(world.path("out/latest"), "checkpoint-700").expect("a file");
    let mut examples = examples();
    let mut check = |heading: &str, ran: Ran| {
        let answer = if ran.err.is_empty() {
            ran.json()
        } else {
            serde_json::from_str(&ran.err).expect("one JSON object")
        };
        let example = examples
            .remove(heading)
            .unwrap_or_else(|| panic!("no section {heading}"));
        let [mut found, mut documented] = [BTreeSet::new(), BTreeSet::new()];
        fields(&answer, "", &mut found);
        fields(&example, "", &mut documented);
        assert_eq!(found, documented, "{heading}: the answer, and the example");
    };
    for (heading, line) in [
        ("tpde init", "init second"),
        ("tpde save", "save out/checkpoint-700 --run llama --step 700"),
        ("tpde restore", "restore llama@600 restored"),
        ("tpde log RUN", "log llama"),
        ("tpde log", "log"),
        ("tpde show", "show llama@600"),
        ("tpde explain", "explain llama@600"),
        ("tpde ls", "ls llama@600"),
        ("tpde ls --tensors", "ls llama@600 --tensors"),
        ("tpde diff", "diff llama@500 llama@600"),
        ("tpde diff --heatmap", "diff llama@500 llama@600 --heatmap"),
        ("tpde tag", "tag"),
        ("tpde tag NAME REF", "tag newest llama@700"),
        ("tpde tag --delete", "tag --delete newest"),
        ("tpde forget", "forget llama --keep-last 2 --dry-run"),
        ("tpde policy", "policy --keep-last 3 --keep-every 1000"),
        ("tpde gc", "gc --dry-run"),
        ("tpde repack", "repack"),
        ("tpde du", "du"),
        ("tpde doctor", "doctor"),
        ("tpde repair index", "repair index"),
        ("tpde stats", "stats"),
        ("tpde copy", "copy ckpts second llama best"),
        ("tpde export", "export llama exported --steps 500"),
        ("tpde import", "import out --run imported --yes"),
        ("tpde completions", "completions bash"),
        ("Errors", "show nope"),
    ] {
        check(heading, world.run(&format!("{line} --json")));
    }
    world
        .run("save-part out/checkpoint-600 --run parted --step 1 --parts job --part 0/2 --only *.safetensors")
        .expect(0);
    check(
        "tpde save-part",
        world.run(
            "save-part out/checkpoint-600 --run parted --step 1 --parts job --part 1/2 --only *.json --json",
        ),
    );
    check(
        "tpde commit",
        world.run("commit --run parted --step 1 --parts job --json"),
    );
    for (heading, event) in watched(&world) {
        check(&heading, event);
    }
    world.run("forget llama@500").expect(0);
    check("tpde undo", world.run("undo llama --json"));
    world.damage_packs();
    check("tpde verify", world.run("verify llama@600 --json"));
    check("tpde repair packs", world.run("repair packs --json"));
    world.damage_newest_slot();
    check("tpde repair slots", world.run("repair slots --json"));
    assert!(
        examples.is_empty(),
        "documented, and not there: {:?}",
        examples.keys()
    );

    let page = page();
    let mut all = BTreeSet::new();
    self::examples()
        .values()
        .for_each(|value| fields(value, "", &mut all));
    let unexplained: Vec<_> = all
        .iter()
        .filter_map(|path| path.rsplit('.').next())
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

/// Promise: numbers are what they say.
#[test]
fn sizes_add_up() {
    let world = World::with_run();
    let log = world.run("log llama --json").json();
    assert_eq!(log["run"], "llama");
    let newest = &log["checkpoints"][0];
    let number = |name: &str| newest[name].as_f64().expect("a number");
    assert_eq!((number("seq"), number("step")), (1.0, 600.0));
    let ratio = number("raw_bytes") / number("stored_bytes");
    assert!((number("ratio") - ratio).abs() < 1e-9 * ratio);
    let show = world.run("show llama --json").json();
    for name in [
        "manifest",
        "raw_bytes",
        "stored_bytes",
        "tensors",
        "new_tensors",
        "created_unix_ms",
    ] {
        assert_eq!(show[name], newest[name], "{name}");
    }
    let explained = world.run("explain llama --json").json();
    assert_eq!(explained["stored_bytes"], newest["stored_bytes"]);
    assert!(world.run("explain llama").expect(0).out.contains("all of it"));
    let files = world.run("ls llama --json").json();
    let bytes: u64 = files["files"]
        .as_array()
        .expect("files")
        .iter()
        .filter_map(|file| file["bytes"].as_u64())
        .sum();
    assert_eq!(newest["raw_bytes"], bytes);
    let again = world
        .run("save out/checkpoint-600 --run llama --step 600 --json")
        .json();
    assert_eq!(
        (&again["already_there"], &again["manifest"]),
        (&true.into(), &newest["manifest"])
    );
}
