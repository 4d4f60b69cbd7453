//! Runs a plan's kernels on a GPU, one by one or as a captured pass.

use std::sync::Arc;

use cudarc::driver::sys;
use hyc_plan::abi::StepContext;
use hyc_plan::{KernelId, Plan, StepOp, WeightId};

use super::device::{Device, DeviceBlock, Event, Pinned, Running, check};
use super::graph::{Graph, Graphs, PassKey};
use super::launcher::Launcher;
use super::lists::ListLayout;
use super::module::Module;
use super::slices::Slices;
use super::weights;
use crate::error::{ErrorKind, Result};
use crate::memory::Block;
use crate::memory_plan::MemoryPlan;
use crate::model::{Model, no_weight};
use crate::options::GpuOptions;
use crate::runner::contract::{Clock, LaunchTimes, Runner};
use crate::runner::memory::{DeviceMemory, Memory};

/// Bytes of the device that stay free for code, lists and the driver's own.
const RESERVE: u64 = 128 << 20;
/// A whole pass.
struct Pass<'p> {
    plan: &'p Plan,
    context: &'p StepContext,
    /// Of each step.
    operands: &'p [Vec<*mut u8>],
}

/// Runs an artefact's code on a device.
pub struct CudaRunner {
    // Fields are dropped in this order: graphs before what their kernels address, all before the device.
    graphs: Graphs,
    timing: Option<Timing>,
    lists: Lists,
    tokens: Tokens,
    launcher: Launcher,
    /// `None`: each step is launched by itself.
    slices: Option<Slices>,
    memory: Memory,
    replaced: Vec<Replaced>,
    capture: bool,
    _module: Module,
    device: Arc<Device>,
    model: Arc<Model>,
}

