//! The driver: just enough to run one kernel on memory that is made for it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::mem::size_of;

use cudarc::driver::sys::{self, CUfunction, CUmodule, CUresult, CUstream};
use hyc_kernel_tests::manifest::Kernel;
use hyc_kernel_tests::{Batch, Memory};
use hyc_plan::abi::{COUNTER_BYTES, StepContext};
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

impl Fault {
    /// The same, of what.
    fn of(self, what: &str) -> Fault {
        Fault { message: format!("{what}{}", self.message), ..self }
    }
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

/// What stands in an operand until the launch before the kernel, which overlaps with it, writes what the kernel is to read.
pub struct Decoy {
    /// The operand's number.
    pub operand: usize,
    pub memory: Memory,
}

/// A launch that lets the next one begin at once, waits some 50 us, and then copies words: what a guess that a kernel makes before
/// its inputs are there has to fear.
const LATE: &CStr = c"
.version 8.0
.target sm_90
.address_size 64
.visible .entry late(.param .u64 from, .param .u64 to, .param .u32 words) {
    .reg .pred %p;
    .reg .b32 %i, %n, %step, %word;
    .reg .b64 %from, %to, %at, %begin, %now;
    griddepcontrol.launch_dependents;
    mov.u64 %begin, %globaltimer;
wait:
    nanosleep.u32 1000;
    mov.u64 %now, %globaltimer;
    sub.u64 %now, %now, %begin;
    setp.lt.u64 %p, %now, 50000;
    @%p bra wait;
    ld.param.u64 %from, [from];
    ld.param.u64 %to, [to];
    ld.param.u32 %n, [words];
    mov.u32 %i, %tid.x;
    mov.u32 %step, %ntid.x;
copy:
    setp.ge.u32 %p, %i, %n;
    @%p bra done;
    mul.wide.u32 %at, %i, 4;
    add.u64 %begin, %from, %at;
    ld.global.b32 %word, [%begin];
    add.u64 %begin, %to, %at;
    st.global.b32 [%begin], %word;
    add.u32 %i, %i, %step;
    bra copy;
done:
    ret;
}
";
/// Threads of it.
const LATE_THREADS: u32 = 256;

/// The first GPU.
pub struct Gpu {
    context: sys::CUcontext,
    stream: CUstream,
    modules: HashMap<usize, CUmodule>,
    /// The function of [`LATE`], once it is loaded.
    late: Option<CUfunction>,
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
        buffer.write(bytes)?;
        Ok(buffer)
    }

