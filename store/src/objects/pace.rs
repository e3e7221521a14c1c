//! How often and how quickly a write is tried again.
//!
//! A disk answers at once or not at all. A server that is busy wants to be left alone for a while, and for a different while by
//! each of its clients.

use std::time::Duration;

use super::driver::Driver;

/// How often a write that is safe to repeat is tried before its failure is reported: on a disk.
pub(crate) const WRITE_ATTEMPTS: u32 = 3;
/// The same on a server.
const SERVER_ATTEMPTS: u32 = 7;
/// First wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The attempts of one write.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    /// Before the next attempt; zero where waiting is no use.
    wait: Duration,
}

impl Pace {
    /// Of a write that is about to be tried for the first time.
    pub(super) fn of(driver: Driver) -> Self {
        let (attempts, wait) = match driver {
            Driver::Inline => (WRITE_ATTEMPTS, Duration::ZERO),
            Driver::Runtime => (SERVER_ATTEMPTS, FIRST_WAIT),
        };
        Self {
            left: attempts - 1,
            wait,
        }
    }

    /// Waits as long as is good; `false`, at once, if it has been tried often enough.
    ///
    /// The wait is between half of and the whole of what stands next: 100 ms, 200 ms, 400 ms …
    pub(crate) fn again(&mut self) -> bool {
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        if !self.wait.is_zero() {
            let mut byte = [0];
            // Without randomness all wait equally long, which is only slower.
            let _ = getrandom::fill(&mut byte);
            std::thread::sleep(self.wait / 2 + self.wait * u32::from(byte[0]) / 512);
            self.wait *= 2;
        }
        true
    }
}
