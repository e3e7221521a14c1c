//! One slice becomes a frame, within the limits of its restore.

use tpde_core::{Base, EncodedFrame, Given, Relation, Slice, encode_frame, slice_hash};

use super::bases::Candidate;
use super::ids::{Checkpoint, TensorSource};
use super::limits::{Limits, Reads};
use crate::content::read_slice;
use crate::error::{Result, StoreError};
use crate::graph::Graph;
use crate::ids::PackId;
use crate::pack::{Holder, Needed, Needs, Part, prefix_of};
use crate::store::Store;
use crate::transfer::Pieces;

/// What a slice that another may be given takes to decode.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoding {
    pub(super) rank: u8,
    pub(super) reads: Reads,
    /// The pack that holds it, if it was stored before.
    pub(super) pack: Option<PackId>,
}

impl Decoding {
    /// Of a slice that is in the store.
    pub(super) fn of(graph: &Graph) -> Self {
        Self {
            rank: graph.rank(),
            reads: Reads::of(graph),
            pack: Some(graph.top().pack),
        }
    }
}

/// The tensor that a slice is coded given, and what that slice of it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct GivenSlice<'c> {
    pub(super) relation: Relation,
    pub(super) tensor: &'c TensorSource,
    pub(super) decoding: &'c Decoding,
}

/// One slice that is to be encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) tensor: usize,
    pub(super) slice: u32,
    /// Where it begins in the tensor, in elements.
    pub(super) start_elems: u64,
    pub(super) len_elems: usize,
}

impl Job {
    /// Bytes of the slice, if its elements were of `tensor`'s type.
    pub(super) fn len_bytes(&self, tensor: &TensorSource) -> usize {
        self.len_elems * tensor.dtype.word_bytes()
    }

    fn part(&self, tensor: &TensorSource) -> Part {
        Part::Slice {
            dtype: tensor.dtype,
            number: self.slice,
        }
    }

    fn codec_slice(&self, tensor: &TensorSource) -> Slice {
        Slice {
            dtype: tensor.dtype,
            total_elems: tensor.elems(),
            index: self.slice as usize,
        }
    }
}

/// A frame, and what its entry says.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) frame: EncodedFrame,
    pub(super) needs: Needs,
    pub(super) decoding: Decoding,
    /// Packs that were not written by this save and that it is decoded from.
    pub(super) relied: Vec<PackId>,
    /// Whether the base that was asked for turned out to take a restore beyond its limits.
    pub(super) gave_way: bool,
}

/// Where slices are read from and what they may cost.
pub(super) struct Encoder<'s> {
    pub(super) store: &'s Store,
    pub(super) checkpoint: &'s Checkpoint,
    pub(super) limits: Limits,
}

