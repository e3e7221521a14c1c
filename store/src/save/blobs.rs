//! Opaque bytes that the store does not hold yet become compressed blobs.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::bases::Bases;
use super::ids::{BlobSource, Checkpoint};
use super::writer::PackQueue;
use crate::catalog::Sought;
use crate::compress::compress;
use crate::content::read_blob_graph;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::{BlobId, PackId};
use crate::pack::{BlobCodec, Content, Holder, Needed, Needs, Part, prefix_of};
use crate::progress::Progress;
use crate::store::Store;
use crate::transfer::Pieces;
use crate::window::windows;

/// Compresses every new blob of `checkpoint`, with its predecessor as prefix where that helps, and queues it; then waits until all packs are stored.
///
/// A new blob's pack is known to the caller once the queue is finished.
///
/// # Errors
/// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read or written.
pub(super) fn store_blobs(
    store: &Store,
    checkpoint: &Checkpoint,
    bases: &Bases<'_>,
    packs: &mut PackQueue<'_>,
    relied: &mut BTreeSet<PackId>,
    progress: &dyn Progress,
) -> Result<Vec<StoredBlob>> {
    let mut known = Vec::with_capacity(checkpoint.blobs.len());
    for blob in &checkpoint.blobs {
        let id = blob.id.as_bytes();
        let graph = store.stored_graph(&Sought::whole(*id, Part::Blob), &bases.hints(id)?)?;
        relied.extend(graph.iter().flat_map(Graph::packs));
        let pack = graph.map(|graph| graph.top().pack);
        if pack.is_some() {
            progress.advance(blob.len_bytes as u64);
        }
        known.push(StoredBlob {
            pack,
            stored_bytes: 0,
        });
    }
    let new: Vec<usize> = (0..known.len()).filter(|&at| known[at].pack.is_none()).collect();
    let blobs = &checkpoint.blobs;
    for window in windows(&new, |&at| blobs[at].len_bytes as u64) {
        let packed: Result<Vec<Packed>> = window
            .par_iter()
            .map(|&at| pack(store, checkpoint, bases, &blobs[at]))
            .collect();
        for (&at, packed) in window.iter().zip(packed?) {
            let blob = &blobs[at];
            known[at].stored_bytes = packed.bytes.len() as u64;
            relied.extend(packed.relied);
            let content = Content::Blob {
                len_bytes: blob.len_bytes as u64,
                codec: packed.codec,
            };
            packs.add(
                *blob.id.as_bytes(),
                content,
                packed.needs,
                packed.rank,
                &packed.bytes,
            )?;
            progress.advance(blob.len_bytes as u64);
        }
    }
    packs.send_all(progress)?;
    Ok(known)
}

/// What became of a blob.
pub(super) struct StoredBlob {
    /// The pack that held it before; `None` if it is new.
    pub(super) pack: Option<PackId>,
    /// Bytes written for it.
    pub(super) stored_bytes: u64,
}

struct Packed {
    bytes: Vec<u8>,
    codec: BlobCodec,
    needs: Needs,
    rank: u8,
    /// Packs of the base and of all that it is decoded from.
    relied: Vec<PackId>,
}

fn pack(store: &Store, checkpoint: &Checkpoint, bases: &Bases<'_>, blob: &BlobSource) -> Result<Packed> {
    let source = &checkpoint.sources[blob.source];
    let bytes = source.read_at(blob.offset_bytes, blob.len_bytes)?;
    if BlobId::of(&bytes) != blob.id {
        return Err(source.changed("its bytes are not the ones that were hashed"));
    }
    let alone = compress(&bytes, &[]);
    if let Some((id, graph)) = bases.of_blob(blob)?
        && let Some(prefix) = prefix(store, id, &graph)?
        && let Some(packed) = compress(&bytes, &prefix)
        && alone.as_ref().is_none_or(|alone| packed.len() < alone.len())
    {
        return Ok(Packed {
            bytes: packed,
            codec: BlobCodec::Zstd,
            needs: Needs {
                base: Some(Needed {
                    prefix: prefix_of(id.as_bytes()),
                    holder: Holder::Pack(graph.top().pack),
                }),
                given: None,
            },
            rank: graph.rank() + 1,
            relied: graph.packs().collect(),
        });
    }
    let (bytes, codec) = match alone {
        Some(packed) => (packed, BlobCodec::Zstd),
        None => (bytes, BlobCodec::Plain),
    };
    Ok(Packed {
        bytes,
        codec,
        needs: Needs::default(),
        rank: 0,
        relied: Vec::new(),
    })
}

/// The bytes of a blob that may serve as a prefix; what is saved now must not depend on one that cannot be read back.
fn prefix(store: &Store, id: BlobId, graph: &Graph) -> Result<Option<Vec<u8>>> {
    match read_blob_graph(Pieces::cached(store.objects()), id, graph) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::warn!("not used as a prefix: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
