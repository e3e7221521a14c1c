//! Whether a directory is, byte for byte, a checkpoint that was saved.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::ids::Checkpoint;
use crate::error::{Result, StoreError};
use crate::files::scan::scan;
use crate::ids::ManifestId;
use crate::manifest::{FileContent, Manifest};
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
        let mut theirs = manifest.clone();
        match read {
            Ok(checkpoint) => checkpoint.describe(&mut theirs),
            // A file of another kind than its name says is not the one that was saved.
            Err(StoreError::Input { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(theirs.fingerprint() == manifest.fingerprint())
    }
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
