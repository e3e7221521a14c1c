//! What to do about the checkpoints of a tree, given looks at it and a clock.
//!
//! ```text
//! new ─▶ unchanged for `settle`? ─no─▶ wait      saved ─▶ among the newest? ─yes─▶ keep
//!            └ yes ─▶ signs? ─some─▶ wait             └ no ─▶ remove
//!                       └ none, or only such as pass, for `patience` ─▶ save
//! ```
//! Reads nothing and knows no clock: whoever asks says what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::look::Look;
use super::signs::Sign;
use crate::ids::ManifestId;

/// When a checkpoint counts as complete, and when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long nothing in it may have changed.
    pub settle: Duration,
    /// How long signs that may be wrong hold it back, from its last change on.
    pub patience: Duration,
    /// How many of the newest stay when the others are removed; `None` if nothing is removed.
    pub keep: Option<usize>,
}

/// Something that is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It changed between two looks.
    IsWritten {
        /// Its name in the tree.
        name: String,
        /// Its step.
        step: u64,
    },
    /// It went before it was saved.
    Gone {
        /// Its name in the tree.
        name: String,
        /// Its step.
        step: u64,
    },
}

/// What is to be done about a checkpoint that holds still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Save it.
    Save {
        /// Signs that held it back until now; empty for a checkpoint that is complete.
        unfinished: Vec<String>,
    },
    /// Wait.
    Wait {
        /// For what.
        why: String,
        /// Whether that was not said before.
        is_news: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is to be saved.
    Open,
    /// It was saved.
    Saved {
        manifest: ManifestId,
        /// Whether nothing said that it is unfinished.
        is_complete: bool,
    },
    /// Nothing is done about it until it changes.
    Left,
}

#[derive(Debug)]
struct Known {
    look: Look,
    /// When it was first seen as it is.
    since: Duration,
    /// When it was last seen so.
    last: Duration,
    /// How often it was seen so.
    looks: u32,
    state: State,
    /// What was told of it.
    told: BTreeSet<String>,
}

/// All that is known of a tree.
#[derive(Debug)]
pub struct Watching {
    rules: Rules,
    known: BTreeMap<String, Known>,
    /// Of each step that was to be saved and is a directory, the paths in it; also of those that are gone.
    shapes: BTreeMap<u64, Shape>,
}

#[derive(Debug)]
struct Shape {
    paths: BTreeSet<String>,
    /// Whether later ones are to have what it has. One that seems unfinished is no example, unless the one before it, which seemed
    /// so too, had nothing that it lacks: then the trainer writes other files now.
    is_example: bool,
}

