//! Objects on their way into a store, several at a time.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::error::{Result, StoreError};
use crate::keys::Key;
use crate::objects::Objects;
use crate::progress::{Progress, Stage};

/// Most objects on their way to a server.
const UPLOADS_AT_ONCE: usize = 8;
/// Most bytes of them: two of the largest packs.
const UPLOAD_BYTES: u64 = 128 << 20;

/// Sends objects that are named after their bytes, while their maker goes on.
///
/// ```text
/// send ─▶ waits for room ─▶ on its way (a thread each) ─▶ stored
///                                └─▶ the first error: nothing is sent after it
/// ```
/// Law: after [`Uploads::finish`] returned `Ok`, every object that was sent is durable and right.
///
/// Dropping it waits for what is on its way: nothing is written after whoever made it has gone on.
#[derive(Debug)]
pub struct Uploads {
    objects: Objects,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Objects on their way, and their bytes.
    count: usize,
    bytes: u64,
    /// What was stored and not yet asked about.
    stored: Vec<Key>,
    stored_bytes: u64,
    error: Option<StoreError>,
    failed: bool,
}

impl Uploads {
    /// Nothing is on its way yet.
    pub fn new(objects: &Objects) -> Self {
        Self {
            objects: objects.clone(),
            shared: Arc::default(),
        }
    }

    /// Sends `bytes` to the key that is named after them, as [`Objects::put_content`] does. Returns when there is room for them
    /// among what is on its way; on a disk, when they are stored.
    ///
    /// # Errors
    /// Of any object that was sent before: that error, once; `Interrupted` when it is called again nevertheless.
    pub fn send(&mut self, key: Key, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let mut state = self.shared.state.lock();
        while !state.failed
            && state.count > 0
            && (state.count >= UPLOADS_AT_ONCE || state.bytes.saturating_add(len) > UPLOAD_BYTES)
        {
            self.shared.changed.wait(&mut state);
        }
        state.check()?;
        state.count += 1;
        state.bytes += len;
        drop(state);
        if !self.objects.is_far() {
            self.shared.put(&self.objects, key, bytes);
            return self.shared.state.lock().check();
        }
        let (shared, objects) = (Arc::clone(&self.shared), self.objects.clone());
        let (for_thread, to_send) = (key.clone(), bytes.clone());
        let thread = std::thread::Builder::new().name("tpde-upload".to_owned());
        let started = thread.spawn(move || shared.put(&objects, for_thread, to_send));
        if started.is_err() {
            // No thread is to be had: this one does it.
            self.shared.put(&self.objects, key, bytes);
        }
        Ok(())
    }

    /// What has been stored since this was last asked.
    pub fn take_stored(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.shared.state.lock().stored)
    }

    /// Waits until everything is stored.
    ///
    /// # Errors
    /// As [`Uploads::send`].
    pub fn finish(&mut self, progress: &dyn Progress) -> Result<()> {
        let mut state = self.shared.state.lock();
        if state.count > 0 && !state.failed {
            let mut seen_bytes = state.stored_bytes;
            progress.start(Stage::Send, state.bytes);
            while state.count > 0 && !state.failed {
                self.shared.changed.wait(&mut state);
                progress.advance(state.stored_bytes - seen_bytes);
                seen_bytes = state.stored_bytes;
            }
            progress.finish();
        }
        self.shared.settle(&mut state);
        state.check()
    }

    /// Waits until nothing is on its way, whatever became of it.
    pub(crate) fn settle(&mut self) {
        self.shared.settle(&mut self.shared.state.lock());
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Shared {
    fn put(&self, objects: &Objects, key: Key, bytes: Bytes) {
        let len = bytes.len() as u64;
        let put = objects.put_content(&key, bytes);
        let mut state = self.state.lock();
        state.count -= 1;
        state.bytes -= len;
        match put {
            Ok(_) => {
                state.stored.push(key);
                state.stored_bytes += len;
            }
            Err(error) => {
                if !state.failed {
                    state.error = Some(error);
                }
                state.failed = true;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn settle(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        while state.count > 0 {
            self.changed.wait(state);
        }
    }
}

impl State {
    fn check(&mut self) -> Result<()> {
        match (self.failed, self.error.take()) {
            (_, Some(error)) => Err(error),
            (true, None) => Err(StoreError::interrupted("an object before it could not be stored")),
            (false, None) => Ok(()),
        }
    }
}
