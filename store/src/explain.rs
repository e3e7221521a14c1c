//! Explain: what every byte that a checkpoint added is for, beside what an ideal code would pay.
//!
//! ```text
//! frames (by role)   positions, magnitudes, signs, …, tables, lanes, headers: the codec's ledger
//! files              blobs: headers of tensor files, and files that hold no tensors
//! container          ids and the rest of footers and manifest, slot
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tpde_core::{Base, Frame, Given, ID_LEN, Ledger, Slice, TensorId, floor_bytes};

use crate::content::chain;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::{BlobId, PackId, TOKEN_LEN};
use crate::keys::Key;
use crate::manifest::{Manifest, TensorRecord};
use crate::pack::{PREFIX_LEN, named_packs, read_entries};
use crate::progress::{Progress, Stage};
use crate::reference::Resolved;
use crate::restore::slices;
use crate::roles::Role;
use crate::store::Store;
use crate::transfer::Pieces;

/// What the tensors of one role cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoleShare {
    /// The role.
    pub role: Role,
    /// New tensors.
    pub tensors: u64,
    /// Their bytes.
    pub raw_bytes: u64,
    /// What their frames' bytes are for.
    pub ledger: Ledger,
    /// What an ideal adaptive code would pay for them (tpde-core, [`floor_bytes`]).
    pub floor_bytes: f64,
}

/// Bytes around the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Container {
    /// Ids in the footers of the packs.
    pub footer_id_bytes: u64,
    /// All else in the footers.
    pub footer_bytes: u64,
    /// Ids in the manifest.
    pub manifest_id_bytes: u64,
    /// All else in the manifest, compressed.
    pub manifest_bytes: u64,
    /// The slot; 0 for a checkpoint that no run holds.
    pub slot_bytes: u64,
}

impl Container {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.footer_id_bytes
            + self.footer_bytes
            + self.manifest_id_bytes
            + self.manifest_bytes
            + self.slot_bytes
    }
}

/// What a restore of the checkpoint takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestoreCost {
    /// Frames and blobs that it reads, each once.
    pub pieces: u64,
    /// Packs that they lie in.
    pub packs: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Most links below one tensor.
    pub deepest: u8,
    /// Time to decode, as fast as this machine decoded just now; `None` if nothing was decoded.
    pub decoding: Option<Duration>,
}

/// Where the bytes of a checkpoint went.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// By role, in the order of [`Role::ALL`]; roles without new tensors are left out.
    pub roles: Vec<RoleShare>,
    /// New blobs.
    pub blobs: u64,
    /// Their stored bytes.
    pub blob_bytes: u64,
    /// What is around them.
    pub container: Container,
    /// What a restore takes.
    pub restore: RestoreCost,
}

impl Explanation {
    /// The ledgers of all roles.
    pub fn ledger(&self) -> Ledger {
        self.roles
            .iter()
            .fold(Ledger::default(), |sum, role| sum.plus(&role.ledger))
    }

    /// The floor of all roles, in bytes.
    pub fn floor_bytes(&self) -> f64 {
        self.roles.iter().map(|role| role.floor_bytes).sum()
    }

    /// Every byte that the checkpoint added to the store.
    pub fn total_bytes(&self) -> u64 {
        self.ledger().total_bytes + self.blob_bytes + self.container.total_bytes()
    }
}

/// What decoding the new tensors took.
#[derive(Default)]
struct Pace {
    time: Duration,
    work_bytes: u64,
}

impl Pace {
    /// Time that decoding everything would take at this pace; `None` if nothing was decoded.
    fn for_all_of(&self, manifest: &Manifest) -> Option<Duration> {
        let work: u64 = manifest.tensors.iter().map(work_bytes).sum();
        (self.work_bytes > 0).then(|| self.time.mul_f64(work as f64 / self.work_bytes as f64))
    }
}

/// Bytes that decoding a tensor writes, links included.
fn work_bytes(record: &TensorRecord) -> u64 {
    record.len_bytes.saturating_mul(u64::from(record.rank) + 1)
}

