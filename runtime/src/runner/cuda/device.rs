//! The driver: a device, its memory, and its errors as values.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult, CUstream};
use hyc_plan::Hang;

use super::hang;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Block, inside};

/// The least driver, as `cuDriverGetVersion` says it: CUDA 12.8 is the first that reads PTX 8.7.
const LEAST_DRIVER: c_int = 12080;

/// Pinned bytes of a device: how far a pass is, and behind it a [`Hang`].
const PINNED: usize = 128;
const HANG_AT: u64 = 64;

/// A kernel has failed: the driver then fails every call of the process, for good. Neither a reset of the primary
/// context nor one of our own helps (tried with driver 580).
static LOST: AtomicBool = AtomicBool::new(false);

/// What the stream is executing, for the error that names it.
#[derive(Debug, Clone)]
pub(super) enum Running {
    /// Copies.
    Nothing,
    /// Steps of these names, one by one; the marker counts those that are through.
    Steps(Arc<[String]>),
    /// A captured pass of so many rows, of steps of these names.
    Graph(u64, Arc<[String]>),
}

/// The first device, with its primary context and one stream. Freed with the last that holds it.
pub struct Device {
    pub(super) ordinal: CUdevice,
    pub(super) stream: CUstream,
    context: sys::CUcontext,
    /// Pinned, so that it can be read when nothing else can: how many steps of a pass are through.
    marker: *mut u32,
    running: Mutex<Running>,
}

// SAFETY: the driver's handles may be used from any thread; `enter` makes the context current first. The
// marker is written by the device alone and read as a volatile word.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Whether the context is of no use after this error.
fn sticky(result: CUresult) -> bool {
    use CUresult::*;
    matches!(
        result,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
    )
}

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
    let message = format!("{}: {text}", what());
    if sticky(result) {
        LOST.store(true, Ordering::SeqCst);
        return Err(Error::new(ErrorKind::Device, message).help(AFTER_FAILURE));
    }
    let kind = match result {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::Resource,
        _ => ErrorKind::Unsupported,
    };
    Err(Error::new(kind, message))
}

/// What is refused after a kernel has failed.
const BEFORE: &str = "a kernel failed on this GPU before, in this process";
const AFTER_FAILURE: &str =
    "CUDA refuses all further work of a process in which a kernel failed: start it again";

fn missing(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
        .help("run it on a machine with an NVIDIA GPU and its driver, or compile with `--target cpu`")
}

/// Starts the driver. Errors: there is none, it finds no device, it is too old for the code.
fn start_driver() -> Result<()> {
    // SAFETY: only looks for the library; every later call is made where it was found.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing("there is no NVIDIA driver here (libcuda)"));
    }
    let mut version: c_int = 0;
    // SAFETY: plain calls of the driver with places for their results.
    unsafe {
        check(sys::cuDriverGetVersion(&mut version), || "asking the driver's version".into())?;
        if version < LEAST_DRIVER {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            let message = format!("the NVIDIA driver is one of CUDA {major}.{minor}, this code needs 12.8");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .help("install driver 570 or newer, or compile with `--target cpu`"));
        }
        match sys::cuInit(0) {
            CUresult::CUDA_ERROR_NO_DEVICE => Err(missing("the NVIDIA driver finds no device")),
            other => check(other, || "starting the NVIDIA driver".into()),
        }
    }
}

fn attribute(ordinal: CUdevice, attribute: CUdevice_attribute) -> Result<c_int> {
    let mut value: c_int = 0;
    // SAFETY: a place for the result; the device was given by the driver.
    check(unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, ordinal) }, || "asking the GPU".into())?;
    Ok(value)
}

