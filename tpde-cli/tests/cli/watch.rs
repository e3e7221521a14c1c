//! A watch beside a trainer: what it saves, when, and what it deletes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::tour::files;
use crate::world::{Ran, World, ran};

/// Files of a checkpoint whose deletion is to be met half done.
const MANY: usize = 600;

/// A watch that runs until it is ended.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    /// Starts `tpde watch out --run llama`, with short times and `more`.
    fn start(world: &World, more: &str) -> Self {
        let line = format!("watch out --run llama --every 0.02 --settle 0.1 --json {more}");
        let mut child = world
            .tpde()
            .args(line.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tpde starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut watch = Self { child, lines };
        watch.wait_for("watching", "out");
        watch
    }

    /// Waits for an event of the checkpoint `name`; any other line of this one's in between is a failure.
    #[track_caller]
    fn wait_for(&mut self, event: &str, name: &str) -> Value {
        self.wait_for_one(event, Some(name))
    }

    #[track_caller]
    fn wait_for_one(&mut self, event: &str, name: Option<&str>) -> Value {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("a pipe");
            assert!(!line.is_empty(), "it ended before {event} of {name:?}");
            let told: Value = serde_json::from_str(&line).expect("one JSON object a line");
            if told["event"] == event && told["name"].as_str() == name {
                return told;
            }
            let is_only_written = told["message"] == "it is being written";
            assert!(
                name.is_none() || told["name"].as_str() != name || is_only_written,
                "{told} comes before {event}"
            );
        }
    }

    /// Sends it a signal and gives its exit code, if it ended by itself, and what it said on standard error.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let kill = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(kill.expect("kill starts").success());
        let status = self.child.wait().expect("tpde ends");
        let said = std::io::read_to_string(self.child.stderr.take().expect("a pipe"));
        (status.code(), said.expect("UTF-8"))
    }
}

impl Drop for Watch {
    /// A test that fails leaves no process behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn world() -> World {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    world
}

/// Writes a checkpoint elsewhere, and then lets it be there all at once: a machine that is busy may take any time for several files.
fn arrives(world: &World, name: &str, step: u64) {
    world.checkpoint("away", step);
    fs::create_dir_all(world.path("out")).expect("a folder");
    fs::rename(world.path("away"), world.path("out").join(name)).expect("a folder");
}

/// The steps of the run, oldest first.
fn steps(world: &World) -> Vec<u64> {
    let log = world.run("log llama --json").json();
    let commits = log["checkpoints"].as_array().expect("a list").iter();
    commits
        .rev()
        .map(|commit| commit["step"].as_u64().expect("a step"))
        .collect()
}

/// Runs a watch that ends by itself; its events.
#[track_caller]
fn once(world: &World, more: &str, code: i32) -> (Vec<Value>, Ran) {
    let ran = world
        .run(&format!(
            "watch out --run llama --once --settle 0.05 --json {more}"
        ))
        .expect(code);
    let told = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    (told.collect(), ran)
}

/// What was told of a checkpoint: the events, and of the last one the message.
fn told(events: &[Value], name: &str) -> (Vec<String>, String) {
    let of = events.iter().filter(|event| event["name"] == name);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let last = of.clone().next_back().map(|event| text(event, "message"));
    (
        of.map(|event| text(event, "event")).collect(),
        last.unwrap_or_default(),
    )
}

