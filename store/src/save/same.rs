//! Whether a directory is, byte for byte, a checkpoint that was saved.

use std::collections::BTreeMap;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::ids::Checkpoint;
use crate::error::{Result, StoreError};
use crate::files::scan::{Found, scan};
use crate::ids::{Fingerprint, ManifestId};
use crate::manifest::{FileContent, FileRecord, Manifest};
use crate::metrics::Metrics;
use crate::progress::{Progress, Stage};
use crate::store::Store;

impl Store {
    /// Whether the files below `dir` are those of a checkpoint, with the same permissions, and no others. Reads all of them.
    ///
    /// # Errors
    /// `Input` if a file cannot be read; as [`Store::manifest`].
    pub fn is_saved_as(&self, dir: &Path, id: ManifestId, progress: &dyn Progress) -> Result<bool> {
        let manifest = self.named_manifest(id)?;
        let found = scan(dir, self.objects().local_root())?.found;
        let len_bytes: u64 = found.iter().map(|file| file.len_bytes).sum();
        if len_bytes != manifest.raw_bytes() {
            return Ok(false);
        }
        progress.start(Stage::Verify, len_bytes);
        let read = Checkpoint::read(&found, &opaque(&manifest)?, progress);
        progress.finish();
        match read {
            Ok(checkpoint) => Ok(described(&checkpoint).fingerprint() == manifest.fingerprint()),
            // A file of another kind than its name says is not the one that was saved.
            Err(StoreError::Input { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The fingerprint of files that were found. Reads all of them.
///
/// # Errors
/// `Input` for a file that lies about itself or changes while it is read.
pub(crate) fn fingerprint_of(
    found: &[Found],
    opaque: &GlobSet,
    progress: &dyn Progress,
) -> Result<Fingerprint> {
    progress.start(Stage::Hash, found.iter().map(|file| file.len_bytes).sum());
    let read = Checkpoint::read(found, opaque, progress);
    progress.finish();
    Ok(described(&read?).fingerprint())
}

/// Of each file that was found, whether it is, byte for byte and with the same permissions, the file of that path in a checkpoint that
/// was saved. Reads all of them.
///
/// # Errors
/// `Input` for a file that lies about itself or changes while it is read.
pub(crate) fn are_of(manifest: &Manifest, found: &[Found], progress: &dyn Progress) -> Result<Vec<bool>> {
    progress.start(Stage::Verify, found.iter().map(|file| file.len_bytes).sum());
    let read = Checkpoint::read(found, &opaque(manifest)?, progress);
    progress.finish();
    let theirs = described(&read?);
    let is_of = |file: &FileRecord| {
        let saved = manifest.files.iter().find(|saved| saved.path == file.path);
        saved.is_some_and(|saved| {
            saved.mode == file.mode
                && std::mem::discriminant(&saved.content) == std::mem::discriminant(&file.content)
                && manifest.file_digest(saved) == theirs.file_digest(file)
        })
    };
    Ok(theirs.files.iter().map(is_of).collect())
}

/// Files that were read, as a manifest lists them; it says nothing else.
fn described(checkpoint: &Checkpoint) -> Manifest {
    let mut manifest = Manifest {
        run: String::new(),
        step: 0,
        created_unix_ms: 0,
        parent: None,
        writer: String::new(),
        archived_weights: false,
        metrics: Metrics::default(),
        note: String::new(),
        environment: BTreeMap::new(),
        lease: None,
        packs: Vec::new(),
        tensors: Vec::new(),
        blobs: Vec::new(),
        files: Vec::new(),
    };
    checkpoint.describe(&mut manifest);
    manifest
}

/// Matches the files that were saved as plain bytes: whether that was chosen is not known, only done.
pub(crate) fn opaque(manifest: &Manifest) -> Result<GlobSet> {
    let mut globs = GlobSetBuilder::new();
    let unusable = |error: globset::Error| StoreError::corrupt("manifest", error.to_string());
    let is_opaque = |content: &FileContent| matches!(content, FileContent::Opaque { .. });
    for file in manifest.files.iter().filter(|file| is_opaque(&file.content)) {
        let literally = globset::escape(&file.path);
        let glob = GlobBuilder::new(&literally).literal_separator(true).build();
        globs.add(glob.map_err(unusable)?);
    }
    globs.build().map_err(unusable)
}
