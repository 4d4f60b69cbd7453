//! `select-kernels`: one kernel for each distinct op and shape, and one of its variants for each number of rows.
//!
//! Every op becomes a step with the layouts that its weights shall have; steps that agree in everything a
//! kernel may depend on share one kernel, named by what it does. The back end answers each of them with the ways in which it can
//! compute it, among which [`choose`] decides by what was measured; what it cannot compute is said here, by op, and never
//! met by code generation.

use std::collections::HashMap;

use hyc_ir::{CacheType, Dim, Graph, ListsType, OpId, Sym, Type, ValueId};
use hyc_plan::tensor::stride;
use hyc_plan::variant::choose;
use hyc_plan::{
    Backend, CacheSpec, Chosen, Elem, Format, KernelSpec, KvOrder, Layout, OperandSpec, Rows, Variant,
};

use crate::error::PassError;
use crate::kernel_name;
use crate::lower::{Lowered, lower};
use crate::rewrite::{appended, cache_reads};

const PASS: &str = "select-kernels";

/// Steps with their kernels.
pub struct Selected {
    /// Ops that become steps, in execution order, with the index of each one's kernel.
    pub steps: Vec<(OpId, Lowered, usize)>,
    /// The kernels.
    pub kernels: Vec<KernelChoice>,
    /// The layout of every weight.
    pub layouts: HashMap<ValueId, Layout>,
}

/// A kernel to generate.
pub struct KernelChoice {
    /// A symbol name, unique in the plan.
    pub name: String,
    /// What to generate.
    pub spec: KernelSpec,
    /// How it can be computed, and which way is taken for which rows.
    pub variants: (Vec<Variant>, Vec<Chosen>),
}

/// The back end's variants for a spec, and the choice among them. Errors: why there is no kernel.
pub fn variants(spec: &KernelSpec, backend: &dyn Backend) -> Result<(Vec<Variant>, Vec<Chosen>), String> {
    let variants = backend.candidates(spec)?;
    let chosen = choose(&variants, spec.max_rows)?;
    Ok((variants, chosen))
}

/// Chooses the kernels. Errors: an op that no step stands for or that the target refuses; a cache that is
/// read after it was overwritten; a weight that is wanted in two layouts or is too large.
pub fn run(graph: &Graph, backend: &dyn Backend) -> Result<Selected, PassError> {
    let mut lowered = Vec::new();
    let mut overwritten: HashMap<ValueId, OpId> = HashMap::new();
    for id in graph.ops() {
        check_reads(graph, id, &overwritten)?;
        overwritten.extend(appended(graph.op(id)).map(|version| (version, id)));
        lowered.extend(lower(graph, id, backend)?.map(|step| (id, step)));
    }
    let layouts = layouts(graph, &lowered)?;
    let mut selected = Selected { steps: Vec::new(), kernels: Vec::new(), layouts };
    for (id, step) in lowered {
        let spec = spec(graph, id, &step, &selected.layouts, backend)?;
        let kernel = match selected.kernels.iter().position(|kernel| kernel.spec == spec) {
            Some(kernel) => kernel,
            None => {
                let variants = variants(&spec, backend).map_err(|reason| {
                    PassError::at(PASS, graph, id, format!("the target has no kernel for this: {reason}"))
                        .help(advice(graph, &spec))
                })?;
                let name = kernel_name::unique(&spec, |name| selected.kernels.iter().any(|k| k.name == name));
                selected.kernels.push(KernelChoice { name, spec, variants });
                selected.kernels.len() - 1
            }
        };
        selected.steps.push((id, step, kernel));
    }
    Ok(selected)
}

/// A Plan has one cache for all versions, updated in place: a version can be read until the next append.
/// `overwritten`: the appends before this op, by the version that they continue.
fn check_reads(graph: &Graph, id: OpId, overwritten: &HashMap<ValueId, OpId>) -> Result<(), PassError> {
    for version in cache_reads(graph, id) {
        if let Some(append) = overwritten.get(&version) {
            let by =
                graph.op(*append).layer.map_or("another op".to_string(), |layer| format!("layer {layer}"));
            let message = format!("%{} is read after {by} has overwritten it", graph.name(version));
            return Err(PassError::at(PASS, graph, id, message)
                .help("read it before the next append, or read the newest version"));
        }
    }
    Ok(())
}

