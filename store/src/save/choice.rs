//! Which base costs least, and when to ask.
//!
//! ```text
//! encode against the newest checkpoint ─▶ costs about what its delta did, and no probe says otherwise? ─yes▶ done
//!                                                  │ no
//!              sample a slice with every base there is, and with none ─▶ the cheapest; of nearly equal ones the shallowest
//! ```
//! Asking costs a decoded slice for every base, so it is done when there is a doubt, once a tensor; in a regular run that is
//! when a chain has reached its limit. Where deltas are dense, one slice a save is asked about in any case, the *probe*: the
//! checkpoint before may have been the odd one out (docs/adr/0010).

use super::bases::{Bases, Candidate};
use super::encode::{Encoded, Encoder, GivenSlice, Job};
use super::ids::TensorSource;
use crate::error::Result;
use crate::transfer::Pieces;

/// Frames of fewer bytes are not worth asking.
const CHEAP_BYTES: usize = 4096;
/// A frame may cost this much more than its predecessor did before there is a doubt.
const USUAL_SLACK: f64 = 1.25;
/// Deltas are dense if they take more than one part in this many of their tensors.
const DENSE_SHARE: u64 = 8;
/// Costs that differ by less than one part in this many are equal.
const TIE_SHARE: u64 = 64;
/// Whether first moments need a base is asked at one checkpoint in this many.
const MOMENT_INTERVAL: u64 = 8;

/// How one tensor is to be encoded.
#[derive(Debug)]
pub(super) struct Plan {
    /// The base that is tried.
    pub(super) base: Option<Candidate>,
    /// Whether it is beyond doubt.
    pub(super) is_settled: bool,
    /// Stored bytes a raw byte of the tensor's predecessor.
    usual_cost: Option<f64>,
    /// Whether other bases are looked at whatever this one costs.
    is_due: bool,
}

impl Plan {
    /// For a tensor that is not stored again.
    pub(super) fn nothing() -> Self {
        Self {
            base: None,
            is_settled: true,
            usual_cost: None,
            is_due: false,
        }
    }

    /// The first base that the limits allow: the newest checkpoint's, if they do.
    ///
    /// * `job`: the tensor's first slice.
    /// * `seq`: the sequence number that this checkpoint will have if nobody else saves.
    ///
    /// # Errors
    /// `Backend` if the store cannot be read.
    pub(super) fn new(
        encoder: &Encoder<'_>,
        bases: &Bases<'_>,
        tensor: &TensorSource,
        job: &Job,
        seq: u64,
    ) -> Result<Self> {
        let usual_cost = bases.usual_cost(tensor)?;
        let raw_bytes = job.len_bytes(tensor) as u64;
        let mut plan = Self {
            usual_cost,
            ..Self::nothing()
        };
        for at in 0..bases.count() {
            let Some(candidate) = bases.of_tensor(at, tensor)? else {
                continue;
            };
            if candidate.is_newest && tensor.is_first_moment() {
                let had_base = candidate
                    .graphs
                    .iter()
                    .any(|g| g.top().entry().needs.base.is_some());
                plan.is_due = seq % MOMENT_INTERVAL == 1;
                if !had_base && !plan.is_due {
                    return Ok(plan);
                }
            }
            if encoder.allows(job, &candidate, None, usual_bytes(usual_cost, raw_bytes)) {
                plan.is_settled = false;
                plan.base = Some(candidate);
                break;
            }
        }
        Ok(plan)
    }

