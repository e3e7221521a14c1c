//! A store's life, cut at every step.

use super::disk::{Lacks, PowerDisk};
use super::image::Image;
use crate::faults::commands::*;
use crate::faults::world::{Checkpoints, State, forget, opened, ruthless, standing, target};
use crate::progress::Silent;
use crate::{Objects, Result, StoreError};

/// A command of a store's life, and whether an error says that it was done before.
type Done = fn(&Given, &Objects) -> Result<()>;
type IsDone = fn(&StoreError) -> bool;

/// Everything that writes, one after the other, each by a process of its own.
fn life() -> Vec<(Done, IsDone)> {
    let never: IsDone = |_| false;
    let not_found: IsDone = |error| matches!(error, StoreError::NotFound { .. });
    vec![
        (INIT.run, INIT.is_done),
        (|g, o| g.sources.save(&opened(o)?, 0), never),
        (|g, o| g.sources.save(&opened(o)?, 1), never),
        (|g, o| g.sources.save(&opened(o)?, 2), never),
        (|g, o| g.sources.save(&opened(o)?, 3), never),
        (TAG.run, never),
        (|_, o| forget(&opened(o)?, &[1, 3]), not_found),
        (UNDO.run, not_found),
        (|_, o| forget(&opened(o)?, &[1, 3]), not_found),
        (GC.run, never),
        (|g, o| part(g, &opened(o)?, 0), never),
        (|g, o| part(g, &opened(o)?, 1), never),
        (COMMIT_PARTS.run, not_found),
        (
            |_, o| {
                let store = opened(o)?;
                let target = target(&store, 4)?;
                store.tag(&"new".parse()?, &target, true, 3).map(drop)
            },
            never,
        ),
        (POLICY.run, never),
        (COPY.between[0], never),
        (COPY.between[1], never),
        (COPY.run, never),
        (REPACK.run, never),
        (GC.run, never),
        (|g, o| g.sources.save(&opened(o)?, 5), never),
        (
            |_, o| crate::tags::remove(opened(o)?.objects(), &"new".parse()?, 4).map(drop),
            not_found,
        ),
    ]
}

/// The store when a command had been acknowledged.
struct Moment {
    /// Steps of the disk by then.
    steps: usize,
    state: Option<State>,
    /// What may never be lost again, but for what later commands collect.
    acknowledged: Checkpoints,
}

impl Moment {
    fn now(disk: &PowerDisk) -> Self {
        let state = State::of(&disk.objects()).unwrap();
        let acknowledged = match state {
            Some(_) => standing(&disk.objects()).unwrap(),
            None => Checkpoints::new(),
        };
        Self {
            steps: disk.count(),
            state,
            acknowledged,
        }
    }
}

/// How the power goes.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// All that was not synced is lost.
    Drops,
    /// Nothing is.
    Keeps,
    /// Some is.
    Seed(u64),
}

impl Cut {
    /// One of so many, from what is surely there to what was asked for last.
    fn choices(self) -> impl FnMut(usize) -> usize {
        let mut seed = match self {
            Self::Seed(seed) => seed,
            _ => 0,
        };
        move |of| match self {
            Self::Drops => 0,
            Self::Keeps => of - 1,
            Self::Seed(_) => {
                // SplitMix64.
                seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                usize::try_from((z ^ (z >> 31)) % of as u64).unwrap()
            }
        }
    }
}

/// Seeds at each step.
fn seeds() -> u64 {
    match std::env::var_os("TPDE_SOAK").is_some_and(|value| value == "1") {
        true => 40,
        false => 2,
    }
}

/// What may be left of `image` after each cut.
fn cuts(image: &Image, at: usize) -> impl Iterator<Item = (Cut, PowerDisk)> {
    let seeds = (0..seeds()).map(move |n| Cut::Seed(((at as u64) << 16) + n));
    let all = [Cut::Drops, Cut::Keeps].into_iter().chain(seeds);
    all.map(|cut| (cut, PowerDisk::of(image.left(&mut cut.choices()))))
}

