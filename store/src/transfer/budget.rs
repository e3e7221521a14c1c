//! A number of bytes that may be held at one time.

use parking_lot::{Condvar, Mutex};

/// Bytes that those who hold some give back.
#[derive(Debug)]
pub(super) struct Budget {
    limit_bytes: u64,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    closed: bool,
}

impl Budget {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            held: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits until `bytes` more may be held; what is more than the whole budget waits until nothing else is held.
    ///
    /// `false` once it is closed: nothing was taken.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        while !held.closed && held.bytes > 0 && held.bytes.saturating_add(bytes) > self.limit_bytes {
            self.changed.wait(&mut held);
        }
        if !held.closed {
            held.bytes = held.bytes.saturating_add(bytes);
        }
        !held.closed
    }

    /// Gives back what was taken.
    pub(super) fn give(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.bytes = held.bytes.saturating_sub(bytes);
        drop(held);
        self.changed.notify_all();
    }

    /// Sends everybody away who waits, or comes later.
    pub(super) fn close(&self) {
        self.held.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Promise: nobody gets more than there is, what is larger than the budget gets it alone, and closing wakes who waits.
    #[test]
    fn bytes_are_waited_for() {
        let budget = Budget::new(10);
        assert!(budget.take(6) && budget.take(4));
        let (send, got) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| send.send(budget.take(25)).unwrap());
            assert!(got.recv_timeout(Duration::from_millis(20)).is_err());
            budget.give(6);
            assert!(got.recv_timeout(Duration::from_millis(20)).is_err());
            budget.give(4);
            assert!(got.recv().unwrap());
            scope.spawn(|| send.send(budget.take(1)).unwrap());
            budget.close();
            assert!(!got.recv().unwrap());
        });
    }
}
