//! What the object store holds, what is on its way to it, and where everybody stands.

use crate::packs::{BASE, Contents, DELTA, FIRST, LEASES_EACH, Packs, bit, decodable};

/// What a record of the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Adds a checkpoint.
    Commit,
    /// Takes it out.
    Forget,
    /// Puts it back.
    Undo,
    /// Keeps it under a name, forgotten or not.
    Tag,
}

/// Which checkpoint: what it consists of follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Checkpoint {
    /// There from the beginning, `BASE` alone.
    First,
    /// A later one of `BASE` alone.
    Same,
    /// A later one of `BASE` and `DELTA`.
    Next,
}

impl Checkpoint {
    /// What must be decodable to restore it.
    pub(crate) fn needs(self) -> Contents {
        match self {
            Self::First | Self::Same => BASE,
            Self::Next => BASE | DELTA,
        }
    }
}

/// A slot, or an object of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) of: Checkpoint,
    /// The manifest that it names.
    pub(crate) manifest: u8,
    /// The nonce: which writer asked for it.
    pub(crate) by: u8,
    /// Whether somebody was told that it is durable. Nobody in the protocol can see this.
    pub(crate) acknowledged: bool,
}

/// Where a writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Start,
    Leased,
    Listed,
    Stored,
    Confirmed,
    Described,
    Recorded(u8),
    /// What was done is done; the lease is still there.
    Leaving,
    Done,
    Crashed,
}

/// A writer: a save, an undo, a tag or a repack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    pub(crate) at: At,
    /// Which of its leases.
    pub(crate) lease: u8,
    /// Packs in the marks it listed.
    pub(crate) seen: Packs,
    /// Packs that it found, if it looked before it listed the marks.
    pub(crate) found: Packs,
    /// Packs that it asked for without an answer, and may ask for again.
    pub(crate) tried: Packs,
    /// Packs that it stored under this lease.
    pub(crate) own: Packs,
}

/// What must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Needs {
    /// To be decodable.
    pub(crate) contents: Contents,
    /// To be there.
    pub(crate) manifests: Packs,
}

impl Needs {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            contents: self.contents | other.contents,
            manifests: self.manifests | other.manifests,
        }
    }

    /// Whether these packs and manifests are enough.
    pub(crate) fn met_by(self, packs: Packs) -> bool {
        self.contents & !decodable(packs) == 0 && self.manifests & !packs == 0
    }
}

impl Record {
    /// What it needs while it stands.
    pub(crate) fn needs(&self) -> Needs {
        Needs {
            contents: self.of.needs(),
            manifests: bit(usize::from(self.manifest)),
        }
    }
}

/// Where a gc stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Start,
    Computed,
    Marked,
    Waiting,
    ListingMarks,
    ListingSlots,
    ListingTags,
    ListingPacks,
    Deleting,
    Done,
    Crashed,
}

/// A gc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Gc {
    pub(crate) phase: Phase,
    /// What it marks.
    pub(crate) doomed: Packs,
    /// Leases that it waits for.
    pub(crate) waits: u16,
    /// Packs in the marks of others, as listed.
    pub(crate) others: Packs,
    /// What must stay decodable, as listed.
    pub(crate) live: Needs,
    /// Packs that its lists showed.
    pub(crate) exist: Packs,
    /// What is left to delete.
    pub(crate) deletes: Packs,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) packs: Packs,
    pub(crate) log: Vec<Record>,
    /// Bit `LEASES_EACH * writer + lease`.
    pub(crate) leases: u16,
    pub(crate) fences: u16,
    /// The mark of each gc, as long as it stands.
    pub(crate) marks: Vec<Option<Packs>>,

    /// Requests without an answer that may still take effect.
    pub(crate) late_puts: Packs,
    pub(crate) late_deletes: Packs,
    pub(crate) late_create: Option<(u8, Record)>,

    pub(crate) writers: Vec<Writer>,
    pub(crate) gcs: Vec<Gc>,

    /// How many more processes may crash, answers be lost, and forgets be asked for.
    pub(crate) crashes_left: u8,
    pub(crate) losses_left: u8,
    pub(crate) forgets_left: u8,
}

/// The bit of a lease.
pub(crate) fn lease_bit(writer: usize, lease: u8) -> u16 {
    1 << (LEASES_EACH * writer + usize::from(lease))
}

impl State {
    /// Makes one state of those that differ only in leases that nobody looks at any more: their ids never return.
    pub(crate) fn forget_ended_leases(&mut self) {
        let mut looks: u16 = 0;
        for (w, writer) in self.writers.iter().enumerate() {
            if !matches!(writer.at, At::Done | At::Crashed | At::Leaving) {
                looks |= lease_bit(w, writer.lease);
            }
        }
        let fenced = self.fences;
        self.fences &= looks;
        self.leases &= looks | !fenced;
        for gc in &mut self.gcs {
            gc.waits &= self.leases & !fenced;
        }
    }

    /// Place of the last record that says whether `of` stands.
    pub(crate) fn last_of(&self, of: Checkpoint) -> Option<usize> {
        self.log
            .iter()
            .rposition(|record| record.of == of && record.kind != Kind::Tag)
    }

    /// Place of the record by which `of` stands, if it does.
    pub(crate) fn stands_by(&self, of: Checkpoint) -> Option<usize> {
        self.last_of(of)
            .filter(|place| self.log[*place].kind != Kind::Forget)
    }

    /// What the slots need.
    pub(crate) fn slots_need(&self) -> Needs {
        let standing = |record: &&Record| self.stands_by(record.of).is_some();
        let slots = self.log.iter().filter(|record| record.kind != Kind::Tag);
        slots
            .filter(standing)
            .fold(Needs::default(), |all, record| all.and(record.needs()))
    }

    /// What the tags need.
    pub(crate) fn tags_need(&self) -> Needs {
        let tags = self.log.iter().filter(|record| record.kind == Kind::Tag);
        tags.fold(Needs::default(), |all, record| all.and(record.needs()))
    }

    /// Manifests that records name.
    pub(crate) fn named(&self) -> Packs {
        self.log
            .iter()
            .fold(0, |all, record| all | record.needs().manifests)
    }

    /// Packs in marks, without that of gc `except`.
    pub(crate) fn marked(&self, except: Option<usize>) -> Packs {
        let marks = self.marks.iter().enumerate();
        marks
            .filter(|(gc, _)| Some(*gc) != except)
            .fold(0, |all, (_, mark)| all | mark.unwrap_or(0))
    }

    /// Packs of which a put or a delete may still take effect: the grace has not passed since it was first sent.
    pub(crate) fn unsettled(&self) -> Packs {
        let tried = self.writers.iter().fold(0, |all, writer| all | writer.tried);
        tried | self.late_puts | self.late_deletes
    }

    /// Whether garbage went: sooner or later the first pack is garbage, unless it holds the only copy.
    pub(crate) fn first_pack_is_gone(&self) -> bool {
        self.packs & bit(FIRST) == 0
    }

    /// The promise: whatever was acknowledged and is not forgotten can be decoded.
    pub(crate) fn acknowledged_is_whole(&self) -> bool {
        self.log.iter().enumerate().all(|(place, record)| {
            let promised =
                record.acknowledged && (record.kind == Kind::Tag || self.stands_by(record.of) == Some(place));
            !promised || record.needs().met_by(self.packs)
        })
    }
}
