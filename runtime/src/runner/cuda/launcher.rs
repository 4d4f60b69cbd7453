//! Puts a kernel's functions on the stream.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction};
use hyc_plan::abi::StepContext;
use hyc_plan::{Kernel, KernelId, Launch, Plan, Slice, Step};

use super::device::{Device, DeviceBlock, check};
use super::module::Module;
use super::times::Times;
use crate::error::{Error, ErrorKind, Result};
use crate::runner::contract::is_left_out;

/// Blocks of a grid in y.
const MOST_Y: u64 = 65535;

/// The kernels' functions, and room for their parameters.
pub(super) struct Launcher {
    scratch: DeviceBlock,
    kernels: Vec<Loaded>,
    /// Each step as an error names it.
    pub(super) names: Arc<[String]>,
    /// Where clocked code writes its blocks' times.
    pub(super) times: Option<Times>,
    values: Vec<u64>,
    params: Vec<*mut c_void>,
    device: Arc<Device>,
}

/// A kernel whose code is on the device.
struct Loaded {
    kernel: Kernel,
    /// Those of its launches, in their order.
    functions: Vec<CUfunction>,
    /// The variant that computes the steps that it can, in place of what the plan has chosen.
    forced: Option<String>,
}

impl Loaded {
    /// The variant that computes a step of so many rows.
    fn variant_for(&self, rows: u64) -> Option<&str> {
        let able = |name: &&str| {
            let variant = self.kernel.variants.iter().find(|variant| variant.name == *name);
            variant.is_some_and(|variant| variant.rows.contains(rows))
        };
        self.forced.as_deref().filter(able).or_else(|| self.kernel.variant_for(rows))
    }
}

// SAFETY: the functions are the driver's handles; `params` points into `values` during a launch alone.
unsafe impl Send for Launcher {}

impl Launcher {
    pub(super) fn new(device: &Arc<Device>, module: &Module, plan: &Plan) -> Result<Launcher> {
        if let Some(kernel) = plan.kernels.iter().find(|kernel| kernel.launches().is_empty()) {
            let message = format!("the artefact does not say how kernel `{}` is launched", kernel.name);
            return Err(Error::new(ErrorKind::BadArtefact, message).help("compile the model again"));
        }
        let kernels = plan.kernels.iter().map(|kernel| {
            let functions = kernel.launches().iter().map(|launch| module.function(launch));
            Ok(Loaded { kernel: kernel.clone(), functions: functions.collect::<Result<_>>()?, forced: None })
        });
        let name = |(index, step): (usize, &Step)| {
            format!("step {index}, {}, of kernel `{}`,", step.name, plan.kernels[step.kernel.index()].name)
        };
        let operands = plan.steps.iter().map(|step| step.operands.len()).max().unwrap_or(0);
        let scratch = plan.kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0);
        Ok(Launcher {
            // Kernels count on zeros in its first bytes (`abi::COUNTER_BYTES`), and leave them so.
            scratch: device.zeroed(scratch)?,
            kernels: kernels.collect::<Result<_>>()?,
            names: plan.steps.iter().enumerate().map(name).collect(),
            times: Times::new(device, plan)?,
            values: Vec::with_capacity(operands + 3),
            params: Vec::with_capacity(operands + 3),
            device: device.clone(),
        })
    }

    /// Lets a variant compute those steps of a kernel that it can; `None`: what the plan has chosen. Errors: no such kernel, or
    /// no code of such a variant.
    pub(super) fn force(&mut self, kernel: KernelId, variant: Option<&str>) -> Result<()> {
        let absent = || Error::new(ErrorKind::BadInput, format!("{kernel} has no code of this variant"));
        let loaded = self.kernels.get_mut(kernel.index()).ok_or_else(absent)?;
        if variant.is_some_and(|name| !loaded.kernel.has_code(name)) {
            return Err(absent());
        }
        loaded.forced = variant.map(str::to_string);
        Ok(())
    }

    /// Puts the launches of step `index` on the stream. `lists`: the device address of the context.
    pub(super) fn launch(
        &mut self,
        (index, step): (usize, &Step),
        context: &StepContext,
        operands: &[*mut u8],
        lists: u64,
    ) -> Result<()> {
        if is_left_out(step, context) {
            return Ok(());
        }
        self.set_params(lists, operands, &[self.scratch.address]);
        let loaded = &self.kernels[step.kernel.index()];
        let rows = loaded.kernel.rows.count(context.tokens, context.outputs);
        if rows == 0 {
            return Ok(());
        }
        let variant = loaded.variant_for(rows).ok_or_else(|| {
            Error::new(ErrorKind::BadInput, format!("{}: no kernel of its is for {rows} rows", step.name))
        })?;
        let launches = loaded.functions.iter().zip(loaded.kernel.launches());
        for (function, launch) in launches.filter(|(_, launch)| launch.is_of(variant)) {
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
            reserve_times(&mut self.times, &mut self.values, (index, launch), x * y)?;
            put(&self.device, (*function, launch), [x as u32, y as u32], (&mut self.params, &step.name))?;
        }
        Ok(())
    }

    /// Puts a slice on the stream. `operands`: those of all steps; `lists`: the device address of the context.
    pub(super) fn launch_slice(
        &mut self,
        slice: &Slice,
        (function, launch): &(CUfunction, Launch),
        operands: &[Vec<*mut u8>],
        (lists, behind): (u64, [u64; 3]),
    ) -> Result<()> {
        let first = slice.first as usize;
        self.set_params(lists, operands[slice.steps()].iter().flatten(), &behind);
        let [x, y] = launch.grid.map(|extent| extent.blocks(1, 1));
        reserve_times(&mut self.times, &mut self.values, (first, launch), x * y)?;
        put(&self.device, (*function, launch), [x as u32, y as u32], (&mut self.params, &self.names[first]))
    }

    /// Sets the parameters of the next launches: context, operands, and what stands behind those; last, where a clocked function
    /// writes its times, which others have no such parameter for.
    fn set_params<'a>(
        &mut self,
        lists: u64,
        operands: impl IntoIterator<Item = &'a *mut u8>,
        behind: &[u64],
    ) {
        self.values.clear();
        self.values.push(lists);
        self.values.extend(operands.into_iter().map(|address| *address as u64));
        self.values.extend(behind);
        self.values.push(0);
        self.params.clear();
        self.params.extend(self.values.iter_mut().map(|value| std::ptr::from_mut(value).cast::<c_void>()));
    }
}

/// Makes room for the times of the blocks of a step's launch, where it is clocked, and says it in the last parameter.
fn reserve_times(
    times: &mut Option<Times>,
    values: &mut [u64],
    (index, launch): (usize, &Launch),
    blocks: u64,
) -> Result<()> {
    if let (Some(times), Some(last)) = (times.as_mut().filter(|_| launch.clocked), values.last_mut()) {
        *last = times.reserve(index, &launch.entry, blocks)?;
    }
    Ok(())
}

/// Puts one function on the stream, for a step of that name.
fn put(
    device: &Device,
    (function, launch): (CUfunction, &Launch),
    [x, y]: [u32; 2],
    (params, name): (&mut [*mut c_void], &str),
) -> Result<()> {
    let mut overlap = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared_bytes,
        hStream: device.stream,
        attrs: &mut overlap,
        numAttrs: u32::from(launch.overlaps),
    };
    // SAFETY: the function takes these addresses, by the plan; they outlive it on the stream, and the driver copies
    // configuration and parameters before it returns.
    let result =
        unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()) };
    check(result, || format!("launching `{}` for {name}", launch.entry))
}