/// Promise: a checkpoint that is written slowly is saved once it is whole, and told about once before; one that comes by a rename is
/// saved as it comes; a watch that was killed goes on where it was; a signal ends it with code 130 and a word.
#[test]
fn beside_a_trainer() {
    let world = world();
    let mut watch = Watch::start(&world, "");
    watch.wait_for("waiting", "out");
    world.checkpoint("other", 100);
    let model = fs::read(world.path("other/model.safetensors")).expect("a file");
    let at = world.path("out/checkpoint-100");
    fs::create_dir_all(&at).expect("a folder");
    fs::write(at.join("model.safetensors"), &model[..model.len() / 2]).expect("a file");
    fs::write(at.join("config.json"), "{}").expect("a file");
    let waits = watch.wait_for("waiting", "checkpoint-100");
    let why = waits["message"].as_str().expect("a text");
    assert!(
        why.contains("model.safetensors") || why == "it is being written",
        "{waits}"
    );
    fs::write(at.join("model.safetensors"), &model).expect("a file");
    let saved = loop {
        // Both may be told: that it was written to, and that it was cut.
        let mut line = String::new();
        watch.lines.read_line(&mut line).expect("a pipe");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        if told["event"] == "saved" {
            break told;
        }
        assert_eq!(told["event"], "waiting", "{told}");
    };
    assert_eq!((&saved["step"], &saved["files"]), (&100.into(), &2.into()));

    world.checkpoint("out/tmp-checkpoint-200", 200);
    fs::rename(
        world.path("out/tmp-checkpoint-200"),
        world.path("out/checkpoint-200"),
    )
    .expect("a folder");
    watch.wait_for("saved", "checkpoint-200");
    assert_eq!(watch.end("-KILL").0, None);

    world.checkpoint("out/checkpoint-300", 300);
    let mut watch = Watch::start(&world, "");
    assert_eq!(watch.wait_for("saved", "checkpoint-300")["already_there"], false);
    for name in ["checkpoint-100", "checkpoint-200"] {
        assert_eq!(watch.wait_for("saved", name)["already_there"], true, "{name}");
    }
    let (code, said) = watch.end("-INT");
    assert!(
        code == Some(130) && said.contains("interrupted"),
        "{code:?}: {said}"
    );
    assert_eq!(steps(&world), [100, 200, 300]);
    world.run("export llama back").expect(0);
    assert_eq!(files(&world.path("back")), files(&world.path("out")));
}

/// Promise: a folder that is not there yet is waited for, and so is a store that goes away and comes back; each is told once. Another
/// store in its place is not taken for it.
#[test]
fn what_is_waited_for() {
    let world = world();
    let mut watch = Watch::start(&world, "");
    let waits = watch.wait_for("waiting", "out");
    assert!(
        waits["message"]
            .as_str()
            .expect("a text")
            .contains("not there yet")
    );
    arrives(&world, "step_1", 1);
    watch.wait_for("watching", "out");
    watch.wait_for("saved", "step_1");

    fs::rename(world.path("ckpts"), world.path("unmounted")).expect("a folder");
    arrives(&world, "step_2", 2);
    watch.wait_for_one("no_store", None);
    world.run("init ckpts").expect(0);
    // Two looks with the other store there: nothing is saved to it.
    fs::create_dir(world.path("out/step_3")).expect("a folder");
    fs::write(world.path("out/step_3/model.safetensors"), "cut").expect("a file");
    watch.wait_for("waiting", "step_3");
    fs::remove_dir_all(world.path("out/step_3")).expect("a folder");
    watch.wait_for("gone", "step_3");
    assert!(world.run("log").expect(0).out.contains("no checkpoints yet"));
    fs::remove_dir_all(world.path("ckpts")).expect("a folder");
    fs::rename(world.path("unmounted"), world.path("ckpts")).expect("a folder");
    watch.wait_for_one("store_again", None);
    watch.wait_for("saved", "step_2");
    assert_eq!(watch.end("-TERM").0, Some(130));
    assert_eq!(steps(&world), [1, 2]);
}

