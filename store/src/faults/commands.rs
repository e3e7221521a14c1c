//! Everything that writes.

use globset::{Glob, GlobSet};

use super::world::{Sources, forget, keep_last, opened, run, ruthless, target};
use crate::copy::{CopyRequest, copy};
use crate::progress::Silent;
use crate::save::SaveRequest;
use crate::save::parts::PartOf;
use crate::{Objects, RepackRequest, Result, Store, StoreError, config, tags};

/// A store to be copied from, and checkpoints to be saved.
pub(super) struct Given {
    pub(super) sources: Sources,
    /// A run `other` with two commits, and a tag on its last.
    pub(super) elsewhere: Store,
}

impl Given {
    pub(super) fn new() -> Self {
        let sources = Sources::new();
        let objects = Objects::memory();
        config::init(&objects).unwrap();
        let elsewhere = opened(&objects).unwrap();
        let other = "other".parse().unwrap();
        for step in [4, 5] {
            let request = SaveRequest::new(sources.of(step), "other".parse().unwrap(), step);
            elsewhere.save(&request, &Silent).unwrap();
        }
        let newest = elsewhere.resolve("other@5").unwrap().manifest;
        let target = tags::Target {
            manifest: newest,
            run: other,
            seq: 1,
            step: 5,
        };
        elsewhere
            .tag(&"copied".parse().unwrap(), &target, false, 1)
            .unwrap();
        Self { sources, elsewhere }
    }
}

/// Something that writes.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What was done in the furnished store before; `None` if there is no store yet.
    pub(super) before: Option<fn(&Given, &Store)>,
    pub(super) run: fn(&Given, &Objects) -> Result<()>,
    /// States that it may leave between the old one and the new one, each by a command that makes it.
    pub(super) between: &'static [fn(&Given, &Objects) -> Result<()>],
    /// Whether an error says that all was done before.
    pub(super) is_done: fn(&StoreError) -> bool,
    /// Whether what is forgotten may go.
    pub(super) collects: bool,
    /// Requests at least.
    pub(super) requests: usize,
}

const PLAIN: Command = Command {
    name: "",
    before: Some(|_, _| {}),
    run: |_, _| Ok(()),
    between: &[],
    is_done: |_| false,
    collects: false,
    requests: 10,
};

fn is_not_found(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
}

fn is_conflict(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict { .. })
}

/// The files of one of two parts.
fn only(rank: u32) -> GlobSet {
    let name = if rank == 0 { "m.safetensors" } else { "*.json" };
    GlobSet::builder().add(Glob::new(name).unwrap()).build().unwrap()
}

pub(super) fn part(given: &Given, store: &Store, rank: u32) -> Result<()> {
    let part = PartOf {
        save: "job".to_owned(),
        rank,
        of: 2,
    };
    let request = SaveRequest::new(given.sources.of(4), run(), 4);
    store
        .save_part(&request, &part, Some(&only(rank)), &Silent)
        .map(drop)
}

fn send(given: &Given, objects: &Objects, names: &[&str], tags: bool) -> Result<()> {
    let request = CopyRequest {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        tags,
        ..CopyRequest::default()
    };
    copy(&given.elsewhere, &opened(objects)?, &request, &Silent).map(drop)
}

pub(super) const INIT: Command = Command {
    name: "init",
    before: None,
    run: |_, objects| config::init(objects).map(drop),
    is_done: is_conflict,
    ..PLAIN
};

pub(super) const SAVE: Command = Command {
    name: "save",
    run: |given, objects| given.sources.save(&opened(objects)?, 4),
    ..PLAIN
};

pub(super) const SAVE_AGAIN: Command = Command {
    name: "save what was forgotten",
    run: |given, objects| given.sources.save(&opened(objects)?, 13),
    ..PLAIN
};

pub(super) const UNDO: Command = Command {
    name: "undo",
    run: |_, objects| opened(objects)?.undo(&run(), 2).map(drop),
    is_done: is_not_found,
    ..PLAIN
};

pub(super) const TAG: Command = Command {
    name: "tag",
    run: |_, objects| {
        let store = opened(objects)?;
        store
            .tag(&"new".parse()?, &target(&store, 2)?, false, 2)
            .map(drop)
    },
    ..PLAIN
};

pub(super) const MOVE_TAG: Command = Command {
    name: "tag --force",
    run: |_, objects| {
        let store = opened(objects)?;
        store
            .tag(&"good".parse()?, &target(&store, 2)?, true, 2)
            .map(drop)
    },
    ..PLAIN
};

pub(super) const REMOVE_TAG: Command = Command {
    name: "tag --delete",
    run: |_, objects| tags::remove(opened(objects)?.objects(), &"good".parse()?, 2).map(drop),
    is_done: is_not_found,
    requests: 4,
    ..PLAIN
};

pub(super) const FORGET: Command = Command {
    name: "forget",
    run: |_, objects| forget(&opened(objects)?, &[2]),
    is_done: is_not_found,
    ..PLAIN
};

pub(super) const PRUNE: Command = Command {
    name: "save --prune",
    run: |_, objects| opened(objects)?.prune(&run(), &keep_last(1), 2).map(drop),
    requests: 6,
    ..PLAIN
};

pub(super) const POLICY: Command = Command {
    name: "policy",
    run: |_, objects| opened(objects)?.set_policy(Some(keep_last(3)), 2),
    requests: 4,
    ..PLAIN
};

pub(super) const GC: Command = Command {
    name: "gc",
    run: |_, objects| opened(objects)?.gc(&ruthless(), &Silent).map(drop),
    collects: true,
    ..PLAIN
};

pub(super) const REPACK: Command = Command {
    name: "repack",
    run: |_, objects| {
        opened(objects)?
            .repack(&RepackRequest::default(), &Silent)
            .map(drop)
    },
    ..PLAIN
};

pub(super) const COPY: Command = Command {
    name: "copy",
    run: |given, objects| send(given, objects, &[], true),
    between: &[
        |given, objects| send(given, objects, &["other@4"], false),
        |given, objects| send(given, objects, &["other"], false),
    ],
    ..PLAIN
};

pub(super) const PART: Command = Command {
    name: "save --part",
    before: Some(|given, store| part(given, store, 0).unwrap()),
    run: |given, objects| part(given, &opened(objects)?, 1),
    ..PLAIN
};

pub(super) const COMMIT_PARTS: Command = Command {
    name: "commit of parts",
    before: Some(|given, store| (0..2).for_each(|rank| part(given, store, rank).unwrap())),
    run: |given, objects| {
        let request = SaveRequest::new(given.sources.of(4), run(), 4);
        opened(objects)?.commit_parts(&request, "job").map(drop)
    },
    ..PLAIN
};
