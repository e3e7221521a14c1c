//! Many requests at once: waiting for answers takes no processor, so their number does not follow that of processors.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Most requests under way at once.
const WIDTH: usize = 16;

/// What `ask` gives of every item, in their order; many are asked about at once. After an error no further item is begun.
///
/// # Errors
/// The error of one of the items.
pub(crate) fn abreast<T: Sync, R: Send, E: Send>(
    items: &[T],
    ask: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Result<Vec<(usize, R)>, E>> = Mutex::new(Ok(Vec::with_capacity(items.len())));
    let work = || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(at)
        {
            let answer = ask(item);
            let mut done = done.lock();
            match (&mut *done, answer) {
                (Ok(list), Ok(answer)) => list.push((at, answer)),
                (Ok(_), Err(error)) => {
                    *done = Err(error);
                    break;
                }
                (Err(_), _) => break,
            }
        }
    };
    match items.len() {
        0 | 1 => work(),
        n => std::thread::scope(|scope| {
            for _ in 0..n.min(WIDTH) {
                scope.spawn(work);
            }
        }),
    }
    let mut answers = done.into_inner()?;
    answers.sort_unstable_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: every item is asked about once, answers keep their order, and an error ends it.
    #[test]
    fn order_and_errors() {
        let items: Vec<usize> = (0..1000).collect();
        let doubled = abreast(&items, |n| Ok::<_, ()>(2 * n)).unwrap();
        assert!(doubled.iter().copied().eq((0..1000).map(|n| 2 * n)));
        assert_eq!(abreast(&[] as &[u8], |n| Ok::<_, ()>(*n)), Ok(vec![]));
        let asked = AtomicUsize::new(0);
        let failed = abreast(&items, |&n| {
            asked.fetch_add(1, Ordering::Relaxed);
            if n == 3 { Err(n) } else { Ok(n) }
        });
        assert_eq!(failed, Err(3));
        assert!(asked.into_inner() < 1000);
    }
}
