//! How a person names a checkpoint, and what is meant by it.
//!
//! | text | checkpoint |
//! |---|---|
//! | `run@600` | the newest commit of step 600 |
//! | `run@latest`, `run` | the newest commit |
//! | `run~3`, `run@600~3` | three commits before that |
//! | `best` | what the tag stands for |
//! | `3fa94c` | the manifest whose id begins so (at least six digits) |
//!
//! A bare word is tried as a tag, then as a run, then as a manifest; a run that is hidden by a tag of its name is
//! reached as `run@latest`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::{Result, StoreError};
use crate::history::{self, some_of};
use crate::ids::{ManifestId, is_lower_hex};
use crate::keys::{Key, Prefix};
use crate::names::{MIN_PREFIX_LEN, RunName, TagName, looks_like_prefix};
use crate::objects::Objects;
use crate::tags;

/// Which commit of a run is meant, before counting back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Latest,
    /// The newest of this step.
    Step(u64),
}

/// A checkpoint's name, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A commit of a run.
    InRun {
        /// The run.
        run: RunName,
        /// Where to start.
        at: At,
        /// How many commits to go back from there.
        back: u64,
    },
    /// A tag, a run, or the beginning of a manifest's id.
    Word(String),
}

/// Where a checkpoint is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The run.
    pub run: RunName,
    /// The commit's place in it.
    pub seq: u64,
    /// The training step.
    pub step: u64,
}

/// The checkpoint that a reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The checkpoint.
    pub manifest: ManifestId,
    /// Its commit; `None` for a manifest that is stored and was never committed.
    pub place: Option<Place>,
}

impl FromStr for Reference {
    type Err = StoreError;

    /// # Errors
    /// `Input`, with the forms there are.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |detail: String| {
            StoreError::input(
                format!("checkpoint {text:?}"),
                detail,
                "Write run@step, run@latest, run~N, a tag, or the beginning of a manifest id (six digits or more)",
            )
        };
        let number = |what: &str, digits: &str| match digits.parse::<u64>() {
            Ok(n) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(wrong(format!("{digits:?} is not {what}"))),
        };
        let (start, back) = match text.split_once('~') {
            Some((start, back)) => (start, Some(number("a number of commits", back)?)),
            None => (text, None),
        };
        let (word, at) = match start.split_once('@') {
            Some((run, "latest")) => (run, Some(At::Latest)),
            Some((run, step)) => (run, Some(At::Step(number("a step", step)?))),
            None => (start, None),
        };
        // A bare word keeps to the same letters, whatever it turns out to be.
        let run: RunName = word.parse()?;
        Ok(match (at, back) {
            (None, None) => Self::Word(word.to_owned()),
            (at, back) => Self::InRun {
                run,
                at: at.unwrap_or(At::Latest),
                back: back.unwrap_or(0),
            },
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::InRun { run, at, back } => {
                match at {
                    At::Latest => write!(f, "{run}@latest")?,
                    At::Step(step) => write!(f, "{run}@{step}")?,
                }
                if *back > 0 { write!(f, "~{back}") } else { Ok(()) }
            }
        }
    }
}

/// Parses `text` and finds the checkpoint.
///
/// # Errors
/// * `Input`: the text has no such form, or begins more than one manifest's id; the message lists them.
/// * `NotFound`: nothing has this name; the message lists what is near.
/// * `Corrupt`, `Newer`, `Backend`: as for every read.
pub fn resolve(objects: &Objects, text: &str) -> Result<Resolved> {
    match text.parse()? {
        Reference::InRun { run, at, back } => in_run(objects, &run, at, back),
        Reference::Word(word) => self::word(objects, &word),
    }
}

