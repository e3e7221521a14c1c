//! Records of a run: slots and rollups.

use tpde_store::rollup::{ROLLUP_EVERY, Rollup};
use tpde_store::slot::{Slot, history_from};

use super::{Target, golden};

/// Whatever a slot says under a right seal, it is refused or read; and written again reads the same.
pub(super) const SLOT: Target = Target {
    name: "slot",
    run: slot,
    seeds: slots,
    inputs: 150_000,
};

/// The same of a rollup.
pub(super) const ROLLUP: Target = Target {
    name: "rollup",
    run: rollup,
    seeds: || vec![unsealed(&a_rollup().encode())],
    inputs: 20_000,
};

/// Bytes of the checksum that ends a record.
const SEAL_BYTES: usize = 32;

fn sealed(record: &[u8]) -> Vec<u8> {
    [record, blake3::hash(record).as_bytes()].concat()
}

fn unsealed(sealed: &[u8]) -> Vec<u8> {
    sealed[..sealed.len() - SEAL_BYTES].to_vec()
}

/// Golden slots, and one with a longer history.
fn slots() -> Vec<Vec<u8>> {
    let stored = golden("store/runs");
    let mut slot = Slot::decode(&stored[0]).unwrap();
    let rollup = a_rollup();
    slot.seq = 72;
    slot.history = rollup.summaries[history_from(72) as usize..72].to_vec();
    let seeds = stored.iter().map(|bytes| unsealed(bytes));
    seeds.chain([unsealed(&slot.encode())]).collect()
}

fn a_rollup() -> Rollup {
    let slot = Slot::decode(&golden("store/runs")[0]).unwrap();
    let summaries = (0..ROLLUP_EVERY as u64).map(|seq| {
        let mut summary = slot.summary();
        (summary.seq, summary.step) = (seq, 10 * seq);
        summary
    });
    Rollup {
        run: slot.run.clone(),
        previous: None,
        summaries: summaries.collect(),
    }
}

fn slot(record: &[u8]) -> bool {
    let Ok(slot) = Slot::decode(&sealed(record)) else {
        return false;
    };
    slot.summary();
    assert_eq!(Slot::decode(&slot.encode()).unwrap(), slot);
    true
}

fn rollup(record: &[u8]) -> bool {
    let Ok(rollup) = Rollup::decode(&sealed(record)) else {
        return false;
    };
    rollup.last_seq();
    assert_eq!(Rollup::decode(&rollup.encode()).unwrap(), rollup);
    true
}
