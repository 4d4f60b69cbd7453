//! The driver: a device, its memory, and its errors as values.

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult, CUstream};

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Block, inside};

/// The first device, with its primary context and one stream. Freed with the last that holds it.
pub struct Device {
    ordinal: CUdevice,
    pub(super) stream: CUstream,
    context: sys::CUcontext,
}

// SAFETY: the driver's handles may be used from any thread; `enter` makes the context current first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// An error of the driver, with what was being done.
pub(super) fn check(result: CUresult, what: impl FnOnce() -> String) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver sets `text` to a constant string, or leaves it.
    let text = unsafe {
        let _ = sys::cuGetErrorString(result, &mut text);
        if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
    };
    let kind = match result {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::Resource,
        _ => ErrorKind::Unsupported,
    };
    Err(Error::new(kind, format!("{}: {text}", what())))
}

impl Device {
    /// Opens device 0 for code of `sm_90a`. Errors: no driver, no device, an older or other one.
    pub fn open() -> Result<Arc<Device>> {
        let missing = |message: &str| {
            Error::new(ErrorKind::Unsupported, message)
                .help("run it on a machine with an NVIDIA GPU and its driver, or compile with `--target cpu`")
        };
        // SAFETY: only looks for the library; every later call is made where it was found.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing("there is no NVIDIA driver here (libcuda)"));
        }
        // SAFETY: plain calls of the driver with places for their results.
        unsafe {
            if sys::cuInit(0) != CUresult::CUDA_SUCCESS {
                return Err(missing("the NVIDIA driver finds no device"));
            }
            let (mut ordinal, mut major, mut minor) = (0, 0 as c_int, 0 as c_int);
            check(sys::cuDeviceGet(&mut ordinal, 0), || "opening the first GPU".into())?;
            let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
            check(sys::cuDeviceGetAttribute(&mut major, attribute, ordinal), || "asking the GPU".into())?;
            let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
            check(sys::cuDeviceGetAttribute(&mut minor, attribute, ordinal), || "asking the GPU".into())?;
            if (major, minor) != (9, 0) {
                let message =
                    format!("this GPU has compute capability {major}.{minor}, sm_90a code needs 9.0");
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .help("run it on an H100 or H200, or compile with `--target cpu`"));
            }
            let mut context = std::ptr::null_mut();
            check(sys::cuDevicePrimaryCtxRetain(&mut context, ordinal), || "opening a context".into())?;
            let mut device = Device { ordinal, stream: std::ptr::null_mut(), context };
            device.enter()?;
            check(sys::cuStreamCreate(&mut device.stream, 1), || "making a stream".into())?;
            Ok(Arc::new(device))
        }
    }

    /// Makes the context this thread's.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained while this device lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, || "entering the GPU's context".into())
    }

    /// Bytes that the device can still give.
    pub fn free_bytes(&self) -> Result<u64> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places live through the call.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, || "asking for free memory".into())?;
        Ok(free as u64)
    }

    /// Waits for the stream.
    pub fn synchronise(&self, what: impl FnOnce() -> String) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as the device.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, what)
    }

    /// Zeroed memory of the device.
    pub fn zeroed(self: &Arc<Device>, bytes: u64) -> Result<DeviceBlock> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the new allocation is at least as long as what is set.
        unsafe {
            let what = || format!("allocating {bytes} bytes of GPU memory");
            check(sys::cuMemAlloc_v2(&mut address, bytes.max(256) as usize), what)?;
            let block = DeviceBlock { device: self.clone(), address, len: bytes };
            check(sys::cuMemsetD8Async(address, 0, bytes as usize, self.stream), || {
                "clearing memory".into()
            })?;
            Ok(block)
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the stream or the context's retention; errors leave nothing to do.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            if !self.stream.is_null() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.ordinal);
        }
    }
}

/// Memory of a device.
pub struct DeviceBlock {
    device: Arc<Device>,
    pub(super) address: u64,
    len: u64,
}

impl Block for DeviceBlock {
    fn address(&self) -> *mut u8 {
        self.address as *mut u8
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        inside(at, out.len(), self.len)?;
        self.device.synchronise(|| "a kernel of this step failed".into())?;
        let to = out.as_mut_ptr().cast::<c_void>();
        // SAFETY: inside the allocation, checked above; the stream is idle.
        let result = unsafe { sys::cuMemcpyDtoH_v2(to, self.address + at, out.len()) };
        check(result, || "reading from the GPU".into())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        inside(at, bytes.len(), self.len)?;
        self.device.synchronise(|| "a kernel before this failed".into())?;
        // SAFETY: inside the allocation, checked above; the stream is idle.
        let result =
            unsafe { sys::cuMemcpyHtoD_v2(self.address + at, bytes.as_ptr().cast::<c_void>(), bytes.len()) };
        check(result, || "writing to the GPU".into())
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: allocated by `zeroed`, freed once. The driver waits for kernels that use it.
            unsafe {
                let _ = sys::cuMemFree_v2(self.address);
            }
        }
    }
}
