//! What people see.

use crate::world::{World, ran, write_safetensors};

const COMMANDS: [&str; 14] = [
    "init",
    "save",
    "restore",
    "log",
    "show",
    "ls",
    "diff",
    "verify",
    "tag",
    "stats",
    "export",
    "import",
    "copy",
    "completions",
];

/// Promise: the help of every command shows how it is typed; the first page has them all, and the exit codes.
#[test]
fn help_has_examples() {
    let world = World::empty();
    let all = world.run("--help").expect(0).out;
    for name in COMMANDS {
        assert!(all.contains(&format!("\n  {name} ")), "{name} in:\n{all}");
        for help in [
            format!("{name} --help"),
            format!("{name} -h"),
            format!("help {name}"),
        ] {
            let help = world.run(&help).expect(0).out;
            let (_, example) = help.split_once("Example").expect("an example");
            assert!(example.contains(&format!("tpde {name}")), "{help}");
        }
    }
    assert!(
        all.contains("Exit codes") && all.contains("llama@latest"),
        "{all}"
    );
    assert!(world.run("--version").expect(0).out.starts_with("tpde "));
}

/// Promise: an empty store is no error, and says what to do next.
#[test]
fn empty_store() {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    assert!(world.run("log").expect(0).out.contains("tpde save"));
    assert_eq!(world.run("log --json").json(), serde_json::json!({"runs": []}));
    assert!(world.run("verify").expect(0).out.contains("no problems"));
    assert_eq!(world.run("stats --json").json()["raw_bytes"], 0);
}

/// Promise: colour only where it is wanted, and nothing but text in a pipe.
#[test]
fn colour() {
    let world = World::with_run();
    let log = |variables: &[(&str, &str)]| {
        let out = ran(world.tpde().envs(variables.iter().copied()).arg("log"));
        let error = ran(world
            .tpde()
            .envs(variables.iter().copied())
            .args(["show", "nope"]));
        let help = ran(world.tpde().envs(variables.iter().copied()).arg("--help"));
        [out.out, error.err, help.out].map(|text| text.contains('\x1b'))
    };
    assert_eq!(log(&[]), [false; 3]);
    assert_eq!(log(&[("CLICOLOR_FORCE", "1")]), [true; 3]);
    assert_eq!(log(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), [false; 3]);
    assert_eq!(log(&[("CLICOLOR", "0")]), [false; 3]);
}

/// Promise: without a terminal there is no progress bar, and `--quiet` leaves only what was asked for.
#[test]
fn quiet() {
    let world = World::with_run();
    let save = world
        .run("save out/checkpoint-500 --run other --step 1")
        .expect(0);
    assert!(save.err.is_empty() && !save.out.is_empty(), "{save:#?}");
    for line in [
        "init -q second",
        "save -q out/checkpoint-500 --run other --step 2",
        "restore -q other there",
        "tag -q worst other",
        "tag -q -d worst",
        "verify -q",
    ] {
        let ran = world.run(line).expect(0);
        assert!(ran.out.is_empty() && ran.err.is_empty(), "{line}: {ran:#?}");
    }
    for line in ["log -q", "show -q llama", "stats -q", "tag -q"] {
        assert!(!world.run(line).expect(0).out.is_empty(), "{line}");
    }
}

/// Promise: names from a store cannot act on the terminal, in answers, in JSON or in errors.
#[test]
#[cfg(unix)]
fn untrusted_names() {
    let world = World::empty();
    world.run("init ckpts").expect(0);
    let dir = world.path("in");
    std::fs::create_dir(&dir).expect("a folder");
    let tensors = [("w\u{1b}[2J\u{202e}\u{9b}31m", vec![1; 64])];
    write_safetensors(&dir.join("a\u{1b}]0;x\u{7}.safetensors"), &tensors);
    for line in [
        "save in --run r --step 1",
        "ls r",
        "ls r --tensors",
        "ls r --json",
        "show r",
        "show r --json",
        "diff r r --all",
        "diff r r --json",
        "restore r out",
        "restore r out",
    ] {
        let ran = world.run(line);
        let acts = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(
            !ran.out.contains(acts) && !ran.err.contains(acts),
            "{line}: {ran:?}"
        );
    }
    let listed = world.run("ls r --tensors --json").json();
    assert_eq!(listed["tensors"][0]["name"], tensors[0].0);
}

/// Promise: `-n` bounds the list and says that there is more; every run is listed without a name.
#[test]
fn log_limit() {
    let world = World::with_run();
    world
        .run("save out/checkpoint-500 --run other --step 1")
        .expect(0);
    let log = world.run("log -n 1").expect(0).out;
    assert!(
        log.contains("llama\n") && log.contains("other\n") && log.contains("1 older record not shown"),
        "{log}"
    );
    let runs = world.run("log -n 1 --json").json();
    let steps: Vec<_> = runs["runs"]
        .as_array()
        .expect("runs")
        .iter()
        .map(|run| run["checkpoints"][0]["step"].clone())
        .collect();
    assert_eq!(steps, [600, 1]);
}