/// The one layout of every weight.
fn layouts(graph: &Graph, steps: &[(OpId, Lowered)]) -> Result<HashMap<ValueId, Layout>, PassError> {
    let mut layouts: HashMap<ValueId, Layout> = HashMap::new();
    let mut total: u64 = 0;
    for (id, step) in steps {
        for (value, layout) in &step.layouts {
            match layouts.insert(*value, *layout) {
                Some(other) if other == *layout => {}
                Some(other) => {
                    let name = graph.name(*value);
                    let message = format!("@{name} is wanted in two layouts: {other:?} and {layout:?}");
                    return Err(
                        PassError::at(PASS, graph, *id, message).help("give each use a weight of its own")
                    );
                }
                None => {
                    let bytes = format(graph, *value, *layout).and_then(|format| format.checked_bytes());
                    let bytes = bytes.and_then(|bytes| total.checked_add(bytes));
                    total = bytes.filter(|total| *total <= hyc_plan::MAX_BYTES).ok_or_else(|| {
                        let message =
                            format!("with @{} the weights take more than 1 PiB", graph.name(*value));
                        PassError::at(PASS, graph, *id, message)
                    })?;
                }
            }
        }
    }
    Ok(layouts)
}

/// The format of a weight in this layout.
fn format(graph: &Graph, weight: ValueId, layout: Layout) -> Option<Format> {
    match graph.ty(weight) {
        Type::Weight { codec, .. } => Some(Format { codec: *codec, layout }),
        Type::Tensor { .. } | Type::Cache(_) | Type::Selection(_) | Type::Lists(_) => None,
    }
}

/// What kernels know of a cache.
pub fn cache_spec(cache: &CacheType, backend: &dyn Backend) -> CacheSpec {
    let spec = CacheSpec {
        kv_heads: cache.kv_heads,
        qk_dim: cache.qk_dim,
        v_dim: cache.v_dim,
        codec: cache.codec,
        page: cache.page,
        policy: cache.policy,
        order: KvOrder::Columns,
    };
    CacheSpec { order: backend.kv_order(&spec), ..spec }
}

fn spec(
    graph: &Graph,
    id: OpId,
    step: &Lowered,
    layouts: &HashMap<ValueId, Layout>,
    backend: &dyn Backend,
) -> Result<KernelSpec, PassError> {
    let mut rows = Rows::Tokens;
    let mut operands = Vec::with_capacity(step.operands.len());
    for value in &step.operands {
        let operand = match graph.ty(*value) {
            Type::Tensor { elem, dims } => {
                // The rows of a step are those of its results, which come last.
                rows = match dims.first() {
                    Some(Dim::Sym(Sym::Outputs)) => Rows::Outputs,
                    _ => Rows::Tokens,
                };
                let width = graph.ty(*value).width().unwrap_or(0);
                OperandSpec::Tensor { elem: *elem, width, stride: stride(width) }
            }
            Type::Selection(selection) => {
                let width = selection.shape.kv_heads * selection.shape.blocks;
                OperandSpec::Tensor { elem: Elem::I32, width, stride: stride(width) }
            }
            Type::Lists(ListsType { selection, lists }) => {
                let width = lists.width(selection.shape).unwrap_or(0);
                OperandSpec::Tensor { elem: Elem::I32, width, stride: stride(width) }
            }
            Type::Weight { codec, .. } => match layouts.get(value) {
                Some(layout) => OperandSpec::Weight(Format { codec: *codec, layout: *layout }),
                None => {
                    let message = format!("@{} has no layout", graph.name(*value));
                    return Err(PassError::at(PASS, graph, id, message));
                }
            },
            Type::Cache(cache) => OperandSpec::Cache(cache_spec(cache, backend)),
        };
        operands.push(operand);
    }
    let max_rows = rows.count(graph.header.chunk, graph.header.max_outputs);
    let max_context = graph.header.max_context;
    Ok(KernelSpec { op: step.op, operands, rows, max_rows, max_context })
}

/// What to do where there is no kernel for this.
fn advice(graph: &Graph, spec: &KernelSpec) -> String {
    let target = graph.header.target;
    let grouped =
        |operand: &OperandSpec| matches!(operand, OperandSpec::Weight(f) if f.codec.group().is_some());
    if spec.operands.iter().any(grouped) {
        return format!(
            "`hyc explain weights.quantise` says which groups target `{target}` takes; weights of f32 and bf16 every target reads"
        );
    }
    if spec.operands.iter().any(|operand| matches!(operand, OperandSpec::Cache(c) if c.codec.scaled())) {
        return format!(
            "write `kv_dtype = \"bf16\"` under [target]; target `{target}` may have no kernel for caches of another codec"
        );
    }
    format!("choose a shape that target `{target}` has kernels for")
}