impl Watching {
    /// Nothing is known yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            known: BTreeMap::new(),
            shapes: BTreeMap::new(),
        }
    }

    /// Takes in what a look at the tree found.
    ///
    /// * `now`: time since any moment, the same in every call; it does not run backwards.
    pub fn see(&mut self, looks: Vec<Look>, now: Duration) -> Vec<News> {
        let mut news = Vec::new();
        let there: BTreeSet<String> = looks.iter().map(|look| look.name.clone()).collect();
        self.known.retain(|name, known| {
            let is_there = there.contains(name);
            if !is_there && known.state == State::Open {
                news.push(News::Gone {
                    name: name.clone(),
                    step: known.look.step,
                });
            }
            is_there
        });
        for look in looks {
            let (name, step) = (look.name.clone(), look.step);
            match self.known.get_mut(&name) {
                Some(known) if known.look.is_as(&look) => {
                    known.last = now;
                    known.looks = known.looks.saturating_add(1);
                }
                Some(known) => {
                    known.restart(look, now);
                    if known.told.insert(String::new()) {
                        news.push(News::IsWritten { name, step });
                    }
                }
                None => {
                    self.known.insert(name, Known::new(look, now));
                }
            }
        }
        news
    }

    /// How many are not done.
    pub fn open(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.state == State::Open)
            .count()
    }

    /// Those that hold still and are not done, by step.
    pub fn settled(&self) -> Vec<Look> {
        let is_settled = |known: &&Known| {
            let since = known.last.saturating_sub(known.since);
            known.state == State::Open && known.looks >= 2 && since >= self.rules.settle
        };
        by_step(self.known.values().filter(is_settled).map(|known| &known.look))
    }

    /// What is to be done about one of them.
    ///
    /// * `signs`: what says that it is not finished. One more is added here: a file that the checkpoint before it has.
    /// * `now`: as for [`Watching::see`].
    pub fn judge(&mut self, look: &Look, mut signs: Vec<Sign>, now: Duration) -> Verdict {
        signs.extend(self.lacks(look).map(Sign::that_passes));
        let patience = self.rules.patience;
        let Some(known) = self.known.get_mut(&look.name) else {
            return Verdict::Wait {
                why: "it is gone".to_owned(),
                is_news: false,
            };
        };
        let is_over = now.saturating_sub(known.since) >= patience;
        if let Some(holding) = signs.iter().find(|sign| !(sign.passes && is_over)) {
            return Verdict::Wait {
                is_news: known.told.insert(holding.why.clone()),
                why: holding.why.clone(),
            };
        }
        let unfinished: Vec<String> = signs.into_iter().map(|sign| sign.why).collect();
        self.note_shape(look, unfinished.is_empty());
        Verdict::Save { unfinished }
    }

    fn note_shape(&mut self, look: &Look, is_complete: bool) {
        if look.is_file {
            return;
        }
        let before = self.shapes.range(..look.step).next_back();
        let is_alike =
            before.is_some_and(|(&step, shape)| !shape.is_example && shape.missing(step, look).is_none());
        let shape = Shape {
            paths: look.entries.iter().map(|entry| entry.path.clone()).collect(),
            is_example: is_complete || is_alike,
        };
        self.shapes.insert(look.step, shape);
    }

    /// A file that the nearest earlier checkpoint has and this one has not.
    fn lacks(&self, look: &Look) -> Option<String> {
        let mut before = self.shapes.range(..look.step).rev();
        let (&step, example) = before.find(|(_, shape)| shape.is_example)?;
        let missing = example.missing(step, look).filter(|_| !look.is_file)?;
        Some(format!("{missing} is not there, which step {step} has"))
    }

    /// Notes that it was saved.
    ///
    /// * `is_complete`: whether nothing said that it is unfinished.
    pub fn saved(&mut self, look: &Look, manifest: ManifestId, is_complete: bool) {
        self.put(
            look,
            State::Saved {
                manifest,
                is_complete,
            },
        );
    }

    /// Notes that nothing is to be done about it until it changes.
    pub fn leave(&mut self, look: &Look) {
        self.put(look, State::Left);
    }

    /// Notes that it changed while it was read. Says whether that is news.
    pub fn changed(&mut self, look: Look, now: Duration) -> bool {
        match self.known.get_mut(&look.name) {
            Some(known) => {
                known.restart(look, now);
                known.told.insert(String::new())
            }
            None => false,
        }
    }

    /// Notes that it was removed.
    pub fn removed(&mut self, look: &Look) {
        self.known.remove(&look.name);
    }

    fn put(&mut self, look: &Look, state: State) {
        if let Some(known) = self.known.get_mut(&look.name) {
            known.state = state;
        }
    }

    /// Those that may be removed, by step, with what they were saved as: complete, and not among the newest, neither by step nor by time.
    /// What is not complete counts as none of the newest.
    pub fn removable(&self) -> Vec<(Look, ManifestId)> {
        let Some(keep) = self.rules.keep else {
            return Vec::new();
        };
        let saved = self.known.values().filter_map(|known| match known.state {
            State::Saved {
                manifest,
                is_complete: true,
            } => Some((&known.look, manifest)),
            _ => None,
        });
        let mut saved: Vec<(&Look, ManifestId)> = saved.collect();
        saved.sort_by_key(|(look, _)| std::cmp::Reverse((look.modified(), look.step)));
        let newest: BTreeSet<&str> = saved
            .iter()
            .take(keep)
            .map(|(look, _)| look.name.as_str())
            .collect();
        saved.sort_by_key(|(look, _)| look.step);
        saved.truncate(saved.len().saturating_sub(keep));
        saved.retain(|(look, _)| !newest.contains(look.name.as_str()));
        saved.into_iter().map(|(look, id)| (look.clone(), id)).collect()
    }
}

impl Shape {
    /// What `look` lacks of it, as it would be called there.
    fn missing(&self, step: u64, look: &Look) -> Option<String> {
        let here: BTreeSet<&str> = look.entries.iter().map(|entry| entry.path.as_str()).collect();
        let absent = self.paths.iter().filter(|path| !here.contains(path.as_str()));
        let mut absent = absent.map(|path| of_step(path, step, look.step));
        absent.find(|path| !here.contains(path.as_str()))
    }
}

impl Known {
    fn new(look: Look, now: Duration) -> Self {
        Self {
            look,
            since: now,
            last: now,
            looks: 1,
            state: State::Open,
            told: BTreeSet::new(),
        }
    }

    fn restart(&mut self, look: Look, now: Duration) {
        let told = std::mem::take(&mut self.told);
        *self = Self {
            told,
            ..Self::new(look, now)
        };
    }
}

fn by_step<'l>(looks: impl Iterator<Item = &'l Look>) -> Vec<Look> {
    let mut looks: Vec<Look> = looks.cloned().collect();
    looks.sort_by_key(|look| look.step);
    looks
}

