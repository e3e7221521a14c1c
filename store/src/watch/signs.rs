//! Signs that a checkpoint is not finished.
//!
//! Some say that it cannot be loaded as it is: a tensor file that ends early, an index that names a shard that is not there. Such a
//! checkpoint is not saved. Others may be wrong, for a trainer that was killed leaves temporary files behind: they count for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use globset::GlobSet;

use super::look::{Look, Newest};
use super::temporary::is_temporary;
use crate::error::{Result, StoreError};
use crate::files::safetensors::{self, read_layout};
use crate::files::source::SourceFile;
use crate::files::torch;

/// Largest index of shards that is read, in bytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Digits of the numbers in the names of shards.
const SHARD_DIGITS: usize = 5;

/// A sign that a checkpoint is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What it is, as a sentence without its end.
    pub why: String,
    /// Whether it counts for a while only.
    pub passes: bool,
}

impl Sign {
    pub(super) fn that_passes(why: String) -> Self {
        Self { why, passes: true }
    }

    fn for_good(why: String) -> Self {
        Self { why, passes: false }
    }
}

/// All signs of one checkpoint, those for good first.
///
/// * `newest`: what the trainer's own note says.
/// * `opaque`: files that need not be what their names say.
pub(super) fn signs(look: &Look, newest: Option<&Newest>, opaque: &GlobSet) -> Vec<Sign> {
    if let Some(trouble) = &look.trouble {
        return vec![Sign::for_good(trouble.clone())];
    }
    let files: BTreeSet<&str> = look
        .entries
        .iter()
        .filter(|entry| entry.stamp.is_some())
        .map(|entry| entry.path.as_str())
        .collect();
    let mut signs = Vec::new();
    for &path in files.iter().filter(|path| !opaque.is_match(path)) {
        let at = match look.is_file {
            true => look.path.clone(),
            false => look.path.join(path),
        };
        let found = of_file(&at, path, &files);
        // What cannot be read now may be gone, which the next look shows.
        signs.extend(found.unwrap_or_else(|error| Some(error.to_string())));
    }
    signs.extend(without_metadata(&files));
    let mut signs: Vec<Sign> = signs.into_iter().map(Sign::for_good).collect();
    let names = look.entries.iter().map(|entry| entry.path.as_str());
    let temporary = names.filter(|path| is_temporary(path.rsplit('/').next().unwrap_or(path)));
    let mut pass: Vec<String> = temporary
        .map(|path| format!("{path} has a temporary name"))
        .collect();
    pass.extend(missing_shards(&files));
    if look.left_out.iter().any(|path| path.ends_with(".partial")) {
        pass.push("a restore into it is not finished".to_owned());
    }
    if files.contains("training_args.bin") && !files.contains("trainer_state.json") {
        pass.push("trainer_state.json, which is written last, is not there".to_owned());
    }
    if let Some(newest) = newest.filter(|newest| newest.step < look.step) {
        pass.push(format!("{} still names step {}", newest.file, newest.step));
    }
    signs.extend(pass.into_iter().map(Sign::that_passes));
    signs
}

/// What is wrong with a file of tensors or an index of them.
fn of_file(at: &Path, path: &str, files: &BTreeSet<&str>) -> Result<Option<String>> {
    if safetensors::is_named_like_one(path) {
        return match read_layout(&SourceFile::open(at)?) {
            Ok(_) => Ok(None),
            Err(StoreError::Input { detail, .. }) => Ok(Some(format!("{path}: {detail}"))),
            Err(error) => Err(error),
        };
    }
    if torch::is_named_like_one(path) {
        let file = SourceFile::open(at)?;
        return Ok(match file.len_bytes() {
            0 => Some(format!("{path} is empty")),
            _ if torch::is_cut_short(&file)? => Some(format!("{path} ends early")),
            _ => None,
        });
    }
    match path.ends_with(".index.json") {
        true => of_index(&SourceFile::open(at)?, path, files),
        false => Ok(None),
    }
}

/// What an index of shards names and is not there.
fn of_index(file: &SourceFile, path: &str, files: &BTreeSet<&str>) -> Result<Option<String>> {
    if file.len_bytes() > MAX_INDEX_BYTES {
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_INDEX_BYTES")]
    let text = file.read_at(0, file.len_bytes() as usize)?;
    let Ok(index) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return Ok(Some(format!("{path} is no JSON")));
    };
    let folder = path.rfind('/').map_or("", |at| &path[..=at]);
    let shards = index["weight_map"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.values());
    let shards: BTreeSet<&str> = shards.filter_map(|shard| shard.as_str()).collect();
    let missing = shards
        .into_iter()
        .find(|shard| !files.contains(format!("{folder}{shard}").as_str()));
    Ok(missing.map(|shard| format!("{path} names {shard}, which is not there")))
}

/// PyTorch's distributed checkpoints say what lies where in `.metadata`, which comes last.
fn without_metadata(files: &BTreeSet<&str>) -> Option<String> {
    let parts = files.iter().filter(|path| path.ends_with(".distcp"));
    let mut folders = parts.map(|path| path.rfind('/').map_or("", |at| &path[..=at]));
    let folder = folders.find(|folder| !files.contains(format!("{folder}.metadata").as_str()))?;
    Some(format!("{folder}.metadata, which is written last, is not there"))
}

