//! PyTorch files: which bytes are the storages of tensors, and what those are called.
//!
//! ```text
//! local header | data.pkl | local header, padding | data/0 | … | directory          a zip archive of stored entries
//!      container (as it was)                       tensor        container
//! ```
//! `data.pkl` is a pickle, a program. It is never run: [`pickle`] follows its opcodes over values that stand for what it would make,
//! [`storages`] keeps what it says of storages, [`names`] finds the way to each. The worst that a hostile file
//! gets is a wrong dtype, shape or name: the bytes that are no tensor's are kept as they are, so the file always comes back.

mod names;
mod pickle;
mod storages;
mod zip;

use std::collections::{HashMap, HashSet};

use super::safetensors::TensorInFile;
use super::source::SourceFile;
use crate::error::StoreError;

/// Ends of the names of files that are expected to be PyTorch's.
const EXTENSIONS: &[&str] = &[".pt", ".pth", ".bin", ".ckpt", ".pth.tar"];
/// How files begin that `torch.save` wrote before it made archives: a pickle of one large number.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// Entry with the pickle, below the archive's folder.
const PICKLE: &str = "/data.pkl";
/// Folder with the storages, below the archive's folder.
const STORAGES: &str = "data/";
/// Entry that says in which order the bytes of numbers stand.
const BYTE_ORDER: &str = "byteorder";
/// Longest pickle that is followed.
const MAX_PICKLE_BYTES: u64 = 32 << 20;
/// Most storages of a file.
const MAX_STORAGES: usize = 1 << 18;

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// None of PyTorch's files, or one without tensors.
    Other,
    /// One that is kept as plain bytes, and why.
    Whole(&'static str),
    /// One whose storages are kept as tensors, by offset. They do not overlap; all other bytes are the container.
    Tensors(Vec<TensorInFile>),
}

/// Why a file is not taken apart.
#[derive(Debug)]
enum Why {
    /// It is not as it would have to be.
    Unusable(&'static str),
    /// It cannot be read.
    Store(StoreError),
}

impl From<StoreError> for Why {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether a file of this name is expected to be PyTorch's.
pub(crate) fn is_named_like_one(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    EXTENSIONS.iter().any(|end| path.ends_with(end))
}

/// Whether the end of `file` is missing, as far as that can be told: of the format of before PyTorch 1.6 it cannot.
///
/// # Errors
/// As [`SourceFile::read_at`].
pub(crate) fn is_cut_short(file: &SourceFile) -> Result<bool, StoreError> {
    zip::is_cut_short(file)
}

/// Looks into `file`; `path` is its name in the checkpoint.
///
/// # Errors
/// As [`SourceFile::read_at`]. What is in the file is never an error.
pub(crate) fn look_into(file: &SourceFile, path: &str) -> Result<Found, StoreError> {
    match found(file, path) {
        Ok(found) => Ok(found),
        Err(Why::Unusable(why)) => Ok(Found::Whole(why)),
        Err(Why::Store(error)) => Err(error),
    }
}

fn found(file: &SourceFile, path: &str) -> Result<Found, Why> {
    #[expect(clippy::cast_possible_truncation, reason = "at most the length of the magic")]
    let start = file.read_at(0, file.len_bytes().min(OLD_MAGIC.len() as u64) as usize)?;
    if start == OLD_MAGIC {
        return Err(Why::Unusable("it is in PyTorch's format of before version 1.6"));
    }
    if !zip::is_archive(&start) {
        return Ok(Found::Other);
    }
    let is_expected = is_named_like_one(path);
    let directory = match zip::read_directory(file) {
        Ok(directory) => directory,
        Err(Why::Unusable(_)) if !is_expected => return Ok(Found::Other),
        Err(why) => return Err(why),
    };
    let names: HashMap<&str, usize> = directory
        .entries
        .iter()
        .zip(0..)
        .map(|(e, i)| (e.name.as_str(), i))
        .collect();
    // The archive's folder; the pickle of one inside another archive's folder is not meant.
    let mut folders = names
        .keys()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .filter(|f| !f.contains('/'));
    let Some(folder) = folders.next() else {
        return Ok(Found::Other);
    };
    if folders.next().is_some() || names.len() != directory.entries.len() {
        return Err(Why::Unusable(
            "its zip archive has several entries where there must be one",
        ));
    }
    let inside = |name: &str| format!("{folder}/{name}");
    let stem = inside(STORAGES);
    let mut wanted: Vec<usize> = (0..directory.entries.len())
        .filter(|&i| directory.entries[i].name.starts_with(&stem))
        .collect();
    if wanted.is_empty() {
        return Ok(Found::Other);
    }
    if wanted.len() > MAX_STORAGES {
        return Err(Why::Unusable("it has too many tensors"));
    }
    let of_storages = wanted.len();
    wanted.push(names[format!("{folder}{PICKLE}").as_str()]);
    wanted.extend(names.get(inside(BYTE_ORDER).as_str()));
    let places = directory.locate(file, &wanted)?;
    if let Some(order) = places.get(of_storages + 1)
        && (order.end - order.start != 6 || file.read_at(order.start, 6)? != b"little")
    {
        return Err(Why::Unusable("its numbers are big-endian"));
    }
    let place = &places[of_storages];
    if place.end - place.start > MAX_PICKLE_BYTES {
        return Err(Why::Unusable("its pickle is too large"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PICKLE_BYTES")]
    let bytes = file.read_at(place.start, (place.end - place.start) as usize)?;
    let program = pickle::follow(&bytes).map_err(Why::Unusable)?;
    let mut told = storages::told(&program);
    names::name(&program, &mut told);
    let mut tensors = Vec::new();
    for (&at, range) in wanted.iter().zip(&places[..of_storages]) {
        let key = &directory.entries[at].name[stem.len()..];
        let Some(storage) = told.remove(key) else {
            continue;
        };
        let Some((dtype, shape)) = storage.layout(range.end - range.start) else {
            continue;
        };
        tensors.push(TensorInFile {
            name: storage.name.unwrap_or_else(|| format!("{STORAGES}{key}")),
            dtype,
            shape,
            offset_bytes: range.start,
            len_bytes: range.end - range.start,
        });
    }
    if tensors.is_empty() {
        return Err(Why::Unusable("its pickle tells of no tensor"));
    }
    tensors.sort_by_key(|t| (t.offset_bytes, t.len_bytes));
    let mut taken = HashSet::new();
    for tensor in &mut tensors {
        while !taken.insert(tensor.name.clone()) {
            tensor.name.push('\'');
        }
    }
    Ok(Found::Tensors(tensors))
}
