//! A plan on the device: its arrays uploaded, its launches submitted to a stream, its status words read.

use super::{Device, failed};
use crate::error::{InferError, Result};
use crate::plan::{DamagedBlock, OVERREAD_BYTES, Plan, Target};
use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg};
use std::sync::Arc;

/// The kernels' one argument: `Plan` of `kernels/records.cuh`.
type Arguments = [u64; 11];

/// A plan on the device. It can run any number of times.
#[derive(Debug)]
pub struct Loaded<'d> {
    device: &'d Device,
    plan: Plan,
    stream: Arc<CudaStream>,
    arrays: [CudaSlice<u8>; 6],
    slots: CudaSlice<u32>,
    status: CudaSlice<u32>,
}

impl<'d> Loaded<'d> {
    /// Uploads `plan`; it will run on `stream`, a stream of the device's context.
    ///
    /// # Errors
    /// `Cuda` if the driver refuses: most likely there is too little memory.
    pub fn new(device: &'d Device, plan: Plan, stream: &Arc<CudaStream>) -> Result<Self> {
        let [frames, rest @ ..] = plan.arrays();
        // What lies behind the frames is read by damaged blocks only, and means nothing.
        let mut bytes = stream
            .alloc_zeros::<u8>(frames.len() + OVERREAD_BYTES)
            .map_err(failed("memory for the frames"))?;
        if !frames.is_empty() {
            stream
                .memcpy_htod(&frames, &mut bytes.slice_mut(..frames.len()))
                .map_err(failed("upload of the frames"))?;
        }
        let upload = |mut array: Vec<u8>| {
            // An allocation of no bytes has no address.
            array.resize(array.len().max(1), 0);
            stream.clone_htod(&array).map_err(failed("upload of the plan"))
        };
        let [frames, tasks, jobs, tables, frequencies] = rest.map(upload);
        let words = |count: usize| {
            stream
                .alloc_zeros::<u32>(count.max(1))
                .map_err(failed("memory for the plan"))
        };
        Ok(Self {
            device,
            slots: words(plan.slots())?,
            status: words(plan.blocks())?,
            stream: stream.clone(),
            arrays: [bytes, frames?, tasks?, jobs?, tables?, frequencies?],
            plan,
        })
    }

    /// Decodes into `weights`, which hold the base: submits the launches and returns.
    ///
    /// # Errors
    /// `Invalid` if the plan is not for this, or needs more bytes. `Cuda` if the driver refuses.
    pub fn run_in_place(&mut self, weights: &mut CudaSlice<u8>) -> Result<()> {
        self.fits(Target::InPlace, weights.len(), weights.len())?;
        let stream = self.stream.clone();
        let (at, _written) = weights.device_ptr_mut(&stream);
        self.submit(at, at)
    }

    /// Decodes from `base` into `out`: submits the launches and returns.
    ///
    /// # Errors
    /// As [`Loaded::run_in_place`].
    pub fn run_beside(&mut self, base: &CudaSlice<u8>, out: &mut CudaSlice<u8>) -> Result<()> {
        self.fits(Target::Beside, base.len(), out.len())?;
        let stream = self.stream.clone();
        let (base, _read) = base.device_ptr(&stream);
        let (out, _written) = out.device_ptr_mut(&stream);
        self.submit(base, out)
    }

    /// Waits for the run; returns the blocks that no encoder writes.
    ///
    /// # Errors
    /// `Cuda` if a launch failed.
    pub fn damaged(&self) -> Result<Vec<DamagedBlock>> {
        self.plan.damaged(&self.status()?)
    }

    /// Waits for the run and checks its blocks.
    ///
    /// # Errors
    /// `Damaged` if a block is none that an encoder writes: the output of its tile is unspecified. `Cuda` if a launch failed.
    pub fn check(&self) -> Result<()> {
        self.plan.check(&self.status()?)
    }

    fn status(&self) -> Result<Vec<u32>> {
        let mut status = self.stream.clone_dtoh(&self.status).map_err(failed("status"))?;
        self.stream.synchronize().map_err(failed("the launches"))?;
        status.truncate(self.plan.blocks());
        Ok(status)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn fits(&self, target: Target, base_len: usize, out_len: usize) -> Result<()> {
        let invalid = |what: String| Err(InferError::Invalid { what });
        if self.plan.target() != target {
            return invalid(format!(
                "the plan is for {:?}, not {target:?}",
                self.plan.target()
            ));
        }
        let needs = [
            ("base", self.plan.base_end(), base_len),
            ("output", self.plan.out_end(), out_len),
        ];
        match needs.iter().find(|(_, end, len)| *end > *len as u64) {
            None => Ok(()),
            Some((which, end, len)) => invalid(format!("the {which} has {len} bytes, the plan needs {end}")),
        }
    }

    /// `base` and `out` are memory of this context: as many bytes as the plan needs, checked by `fits`.
    fn submit(&mut self, base: u64, out: u64) -> Result<()> {
        let stream = self.stream.clone();
        let status_bytes = self.status.num_bytes();
        let (status, _status) = self.status.device_ptr_mut(&stream);
        let (slots, _slots) = self.slots.device_ptr_mut(&stream);
        let read = self.arrays.each_ref().map(|array| array.device_ptr(&stream));
        // SAFETY: the memory is this plan's own and as long as that; the stream orders the call before the launches.
        unsafe { memset_d8_async(status, 0xff, status_bytes, stream.cu_stream()) }
            .map_err(failed("status"))?;
        for launch in self.plan.launches() {
            let [bytes, frames, tasks, jobs, tables, frequencies] = read.each_ref().map(|(at, _)| *at);
            let arguments: Arguments = [
                bytes,
                frames,
                tasks,
                jobs,
                tables,
                frequencies,
                slots,
                base,
                out,
                status,
                launch.first_job,
            ];
            let shape = LaunchConfig {
                grid_dim: (launch.ctas, 1, 1),
                block_dim: (launch.threads, 1, 1),
                shared_mem_bytes: launch.shared_bytes,
            };
            let kernel = self.device.kernel(launch.kernel)?;
            let mut call = stream.launch_builder(kernel);
            call.arg(&arguments);
            // SAFETY: the kernel takes this one struct by value. Its arrays are this plan's, whose records name nothing outside
            // them, outside the base's and the output's bytes (checked by `fits`), or beyond OVERREAD_BYTES behind the
            // frames; alignment: allocations lie on 256 bytes, and offsets are multiples of the element's size.
            unsafe { call.launch(shape) }.map_err(failed(launch.kernel))?;
        }
        Ok(())
    }
}
