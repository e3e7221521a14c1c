//! Leases: how a writer keeps gc from what it relies on (docs/adr/0012).
//!
//! ```text
//! PUT leases/<id>/0 ─ LIST gc/ ─ GET each mark ─ work, without what is marked ─ record ─ GET fence ─┬ none: acknowledge
//!                                                                                                 └ there: all again, another lease
//! ```
//! A gc that marked before the lease was there is seen by its mark; one that marks later waits for the lease to end. It never trusts a
//! clock: a lease that was not renewed for long is *fenced*, and a writer that finds its fence has not saved anything yet.

mod record;
mod renewal;
mod secure;

use bytes::Bytes;

use crate::clock::now_unix_ms;
use crate::error::{Result, StoreError};
use crate::ids::{LeaseId, ManifestId};
use crate::keys::{Key, Prefix};
use crate::mark::{self, Marked};
use crate::objects::Objects;
use crate::store::Store;
use record::Record;
use renewal::Renewal;

pub(crate) use renewal::LIMIT;

/// Times that a writer begins again under another lease before it gives up.
pub(crate) const MAX_LEASES: u32 = 4;

/// A lease that is held until this is dropped.
pub(crate) struct Lease {
    id: LeaseId,
    store: Store,
    marked: Marked,
    renewal: Renewal,
}

impl Lease {
    /// Takes a lease, and learns from the marks what does not exist for its holder.
    ///
    /// * `work`: what for, in a few words.
    ///
    /// # Errors
    /// `Corrupt` for a mark that cannot be read; `OutcomeUnknown`, `Newer`, `Backend`. Nothing was written but the lease.
    pub(crate) fn take(store: &Store, work: &str) -> Result<Self> {
        let id = LeaseId::random()?;
        let first = Record {
            id,
            renewal: 0,
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            process: std::process::id().into(),
            work: work.to_owned(),
            created_unix_ms: now_unix_ms(),
        };
        put(store.objects(), &first)?;
        // From here on the lease ends when this is dropped, whatever happens.
        let renewal = Renewal::start(store.objects().clone(), first);
        let marks = mark::all(store.objects(), None)?;
        let marked = Marked::by(&marks);
        Ok(Self {
            id,
            store: store.without(marked.packs.iter().copied()),
            marked,
            renewal,
        })
    }

    /// Its name, which goes into every pack and manifest that is written under it.
    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// The store as its holder may see it: without packs that are in a mark.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a manifest is in a mark, and so does not exist for its holder.
    pub(crate) fn is_marked(&self, manifest: ManifestId) -> bool {
        self.marked.manifests.contains(&manifest)
    }

    /// All that does not exist for its holder.
    pub(crate) fn marked(&self) -> &Marked {
        &self.marked
    }

    /// Whether nothing is in a mark.
    pub(crate) fn sees_everything(&self) -> bool {
        self.marked.packs.is_empty() && self.marked.manifests.is_empty()
    }

    /// Whether nobody fenced it: what was recorded before this was asked may be acknowledged then.
    ///
    /// # Errors
    /// `Backend`: nobody knows, so nothing may be acknowledged.
    pub(crate) fn holds(&self) -> Result<bool> {
        let fence = self.store.objects().head(&Key::Fence(self.id))?;
        if fence.is_some() {
            tracing::warn!(lease = %self.id, "a gc gave this writer up; it begins again");
        }
        Ok(fence.is_none())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.end();
    }
}

/// Does some work under a lease, and again under another when a gc gave the first one up or deleted what the work relied on.
///
/// * `work`: what for; `attempt`: gives `None` to begin again. What it recorded is acknowledged only if the lease held.
///
/// # Errors
/// `Conflict` if all leases were lost; whatever `attempt` returns; as [`Lease::take`].
pub(crate) fn under_lease<T>(
    store: &Store,
    work: &str,
    mut attempt: impl FnMut(&Lease) -> Result<Option<T>>,
) -> Result<T> {
    for _ in 0..MAX_LEASES {
        let lease = Lease::take(store, work)?;
        if let Some(done) = attempt(&lease)?
            && lease.holds()?
        {
            return Ok(done);
        }
    }
    Err(StoreError::conflict(
        "gc, or somebody else, keeps deleting what this relies on while it is at work",
        "Stop whatever deletes from the store, then run the same command again",
    ))
}

/// Creates one renewal, under a name that is used once.
fn put(objects: &Objects, record: &Record) -> Result<()> {
    let key = Key::Lease(record.id, record.renewal);
    objects.create_own(&key, &record.encode().into())
}

/// A lease as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: LeaseId,
    /// The server's time of its newest renewal, in milliseconds since 1970.
    pub(crate) renewed_unix_ms: u64,
}

/// The leases that have no fence.
///
/// # Errors
/// `Backend`: as for every listing.
pub(crate) fn standing(objects: &Objects) -> Result<Vec<Standing>> {
    let mut leases: std::collections::BTreeMap<[u8; 16], (Standing, bool)> =
        std::collections::BTreeMap::new();
    for listed in objects.list(&Prefix::Leases)? {
        let (id, is_fence) = match listed.key {
            Key::Lease(id, _) => (id, false),
            Key::Fence(id) => (id, true),
            _ => continue,
        };
        let (lease, fenced) = leases.entry(*id.as_bytes()).or_insert((
            Standing {
                id,
                renewed_unix_ms: 0,
            },
            false,
        ));
        *fenced |= is_fence;
        if !is_fence {
            lease.renewed_unix_ms = lease.renewed_unix_ms.max(listed.modified_unix_ms);
        }
    }
    let standing = leases.into_values().filter(|(_, fenced)| !fenced);
    Ok(standing.map(|(lease, _)| lease).collect())
}

/// Who holds a lease, in words; what can be told of it, if not all.
pub(crate) fn holder(objects: &Objects, id: LeaseId) -> String {
    let newest = objects.list_newest(&Prefix::Lease(id), 1);
    let record = newest.ok().and_then(|keys| {
        let bytes = objects.get(keys.first()?).ok()?;
        Record::decode(&bytes).ok()
    });
    match record {
        Some(record) => format!(
            "`{}` on {} (process {})",
            record.work, record.host, record.process
        ),
        None => format!("lease {id}"),
    }
}

/// Ends a lease for good, whatever its holder does. Its renewals go, for the fence says all that anybody must know.
///
/// # Errors
/// `Backend`, `OutcomeUnknown`: it may still hold.
pub(crate) fn fence(objects: &Objects, id: LeaseId) -> Result<()> {
    objects.create_own(&Key::Fence(id), &Bytes::from_static(b"fence\n"))?;
    let renewals = objects.list(&Prefix::Lease(id)).unwrap_or_default().into_iter();
    for renewal in renewals.filter(|listed| matches!(listed.key, Key::Lease(..))) {
        if let Err(error) = objects.delete(&renewal.key) {
            tracing::debug!(%error, lease = %id, "a renewal of a fenced lease stays");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