impl Device {
    /// Opens device 0 for code of `sm_90a`. Errors: no driver, an old one, no device, an older or other one;
    /// a kernel that failed in this process.
    pub fn open() -> Result<Arc<Device>> {
        start_driver()?;
        let mut ordinal: CUdevice = 0;
        // SAFETY: a place for the result.
        check(unsafe { sys::cuDeviceGet(&mut ordinal, 0) }, || "opening the first GPU".into())?;
        let capability = (
            attribute(ordinal, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(ordinal, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability != (9, 0) {
            let (major, minor) = capability;
            let message = format!("this GPU has compute capability {major}.{minor}, sm_90a code needs 9.0");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .help("run it on an H100 or H200, or compile with `--target cpu`"));
        }
        let mut context = std::ptr::null_mut();
        if LOST.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Device, BEFORE).help(AFTER_FAILURE));
        }
        // SAFETY: a place for the result; `drop` gives the context back.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, ordinal) };
        check(result, || "opening a context on the GPU".into())?;
        let mut device = Device {
            ordinal,
            stream: std::ptr::null_mut(),
            context,
            marker: std::ptr::null_mut(),
            running: Mutex::new(Running::Nothing),
        };
        device.enter()?;
        let mut marker = std::ptr::null_mut();
        // SAFETY: places for the results, which `drop` frees; the new memory holds a word.
        unsafe {
            // 1: does not wait for the default stream, which others of the process may use.
            check(sys::cuStreamCreate(&mut device.stream, 1), || "making a stream".into())?;
            check(sys::cuMemAllocHost_v2(&mut marker, PINNED), || "allocating pinned memory".into())?;
            device.marker = marker.cast();
            device.marker.cast::<u8>().write_bytes(0, PINNED);
        }
        Ok(Arc::new(device))
    }

    /// Makes the context this thread's. Errors: a kernel has failed in it.
    pub(super) fn enter(&self) -> Result<()> {
        if LOST.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Device, BEFORE).help(AFTER_FAILURE));
        }
        // SAFETY: the context is retained while this device lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, || "entering the GPU's context".into())
    }

    /// Says what the stream executes from now on.
    pub(super) fn set_running(&self, running: Running) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// Where a launch that has waited in vain says so: pinned, beside the marker.
    pub(super) fn hang_address(&self) -> u64 {
        self.marker as u64 + HANG_AT
    }

    /// What it has said.
    fn hang(&self) -> Option<Hang> {
        // SAFETY: allocated by `open` with room for both, freed by `drop`; the device writes single words.
        let hang = unsafe { self.marker.byte_add(HANG_AT as usize).cast::<Hang>().read_volatile() };
        (hang.hung != 0).then_some(hang)
    }

    /// Multiprocessors.
    pub(super) fn multiprocessors(&self) -> Result<u64> {
        let count = attribute(self.ordinal, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(count.max(0) as u64)
    }

    /// Has the stream note that `count` steps are through.
    pub(super) fn mark(&self, count: u32) -> Result<()> {
        // SAFETY: the marker is pinned, and pinned memory has one address for host and device. 0: the write
        // comes after everything before it on the stream.
        let result = unsafe { sys::cuStreamWriteValue32_v2(self.stream, self.marker as u64, count, 0) };
        check(result, || "marking a step".into())
    }

    /// What fails where the stream fails now.
    fn failing(&self) -> String {
        match &*self.running.lock().unwrap_or_else(PoisonError::into_inner) {
            Running::Nothing => "work on the GPU failed".into(),
            Running::Graph(rows, names) => match self.hang() {
                Some(hang) => hang::told(&hang, names),
                None => format!(
                    "a kernel of a captured pass of {rows} rows failed (without `graphs` its name is said)"
                ),
            },
            Running::Steps(names) => {
                // SAFETY: allocated by `open`, freed by `drop`.
                let done = unsafe { self.marker.read_volatile() } as usize;
                names.get(done).map_or("a kernel failed".into(), |name| format!("{name} failed"))
            }
        }
    }

    /// An error of a call, with the name of the kernel that failed before it where that is what it says: a failure
    /// surfaces in whatever comes next.
    pub(super) fn explain(&self, error: Error) -> Error {
        let failing = self.failing();
        if error.kind != ErrorKind::Device || error.message == BEFORE || error.message.starts_with(&failing) {
            return error;
        }
        Error { message: format!("{failing}: {}", error.message), ..error }
    }

    /// Bytes that the device can still give.
    pub fn free_bytes(&self) -> Result<u64> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places live through the call.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, || "asking for free memory".into())?;
        Ok(free as u64)
    }

    /// Waits for the stream. Errors: a kernel failed, named where that is known.
    pub fn synchronise(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as the device.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, || self.failing())
    }

    /// Zeroed memory of the device.
    pub fn zeroed(self: &Arc<Device>, bytes: u64) -> Result<DeviceBlock> {
        self.enter()?;
        let mut address = 0;
        let room = usize::try_from(bytes.max(256));
        let room =
            room.map_err(|_| Error::new(ErrorKind::Resource, format!("{bytes} bytes are too many")))?;
        // SAFETY: the new allocation is as long as what is set.
        unsafe {
            let what = || format!("allocating {bytes} bytes of GPU memory");
            check(sys::cuMemAlloc_v2(&mut address, room), what)?;
            let block = DeviceBlock { device: self.clone(), address, len: bytes };
            check(sys::cuMemsetD8Async(address, 0, room, self.stream), || "clearing memory".into())?;
            Ok(block)
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the stream, the marker or this retention; errors leave nothing to do.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            if !self.stream.is_null() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            if !self.marker.is_null() {
                let _ = sys::cuMemFreeHost(self.marker.cast());
            }
            let _ = sys::cuCtxSetCurrent(std::ptr::null_mut());
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

impl DeviceBlock {
    /// Puts zeros into all of it, on the stream.
    pub(super) fn clear(&self) -> Result<()> {
        let (stream, len) = (self.device.stream, self.len as usize);
        // SAFETY: the allocation is that long.
        check(unsafe { sys::cuMemsetD8Async(self.address, 0, len, stream) }, || "clearing memory".into())
    }
}

// SAFETY: an allocation of the device of `len` bytes, which it aligns to 256, freed when this is dropped.
unsafe impl Block for DeviceBlock {
    fn address(&self) -> *mut u8 {
        self.address as *mut u8
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        inside(at, out.len(), self.len)?;
        // Before the copy, so that a kernel's failure is said to be one.
        self.device.synchronise()?;
        let to = out.as_mut_ptr().cast::<c_void>();
        // SAFETY: inside the allocation, checked above; the copy is through when `synchronise` returns.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(to, self.address + at, out.len(), self.device.stream) };
        check(result, || "reading from the GPU".into())?;
        self.device.synchronise()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        inside(at, bytes.len(), self.len)?;
        self.device.enter()?;
        let from = bytes.as_ptr().cast::<c_void>();
        // On this stream: a copy on the default stream may still run when a kernel of this one starts.
        // SAFETY: inside the allocation, checked above; the copy is through when `synchronise` returns.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(self.address + at, from, bytes.len(), self.device.stream) };
        check(result, || "writing to the GPU".into())?;
        self.device.synchronise()
    }

    /// Nothing waits: kernels of the stream that come later see the copy.
    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<()> {
        inside(from, len as usize, self.len)?;
        inside(to, len as usize, self.len)?;
        self.device.enter()?;
        let (from, to, stream) = (self.address + from, self.address + to, self.device.stream);
        // SAFETY: both ranges are inside the allocation, and on this stream nothing else uses them meanwhile.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, len as usize, stream) };
        check(result, || "copying within the GPU's memory".into())
    }

    /// Once over the bus, then in copies of twice the length.
    fn fill(&mut self, pattern: &[u8]) -> Result<()> {
        let mut done = self.len.min(pattern.len() as u64);
        self.write(0, &pattern[..done as usize])?;
        while 0 < done && done < self.len {
            let count = done.min(self.len - done);
            let (to, stream) = (self.address + done, self.device.stream);
            // SAFETY: both ranges are inside the allocation and do not overlap.
            let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, self.address, count as usize, stream) };
            check(result, || "filling GPU memory".into())?;
            done += count;
        }
        self.device.synchronise()
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

/// Pinned memory of the host.
pub struct Pinned {
    device: Arc<Device>,
    pointer: *mut u8,
    len: usize,
}

// SAFETY: the memory is owned.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeroed memory.
    pub fn zeroed(device: &Arc<Device>, len: usize) -> Result<Pinned> {
        device.enter()?;
        let (mut pointer, len) = (std::ptr::null_mut(), len.max(64));
        // SAFETY: a place for the result; the new memory has `len` bytes.
        unsafe {
            check(sys::cuMemAllocHost_v2(&mut pointer, len), || format!("pinning {len} bytes of memory"))?;
            pointer.cast::<u8>().write_bytes(0, len);
        }
        Ok(Pinned { device: device.clone(), pointer: pointer.cast(), len })
    }

    /// The first byte.
    pub fn pointer(&self) -> *mut c_void {
        self.pointer.cast()
    }

    /// All bytes. No copy from or to the memory is under way: the caller has waited.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: owned, borrowed mutably, initialised.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // After a failed kernel the context's end frees it.
        if self.device.enter().is_ok() {
            // SAFETY: made by `zeroed`, freed once; whoever copied from it has waited, or the driver does.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.device.stream);
                let _ = sys::cuMemFreeHost(self.pointer.cast());
            }
        }
    }
}

