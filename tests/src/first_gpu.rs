//! The first GPU's driver, for programs that ask it themselves.

use cudarc::driver::sys::{self, CUresult};

/// Makes its primary context the thread's, which stays open. Errors: there is no driver, or it has none.
pub fn enter() -> Result<(), String> {
    // SAFETY: only looks for the library; later calls are made where it was found.
    if !unsafe { sys::is_culib_present() } {
        return Err("there is no NVIDIA driver here (libcuda)".into());
    }
    let (mut device, mut context) = (0, std::ptr::null_mut());
    // SAFETY: plain calls of the driver with places for their results.
    unsafe {
        check(sys::cuInit(0), "starting the driver")?;
        check(sys::cuDeviceGet(&mut device, 0), "opening the first GPU")?;
        check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "opening a context")?;
        check(sys::cuCtxSetCurrent(context), "entering the context")
    }
}

/// Errors: the driver's, of what was done.
pub fn check(result: CUresult, what: &str) -> Result<(), String> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(format!("{what}: {result:?}")) }
}