impl CudaRunner {
    /// Opens the device, loads the code, copies the weights and allocates arena and caches. `progress` gets the bytes copied and all bytes,
    /// and ends it where it returns false.
    ///
    /// Errors: no driver, no such device, too little memory for all that `memory` says, code that the driver
    /// does not take, `Cancelled`.
    pub fn new(
        model: &Arc<Model>,
        memory: &MemoryPlan,
        options: &GpuOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<CudaRunner> {
        model.check_runnable()?;
        let plan = model.plan();
        let device = Device::open()?;
        memory.check_against(plan, device.free_bytes()?.saturating_sub(RESERVE), " on the GPU")?;
        let module = Module::of(&device, model)?;
        module.check(plan)?;
        let launcher = Launcher::new(&device, &module, plan)?;
        let lists = Lists::new(&device, plan)?;
        let slices = match options.slices {
            true => Some(Slices::new(&device, &module, plan, options.patience)?),
            false => None,
        };
        let (weights, addresses) = weights::copy(&device, model, progress)?;
        let place = CudaMemory { device: Arc::clone(&device), _weights: weights, addresses };
        Ok(CudaRunner {
            graphs: Graphs::default(),
            timing: None,
            lists,
            tokens: Tokens::new(&device, plan)?,
            launcher,
            slices,
            memory: Memory::place(model, memory.room, Box::new(place))?,
            replaced: Vec::new(),
            capture: options.graphs,
            _module: module,
            device,
            model: Arc::clone(model),
        })
    }

    /// Puts one step on the stream; the first of a pass copies its lists before.
    fn run_one(&mut self, index: usize, context: &StepContext) -> Result<()> {
        if let Some(used) = self.lists.pending.take() {
            self.lists.copy(&self.device, used)?;
            self.lists.copied.record()?;
            self.device.mark(0)?;
        }
        if index == 0 {
            self.device.set_running(Running::Steps(self.launcher.names.clone()));
        }
        let (step, operands) = (&self.model.plan().steps[index], &self.memory.operands()[index]);
        self.launcher.launch((index, step), context, operands, self.lists.block.address)?;
        self.replace_results(index, operands)?;
        self.device.mark(index as u32 + 1)
    }

    /// Puts the copies on the stream that replace what a step has written.
    fn replace_results(&self, index: usize, operands: &[*mut u8]) -> Result<()> {
        for replaced in &self.replaced {
            for (_, operand) in replaced.places.iter().filter(|(step, _)| *step == index) {
                let (to, from, stream) =
                    (operands[*operand] as u64, replaced.with.address, self.device.stream);
                // SAFETY: who replaced them has promised that the operand has as many bytes; so has the block.
                let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, replaced.bytes as usize, stream) };
                check(result, || "replacing a step's results".into())?;
            }
        }
        Ok(())
    }

    /// Puts a whole pass on the stream: the lists' copy, then every step, between its events where it is timed.
    fn record(&mut self, pass: &Pass<'_>, copied: u64, timed: bool) -> Result<()> {
        self.lists.copy(&self.device, copied)?;
        let timing = self.timing.as_ref().filter(|_| timed);
        // What is timed is each step.
        let slices = self.slices.as_ref().filter(|_| !timed);
        slices.map_or(Ok(()), |slices| slices.begin(pass.plan, pass.context))?;
        let mut sliced = 0..0;
        for (index, step) in pass.plan.steps.iter().enumerate() {
            if sliced.contains(&index) {
                continue;
            }
            let found = slices.and_then(|slices| slices.at(pass.plan, index, pass.context));
            if let Some((slice, code, behind)) = found {
                let lists = self.lists.block.address;
                self.launcher.launch_slice(slice, code, pass.operands, (lists, behind))?;
                sliced = slice.steps();
                continue;
            }
            let events = timing.map(|timing| &timing.events[index]);
            events.map_or(Ok(()), |(start, _)| start.record_in_graph())?;
            self.launcher.launch(
                (index, step),
                pass.context,
                &pass.operands[index],
                self.lists.block.address,
            )?;
            events.map_or(Ok(()), |(_, end)| end.record_in_graph())?;
            self.replace_results(index, &pass.operands[index])?;
        }
        match pass.plan.steps.iter().position(|step| matches!(step.op, StepOp::Sample(_))) {
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

    /// Runs the pass as a graph, where it is one that is captured; false: nothing has run.
    fn run_whole(&mut self, context: &StepContext) -> Result<bool> {
        // A captured pass knows of no replacement.
        let replaces = self.replaced.iter().any(|replaced| !replaced.places.is_empty());
        let decode = context.tokens == context.batch && context.outputs == context.tokens && !replaces;
        let Some(used) = self.lists.pending.filter(|_| self.timing.is_some() || (self.capture && decode))
        else {
            return Ok(false);
        };
        let (model, operands) = (Arc::clone(&self.model), Arc::clone(self.memory.operands()));
        let pass = &Pass { plan: model.plan(), context, operands: &operands };
        self.device.enter()?;
        self.lists.pending = None;
        self.device.set_running(Running::Graph(context.tokens, self.launcher.names.clone()));
        let copied = self.lists.layout.copied(used);
        let run = if self.timing.is_some() { Self::run_timed } else { Self::replay };
        let ran = run(self, pass, copied).map_err(|error| self.device.explain(error))?;
        if !ran {
            self.lists.pending = Some(used);
        }
        Ok(ran)
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

/// The device's memory, with copies of the weights.
struct CudaMemory {
    device: Arc<Device>,
    _weights: DeviceBlock,
    /// Of each weight, in `_weights`.
    addresses: Vec<u64>,
}

// SAFETY: blocks are the device's allocations, weights' addresses those of the copies kept beside them.
unsafe impl DeviceMemory for CudaMemory {
    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(self.device.zeroed(bytes)?))
    }

    fn weight(&self, _: &Model, id: WeightId) -> Result<*mut u8> {
        let address = self.addresses.get(id.index());
        address.map(|address| *address as *mut u8).ok_or_else(|| no_weight(id))
    }
}

// SAFETY: the memory was placed for this model, whose code this is, and is never exchanged; kernels touch their operands,
// lists and scratch alone, which is what the compiler makes and the plan's verifier assumes.
unsafe impl Runner for CudaRunner {
    fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    unsafe fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Writes context and lists to pinned memory, from where the first step copies them.
    unsafe fn begin(&mut self, context: &StepContext) -> Result<()> {
        self.tokens.fresh = false;
        self.replaced.iter_mut().for_each(|replaced| replaced.places.clear());
        // SAFETY: passed on from the caller.
        unsafe { self.lists.take(context) }
    }

    unsafe fn run_step(&mut self, index: usize, context: &StepContext) -> Result<()> {
        self.device.enter()?;
        self.run_one(index, context).map_err(|error| self.device.explain(error))
    }

    /// At once where every sequence has one row and gives logits, and where the pass is timed.
    unsafe fn run_pass(&mut self, context: &StepContext) -> Result<()> {
        if !self.run_whole(context)? {
            // SAFETY: passed on from the caller, step by step.
            (0..self.launcher.names.len()).try_for_each(|index| unsafe { self.run_step(index, context) })?;
        }
        Ok(())
    }

    fn sampled(&mut self, rows: usize) -> Result<Option<Vec<i32>>> {
        if !self.tokens.fresh {
            return Ok(None);
        }
        self.device.synchronise()?;
        Ok(Some(self.tokens.read(rows)))
    }

    fn synchronise(&mut self) -> Result<()> {
        self.device.synchronise()
    }

    fn clock(&mut self) -> &mut dyn Clock {
        self
    }
}

impl Clock for CudaRunner {
    fn set_timing(&mut self, on: bool) -> Result<()> {
        self.timing = if on { Some(Timing::new(&self.device, self.launcher.names.len())?) } else { None };
        Ok(())
    }

    fn take_times(&mut self) -> Vec<f64> {
        let steps = |timing: &mut Timing| {
            let zeros = vec![0.0; timing.seconds.len()];
            std::mem::replace(&mut timing.seconds, zeros)
        };
        self.timing.as_mut().map(steps).unwrap_or_default()
    }

    fn launch_times(&mut self) -> Result<Vec<LaunchTimes>> {
        self.launcher.times.as_ref().map_or(Ok(vec![]), |times| times.read())
    }

    fn copy_bandwidth(&mut self) -> Result<Option<f64>> {
        super::limits::copy_bandwidth(&self.device).map(Some)
    }

    fn device_name(&mut self) -> Result<Option<String>> {
        super::limits::name(&self.device).map(Some)
    }

    fn force_variant(&mut self, kernel: KernelId, variant: Option<&str>) -> Result<()> {
        // Captured passes have the variants of before.
        self.graphs = Graphs::default();
        self.launcher.force(kernel, variant)
    }

    /// The bytes wait in memory of the device, which later passes use again.
    unsafe fn replace(&mut self, operands: &[(usize, usize)], bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let free =
            self.replaced.iter().position(|replaced| replaced.places.is_empty() && replaced.room >= len);
        let mut with = match free {
            Some(at) => self.replaced.swap_remove(at),
            None => Replaced { places: vec![], with: self.device.zeroed(len)?, room: len, bytes: 0 },
        };
        with.with.write(0, bytes)?;
        self.replaced.push(Replaced { places: operands.to_vec(), bytes: len, ..with });
        Ok(())
    }
}

/// What replaces results of steps in the pass in hand.
struct Replaced {
    /// Steps with an operand each; none in another pass.
    places: Vec<(usize, usize)>,
    with: DeviceBlock,
    /// Bytes of `with`, and those that count.
    room: u64,
    bytes: u64,
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
    /// As for [`Runner::begin`].
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