/// A point on the stream.
pub struct Event {
    device: Arc<Device>,
    handle: sys::CUevent,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// An event that nothing has recorded; `timed` ones know when they were passed.
    pub fn new(device: &Arc<Device>, timed: bool) -> Result<Event> {
        device.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the result. 2: without timing.
        check(unsafe { sys::cuEventCreate(&mut handle, if timed { 0 } else { 2 }) }, || {
            "making an event".into()
        })?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Marks the stream's end as it is now.
    pub fn record(&self) -> Result<()> {
        // SAFETY: event and stream live.
        check(unsafe { sys::cuEventRecord(self.handle, self.device.stream) }, || "recording an event".into())
    }

    /// The same in a capture: the graph records the event whenever it runs.
    pub fn record_in_graph(&self) -> Result<()> {
        // SAFETY: as above. 1: CU_EVENT_RECORD_EXTERNAL.
        check(unsafe { sys::cuEventRecordWithFlags(self.handle, self.device.stream, 1) }, || {
            "recording an event".into()
        })
    }

    /// Waits until the stream has passed it; at once where nothing has recorded it.
    pub fn wait(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the event lives.
        check(unsafe { sys::cuEventSynchronize(self.handle) }, || self.device.failing())
    }

    /// Seconds from `start` to this; both were recorded and passed.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        let mut ms = 0f32;
        // SAFETY: a place for the result; both events live.
        check(unsafe { sys::cuEventElapsedTime_v2(&mut ms, start.handle, self.handle) }, || {
            "reading the GPU's clock".into()
        })?;
        Ok(f64::from(ms) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: made by `new`, destroyed once.
            unsafe {
                let _ = sys::cuEventDestroy_v2(self.handle);
            }
        }
    }
}