/// The first file that is missing of each set that is called `x-00001-of-00003.y`.
fn missing_shards(files: &BTreeSet<&str>) -> Vec<String> {
    let mut sets: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
    for path in files {
        if let Some((before, number, after)) = shard_of(path) {
            sets.entry((before, after)).or_default().insert(number);
        }
    }
    let missing = |((before, after), there): ((&str, &str), BTreeSet<u32>)| {
        let all: u32 = after[..SHARD_DIGITS].parse().ok()?;
        let missing = (1..=all).find(|number| !there.contains(number))?;
        // Some count from 0.
        let is_whole = there.contains(&0) && missing == all;
        (!is_whole).then(|| format!("{before}-{missing:05}-of-{after} is not there"))
    };
    sets.into_iter().filter_map(missing).collect()
}

/// What a shard is called before its number, the number, and what follows `-of-`, which begins with how many there are.
fn shard_of(path: &str) -> Option<(&str, u32, &str)> {
    let (before, after) = path.rsplit_once("-of-")?;
    let (before, number) = before.rsplit_once('-')?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let is_one =
        number.len() == SHARD_DIGITS && digits(number) == SHARD_DIGITS && digits(after) == SHARD_DIGITS;
    Some((before, number.parse().ok().filter(|_| is_one)?, after))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::source::Stamp;
    use crate::watch::look::Entry;

    fn signs_of(dir: &Path, newest: Option<&Newest>) -> Vec<Sign> {
        let mut entries = Vec::new();
        let mut open = vec![String::new()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(dir.join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{folder}{}", entry.file_name().to_str().unwrap());
                let stamp = entry.path().is_file().then(|| Stamp::at(&entry.path()).unwrap());
                if stamp.is_none() {
                    open.push(format!("{path}/"));
                }
                entries.push(Entry { path, stamp });
            }
        }
        let look = Look {
            name: "checkpoint-500".to_owned(),
            path: dir.to_owned(),
            step: 500,
            is_file: false,
            entries,
            left_out: Vec::new(),
            trouble: None,
        };
        signs(&look, newest, &GlobSet::empty())
    }

    fn safetensors() -> Vec<u8> {
        let header = r#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &[1; 4],
        ]
        .concat()
    }

    /// Promise: each sign of something unfinished is seen, and goes when what is missing comes.
    #[test]
    fn each_sign() {
        let whole = safetensors();
        let zip_end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
        let zip = [b"PK\x03\x04 some bytes".as_slice(), &zip_end].concat();
        // Files, whether the sign passes, what it says, and the file that ends it.
        type Case<'a> = (&'a [(&'a str, &'a [u8])], bool, &'a str, (&'a str, &'a [u8]));
        let cases: [Case<'_>; 8] = [
            (
                &[("a/m.safetensors", &whole[..whole.len() - 1])],
                false,
                "a/m.safetensors: ",
                ("a/m.safetensors", &whole),
            ),
            (
                &[("m.safetensors", b"")],
                false,
                "m.safetensors: ",
                ("m.safetensors", &whole),
            ),
            (&[("o.pt", b"")], false, "o.pt is empty", ("o.pt", &zip)),
            (&[("o.pt", &zip[..20])], false, "o.pt ends early", ("o.pt", &zip)),
            (
                &[
                    (
                        "a/m.safetensors.index.json",
                        br#"{"weight_map":{"w":"m-1.safetensors"}}"#,
                    ),
                    ("m-1.safetensors", &whole),
                ],
                false,
                "names m-1.safetensors, which is not there",
                ("a/m-1.safetensors", &whole),
            ),
            (
                &[("a/__0_0.distcp", b"x"), (".metadata", b"x")],
                false,
                "a/.metadata, which is written last",
                ("a/.metadata", b"x"),
            ),
            (
                &[("m-00001-of-00003.bin", b"x"), ("m-00003-of-00003.bin", b"x")],
                true,
                "m-00002-of-00003.bin is not there",
                ("m-00002-of-00003.bin", b"x"),
            ),
            (
                &[("training_args.bin", b"x"), ("config.json", b"{}")],
                true,
                "trainer_state.json",
                ("trainer_state.json", b"{}"),
            ),
        ];
        for (files, passes, says, (last, bytes)) in cases {
            let dir = tempfile::tempdir().unwrap();
            let write = |path: &str, bytes: &[u8]| {
                let at = dir.path().join(path);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                fs::write(at, bytes).unwrap();
            };
            files.iter().for_each(|(path, bytes)| write(path, bytes));
            let found = signs_of(dir.path(), None);
            assert_eq!(found.len(), 1, "{says}: {found:?}");
            assert!(
                found[0].passes == passes && found[0].why.contains(says),
                "{found:?}"
            );
            write(last, bytes);
            assert_eq!(signs_of(dir.path(), None), [], "{says}");
        }
    }

    /// Promise: temporary names count for a while; so does a trainer's own note that names an earlier step; shards may count from 0.
    #[test]
    fn names_and_notes() {
        let dir = tempfile::tempdir().unwrap();
        for shard in ["m-00000-of-00002.bin", "m-00001-of-00002.bin"] {
            fs::write(dir.path().join(shard), "x").unwrap();
        }
        let newest = |step| Newest {
            file: "latest".to_owned(),
            step,
        };
        assert_eq!(signs_of(dir.path(), Some(&newest(500))), []);
        let early = signs_of(dir.path(), Some(&newest(400)));
        assert_eq!(
            early,
            [Sign::that_passes("latest still names step 400".to_owned())]
        );
        fs::create_dir(dir.path().join("state.tmp")).unwrap();
        let temporary = signs_of(dir.path(), None);
        assert_eq!(
            temporary,
            [Sign::that_passes("state.tmp has a temporary name".to_owned())]
        );
    }
}
