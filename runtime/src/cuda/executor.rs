//! Launches a plan's kernels, one by one or as a captured pass.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction};
use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Launch, Plan, Step, StepOp, WeightId};

use super::device::{Device, DeviceBlock, Event, Pinned, Running, check};
use super::graph::{Graph, Graphs, PassKey};
use super::lists::ListLayout;
use super::module::Module;
use super::weights;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Executor, Pass};
use crate::memory::Block;
use crate::memory_plan::MemoryPlan;
use crate::model::{Model, ModelId};
use crate::options::GpuOptions;

/// Bytes of the device that stay free for code, lists and the driver's own.
const RESERVE: u64 = 128 << 20;
/// Blocks of a grid in y.
const MOST_Y: u64 = 65535;

/// Runs an artefact's code on a device.
pub struct CudaExecutor {
    model: ModelId,
    // Fields are dropped in this order: graphs before what their kernels address, all before the device.
    graphs: Graphs,
    timing: Option<Timing>,
    lists: Lists,
    tokens: Tokens,
    launcher: Launcher,
    _weights: DeviceBlock,
    addresses: Vec<u64>,
    capture: bool,
    _module: Module,
    device: Arc<Device>,
}

impl CudaExecutor {
    /// Opens the device, loads the code and copies the weights. `progress` gets the bytes copied and all bytes,
    /// and ends it where it returns false.
    ///
    /// Errors: no driver, no such device, too little memory for all that `memory` says, code that the driver
    /// does not take, `Cancelled`.
    pub fn new(
        model: &Model,
        memory: &MemoryPlan,
        options: &GpuOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<CudaExecutor> {
        model.check_runnable()?;
        let plan = model.plan();
        let device = Device::open()?;
        memory.check_against(plan, device.free_bytes()?.saturating_sub(RESERVE), " on the GPU")?;
        let module = Module::of(&device, model, options.module_cache.as_deref())?;
        module.check(plan)?;
        let launcher = Launcher::new(&device, &module, plan)?;
        let lists = Lists::new(&device, plan)?;
        let (weights, addresses) = weights::copy(&device, model, progress)?;
        Ok(CudaExecutor {
            model: model.id(),
            graphs: Graphs::default(),
            timing: None,
            lists,
            tokens: Tokens::new(&device, plan)?,
            launcher,
            _weights: weights,
            addresses,
            capture: options.graphs,
            _module: module,
            device,
        })
    }

    /// Puts one step on the stream; the first of a pass copies its lists before.
    fn run_one(
        &mut self,
        index: usize,
        step: &Step,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()> {
        if let Some(used) = self.lists.pending.take() {
            self.lists.copy(&self.device, used)?;
            self.lists.copied.record()?;
            self.device.mark(0)?;
        }
        if index == 0 {
            self.device.set_running(Running::Steps(self.launcher.names.clone()));
        }
        self.launcher.launch(step, context, operands, self.lists.block.address)?;
        self.device.mark(index as u32 + 1)
    }

    /// Puts a whole pass on the stream: the lists' copy, then every step, between its events where it is timed.
    fn record(&mut self, pass: &Pass<'_>, copied: u64, timed: bool) -> Result<()> {
        self.lists.copy(&self.device, copied)?;
        let timing = self.timing.as_ref().filter(|_| timed);
        for (index, step) in pass.plan.steps.iter().enumerate() {
            let events = timing.map(|timing| &timing.events[index]);
            events.map_or(Ok(()), |(start, _)| start.record_in_graph())?;
            self.launcher.launch(step, pass.context, &pass.operands[index], self.lists.block.address)?;
            events.map_or(Ok(()), |(_, end)| end.record_in_graph())?;
        }
        match pass.plan.steps.iter().position(|step| matches!(step.op, StepOp::Sample { .. })) {
            Some(index) if !pass.context.sampling.is_null() => {
                self.tokens.copy(&self.device, &pass.operands[index], pass.context.outputs)
            }
            _ => Ok(()),
        }
    }

    /// Captures a pass that is `timed` or not.
    fn graph(&mut self, pass: &Pass<'_>, copied: u64, timed: bool) -> Result<Graph> {
        let device = self.device.clone();
        Graph::capture(&device, || self.record(pass, copied, timed))
    }

    /// Runs the pass as a graph, which is captured when there is none of its kind yet.
    /// `false` where the device has no memory for one more graph: then passes are launched step by step from now on.
    fn replay(&mut self, pass: &Pass<'_>, copied: u64) -> Result<bool> {
        let c = pass.context;
        let samples = !c.sampling.is_null();
        let key = PassKey { tokens: c.tokens, outputs: c.outputs, copied, samples };
        if self.graphs.get(&key).is_none() {
            match self.graph(pass, copied, false) {
                Ok(graph) => self.graphs.insert(key, graph),
                Err(error) if error.kind == ErrorKind::Resource => {
                    self.graphs = Graphs::default();
                    self.capture = false;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(graph) = self.graphs.get(&key) {
            graph.launch()?;
        }
        self.lists.copied.record()?;
        self.tokens.fresh = samples && pass.plan.sampled.is_some();
        Ok(true)
    }

    /// Runs the pass as a graph of its own, with events around each step.
    fn run_timed(&mut self, pass: &Pass<'_>, copied: u64) -> Result<bool> {
        let graph = self.graph(pass, copied, true)?;
        graph.launch()?;
        self.device.synchronise()?;
        if let Some(timing) = &mut self.timing {
            for ((start, end), sum) in timing.events.iter().zip(&mut timing.seconds) {
                *sum += end.seconds_since(start)?;
            }
        }
        Ok(true)
    }
}

// SAFETY: blocks are the device's allocations, weights' addresses those of its copies; kernels touch their operands,
// lists and scratch alone, which is what the compiler makes and the plan's verifier assumes.
unsafe impl Executor for CudaExecutor {
    fn model(&self) -> Option<ModelId> {
        Some(self.model)
    }

    unsafe fn run(
        &mut self,
        _plan: &Plan,
        index: usize,
        step: &Step,
        _spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()> {
        self.device.enter()?;
        self.run_one(index, step, context, operands).map_err(|error| self.device.explain(error))
    }

    /// Takes passes in which every sequence has one row and gives logits, and any pass that is timed.
    unsafe fn run_all(&mut self, pass: &Pass<'_>) -> Result<bool> {
        let c = pass.context;
        let decode = c.tokens == c.batch && c.outputs == c.tokens;
        let Some(used) = self.lists.pending.filter(|_| self.timing.is_some() || (self.capture && decode))
        else {
            return Ok(false);
        };
        self.device.enter()?;
        self.lists.pending = None;
        self.device.set_running(Running::Graph(c.tokens));
        let copied = self.lists.layout.copied(used);
        let run = if self.timing.is_some() { Self::run_timed } else { Self::replay };
        let ran = run(self, pass, copied).map_err(|error| self.device.explain(error))?;
        if !ran {
            self.lists.pending = Some(used);
        }
        Ok(ran)
    }

    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(self.device.zeroed(bytes)?))
    }

    fn weight(&self, _model: &Model, id: WeightId) -> Result<*mut u8> {
        let address = self.addresses.get(id.index());
        address.map(|address| *address as *mut u8).ok_or_else(|| crate::model::no_weight(id))
    }

    fn sampled(&mut self, rows: usize) -> Result<Option<Vec<i32>>> {
        if !self.tokens.fresh {
            return Ok(None);
        }
        self.device.synchronise()?;
        Ok(Some(self.tokens.read(rows)))
    }

    /// Writes context and lists to pinned memory, from where the first step copies them.
    unsafe fn begin(&mut self, context: &StepContext) -> Result<()> {
        self.tokens.fresh = false;
        // SAFETY: passed on from the caller.
        unsafe { self.lists.take(context) }
    }

    fn synchronise(&mut self) -> Result<()> {
        self.device.synchronise()
    }

    fn set_timing(&mut self, on: bool) -> Result<bool> {
        self.timing = if on { Some(Timing::new(&self.device, self.launcher.names.len())?) } else { None };
        Ok(true)
    }

    fn copy_bandwidth(&mut self) -> Result<Option<f64>> {
        super::limits::copy_bandwidth(&self.device).map(Some)
    }

    fn take_times(&mut self) -> Vec<f64> {
        let steps = |timing: &mut Timing| {
            let zeros = vec![0.0; timing.seconds.len()];
            std::mem::replace(&mut timing.seconds, zeros)
        };
        self.timing.as_mut().map(steps).unwrap_or_default()
    }
}

/// The device's clock around each step of a plan.
struct Timing {
    events: Vec<(Event, Event)>,
    seconds: Vec<f64>,
}

impl Timing {
    fn new(device: &Arc<Device>, steps: usize) -> Result<Timing> {
        let pair = |_| Ok((Event::new(device, true)?, Event::new(device, true)?));
        Ok(Timing { events: (0..steps).map(pair).collect::<Result<_>>()?, seconds: vec![0.0; steps] })
    }
}

/// A pass's context and lists, on their way to the device.
struct Lists {
    layout: ListLayout,
    pinned: Pinned,
    block: DeviceBlock,
    /// Passed when the last copy has left the pinned memory.
    copied: Event,
    /// Bytes that wait in pinned memory for the pass's first step.
    pending: Option<u64>,
}

impl Lists {
    fn new(device: &Arc<Device>, plan: &Plan) -> Result<Lists> {
        let layout = ListLayout::new(&plan.model);
        Ok(Lists {
            layout,
            pinned: Pinned::zeroed(device, layout.bytes as usize)?,
            block: device.zeroed(layout.bytes)?,
            copied: Event::new(device, false)?,
            pending: None,
        })
    }

    /// Writes a pass's context and lists to pinned memory.
    ///
    /// # Safety
    /// As for [`Executor::begin`].
    unsafe fn take(&mut self, context: &StepContext) -> Result<()> {
        self.copied.wait()?;
        let (base, layout) = (self.block.address, self.layout);
        // SAFETY: the caller's promise; the pinned memory has `layout.bytes`.
        self.pending = Some(unsafe { layout.write(context, base, self.pinned.bytes()) });
        Ok(())
    }

    /// Puts the copy of the first `bytes` on the stream.
    fn copy(&self, device: &Device, bytes: u64) -> Result<()> {
        let from = self.pinned.pointer();
        // SAFETY: both have `layout.bytes`; the pinned memory is not written before `copied` has passed.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(self.block.address, from, bytes as usize, device.stream) };
        check(result, || "copying a pass's lists".into())
    }
}

/// The sampled tokens of a captured pass, as its end copies them to the host.
struct Tokens {
    pinned: Pinned,
    /// Bytes of a row.
    stride: usize,
    /// Whether they are those of the pass in hand.
    fresh: bool,
}

impl Tokens {
    fn new(device: &Arc<Device>, plan: &Plan) -> Result<Tokens> {
        let buffer = plan.sampled.map(|id| &plan.buffers[id.index()]);
        let (bytes, stride) = buffer.map_or((0, 4), |buffer| (buffer.bytes(), buffer.stride() * 4));
        Ok(Tokens { pinned: Pinned::zeroed(device, bytes as usize)?, stride: stride as usize, fresh: false })
    }

    /// Puts the copy of `rows` tokens on the stream; `operands` are the sampling step's, the tokens last.
    fn copy(&self, device: &Device, operands: &[*mut u8], rows: u64) -> Result<()> {
        let Some(from) = operands.last() else { return Ok(()) };
        let (to, bytes) = (self.pinned.pointer(), rows as usize * self.stride);
        // SAFETY: both have the rows of the plan's buffer; the host reads after it has waited.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, *from as u64, bytes, device.stream) };
        check(result, || "copying the sampled tokens".into())
    }

    fn read(&mut self, rows: usize) -> Vec<i32> {
        let row = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        self.pinned.bytes().chunks_exact(self.stride).take(rows).map(row).collect()
    }
}

/// The kernels' functions, and room for their parameters.
struct Launcher {
    scratch: DeviceBlock,
    kernels: Vec<Vec<(CUfunction, Launch)>>,
    /// Each step as an error names it.
    names: Arc<[String]>,
    values: Vec<u64>,
    params: Vec<*mut c_void>,
    device: Arc<Device>,
}

// SAFETY: the functions are the driver's handles; `params` points into `values` during a launch alone.
unsafe impl Send for Launcher {}

impl Launcher {
    fn new(device: &Arc<Device>, module: &Module, plan: &Plan) -> Result<Launcher> {
        if let Some(kernel) = plan.kernels.iter().find(|kernel| kernel.launches().is_empty()) {
            let message = format!("the artefact does not say how kernel `{}` is launched", kernel.name);
            return Err(Error::new(ErrorKind::BadArtefact, message).help("compile the model again"));
        }
        let kernels = plan.kernels.iter().map(|kernel| {
            kernel.launches().iter().map(|launch| Ok((module.function(launch)?, launch.clone()))).collect()
        });
        let name = |(index, step): (usize, &Step)| {
            format!("step {index}, {}, of kernel `{}`,", step.name, plan.kernels[step.kernel.index()].name)
        };
        let operands = plan.steps.iter().map(|step| step.operands.len()).max().unwrap_or(0);
        let scratch = plan.kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0);
        Ok(Launcher {
            scratch: device.zeroed(scratch)?,
            kernels: kernels.collect::<Result<_>>()?,
            names: plan.steps.iter().enumerate().map(name).collect(),
            values: Vec::with_capacity(operands + 2),
            params: Vec::with_capacity(operands + 2),
            device: device.clone(),
        })
    }

    /// Puts the launches of one step on the stream. `lists`: the device address of the context.
    fn launch(&mut self, step: &Step, context: &StepContext, operands: &[*mut u8], lists: u64) -> Result<()> {
        if matches!(step.op, StepOp::Sample { .. }) && context.sampling.is_null() {
            return Ok(());
        }
        self.values.clear();
        self.values.push(lists);
        self.values.extend(operands.iter().map(|address| *address as u64));
        self.values.push(self.scratch.address);
        self.params.clear();
        self.params.extend(self.values.iter_mut().map(|value| std::ptr::from_mut(value).cast::<c_void>()));
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
            let mut overlap = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: x as u32,
                gridDimY: y as u32,
                gridDimZ: 1,
                blockDimX: launch.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: launch.shared_bytes,
                hStream: self.device.stream,
                attrs: &mut overlap,
                numAttrs: u32::from(launch.overlaps),
            };
            // SAFETY: the function takes these addresses, by the plan; they outlive it on the stream, and the
            // driver copies configuration and parameters before it returns.
            let result = unsafe {
                sys::cuLaunchKernelEx(&config, *function, self.params.as_mut_ptr(), std::ptr::null_mut())
            };
            check(result, || format!("launching `{}` for {}", launch.entry, step.name))?;
        }
        Ok(())
    }
}
