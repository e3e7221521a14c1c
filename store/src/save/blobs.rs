//! Opaque bytes that the store does not hold yet become compressed blobs.

use rayon::prelude::*;

use super::bases::Bases;
use super::ids::{BlobSource, Checkpoint, windows};
use super::writer::PackQueue;
use crate::catalog::Piece;
use crate::compress::compress;
use crate::content::read_blob;
use crate::error::{Result, StoreError};
use crate::ids::{BlobId, PackId};
use crate::pack::{BLOB_PART, BaseRef, BlobCodec, Content};
use crate::progress::Progress;
use crate::store::Store;

/// Compresses every new blob of `checkpoint`, with its predecessor as prefix where that helps, and queues it.
///
/// Returns the pack of each blob that was known; `None` for new ones, whose pack the caller knows once the queue is finished.
///
/// # Errors
/// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read or written.
pub(super) fn store_blobs(
    store: &Store,
    checkpoint: &Checkpoint,
    bases: &Bases<'_>,
    packs: &mut PackQueue<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Option<PackId>>> {
    let mut known = Vec::with_capacity(checkpoint.blobs.len());
    for blob in &checkpoint.blobs {
        let id = blob.id.as_bytes();
        let found = store
            .catalog
            .find(store.objects(), id, BLOB_PART, &bases.hints(id)?)?;
        known.push(found.map(|piece| piece.pack));
    }
    let new: Vec<&BlobSource> = checkpoint
        .blobs
        .iter()
        .zip(&known)
        .filter(|(_, known)| known.is_none())
        .map(|(blob, _)| blob)
        .collect();
    for window in windows(&new, |blob| blob.len_bytes as u64) {
        let packed: Result<Vec<Packed>> = window
            .par_iter()
            .map(|blob| pack(store, checkpoint, bases, blob))
            .collect();
        for (blob, packed) in window.iter().zip(packed?) {
            let content = Content::Blob {
                len_bytes: blob.len_bytes as u64,
                codec: packed.codec,
            };
            packs.add(
                *blob.id.as_bytes(),
                content,
                packed.base,
                packed.rank,
                &packed.bytes,
            )?;
            progress.advance(blob.len_bytes as u64);
        }
    }
    Ok(known)
}

struct Packed {
    bytes: Vec<u8>,
    codec: BlobCodec,
    base: Option<BaseRef>,
    rank: u8,
}

fn pack(store: &Store, checkpoint: &Checkpoint, bases: &Bases<'_>, blob: &BlobSource) -> Result<Packed> {
    let source = &checkpoint.sources[blob.source];
    let bytes = source.read_at(blob.offset_bytes, blob.len_bytes)?;
    if BlobId::of(&bytes) != blob.id {
        return Err(source.changed("its bytes are not the ones that were hashed"));
    }
    let alone = compress(&bytes, &[]);
    if let Some((id, piece)) = bases.of_blob(blob)?
        && let Some(prefix) = prefix(store, id, &piece)?
        && let Some(packed) = compress(&bytes, &prefix)
        && alone.as_ref().is_none_or(|alone| packed.len() < alone.len())
    {
        let base = Some(BaseRef {
            id: *id.as_bytes(),
            packs: vec![piece.pack],
        });
        return Ok(Packed {
            bytes: packed,
            codec: BlobCodec::Zstd,
            base,
            rank: piece.entry().rank + 1,
        });
    }
    let (bytes, codec) = match alone {
        Some(packed) => (packed, BlobCodec::Zstd),
        None => (bytes, BlobCodec::Plain),
    };
    Ok(Packed {
        bytes,
        codec,
        base: None,
        rank: 0,
    })
}

fn prefix(store: &Store, id: BlobId, piece: &Piece) -> Result<Option<Vec<u8>>> {
    match read_blob(store.objects(), &store.catalog, id, &[piece.pack]) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::warn!("not used as a prefix: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
