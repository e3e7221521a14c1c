//! Shape of the launches: how many warps a CTA has, and what each kernel keeps in shared memory.
//!
//! A warp decodes one block at a time; a CTA's warps share one frame's tables. 99 KB a CTA is what every device since sm_80
//! grants, so plans fit all of them.

#[cfg(debug_assertions)]
use super::records::Task;
use super::records::{Job, Tokens};

/// Most dynamic shared memory of a CTA, in bytes.
pub const MAX_SHARED_BYTES: usize = 99 * 1024;
/// Fewest warps of a CTA: its tables are read by all.
const MIN_WARPS: usize = 4;

/// What a kernel does to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Copy,
    Sparse,
    Dense,
    Fresh,
}

/// A kernel: the work, and the words it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kernel {
    pub(crate) work: Work,
    pub(crate) is_float: bool,
    pub(crate) word_bytes: u8,
}

impl Kernel {
    /// The entry point in `kernels/`.
    pub(crate) const fn name(self) -> &'static str {
        match (self.work, self.is_float, self.word_bytes) {
            (Work::Copy, _, 2) => "copy_16",
            (Work::Copy, _, _) => "copy_32",
            (Work::Sparse, true, 2) => "sparse_float_16",
            (Work::Sparse, true, _) => "sparse_float_32",
            (Work::Sparse, false, 2) => "sparse_int_16",
            (Work::Sparse, false, _) => "sparse_int_32",
            (Work::Dense, true, 2) => "dense_float_16",
            (Work::Dense, true, _) => "dense_float_32",
            (Work::Dense, false, 2) => "dense_int_16",
            (Work::Dense, false, _) => "dense_int_32",
            (Work::Fresh, true, 2) => "fresh_float_16",
            (Work::Fresh, true, _) => "fresh_float_32",
            (Work::Fresh, false, 2) => "fresh_int_16",
            (Work::Fresh, false, _) => "fresh_int_32",
        }
    }

    /// Shared bytes of the CTA, and those of each of its warps; `kernels/` asserts the same numbers.
    const fn shared(self) -> (usize, usize) {
        match (self.work, self.word_bytes) {
            (Work::Copy, _) => (0, 0),
            (Work::Sparse, 2) => (2176, 6080),
            (Work::Sparse, _) => (2176, 8064),
            (Work::Dense, _) => (1024, 0),
            (Work::Fresh, _) => (0, 64),
        }
    }

    const fn max_warps(self) -> usize {
        match self.work {
            Work::Copy | Work::Sparse => 8,
            Work::Dense | Work::Fresh => 16,
        }
    }

    /// Shared bytes of a frame's tables: entries of 4 bytes, but SPARSE has a byte a slot and 4 bytes a symbol.
    pub(crate) fn table_bytes(self, tokens: &Tokens) -> u32 {
        match self.work {
            Work::Copy => 0,
            Work::Sparse if tokens.slots == 0 => 8,
            Work::Sparse => {
                let width = 8 * u32::from(self.word_bytes);
                let alphabet = (1 << tokens.direct) + ((width - tokens.direct) << tokens.top);
                tokens.slots + 4 * (tokens.slots >> tokens.prob_bits) * alphabet
            }
            Work::Dense | Work::Fresh => 4 * tokens.slots,
        }
    }
}

/// Some tasks of one frame in one mode.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) kernel: Kernel,
    /// Entries of the frame's tables.
    pub(crate) staged: u32,
    /// What they take in shared memory.
    pub(crate) table_bytes: u32,
    pub(crate) frame: u32,
    pub(crate) first_task: u32,
    pub(crate) tasks: u32,
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The entry point in `kernels/`.
    pub kernel: &'static str,
    /// First of its jobs (of its tables, for `expand_tables`).
    pub first_job: u64,
    /// CTAs, one a job.
    pub ctas: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared_bytes: u32,
}

