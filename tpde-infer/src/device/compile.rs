//! NVRTC: from a program's text to an image for one architecture.

use super::no_device;
use crate::error::Result;
use crate::sources::OPTIONS;
use cudarc::nvrtc::result::{compile_program, create_program, destroy_program, get_program_log};
use cudarc::nvrtc::sys::{is_culib_present, nvrtcGetCUBIN, nvrtcGetCUBINSize, nvrtcProgram};
use std::ffi::{CStr, CString};

/// A program of NVRTC's, given back when dropped.
struct Compilation(nvrtcProgram);

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: the program was made by create_program and is destroyed here only.
        let _ = unsafe { destroy_program(self.0) };
    }
}

/// Compiles one program.
///
/// # Errors
/// `NoDevice` if NVRTC is missing or does not know the architecture; its own words come along.
pub(super) fn cubin(file: &str, source: &str, architecture: &str) -> Result<Vec<u8>> {
    // SAFETY: it only tries to load the library by its names.
    if !unsafe { is_culib_present() } {
        return Err(no_device(
            "no NVRTC here (libnvrtc.so is not found): install CUDA's runtime compiler and name its folder in \
             LD_LIBRARY_PATH, such as /usr/local/cuda/lib64",
        ));
    }
    let broken = |what: &str| no_device(format!("NVRTC fails on {file}: {what}"));
    let text = CString::new(source).map_err(|_| broken("the source has a zero byte"))?;
    let name = CString::new(file).map_err(|_| broken("the name has a zero byte"))?;
    let program = create_program(&text, Some(&name)).map_err(|error| broken(&format!("{error:?}")))?;
    // The texts outlive the program: it is dropped first.
    let program = Compilation(program);
    let mut options = vec![format!("--gpu-architecture={architecture}")];
    options.extend(OPTIONS.iter().map(|&option| option.to_owned()));
    // SAFETY: the program is alive.
    if let Err(error) = unsafe { compile_program(program.0, &options) } {
        // SAFETY: as above.
        let log = unsafe { get_program_log(program.0) }.unwrap_or_default();
        #[expect(clippy::cast_sign_loss, reason = "bytes of a text")]
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
        let log = CStr::from_bytes_until_nul(&log)
            .map_or_else(|_| String::new(), |l| l.to_string_lossy().into_owned());
        return Err(broken(&format!(
            "{error:?} for {architecture} (an NVRTC older than the GPU does not know it)\n{log}"
        )));
    }
    let mut bytes = 0;
    // SAFETY: the program is alive and compiled, and `bytes` outlives the call.
    let sized = unsafe { nvrtcGetCUBINSize(program.0, &raw mut bytes) }.result();
    sized.map_err(|error| broken(&format!("{error:?}")))?;
    let mut image = vec![0u8; bytes];
    // SAFETY: the image has the bytes that NVRTC just asked for.
    let filled = unsafe { nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()) }.result();
    filled.map_err(|error| broken(&format!("{error:?}")))?;
    Ok(image)
}