    /// Whether the base that is tried is of the run's newest checkpoint.
    pub(super) fn is_on_newest(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.is_newest)
    }

    /// Whether another base might do better than the one that `encoded` was taken against.
    ///
    /// * `trusts_newest`: what the probe said.
    pub(super) fn is_doubtful(
        &self,
        bases: &Bases<'_>,
        encoded: &Encoded,
        raw_bytes: usize,
        trusts_newest: bool,
    ) -> bool {
        if self.is_settled || encoded.frame.bytes.len() <= CHEAP_BYTES {
            return false;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a ratio; slices are far below 2^52 bytes"
        )]
        let is_usual = |cost: f64| encoded.frame.bytes.len() as f64 <= USUAL_SLACK * cost * raw_bytes as f64;
        let is_regular = trusts_newest
            && self.is_on_newest()
            && self.usual_cost.is_some_and(is_usual)
            && !encoded.gave_way;
        self.is_due || (bases.count() > 1 && !is_regular)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate from a ratio of byte counts, neither negative nor large"
)]
fn usual_bytes(cost: Option<f64>, raw_bytes: u64) -> u64 {
    cost.map_or(0, |cost| (cost * raw_bytes as f64) as u64)
}

/// Whether deltas of `stored_bytes` in all are dense in tensors of `raw_bytes` in all.
pub(super) fn are_dense(stored_bytes: u64, raw_bytes: u64) -> bool {
    stored_bytes > raw_bytes / DENSE_SHARE
}

/// The base that a slice is cheapest with, within the limits; `None` if it is cheapest without.
///
/// * `job`: the slice that is sampled.
///
/// Cost: decodes that slice of every candidate.
///
/// # Errors
/// `Input` if a file changed since it was hashed; `Backend` if the store cannot be read.
pub(super) fn cheapest(
    encoder: &Encoder<'_>,
    bases: &Bases<'_>,
    job: &Job,
    given: Option<GivenSlice<'_>>,
) -> Result<Option<Candidate>> {
    let tensor = &encoder.checkpoint.tensors[job.tensor];
    let bytes = encoder.bytes(job, tensor)?;
    let mut costs: Vec<(u64, Option<Candidate>)> = vec![(encoder.estimate(job, &bytes, None)?, None)];
    for at in 0..bases.count() {
        let Some(candidate) = bases.of_tensor(at, tensor)? else {
            continue;
        };
        let is_known = costs.iter().flat_map(|(_, c)| c).any(|c| c.id == candidate.id);
        // Before it is decoded: a candidate beyond the limits is beyond them whatever it costs.
        if is_known || !encoder.allows(job, &candidate, given, 0) {
            continue;
        }
        let pieces = Pieces::cached(encoder.store.objects());
        let Some(base) = encoder.base(job, &candidate, pieces)? else {
            continue;
        };
        let cost = encoder.estimate(job, &bytes, Some(&base))?;
        if encoder.allows(job, &candidate, given, cost) {
            costs.push((cost, Some(candidate)));
        }
    }
    let depth = |c: &Option<Candidate>| c.as_ref().map_or(0, |c| u16::from(c.rank()) + 1);
    Ok(shallowest_of_cheap(costs, depth))
}

/// Of those that cost least or nearly so, the shallowest; of equally shallow ones the first.
fn shallowest_of_cheap<T>(costs: Vec<(u64, T)>, depth: impl Fn(&T) -> u16) -> T
where
    T: Default,
{
    let least = costs.iter().map(|&(cost, _)| cost).min().unwrap_or(0);
    let cheap = costs
        .into_iter()
        .filter(|&(cost, _)| cost <= least + least / TIE_SHARE);
    cheap.map(|(_, of)| of).min_by_key(depth).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the cheapest wins; of nearly equal ones the shallowest; of equals the first.
    #[test]
    fn ties_go_to_the_shallower() {
        let chosen = |costs: &[(u64, u16)]| {
            let numbered = costs
                .iter()
                .enumerate()
                .map(|(i, &(cost, depth))| (cost, (i, depth)));
            shallowest_of_cheap(numbered.collect(), |&(_, depth)| depth).0
        };
        assert_eq!(chosen(&[(1000, 0), (900, 9), (950, 1)]), 1);
        assert_eq!(chosen(&[(1000, 0), (900, 9), (914, 4)]), 2);
        assert_eq!(chosen(&[(1000, 3), (1000, 3), (1015, 3)]), 0);
        assert_eq!(chosen(&[(0, 5), (0, 2)]), 1);
    }
}
