//! Load: tensors and files of a checkpoint into memory, verified.

use super::plan::Plan;
use crate::error::{Result, StoreError};
use crate::manifest::Manifest;
use crate::progress::{Progress, Stage};
use crate::store::Store;
use crate::transfer::Moved;

/// Something of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The tensor of this number in [`Manifest::tensors`].
    Tensor(usize),
    /// The file of this number in [`Manifest::files`].
    File(usize),
}

/// What takes the bytes that a load decodes.
pub trait Sink: Sync {
    /// Takes some bytes; those of different places come from several threads at a time, each byte once.
    ///
    /// * `number`: of what was asked for.
    /// * `offset_bytes`: where they belong in it.
    fn write_at(&self, number: usize, offset_bytes: u64, bytes: &[u8]);
}

impl Store {
    /// Decodes what is wanted into memory.
    ///
    /// Law: once this returns `Ok`, every byte of all that is wanted was handed to `sink`, and each tensor and blob was compared with its
    /// id. On an error `sink` may have got some of them, wrong ones included.
    ///
    /// * `manifest`: of a checkpoint of this store.
    ///
    /// # Errors
    /// `Input` if the checkpoint has no such thing; `Interrupted`, `Corrupt`, `Newer`, `Backend` as [`Store::restore`].
    pub fn load(
        &self,
        manifest: &Manifest,
        wanted: &[Wanted],
        sink: &dyn Sink,
        progress: &dyn Progress,
    ) -> Result<Moved> {
        let mut plan = Plan::new(manifest);
        for (number, &wanted) in wanted.iter().enumerate() {
            match wanted {
                Wanted::Tensor(at) if at < manifest.tensors.len() => plan.lone_tensor(number, at),
                Wanted::File(at) if at < manifest.files.len() => {
                    plan.file(number, &manifest.files[at], None)?;
                }
                _ => {
                    return Err(StoreError::input(
                        format!("{wanted:?}"),
                        "the checkpoint has no such thing",
                        "Name what its manifest lists",
                    ));
                }
            }
        }
        let len_bytes = plan.lens.iter().sum();
        let jobs = plan.resolve(&self.catalog, self.objects(), progress)?;
        progress.start(Stage::Restore, len_bytes);
        let write = |number: usize, at: u64, bytes: &[u8]| -> Result<()> {
            sink.write_at(number, at, bytes);
            Ok(())
        };
        let moved = self.write(manifest, &jobs, &write, progress)?;
        progress.finish();
        Ok(moved)
    }
}
