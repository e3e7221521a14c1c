//! Names that files have while they are written.

/// What stands behind a dot in the name of a file that is not finished.
const ENDS: &[&str] = &[
    "tmp",
    "temp",
    "incomplete",
    "partial",
    "part",
    "writing",
    "inprogress",
];
/// How such names begin; the last is what a network's file system calls a deleted file that is still open.
const STARTS: &[&str] = &["tmp-", "tmp_", "tmp.", ".tmp", ".nfs"];

/// Whether a name, without folders, is one that trainers and libraries give to what they have not finished.
pub(super) fn is_temporary(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    STARTS.iter().any(|start| name.starts_with(start))
        || name.split('.').skip(1).any(|part| {
            let word = part.split(['-', '_']).next().unwrap_or_default();
            ENDS.contains(&word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: temporary names are known, and no name that a finished file has.
    #[test]
    fn names() {
        for name in [
            "tmp-checkpoint-500",
            "model.safetensors.tmp",
            "model.safetensors.tmp.4711",
            "optimizer.pt.tmp-4711",
            ".metadata.tmp",
            "weights.incomplete",
            "x.part",
            "x.PARTIAL",
            ".nfs000000000001",
        ] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [
            "model.safetensors",
            "pytorch_model-00001-of-00002.bin",
            "template.json",
            "chat_template.jinja",
            "events.out.tfevents.1.host",
            "part.json",
            ".metadata",
            "temperature.json",
            "mp_rank_00_model_states.pt",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
