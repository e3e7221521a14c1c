//! Many small requests at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Objects;
use crate::error::Result;

/// Most requests that wait for a server at one time.
pub(crate) const REQUESTS_AT_ONCE: usize = 16;

/// Does `work` for every item, several at a time where a server answers; the answers come in the order of the items.
///
/// `work` waits for requests, so it runs on threads of its own: those that compute are as many as there are processors, which is
/// too few to fill a line.
///
/// # Errors
/// One of those that `work` returned; no further item is begun after it.
pub(crate) fn at_once<T: Sync, R: Send>(
    objects: &Objects,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = match objects.is_far() {
        true => items.len().min(REQUESTS_AT_ONCE),
        false => 1,
    };
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else {
                        break;
                    };
                    let answer = work(item);
                    if answer.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    answers.lock().push((at, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner();
    answers.sort_unstable_by_key(|&(at, _)| at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Barrier;

    use super::*;
    use crate::error::StoreError;

    fn far() -> Objects {
        Objects::over(Arc::new(object_store::memory::InMemory::new()), "far")
    }

    /// Promise: the order is kept, the requests are really made together, and an error is returned instead of a shorter answer.
    #[test]
    fn together_and_in_order() {
        let items: Vec<usize> = (0..REQUESTS_AT_ONCE).collect();
        // None gets through before all have come.
        let meet = Barrier::new(REQUESTS_AT_ONCE);
        let doubled = at_once(&far(), &items, |&n| {
            meet.wait();
            Ok(2 * n)
        });
        assert_eq!(doubled.unwrap(), items.iter().map(|n| 2 * n).collect::<Vec<_>>());
        let many: Vec<usize> = (0..1000).collect();
        for objects in [far(), Objects::memory()] {
            let refused = at_once(&objects, &many, |&n| match n {
                500 => Err(StoreError::interrupted("five hundred")),
                n => Ok(n),
            });
            assert!(refused.unwrap_err().to_string().contains("five hundred"));
        }
    }
}
