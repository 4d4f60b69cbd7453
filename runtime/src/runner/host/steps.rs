//! The runner of the host: its memory, some kernels, and its clock.

use std::sync::Arc;
use std::time::Instant;

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelId, KernelSpec, WeightId};

use super::kernels::{Kernels, StepCall};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvRoom;
use crate::memory::{Aligned, Block};
use crate::model::Model;
use crate::runner::contract::{Clock, LaunchTimes, Runner, is_left_out};
use crate::runner::memory::{DeviceMemory, Memory};

/// The host's memory, and weights where the model has them.
pub struct HostMemory;

// SAFETY: allocations of their own; a weight's bytes are the model's, checked.
unsafe impl DeviceMemory for HostMemory {
    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(Aligned::zeroed(bytes)?))
    }

    fn weight(&self, model: &Model, id: WeightId) -> Result<*mut u8> {
        Ok(model.weight(id)?.as_ptr().cast_mut())
    }
}

/// Steps with an operand each, and the bytes that those begin with once their steps have run.
type Replaced = (Vec<(usize, usize)>, Vec<u8>);

/// Runs a model's plan on kernels of the host.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// use hyc_runtime::{Engine, HostRunner, KvRoom};
///
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().load()?;
/// let runner = HostRunner::new(model, Box::new(Plain), KvRoom::new(4, 1))?;
/// let mut engine = Engine::new(Box::new(runner));
/// engine.clock().set_timing(true)?;
/// assert_eq!(engine.clock().take_times().len(), engine.model().plan().steps.len());
/// # Ok(())
/// # }
/// ```
pub struct HostRunner {
    kernels: Box<dyn Kernels>,
    memory: Memory,
    model: Arc<Model>,
    /// Of each step.
    specs: Vec<KernelSpec>,
    /// Seconds of each step; empty where nothing is timed.
    seconds: Vec<f64>,
    /// What replaces results of the pass in hand.
    replaced: Vec<Replaced>,
}

impl HostRunner {
    /// Kernels on memory of the host. Errors: kernels of another model; no room.
    pub fn new(model: impl Into<Arc<Model>>, kernels: Box<dyn Kernels>, room: KvRoom) -> Result<HostRunner> {
        HostRunner::with_memory(model, kernels, room, Box::new(HostMemory))
    }

    /// The same on other memory that the host addresses.
    pub fn with_memory(
        model: impl Into<Arc<Model>>,
        kernels: Box<dyn Kernels>,
        room: KvRoom,
        memory: Box<dyn DeviceMemory>,
    ) -> Result<HostRunner> {
        let model = model.into();
        if kernels.model().is_some_and(|id| id != model.id()) {
            let message =
                format!("these kernels were made for another model than {}", model.path().display());
            return Err(
                Error::new(ErrorKind::BadInput, message).help("make them from the model that they shall run")
            );
        }
        let memory = Memory::place(&model, room, memory)?;
        let specs = model.plan().steps.iter().map(|step| model.plan().spec(step)).collect();
        Ok(HostRunner { kernels, memory, model, specs, seconds: Vec::new(), replaced: Vec::new() })
    }
}

// SAFETY: the memory was placed for this model, whose kernels these are or which run any plan, and is never exchanged;
// kernels touch what they promise.
unsafe impl Runner for HostRunner {
    fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    unsafe fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Kernels read the lists where they are.
    unsafe fn begin(&mut self, _: &StepContext) -> Result<()> {
        self.replaced.clear();
        Ok(())
    }

    unsafe fn run_step(&mut self, index: usize, context: &StepContext) -> Result<()> {
        let (plan, operands) = (self.model.plan(), self.memory.operands());
        let step = &plan.steps[index];
        if is_left_out(step, context) {
            return Ok(());
        }
        let call = StepCall { plan, step, spec: &self.specs[index], context, operands: &operands[index] };
        let start = (!self.seconds.is_empty()).then(Instant::now);
        // SAFETY: the caller's promise; operands are where the verified plan says, in memory placed for it.
        unsafe { self.kernels.run(&call) }?;
        if let (Some(start), Some(seconds)) = (start, self.seconds.get_mut(index)) {
            *seconds += start.elapsed().as_secs_f64();
        }
        for (places, bytes) in &self.replaced {
            for (_, operand) in places.iter().filter(|(step, _)| *step == index) {
                let to = operands[index][*operand];
                // SAFETY: the operand has as many bytes, which who replaced them has promised; no kernel runs.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            }
        }
        Ok(())
    }

    unsafe fn run_pass(&mut self, context: &StepContext) -> Result<()> {
        // SAFETY: passed on from the caller, step by step.
        (0..self.specs.len()).try_for_each(|index| unsafe { self.run_step(index, context) })
    }

    fn sampled(&mut self, _: usize) -> Result<Option<Vec<i32>>> {
        Ok(None)
    }

    /// A step is through when its call returns.
    fn synchronise(&mut self) -> Result<()> {
        Ok(())
    }

    fn clock(&mut self) -> &mut dyn Clock {
        self
    }
}

/// The host's clock costs nothing beside a step.
impl Clock for HostRunner {
    fn set_timing(&mut self, on: bool) -> Result<()> {
        self.seconds = vec![0.0; if on { self.specs.len() } else { 0 }];
        Ok(())
    }

    fn take_times(&mut self) -> Vec<f64> {
        let zeros = vec![0.0; self.seconds.len()];
        std::mem::replace(&mut self.seconds, zeros)
    }

    fn launch_times(&mut self) -> Result<Vec<LaunchTimes>> {
        Ok(vec![])
    }

    fn copy_bandwidth(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    fn device_name(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Each kernel has the code of one variant.
    fn force_variant(&mut self, kernel: KernelId, variant: Option<&str>) -> Result<()> {
        let known = self.model.plan().kernels.get(kernel.index()).is_some_and(|kernel| {
            variant.is_none_or(|name| kernel.chosen.iter().all(|chosen| chosen.variant == name))
        });
        let absent = || Error::new(ErrorKind::BadInput, format!("{kernel} has no code of this variant"));
        if known { Ok(()) } else { Err(absent()) }
    }

    unsafe fn replace(&mut self, operands: &[(usize, usize)], bytes: &[u8]) -> Result<()> {
        self.replaced.push((operands.to_vec(), bytes.to_vec()));
        Ok(())
    }
}
