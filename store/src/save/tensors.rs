//! Second pass: tensors that the store does not hold yet become frames.

use std::collections::BTreeSet;

use rayon::prelude::*;
use tpde_core::{Base, EncodedFrame, Slice, SubtreeHash, encode_frame, merge_subtrees, slices_of};

use super::StoredTensor;
use super::bases::{Bases, ChosenBase};
use super::ids::{Checkpoint, TensorSource};
use super::writer::PackQueue;
use crate::catalog::Piece;
use crate::content::read_slice;
use crate::error::{Result, StoreError};
use crate::ids::PackId;
use crate::pack::{BaseRef, Content};
use crate::progress::Progress;
use crate::store::Store;
use crate::window::{decoding_bytes, windows};

/// One slice that is to be encoded.
struct Job {
    tensor: usize,
    slice: u32,
    offset_bytes: u64,
    len_bytes: usize,
}

impl Job {
    /// Bytes in memory while it is encoded: the slice, its base, and what the base is decoded from.
    fn memory_bytes(&self, chosen: &[Option<ChosenBase>]) -> u64 {
        let len_bytes = self.len_bytes as u64;
        let base = chosen[self.tensor]
            .as_ref()
            .map(|base| &base.chains[self.slice as usize]);
        len_bytes + base.map_or(0, |links| decoding_bytes(len_bytes, links))
    }
}

/// Encodes every new tensor of `checkpoint` and queues its frames. Packs of new tensors are filled in by the caller once the
/// queue is finished.
///
/// * `relied`: receives every pack that was not written here and that a restore will read.
///
/// # Errors
/// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read or written.
pub(super) fn store_tensors(
    store: &Store,
    checkpoint: &Checkpoint,
    bases: &Bases<'_>,
    max_depth: u8,
    packs: &mut PackQueue<'_>,
    relied: &mut BTreeSet<PackId>,
    progress: &dyn Progress,
) -> Result<Vec<StoredTensor>> {
    let mut stored = Vec::with_capacity(checkpoint.tensors.len());
    let mut chosen: Vec<Option<ChosenBase>> = Vec::with_capacity(checkpoint.tensors.len());
    let mut jobs = Vec::new();
    for (number, tensor) in checkpoint.tensors.iter().enumerate() {
        let word = tensor.dtype.word_bytes() as u64;
        let ranges = slices_of(tensor.dtype, tensor.elems());
        let slices = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        if let Some(known) = known(store, bases, tensor, slices, relied)? {
            progress.advance(tensor.len_bytes);
            stored.push(known);
            chosen.push(None);
            continue;
        }
        stored.push(StoredTensor {
            packs: Vec::new(),
            rank: 0,
            stored_bytes: 0,
            changed_elems: 0,
            max_ulp: 0,
            is_new: true,
        });
        let base = bases.of_tensor(tensor, slices, max_depth)?;
        relied.extend(
            base.iter()
                .flat_map(|base| base.chains.iter().flatten())
                .map(|piece| piece.pack),
        );
        chosen.push(base);
        for (slice, range) in (0u32..).zip(ranges) {
            #[expect(clippy::cast_possible_truncation, reason = "at most SLICE_BYTES")]
            let len_bytes = ((range.end - range.start) * word) as usize;
            jobs.push(Job {
                tensor: number,
                slice,
                offset_bytes: range.start * word,
                len_bytes,
            });
        }
    }
    let mut hashes: Vec<Vec<SubtreeHash>> = vec![Vec::new(); checkpoint.tensors.len()];
    for window in windows(&jobs, |job| job.memory_bytes(&chosen)) {
        let encoded: Result<Vec<(EncodedFrame, Option<&Piece>)>> = window
            .par_iter()
            .map(|job| {
                let frame = encode(store, checkpoint, chosen[job.tensor].as_ref(), job)?;
                progress.advance(job.len_bytes as u64);
                Ok(frame)
            })
            .collect();
        for (job, (frame, base)) in window.iter().zip(encoded?) {
            let tensor = &checkpoint.tensors[job.tensor];
            let record = &mut stored[job.tensor];
            let base = base.filter(|_| frame.uses_base);
            let rank = base.map_or(0, |piece| piece.entry().rank + 1);
            record.rank = record.rank.max(rank);
            record.stored_bytes += frame.bytes.len() as u64;
            record.changed_elems += frame.changed_elems;
            record.max_ulp = record.max_ulp.max(frame.max_ulp);
            hashes[job.tensor].push(frame.hash);
            let base = base.map(|piece| BaseRef {
                id: piece.entry().id,
                packs: vec![piece.pack],
            });
            packs.add(
                *tensor.id.as_bytes(),
                Content::Slices { first: job.slice },
                base,
                rank,
                &frame.bytes,
            )?;
        }
    }
    for (tensor, hashes) in checkpoint.tensors.iter().zip(&hashes) {
        if !hashes.is_empty() && merge_subtrees(hashes) != Some(tensor.id) {
            return Err(
                checkpoint.sources[tensor.source].changed("its tensors are not the ones that were hashed")
            );
        }
    }
    Ok(stored)
}

/// The record of a tensor that the store already holds.
fn known(
    store: &Store,
    bases: &Bases<'_>,
    tensor: &TensorSource,
    slices: u32,
    relied: &mut BTreeSet<PackId>,
) -> Result<Option<StoredTensor>> {
    let hints = bases.hints(tensor.id.as_bytes())?;
    let mut packs: Vec<PackId> = Vec::new();
    let mut rank = 0;
    for slice in 0..slices {
        let Some(links) = store.stored_chain(tensor.id.as_bytes(), slice, &hints)? else {
            return Ok(None);
        };
        relied.extend(links.iter().map(|piece| piece.pack));
        if let Some(piece) = links.last() {
            if !packs.contains(&piece.pack) {
                packs.push(piece.pack);
            }
            rank = rank.max(piece.entry().rank);
        }
    }
    Ok(Some(StoredTensor {
        packs,
        rank,
        stored_bytes: 0,
        changed_elems: 0,
        max_ulp: 0,
        is_new: false,
    }))
}

/// Encodes one slice against the base that was chosen, if its bytes can be had.
fn encode<'c>(
    store: &Store,
    checkpoint: &Checkpoint,
    chosen: Option<&'c ChosenBase>,
    job: &Job,
) -> Result<(EncodedFrame, Option<&'c Piece>)> {
    let tensor = &checkpoint.tensors[job.tensor];
    let source = &checkpoint.sources[tensor.source];
    let bytes = source.read_at(tensor.offset_bytes + job.offset_bytes, job.len_bytes)?;
    let slice = Slice {
        dtype: tensor.dtype,
        total_elems: tensor.elems(),
        index: job.slice as usize,
    };
    if let Some(chosen) = chosen {
        let links = &chosen.chains[job.slice as usize];
        let mut base = vec![0; job.len_bytes];
        match read_slice(store.objects(), chosen.id, links, &mut base) {
            Ok(read) if read.dtype == tensor.dtype => {
                let base = Base {
                    id: chosen.id,
                    bytes: &base,
                };
                return Ok((encode_frame(slice, &bytes, Some(base), None)?, links.last()));
            }
            // Stored under another dtype: the bytes agree, but a chain has one dtype.
            Ok(_) => {}
            // What is saved now must not depend on a base that cannot be read back.
            Err(error @ StoreError::Corrupt { .. }) => tracing::warn!("not used as a base: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok((encode_frame(slice, &bytes, None, None)?, None))
}