/// What is wrong after the power came back: the old state or the new one must be there, and all that was acknowledged.
fn wrong(given: &Given, disk: &PowerDisk, before: &Moment, after: &Moment) -> Option<String> {
    let state = match State::of(&disk.objects()) {
        Ok(state) => state,
        Err(error) => return Some(format!("it cannot be read: {error}")),
    };
    if state != before.state && state != after.state {
        return Some(format!("a mix: {state:#?}"));
    }
    state.and_then(|_| given.sources.loss(&disk.objects(), &before.acknowledged))
}

/// The same command again, and a gc: what is wrong then.
fn wrong_later(
    given: &Given,
    disk: &PowerDisk,
    (again, is_done): (Done, IsDone),
    before: &Moment,
    after: &Moment,
) -> Option<String> {
    match again(given, &disk.objects()) {
        Err(error) if !is_done(&error) => return Some(format!("again: {error}")),
        _ => {}
    }
    let gc = opened(&disk.objects()).and_then(|store| store.gc(&ruthless(), &Silent));
    if let Err(error) = gc {
        return Some(format!("gc: {error}"));
    }
    match State::of(&disk.objects()) {
        Err(error) => return Some(format!("again, it cannot be read: {error}")),
        Ok(state) if state != after.state => return Some(format!("again, a mix: {state:#?}")),
        Ok(_) => {}
    }
    let kept = standing(&disk.objects())
        .unwrap()
        .intersection(&before.acknowledged)
        .copied()
        .collect();
    let loss = given.sources.loss(&disk.objects(), &kept);
    loss.map(|loss| format!("again: {loss}"))
}

/// Lives a whole life on a disk, and cuts it at every step. Gives the cuts, and what was lost by them; of a disk that lacks something, to
/// the first loss.
fn cut_everywhere(lacks: Lacks) -> (usize, Vec<String>) {
    let given = &Given::new();
    let disk = PowerDisk::new(lacks);
    let life = life();
    let mut moments = vec![Moment::now(&disk)];
    for (number, (command, _)) in life.iter().enumerate() {
        command(given, &disk.objects()).unwrap_or_else(|error| panic!("command {number}: {error}"));
        moments.push(Moment::now(&disk));
    }
    let (mut image, mut count, mut lost) = (Image::default(), 0, Vec::new());
    let steps = disk.steps();
    for at in 0..=steps.len() {
        if let Some(last) = at.checked_sub(1) {
            image.step(&steps[last]);
        }
        let number = moments.iter().rposition(|moment| moment.steps <= at).unwrap();
        let before = &moments[number];
        // What was acknowledged a moment ago must be there; later, what comes next may be there too.
        let after = if before.steps == at {
            before
        } else {
            &moments[number + 1]
        };
        for (cut, left) in cuts(&image, at) {
            count += 1;
            let found = wrong(given, &left, before, after).or_else(|| {
                let next = moments.get(number + 1)?;
                matches!(cut, Cut::Seed(_)).then(|| wrong_later(given, &left, life[number], before, next))?
            });
            lost.extend(found.map(|what| format!("command {number}, step {at}, {cut:?}: {what}")));
        }
        if lacks != Lacks::Nothing && !lost.is_empty() {
            break;
        }
    }
    println!(
        "{lacks:?}: {} steps, {count} cuts, {} losses",
        steps.len(),
        lost.len()
    );
    (count, lost)
}

/// Promise: whenever the power goes, and whatever of what was not synced is left: the store is as it was before the command or as it is after
/// it, all that was acknowledged is restored byte for byte, the same command again ends well, and a gc leaves it whole.
#[test]
fn the_power_goes_at_every_step() {
    let (cuts, lost) = cut_everywhere(Lacks::Nothing);
    assert!(
        lost.is_empty(),
        "{}: {:#?}",
        lost.len(),
        &lost[..lost.len().min(9)]
    );
    assert!(cuts > 2000, "{cuts}");
}

