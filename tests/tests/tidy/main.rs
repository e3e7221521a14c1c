//! Promises about the repository itself: layers, size, links, names, `unsafe`.
//!
//! Every rule is a plain function from text to a list of violations ([`rules`]), and every test first shows it an
//! offender: a check that cannot fail is a defect.

mod code;
mod repository;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use code::unsafe_lines;
use repository::{Tree, cargo, workspace};
use rules::*;

/// Crates that a library must not reach, however deep in its dependencies.
const NOT_BELOW: &[(&str, &[&str])] = &[
    ("tpde-core", CORE_WITHOUT),
    (
        "tpde-store",
        &["clap", "indicatif", "miette", "anyhow", "axum", "cudarc"],
    ),
];
/// No I/O, no async, no formats of others, no command line: bytes in, bytes out.
const CORE_WITHOUT: &[&str] = &[
    "tokio",
    "futures",
    "async-trait",
    "object_store",
    "sled",
    "zstd",
    "zstd-sys",
    "serde",
    "serde_json",
    "clap",
    "indicatif",
    "miette",
    "anyhow",
    "tracing",
    "cudarc",
];

/// Where `unsafe` may stand, and why.
const UNSAFE_HOMES: &[(&str, &str)] = &[
    ("tpde-core/src/arch/", "vector instructions"),
    ("tpde-infer/src/device/", "the driver and NVRTC"),
    ("tpde-py/src/memory.rs", "memory of Python's tensors"),
];

/// Where a machine path may stand, and why.
const MACHINE_PATHS_ALLOWED: &[(&str, &str)] = &[
    ("LICENSE", "the text of others"),
    ("tests/data/tinycode/", "tokens and text that a model learnt"),
];

#[test]
fn crates_depend_downwards_only() {
    // Promise: core <- store <- infer <- serve <- {cli, py}; tests and benches see all, and nothing sees them but benches the tests.
    assert!(!upward(&[edge("tpde-core", "tpde-store")]).is_empty());
    assert!(
        !upward(&[edge("tpde-cli", "tpde-py")]).is_empty(),
        "crates of one layer do not see one another"
    );
    assert!(!upward(&[edge("tpde-store", "tpde-tests")]).is_empty());
    assert!(!upward(&[edge("tpde-tests", "tpde-bench")]).is_empty());
    assert!(
        !upward(&[edge("tpde-new", "tpde-core")]).is_empty(),
        "a crate without a layer is refused"
    );
    assert!(upward(&[edge("tpde-tests", "tpde-cli"), edge("tpde-cli", "tpde-core")]).is_empty());

    let (packages, edges) = workspace();
    assert!(
        packages.contains("tpde-core") && packages.contains("tpde-store"),
        "cargo metadata: {packages:?}"
    );
    assert!(
        edges.contains(&edge("tpde-store", "tpde-core")),
        "cargo metadata lists no edges: {edges:?}"
    );
    let homeless = packages
        .iter()
        .filter(|name| !SEE_ALL.contains(&name.as_str()) && layer(name).is_none());
    none(
        homeless
            .map(|name| format!("{name}: in no layer; give it one in LAYERS"))
            .collect(),
    );
    none(upward(&edges));
}

#[test]
fn libraries_stay_free_of_what_stands_above_them() {
    // Promise: the codec has no I/O, no async and no command line below it, the store no command line.
    assert!(!reached(&["tokio v1.54.0".into()], CORE_WITHOUT).is_empty());
    assert!(
        reached(&["tokio-stream v0.1.0".into()], CORE_WITHOUT).is_empty(),
        "names are compared whole"
    );

    for (package, forbidden) in NOT_BELOW {
        let tree = cargo(&[
            "tree",
            "--locked",
            "--offline",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
        ]);
        let lines: Vec<String> = tree.lines().map(str::to_owned).collect();
        assert!(
            lines.iter().any(|line| line.starts_with("blake3 v")),
            "cargo tree -p {package} says:\n{tree}"
        );
        none(
            reached(&lines, forbidden)
                .iter()
                .map(|found| format!("{package} reaches {found}"))
                .collect(),
        );
    }
}

#[test]
fn architecture_names_the_crates_on_disk() {
    // Promise: the crates in ARCHITECTURE.md are the crates on disk, no more, no fewer.
    let folders = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let table = "| folder | |\n|---|---|\n| `a/` | x |\n| `gone/` | y |\n| `docs/` | z |\n";
    let (disk, not_crates) = (folders(&["a", "b"]), folders(&["docs"]));
    let found = crate_table_mismatches(table, &disk, &not_crates);
    assert_eq!(
        found.len(),
        2,
        "`gone/` is not there, `b/` is not named: {found:?}"
    );

    let tree = Tree::read();
    let text = tree.text("ARCHITECTURE.md");
    assert!(!text.is_empty(), "ARCHITECTURE.md is missing");
    none(crate_table_mismatches(&text, &tree.crates(), &tree.folders()));
}

