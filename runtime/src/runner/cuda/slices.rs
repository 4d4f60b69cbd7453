//! Runs of steps that one persistent launch computes.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUfunction;
use hyc_plan::abi::StepContext;
use hyc_plan::{Counters, Launch, Plan, Slice, Watch};

use super::device::{Device, DeviceBlock};
use super::module::Module;
use crate::error::Result;
use crate::memory::Block;

/// A plan's slices on a device.
pub(super) struct Slices {
    /// Those of each slice, in the plan's order.
    counters: DeviceBlock,
    counter_bytes: u64,
    /// A [`Watch`], and behind it what blocks of a launch hand over.
    shared: DeviceBlock,
    /// By [`Slice::kernel`]; `None`: its steps are launched one by one.
    kernels: Vec<Option<Code>>,
}

/// A function, and how it is launched.
pub(super) type Code = (CUfunction, Launch);

// SAFETY: the functions are the driver's handles.
unsafe impl Send for Slices {}

/// Bytes of the counters of each of a plan's slices, and of what all share: a few MiB, of what a runner leaves free.
fn sizes(plan: &Plan) -> (u64, u64) {
    let counters = |slice: &Slice| plan.slice_kernels[slice.kernel as usize].counters(slice.parts.len());
    let most = |bytes: fn(Counters) -> u64| plan.slices.iter().map(|slice| bytes(counters(slice))).max();
    let shared = most(Counters::handed_bytes).map_or(0, |handed| handed + size_of::<Watch>() as u64);
    (most(Counters::bytes).unwrap_or(0), shared)
}

impl Slices {
    /// Those whose blocks the device can run all at the same time. A task that waits longer than `patience` ends its launch.
    pub(super) fn new(
        device: &Arc<Device>,
        module: &Module,
        plan: &Plan,
        patience: Duration,
    ) -> Result<Slices> {
        let multiprocessors = device.multiprocessors()?;
        let kernels = plan.slice_kernels.iter().map(|kernel| match &kernel.launch {
            Some(launch) if kernel.blocks <= multiprocessors => {
                Ok(Some((module.function(launch)?, launch.clone())))
            }
            Some(_) | None => Ok(None),
        });
        let kernels = kernels.collect::<Result<Vec<_>>>()?;
        let (counter_bytes, shared) = sizes(plan);
        let counters = device.zeroed(counter_bytes * plan.slices.len() as u64)?;
        let mut shared = device.zeroed(shared)?;
        if !plan.slices.is_empty() {
            let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64);
            shared.write(0, &[device.hang_address(), patience].map(u64::to_le_bytes).concat())?;
        }
        Ok(Slices { counters, counter_bytes, shared, kernels })
    }

    /// Whether some slice computes this pass.
    fn any(&self, plan: &Plan, context: &StepContext) -> bool {
        let mut kernels = plan.slice_kernels.iter().zip(&self.kernels);
        kernels.any(|(kernel, code)| code.is_some() && kernel.rows.contains(context.tokens))
    }

    /// The slice that begins with step `index`, where it computes this pass: with its code, and what a launch of it gets behind its
    /// operands, the first step, what all slices share, its counters.
    pub(super) fn at<'p>(
        &self,
        plan: &'p Plan,
        index: usize,
        context: &StepContext,
    ) -> Option<(&'p Slice, &Code, [u64; 3])> {
        let number = plan.slice_at(index)?;
        let slice = &plan.slices[number];
        let rows = plan.slice_kernels[slice.kernel as usize].rows;
        let code = self.kernels.get(slice.kernel as usize)?.as_ref()?;
        let counters = self.counters.address + number as u64 * self.counter_bytes;
        let behind = [u64::from(slice.first), self.shared.address, counters];
        rows.contains(context.tokens).then_some((slice, code, behind))
    }

    /// Puts zeros into all counters, on the stream: a pass begins.
    pub(super) fn begin(&self, plan: &Plan, context: &StepContext) -> Result<()> {
        if self.any(plan, context) { self.counters.clear() } else { Ok(()) }
    }
}