/// What is killed, and what relies on what that left.
fn pairs() -> Vec<(&'static str, Done, Done)> {
    let save: Done = |g, o| g.sources.save(&opened(o)?, 4);
    let save_next: Done = |g, o| g.sources.save(&opened(o)?, 5);
    let first_part: Done = |g, o| part(g, &opened(o)?, 0);
    vec![
        ("a save, then the same", save, save),
        ("a save, then the next", save, save_next),
        ("a tag", TAG.run, TAG.run),
        ("a policy", POLICY.run, POLICY.run),
        ("a copy", COPY.run, COPY.run),
        ("a part, then the same and the commit", first_part, |g, o| {
            part(g, &opened(o)?, 0)?;
            part(g, &opened(o)?, 1)?;
            (COMMIT_PARTS.run)(g, o)
        }),
        ("a forget, then a gc", FORGET.run, GC.run),
        ("a tag that is removed, then a gc", REMOVE_TAG.run, GC.run),
        ("an undo, then a gc", UNDO.run, GC.run),
        ("a repack, then a gc", REPACK.run, GC.run),
        ("a gc, then another", GC.run, GC.run),
    ]
}

/// A writer is killed after every one of its steps, another does its work, and then the power goes. Gives the cuts, and what was lost by them; of a
/// disk that lacks something, to the first loss.
fn killed_then_cut(lacks: Lacks) -> (usize, Vec<String>) {
    let given = &Given::new();
    let furnished = PowerDisk::new(lacks);
    given.sources.furnish(&furnished.objects());
    let before_any = Moment::now(&furnished);
    let (mut count, mut lost) = (0, Vec::new());
    for (name, killed, then) in pairs() {
        let is_gc = name.ends_with("gc");
        for killed_after in 0.. {
            let disk = furnished.copied();
            disk.lives_for(Some(killed_after));
            let first = killed(given, &disk.objects());
            disk.lives_for(None);
            then(given, &disk.objects()).unwrap_or_else(|error| panic!("{name}, {killed_after}: {error}"));
            let after = Moment::now(&disk);
            // Nobody said that what the first did is there to stay, unless the other relies on it.
            let before = match is_gc {
                true => Moment {
                    steps: before_any.steps,
                    state: before_any.state.clone(),
                    acknowledged: &before_any.acknowledged & &after.acknowledged,
                },
                false => Moment::now(&disk),
            };
            let mut image = Image::default();
            disk.steps().iter().for_each(|step| image.step(step));
            for (cut, left) in cuts(&image, killed_after) {
                count += 1;
                let found = wrong(given, &left, &before, &after);
                lost.extend(
                    found.map(|what| format!("{name}, killed after {killed_after}, {cut:?}: {what}")),
                );
            }
            if lacks != Lacks::Nothing && !lost.is_empty() {
                return (count, lost);
            }
            if first.is_ok() {
                println!("{name}: killed after each of {killed_after} steps, {count} cuts so far");
                break;
            }
        }
    }
    (count, lost)
}

/// Promise: what another writer made and did not live to sync is made durable by whoever relies on it, or finds it.
#[test]
fn the_power_goes_after_a_writer_was_killed() {
    let (cuts, lost) = killed_then_cut(Lacks::Nothing);
    assert!(
        lost.is_empty(),
        "{}: {:#?}",
        lost.len(),
        &lost[..lost.len().min(9)]
    );
    assert!(cuts > 1000, "{cuts}");
}

/// Promise: these tests find what a missing sync loses: of files, of folders, and of folders that others made.
#[test]
fn a_missing_sync_is_found() {
    for lacks in [Lacks::Files, Lacks::Folders] {
        assert!(!cut_everywhere(lacks).1.is_empty(), "{lacks:?}");
    }
    assert!(!killed_then_cut(Lacks::Settling).1.is_empty());
}
