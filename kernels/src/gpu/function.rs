//! A kernel being made, and its functions: what each is called, its grid, the variants that it is a part of, its shared
//! memory. Scratch is the whole kernel's.

use std::rc::Rc;

use hyc_plan::abi::COUNTER_BYTES;
use hyc_plan::{CacheSpec, Extent, Format, Gpu, GridDim, KernelSpec, Launch, Layout, Rows};
use inkwell::context::Context;
use inkwell::module::Module;

use super::isa::Emit;
use crate::mlir;
use crate::operands::Operands;

/// Why a product is refused whose weight is in the order of a table or a vector; `candidates` has refused it before.
pub const NO_PRODUCT: &str = "a product whose weight is neither in panels nor in tiles";

/// How one kernel is launched.
#[derive(Debug, Clone, Default)]
pub struct GpuKernel {
    /// Functions, in order.
    pub launches: Vec<Launch>,
    /// Scratch of the whole kernel in device memory, in bytes.
    pub scratch_bytes: u64,
}

/// One function of a kernel.
#[derive(Clone, Copy)]
pub struct Function<'s> {
    /// Tells it from the others: the end of its name.
    pub part: &'s str,
    /// Blocks.
    pub grid: [Extent; 2],
    /// Threads of a block.
    pub threads: u64,
    /// The variants of the kernel that it is a part of; empty: all.
    pub variants: &'s [&'s str],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u64,
    /// Neighbours in x that form a cluster; the grid is a multiple of them.
    pub cluster: u64,
    /// Blocks of a multiprocessor that registers must leave room for.
    pub at_once: u64,
    /// Whether the next launch begins no sooner than this one's inputs are there: what stands before them is then settled for it.
    /// Its body lets it begin.
    pub late: bool,
    /// Whether its body calls [`Emit::wait_for_inputs`] itself, before it touches what an earlier launch wrote: weights,
    /// the step's context and settled pages ([`WorkItem::settled`](super::work_item::WorkItem::settled)) may be read at once,
    /// anything else as a guess that is read again behind it ([`Emit::load_int_anew`]).
    pub waits_itself: bool,
}

impl<'s> Function<'s> {
    /// A function for all steps, without dynamic shared memory, that waits for its inputs before its body.
    pub fn new(part: &'s str, grid: [Extent; 2], threads: u64) -> Function<'s> {
        Function {
            part,
            grid,
            threads,
            variants: &[],
            shared_bytes: 0,
            cluster: 1,
            at_once: 1,
            late: false,
            waits_itself: false,
        }
    }

    /// The same as a part of these variants alone.
    pub fn of(self, variants: &'s [&'s str]) -> Function<'s> {
        Function { variants, ..self }
    }

    /// The same with dynamic shared memory.
    pub fn shared_bytes(self, shared_bytes: u64) -> Function<'s> {
        Function { shared_bytes, ..self }
    }

    /// The same in clusters of so many blocks.
    pub fn clusters(self, cluster: u64) -> Function<'s> {
        Function { cluster, ..self }
    }

    /// The same with registers for so many blocks a multiprocessor.
    pub fn at_once(self, at_once: u64) -> Function<'s> {
        Function { at_once, ..self }
    }

    /// The same, whose body waits and lets the next launch begin behind its inputs.
    pub fn late(self) -> Function<'s> {
        Function { late: true, waits_itself: true, ..self }
    }

    /// The same of a body that waits itself.
    pub fn waits_itself(self) -> Function<'s> {
        Function { waits_itself: true, ..self }
    }
}

/// The end of the name of a function that is all of a variant.
pub fn part(variant: &str) -> String {
    format!("_{variant}")
}

/// A kernel being made: its spec, its name, and the functions so far.
pub struct Kernel<'c, 's> {
    pub spec: &'s KernelSpec,
    /// Multiprocessors: what a grid that takes its items in turns has of blocks.
    pub multiprocessors: u64,
    name: &'s str,
    /// Whether functions write down the times of their blocks.
    clocked: bool,
    /// Names of the variants that there shall be code of.
    wanted: &'s [&'s str],
    operands: Rc<Operands>,
    module: &'c Module<'c>,
    context: &'c Context,
    launched: GpuKernel,
    /// Functions that MLIR lowers.
    mlir: String,
    /// Why there is no code.
    fault: Option<String>,
}

/// What became of a kernel.
pub struct Finished {
    pub launched: GpuKernel,
    /// Functions that MLIR lowers; none where it is empty.
    pub mlir: String,
}