impl Encoder<'_> {
    /// The bytes of a slice, as they were hashed.
    ///
    /// # Errors
    /// `Input` if the file changed since.
    pub(super) fn bytes(&self, job: &Job, tensor: &TensorSource) -> Result<Vec<u8>> {
        let source = &self.checkpoint.sources[tensor.source];
        let offset_bytes = job.start_elems * tensor.dtype.word_bytes() as u64;
        let bytes = source.read_at(tensor.offset_bytes + offset_bytes, job.len_bytes(tensor))?;
        if slice_hash(&bytes, offset_bytes, tensor.len_bytes) == tensor.slices[job.slice as usize] {
            Ok(bytes)
        } else {
            Err(source.changed("its tensors are not the ones that were hashed"))
        }
    }

    /// The bytes of a base, or `None` if they cannot be read back: what is saved now must not depend on them.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn base(
        &self,
        job: &Job,
        candidate: &Candidate,
        pieces: Pieces<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let tensor = &self.checkpoint.tensors[job.tensor];
        let mut bytes = vec![0; job.len_bytes(tensor)];
        let graph = &candidate.graphs[job.slice as usize];
        match read_slice(pieces, candidate.id, graph, &mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!("not used as a base: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a slice may be taken against `candidate`.
    ///
    /// * `own_bytes`: what its frame takes or will about take.
    pub(super) fn allows(
        &self,
        job: &Job,
        candidate: &Candidate,
        given: Option<GivenSlice<'_>>,
        own_bytes: u64,
    ) -> bool {
        let tensor = &self.checkpoint.tensors[job.tensor];
        let graph = &candidate.graphs[job.slice as usize];
        let decoding = self.decoding(job, Some(graph), given, own_bytes);
        let raw_bytes = job.len_bytes(tensor) as u64;
        self.limits
            .allow(decoding.rank, given.is_some(), &decoding.reads, raw_bytes)
    }

    /// What a slice takes to decode whose frame of `own_bytes` reads these.
    fn decoding(
        &self,
        job: &Job,
        base: Option<&Graph>,
        given: Option<GivenSlice<'_>>,
        own_bytes: u64,
    ) -> Decoding {
        let tensor = &self.checkpoint.tensors[job.tensor];
        let below = [base.map(Graph::rank), given.map(|g| g.decoding.rank)];
        let rank = below
            .into_iter()
            .flatten()
            .max()
            .map_or(0, |rank| rank.saturating_add(1));
        let mut reads = base.map(Reads::of).unwrap_or_default();
        if let Some(given) = given {
            reads = reads.and(&given.decoding.reads);
        }
        Decoding {
            rank,
            reads: reads.with(prefix_of(tensor.id.as_bytes()), job.part(tensor), own_bytes),
            pack: None,
        }
    }

    /// Encodes a slice against a base and given a tensor, with as much of both as the limits leave.
    ///
    /// * `pieces`: the way to what the base is decoded from.
    ///
    /// # Errors
    /// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read.
    pub(super) fn encode(
        &self,
        job: &Job,
        candidate: Option<&Candidate>,
        given: Option<GivenSlice<'_>>,
        pieces: Pieces<'_>,
    ) -> Result<Encoded> {
        let tensor = &self.checkpoint.tensors[job.tensor];
        let bytes = self.bytes(job, tensor)?;
        let given_bytes = given.map(|g| self.bytes(job, g.tensor)).transpose()?;
        let given = given.zip(given_bytes.as_deref());
        if let Some((slice, _)) = given
            && slice.relation == Relation::Cast
        {
            let encoded = self.attempt(job, &bytes, None, given)?;
            if is_cast(&encoded.frame, bytes.len()) && self.is_within(job, &encoded) {
                return Ok(encoded);
            }
            // It is not its master's rounding: a weight like any other.
            return self.encode(job, candidate, None, pieces);
        }
        let base_bytes = candidate
            .map(|c| self.base(job, c, pieces))
            .transpose()?
            .flatten();
        let base = candidate.zip(base_bytes.as_deref());
        let mut gave_way = false;
        let mut tried = Vec::new();
        for (base, given) in [(base, given), (None, given), (None, None)] {
            let what = (base.is_some(), given.is_some());
            if tried.contains(&what) {
                continue;
            }
            tried.push(what);
            let mut encoded = self.attempt(job, &bytes, base, given)?;
            if what == (false, false) || self.is_within(job, &encoded) {
                encoded.gave_way = gave_way;
                return Ok(encoded);
            }
            gave_way |= base.is_some();
        }
        // The last attempt always returns.
        Err(StoreError::corrupt(
            "the encoder",
            "no way to store a slice was found",
        ))
    }

    fn is_within(&self, job: &Job, encoded: &Encoded) -> bool {
        let raw_bytes = job.len_bytes(&self.checkpoint.tensors[job.tensor]) as u64;
        let Decoding { rank, reads, .. } = &encoded.decoding;
        self.limits
            .allow(*rank, encoded.needs.given.is_some(), reads, raw_bytes)
    }

    fn attempt(
        &self,
        job: &Job,
        bytes: &[u8],
        base: Option<(&Candidate, &[u8])>,
        given: Option<(GivenSlice<'_>, &[u8])>,
    ) -> Result<Encoded> {
        let tensor = &self.checkpoint.tensors[job.tensor];
        let frame = encode_frame(
            job.codec_slice(tensor),
            bytes,
            base.map(|(candidate, bytes)| Base {
                id: candidate.id,
                bytes,
            }),
            given.map(|(slice, bytes)| Given {
                relation: slice.relation,
                id: slice.tensor.id,
                bytes,
            }),
        )?;
        let graph = base
            .map(|(candidate, _)| &candidate.graphs[job.slice as usize])
            .filter(|_| frame.uses_base);
        let given = given.map(|(slice, _)| slice).filter(|_| frame.uses_given);
        let needs = Needs {
            base: graph.map(|graph| Needed {
                prefix: prefix_of(&graph.top().entry().id),
                holder: Holder::Pack(graph.top().pack),
            }),
            given: given.map(|slice| {
                let holder = slice.decoding.pack.map_or(Holder::Unknown, Holder::Pack);
                let prefix = prefix_of(slice.tensor.id.as_bytes());
                (slice.relation, Needed { prefix, holder })
            }),
        };
        Ok(Encoded {
            decoding: self.decoding(job, graph, given, frame.bytes.len() as u64),
            relied: graph.map(|graph| graph.packs().collect()).unwrap_or_default(),
            frame,
            needs,
            gave_way: false,
        })
    }

    /// What a slice would about cost with each of `bases`, in bytes, the first of them none at all.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub(super) fn estimate(&self, job: &Job, bytes: &[u8], base: Option<&[u8]>) -> Result<u64> {
        let tensor = &self.checkpoint.tensors[job.tensor];
        Ok(tpde_core::estimate_bytes(job.codec_slice(tensor), bytes, base)?)
    }
}

/// Whether a weight that was coded as the cast of its master is one, all but a few elements of it.
fn is_cast(frame: &EncodedFrame, raw_bytes: usize) -> bool {
    frame.uses_given && frame.bytes.len() <= raw_bytes / 64 + 256
}