/// What a path that holds the number of step `from` is called in step `to`: `global_step500/x` is `global_step600/x`.
fn of_step(path: &str, from: u64, to: u64) -> String {
    let mut renamed = String::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        match number.parse::<u64>() {
            Ok(number) if number == from => renamed.push_str(&format!("{to:0digits$}")),
            _ => renamed.push_str(number),
        }
        let other = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        renamed.push_str(&behind[..other]);
        rest = &behind[other..];
    }
    renamed
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::watch::look::Entry;

    const RULES: Rules = Rules {
        settle: Duration::from_secs(10),
        patience: Duration::from_secs(600),
        keep: Some(1),
    };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A directory with these files; each path is told from its change by a `+`.
    fn look(step: u64, paths: &[&str]) -> Look {
        Look {
            name: format!("checkpoint-{step}"),
            path: PathBuf::new(),
            step,
            is_file: false,
            entries: paths
                .iter()
                .map(|path| Entry {
                    path: (*path).to_owned(),
                    stamp: None,
                })
                .collect(),
            left_out: Vec::new(),
            trouble: None,
        }
    }

    fn names(looks: &[Look]) -> Vec<&str> {
        looks.iter().map(|look| look.name.as_str()).collect()
    }

    fn id(n: u8) -> ManifestId {
        ManifestId::of(&[n])
    }

    fn save() -> Verdict {
        Verdict::Save {
            unfinished: Vec::new(),
        }
    }

    /// Promise: a checkpoint is settled once two looks, far enough apart, show the same; a change starts the time again and is told once.
    #[test]
    fn two_looks_apart() {
        let mut watching = Watching::new(RULES);
        assert_eq!(watching.see(vec![look(5, &["a"])], secs(0)), []);
        assert_eq!(watching.see(vec![look(5, &["a"])], secs(9)), []);
        assert!(watching.settled().is_empty());
        let written = News::IsWritten {
            name: "checkpoint-5".to_owned(),
            step: 5,
        };
        assert_eq!(watching.see(vec![look(5, &["a", "b"])], secs(10)), [written]);
        assert_eq!(watching.see(vec![look(5, &["a", "b", "c"])], secs(19)), []);
        assert_eq!(watching.see(vec![look(5, &["a", "b", "c"])], secs(28)), []);
        assert!(watching.settled().is_empty());
        watching.see(vec![look(5, &["a", "b", "c"]), look(3, &["a"])], secs(29));
        assert_eq!(names(&watching.settled()), ["checkpoint-5"]);
        watching.see(vec![look(5, &["a", "b", "c"]), look(3, &["a"])], secs(39));
        assert_eq!(names(&watching.settled()), ["checkpoint-3", "checkpoint-5"]);
    }

    /// Promise: even where no time has to pass, two looks are needed.
    #[test]
    fn one_look_is_not_enough() {
        let mut watching = Watching::new(Rules {
            settle: Duration::ZERO,
            ..RULES
        });
        watching.see(vec![look(5, &["a"])], secs(0));
        assert!(watching.settled().is_empty());
        watching.see(vec![look(5, &["a"])], secs(0));
        assert_eq!(watching.settled().len(), 1);
    }

    /// Promise: what is saved, or refused, is not looked into again until it changes; what goes before it is saved is told.
    #[test]
    fn done_until_it_changes() {
        let mut watching = Watching::new(RULES);
        let both = || vec![look(5, &["a"]), look(6, &["a"])];
        watching.see(both(), secs(0));
        watching.see(both(), secs(10));
        watching.saved(&look(5, &["a"]), id(5), true);
        watching.leave(&look(6, &["a"]));
        watching.see(both(), secs(20));
        assert!(watching.settled().is_empty());
        watching.see(vec![look(5, &["a", "b"]), look(6, &["b"])], secs(30));
        watching.see(vec![look(5, &["a", "b"]), look(6, &["b"])], secs(40));
        assert_eq!(watching.settled().len(), 2);
        watching.saved(&look(5, &["a", "b"]), id(7), true);
        let gone = News::Gone {
            name: "checkpoint-6".to_owned(),
            step: 6,
        };
        assert_eq!(watching.see(Vec::new(), secs(50)), [gone]);
        assert_eq!(watching.see(Vec::new(), secs(60)), []);
    }

    /// Promise: a change during the save starts the time again.
    #[test]
    fn changed_while_it_was_read() {
        let mut watching = Watching::new(RULES);
        watching.see(vec![look(5, &["a"])], secs(0));
        watching.see(vec![look(5, &["a"])], secs(10));
        assert!(watching.changed(look(5, &["b"]), secs(11)));
        assert!(!watching.changed(look(5, &["c"]), secs(12)));
        watching.see(vec![look(5, &["c"])], secs(21));
        assert!(watching.settled().is_empty());
        watching.see(vec![look(5, &["c"])], secs(22));
        assert_eq!(watching.settled().len(), 1);
    }

    /// Promise: a sign is told once. One for good holds for ever; one that passes holds for a while, counted from the last change, and is
    /// then named.
    #[test]
    fn signs_hold_back() {
        let mut watching = Watching::new(RULES);
        let five = || look(5, &["a"]);
        watching.see(vec![five()], secs(0));
        watching.see(vec![five()], secs(10));
        let certain = Sign {
            why: "cut".to_owned(),
            passes: false,
        };
        let passing = Sign::that_passes("tmp".to_owned());
        let wait = |why: &str, is_news| Verdict::Wait {
            why: why.to_owned(),
            is_news,
        };
        let signs = || vec![passing.clone()];
        assert_eq!(watching.judge(&five(), signs(), secs(10)), wait("tmp", true));
        assert_eq!(watching.judge(&five(), signs(), secs(599)), wait("tmp", false));
        let all = vec![passing.clone(), certain];
        assert_eq!(watching.judge(&five(), all, secs(9000)), wait("cut", true));
        let unfinished = vec!["tmp".to_owned()];
        assert_eq!(
            watching.judge(&five(), signs(), secs(600)),
            Verdict::Save { unfinished }
        );
        watching.see(vec![look(5, &["a", "b"])], secs(601));
        assert_eq!(watching.judge(&five(), signs(), secs(700)), wait("tmp", false));
        assert_eq!(watching.judge(&five(), Vec::new(), secs(700)), save());
    }

    /// Promise: a file that the nearest earlier complete checkpoint has is waited for, under this step's number; one that was saved
    /// unfinished is no example, and neither is a later one; two alike in a row are.
    #[test]
    fn like_the_one_before() {
        let mut watching = Watching::new(RULES);
        let mut of = |step, paths: &[&str], now| {
            let look = look(step, paths);
            watching.see(vec![look.clone()], secs(0));
            match watching.judge(&look, Vec::new(), secs(now)) {
                Verdict::Save { unfinished } => unfinished.len().to_string(),
                Verdict::Wait { why, .. } => why,
            }
        };
        let whole = &["global_step500/x", "model-00001.pt", "state.json"];
        assert_eq!(
            of(400, &["global_step400/x", "model-00001.pt", "state.json"], 20),
            "0"
        );
        assert_eq!(
            of(500, &whole[..2], 20),
            "state.json is not there, which step 400 has"
        );
        assert_eq!(
            of(500, &whole[1..], 20),
            "global_step500/x is not there, which step 400 has"
        );
        assert_eq!(of(500, whole, 20), "0");
        assert_eq!(of(300, &["state.json"], 20), "0");
        // From here on the trainer writes less.
        assert_eq!(of(600, &["a"], 700), "1");
        assert!(of(700, &["a"], 20).contains("which step 500 has"));
        assert_eq!(of(700, &["a"], 700), "1");
        assert_eq!(of(800, &["a"], 20), "0");
    }

    /// Promise: only what is saved and complete may go, never the newest of those; nothing goes unless it was asked for.
    #[test]
    fn the_newest_stay() {
        let removable = |keep: Option<usize>| {
            let mut watching = Watching::new(Rules { keep, ..RULES });
            let all: Vec<Look> = (1..=6).map(|step| look(step, &["a"])).collect();
            watching.see(all.clone(), secs(0));
            watching.saved(&all[0], id(1), true);
            watching.saved(&all[1], id(2), false);
            watching.saved(&all[2], id(3), true);
            watching.saved(&all[3], id(4), true);
            watching.leave(&all[4]);
            let found = watching.removable();
            found.iter().map(|(look, _)| look.step).collect::<Vec<u64>>()
        };
        assert_eq!(removable(None), [0; 0]);
        assert_eq!(removable(Some(0)), [1, 3, 4]);
        assert_eq!(removable(Some(1)), [1, 3]);
        assert_eq!(removable(Some(3)), [0; 0]);
        assert_eq!(removable(Some(9)), [0; 0]);
    }

    /// Promise: a step's number is replaced where it stands alone, at its width.
    #[test]
    fn paths_of_steps() {
        assert_eq!(
            of_step("global_step500/a-500.pt", 500, 1000),
            "global_step1000/a-1000.pt"
        );
        assert_eq!(of_step("iter_0000500/x1500y", 500, 600), "iter_0000600/x1500y");
        assert_eq!(of_step("no number", 1, 2), "no number");
    }
}
