//! The rules: from text to a list of violations. Nothing here reads the disk.

use std::collections::{BTreeMap, BTreeSet};

/// Crates by layer; a crate may depend on lower layers only.
pub(crate) const LAYERS: &[(&str, u8)] = &[
    ("tpde-core", 0),
    ("tpde-store", 1),
    ("tpde-infer", 2),
    ("tpde-serve", 3),
    ("tpde-cli", 4),
    ("tpde-py", 5),
];
/// Crates that may see every layer and that nothing may depend on, but for the one edge below.
pub(crate) const SEE_ALL: &[&str] = &["tpde-tests", "tpde-bench"];
/// Measurements take the servers of the tests.
const BESIDE: (&str, &str) = ("tpde-bench", "tpde-tests");

pub(crate) const MAX_SOURCE_LINES: usize = 600;
pub(crate) const MAX_TREE_BYTES: u64 = 24_000_000;
pub(crate) const MAX_FIXTURE_BYTES: u64 = 16_000_000;
pub(crate) const FIXTURES: &str = "tests/data/";

pub(crate) fn edge(from: &str, to: &str) -> (String, String) {
    (from.to_owned(), to.to_owned())
}

pub(crate) fn layer(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

pub(crate) fn upward(edges: &[(String, String)]) -> Vec<String> {
    let allowed = |from: &str, to: &str| match (layer(from), layer(to)) {
        (Some(from), Some(to)) => to < from,
        (None, Some(_)) => SEE_ALL.contains(&from),
        _ => (from, to) == BESIDE,
    };
    let wrong = edges.iter().filter(|(from, to)| !allowed(from, to));
    wrong
        .map(|(from, to)| {
            format!("{from} depends on {to}; imports run core <- store <- infer <- serve <- {{cli, py}}")
        })
        .collect()
}

pub(crate) fn reached<'a>(tree_lines: &[String], forbidden: &[&'a str]) -> Vec<&'a str> {
    let names: BTreeSet<&str> = tree_lines
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    forbidden
        .iter()
        .copied()
        .filter(|name| names.contains(name))
        .collect()
}

/// Table rows whose first cell is a folder in backticks name crates, unless that folder is there and is not a crate.
pub(crate) fn crate_table_mismatches(
    text: &str,
    crates: &BTreeSet<String>,
    folders: &BTreeSet<String>,
) -> Vec<String> {
    let first_cells = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
    let named: BTreeSet<String> = first_cells
        .filter_map(|cell| Some(cell.trim().strip_prefix('`')?.strip_suffix("/`")?.to_owned()))
        .filter(|folder| crates.contains(folder) || !folders.contains(folder))
        .collect();
    let gone = named
        .difference(crates)
        .map(|folder| format!("ARCHITECTURE.md names `{folder}/`, which is not a crate on disk"));
    let missing = crates
        .difference(&named)
        .map(|folder| format!("`{folder}/` is a crate; ARCHITECTURE.md has no row | `{folder}/` | … |"));
    gone.chain(missing).collect()
}

/// Targets of inline links and reference definitions outside code, without fragments; other sites are left out.
pub(crate) fn link_targets(markdown: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Odd pieces between backticks are code.
            let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            let inline = prose
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            let definition = prose
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("]: "))
                .map(|(_, target)| target);
            targets.extend(inline.chain(definition).map(str::to_owned));
        }
    }
    let paths = targets
        .iter()
        .filter_map(|target| target.split(['#', ' ']).next());
    paths
        .filter(|path| !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:"))
        .map(str::to_owned)
        .collect()
}

/// `target` as seen from `file`, relative to the root; `None` when it leaves the tree.
pub(crate) fn resolve(file: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    (!target.starts_with('/')).then(|| parts.join("/"))
}

/// Lines, from 1, that hold an absolute path into a place that differs from machine to machine.
pub(crate) fn machine_paths(text: &str, scratch_too: bool) -> Vec<usize> {
    let places: &[&str] = if scratch_too {
        &["root", "home", "work", "tmp"]
    } else {
        &["root", "home", "work"]
    };
    let hit = |line: &str| {
        places.iter().map(|place| ["/", place, "/"].concat()).any(|path| {
            // Behind a name, a dot, a tilde or a variable the slash only separates.
            let relative = |before: char| before.is_ascii_alphanumeric() || "._-~*$})>".contains(before);
            line.match_indices(&path)
                .any(|(at, _)| !line[..at].chars().next_back().is_some_and(relative))
        })
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| hit(line))
        .map(|(index, _)| index + 1)
        .collect()
}

pub(crate) fn is_source(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let by_ending = [
        ".rs", ".py", ".sh", ".cu", ".cuh", ".c", ".h", ".cpp", ".hpp", ".mk",
    ]
    .iter()
    .any(|ending| name.ends_with(ending));
    by_ending || name == "Makefile" || file.starts_with(".ci/")
}

pub(crate) fn too_long(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_SOURCE_LINES).then(|| format!("{file}: {lines} lines, at most {MAX_SOURCE_LINES}; split it"))
}

pub(crate) fn too_heavy(files: &BTreeMap<String, u64>) -> Vec<String> {
    let sum = |prefix: &str| {
        files
            .iter()
            .filter(|(file, _)| file.starts_with(prefix))
            .map(|(_, bytes)| bytes)
            .sum::<u64>()
    };
    let budgets = [("", MAX_TREE_BYTES), (FIXTURES, MAX_FIXTURE_BYTES)];
    let over = budgets.iter().filter(|(prefix, limit)| sum(prefix) > *limit);
    over.map(|(prefix, limit)| format!("./{prefix} holds {} bytes, at most {limit}", sum(prefix)))
        .collect()
}

pub(crate) fn unlisted_adrs(files: &[String], readme: &str) -> Vec<String> {
    let listed: BTreeSet<String> = link_targets(readme)
        .iter()
        .filter_map(|target| resolve("docs/adr/README.md", target))
        .collect();
    let adrs = files
        .iter()
        .filter(|file| file.starts_with("docs/adr/") && file.ends_with(".md"));
    let unlisted = adrs.filter(|file| *file != "docs/adr/README.md" && !listed.contains(*file));
    unlisted
        .map(|file| format!("{file}: not in docs/adr/README.md"))
        .collect()
}
