//! Turns stored pieces back into content, verified.

use tpde_core::{Chain, CodecError, Dtype, Frame, Link, SubtreeHash, TensorId};

use crate::catalog::{Catalog, Piece};
use crate::compress::decompress;
use crate::error::{Result, StoreError};
use crate::ids::{BlobId, PackId};
use crate::keys::Key;
use crate::objects::Objects;
use crate::pack::{BlobCodec, Content};

/// Longest blob: larger files are cut. A power of two of BLAKE3 chunks, so that a file's digest merges from its blobs'.
pub(crate) const BLOB_BYTES: usize = 8 << 20;
/// Most links that a blob's prefix chain may have.
pub(crate) const MAX_BLOB_RANK: u8 = 16;

/// A slice that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSlice {
    /// Hash of its bytes.
    pub(crate) hash: SubtreeHash,
    /// The dtype that its frames were coded as: equal bytes may have been saved as another.
    pub(crate) dtype: Dtype,
}

/// Decodes one slice of a tensor into `out`.
///
/// * `links`: from [`Catalog::chain`].
///
/// Of a slice that is the whole tensor, the hash was compared with `id` already.
///
/// # Errors
/// `Corrupt`, naming the pack and the tensor.
pub(crate) fn read_slice(
    objects: &Objects,
    id: TensorId,
    links: &[Piece],
    out: &mut [u8],
) -> Result<ReadSlice> {
    let stored = links
        .iter()
        .map(|piece| objects.get_range(&Key::Pack(piece.pack), piece.range()))
        .collect::<Result<Vec<_>>>()?;
    let damaged = |piece: &Piece, e: CodecError| {
        StoreError::decoding(format!("tensor {} in {}", id.short(), piece.shown()), e)
    };
    let mut frames = Vec::with_capacity(links.len());
    for (piece, bytes) in links.iter().zip(&stored) {
        let frame = Frame::parse(bytes).map_err(|e| damaged(piece, e))?;
        if let Some(base) = &piece.entry().base {
            frame
                .check_base(&TensorId::from_bytes(base.id))
                .map_err(|e| damaged(piece, e))?;
        }
        if frame.len_bytes() != out.len() {
            let detail = format!("it holds {} bytes, {} are expected", frame.len_bytes(), out.len());
            return Err(StoreError::corrupt(piece.shown(), detail));
        }
        frames.push(frame);
    }
    let Some(newest) = links.last() else {
        return Err(StoreError::corrupt(
            format!("tensor {}", id.short()),
            "its chain is empty",
        ));
    };
    let hash = match chain_of(&frames).and_then(|chain| chain.decode(out)) {
        Ok(hash) => hash,
        Err(error) => {
            let culprit = first_damaged(links, &frames, out).unwrap_or(newest);
            return Err(damaged(culprit, error));
        }
    };
    match hash {
        SubtreeHash::Whole(found) if found != id => {
            let culprit = first_damaged(links, &frames, out).unwrap_or(newest);
            Err(damaged(culprit, CodecError::WrongTensor { expected: id, found }))
        }
        _ => Ok(ReadSlice {
            hash,
            dtype: frames[0].dtype(),
        }),
    }
}

/// Frames that are each taken against the one before.
fn chain_of<'f, 'a>(frames: &'f [Frame<'a>]) -> tpde_core::Result<Chain<'f, 'a>> {
    let link = |(i, frame): (usize, &'f Frame<'a>)| Link::frame(frame, i.checked_sub(1), None);
    Chain::new(frames.iter().enumerate().map(link).collect())
}

/// The oldest link of a damaged chain that does not decode to what it is named after: decoding fuses all links, so only going
/// through them one by one tells which pack to replace.
fn first_damaged<'p>(links: &'p [Piece], frames: &[Frame<'_>], out: &mut [u8]) -> Option<&'p Piece> {
    (1..=links.len()).find_map(|depth| {
        let expected = TensorId::from_bytes(links[depth - 1].entry().id);
        let sound = match chain_of(&frames[..depth]).and_then(|chain| chain.decode(out)) {
            Ok(SubtreeHash::Whole(found)) => found == expected,
            Ok(SubtreeHash::Part(_)) => true,
            Err(_) => false,
        };
        (!sound).then(|| &links[depth - 1])
    })
}

/// Reads a blob and everything that it is a prefix delta of.
///
/// # Errors
/// `Corrupt` if it is missing, does not decompress, or does not hash to `id`.
pub(crate) fn read_blob(
    objects: &Objects,
    catalog: &Catalog,
    id: BlobId,
    hints: &[PackId],
) -> Result<Vec<u8>> {
    read_blob_links(objects, id, &catalog.blob_chain(objects, id, hints)?)
}

/// Decodes a blob.
///
/// * `links`: from [`Catalog::blob_chain`].
///
/// # Errors
/// `Corrupt` if a link does not decompress or does not hash to its id.
pub(crate) fn read_blob_links(objects: &Objects, id: BlobId, links: &[Piece]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in links {
        let damaged = |detail: String| StoreError::corrupt(format!("blob in {}", piece.shown()), detail);
        let Content::Blob { len_bytes, codec } = piece.entry().content else {
            return Err(damaged("it is a tensor".into()));
        };
        let len_bytes = usize::try_from(len_bytes).ok().filter(|&n| n <= BLOB_BYTES);
        let len_bytes = len_bytes.ok_or_else(|| damaged("it is longer than a blob can be".into()))?;
        let stored = objects.get_range(&Key::Pack(piece.pack), piece.range())?;
        let next = match codec {
            BlobCodec::Plain => stored.to_vec(),
            BlobCodec::Zstd => decompress(&stored, &bytes, len_bytes).map_err(&damaged)?,
        };
        if next.len() != len_bytes || *blake3::hash(&next).as_bytes() != piece.entry().id {
            return Err(damaged(
                "it does not hold the bytes that it was named after".into(),
            ));
        }
        bytes = next;
    }
    if BlobId::of(&bytes) != id {
        return Err(StoreError::corrupt(
            format!("blob {}", id.short()),
            "its chain ends in another blob",
        ));
    }
    Ok(bytes)
}
