//! Launches a plan's kernels.

use std::ffi::{CString, c_void};
use std::mem::size_of;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUjit_option, CUmodule};
use hyc_ir::abi::StepContext;
use hyc_ir::plan::{KernelSpec, Launch, Plan, Step, WeightId};

use super::device::{Device, DeviceBlock, check};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Executor;
use crate::memory::{Block, MemoryPlan};
use crate::model::Model;

/// Blocks of a grid in y.
const MOST_Y: u64 = 65535;
/// Bytes that weights are copied in.
const PIECE: usize = 32 << 20;

/// Runs an artefact's PTX on a device.
pub struct CudaExecutor {
    // Fields are dropped in this order: functions' memory before the module, all before the device.
    lists: DeviceBlock,
    scratch: DeviceBlock,
    _weights: DeviceBlock,
    addresses: Vec<u64>,
    kernels: Vec<Vec<(CUfunction, Launch)>>,
    _module: Module,
    device: Arc<Device>,
}

// SAFETY: the handles are the driver's, which any thread may use with the context current.
unsafe impl Send for CudaExecutor {}

struct Module {
    handle: CUmodule,
    device: Arc<Device>,
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: loaded by `load`, unloaded once.
            unsafe {
                let _ = sys::cuModuleUnload(self.handle);
            }
        }
    }
}

impl CudaExecutor {
    /// Opens the device, loads the code and copies the weights. Errors: no driver, no such device, too little
    /// memory for all that `memory` says, code that the driver does not take.
    pub fn new(model: &Model, memory: &MemoryPlan) -> Result<CudaExecutor> {
        let plan = model.plan();
        let Some(ptx) = model.ptx() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} has no code", model.path().display()),
            )
            .help("compile it without `--plan-only`"));
        };
        let device = Device::open()?;
        memory.check_against(plan, memory.total(), device.free_bytes()?)?;
        let module = load(&device, ptx)?;
        let kernels = plan.kernels.iter().map(|kernel| {
            kernel.launches.iter().map(|launch| Ok((function(&module, launch)?, launch.clone()))).collect()
        });
        let kernels = kernels.collect::<Result<Vec<Vec<_>>>>()?;
        let (weights, addresses) = copy_weights(&device, model)?;
        let scratch = plan.kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0);
        Ok(CudaExecutor {
            lists: device.zeroed(lists_bytes(plan))?,
            scratch: device.zeroed(scratch)?,
            _weights: weights,
            addresses,
            kernels,
            _module: module,
            device,
        })
    }
}

/// Bytes of a step's context with all its lists at their longest.
fn lists_bytes(plan: &Plan) -> u64 {
    let m = &plan.model;
    let lists =
        [m.chunk, m.chunk, m.chunk, m.max_batch * m.max_context.div_ceil(m.page), m.max_batch, m.max_outputs];
    256 + lists.iter().map(|n| (4 * n).next_multiple_of(16)).sum::<u64>()
}

fn load(device: &Arc<Device>, ptx: &str) -> Result<Module> {
    device.enter()?;
    let text = CString::new(ptx)
        .map_err(|_| Error::new(ErrorKind::BadArtefact, "the artefact's PTX holds a NUL byte"))?;
    let mut log = vec![0u8; 8192];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut handle = std::ptr::null_mut();
    // SAFETY: the text ends in NUL; options and their values live through the call and are two each.
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &mut handle,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    check(result, || {
        let end = log.iter().position(|b| *b == 0).unwrap_or(0);
        format!("the driver does not take the artefact's code: {}", String::from_utf8_lossy(&log[..end]))
    })?;
    Ok(Module { handle, device: device.clone() })
}

fn function(module: &Module, launch: &Launch) -> Result<CUfunction> {
    let missing = || format!("the artefact's code has no function `{}`", launch.entry);
    let name =
        CString::new(launch.entry.as_str()).map_err(|_| Error::new(ErrorKind::BadArtefact, missing()))?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: the module is loaded, the name ends in NUL.
    check(unsafe { sys::cuModuleGetFunction(&mut handle, module.handle, name.as_ptr()) }, missing)?;
    if launch.shared_bytes > 48 << 10 {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to the loaded module.
        let result = unsafe { sys::cuFuncSetAttribute(handle, attribute, launch.shared_bytes as i32) };
        check(result, || format!("giving `{}` its shared memory", launch.entry))?;
    }
    Ok(handle)
}

/// Copies all weights into one allocation, through pinned memory; returns their addresses.
fn copy_weights(device: &Arc<Device>, model: &Model) -> Result<(DeviceBlock, Vec<u64>)> {
    let list = &model.plan().weights;
    let sizes = list.iter().map(|weight| weight.bytes().next_multiple_of(256));
    let all = device.zeroed(sizes.clone().sum())?;
    let mut next = all.address;
    let mut addresses = Vec::with_capacity(list.len());
    for size in sizes {
        addresses.push(next);
        next += size;
    }
    let mut staging = Staging::new(device)?;
    for (i, address) in addresses.iter().enumerate() {
        let bytes = model.weight(WeightId(i as u32));
        for (piece, at) in bytes.chunks(PIECE).zip((*address..).step_by(PIECE)) {
            staging.copy(piece, at)?;
        }
    }
    device.synchronise(|| "copying the weights".into())?;
    Ok((all, addresses))
}