fn in_run(objects: &Objects, run: &RunName, at: At, back: u64) -> Result<Resolved> {
    let newest = history::newest_of(objects, run)?;
    let found = match at {
        At::Latest => history::newest_commit(objects, &newest)?,
        At::Step(step) => history::latest_of_step(objects, &newest, step)?,
    };
    let mut found = match (found, at) {
        (Some(found), _) => found,
        // For the message, with what is near.
        (None, At::Step(step)) => history::find_step(objects, run, step)?,
        (None, At::Latest) => {
            let hint = format!(
                "All are forgotten: `tpde log {run} --all` shows them, `tpde undo {run}` takes that back"
            );
            return Err(StoreError::not_found(format!("a checkpoint of run {run}"), hint));
        }
    };
    if back > 0 {
        let mut before = 0;
        let mut backward = history::Backward::new(objects, &newest);
        let earlier = backward.find(|commit| {
            before += u64::from(commit.seq < found.seq);
            before == back
        })?;
        found = earlier.ok_or_else(|| {
            StoreError::not_found(
                format!("the commit {back} before step {} of run {run}", found.step),
                format!("Only {before} are before it; see `tpde log {run}`"),
            )
        })?;
    }
    Ok(Resolved {
        manifest: found.manifest,
        place: Some(Place {
            run: run.clone(),
            seq: found.seq,
            step: found.step,
        }),
    })
}

fn word(objects: &Objects, word: &str) -> Result<Resolved> {
    if let Ok(name) = word.parse::<TagName>()
        && let Some(tag) = tags::get(objects, &name)?
    {
        return Ok(Resolved {
            manifest: tag.target.manifest,
            place: Some(Place {
                run: tag.target.run,
                seq: tag.target.seq,
                step: tag.target.step,
            }),
        });
    }
    let run: RunName = word.parse()?;
    if history::newest(objects, &run)?.is_some() {
        return in_run(objects, &run, At::Latest, 0);
    }
    if looks_like_prefix(word)
        && let Some(found) = by_prefix(objects, word)?
    {
        return Ok(found);
    }
    let runs = history::runs(objects)?;
    let tags = tags::list(objects)?;
    let names = runs
        .iter()
        .map(RunName::as_str)
        .chain(tags.iter().map(|t| t.name.as_str()));
    Err(StoreError::not_found(
        format!("a tag, run or manifest called {word}"),
        match (runs.len(), tags.len()) {
            _ if word.len() < MIN_PREFIX_LEN && word.bytes().all(is_lower_hex) && !word.is_empty() => {
                format!(
                    "The beginning of a checkpoint's id counts from {MIN_PREFIX_LEN} digits on. There are: {}",
                    some_of(names)
                )
            }
            (0, 0) => "The store has no checkpoints yet: `tpde save` makes one".to_owned(),
            _ => format!("There are: {}", some_of(names)),
        },
    ))
}

