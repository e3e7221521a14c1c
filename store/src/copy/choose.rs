//! Which commits and tags the words of a copy stand for.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Result, StoreError};
use crate::history;
use crate::names::{RunName, TagName};
use crate::reference::{self, Place, Reference};
use crate::store::Store;
use crate::summary::Summary;
use crate::tags::{self, TagRecord};

/// A commit that is to be copied.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) run: RunName,
    pub(super) commit: Summary,
}

/// What is to be copied.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Run by run, each in its order; a run that another began with comes before it.
    pub(super) commits: Vec<Chosen>,
    pub(super) tags: Vec<TagRecord>,
    /// Tags that stand for commits that no longer count.
    pub(super) tags_left_out: Vec<TagName>,
}

/// The commits of a run that count: those that stand, the newest of each step.
pub(super) fn counting(store: &Store, run: &RunName) -> Result<BTreeMap<u64, Summary>> {
    let log = history::log(store.objects(), run)?;
    Ok(log
        .commits()
        .map(|commit| (commit.step, commit.clone()))
        .collect())
}

/// By run and place in it.
type Picked = BTreeMap<RunName, BTreeMap<u64, Summary>>;

/// Finds what `names` stand for: `run` is all of it, `run@step` and the like one commit, a tag its commit and the tag. No names: all
/// runs.
///
/// * `all_tags`: take along every tag that stands for a chosen commit.
///
/// # Errors
/// `Input`, `NotFound`: as [`reference::resolve`], or for a commit that belongs to no run. `Conflict` for a named tag whose commit no
/// longer counts.
pub(super) fn choose(store: &Store, names: &[String], all_tags: bool) -> Result<Choice> {
    let mut picked = Picked::new();
    let mut choice = Choice::default();
    if names.is_empty() {
        for run in history::runs(store.objects())? {
            whole(store, &run, &mut picked)?;
        }
    }
    for name in names {
        one(store, name, &mut picked, &mut choice)?;
    }
    if all_tags {
        let named: BTreeSet<TagName> = choice.tags.iter().map(|tag| tag.name.clone()).collect();
        for tag in tags::list(store.objects())? {
            if named.contains(&tag.name) {
                continue;
            }
            let of_run = picked.get(&tag.target.run);
            if of_run.is_some_and(|commits| commits.contains_key(&tag.target.seq)) {
                choice.tags.push(tag);
            } else if of_run.is_some() && !counts(store, &tag)? {
                choice.tags_left_out.push(tag.name);
            }
        }
    }
    let mut left = picked;
    while let Some(run) = left.keys().next().cloned() {
        take(store, &run, &mut left, &mut choice.commits)?;
    }
    Ok(choice)
}

/// What one word stands for.
fn one(store: &Store, name: &str, picked: &mut Picked, choice: &mut Choice) -> Result<()> {
    if let Reference::Word(word) = name.parse()? {
        if let Ok(tag) = word.parse::<TagName>()
            && let Some(tag) = tags::get(store.objects(), &tag)?
        {
            if !counts(store, &tag)? {
                let (run, step) = (&tag.target.run, tag.target.step);
                return Err(StoreError::conflict(
                    format!(
                        "tag {word} stands for a commit of step {step} of run {run} that is forgotten or replaced"
                    ),
                    format!(
                        "Copy {run}@{step} without the tag, or put the commit back with `tpde undo {run}`"
                    ),
                ));
            }
            add(store, &tag.target.run, tag.target.seq, picked)?;
            choice.tags.push(tag);
            return Ok(());
        }
        let run: RunName = word.parse()?;
        if history::newest(store.objects(), &run)?.is_some() {
            return whole(store, &run, picked);
        }
    }
    match reference::resolve(store.objects(), name)?.place {
        Some(Place { run, seq, .. }) => add(store, &run, seq, picked),
        None => Err(StoreError::not_found(
            format!("a commit of checkpoint {name}"),
            "It is stored and belongs to no run; save it again to copy it",
        )),
    }
}

/// Whether the commit that a tag stands for is the one that counts for its step.
fn counts(store: &Store, tag: &TagRecord) -> Result<bool> {
    let newest = history::newest_of(store.objects(), &tag.target.run)?;
    let found = history::latest_of_step(store.objects(), &newest, tag.target.step)?;
    Ok(found.is_some_and(|found| found.seq == tag.target.seq))
}

fn whole(store: &Store, run: &RunName, picked: &mut Picked) -> Result<()> {
    let commits = counting(store, run)?;
    if commits.is_empty() {
        return Ok(());
    }
    let by_seq = commits.into_values().map(|commit| (commit.seq, commit));
    picked.entry(run.clone()).or_default().extend(by_seq);
    Ok(())
}

fn add(store: &Store, run: &RunName, seq: u64, picked: &mut Picked) -> Result<()> {
    let newest = history::newest_of(store.objects(), run)?;
    let commit = history::record_at(store.objects(), &newest, seq)?;
    let commits = picked.entry(run.clone()).or_default();
    if let Some(other) = commits.values().find(|c| c.step == commit.step && c.seq != seq) {
        let detail = format!(
            "two commits of step {} of run {run} are named ({} and {seq})",
            commit.step, other.seq
        );
        return Err(StoreError::conflict(detail, "Name one of them"));
    }
    commits.insert(seq, commit);
    Ok(())
}

/// Moves a run from `left` to the end of `commits`, after the run that it began with.
fn take(store: &Store, run: &RunName, left: &mut Picked, commits: &mut Vec<Chosen>) -> Result<()> {
    // A run began where it began, so the way back ends; a circle that a stranger made is cut here, for each run is removed once.
    let mut way = Vec::new();
    let mut next = Some(run.clone());
    while let Some(run) = next.take() {
        let Some(picked) = left.remove(&run) else {
            break;
        };
        if let Some(first) = picked.values().next()
            && let Some(parent) = store.readable_manifest(first.manifest)?.and_then(|m| m.parent)
            && let Some(parent) = store.readable_manifest(parent)?
        {
            next = parent.run.parse().ok();
        }
        way.push((run, picked));
    }
    for (run, picked) in way.into_iter().rev() {
        commits.extend(picked.into_values().map(|commit| Chosen {
            run: run.clone(),
            commit,
        }));
    }
    Ok(())
}