/// Two pinned buffers that take turns.
struct Staging<'d> {
    device: &'d Arc<Device>,
    buffers: [*mut c_void; 2],
    events: [sys::CUevent; 2],
    turn: usize,
}

impl<'d> Staging<'d> {
    fn new(device: &'d Arc<Device>) -> Result<Staging<'d>> {
        device.enter()?;
        let (buffers, events) = ([std::ptr::null_mut(); 2], [std::ptr::null_mut(); 2]);
        let mut staging = Staging { device, buffers, events, turn: 0 };
        for i in 0..2 {
            // SAFETY: places for one buffer and one event each; `drop` frees what was made.
            unsafe {
                let what = || "allocating pinned memory".to_string();
                check(sys::cuMemAllocHost_v2(&mut staging.buffers[i], PIECE), what)?;
                check(sys::cuEventCreate(&mut staging.events[i], 2), || "making an event".into())?;
            }
        }
        Ok(staging)
    }

    fn copy(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        let i = self.turn;
        self.turn = 1 - i;
        // SAFETY: `bytes` is at most a buffer long; the event says that the buffer's last copy is through.
        unsafe {
            check(sys::cuEventSynchronize(self.events[i]), || "copying the weights".into())?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.buffers[i].cast(), bytes.len());
            let result = sys::cuMemcpyHtoDAsync_v2(to, self.buffers[i], bytes.len(), self.device.stream);
            check(result, || "copying the weights".into())?;
            check(sys::cuEventRecord(self.events[i], self.device.stream), || "copying the weights".into())
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let _ = self.device.synchronise(String::new);
        for (buffer, event) in self.buffers.iter().zip(&self.events) {
            // SAFETY: made by `new`, freed once; no copy is under way.
            unsafe {
                if !buffer.is_null() {
                    let _ = sys::cuMemFreeHost(*buffer);
                }
                if !event.is_null() {
                    let _ = sys::cuEventDestroy_v2(*event);
                }
            }
        }
    }
}

impl Executor for CudaExecutor {
    fn run(
        &mut self,
        _plan: &Plan,
        _index: usize,
        step: &Step,
        _spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()> {
        self.device.enter()?;
        let mut values: Vec<u64> = Vec::with_capacity(operands.len() + 2);
        values.push(self.lists.address);
        values.extend(operands.iter().map(|address| *address as u64));
        values.push(self.scratch.address);
        let mut params: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        for (function, launch) in &self.kernels[step.kernel.index()] {
            if !launch.applies(context.tokens, context.outputs) {
                continue;
            }
            let [x, y] = launch.grid.map(|extent| extent.blocks(context.tokens, context.outputs));
            if x == 0 || y == 0 {
                continue;
            }
            if y > MOST_Y || x > i32::MAX as u64 {
                let message = format!("{}: a grid of {x} x {y} blocks is more than a GPU takes", step.name);
                return Err(
                    Error::new(ErrorKind::Resource, message).help("compile with a smaller [target] chunk")
                );
            }
            // SAFETY: the function takes these addresses, by the plan; they outlive it on the stream.
            let result = unsafe {
                sys::cuLaunchKernel(
                    *function,
                    x as u32,
                    y as u32,
                    1,
                    launch.threads,
                    1,
                    1,
                    launch.shared_bytes,
                    self.device.stream,
                    params.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            check(result, || format!("launching `{}` for {}", launch.entry, step.name))?;
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }

    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(self.device.zeroed(bytes)?))
    }

    fn weight(&self, _model: &Model, id: WeightId) -> *mut u8 {
        self.addresses[id.index()] as *mut u8
    }

    /// Copies the lists to the device, behind a context that points there.
    fn begin(&mut self, context: &StepContext) -> Result<()> {
        let mut bytes = vec![0u8; size_of::<StepContext>().next_multiple_of(256)];
        let base = self.lists.address;
        let mut put = |list: *const i32, count: u64| -> *const i32 {
            let at = bytes.len();
            // SAFETY: the engine keeps lists of these lengths while a step runs.
            let words = unsafe { std::slice::from_raw_parts(list, count as usize) };
            words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            (base + at as u64) as *const i32
        };
        let c = *context;
        let moved = StepContext {
            token_ids: put(c.token_ids, c.tokens),
            positions: put(c.positions, c.tokens),
            sequence: put(c.sequence, c.tokens),
            page_table: put(c.page_table, c.batch * c.max_pages),
            ring_slot: put(c.ring_slot, c.batch),
            out_rows: put(c.out_rows, c.outputs),
            ..c
        };
        // SAFETY: a plain struct of integers and addresses, copied as its bytes.
        let head = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&moved).cast::<u8>(), size_of::<StepContext>())
        };
        bytes[..head.len()].copy_from_slice(head);
        self.lists.write(0, &bytes)
    }

    fn synchronise(&mut self) -> Result<()> {
        self.device.synchronise(|| "a kernel of this step failed".into())
    }
}