/// Promise: `--once` saves what is complete, says what is not and why, and ends; again it writes nothing. What seems unfinished is saved
/// when its time is over, said to be so, and never deleted.
#[test]
fn once_and_again() {
    let world = world();
    for step in [100, 200] {
        world.checkpoint(&format!("out/checkpoint-{step}"), step);
    }
    let state = r#"{"log_history": [{"loss": 1.5, "step": 100}, {"eval_loss": 1.25, "step": 100}]}"#;
    fs::write(world.path("out/checkpoint-100/trainer_state.json"), state).expect("a file");
    world.checkpoint("out/checkpoint-300-merged", 300);
    let (events, _) = once(&world, "", 0);
    assert_eq!(told(&events, "checkpoint-100").0, ["saved"]);
    let (waits, why) = told(&events, "checkpoint-200");
    assert!(
        waits == ["waiting"] && why.contains("trainer_state.json"),
        "{why}"
    );
    assert_eq!(told(&events, "checkpoint-300-merged").0, ["passed_over"]);
    let ended = events.last().expect("an event");
    assert_eq!((&ended["saved"], &ended["waiting"]), (&1.into(), &1.into()));
    let log = world.run("log llama --json").json();
    let metrics = &log["checkpoints"][0]["metrics"];
    assert_eq!(
        (&metrics["loss"], &metrics["eval_loss"]),
        (&1.5.into(), &1.25.into())
    );

    let (events, _) = once(&world, "--patience 0 --delete-after-save --keep 0", 0);
    let late = events.iter().find(|event| event["name"] == "checkpoint-200");
    let late = late.expect("an event");
    assert!(
        late["event"] == "saved" && late["unfinished"][0].is_string(),
        "{late}"
    );
    assert_eq!(told(&events, "checkpoint-100").0, ["saved", "deleted"]);
    assert!(world.path("out/checkpoint-200").exists() && !world.path("out/checkpoint-100").exists());
    assert_eq!(steps(&world), [100, 200]);
}

/// Promise: a step that the run has with other files is refused and told, the others are saved, and the exit code says so; with
/// `--replace` it stands. What was forgotten since is not saved again.
#[test]
fn other_files() {
    let world = world();
    for step in [100, 200] {
        world.checkpoint(&format!("out/checkpoint-{step}"), step);
    }
    world
        .run("save out/checkpoint-200 --run llama --step 100")
        .expect(0);
    let (events, ran) = once(&world, "", 5);
    assert_eq!(told(&events, "checkpoint-100").0, ["refused"]);
    assert_eq!(told(&events, "checkpoint-200").0, ["saved"]);
    assert!(
        ran.err.contains("conflict") && ran.err.contains("--replace"),
        "{}",
        ran.err
    );
    let (events, _) = once(&world, "--replace --delete-after-save", 0);
    assert_eq!(told(&events, "checkpoint-100").0, ["saved", "deleted"]);

    world.checkpoint("out/checkpoint-300", 300);
    once(&world, "", 0);
    world.run("forget llama@200").expect(0);
    let (events, _) = once(&world, "--delete-after-save --keep 0", 0);
    let (said, why) = told(&events, "checkpoint-200");
    assert!(said == ["passed_over"] && why.contains("forgotten"), "{why}");
    assert_eq!(told(&events, "checkpoint-300").0, ["saved", "deleted"]);
    assert!(world.path("out/checkpoint-200").exists());
    let newest = world.run("show llama --json").json();
    assert_eq!(newest["step"], 300);
}

/// Promise: what is saved and not among the newest goes; what it was comes back from the store; the policy is applied after that.
#[test]
fn deleted_after_the_save() {
    let world = world();
    world.run("policy --keep-last 2").expect(0);
    let mut watch = Watch::start(&world, "--delete-after-save --keep 2 --prune");
    for step in [1, 2, 3, 4] {
        world.checkpoint(&format!("all/step_{step}"), step);
        arrives(&world, &format!("step_{step}"), step);
        watch.wait_for("saved", &format!("step_{step}"));
        if step > 2 {
            watch.wait_for("deleted", &format!("step_{}", step - 2));
            let pruned = watch.wait_for_one("pruned", None);
            assert_eq!(pruned["steps"][0], step - 2);
        }
    }
    assert_eq!(watch.end("-INT").0, Some(130));
    assert!(!world.path("out/step_2").exists() && world.path("out/step_3").exists());
    world.run("undo llama").expect(0);
    world.run("restore llama@2 back").expect(0);
    assert_eq!(files(&world.path("back")), files(&world.path("all/step_2")));
}

