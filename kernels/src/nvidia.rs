//! NVIDIA's GPUs as the passes see them: what can be said without LLVM.

use std::sync::{Arc, OnceLock};

use hyc_plan::ops::{self, ExpertsUp, QkvAppend};
use hyc_plan::pack::Half;
use hyc_plan::{
    Backend, CacheSpec, Codec, Format, Gpu, KernelSpec, Kind, KvOrder, Layout, ListShape, OperandSpec,
    RowRange, SPAN, Slicer, StepOp, Target, Variant,
};

use crate::lists::page_lists;
use crate::panels::panels;
use crate::slices::tasks;
use crate::table::Table;
use crate::tiles::{MANY_ROWS, beside_fp8_rows, qkv_tile, tiles_rows};

/// What was measured on the cards that hyc is tuned for.
const SHIPPED: [&str; 2] = [include_str!("../tables/h100.json"), include_str!("../tables/h200.json")];

/// The back end of a GPU.
#[derive(Debug, Clone)]
pub struct Nvidia {
    /// What its code is for.
    pub gpu: Gpu,
    /// What products read.
    pub activations: Activations,
    /// What makes its code.
    pub generator: Generator,
    /// The card whose measurements count, as its driver names it.
    pub card: String,
    /// What was measured.
    pub table: Arc<Table>,
}

/// What products read of the rows that they multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// Rows as they are: all products are in f32, of panels.
    F32,
    /// Rows rounded to bf16, which tensor cores multiply: matrices and caches are stored as those read them, where their
    /// shapes allow it.
    Bf16,
    /// The same; in steps of [`FP8_ROWS`] and more, beside weights in fp8 with a scale a row, rows of e4m3 with a scale each.
    Fp8,
}

impl Activations {
    /// Whether tensor cores multiply.
    pub const fn on_tensor_cores(self) -> bool {
        match self {
            Activations::F32 => false,
            Activations::Bf16 | Activations::Fp8 => true,
        }
    }
}

/// The fewest rows of a step that are of e4m3. A product of fewer is bound by the bytes of its weights, of which rows in fp8 make
/// no fewer.
pub const FP8_ROWS: u64 = MANY_ROWS;

/// The code generator of GPUs, where this build has one.
#[derive(Debug, Clone, Copy)]
pub struct Generator {
    /// The variants of the kernel for a spec: `gpu::candidates`.
    pub candidates: fn(&KernelSpec, &Gpu) -> Result<Vec<Variant>, String>,
    /// A digest of a variant's code: `gpu::digest`; `None` where it cannot be told.
    pub digest: fn(&KernelSpec, &str, &Gpu) -> Option<String>,
}

impl Generator {
    /// One that says that it has a kernel for everything, for tests of what does not need its code.
    pub const fn of_anything() -> Generator {
        Generator { candidates: |spec, _| Ok(vec![Variant::only("any", spec, 1)]), digest: |_, _, _| None }
    }
}

impl Nvidia {
    /// The usual card of an architecture, with what was measured on it.
    pub fn new(gpu: Gpu, generator: Generator) -> Nvidia {
        let (card, table) = (gpu.arch.card().to_string(), shipped());
        Nvidia { gpu, activations: Activations::Bf16, generator, card, table }
    }
}

/// The table that comes with hyc.
pub fn shipped() -> Arc<Table> {
    static TABLE: OnceLock<Arc<Table>> = OnceLock::new();
    // A test reads it; without it everything is as where nothing was measured.
    Arc::clone(TABLE.get_or_init(|| {
        let tables = SHIPPED.iter().filter_map(|text| Table::parse(text).ok());
        Arc::new(tables.reduce(Table::and).unwrap_or_default())
    }))
}

/// Whether any of these is what tensor cores read.
fn for_tensor_cores(weights: &[Layout]) -> bool {
    weights.iter().any(|layout| matches!(layout, Layout::Tiles { .. } | Layout::Strips { .. }))
}

/// Whether all of them are in one order.
fn alike(weights: &[Layout]) -> bool {
    weights.windows(2).all(|pair| std::mem::discriminant(&pair[0]) == std::mem::discriminant(&pair[1]))
}