/// The one manifest whose id begins with `prefix`, in the runs or merely stored.
fn by_prefix(objects: &Objects, prefix: &str) -> Result<Option<Resolved>> {
    let Ok(first) = u8::from_str_radix(&prefix[..2], 16) else {
        return Ok(None);
    };
    let mut found: BTreeSet<ManifestId> = BTreeSet::new();
    for listed in objects.list(&Prefix::ManifestsUnder(first))? {
        if let Key::Manifest(id) = listed.key
            && id.to_hex().starts_with(prefix)
        {
            found.insert(id);
        }
    }
    let mut place = None;
    for run in history::runs(objects)? {
        for commit in history::log(objects, &run)?.commits() {
            if commit.manifest.to_hex().starts_with(prefix) {
                found.insert(commit.manifest);
                place = Some(Place {
                    run: run.clone(),
                    seq: commit.seq,
                    step: commit.step,
                });
            }
        }
    }
    let mut ids = found.iter();
    match (ids.next(), ids.next()) {
        (None, _) => Ok(None),
        (Some(manifest), None) => Ok(Some(Resolved {
            manifest: *manifest,
            place,
        })),
        _ => {
            let ids: Vec<String> = found.iter().map(ManifestId::to_hex).collect();
            Err(StoreError::input(
                format!("checkpoint {prefix:?}"),
                format!("{} manifests begin so", ids.len()),
                format!(
                    "Write more of one of: {}",
                    some_of(ids.iter().map(String::as_str))
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::{fabricate, manifest_of, step_of};
    use crate::tags::Target;
    use bytes::Bytes;

    fn store() -> Objects {
        let objects = Objects::memory();
        fabricate(&objects, &"llama".parse().unwrap(), 300);
        objects
    }

    fn seq(objects: &Objects, text: &str) -> u64 {
        let found = resolve(objects, text).unwrap();
        let place = found.place.unwrap();
        assert_eq!(found.manifest, manifest_of(place.seq));
        assert_eq!(place.step, step_of(place.seq));
        place.seq
    }

    /// Promise: every form finds its commit, in the slot and in the rollups.
    #[test]
    fn forms() {
        let objects = store();
        for (text, expected) in [
            ("llama", 299),
            ("llama@latest", 299),
            ("llama~0", 299),
            ("llama~299", 0),
            ("llama@latest~43", 256),
            ("llama@10", 0),
            ("llama@2560", 255),
            ("llama@2570~1", 255),
        ] {
            assert_eq!(seq(&objects, text), expected, "{text}");
        }
        let hex = manifest_of(7).to_hex();
        assert_eq!(seq(&objects, &hex), 7);
        assert_eq!(seq(&objects, &hex[..12]), 7);
    }

    /// Promise: a tag is found by its name, and hides a run of its name only as a bare word.
    #[test]
    fn tags_come_first() {
        let objects = store();
        let target = Target {
            manifest: manifest_of(4),
            run: "llama".parse().unwrap(),
            seq: 4,
            step: step_of(4),
        };
        tags::set(&objects, &"llama".parse().unwrap(), &target, false, 0).unwrap();
        assert_eq!(seq(&objects, "llama"), 4);
        assert_eq!(seq(&objects, "llama@latest"), 299);
    }

    /// Promise: a stored manifest without a commit is found; a prefix of two is refused with both.
    #[test]
    fn prefixes() {
        let objects = store();
        let lone = ManifestId::from_bytes([0xab; 32]);
        let mut near = [0xab; 32];
        near[31] = 0;
        let put = |id| {
            objects
                .put_content(&Key::Manifest(id), Bytes::from_static(b"m"))
                .unwrap();
        };
        put(lone);
        let found = resolve(&objects, "ababab").unwrap();
        assert_eq!(
            found,
            Resolved {
                manifest: lone,
                place: None
            }
        );
        put(ManifestId::from_bytes(near));
        let error = resolve(&objects, "ababab").unwrap_err();
        assert!(matches!(error, StoreError::Input { .. }));
        assert!(error.to_string().contains(&lone.to_hex()), "{error}");
        assert_eq!(resolve(&objects, &lone.to_hex()).unwrap().manifest, lone);
    }

    /// Promise: what is not there, or no reference, is answered with what would be.
    #[test]
    fn errors_help() {
        let objects = store();
        for (text, help) in [
            ("llama@15", "10, 20, 30"),
            ("llama~300", "Only 299"),
            ("lama", "llama"),
            ("lama@3", "llama"),
            ("ffffffff", "llama"),
            ("25d6", "from 6 digits on"),
            ("llama@", "not a step"),
            ("llama@+1", "not a step"),
            ("llama@x", "run@latest"),
            ("llama~", "not a number of commits"),
            ("llama~1~2", "not a number of commits"),
            ("@3", "empty"),
            ("a b", "' '"),
        ] {
            let error = resolve(&objects, text).unwrap_err().to_string();
            assert!(error.contains(help), "{text}: {error}");
        }
        let error = resolve(&Objects::memory(), "x").unwrap_err().to_string();
        assert!(error.contains("tpde save"), "{error}");
    }

    /// Promise: a reference prints as it parses.
    #[test]
    fn round_trip() {
        for text in ["a@3", "a@latest", "a@3~2", "word"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        assert_eq!("a~2".parse::<Reference>().unwrap().to_string(), "a@latest~2");
    }
}
