//! `schedule`: the Plan.
//!
//! Steps stand in the graph's order, which keeps a layer's values together. Buffers get the places that
//! plan-memory found, caches one entry an owner (aliases are readers of it), weights one entry each in the
//! order of the graph. What comes out passes the Plan's own verifier, and every step has the very constants
//! that its kernel was selected for. Nothing is reordered and no kernel is chosen here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hyc_ir::{Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::{
    Backend, Buffer, BufferId, Cache, CacheId, Chain, Elem, Format, Kernel, KernelId, ModelInfo, Operand,
    PLAN_VERSION, Plan, Rows, Step, Weight, WeightId, ops,
};

use crate::error::{PassError, listed};
use crate::kernel_name;
use crate::plan_memory::Arena;
use crate::rewrite::{cache_reads, cache_roots};
use crate::select_kernels::{KernelChoice, Selected, cache_spec, variants};
use crate::slices;

const PASS: &str = "schedule";

/// Assembles the Plan.
pub fn run(
    graph: &Graph,
    arena: &Arena,
    selected: &Selected,
    backend: &dyn Backend,
) -> Result<Plan, PassError> {
    let mut ids: HashMap<ValueId, Operand> = HashMap::new();
    let buffers = buffers(graph, arena, &mut ids);
    let weights = weights(graph, selected, &mut ids);
    let caches = caches(graph, backend, &mut ids)?;
    let logits = graph
        .ops()
        .find(|id| graph.op(*id).op == (Op::Output(op::Output {})))
        .map(|id| graph.op(id).operands[0]);
    let Some(Operand::Buffer(logits)) = logits.and_then(|value| ids.get(&value).copied()) else {
        return Err(PassError::new(PASS, "the graph has no output"));
    };
    let target = backend.target();
    let kernel = |k: &KernelChoice| Kernel::new(k.name.clone(), &k.spec, &target, k.variants.clone());
    let kernels = selected.kernels.iter().map(kernel).collect();
    let mut plan = Plan {
        version: PLAN_VERSION,
        model: model_info(graph, &caches)?,
        target,
        arena_bytes: arena.bytes,
        buffers,
        weights,
        caches,
        steps: Vec::new(),
        kernels,
        chains: chains(graph),
        logits,
        sampled: None,
        slices: vec![],
        slice_kernels: vec![],
    };
    for (id, lowered, kernel) in &selected.steps {
        let operands: Option<Vec<Operand>> = lowered.operands.iter().map(|v| ids.get(v).copied()).collect();
        let operands = operands.ok_or_else(|| PassError::at(PASS, graph, *id, "an operand has no place"))?;
        let step = step(graph, *id, lowered.op, operands, *kernel);
        if plan.spec(&step) != selected.kernels[*kernel].spec {
            return Err(PassError::at(PASS, graph, *id, "the step is not what its kernel was selected for")
                .help("this is a bug of hyc"));
        }
        plan.steps.push(step);
    }
    if backend.samples() {
        add_sampling(&mut plan, backend)?;
    }
    slices::add(&mut plan, backend);
    plan.verify()
        .map_err(|errors| PassError::new(PASS, format!("the plan is not valid: {}", listed(&errors))))?;
    Ok(plan)
}

/// Ends the pass with the choice of tokens from its logits. Errors: the target has no kernel for it.
fn add_sampling(plan: &mut Plan, backend: &dyn Backend) -> Result<(), PassError> {
    let (to, kernel) = (BufferId(plan.buffers.len() as u32), KernelId(plan.kernels.len() as u32));
    let buffer = Buffer {
        name: "sampled".to_string(),
        offset: plan.arena_bytes.next_multiple_of(64),
        rows: Rows::Outputs,
        max_rows: plan.model.max_outputs,
        width: 1,
        elem: Elem::I32,
        selection: None,
    };
    plan.arena_bytes = buffer.offset + buffer.bytes();
    plan.buffers.push(buffer);
    plan.sampled = Some(to);
    let op = hyc_plan::StepOp::Sample(ops::Sample { vocab: plan.model.vocab, named: plan.model.named });
    let operands = vec![Operand::Buffer(plan.logits), Operand::Buffer(to)];
    let step = Step { name: op.name().to_string(), layer: None, op, operands, kernel };
    let spec = plan.spec(&step);
    let variants = variants(&spec, backend).map_err(|reason| {
        PassError::new(PASS, format!("the target has no kernel for `{}`: {reason}", op.name()))
    })?;
    let name = kernel_name::unique(&spec, |name| plan.kernels.iter().any(|k| k.name == name));
    plan.kernels.push(Kernel::new(name, &spec, &plan.target, variants));
    plan.steps.push(step);
    Ok(())
}

fn step(graph: &Graph, id: OpId, op: hyc_plan::StepOp, operands: Vec<Operand>, kernel: usize) -> Step {
    let layer = graph.op(id).layer;
    let name = match layer {
        Some(layer) => format!("L{layer}.{}", op.name()),
        None => op.name().to_string(),
    };
    Step { name, layer, op, operands, kernel: KernelId(kernel as u32) }
}

