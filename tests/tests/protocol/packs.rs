//! Packs as sets of encodings, and what can be decoded from some of them.
//!
//! Two contents are enough: `BASE`, and `DELTA`, which is smaller if `BASE` may be relied on. Manifests are numbered
//! among the packs: they are stored, marked and deleted alike, but a record names one, and no other will do.

use crate::rules::Names;

/// A set of packs and manifests, by number.
pub(crate) type Packs = u32;
/// A set of contents.
pub(crate) type Contents = u8;

/// The content that others are taken against.
pub(crate) const BASE: Contents = 1;
/// The content that may be taken against [`BASE`].
pub(crate) const DELTA: Contents = 2;

/// How many leases one writer takes, at most.
pub(crate) const LEASES_EACH: usize = 2;
/// The pack of the first checkpoint.
pub(crate) const FIRST: usize = 0;

/// The manifest of the first checkpoint; those written under leases follow.
pub(crate) const FIRST_MANIFEST: usize = 24;
/// All manifests.
pub(crate) const MANIFESTS: Packs = Packs::MAX << FIRST_MANIFEST;

/// What stands in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// `BASE`.
    Base,
    /// `DELTA`, to be decoded with `BASE`.
    DeltaOnBase,
    /// Both, `DELTA` to be decoded with `BASE`.
    Both,
}

impl Holds {
    const ALL: [Self; 3] = [Self::Base, Self::DeltaOnBase, Self::Both];

    fn place(self) -> usize {
        match self {
            Self::Base => 0,
            Self::DeltaOnBase => 1,
            Self::Both => 2,
        }
    }
}

/// The number of the pack with these contents, written under lease `lease` of all leases.
pub(crate) fn name(names: Names, holds: Holds, lease: usize, seen: Packs) -> usize {
    let plain = holds.place();
    let salted = Holds::ALL.len() * (1 + lease) + plain;
    match names {
        Names::OfTheContents => plain,
        Names::SaltedIfMarked if seen & bit(plain) == 0 => plain,
        Names::SaltedIfMarked | Names::OfTheLease => salted,
    }
}

/// The number of the manifest written under lease `lease` of all leases.
pub(crate) fn manifest(lease: usize) -> usize {
    FIRST_MANIFEST + 1 + lease
}

/// The set of one pack.
pub(crate) fn bit(pack: usize) -> Packs {
    1 << pack
}

/// The packs of a set, lowest first.
pub(crate) fn each(packs: Packs) -> impl DoubleEndedIterator<Item = usize> {
    (0..Packs::BITS as usize).filter(move |pack| packs & bit(*pack) != 0)
}

/// What can be decoded if only these packs exist.
pub(crate) fn decodable(packs: Packs) -> Contents {
    let (mut bases, mut deltas): (Packs, Packs) = (0, 0);
    for first in (0..FIRST_MANIFEST).step_by(Holds::ALL.len()) {
        let both = bit(first + Holds::Both.place());
        bases |= bit(first + Holds::Base.place()) | both;
        deltas |= bit(first + Holds::DeltaOnBase.place()) | both;
    }
    match (packs & bases != 0, packs & deltas != 0) {
        (false, _) => 0,
        (true, false) => BASE,
        (true, true) => BASE | DELTA,
    }
}

/// Those of `candidates` that can go, all together, while everything in `keep` stays decodable from the rest of
/// `relied_on`. Which of two copies goes depends on `lowest_first`, so that two sweeps differ.
pub(crate) fn redundant(candidates: Packs, relied_on: Packs, keep: Contents, lowest_first: bool) -> Packs {
    let mut gone: Packs = 0;
    let mut drop_if_able = |pack: usize| {
        let without = relied_on & !gone & !bit(pack);
        if keep & !decodable(without) == 0 {
            gone |= bit(pack);
        }
    };
    let candidates = candidates & !MANIFESTS;
    match lowest_first {
        true => each(candidates).for_each(&mut drop_if_able),
        false => each(candidates).rev().for_each(&mut drop_if_able),
    }
    gone
}
