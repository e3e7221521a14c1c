//! Second pass: tensors that the store does not hold yet become frames.
//!
//! ```text
//! those that are given nothing ─▶ those that are given one of them       (masters after weights, first moments after second)
//!     a window of slices: encode all ─▶ doubtful? ask for a better base, once a tensor ─▶ encode those again ─▶ packs
//! ```

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use tpde_core::{Relation, slices_of};

use super::StoredTensor;
use super::bases::{Bases, Candidate};
use super::choice::{Plan, are_dense, cheapest};
use super::encode::{Decoding, Encoded, Encoder, GivenSlice, Job};
use super::ids::{Checkpoint, TensorSource};
use super::writer::PackQueue;
use crate::catalog::Sought;
use crate::error::Result;
use crate::graph::Graph;
use crate::ids::PackId;
use crate::pack::{Content, Part};
use crate::progress::Progress;
use crate::roles::{self, Named};
use crate::store::Store;
use crate::window::{decoding_bytes, windows};

/// Encodes every new tensor of a checkpoint.
pub(super) struct TensorSaver<'s> {
    pub(super) encoder: Encoder<'s>,
    pub(super) bases: &'s Bases<'s>,
    pub(super) progress: &'s dyn Progress,
    /// Store weights as casts of their masters.
    pub(super) archive: bool,
    /// The sequence number that this checkpoint will have if nobody else saves.
    pub(super) seq: u64,
}

/// What is known of each tensor while the others are encoded.
struct State {
    stored: Vec<StoredTensor>,
    plans: Vec<Plan>,
    given: Vec<Option<(Relation, usize)>>,
    /// Of tensors that others are given: what each slice takes to decode.
    decoding: Vec<Vec<Decoding>>,
    /// Whether another tensor is given this one.
    serves: Vec<bool>,
    /// Whether the newest checkpoint is the base to trust; `None` until a probe was made.
    trusts_newest: Option<bool>,
}

impl State {
    fn given<'c>(&'c self, checkpoint: &'c Checkpoint, job: &Job) -> Option<GivenSlice<'c>> {
        let (relation, at) = self.given[job.tensor]?;
        Some(GivenSlice {
            relation,
            tensor: &checkpoint.tensors[at],
            decoding: self.decoding[at].get(job.slice as usize)?,
        })
    }
}