impl Nvidia {
    /// Why weights in groups are not in strips, which alone its kernels read, where some are not.
    fn not_in_strips(&self, spec: &KernelSpec) -> Option<String> {
        spec.operands.iter().find_map(|operand| {
            let OperandSpec::Weight(Format { codec, layout }) = operand else { return None };
            let group = codec.group()?;
            let (op, row) = (spec.op.name(), layout.cols());
            match layout {
                Layout::Strips { .. } => None,
                Layout::Panels { .. } if !self.activations.on_tensor_cores() => {
                    Some(format!("`{op}` reads weights of {codec} beside rows of bf16, and not beside those of f32"))
                }
                Layout::Panels { .. } => Some(format!(
                    "{codec} of rows of {row}: groups of {group} are none of 32, 64, 128, multiples of {SPAN} and whole rows"
                )),
                Layout::Rows { .. } | Layout::Vector { .. } | Layout::Tiles { .. } => {
                    Some(format!("`{op}` reads weights of f32 and bf16, and not of {codec}"))
                }
            }
        })
    }
}

impl Backend for Nvidia {
    fn target(&self) -> Target {
        Target::Nvidia(self.gpu)
    }

    fn layout(&self, kind: &Kind, codec: Codec) -> Option<Layout> {
        match *kind {
            Kind::Matrices { count, out_features: out, in_features, .. }
                if self.activations.on_tensor_cores() && codec == Codec::Bf16 =>
            {
                Some(Layout::Tiles { count, out_features: out?, in_features })
            }
            Kind::Matrices { count, out_features: out, in_features, .. }
                if self.activations.on_tensor_cores()
                    && codec.group().is_some_and(|group| Half::takes(group, in_features)) =>
            {
                Some(Layout::Strips { count, out_features: out?, in_features })
            }
            _ => panels(kind),
        }
    }

    fn kv_order(&self, cache: &CacheSpec) -> KvOrder {
        let tiles = self.activations.on_tensor_cores() && cache.can_tile();
        if tiles { KvOrder::Tiles } else { KvOrder::Columns }
    }

    fn tiles_rows(&self, op: &StepOp, weights: &[Layout]) -> bool {
        // Norms' weights are vectors.
        tiles_rows(op, for_tensor_cores(weights))
    }

    fn fp8_rows(&self, op: &StepOp, weights: &[Format]) -> Option<u64> {
        let (StepOp::Linear(ops::Linear { in_features, .. })
        | StepOp::QkvAppend(ops::QkvAppend { in_features, .. })) = *op
        else {
            return None;
        };
        // Norms' weights are vectors.
        let takes = |weight: &Format| {
            matches!(weight.layout, Layout::Vector { .. }) || beside_fp8_rows(*weight, in_features)
        };
        let takes = self.activations == Activations::Fp8
            && self.gpu.arch.multiplies_fp8()
            && weights.iter().all(takes);
        takes.then_some(FP8_ROWS)
    }

    fn projects_gates(&self, op: &QkvAppend, weights: &[Layout]) -> bool {
        let matrices: Vec<Layout> =
            weights.iter().filter(|layout| !matches!(layout, Layout::Vector { .. })).copied().collect();
        for_tensor_cores(weights) && alike(&matrices) && qkv_tile(op).is_some()
    }

    fn shares_experts(&self, _: &ExpertsUp, weights: &[Layout]) -> bool {
        weights.iter().all(|layout| matches!(layout, Layout::Strips { .. }))
            || weights.iter().all(|layout| matches!(layout, Layout::Tiles { .. }))
    }

    fn page_lists(&self, op: &StepOp, caches: &[CacheSpec]) -> Option<ListShape> {
        page_lists(op, caches).filter(|_| self.activations.on_tensor_cores())
    }

    fn slicer(&self) -> Option<Slicer> {
        let blocks = u64::from(self.gpu.multiprocessors);
        let slicer = Slicer { tasks, rows: RowRange::new(1, 1), blocks };
        self.activations.on_tensor_cores().then_some(slicer)
    }

    fn samples(&self) -> bool {
        true
    }

    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String> {
        self.not_in_strips(spec).map_or(Ok(()), Err)?;
        let mut variants = (self.generator.candidates)(spec, &self.gpu)?;
        let code = |variant: &str| (self.generator.digest)(spec, variant, &self.gpu);
        self.table.fill(&self.card, spec, &mut variants, &code);
        Ok(variants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_tables_can_be_read() {
        let [first, second] = SHIPPED.map(|text| Table::parse(text).expect("reads"));
        assert_eq!(first.and(second), *shipped());
    }
}
