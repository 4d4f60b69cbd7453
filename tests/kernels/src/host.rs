//! A kernel's generated code on this machine.

use std::ops::Range;

use hyc_kernels::cpu::{self, CpuTarget, Level};
use hyc_plan::abi::{KernelFn, StepContext};
use hyc_plan::{GridDim, KernelSpec};

use crate::{Batch, Memory};

/// Generated code, mapped.
pub struct HostKernel {
    spec: KernelSpec,
    map: memmap2::Mmap,
    scratch_bytes: u64,
}

impl HostKernel {
    /// Compiles a kernel, which the back end must have. Panics where it refuses.
    pub fn new(spec: &KernelSpec, level: Level) -> HostKernel {
        cpu::supports(spec).unwrap();
        let kernel = cpu::compile(spec, &CpuTarget { level }, false).unwrap();
        let mut map = memmap2::MmapMut::map_anon(kernel.code.len()).unwrap();
        map.copy_from_slice(&kernel.code);
        HostKernel { spec: spec.clone(), map: map.make_exec().unwrap(), scratch_bytes: kernel.scratch_bytes }
    }

    /// Items of the whole grid.
    pub fn items(&self, batch: &Batch) -> u64 {
        let grid = self.spec.grid();
        grid.per
            * match grid.dim {
                GridDim::One => 1,
                GridDim::Tokens => batch.rows(),
                GridDim::Outputs => batch.outputs(),
            }
    }

    /// A thread's scratch, with no number in it.
    pub fn scratch(&self) -> Memory {
        Memory::filled(self.scratch_bytes as usize, 0xff)
    }

    /// Runs a range of the grid's items.
    ///
    /// # Safety
    /// `operands` are the addresses of memory that [`memory`](crate::memory) made for this kernel's spec and the context's
    /// batch, `scratch` is this kernel's, and `items` lie in the grid.
    pub unsafe fn run(
        &self,
        context: &StepContext,
        operands: &[*mut u8],
        scratch: &mut Memory,
        items: Range<u64>,
    ) {
        // SAFETY: the code is a kernel of this type.
        let function: KernelFn = unsafe { std::mem::transmute(self.map.as_ptr()) };
        // SAFETY: passed on from the caller.
        unsafe {
            function(context, operands.as_ptr(), items.start, items.end, scratch.bytes_mut().as_mut_ptr());
        }
    }
}
