//! What the device is called, and what it can do, measured as plainly as possible.

use std::sync::Arc;

use cudarc::driver::sys;

use super::device::{Device, Event, check};
use crate::error::Result;

/// Bytes that a device's name may have.
const NAME_BYTES: usize = 256;
/// Rounds, of which the best counts.
const ROUNDS: usize = 8;
/// Bytes of each of the two blocks, far beyond the caches.
const MOST: u64 = 1 << 30;

/// The device's name.
pub fn name(device: &Device) -> Result<String> {
    let mut name = [0u8; NAME_BYTES];
    // SAFETY: the driver writes at most so many bytes, the last of them a NUL.
    let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), NAME_BYTES as i32, device.ordinal) };
    check(result, || "asking for the GPU's name".into())?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Bytes per second that the device reads and writes, together, when it copies its own memory.
pub fn copy_bandwidth(device: &Arc<Device>) -> Result<f64> {
    let bytes = (device.free_bytes()? / 4).min(MOST);
    let (from, to) = (device.zeroed(bytes)?, device.zeroed(bytes)?);
    let (start, end) = (Event::new(device, true)?, Event::new(device, true)?);
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        start.record()?;
        // SAFETY: both blocks have `bytes` bytes and do not overlap.
        let result =
            unsafe { sys::cuMemcpyDtoDAsync_v2(to.address, from.address, bytes as usize, device.stream) };
        check(result, || "measuring the GPU's memory".into())?;
        end.record()?;
        end.wait()?;
        best = best.max(2.0 * bytes as f64 / end.seconds_since(&start)?);
    }
    Ok(best)
}