impl<'c, 's> Kernel<'c, 's> {
    /// Without a function yet.
    pub fn new(
        context: &'c Context,
        module: &'c Module<'c>,
        (name, spec, wanted): (&'s str, &'s KernelSpec, &'s [&'s str]),
        clocked: bool,
        gpu: &Gpu,
    ) -> Kernel<'c, 's> {
        let operands = Rc::new(Operands::new(spec));
        let launched = GpuKernel::default();
        Kernel {
            spec,
            multiprocessors: u64::from(gpu.multiprocessors),
            name,
            clocked,
            wanted,
            operands,
            module,
            context,
            launched,
            mlir: String::new(),
            fault: None,
        }
    }

    /// Its functions, or why there is no code.
    pub fn finish(self) -> Result<Finished, String> {
        match self.fault.or_else(|| self.operands.fault()) {
            Some(fault) => Err(fault),
            None => Ok(Finished { launched: self.launched, mlir: self.mlir }),
        }
    }

    /// Whether there shall be code of this variant.
    pub fn wants(&self, variant: &str) -> bool {
        self.wanted.contains(&variant)
    }

    /// Adds one function, where it is a part of a variant that there shall be code of.
    pub fn function(&mut self, f: Function<'_>, body: impl FnOnce(&Emit<'c>)) {
        if !f.variants.is_empty() && !f.variants.iter().any(|variant| self.wants(variant)) {
            return;
        }
        let entry = format!("{}{}", self.name, f.part);
        let operands = (self.operands.clone(), self.spec.operands.len());
        let how = (f.threads as u32, self.clocked, f.late);
        let e = Emit::new(self.context, self.module, &entry, operands, how);
        if f.at_once > 1 {
            e.run_at_once(f.at_once);
        }
        if f.cluster > 1 {
            e.form_clusters(f.cluster);
        }
        if !f.waits_itself {
            e.wait_for_inputs();
        }
        body(&e);
        e.finish();
        self.launch(Launch {
            entry,
            grid: f.grid,
            threads: f.threads as u32,
            shared_bytes: f.shared_bytes as u32,
            overlaps: true,
            clocked: self.clocked,
            variants: f.variants.iter().map(ToString::to_string).collect(),
        });
    }

    fn launch(&mut self, launch: Launch) {
        self.launched.launches.push(launch);
    }

    /// Adds the one function of a row-wise op: a block a row.
    pub fn row_wise(&mut self) {
        match mlir::function(self.name, self.spec) {
            Some(Ok(text)) => self.mlir.push_str(&text),
            Some(Err(fault)) => self.fault = Some(fault),
            None => self.fault = Some(format!("`{}` is no row-wise op", self.spec.op.name())),
        }
        self.launch(Launch {
            entry: self.name.to_string(),
            grid: [self.rows(1, 1), Extent::fixed(1)],
            threads: mlir::THREADS as u32,
            shared_bytes: 0,
            overlaps: true,
            clocked: false,
            variants: vec![],
        });
    }

    /// Says why there is no code: a bug of the kernel, or of what `candidates` has let pass.
    pub fn refuse(&mut self, why: &str) {
        self.fault = Some(why.to_string());
    }

    /// Whether a tensor lies in bf16 tiles.
    pub fn in_tiles(&self, name: &str) -> bool {
        self.operands.in_tiles(name)
    }

    /// The layout of a weight's elements.
    pub fn layout(&self, name: &str) -> Layout {
        self.format(name).layout
    }

    /// How a weight is stored.
    pub fn format(&self, name: &str) -> Format {
        self.operands.format(name)
    }

    /// The constants of a cache.
    pub fn cache(&self, name: &str) -> CacheSpec {
        self.operands.cache(name)
    }

    /// `per` items a row, `each` of them a block.
    pub fn rows(&self, per: u64, each: u64) -> Extent {
        let dim = if self.spec.rows == Rows::Tokens { GridDim::Tokens } else { GridDim::Outputs };
        Extent { dim, per, each }
    }

    /// Bytes of scratch, aligned, behind its counters; returns their offset in 4-byte elements.
    pub fn scratch(&mut self, bytes: u64) -> u64 {
        let at = self.launched.scratch_bytes.max(COUNTER_BYTES);
        self.launched.scratch_bytes = at + bytes.next_multiple_of(256);
        at / 4
    }
}
