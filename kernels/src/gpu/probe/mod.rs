//! Probes: a small kernel for each building block of the others, for tests on a device. What each reads and must
//! leave behind is in `tests/kernels/src/blocks`, under the same name.
//!
//! Operands are plain words, inputs first. Online softmax has no probe: it is no block of its own, and the attention
//! cases go through all of it, with sinks, masked pages and merged states.

mod choice;
mod lanes;
mod memory;
mod products;

use hyc_plan::{Elem, Extent, KernelSpec, OperandSpec, Rows, StepOp};

use super::function::{Function, Kernel};
use super::isa::{Emit, Int, Ptr};
use super::module::{GpuError, Ptx, compile};
use inkwell::values::BasicValueEnum;

/// A kernel of one building block.
pub struct Probe {
    /// Unique among them.
    pub name: &'static str,
    operands: usize,
    build: fn(&mut Kernel<'_, '_>),
}

/// All of them.
pub fn all() -> Vec<Probe> {
    [lanes::all(), memory::all(), products::all(), choice::all()].into_iter().flatten().collect()
}

fn probe(name: &'static str, operands: usize, build: fn(&mut Kernel<'_, '_>)) -> Probe {
    Probe { name, operands, build }
}

impl Probe {
    /// What stands in for a spec: a kernel has as many parameters as that has operands.
    pub fn spec(&self) -> KernelSpec {
        let word = OperandSpec::Tensor { elem: Elem::F32, width: 1, stride: 16 };
        KernelSpec {
            op: StepOp::Add { width: 1 },
            operands: vec![word; self.operands],
            rows: Rows::Tokens,
            max_rows: 1,
            max_context: 1,
        }
    }

    /// Its PTX and its launch, the function being called `entry`.
    pub fn compile(&self, entry: &str) -> Result<Ptx, GpuError> {
        compile(&[(entry.to_string(), self.spec())], &self.build)
    }
}

/// The one launch of a probe: `blocks` blocks.
fn launch<'c>(k: &mut Kernel<'c, '_>, blocks: u64, threads: u64, shared: u64, body: impl FnOnce(&Emit<'c>)) {
    k.function(
        Function::new("", [Extent::fixed(blocks), Extent::fixed(1)], threads).shared_bytes(shared),
        body,
    );
}

/// Stores each thread's values: value n of thread i at `n * threads + i`.
fn keep<'c>(e: &Emit<'c>, to: Ptr<'c>, threads: u64, values: &[BasicValueEnum<'c>]) {
    for (n, value) in values.iter().enumerate() {
        e.store(to, e.add_const(e.thread(), (n as u64 * threads) as i64), *value);
    }
}

/// Copies `words` (a multiple of four a thread) from global to shared memory, by all threads of the block.
fn copy<'c>(e: &Emit<'c>, from: Ptr<'c>, to: Ptr<'c>, words: Int<'c>, threads: u64) {
    e.each(e.mul_const(e.thread(), 4), words, 4 * threads, |e, i| {
        e.store_words(to, i, &e.load4(from, i));
    });
}
