//! What can go wrong on the way to the device.

use tpde_core::CodecError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, InferError>;

/// Why frames were not decoded on the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// A frame does not parse; the same bytes will not get better.
    #[error("frame {index}: {source}")]
    Frame {
        /// Which of the plan's items.
        index: usize,
        /// What the codec says.
        source: CodecError,
    },
    /// The device does not decode such frames; decode this one on the host with `tpde_core::decode_frame`.
    #[error("frame {index}: {what}; decode it on the host")]
    HostOnly {
        /// Which of the plan's items.
        index: usize,
        /// What the frame has that the device does not know.
        what: String,
    },
    /// The items do not fit the memory they name, or one another; correct the plan.
    #[error("{what}")]
    Invalid {
        /// What does not fit.
        what: String,
    },
    /// No usable driver, device or NVRTC; the text says what to install or set.
    #[error("{what}")]
    NoDevice {
        /// What is missing.
        what: String,
    },
    /// The driver refused; the device's memory or the process's context may be unusable from here on.
    #[error("CUDA: {what}")]
    Cuda {
        /// The call and the driver's word.
        what: String,
    },
    /// The device found blocks that no encoder writes; the output of their tiles is unspecified.
    #[error(
        "{bad} of {blocks} blocks are damaged; the first is of frame {index}, element {first} (status {status})"
    )]
    Damaged {
        /// How many blocks.
        bad: usize,
        /// Out of how many.
        blocks: usize,
        /// The plan's item that the first belongs to.
        index: usize,
        /// Its first element, counted in the frame.
        first: u32,
        /// Its status word (`kernels/records.cuh`).
        status: u32,
    },
}