    /// Writes all of it anew.
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len().min(self.len);
        // SAFETY: both are that long at least.
        check(
            unsafe { sys::cuMemcpyHtoD_v2(self.address, bytes.as_ptr().cast::<c_void>(), len) },
            "copying to the GPU",
        )
    }

    fn read(&self) -> Result<Memory> {
        self.read_first(self.len)
    }

    fn read_first(&self, len: usize) -> Result<Memory> {
        let len = len.min(self.len);
        let mut memory = Memory::filled(len, 0);
        let to = memory.bytes_mut().as_mut_ptr().cast::<c_void>();
        // SAFETY: both are `len` bytes long at least.
        check(unsafe { sys::cuMemcpyDtoH_v2(to, self.address, len) }, "copying from the GPU")?;
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
        Ok(Gpu { context, stream, modules: HashMap::new(), late: None })
    }

    /// Runs a variant of a kernel and returns all operands as it left them. Scratch is filled with NaN unless
    /// `leave_scratch`. Where there are decoys, launches overlap as the runtime's do.
    pub fn run(
        &mut self,
        Variant { index, kernel, name, image }: &Variant<'_>,
        batch: &Batch,
        (before, decoys): (&[Memory], &[Decoy]),
        leave_scratch: bool,
    ) -> Result<Vec<Memory>> {
        // SAFETY: the context is retained while this process lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "entering the context")?;
        let module = self.module(*index, image)?;
        let operands = before.iter().map(|memory| Buffer::of(memory.bytes())).collect::<Result<Vec<_>>>()?;
        let scratch = Buffer::filled(kernel.scratch_bytes as usize, (!leave_scratch).then_some(0xff))?;
        let counters = COUNTER_BYTES.min(kernel.scratch_bytes) as usize;
        scratch.write(&vec![0; counters])?;
        let lists = lists(batch)?;
        let mut values = vec![lists.address];
        values.extend(operands.iter().map(|buffer| buffer.address));
        values.push(scratch.address);
        // What the late launch copies from lives until the stream is through.
        let late = match decoys {
            [] => None,
            [decoy] => {
                let (from, to) = (Buffer::of(before[decoy.operand].bytes())?, &operands[decoy.operand]);
                to.write(decoy.memory.bytes())?;
                self.launch_late(from.address, to)?;
                Some(from)
            }
            _ => {
                let message = "two choices that come late: the second launch would wait for the first".into();
                return Err(Fault { message, fatal: false });
            }
        };
        self.launch(module, (kernel, name), batch, (&mut values, late.is_some()))?;
        // SAFETY: the stream lives as long as the process.
        let result = unsafe { sys::cuStreamSynchronize(self.stream) };
        check(result, "running").map_err(|fault| Fault { fatal: true, ..fault })?;
        if scratch.read_first(counters)?.bytes().iter().any(|byte| *byte != 0) {
            return Err(Fault { message: "a counter of scratch is not back to zero".into(), fatal: false });
        }
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
        (values, overlaps): (&mut [u64], bool),
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
            let shape = Shape {
                grid: [x as u32, y as u32],
                threads: launch.threads,
                shared_bytes: launch.shared_bytes,
                overlaps: overlaps && launch.overlaps,
            };
            // The addresses outlive the launch: the caller waits for the stream.
            self.start(function, &shape, &mut params)
                .map_err(|fault| fault.of(&format!("launching {} on {x} x {y} blocks", launch.entry)))?;
        }
        Ok(())
    }

    /// Has what is at `from` copied to `to` while the next launch is running.
    fn launch_late(&mut self, from: u64, to: &Buffer) -> Result<()> {
        let late = match self.late {
            Some(late) => late,
            None => {
                let mut module = std::ptr::null_mut();
                // SAFETY: PTX that ends in NUL.
                check(unsafe { sys::cuModuleLoadData(&mut module, LATE.as_ptr().cast()) }, "loading `late`")?;
                *self.late.insert(function(module, "late", 0)?)
            }
        };
        let (mut from, mut to, mut words) = (from, to.address, (to.len / 4) as u32);
        let params: &mut [*mut c_void] = &mut [
            std::ptr::from_mut(&mut from).cast(),
            std::ptr::from_mut(&mut to).cast(),
            std::ptr::from_mut(&mut words).cast(),
        ];
        let shape = Shape { grid: [1, 1], threads: LATE_THREADS, shared_bytes: 0, overlaps: false };
        self.start(late, &shape, params)
    }

    /// Launches a function that takes these parameters.
    fn start(&self, function: CUfunction, shape: &Shape, params: &mut [*mut c_void]) -> Result<()> {
        let mut overlaps = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: 1,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: self.stream,
            attrs: &mut overlaps,
            numAttrs: u32::from(shape.overlaps),
        };
        // SAFETY: the function takes what the parameters point to, which the driver copies; so it does the attribute.
        check(
            unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()) },
            "",
        )
    }
}

/// How a function is launched.
struct Shape {
    grid: [u32; 2],
    threads: u32,
    shared_bytes: u32,
    overlaps: bool,
}

fn function(module: CUmodule, entry: &str, shared_bytes: u32) -> Result<CUfunction> {
    let name = CString::new(entry).unwrap_or_default();
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is loaded, the name ends in NUL.
    let result = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
    check(result, &format!("finding {entry}"))?;
    if shared_bytes > 0 {
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
