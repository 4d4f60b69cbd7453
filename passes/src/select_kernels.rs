//! `select-kernels`: one kernel for each distinct op and shape.
//!
//! Every op becomes a step with the layouts that its weights shall have; steps that agree in everything a
//! kernel may depend on share one kernel. The target is asked whether it supports each of them, so that what
//! it cannot run is said here, by op, and never met by code generation.

use std::collections::HashMap;

use hyc_ir::plan::{CacheSpec, Elem, KernelSpec, Layout, OperandSpec, Rows};
use hyc_ir::{Graph, OpId, Sym, Type, ValueId};

use crate::error::PassError;
use crate::lower::{Lowered, lower};
use crate::plan_memory::stride;

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
}

/// Chooses the kernels.
pub fn run(
    graph: &Graph,
    supports: &dyn Fn(&KernelSpec) -> Result<(), String>,
) -> Result<Selected, PassError> {
    let mut lowered = Vec::new();
    let mut layouts: HashMap<ValueId, Layout> = HashMap::new();
    for id in graph.ops() {
        let Some(step) = lower(graph, id)? else { continue };
        for (value, layout) in &step.layouts {
            if let Some(other) = layouts.insert(*value, *layout)
                && other != *layout
            {
                let message =
                    format!("@{} is wanted in two layouts: {other:?} and {layout:?}", graph.name(*value));
                return Err(PassError::at(PASS, graph, id, message).help("give each use a weight of its own"));
            }
        }
        lowered.push((id, step));
    }
    let mut selected = Selected { steps: Vec::new(), kernels: Vec::new(), layouts };
    for (id, step) in lowered {
        let spec = spec(graph, id, &step, &selected.layouts)?;
        let kernel = match selected.kernels.iter().position(|kernel| kernel.spec == spec) {
            Some(kernel) => kernel,
            None => {
                supports(&spec).map_err(|reason| {
                    PassError::at(PASS, graph, id, format!("the target has no kernel for this: {reason}"))
                })?;
                let name = format!("k{}_{}", selected.kernels.len(), spec.op.name());
                selected.kernels.push(KernelChoice { name, spec });
                selected.kernels.len() - 1
            }
        };
        selected.steps.push((id, step, kernel));
    }
    Ok(selected)
}

fn spec(
    graph: &Graph,
    id: OpId,
    step: &Lowered,
    layouts: &HashMap<ValueId, Layout>,
) -> Result<KernelSpec, PassError> {
    let mut rows = Rows::Tokens;
    let mut operands = Vec::with_capacity(step.operands.len());
    for value in &step.operands {
        let operand = match graph.ty(*value) {
            Type::Tensor { elem, dims } => {
                // The rows of a step are those of its results, which come last.
                rows = match dims.first() {
                    Some(hyc_ir::Dim::Sym(Sym::Outputs)) => Rows::Outputs,
                    _ => Rows::Tokens,
                };
                let width = graph.ty(*value).width().unwrap_or(0);
                OperandSpec::Tensor { elem: *elem, width, stride: stride(width) }
            }
            Type::Selection(selection) => {
                let width = selection.shape.kv_heads * selection.shape.blocks;
                OperandSpec::Tensor { elem: Elem::I32, width, stride: stride(width) }
            }
            Type::Weight { elem, .. } => match layouts.get(value) {
                Some(layout) => OperandSpec::Weight { elem: *elem, layout: *layout },
                None => {
                    let message = format!("@{} has no layout", graph.name(*value));
                    return Err(PassError::at(PASS, graph, id, message));
                }
            },
            Type::Cache(cache) => OperandSpec::Cache(CacheSpec {
                kv_heads: cache.kv_heads,
                qk_dim: cache.qk_dim,
                v_dim: cache.v_dim,
                elem: cache.elem,
                page: cache.page,
                policy: cache.policy,
            }),
        };
        operands.push(operand);
    }
    let max_rows = match rows {
        Rows::Tokens => graph.header.chunk,
        Rows::Outputs => graph.header.max_outputs,
    };
    let max_context = graph.header.max_context;
    Ok(KernelSpec { op: step.op, operands, rows, max_rows, max_context })
}
