//! Steps in the names that trainers give their checkpoints.
//!
//! ```text
//! checkpoint-500   step_500   step500   global_step500   iter_0000500   ckpt_epoch_1_step_1200   epoch=3-step=1000.ckpt   epoch_3
//! ```
//! A name counts if it is made of known words and their numbers alone: `checkpoint-500-merged` is something else.

/// Extensions of checkpoints that are one file, the longest first.
const EXTENSIONS: &[&str] = &[".pth.tar", ".safetensors", ".ckpt", ".pth", ".bin", ".pt"];

/// Words whose number is a step; of several in a name the first here counts.
const STEPS: &[&str] = &[
    "step",
    "steps",
    "iter",
    "iteration",
    "update",
    "checkpoint",
    "ckpt",
];

/// Words whose number is an epoch.
const EPOCHS: &[&str] = &["epoch", "ep"];

/// Words that may stand in a name without a number.
const FILLERS: &[&str] = &["global", "model", "state", "weights"];

/// What a name counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    Steps,
    Epochs,
}

/// Whether a name ends as those of checkpoints do that are one file.
pub(crate) fn has_extension(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

/// What a name counts, and how far; `None` for a name that is not made of that alone.
///
/// * `is_file`: whether it may end in the extension of a file.
pub(super) fn count_in(name: &str, is_file: bool) -> Option<(Counted, u64)> {
    let name = name.to_ascii_lowercase();
    let stem = match EXTENSIONS
        .iter()
        .find_map(|extension| name.strip_suffix(extension))
    {
        Some(stem) if is_file => stem,
        None if !is_file => &name,
        _ => return None,
    };
    let mut numbers: Vec<(&str, u64)> = Vec::new();
    // A word that has no number yet.
    let mut open: Option<&str> = None;
    for part in stem.split(['-', '_', '=']) {
        let digits = part.len() - part.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, number) = part.split_at(part.len() - digits);
        if !word.is_empty() {
            if ![STEPS, EPOCHS, FILLERS].iter().any(|words| words.contains(&word)) {
                return None;
            }
            open = Some(word);
        }
        if !number.is_empty() {
            numbers.push((open.take()?, number.parse().ok()?));
        } else if word.is_empty() {
            return None;
        }
    }
    let of = |words: &[&str]| {
        let found = words
            .iter()
            .find_map(|word| numbers.iter().find(|(w, _)| w == word));
        found.map(|&(_, number)| number)
    };
    let steps = of(STEPS).map(|number| (Counted::Steps, number));
    steps.or_else(|| of(EPOCHS).map(|number| (Counted::Epochs, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the names that trainers write are read; a name that says anything else is not guessed at.
    #[test]
    fn names_of_trainers() {
        let steps = |n| Some((Counted::Steps, n));
        let epochs = |n| Some((Counted::Epochs, n));
        for (name, told) in [
            ("checkpoint-500", steps(500)),
            ("checkpoint_3", steps(3)),
            ("step_500", steps(500)),
            ("step-00001000", steps(1000)),
            ("step1000", steps(1000)),
            ("global_step500", steps(500)),
            ("global_step_100", steps(100)),
            ("iter_0001000", steps(1000)),
            ("ckpt_epoch_1_step_1200", steps(1200)),
            ("Epoch_3", epochs(3)),
            ("epoch-0", epochs(0)),
            ("checkpoint-500-merged", None),
            ("tmp-checkpoint-500", None),
            ("checkpoint", None),
            ("runs", None),
            ("500", None),
            ("step1000-unsharded", None),
            ("checkpoint-500.bak", None),
            ("checkpoint_1_500", None),
            ("checkpoint-99999999999999999999", None),
            ("step--5", None),
            ("step-", None),
            ("", None),
        ] {
            assert_eq!(count_in(name, false), told, "{name}");
        }
        for (name, told) in [
            ("epoch=3-step=1000.ckpt", steps(1000)),
            ("ckpt_epoch_0_iter_1000.pt", steps(1000)),
            ("model_step_500.safetensors", steps(500)),
            ("checkpoint_12.pth.tar", steps(12)),
            ("epoch=3-val_loss=1.23.ckpt", None),
            ("checkpoint-500.json", None),
            ("checkpoint-500", None),
            ("last.ckpt", None),
            ("model.safetensors", None),
            ("model-00001-of-00002.safetensors", None),
        ] {
            assert_eq!(count_in(name, true), told, "{name}");
        }
    }
}
