//! The device: driver and NVRTC found at run time, kernels compiled once, plans loaded and run.
//!
//! This folder is the crate's only home of `unsafe`: calls of the driver and of NVRTC.

mod cache;
mod compile;
mod loaded;

pub use loaded::Loaded;

use crate::error::{InferError, Result};
use crate::plan::MAX_SHARED_BYTES;
use crate::sources::PROGRAMS;
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute_enum};
use cudarc::driver::{CudaContext, CudaFunction, DriverError};
use std::collections::HashMap;
use std::sync::Arc;

/// One GPU with its kernels.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    kernels: HashMap<&'static str, CudaFunction>,
    architecture: String,
}

impl Device {
    /// Opens a GPU by its number and makes its kernels ready: from the cache folder if they are there, else compiled (seconds).
    ///
    /// # Errors
    /// `NoDevice` if the driver, the GPU or NVRTC is missing, or too old for one another; the text says what to do.
    /// `Cuda` if the driver refuses.
    pub fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: it only tries to load the library by its names.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(no_device(
                "no CUDA driver here (libcuda.so is not found): install NVIDIA's driver, or decode on the host",
            ));
        }
        let context = CudaContext::new(ordinal)
            .map_err(|error| no_device(format!("GPU {ordinal} cannot be opened: {}", said(error))))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(failed("compute capability"))?;
        let architecture = format!("sm_{major}{minor}");
        let mut kernels = HashMap::new();
        for program in PROGRAMS {
            let image = cache::image(program, &architecture)?;
            let module = context
                .load_module(cudarc::nvrtc::Ptx::from_binary(image))
                .map_err(failed(program.file))?;
            for &name in program.kernels {
                let kernel = module.load_function(name).map_err(failed(name))?;
                let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_possible_wrap,
                    reason = "99 KB"
                )]
                kernel
                    .set_attribute(most, MAX_SHARED_BYTES as i32)
                    .map_err(failed(name))?;
                kernels.insert(name, kernel);
            }
        }
        Ok(Self {
            context,
            kernels,
            architecture,
        })
    }

    /// The context that streams and memory for this device come from.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Such as `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Multiprocessors: what plans are cut for.
    ///
    /// # Errors
    /// `Cuda` if the driver does not say.
    pub fn multiprocessors(&self) -> Result<usize> {
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.context.attribute(count).map_err(failed("multiprocessors"))?;
        Ok(usize::try_from(count).unwrap_or(1))
    }

    fn kernel(&self, name: &str) -> Result<&CudaFunction> {
        self.kernels.get(name).ok_or_else(|| InferError::Cuda {
            what: format!("no kernel is named {name}"),
        })
    }
}

fn no_device(what: impl Into<String>) -> InferError {
    InferError::NoDevice { what: what.into() }
}

/// The driver's own words for an error.
fn said(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

fn failed(call: &str) -> impl Fn(DriverError) -> InferError + '_ {
    move |error| InferError::Cuda {
        what: format!("{call}: {}", said(error)),
    }
}
