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
use crate::objects::at_once;
use crate::pack::{Content, Part};
use crate::progress::Progress;
use crate::roles::{self, Named};
use crate::store::Store;
use crate::transfer::{Pieces, Stretch, ahead, stretches};
use crate::window::decoding_bytes;

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

/// What is known of a tensor before anything is encoded.
struct LookedUp {
    /// Of each slice what it is decoded from, if the store holds it.
    held: Vec<Option<Graph>>,
    missing: Vec<Job>,
    plan: Plan,
}

/// A slice to encode, and what that takes.
struct Weighed {
    job: Job,
    /// Bytes in memory: it, its base, what the base is decoded from, and what is given.
    memory_bytes: u64,
    /// The pieces that the base is decoded from.
    reads: Vec<Stretch>,
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
        let numbers: Vec<usize> = (0..tensors.len()).collect();
        let looked_up = at_once(self.store().objects(), &numbers, |&at| self.look_up(at))?;
        for (number, (tensor, looked_up)) in tensors.iter().zip(looked_up).enumerate() {
            let LookedUp { held, missing, plan } = looked_up;
            relied.extend(held.iter().flatten().flat_map(Graph::packs));
            if state.serves[number] {
                let decoding = |graph: &Option<Graph>| graph.as_ref().map(Decoding::of).unwrap_or_default();
                state.decoding[number] = held.iter().map(decoding).collect();
            }
            let stored = StoredTensor::of(&held);
            if stored.is_new {
                for &pack in &stored.packs {
                    packs.holds(*tensor.id.as_bytes(), pack);
                }
            }
            let missing_bytes: u64 = missing.iter().map(|job| job.len_bytes(tensor) as u64).sum();
            self.progress.advance(tensor.len_bytes - missing_bytes);
            state.stored.push(stored);
            state.plans.push(plan);
            stages[usize::from(state.given[number].is_some())].extend(missing);
        }
        for jobs in stages {
            let weighed: Vec<Weighed> = jobs.into_iter().map(|job| self.weighed(&state, job)).collect();
            ahead(
                Pieces::cached(self.store().objects()),
                &weighed,
                |weighed| weighed.memory_bytes,
                |weighed| weighed.reads.clone(),
                |window, pieces| {
                    let jobs: Vec<Job> = window.iter().map(|weighed| weighed.job).collect();
                    let encoded = self.encode(&mut state, &jobs, pieces)?;
                    for (job, encoded) in jobs.iter().zip(encoded) {
                        self.add(&mut state, job, encoded, packs, relied)?;
                    }
                    Ok(())
                },
            )?;
        }
        Ok(state.stored)
    }

    /// What it takes to encode a slice.
    fn weighed(&self, state: &State, job: Job) -> Weighed {
        let len_bytes = job.len_bytes(&self.checkpoint().tensors[job.tensor]) as u64;
        let base = state.plans[job.tensor].base.as_ref();
        let graph = base.map(|c| &c.graphs[job.slice as usize]);
        let given = state.given[job.tensor];
        let given = given.map_or(0, |(_, at)| job.len_bytes(&self.checkpoint().tensors[at]) as u64);
        Weighed {
            job,
            memory_bytes: len_bytes + given + graph.map_or(0, |graph| decoding_bytes(len_bytes, graph)),
            reads: graph.into_iter().flat_map(stretches).collect(),
        }
    }

    /// Encodes a window of slices.
    fn encode(&self, state: &mut State, jobs: &[Job], pieces: Pieces<'_>) -> Result<Vec<Encoded>> {
        let tensors = &self.checkpoint().tensors;
        let encode = |state: &State, job: &Job| {
            let given = state.given(self.checkpoint(), job);
            self.encoder
                .encode(job, state.plans[job.tensor].base.as_ref(), given, pieces)
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
            state.decoding[job.tensor][job.slice as usize] = decoding;
        }
        Ok(())
    }

    /// Finds what the store holds of a tensor, and what the rest may be taken against.
    fn look_up(&self, number: usize) -> Result<LookedUp> {
        let tensor = &self.checkpoint().tensors[number];
        let held = self.held(tensor)?;
        let missing: Vec<Job> = jobs(number, tensor)
            .filter(|job| held[job.slice as usize].is_none())
            .collect();
        let plan = match missing.first() {
            Some(first) => Plan::new(&self.encoder, self.bases, tensor, first, self.seq)?,
            None => Plan::nothing(),
        };
        Ok(LookedUp { held, missing, plan })
    }

    /// What each slice of a tensor is decoded from, of those that the store holds already: another checkpoint's, or what a save
    /// that did not get to its end has left.
    fn held(&self, tensor: &TensorSource) -> Result<Vec<Option<Graph>>> {
        let hints = self.bases.hints(tensor.id.as_bytes())?;
        let find = |number: u32| {
            let dtype = tensor.dtype;
            let sought = Sought::whole(*tensor.id.as_bytes(), Part::Slice { dtype, number });
            self.store().stored_graph(&sought, &hints)
        };
        (0u32..).take(tensor.slices.len()).map(find).collect()
    }
}

/// The slices of a tensor.
fn jobs(number: usize, tensor: &TensorSource) -> impl Iterator<Item = Job> {
    let slices = (0u32..).zip(slices_of(tensor.dtype, tensor.elems()));
    slices.map(move |(slice, range)| {
        #[expect(clippy::cast_possible_truncation, reason = "at most SLICE_ELEMS")]
        let len_elems = (range.end - range.start) as usize;
        Job {
            tensor: number,
            slice,
            start_elems: range.start,
            len_elems,
        }
    })
}
