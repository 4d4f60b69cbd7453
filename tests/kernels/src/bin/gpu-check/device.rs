//! The driver: just enough to run one kernel on memory that is made for it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::mem::size_of;

use cudarc::driver::sys::{self, CUfunction, CUmodule, CUresult, CUstream};
use hyc_kernel_tests::manifest::Kernel;
use hyc_kernel_tests::{Batch, Memory};
use hyc_plan::abi::StepContext;
use hyc_plan::sample::{SampleParams, Seen};

/// Blocks of a grid in y.
const MOST_Y: u64 = 65535;
/// Bytes between the lists of a context: indices that lead nowhere.
const BETWEEN: usize = 64;

/// Why a kernel did not run to its end.
pub struct Fault {
    /// What happened.
    pub message: String,
    /// Whether nothing else can run in this process.
    pub fatal: bool,
}

type Result<T> = std::result::Result<T, Fault>;

fn check(result: CUresult, what: &str) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver sets `text` to a constant string, or leaves it.
    let text = unsafe {
        let _ = sys::cuGetErrorString(result, &mut text);
        if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
    };
    Err(Fault { message: format!("{what}: {text}"), fatal: false })
}

/// One of a kernel's variants, whose code is `image`.
pub struct Variant<'a> {
    /// The kernel's number.
    pub index: usize,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The variant's name.
    pub name: &'a str,
    /// Its code.
    pub image: &'a [u8],
}

/// The first GPU.
pub struct Gpu {
    context: sys::CUcontext,
    stream: CUstream,
    modules: HashMap<usize, CUmodule>,
}

// SAFETY: the driver's handles may be used from any thread; `run` makes the context current first.
unsafe impl Send for Gpu {}

/// An allocation of exactly `len` bytes, so that a sanitizer sees what is read beside it.
struct Buffer {
    address: u64,
    len: usize,
}

impl Buffer {
    fn filled(len: usize, byte: Option<u8>) -> Result<Buffer> {
        let mut address = 0;
        // SAFETY: a place for the address; what is set lies inside the new allocation.
        unsafe {
            check(sys::cuMemAlloc_v2(&mut address, len.max(4)), "allocating memory of the GPU")?;
            let buffer = Buffer { address, len };
            if let Some(byte) = byte {
                check(sys::cuMemsetD8_v2(address, byte, len.max(4)), "filling memory")?;
            }
            Ok(buffer)
        }
    }

    fn of(bytes: &[u8]) -> Result<Buffer> {
        let buffer = Buffer::filled(bytes.len(), None)?;
        // SAFETY: the allocation is as long as the bytes.
        let result =
            unsafe { sys::cuMemcpyHtoD_v2(buffer.address, bytes.as_ptr().cast::<c_void>(), bytes.len()) };
        check(result, "copying to the GPU")?;
        Ok(buffer)
    }