/// Promise: a deletion that is killed in the middle leaves nothing that a later watch saves, and that one ends it; what was deleted comes
/// back from the store.
#[test]
fn killed_while_it_deletes() {
    for round in 0..3 {
        let world = world();
        for step in [1, 2] {
            let many = world.path(&format!("out/checkpoint-{step}/many"));
            world.checkpoint(&format!("out/checkpoint-{step}"), step);
            fs::create_dir(&many).expect("a folder");
            for file in 0..MANY {
                fs::write(many.join(file.to_string()), format!("{step} {file}")).expect("a file");
            }
        }
        let all = files(&world.path("out/checkpoint-1"));
        let mut watch = Watch::start(&world, "--delete-after-save");
        let aside = world.path("out/.tpde-deleting-checkpoint-1");
        while !aside.exists() && watch.child.try_wait().expect("a process").is_none() {
            std::hint::spin_loop();
        }
        let some = MANY - round * MANY / 3;
        while fs::read_dir(aside.join("many")).is_ok_and(|left| left.count() >= some) {
            std::hint::spin_loop();
        }
        watch.child.kill().expect("a process");
        drop(watch);
        let left = fs::read_dir(aside.join("many")).map_or(0, Iterator::count);
        println!("killed with {left} of {MANY} files left");
        assert!(!world.path("out/checkpoint-1").exists());
        let (events, _) = once(&world, "", 0);
        let (said, why) = told(&events, "checkpoint-1");
        assert!(said.is_empty() || why.contains("cut short"), "{said:?}");
        once(&world, "--delete-after-save", 0);
        assert!(!aside.exists() && world.path("out/checkpoint-2").exists());
        assert_eq!(steps(&world), [1, 2]);
        world.run("restore llama@1 back").expect(0);
        assert!(files(&world.path("back")) == all);
    }
}

/// Promise: what cannot be watched is one clear error that names it and a next step.
#[test]
fn bad_input() {
    let world = World::with_run();
    fs::write(world.path("file"), "x").expect("a file");
    for (line, code, says) in [
        ("watch nowhere --run x --once", 3, "nowhere was not found"),
        ("watch file --run x", 1, "file: it is no folder"),
        ("watch ckpts --run x", 1, "it is a store"),
        ("watch ckpts/packs --run x", 1, "it is a store"),
        ("watch out/checkpoint-500 --run x", 1, "name the folder above it"),
        ("watch out --run x --once --prune", 3, "tpde policy"),
        ("watch out --run x --parent nope", 3, "nope"),
        ("watch out --run x --keep 2", 2, "--delete-after-save"),
        ("watch out --run x --every 0", 2, "from 0.01 on"),
        ("watch out --run x --settle=-1", 2, "--settle"),
        ("watch out --run x --settle inf", 2, "number of seconds"),
        ("watch out --run x --opaque [", 2, "--opaque"),
        ("watch out", 2, "--run"),
        ("watch out --run x --store nowhere", 3, "tpde init"),
    ] {
        let failed = world.run(line).expect(code);
        assert!(
            failed.out.is_empty() && failed.err.contains(says),
            "{line}: {failed:#?}"
        );
    }
    // A name of a tag cannot be a run's: nothing is saved, and the exit code says so.
    let refused = world.run("watch out --run best --once --settle 0").expect(5);
    assert!(refused.out.contains("refused"), "{refused:#?}");
    let quiet = ran(world
        .tpde()
        .args(["watch", "out", "--run", "llama", "--once", "--settle", "0", "-q"]));
    assert!(quiet.expect(0).out.is_empty());
}