#[test]
fn relative_links_resolve() {
    // Promise: whoever follows a link in the documentation arrives, in any checkout.
    let example = "[a](there.md#x) [b](gone.md) `[c](code.md)` [d](https://e.org/f)\n```\n[g](fenced.md)\n```\n[h]: lost.md";
    assert_eq!(link_targets(example), ["there.md", "gone.md", "lost.md"]);
    assert_eq!(
        resolve("docs/adr/README.md", "../format.md").as_deref(),
        Some("docs/format.md")
    );
    assert_eq!(resolve("README.md", "../outside.md"), None);

    let tree = Tree::read();
    let mut broken = Vec::new();
    let mut links = 0;
    for file in tree.files.keys().filter(|file| file.ends_with(".md")) {
        for target in link_targets(&tree.text(file)) {
            links += 1;
            if !resolve(file, &target).is_some_and(|path| tree.has(&path)) {
                broken.push(format!("{file}: ({target}) leads nowhere"));
            }
        }
    }
    assert!(links > 0, "README.md alone has several links; none were found");
    none(broken);
}

#[test]
fn no_machine_paths() {
    // Promise: nothing in the tree depends on, or tells of, the machine it was written on.
    let home = ["/", "home", "/"].concat();
    assert_eq!(machine_paths(&format!("fine\nopen(\"{home}me/x\")"), false), [2]);
    assert_eq!(machine_paths(&format!("file://{home}me"), false), [1]);
    assert!(machine_paths(&format!("~{home}me ..{home}x $TARGET{home}"), true).is_empty());
    let scratch = ["/", "tmp", "/x"].concat();
    assert_eq!(
        (
            machine_paths(&scratch, true).len(),
            machine_paths(&scratch, false).len()
        ),
        (1, 0)
    );

    let tree = Tree::read();
    let mut found = Vec::new();
    for file in tree.files.keys() {
        if MACHINE_PATHS_ALLOWED
            .iter()
            .any(|(prefix, _)| file.starts_with(prefix))
        {
            continue;
        }
        let lines = machine_paths(&tree.text(file), is_source(file));
        found.extend(
            lines
                .iter()
                .map(|line| format!("{file}:{line}: take the folder from an argument or a temporary one")),
        );
    }
    none(found);
}

#[test]
fn sources_stay_short() {
    // Promise: no file grows into the one that does everything.
    assert!(too_long("x.rs", &"line\n".repeat(MAX_SOURCE_LINES + 1)).is_some());
    assert!(too_long("x.rs", &"line\n".repeat(MAX_SOURCE_LINES)).is_none());

    let tree = Tree::read();
    let sources: Vec<_> = tree.files.keys().filter(|file| is_source(file)).collect();
    assert!(
        sources.iter().any(|file| file.ends_with("tidy/main.rs")),
        "the list of sources lacks this very file"
    );
    none(
        sources
            .iter()
            .filter_map(|file| too_long(file, &tree.text(file)))
            .collect(),
    );
}

#[test]
fn tree_stays_small() {
    // Promise: a clone stays quick.
    let sizes = |bytes| BTreeMap::from([(format!("{FIXTURES}x"), bytes)]);
    assert_eq!(too_heavy(&sizes(MAX_FIXTURE_BYTES + 1)).len(), 1);
    assert_eq!(too_heavy(&sizes(MAX_TREE_BYTES + 1)).len(), 2);
    assert!(too_heavy(&sizes(MAX_FIXTURE_BYTES)).is_empty());

    none(too_heavy(&Tree::read().files));
}

#[test]
fn every_adr_is_listed() {
    // Promise: a decision that was made can be found from the list of decisions.
    let example: Vec<String> = vec![
        "docs/adr/README.md".into(),
        "docs/adr/0001-a.md".into(),
        "docs/adr/0002-b.md".into(),
    ];
    assert_eq!(
        unlisted_adrs(&example, "* [one](0001-a.md)"),
        ["docs/adr/0002-b.md: not in docs/adr/README.md"]
    );

    let tree = Tree::read();
    let files: Vec<String> = tree.files.keys().cloned().collect();
    assert!(
        tree.has("docs/adr/README.md"),
        "docs/adr/README.md, the list of decisions, is missing"
    );
    none(unlisted_adrs(&files, &tree.text("docs/adr/README.md")));
}

#[test]
fn unsafe_has_few_homes() {
    // Promise: whoever audits `unsafe` reads one folder.
    let example = "// unsafe\nlet s = \"unsafe { }\"; let r = r#\"a \" unsafe\"#; let c = '\"';\n/* unsafe /* x */ unsafe */\n\
                   #![deny(unsafe_code)]\nfn f<'a>(x: &'a str) { unsafe { g(x) } }\n";
    assert_eq!(unsafe_lines(example), [5]);

    let tree = Tree::read();
    let mut found = Vec::new();
    for file in tree.files.keys().filter(|file| file.ends_with(".rs")) {
        if UNSAFE_HOMES.iter().any(|(home, _)| file.starts_with(home)) {
            continue;
        }
        let lines = unsafe_lines(&tree.text(file));
        found.extend(
            lines
                .iter()
                .map(|line| format!("{file}:{line}: unsafe outside {UNSAFE_HOMES:?}")),
        );
    }
    none(found);
}

fn none(violations: Vec<String>) {
    assert!(
        violations.is_empty(),
        "{} violation(s):\n  {}\n",
        violations.len(),
        violations.join("\n  ")
    );
}
