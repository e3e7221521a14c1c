//! The rules of the protocol, each of which can be left out to see what is lost without it.

/// What a pack is named after, besides its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// After the lease it was written under too: no two leases ever write the same name.
    OfTheLease,
    /// After its contents alone, unless the writer saw that name in a mark.
    SaltedIfMarked,
    /// After its contents alone.
    OfTheContents,
}

/// What everybody keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Writer: the lease is stored before the marks are listed.
    pub(crate) lease_before_marks: bool,
    /// Writer: contents of packs that are in a mark do not exist.
    pub(crate) heed_marks: bool,
    /// Writer: so it is for contents that were found through a manifest of another run.
    pub(crate) heed_marks_across_runs: bool,
    /// Writer: what is relied on is looked at after the marks are listed, not before.
    pub(crate) confirm_after_marks: bool,
    /// Writer: if something that it relied on is gone, it goes on under another lease.
    pub(crate) another_lease_after_miss: bool,
    /// Writer: the fence is looked for after the record, and only without one is the record acknowledged.
    pub(crate) look_for_fence: bool,
    /// Writer: a commit that is found in place is held to all this as one's own is.
    pub(crate) confirm_what_is_there: bool,
    /// Writer: a commit whose manifest is gone or in a mark is made again, with another manifest.
    pub(crate) commit_again_without_manifest: bool,
    /// Undo and tag: they hold a lease, as a save does.
    pub(crate) lease_to_keep: bool,
    /// Writer: what its packs are named after.
    pub(crate) names: Names,
    /// Repack: deletes nothing; the old packs are gc's.
    pub(crate) repack_leaves_old: bool,
    /// Gc: a manifest that no record ever named is not marked.
    pub(crate) mark_named_manifests_only: bool,
    /// Gc: waits for the leases that stand after its mark.
    pub(crate) wait_for_leases: bool,
    /// Gc: an expired lease is fenced before anything is listed for the sweep.
    pub(crate) fence_expired: bool,
    /// Gc: fences stay.
    pub(crate) fences_stay: bool,
    /// Gc: what is reachable is found anew for the sweep.
    pub(crate) reach_again: bool,
    /// Gc: packs in the marks of others do not exist, when it is asked what would be left.
    pub(crate) heed_other_marks: bool,
    /// Gc: those marks are listed before the packs.
    pub(crate) marks_before_packs: bool,
    /// Gc: a mark of another is removed only when none of its packs is left.
    pub(crate) retire_empty_marks_only: bool,
    /// Gc: and only when the grace has passed, so that nothing sent before is still on its way.
    pub(crate) retire_after_grace: bool,
    /// Gc: a mark one of whose deletes was not answered at once is left for others to retire.
    pub(crate) answered_before_unmarking: bool,
}

impl Rules {
    /// All of them.
    pub(crate) const ALL: Self = Self {
        lease_before_marks: true,
        heed_marks: true,
        heed_marks_across_runs: true,
        confirm_after_marks: true,
        another_lease_after_miss: true,
        look_for_fence: true,
        confirm_what_is_there: true,
        commit_again_without_manifest: true,
        lease_to_keep: true,
        names: Names::OfTheLease,
        repack_leaves_old: true,
        mark_named_manifests_only: true,
        wait_for_leases: true,
        fence_expired: true,
        fences_stay: true,
        reach_again: true,
        heed_other_marks: true,
        marks_before_packs: true,
        retire_empty_marks_only: true,
        retire_after_grace: true,
        answered_before_unmarking: true,
    };
}