fn buffers(graph: &Graph, arena: &Arena, ids: &mut HashMap<ValueId, Operand>) -> Vec<Buffer> {
    let mut buffers = Vec::new();
    for place in &arena.placements {
        ids.insert(place.value, Operand::Buffer(BufferId(buffers.len() as u32)));
        let (elem, selection) = match graph.ty(place.value) {
            Type::Selection(selection) => (Elem::I32, Some(selection.shape)),
            Type::Tensor { elem, .. } => (*elem, None),
            Type::Lists(_) => (Elem::I32, None),
            _ => (Elem::F32, None),
        };
        let max_rows = place.rows.count(graph.header.chunk, graph.header.max_outputs);
        buffers.push(Buffer {
            name: graph.name(place.value).to_string(),
            offset: place.offset,
            rows: place.rows,
            max_rows,
            width: place.width,
            elem,
            selection,
        });
    }
    buffers
}

fn weights(graph: &Graph, selected: &Selected, ids: &mut HashMap<ValueId, Operand>) -> Vec<Weight> {
    let mut weights = Vec::new();
    for id in graph.ops().filter(|id| graph.op(*id).op == (Op::Weight(op::Weight {}))) {
        let value = graph.op(id).results[0];
        let (Type::Weight { codec, dims }, Some(layout)) = (graph.ty(value), selected.layouts.get(&value))
        else {
            continue;
        };
        ids.insert(value, Operand::Weight(WeightId(weights.len() as u32)));
        weights.push(Weight {
            name: graph.name(value).to_string(),
            shape: dims.clone(),
            format: Format { codec: *codec, layout: *layout },
        });
    }
    weights
}

/// One entry for each `cache()`; all its versions are that entry.
fn caches(
    graph: &Graph,
    backend: &dyn Backend,
    ids: &mut HashMap<ValueId, Operand>,
) -> Result<Vec<Cache>, PassError> {
    let mut caches = Vec::new();
    let mut of_root: HashMap<ValueId, CacheId> = HashMap::new();
    for id in graph.ops() {
        let Op::Cache(op::Cache { owner, .. }) = graph.op(id).op else { continue };
        let root = graph.op(id).results[0];
        let Type::Cache(ty) = graph.ty(root) else { continue };
        let owner =
            u32::try_from(owner).map_err(|_| PassError::at(PASS, graph, id, "the owner is no layer"))?;
        of_root.insert(root, CacheId(caches.len() as u32));
        caches.push(Cache {
            name: graph.name(root).to_string(),
            owner,
            // The owner counts as a reader, whoever else there is.
            readers: vec![owner],
            kv_heads: ty.kv_heads,
            qk_dim: ty.qk_dim,
            v_dim: ty.v_dim,
            codec: ty.codec,
            page: ty.page,
            policy: ty.policy,
            order: cache_spec(ty, backend).order,
        });
    }
    for (version, root) in cache_roots(graph) {
        if let Some(id) = of_root.get(&root) {
            ids.insert(version, Operand::Cache(*id));
        }
    }
    let mut readers: BTreeMap<CacheId, BTreeSet<u32>> = BTreeMap::new();
    for id in graph.ops() {
        for value in cache_reads(graph, id) {
            if let (Some(Operand::Cache(cache)), Some(layer)) = (ids.get(&value), graph.op(id).layer) {
                readers.entry(*cache).or_default().insert(layer);
            }
        }
    }
    for (cache, layers) in readers {
        let cache = &mut caches[cache.index()];
        cache.readers =
            layers.into_iter().chain([cache.owner]).collect::<BTreeSet<u32>>().into_iter().collect();
    }
    Ok(caches)
}

fn model_info(graph: &Graph, caches: &[Cache]) -> Result<ModelInfo, PassError> {
    let h = &graph.header;
    let pages: BTreeSet<u64> = caches.iter().map(|cache| cache.page).collect();
    let page = match pages.len() {
        0 => 64,
        1 => pages.into_iter().next().unwrap_or(64),
        _ => return Err(PassError::new(PASS, "the caches have pages of different sizes")),
    };
    Ok(ModelInfo {
        name: h.name.clone(),
        layers: u32::try_from(h.layers).map_err(|_| PassError::new(PASS, "too many layers"))?,
        hidden: h.hidden,
        vocab: h.vocab,
        named: h.named,
        max_context: h.max_context,
        max_batch: h.max_batch,
        chunk: h.chunk,
        max_outputs: h.max_outputs,
        page,
    })
}

/// Who selects for whom, from the selections' uses.
fn chains(graph: &Graph) -> Vec<Chain> {
    let mut chains = Vec::new();
    let roots = cache_roots(graph);
    for id in graph.ops() {
        let data = graph.op(id);
        let (Op::OracleAttention(_), Some(oracle)) = (&data.op, data.layer) else { continue };
        let root = roots.get(&data.operands[1]);
        let users = graph.uses(data.results[1]).into_iter().map(|(user, _)| user);
        let readers: Vec<OpId> =
            users.filter(|user| graph.op(*user).op != Op::PageLists(op::PageLists {})).collect();
        let shared = |reader: &OpId| roots.get(&graph.op(*reader).operands[1]) == root;
        let sparse: BTreeSet<u32> = readers.iter().filter_map(|reader| graph.op(*reader).layer).collect();
        chains.push(Chain {
            oracle,
            sparse: sparse.into_iter().collect(),
            shared_kv: !readers.is_empty() && readers.iter().all(shared),
        });
    }
    chains
}