/// Launches for `runs` on a device of so many multiprocessors: one for each kernel and each of three sizes of its tables.
pub(crate) fn launches(mut runs: Vec<Run>, multiprocessors: usize) -> (Vec<Job>, Vec<Launch>) {
    // The most work first: the tail of a launch overlaps the next one's head where streams allow.
    let bucket = |run: &Run| (run.kernel, table_size(run.table_bytes));
    runs.sort_by_key(bucket);
    let (mut jobs, mut launches) = (Vec::new(), Vec::new());
    for group in runs.chunk_by(|a, b| bucket(a) == bucket(b)) {
        let kernel = group[0].kernel;
        let tasks: usize = group.iter().map(|run| run.tasks as usize).sum();
        let tasks_a_job = match kernel.work {
            Work::Copy => 1,
            _ => tasks
                .div_ceil(2 * multiprocessors.max(1))
                .clamp(1, kernel.max_warps()),
        };
        let warps = match kernel.work {
            Work::Copy => kernel.max_warps(),
            _ => tasks_a_job.max(MIN_WARPS),
        };
        let (fixed, a_warp) = kernel.shared();
        let tables = group
            .iter()
            .map(|run| run.table_bytes as usize)
            .max()
            .unwrap_or(0);
        let first_job = jobs.len();
        for run in group {
            let end = run.first_task + run.tasks;
            #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
            let step = tasks_a_job as u32;
            for first_task in (run.first_task..end).step_by(tasks_a_job) {
                jobs.push(Job {
                    frame: run.frame,
                    first_task,
                    tasks: step.min(end - first_task),
                    staged: run.staged,
                });
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "no more jobs than tasks, which are u32; at most 512 threads and 99 KB"
        )]
        launches.push(Launch {
            kernel: kernel.name(),
            first_job: first_job as u64,
            ctas: (jobs.len() - first_job) as u32,
            threads: (32 * warps) as u32,
            shared_bytes: (fixed + tables + warps * a_warp) as u32,
        });
    }
    (jobs, launches)
}

/// Small, middling or large tables: what they take decides how many CTAs a multiprocessor holds.
fn table_size(bytes: u32) -> u8 {
    match bytes {
        0..=0x4000 => 0,
        0x4001..=0x8000 => 1,
        _ => 2,
    }
}

/// The jobs cover the tasks once each, and every launch fits the smallest device.
#[cfg(debug_assertions)]
pub(crate) fn check(jobs: &[Job], tasks: &[Task], launches: &[Launch]) {
    let mut seen = vec![0u8; tasks.len()];
    for job in jobs {
        for task in job.first_task..job.first_task + job.tasks {
            seen[task as usize] += 1;
        }
    }
    debug_assert!(seen.iter().all(|&times| times == 1));
    debug_assert!(
        launches
            .iter()
            .all(|l| l.shared_bytes as usize <= MAX_SHARED_BYTES && l.threads <= 512)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: whatever the tables of a frame, every launch fits the shared memory of every device, and covers its tasks once each.
    #[test]
    fn launches_fit_everywhere() {
        for work in [Work::Copy, Work::Sparse, Work::Dense, Work::Fresh] {
            for (is_float, word_bytes) in [(true, 2), (true, 4), (false, 2), (false, 4)] {
                let kernel = Kernel {
                    work,
                    is_float,
                    word_bytes,
                };
                for slots in [0, 1024, 4096, 5120, 8192, 16_384] {
                    // The most symbols that the format knows.
                    let tokens = Tokens {
                        direct: if word_bytes == 2 { 6 } else { 7 },
                        top: if word_bytes == 2 { 4 } else { 2 },
                        prob_bits: 10,
                        slots,
                        ..Tokens::default()
                    };
                    for tasks in [1, 7, 16, 999] {
                        let run = Run {
                            kernel,
                            staged: slots,
                            table_bytes: kernel.table_bytes(&tokens),
                            frame: 0,
                            first_task: 0,
                            tasks,
                        };
                        for multiprocessors in [1, 46, 132] {
                            let (jobs, launches) = launches(vec![run.clone()], multiprocessors);
                            let [launch] = &launches[..] else {
                                panic!("one run is one launch: {launches:?}")
                            };
                            assert!(launch.shared_bytes as usize <= MAX_SHARED_BYTES, "{launch:?}");
                            assert!(launch.threads <= 512 && launch.threads % 32 == 0, "{launch:?}");
                            let ends = jobs
                                .iter()
                                .map(|job| (job.first_task, job.first_task + job.tasks));
                            assert_eq!(
                                ends.fold(0, |at, (first, end)| if at == first { end } else { u32::MAX }),
                                tasks
                            );
                            assert_eq!(launch.ctas as usize, jobs.len());
                        }
                    }
                }
            }
        }
    }
}
