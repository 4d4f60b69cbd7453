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

/// What is taken of the GPU may differ from the plan by this share of it, or by this many bytes, whichever is more:
/// code, lists and the driver's own pages are in no plan.
const SHARE: f64 = 0.02;
const BYTES: u64 = 256 << 20;

/// Bytes that the first GPU can still give, in its primary context, which stays open.
pub fn free_bytes() -> Result<u64, String> {
    enter()?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: places for the results.
    check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "asking for free memory")?;
    Ok(free as u64)
}

/// Whether what was taken is what the plan says.
pub fn memory(planned: u64, taken: u64) -> Result<String, String> {
    let allowed = ((planned as f64 * SHARE) as u64).max(BYTES);
    let (off, mib) = (planned.abs_diff(taken), |bytes: u64| bytes >> 20);
    let text = format!(
        "{} MiB taken, {} planned, {} apart; the larger of 2 % and 256 MiB, {}, is allowed",
        mib(taken),
        mib(planned),
        mib(off),
        mib(allowed)
    );
    if off <= allowed { Ok(text) } else { Err(text) }
}
