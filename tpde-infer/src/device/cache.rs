//! Compiled kernels on disk, by architecture and by a hash of what they were compiled from.
//!
//! A cache: whatever is wrong with it, kernels are compiled again. An image carries its own hash, so a damaged one is not
//! handed to the driver. `TPDE_CACHE_DIR`, else `XDG_CACHE_HOME/tpde`, else `~/.cache/tpde`; in it `kernels/`.

use super::compile;
use crate::error::Result;
use crate::sources::{OPTIONS, Program};
use std::fs;
use std::path::{Path, PathBuf};

const HASH_BYTES: usize = 32;

/// The image of a program for an architecture such as `sm_90`.
pub(super) fn image(program: &Program, architecture: &str) -> Result<Vec<u8>> {
    let source = program.source();
    let path = folder(|name| std::env::var_os(name).map(PathBuf::from))
        .map(|folder| folder.join(file_name(program, architecture, &source)));
    if let Some(image) = path.as_deref().and_then(read) {
        return Ok(image);
    }
    let image = compile::cubin(program.file, &source, architecture)?;
    if let Some(path) = path {
        // A full or read-only disk costs the next start some seconds, and nothing else.
        let _ = write(&path, &image);
    }
    Ok(image)
}

fn folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    variable("TPDE_CACHE_DIR")
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("tpde")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/tpde")))
        .map(|path| path.join("kernels"))
}

fn file_name(program: &Program, architecture: &str, source: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [source, architecture].iter().chain(OPTIONS) {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    let hash = hasher.finalize().to_hex();
    let stem = program.file.trim_end_matches(".cu");
    format!("{stem}-{architecture}-{}.cubin", &hash[..32])
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let image = bytes.len().checked_sub(HASH_BYTES)?;
    let sound = blake3::hash(&bytes[..image]).as_bytes() == &bytes[image..];
    bytes.truncate(image);
    sound.then_some(bytes)
}

fn write(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let bytes = [image, blake3::hash(image).as_bytes()].concat();
    // Whoever reads meanwhile sees the old file or the new one.
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::PROGRAMS;

    /// Promise: an image comes back as written; a damaged or cut one does not come back at all.
    #[test]
    fn damage_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels/x.cubin");
        write(&path, b"image").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"image"[..]));
        let good = fs::read(&path).unwrap();
        for bad in [&good[..good.len() - 1], &good[..3], b""] {
            fs::write(&path, bad).unwrap();
            assert_eq!(read(&path), None);
        }
        let mut flipped = good;
        flipped[2] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(read(&path), None);
    }

    /// Promise: another source, architecture or program is another file; the user's variables choose the folder.
    #[test]
    fn names_tell_apart() {
        let (a, b) = (&PROGRAMS[0], &PROGRAMS[1]);
        let names = [
            file_name(a, "sm_90", "x"),
            file_name(a, "sm_90", "y"),
            file_name(a, "sm_80", "x"),
            file_name(b, "sm_90", "x"),
        ];
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name));
        }
        let with = |known: &[(&str, &str)]| {
            folder(|name| {
                known
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, p)| PathBuf::from(p))
            })
        };
        let home = ("HOME", "/h");
        assert_eq!(with(&[home]), Some("/h/.cache/tpde/kernels".into()));
        assert_eq!(
            with(&[home, ("XDG_CACHE_HOME", "/x")]),
            Some("/x/tpde/kernels".into())
        );
        assert_eq!(with(&[home, ("TPDE_CACHE_DIR", "t")]), Some("t/kernels".into()));
        assert_eq!(with(&[("HOME", "")]), None);
    }
}
