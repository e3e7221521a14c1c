//! The repository as the rules see it: its files, its crates, and what cargo knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ stands in the workspace")
        .to_owned()
}

pub(crate) fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {}:\n{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// Names of the workspace's crates, and who names whom, as a normal, build or development dependency.
pub(crate) fn workspace() -> (BTreeSet<String>, Vec<(String, String)>) {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&text).expect("cargo metadata writes JSON");
    let text_of = |value: &serde_json::Value| value["name"].as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(&metadata["packages"]);
    let names: BTreeSet<String> = packages.iter().map(text_of).collect();
    let mut edges = Vec::new();
    for package in &packages {
        let dependencies = list(&package["dependencies"])
            .iter()
            .map(text_of)
            .collect::<Vec<_>>();
        edges.extend(
            dependencies
                .into_iter()
                .filter(|to| names.contains(to))
                .map(|to| (text_of(package), to)),
        );
    }
    (names, edges)
}

/// The files of the checkout, tracked or about to be, with their sizes; paths from the root, with slashes.
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, u64>,
}

impl Tree {
    pub(crate) fn read() -> Self {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root())
            .output()
            .ok()
            .filter(|output| output.status.success() && !output.stdout.is_empty());
        let names: Vec<String> = match listed {
            Some(output) => String::from_utf8_lossy(&output.stdout)
                .split('\0')
                .map(str::to_owned)
                .collect(),
            None => walk(&root(), ""),
        };
        // A file may be listed and already deleted.
        let size_of = |name: String| {
            let metadata = root().join(&name).symlink_metadata().ok()?;
            metadata.is_file().then_some((name, metadata.len()))
        };
        let files: BTreeMap<String, u64> = names.into_iter().filter_map(size_of).collect();
        assert!(
            files.contains_key("Cargo.toml"),
            "the list of files is not that of the workspace"
        );
        Self { files }
    }

    /// A file's text; empty when it is missing or not text.
    pub(crate) fn text(&self, file: &str) -> String {
        if self.files.contains_key(file) {
            std::fs::read_to_string(root().join(file)).unwrap_or_default()
        } else {
            String::new()
        }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        path.is_empty() || self.files.contains_key(path) || self.folders().contains(path)
    }

    /// Every folder that holds a file of the tree, at any depth.
    pub(crate) fn folders(&self) -> BTreeSet<String> {
        let prefixes = |file: &str| {
            file.match_indices('/')
                .map(|(at, _)| file[..at].to_owned())
                .collect::<Vec<_>>()
        };
        self.files.keys().flat_map(|file| prefixes(file)).collect()
    }

    /// The folders of the crates, inside the workspace or beside it.
    pub(crate) fn crates(&self) -> BTreeSet<String> {
        let manifests = self.files.keys().filter(|file| file.ends_with("/Cargo.toml"));
        let packages = manifests.filter(|file| self.text(file).contains("[package]"));
        packages
            .filter_map(|file| Some(file.strip_suffix("/Cargo.toml")?.to_owned()))
            .collect()
    }
}

/// The twin of `git ls-files` for an unpacked archive.
pub(crate) fn walk(folder: &Path, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(path);
        } else if ![".git", "target", ".venv", "out", "__pycache__"].contains(&name.as_str()) {
            names.extend(walk(&entry.path(), &format!("{path}/")));
        }
    }
    names
}