impl Store {
    /// Says where the bytes went that a checkpoint added to the store.
    ///
    /// # Errors
    /// As for restoring it.
    ///
    /// Cost: decodes every new tensor, its base and what it is given.
    pub fn explain(&self, checkpoint: &Resolved, progress: &dyn Progress) -> Result<Explanation> {
        let manifest = self.named_manifest(checkpoint.manifest)?;
        let new = |record: &&TensorRecord| record.stored_bytes > 0;
        progress.start(
            Stage::Explain,
            manifest.tensors.iter().filter(new).map(|t| t.len_bytes).sum(),
        );
        let mut role_of = vec![Role::Other; manifest.tensors.len()];
        for (_, named, _) in manifest.named_tensors() {
            let role = &mut role_of[named.tensor as usize];
            if *role == Role::Other {
                *role = named.role;
            }
        }
        let mut shares: BTreeMap<usize, RoleShare> = BTreeMap::new();
        let mut pace = Pace::default();
        for (record, &role) in manifest.tensors.iter().zip(&role_of).filter(|(r, _)| new(r)) {
            let share = shares.entry(position(role)).or_insert(RoleShare {
                role,
                tensors: 0,
                raw_bytes: 0,
                ledger: Ledger::default(),
                floor_bytes: 0.0,
            });
            share.tensors += 1;
            share.raw_bytes += record.len_bytes;
            for (slice, ..) in slices(record) {
                let graph = self.slice_graph(&manifest, record, slice)?;
                let (ledger, floor) =
                    explain_slice(Pieces::cached(self.objects()), record, slice, &graph, &mut pace)?;
                share.ledger = share.ledger.plus(&ledger);
                share.floor_bytes += floor;
            }
            pace.work_bytes += work_bytes(record);
            progress.advance(record.len_bytes);
        }
        progress.finish();
        let mut explanation = Explanation {
            roles: shares.into_values().collect(),
            blobs: 0,
            blob_bytes: 0,
            container: Container::default(),
            restore: RestoreCost {
                decoding: pace.for_all_of(&manifest),
                ..self.restore_cost(&manifest)?
            },
        };
        self.explain_packs(&manifest, &mut explanation)?;
        self.explain_records(checkpoint, &manifest, &mut explanation.container)?;
        Ok(explanation)
    }

    /// Blobs and footers of the packs that the checkpoint brought.
    fn explain_packs(&self, manifest: &Manifest, explanation: &mut Explanation) -> Result<()> {
        let pack = |at: u32| manifest.packs[at as usize];
        let new_tensors = manifest.tensors.iter().filter(|t| t.stored_bytes > 0);
        let new_blobs = manifest.blobs.iter().filter(|b| b.stored_bytes > 0);
        explanation.blobs = new_blobs.clone().count() as u64;
        explanation.blob_bytes = new_blobs.clone().map(|b| b.stored_bytes).sum();
        let mut packs: BTreeSet<PackId> = new_tensors
            .flat_map(|t| t.packs.iter().map(|&p| pack(p)))
            .collect();
        packs.extend(new_blobs.map(|b| pack(b.pack)));
        let lease = manifest
            .lease
            .map(|lease| *BlobId::of(lease.as_bytes()).as_bytes());
        for pack in packs {
            let entries = read_entries(self.objects(), pack)?;
            let pieces: u64 = entries
                .iter()
                .filter(|e| Some(e.id) != lease)
                .flat_map(|e| &e.pieces)
                .map(|p| p.end - p.start)
                .sum();
            let whole = self.size_of(&Key::Pack(pack))?;
            let mut ids = 0;
            for entry in &entries {
                // The lease that the pack was written under is there to make its name one of its own.
                ids += TOKEN_LEN as u64 * u64::from(Some(entry.id) == lease);
                ids += ID_LEN as u64;
                ids += PREFIX_LEN as u64 * u64::from(entry.needs.base.is_some());
                ids += PREFIX_LEN as u64 * u64::from(entry.needs.given.is_some());
            }
            ids += (ID_LEN * named_packs(&entries).len()) as u64;
            explanation.container.footer_id_bytes += ids;
            explanation.container.footer_bytes += whole.saturating_sub(pieces + ids);
        }
        Ok(())
    }

