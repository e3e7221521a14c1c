//! The target's own record of a checkpoint: a manifest that names its packs, and a slot.

use std::collections::HashMap;

use super::choose::Chosen;
use super::lacking::{Key, Lacking, Placed};
use super::target::Target;
use crate::commit::{self, CommitOptions, NewCommit, Outcome};
use crate::error::Result;
use crate::history;
use crate::ids::{ManifestId, Nonce, PackId};
use crate::manifest::Manifest;
use crate::pack::{Part, prefix_of};
use crate::restore::slices;
use crate::save::contents::PackList;
use crate::summary::{Totals, count};

/// Name under which a copy's environment keeps the id that the checkpoint had where it was saved.
pub const COPY_OF: &str = "copy-of";

/// A checkpoint that the target has now.
pub(super) struct Committed {
    pub(super) id: ManifestId,
    pub(super) seq: u64,
    /// Bytes of the manifest that was written for it.
    pub(super) manifest_bytes: u64,
}

/// A manifest as the target needs it: the same files and contents, other packs.
///
/// * `source`: its id in the source.
/// * `parent`: its parent's id in the target, as far as that has one.
/// * `sent`: the packs of the target in which what was sent went.
pub(super) fn rewrite(
    manifest: &Manifest,
    source: ManifestId,
    parent: Option<ManifestId>,
    lacking: &Lacking,
    sent: &HashMap<Key, PackId>,
) -> Manifest {
    let mut copy = manifest.clone();
    copy.parent = parent;
    // A copy of a copy keeps the first id: all copies of a checkpoint then say the same.
    copy.environment
        .entry(COPY_OF.to_owned())
        .or_insert_with(|| source.to_hex());
    let was_sent: HashMap<Key, u64> = lacking
        .pieces
        .iter()
        .map(|piece| ((prefix_of(&piece.entry().id), piece.part()), piece.len_bytes()))
        .collect();
    let mut list = PackList::default();
    let pack_of = |key: &Key, placed: &Placed| placed.pack.or_else(|| sent.get(key).copied());
    for (record, placed) in copy.tensors.iter_mut().zip(&lacking.tensors) {
        let (mut packs, mut stored_bytes) = (Vec::new(), 0);
        let had_base = record.has_base;
        (record.rank, record.has_base, record.is_given) = (0, false, false);
        for ((number, ..), placed) in slices(record).zip(placed) {
            let part = Part::Slice {
                dtype: record.dtype,
                number,
            };
            let key = (prefix_of(record.id.as_bytes()), part);
            stored_bytes += was_sent.get(&key).copied().unwrap_or(0);
            if let Some(pack) = pack_of(&key, placed) {
                let index = list.index(pack);
                if !packs.contains(&index) {
                    packs.push(index);
                }
            }
            record.rank = record.rank.max(placed.rank);
            record.has_base |= placed.needs.base.is_some();
            record.is_given |= placed.needs.given.is_some();
        }
        if record.has_base != had_base {
            // These compare it with a base that it does not have here.
            (record.changed_elems, record.max_ulp) = (0, 0);
        }
        (record.packs, record.stored_bytes) = (packs, stored_bytes);
    }
    for (record, placed) in copy.blobs.iter_mut().zip(&lacking.blobs) {
        let key = (prefix_of(record.id.as_bytes()), Part::Blob);
        record.stored_bytes = was_sent.get(&key).copied().unwrap_or(0);
        record.pack = pack_of(&key, placed).map_or(0, |pack| list.index(pack));
    }
    copy.packs = list.packs;
    copy
}

/// Stores a manifest and commits it to its run, as the source's commit says.
///
/// * `packs_bytes`: bytes of the packs that were written for it.
///
/// # Errors
/// As [`commit::commit`].
pub(super) fn commit(
    target: &Target<'_>,
    chosen: &Chosen,
    manifest: &Manifest,
    packs_bytes: u64,
    replace: bool,
) -> Result<Committed> {
    let objects = target.store.objects();
    let (id, manifest_bytes) = target.put_manifest(manifest)?;
    let new_tensors = manifest.tensors.iter().filter(|t| t.stored_bytes > 0).count();
    let new = NewCommit {
        manifest: id,
        fingerprint: manifest.fingerprint(),
        step: chosen.commit.step,
        nonce: Nonce::random()?,
        created_unix_ms: chosen.commit.created_unix_ms,
        totals: Totals {
            stored_bytes: packs_bytes + manifest_bytes,
            new_tensors: count(new_tensors),
            ..chosen.commit.totals
        },
        metrics: manifest.metrics.clone(),
    };
    let mut options = CommitOptions {
        replace,
        ..CommitOptions::default()
    };
    loop {
        match commit::commit(objects, &chosen.run, &new, &options)? {
            Outcome::Committed { seq } => {
                return Ok(Committed {
                    id,
                    seq,
                    manifest_bytes,
                });
            }
            // Another process brought the same meanwhile, or a record stands whose contents are gone.
            Outcome::AlreadyThere { seq } => {
                let newest = history::newest_of(objects, &chosen.run)?;
                let theirs = history::record_at(objects, &newest, seq)?.manifest;
                if target.has(theirs) && target.store.is_whole(theirs)? == Some(true) {
                    return Ok(Committed {
                        id: theirs,
                        seq,
                        manifest_bytes,
                    });
                }
                options.again = true;
            }
        }
    }
}