    fn read(&self) -> Result<Memory> {
        let mut memory = Memory::filled(self.len, 0);
        let to = memory.bytes_mut().as_mut_ptr().cast::<c_void>();
        // SAFETY: both are `len` bytes long.
        check(unsafe { sys::cuMemcpyDtoH_v2(to, self.address, self.len) }, "copying from the GPU")?;
        Ok(memory)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `filled`, freed once.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

impl Gpu {
    /// Opens it.
    pub fn open() -> Result<Gpu> {
        // SAFETY: only looks for the library; later calls are made where it was found.
        if !unsafe { sys::is_culib_present() } {
            return Err(Fault { message: "there is no NVIDIA driver here (libcuda)".into(), fatal: true });
        }
        let (mut device, mut context, mut stream) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: plain calls of the driver with places for their results.
        unsafe {
            check(sys::cuInit(0), "starting the driver")?;
            check(sys::cuDeviceGet(&mut device, 0), "opening the first GPU")?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "opening a context")?;
            check(sys::cuCtxSetCurrent(context), "entering the context")?;
            check(sys::cuStreamCreate(&mut stream, 1), "making a stream")?;
        }
        Ok(Gpu { context, stream, modules: HashMap::new() })
    }

    /// Runs a variant of a kernel and returns all operands as it left them. Scratch is filled with NaN unless
    /// `leave_scratch`.
    pub fn run(
        &mut self,
        Variant { index, kernel, name, image }: &Variant<'_>,
        batch: &Batch,
        before: &[Memory],
        leave_scratch: bool,
    ) -> Result<Vec<Memory>> {
        // SAFETY: the context is retained while this process lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "entering the context")?;
        let module = self.module(*index, image)?;
        let operands = before.iter().map(|memory| Buffer::of(memory.bytes())).collect::<Result<Vec<_>>>()?;
        let scratch = Buffer::filled(kernel.scratch_bytes as usize, (!leave_scratch).then_some(0xff))?;
        let lists = lists(batch)?;
        let mut values = vec![lists.address];
        values.extend(operands.iter().map(|buffer| buffer.address));
        values.push(scratch.address);
        self.launch(module, (kernel, name), batch, &mut values)?;
        // SAFETY: the stream lives as long as the process.
        let result = unsafe { sys::cuStreamSynchronize(self.stream) };
        check(result, "running").map_err(|fault| Fault { fatal: true, ..fault })?;
        operands.iter().map(Buffer::read).collect()
    }

    fn module(&mut self, index: usize, image: &[u8]) -> Result<CUmodule> {
        if let Some(module) = self.modules.get(&index) {
            return Ok(*module);
        }
        let mut module = std::ptr::null_mut();
        // PTX ends in NUL; behind a cubin it does no harm.
        let image = [image, &[0]].concat();
        // SAFETY: a whole image, that lives through the call.
        check(unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) }, "loading the code")?;
        self.modules.insert(index, module);
        Ok(module)
    }

    fn launch(
        &self,
        module: CUmodule,
        (kernel, variant): (&Kernel, &str),
        batch: &Batch,
        values: &mut [u64],
    ) -> Result<()> {
        let mut params: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let (tokens, outputs) = (batch.rows(), batch.outputs());
        for launch in kernel.launches.iter().filter(|launch| launch.is_of(variant)) {
            let [x, y] = launch.grid.map(|extent| extent.blocks(tokens, outputs));
            if x == 0 || y == 0 {
                continue;
            }
            if y > MOST_Y || x > i32::MAX as u64 {
                let message = format!("{}: a grid of {x} x {y} blocks", launch.entry);
                return Err(Fault { message, fatal: false });
            }
            let function = function(module, &launch.entry, launch.shared_bytes)?;
            // SAFETY: the function takes these addresses, which outlive it: the caller waits for the stream.
            let result = unsafe {
                sys::cuLaunchKernel(
                    function,
                    x as u32,
                    y as u32,
                    1,
                    launch.threads,
                    1,
                    1,
                    launch.shared_bytes,
                    self.stream,
                    params.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            check(result, &format!("launching {} on {x} x {y} blocks", launch.entry))?;
        }
        Ok(())
    }
}

fn function(module: CUmodule, entry: &str, shared_bytes: u32) -> Result<CUfunction> {
    let name = CString::new(entry).unwrap_or_default();
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is loaded, the name ends in NUL.
    let result = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
    check(result, &format!("finding {entry}"))?;
    if shared_bytes > 48 << 10 {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to the loaded module.
        let result = unsafe { sys::cuFuncSetAttribute(function, attribute, shared_bytes as i32) };
        check(result, &format!("giving {entry} {shared_bytes} bytes of shared memory"))?;
    }
    Ok(function)
}

/// The context with its lists behind it.
fn lists(batch: &Batch) -> Result<Buffer> {
    let lists = batch.lists();
    let mut bytes = vec![0u8; size_of::<StepContext>().next_multiple_of(256)];
    let places = lists.map(|list| {
        let at = bytes.len();
        bytes.extend(list.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize((bytes.len() + BETWEEN).next_multiple_of(16), 0x7f);
        at
    });
    let sampling = bytes.len();
    for p in &batch.sampling {
        let words = [p.scale.to_bits(), p.top_k, p.top_p.to_bits(), p.least];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(p.draw.to_le_bytes());
        let penalties = [p.repeat, p.presence, p.frequency].map(f32::to_bits);
        let words = [&[p.first_seen, p.seen][..], &penalties, &[p.unused]].concat();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    let seen = bytes.len();
    bytes.extend(batch.seen.iter().flat_map(|s| [s.id, s.generated]).flat_map(u32::to_le_bytes));
    let buffer = Buffer::of(&bytes)?;
    let at = |at: usize| buffer.address + at as u64;
    let lists = places.map(|place| at(place) as *const i32);
    let context = batch.context_at(lists, at(sampling) as *const SampleParams, at(seen) as *const Seen);
    let head = std::ptr::from_ref(&context).cast::<c_void>();
    // SAFETY: a plain struct of integers and addresses, copied as its bytes to the buffer's front.
    let result = unsafe { sys::cuMemcpyHtoD_v2(buffer.address, head, size_of::<StepContext>()) };
    check(result, "copying to the GPU")?;
    Ok(buffer)
}
