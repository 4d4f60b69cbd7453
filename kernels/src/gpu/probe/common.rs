//! What a probe is, and what the probes share.

use hyc_plan::{Elem, Extent, Gpu, KernelSpec, NvidiaArch, OperandSpec, Rows, StepOp, ops};

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::module::{GpuError, Ptx, Request, compile};
use inkwell::values::BasicValueEnum;

/// A kernel of one building block.
pub struct Probe {
    /// Unique among them.
    pub name: &'static str,
    operands: usize,
    build: fn(&mut Kernel<'_, '_>),
}

pub fn probe(name: &'static str, operands: usize, build: fn(&mut Kernel<'_, '_>)) -> Probe {
    Probe { name, operands, build }
}

impl Probe {
    /// What stands in for a spec: a kernel has as many parameters as that has operands.
    pub fn spec(&self) -> KernelSpec {
        let word = OperandSpec::Tensor { elem: Elem::F32, width: 1, stride: 16 };
        KernelSpec {
            op: StepOp::Add(ops::Add { width: 1 }),
            operands: vec![word; self.operands],
            rows: Rows::Tokens,
            max_rows: 1,
            max_context: 1,
        }
    }

    /// Its PTX and its launch, the function being called `entry`.
    pub fn compile(&self, entry: &str) -> Result<Ptx, GpuError> {
        let request = Request { name: entry, spec: &self.spec(), variants: vec!["probe"], clocked: false };
        compile((&[request], &[]), &Gpu::of(NvidiaArch::Sm90a), &self.build)
    }
}

/// The one launch of a probe: `blocks` blocks.
pub fn launch<'c>(
    k: &mut Kernel<'c, '_>,
    blocks: u64,
    threads: u64,
    shared: u64,
    body: impl FnOnce(&Emit<'c>),
) {
    k.function(
        Function::new("", [Extent::fixed(blocks), Extent::fixed(1)], threads).shared_bytes(shared),
        body,
    );
}

/// Stores each thread's values: value n of thread i at `n * threads + i`.
pub fn keep<'c>(e: &Emit<'c>, to: Ptr<'c>, threads: u64, values: &[BasicValueEnum<'c>]) {
    for (n, value) in values.iter().enumerate() {
        e.store(to, e.add_const(e.thread(), (n as u64 * threads) as i64), *value);
    }
}

/// Copies `words` (a multiple of four a thread) from global to shared memory, by all threads of the block.
pub fn copy<'c>(e: &Emit<'c>, from: Ptr<'c>, to: Ptr<'c>, words: Int<'c>, threads: u64) {
    e.each(e.mul_const(e.thread(), 4), words, 4 * threads, |e, i| {
        e.store_words(to, i, &e.load4(from, i));
    });
}
