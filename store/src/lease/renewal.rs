//! Keeps a lease fresh for as long as its holder is at work.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::put;
use super::record::Record;
use crate::clock::now_unix_ms;
use crate::keys::{Key, Prefix};
use crate::objects::Objects;

/// How often a lease is renewed.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// A lease that was not renewed for so long is given up by a gc: six renewals were missed by then.
pub(crate) const LIMIT: Duration = Duration::from_secs(30 * 60);

/// The thread that renews one lease. Short work never gets to its first renewal.
pub(super) struct Renewal {
    objects: Objects,
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<Record>>,
    first: Record,
}

impl Renewal {
    pub(super) fn start(objects: Objects, first: Record) -> Self {
        Self::start_every(EVERY, objects, first)
    }

    pub(super) fn start_every(every: Duration, objects: Objects, first: Record) -> Self {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = std::thread::Builder::new().name("tpde-lease".to_owned()).spawn({
            let (objects, ended, first) = (objects.clone(), Arc::clone(&ended), first.clone());
            move || renew(every, &objects, &ended, first)
        });
        if let Err(error) = &thread {
            tracing::warn!(%error, "this lease cannot be renewed, and a gc gives it up after {LIMIT:?}");
        }
        Self {
            objects,
            ended,
            thread: thread.ok(),
            first,
        }
    }

    /// Ends the lease: its renewals go, its fence would stay. What cannot be deleted is given up by a gc later.
    pub(super) fn end(&mut self) {
        *self.ended.0.lock() = true;
        self.ended.1.notify_all();
        let thread = self.thread.take();
        let last = thread.and_then(|thread| thread.join().ok());
        let last = last.map_or(0, |last| last.renewal);
        let id = self.first.id;
        let renewals = match last {
            0 => Ok(vec![Key::Lease(id, 0)]),
            // Some that were not answered may be there beside the last.
            _ => self.objects.list_newest(&Prefix::Lease(id), usize::MAX),
        };
        let ended = renewals.and_then(|keys| {
            let mut renewals = keys.iter().filter(|key| matches!(key, Key::Lease(..)));
            renewals.try_for_each(|key| self.objects.delete(key))
        });
        if let Err(error) = ended {
            tracing::debug!(%error, lease = %id, "a lease stays until a gc gives it up");
        }
        self.objects.remove_empty_folders(&[Prefix::Lease(id)]);
    }
}

/// Renews until the end; gives the last renewal that was asked for.
fn renew(every: Duration, objects: &Objects, ended: &(Mutex<bool>, Condvar), mut last: Record) -> Record {
    let mut end = ended.0.lock();
    while !*end {
        if !ended.1.wait_for(&mut end, every).timed_out() {
            continue;
        }
        drop(end);
        // A listing promises to show only what is there throughout it. So the first renewal stays until the end, and each other until the
        // one after it has been there for a whole interval: no listing misses the lease, or takes it for older than two intervals.
        let stale = last.renewal.checked_sub(1).filter(|&renewal| renewal > 0);
        last.renewal = last.renewal.saturating_add(1);
        last.created_unix_ms = now_unix_ms();
        let renewed = put(objects, &last).and_then(|()| match stale {
            Some(stale) => objects.delete(&Key::Lease(last.id, stale)),
            None => Ok(()),
        });
        if let Err(error) = renewed {
            tracing::debug!(%error, lease = %last.id, "not renewed; tried again in a while");
        }
        end = ended.0.lock();
    }
    last
}
