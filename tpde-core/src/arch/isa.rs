//! Which variant runs: the widest that the machine has, or the one that `TPDE_ISA` names.

/// Names the variant to use: `scalar`, or `avx512` where the machine has it. For comparing them.
const ISA_VARIABLE: &str = "TPDE_ISA";

/// A variant of the hot loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this machine can run, the definition first.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        all.extend((Self::widest() != Self::Scalar).then(Self::widest));
        all
    }

    fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if super::avx512::is_available() {
            return Self::Avx512;
        }
        Self::Scalar
    }
}

#[cfg(not(test))]
pub(super) fn current() -> Isa {
    static CHOSEN: std::sync::LazyLock<Isa> =
        std::sync::LazyLock::new(|| match std::env::var(ISA_VARIABLE).as_deref() {
            Ok("scalar") => Isa::Scalar,
            _ => Isa::widest(),
        });
    *CHOSEN
}

/// Tells the tests how many elements a variant took.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn noted(elems: usize) -> usize {
    elems
}

#[cfg(test)]
pub(super) use forced::{current, noted, with};

/// Tests choose a variant for their own thread.
#[cfg(test)]
mod forced {
    use super::{ISA_VARIABLE, Isa};
    use std::cell::Cell;

    thread_local! {
        static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    pub(in super::super) fn current() -> Isa {
        let named = || std::env::var(ISA_VARIABLE).is_ok_and(|name| name == "scalar");
        FORCED
            .get()
            .unwrap_or_else(|| if named() { Isa::Scalar } else { Isa::widest() })
    }

    pub(in super::super) fn noted(elems: usize) -> usize {
        TAKEN.set(TAKEN.get() + elems);
        elems
    }

    /// Runs `f` with `isa` on this thread; also tells how many elements no scalar code decoded.
    pub(in super::super) fn with<R>(isa: Isa, f: impl FnOnce() -> R) -> (R, usize) {
        let before = FORCED.replace(Some(isa));
        TAKEN.set(0);
        let result = f();
        FORCED.set(before);
        (result, TAKEN.get())
    }
}