    /// Manifest and slot.
    fn explain_records(
        &self,
        checkpoint: &Resolved,
        manifest: &Manifest,
        container: &mut Container,
    ) -> Result<()> {
        let ids = manifest.packs.len() + manifest.tensors.len() + manifest.blobs.len();
        let whole = self.size_of(&Key::Manifest(checkpoint.manifest))?;
        container.manifest_id_bytes = ((ids * ID_LEN) as u64).min(whole);
        container.manifest_bytes = whole - container.manifest_id_bytes;
        if let Some(place) = &checkpoint.place {
            let slot = Key::Slot(place.run.clone(), place.seq);
            container.slot_bytes = self.size_of(&slot)?;
        }
        Ok(())
    }

    fn size_of(&self, key: &Key) -> Result<u64> {
        self.objects()
            .head(key)?
            .ok_or_else(|| StoreError::corrupt(key.to_string(), "it is not there"))
    }

    /// What a restore of a checkpoint reads. How long it decodes is left open.
    ///
    /// # Errors
    /// `Corrupt` if something that it reads is missing; `Backend` if the store cannot be read.
    ///
    /// Cost: reads the footers of all packs that it needs and that this machine does not know.
    pub fn restore_cost(&self, manifest: &Manifest) -> Result<RestoreCost> {
        let mut pieces: BTreeSet<(PackId, u64, u64)> = BTreeSet::new();
        let mut read_bytes = 0;
        let mut add = |graph: &Graph| {
            for node in graph.nodes() {
                let range = node.piece.range();
                if pieces.insert((node.piece.pack, range.start, range.end)) {
                    read_bytes += range.end - range.start;
                }
            }
        };
        for record in &manifest.tensors {
            for (slice, ..) in slices(record) {
                add(&self.slice_graph(manifest, record, slice)?);
            }
        }
        for blob in &manifest.blobs {
            let hint = manifest.packs[blob.pack as usize];
            add(&self.catalog.blob(self.objects(), blob.id, &[hint])?);
        }
        let packs: BTreeSet<PackId> = pieces.iter().map(|&(pack, ..)| pack).collect();
        Ok(RestoreCost {
            pieces: pieces.len() as u64,
            packs: packs.len() as u64,
            read_bytes,
            deepest: manifest.tensors.iter().map(|t| t.rank).max().unwrap_or(0),
            decoding: None,
        })
    }
}

fn position(role: Role) -> usize {
    Role::ALL
        .iter()
        .position(|&r| r == role)
        .unwrap_or(Role::ALL.len())
}

/// The ledger of a slice's frame, and its floor.
fn explain_slice(
    pieces: Pieces<'_>,
    record: &TensorRecord,
    slice: u32,
    graph: &Graph,
    pace: &mut Pace,
) -> Result<(Ledger, f64)> {
    let stored = pieces.of_graph(graph)?;
    let damaged = |e| StoreError::decoding(format!("tensor {}", record.id.short()), e);
    let frames = stored
        .iter()
        .map(|bytes| Frame::parse(bytes))
        .collect::<tpde_core::Result<Vec<_>>>()
        .map_err(damaged)?;
    let decoded = |at: usize| -> tpde_core::Result<Vec<u8>> {
        let mut out = vec![0; frames[at].len_bytes()];
        chain(graph, &frames, at)?.decode(&mut out)?;
        Ok(out)
    };
    let last = frames.len() - 1;
    let start = Instant::now();
    let bytes = decoded(last).map_err(damaged)?;
    pace.time += start.elapsed();
    let top = &graph.nodes()[last];
    let id = |at: usize| TensorId::from_bytes(graph.nodes()[at].piece.entry().id);
    let base = top
        .base
        .map(|at| Ok((id(at), decoded(at)?)))
        .transpose()
        .map_err(damaged)?;
    let given = top
        .given
        .map(|at| Ok((id(at), decoded(at)?)))
        .transpose()
        .map_err(damaged)?;
    let base = base.as_ref().map(|(id, bytes)| Base { id: *id, bytes });
    let given = given.as_ref().zip(frames[last].relation());
    let given = given.map(|((id, bytes), relation)| Given {
        relation,
        id: *id,
        bytes,
    });
    let slice = Slice {
        dtype: record.dtype,
        total_elems: frames[last].total_elems(),
        index: slice as usize,
    };
    let floor = floor_bytes(slice, &bytes, base, given).map_err(damaged)?;
    let ledger = chain(graph, &frames, last)
        .and_then(|chain| chain.ledger())
        .map_err(damaged)?;
    Ok((ledger, floor))
}
