//! Memory for many tensors: each at an odd place, guard bytes between them.

use super::Case;
use tpde_infer::plan::{DamagedBlock, Item, Target};

const GUARD: u8 = 0x5a;
/// What lies where output will be: a decoder that forgets an element is seen.
const POISON: u8 = 0xc3;

/// What a plan over some cases reads, and what must come out.
pub(crate) struct Arena {
    pub(crate) target: Target,
    pub(crate) base: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) places: Vec<usize>,
}

impl Arena {
    pub(crate) fn new(cases: &[Case], target: Target) -> Self {
        let mut places = Vec::new();
        let mut at = 0;
        for (i, case) in cases.iter().enumerate() {
            // Every multiple of the element's size up to 32 bytes, and then the aligned place again.
            let word = case.dtype.word_bytes();
            at = (at + 16_usize).next_multiple_of(32) + i * word % 32;
            places.push(at);
            at += case.new.len();
        }
        let mut base = vec![GUARD; at + 16];
        let mut out = base.clone();
        for (case, &place) in cases.iter().zip(&places) {
            let range = place..place + case.new.len();
            out[range.clone()].fill(POISON);
            match &case.base {
                Some(bytes) => base[range].copy_from_slice(bytes),
                None => base[range].fill(POISON),
            }
        }
        if target == Target::InPlace {
            out.clone_from(&base);
        }
        Self {
            target,
            base,
            out,
            places,
        }
    }

    pub(crate) fn items<'a>(&self, cases: &'a [Case]) -> Vec<Item<'a>> {
        let item = |(case, &place): (&'a Case, &usize)| Item {
            frame: &case.frame,
            base_at: place as u64,
            out_at: place as u64,
        };
        cases.iter().zip(&self.places).map(item).collect()
    }

    /// Sound frames: the output holds every tensor, and nothing else has changed.
    pub(crate) fn must_be_decoded(&self, cases: &[Case], out: &[u8]) {
        let mut expected = self.out.clone();
        for (case, &place) in cases.iter().zip(&self.places) {
            let found = &out[place..place + case.new.len()];
            if let Some(byte) = (0..found.len()).find(|&i| found[i] != case.new[i]) {
                let word = case.dtype.word_bytes();
                let element = byte / word;
                let at = element * word..(element + 1) * word;
                panic!(
                    "{} ({:?}), {:?}: element {element} of {} is {:02x?}, not {:02x?}; its base is {:02x?}",
                    case.name,
                    case.modes(),
                    self.target,
                    found.len() / word,
                    &found[at.clone()],
                    &case.new[at.clone()],
                    case.base.as_ref().map(|base| &base[at]),
                );
            }
            expected[place..place + case.new.len()].copy_from_slice(&case.new);
        }
        let stray = (0..out.len()).find(|&i| out[i] != expected[i]);
        assert_eq!(stray, None, "a byte between the tensors was written");
    }

    /// Damaged frames: the device finds a block bad exactly where the scalar decoder fails; else the bytes are the same. Returns how many
    /// were found bad.
    pub(crate) fn must_be_judged(&self, cases: &[Case], out: &[u8], damaged: &[DamagedBlock]) -> usize {
        let mut expected = self.out.clone();
        let mut bad = 0;
        for (i, (case, &place)) in cases.iter().zip(&self.places).enumerate() {
            let range = place..place + case.new.len();
            let result = case.scalar();
            let status: Vec<u32> = damaged
                .iter()
                .filter(|d| d.index == i)
                .map(|d| d.status)
                .collect();
            assert_eq!(
                status.is_empty(),
                result.is_ok(),
                "{}: the device says {status:?}, the scalar decoder {result:?}",
                case.name
            );
            match result {
                Ok(scalar) => assert!(out[range.clone()] == scalar, "{}: other bytes", case.name),
                Err(_) => bad += 1,
            }
            expected[range.clone()].copy_from_slice(&out[range]);
        }
        let stray = (0..out.len()).find(|&i| out[i] != expected[i]);
        assert_eq!(stray, None, "a byte between the tensors was written");
        bad
    }
}
