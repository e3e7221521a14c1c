//! Tells whoever waits how far a long job is.

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Reading files and hashing tensors.
    Hash,
    /// Encoding what is new.
    Encode,
    /// Waiting for what is encoded to be stored.
    Send,
    /// Bringing what a checkpoint is decoded from.
    Fetch,
    /// Decoding and writing files.
    Restore,
    /// Checking stored objects.
    Verify,
    /// Comparing tensors.
    Compare,
    /// Finding out what is needed, and deleting what is not.
    Collect,
    /// Copying stored bytes to another store.
    Copy,
    /// Decoding tensors to say where their bytes went.
    Explain,
}

/// Receives progress from any thread.
pub trait Progress: Sync {
    /// A stage begins; `total_bytes` will be advanced through.
    fn start(&self, stage: Stage, total_bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The stage is over.
    fn finish(&self);
    /// The job waits for others.
    ///
    /// * `writers`: how many; `who`: one of them, in words.
    fn waiting(&self, _writers: usize, _who: &str) {}
    /// Whether whoever waits wants the job to stop. A restore asks before every piece; it then leaves nothing unfinished and
    /// returns `Interrupted`. Other jobs change nothing until their last moment, and may be killed.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Nobody waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
