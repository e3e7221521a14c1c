//! Memory that is not Python's: staging buffers, and the bytes of tensors at the addresses that their libraries name.
//!
//! The one home of `unsafe` in this crate. Addresses come from `python/tpde`, which holds the tensors for as long as a call lasts; a staging
//! buffer is written by one call at a time and never while a save reads it, which is checked here.
#![expect(
    unsafe_code,
    reason = "addresses of other libraries' memory, and a buffer that several threads fill"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::prelude::*;
use tpde_store::Sink;

/// Huge pages begin at multiples of this.
const ALIGNMENT: usize = 2 << 20;
/// Least size of a page, in bytes.
const PAGE_BYTES: usize = 4096;
/// One thread copies so much before it takes the next piece, in bytes.
const COPY_BYTES: usize = 4 << 20;

/// Zeroed memory of a fixed size.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory that the value owns; who writes when is settled by `Staging`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Allocates, and touches every page, so that no later copy waits for one.
    fn new(len_bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len_bytes.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let region = Self { start, layout };
        // SAFETY: the range is ours. Advice changes no contents, and whether it is taken does not matter.
        unsafe {
            libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
        }
        (0..layout.size())
            .into_par_iter()
            .step_by(PAGE_BYTES)
            .for_each(|at| {
                // SAFETY: `at` is inside, and each page is written by one thread. Volatile: zero over zero must not be left out.
                unsafe { region.at(at).write_volatile(0) }
            });
        Some(region)
    }

    /// The address `offset` bytes in, which must not be above the size.
    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: callers keep the offset inside of the allocation.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A stretch of a region, for as long as somebody reads it.
struct Stretch {
    region: Arc<Region>,
    offset: usize,
    len_bytes: usize,
}

impl AsRef<[u8]> for Stretch {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside of the region, which `Staging::stretch` checked; initialised, for it was zeroed; and not written to while this
        // exists, which `Staging::copy_in` checks.
        unsafe { std::slice::from_raw_parts(self.region.at(self.offset), self.len_bytes) }
    }
}

/// A buffer that tensors are copied into before a save returns to the training loop.
///
/// Allocated and touched once, used by one save after another.
#[pyclass(frozen, module = "tpde._tpde")]
pub(crate) struct Staging {
    region: Arc<Region>,
    len_bytes: usize,
    is_written: AtomicBool,
}

/// Bytes to copy: from where, how many, to where in the buffer.
type Copy = (usize, usize, usize);

/// A part of a copy that one thread does.
struct Piece {
    from: *const u8,
    to: *mut u8,
    len_bytes: usize,
}

// SAFETY: the addresses are of memory that outlives the call, and no two pieces have bytes to write in common.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Staging {
    /// Bytes of the buffer, which must not be written to until they are dropped.
    ///
    /// # Errors
    /// `ValueError` if they are not inside.
    pub(crate) fn stretch(&self, offset: usize, len_bytes: usize) -> PyResult<Bytes> {
        self.check(offset, len_bytes)?;
        Ok(Bytes::from_owner(Stretch {
            region: Arc::clone(&self.region),
            offset,
            len_bytes,
        }))
    }

    fn check(&self, offset: usize, len_bytes: usize) -> PyResult<()> {
        match offset.checked_add(len_bytes) {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(PyValueError::new_err(format!(
                "{len_bytes} bytes at {offset} are not in a staging buffer of {}",
                self.len_bytes
            ))),
        }
    }
}

#[pymethods]
impl Staging {
    /// * `threads`: how many touch the pages.
    #[new]
    fn new(py: Python<'_>, len_bytes: usize, threads: usize) -> PyResult<Self> {
        let pool = pool(threads)?;
        let region = py
            .detach(|| pool.install(|| Region::new(len_bytes)))
            .ok_or_else(|| {
                PyMemoryError::new_err(format!("no memory for a staging buffer of {len_bytes} bytes"))
            })?;
        Ok(Self {
            region: Arc::new(region),
            len_bytes,
            is_written: AtomicBool::new(false),
        })
    }

    #[getter]
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Where it starts.
    #[getter]
    fn address(&self) -> usize {
        self.region.start.as_ptr() as usize
    }

    /// Whether a save reads it.
    #[getter]
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }

    /// Copies bytes in from other memory, several threads at a time.
    ///
    /// * `copies`: from which address, how many bytes, to which offset; they must not overlap in the buffer, and what is at the addresses must
    ///   stay there until this returns.
    fn copy_in(&self, py: Python<'_>, copies: Vec<Copy>, threads: usize) -> PyResult<()> {
        let mut pieces = Vec::new();
        let mut ends: Vec<(usize, usize)> = Vec::with_capacity(copies.len());
        for (address, len_bytes, offset) in copies {
            self.check(offset, len_bytes)?;
            if address == 0 && len_bytes > 0 {
                return Err(PyValueError::new_err("bytes at address 0"));
            }
            ends.push((offset, offset + len_bytes));
            for at in (0..len_bytes).step_by(COPY_BYTES) {
                pieces.push(Piece {
                    from: (address as *const u8).wrapping_add(at),
                    to: self.region.at(offset + at),
                    len_bytes: COPY_BYTES.min(len_bytes - at),
                });
            }
        }
        ends.sort_unstable();
        if ends.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(PyValueError::new_err(
                "two tensors for the same place of a staging buffer",
            ));
        }
        if self.is_read() || self.is_written.swap(true, Ordering::Acquire) {
            return Err(PyRuntimeError::new_err("the staging buffer is in use"));
        }
        let pool = pool(threads);
        let done = pool.map(|pool| {
            py.detach(|| {
                pool.install(|| {
                    pieces.par_iter().with_max_len(1).for_each(|piece| {
                        // SAFETY: both ranges are as long, ours is inside of the buffer and no other piece's; theirs is held by the caller, and
                        // cannot be part of the buffer, of which Python has no tensor but while it writes into it.
                        unsafe { std::ptr::copy_nonoverlapping(piece.from, piece.to, piece.len_bytes) }
                    });
                });
            });
        });
        self.is_written.store(false, Ordering::Release);
        done
    }
}

/// A few threads for a copy.
fn pool(threads: usize) -> PyResult<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .map_err(|e| PyRuntimeError::new_err(e.to_string()))
}

/// Memory of tensors that a load fills.
pub(crate) struct Targets(Vec<(usize, usize)>);

impl Targets {
    /// * `targets`: address and length of each, held by the caller until the load is over.
    pub(crate) fn new(targets: Vec<(usize, usize)>) -> PyResult<Self> {
        match targets
            .iter()
            .any(|&(address, len_bytes)| address == 0 && len_bytes > 0)
        {
            true => Err(PyValueError::new_err("bytes at address 0")),
            false => Ok(Self(targets)),
        }
    }
}

impl Sink for Targets {
    fn write_at(&self, number: usize, offset_bytes: u64, bytes: &[u8]) {
        let Some(&(address, len_bytes)) = self.0.get(number) else {
            return;
        };
        let offset = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        // What does not fit was refused before; that nothing is written outside must not rest on it.
        if offset
            .checked_add(bytes.len())
            .is_some_and(|end| end <= len_bytes)
        {
            // SAFETY: inside of memory that the caller holds, and the store hands each byte out once.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), (address as *mut u8).add(offset), bytes.len());
            }
        }
    }
}