impl TensorSaver<'_> {
    fn checkpoint(&self) -> &Checkpoint {
        self.encoder.checkpoint
    }

    fn store(&self) -> &Store {
        self.encoder.store
    }

    /// Encodes every new tensor and queues its frames. Packs of new tensors are filled in by the caller once the queue is
    /// finished.
    ///
    /// * `relied`: receives every pack that was not written here and that a restore will read.
    ///
    /// # Errors
    /// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read or written.
    pub(super) fn save(
        &self,
        packs: &mut PackQueue<'_>,
        relied: &mut BTreeSet<PackId>,
    ) -> Result<Vec<StoredTensor>> {
        let tensors = &self.checkpoint().tensors;
        let named: Vec<Named<'_>> = tensors.iter().map(TensorSource::named).collect();
        let given = roles::pairs(&named, self.archive);
        let mut serves = vec![false; tensors.len()];
        given.iter().flatten().for_each(|&(_, at)| serves[at] = true);
        let mut state = State {
            stored: Vec::with_capacity(tensors.len()),
            plans: Vec::with_capacity(tensors.len()),
            given,
            decoding: vec![Vec::new(); tensors.len()],
            serves,
            trusts_newest: None,
        };
        let mut stages = [Vec::new(), Vec::new()];
        for (number, tensor) in tensors.iter().enumerate() {
            if let Some((known, graphs)) = self.known(tensor)? {
                relied.extend(graphs.iter().flat_map(Graph::packs));
                if state.serves[number] {
                    state.decoding[number] = graphs.iter().map(Decoding::of).collect();
                }
                self.progress.advance(tensor.len_bytes);
                state.stored.push(known);
                state.plans.push(Plan::nothing());
                continue;
            }
            let jobs = jobs(number, tensor);
            let plan = match jobs.first() {
                Some(first) => Plan::new(&self.encoder, self.bases, tensor, first, self.seq)?,
                None => Plan::nothing(),
            };
            state.stored.push(StoredTensor::new());
            state.plans.push(plan);
            stages[usize::from(state.given[number].is_some())].extend(jobs);
        }
        for jobs in stages {
            let memory: Vec<(Job, u64)> = jobs
                .into_iter()
                .map(|job| (job, self.memory_bytes(&state, &job)))
                .collect();
            for window in windows(&memory, |(_, bytes)| *bytes) {
                let jobs: Vec<Job> = window.iter().map(|(job, _)| *job).collect();
                let encoded = self.encode(&mut state, &jobs)?;
                for (job, encoded) in jobs.iter().zip(encoded) {
                    self.add(&mut state, job, encoded, packs, relied)?;
                }
            }
        }
        Ok(state.stored)
    }

    /// Bytes in memory while a slice is encoded: it, its base, what the base is decoded from, and what is given.
    fn memory_bytes(&self, state: &State, job: &Job) -> u64 {
        let len_bytes = job.len_bytes(&self.checkpoint().tensors[job.tensor]) as u64;
        let base = state.plans[job.tensor].base.as_ref();
        let base = base.map_or(0, |c| decoding_bytes(len_bytes, &c.graphs[job.slice as usize]));
        let given = state.given[job.tensor];
        let given = given.map_or(0, |(_, at)| job.len_bytes(&self.checkpoint().tensors[at]) as u64);
        len_bytes + base + given
    }

    /// Encodes a window of slices.
    fn encode(&self, state: &mut State, jobs: &[Job]) -> Result<Vec<Encoded>> {
        let tensors = &self.checkpoint().tensors;
        let encode = |state: &State, job: &Job| {
            let given = state.given(self.checkpoint(), job);
            self.encoder
                .encode(job, state.plans[job.tensor].base.as_ref(), given)
        };
        let encoded: Result<Vec<Encoded>> = jobs
            .par_iter()
            .map(|job| {
                let encoded = encode(state, job);
                self.progress.advance(job.len_bytes(&tensors[job.tensor]) as u64);
                encoded
            })
            .collect();
        let mut encoded = encoded?;
        self.probe(state, jobs, &encoded)?;
        let trusts_newest = state.trusts_newest.unwrap_or(true);
        // The first slice of a tensor in the first window that has one speaks for all.
        let mut doubted: BTreeMap<usize, Job> = BTreeMap::new();
        for (job, encoded) in jobs.iter().zip(&encoded) {
            let plan = &mut state.plans[job.tensor];
            let raw_bytes = job.len_bytes(&tensors[job.tensor]);
            if plan.is_doubtful(self.bases, encoded, raw_bytes, trusts_newest) {
                doubted.insert(job.tensor, *job);
            }
            plan.is_settled = true;
        }
        let doubted: Vec<Job> = doubted.into_values().collect();
        let better: Result<Vec<Option<Candidate>>> = doubted
            .par_iter()
            .map(|job| {
                cheapest(
                    &self.encoder,
                    self.bases,
                    job,
                    state.given(self.checkpoint(), job),
                )
            })
            .collect();
        let mut changed = BTreeSet::new();
        for (job, better) in doubted.iter().zip(better?) {
            let plan = &mut state.plans[job.tensor];
            if plan.base.as_ref().map(|c| c.id) != better.as_ref().map(|c| c.id) {
                plan.base = better;
                changed.insert(job.tensor);
            }
        }
        let again: Vec<usize> = (0..jobs.len())
            .filter(|&i| changed.contains(&jobs[i].tensor))
            .collect();
        let second: Result<Vec<Encoded>> = again.par_iter().map(|&i| encode(state, &jobs[i])).collect();
        for (i, second) in again.into_iter().zip(second?) {
            // An estimate may be wrong; what was made is not.
            let (first_bytes, second_bytes) = (encoded[i].frame.bytes.len(), second.frame.bytes.len());
            let is_shallower = second.decoding.rank < encoded[i].decoding.rank;
            if second_bytes < first_bytes || (is_shallower && second_bytes - first_bytes <= first_bytes / 32)
            {
                encoded[i] = second;
            }
        }
        Ok(encoded)
    }

    /// Asks once a save, if deltas on the newest checkpoint are dense, whether it is the best base for the longest slice of the
    /// window.
    fn probe(&self, state: &mut State, jobs: &[Job], encoded: &[Encoded]) -> Result<()> {
        if state.trusts_newest.is_some() || self.bases.count() < 2 {
            return Ok(());
        }
        let tensors = &self.checkpoint().tensors;
        let is_on_newest = |job: &Job| state.plans[job.tensor].is_on_newest();
        let deltas = jobs.iter().zip(encoded).filter(|(job, _)| is_on_newest(job));
        let len_bytes = |job: &Job| job.len_bytes(&tensors[job.tensor]) as u64;
        let (mut raw_bytes, mut stored_bytes) = (0, 0);
        for (job, encoded) in deltas {
            raw_bytes += len_bytes(job);
            stored_bytes += encoded.frame.bytes.len() as u64;
        }
        let longest = jobs
            .iter()
            .filter(|job| is_on_newest(job))
            .max_by_key(|job| len_bytes(job));
        if let Some(longest) = longest.filter(|_| are_dense(stored_bytes, raw_bytes)) {
            let given = state.given(self.checkpoint(), longest);
            let best = cheapest(&self.encoder, self.bases, longest, given)?;
            state.trusts_newest = Some(best.is_some_and(|best| best.is_newest));
        }
        Ok(())
    }

    /// Queues a frame, and notes what became of its slice.
    fn add(
        &self,
        state: &mut State,
        job: &Job,
        encoded: Encoded,
        packs: &mut PackQueue<'_>,
        relied: &mut BTreeSet<PackId>,
    ) -> Result<()> {
        let tensor = &self.checkpoint().tensors[job.tensor];
        let Encoded {
            frame,
            needs,
            decoding,
            relied: packs_below,
            ..
        } = encoded;
        relied.extend(packs_below);
        let record = &mut state.stored[job.tensor];
        record.note(decoding.rank, &needs);
        record.stored_bytes += frame.bytes.len() as u64;
        record.changed_elems += frame.changed_elems;
        record.max_ulp = record.max_ulp.max(frame.max_ulp);
        let content = Content::Slices {
            dtype: tensor.dtype,
            first: job.slice,
        };
        packs.add(*tensor.id.as_bytes(), content, needs, decoding.rank, &frame.bytes)?;
        if state.serves[job.tensor] {
            state.decoding[job.tensor].push(decoding);
        }
        Ok(())
    }

    /// The record of a tensor that the store already holds, and what its slices are decoded from.
    fn known(&self, tensor: &TensorSource) -> Result<Option<(StoredTensor, Vec<Graph>)>> {
        let hints = self.bases.hints(tensor.id.as_bytes())?;
        let mut stored = StoredTensor {
            is_new: false,
            ..StoredTensor::new()
        };
        let mut graphs = Vec::with_capacity(tensor.slices.len());
        for number in (0u32..).take(tensor.slices.len()) {
            let part = Part::Slice {
                dtype: tensor.dtype,
                number,
            };
            let sought = Sought::whole(*tensor.id.as_bytes(), part);
            let Some(graph) = self.store().stored_graph(&sought, &hints)? else {
                return Ok(None);
            };
            let top = graph.top();
            if !stored.packs.contains(&top.pack) {
                stored.packs.push(top.pack);
            }
            stored.note(graph.rank(), &top.entry().needs);
            graphs.push(graph);
        }
        Ok(Some((stored, graphs)))
    }
}

/// The slices of a tensor.
fn jobs(number: usize, tensor: &TensorSource) -> Vec<Job> {
    let slices = (0u32..).zip(slices_of(tensor.dtype, tensor.elems()));
    slices
        .map(|(slice, range)| {
            #[expect(clippy::cast_possible_truncation, reason = "at most SLICE_ELEMS")]
            let len_elems = (range.end - range.start) as usize;
            Job {
                tensor: number,
                slice,
                start_elems: range.start,
                len_elems,
            }
        })
        .collect()
}
