//! Each step's operands against what its op wants.

use super::super::{
    AttnShape, Buffer, Cache, Elem, Epilogue, GateMode, Layout, Operand, Plan, Rows, SelectShape, Step,
    StepOp,
};
use super::Report;

/// What an operand must be.
enum Want {
    /// f32 rows of this width, of the step's own row count.
    Rows(Option<u64>),
    /// f32 rows of this width, one a token, whatever the step's rows are.
    TokenRows(u64),
    /// i32 rows of this width.
    Indices(Option<u64>),
    /// A selection of this shape.
    Selection(SelectShape),
    /// An f32 vector.
    Vector(u64),
    /// Matrices `[count][out, inn]` in panels of `group`, or in tiles.
    Panels { count: u64, out: Option<u64>, inn: u64, group: Option<u64> },
    /// A table of rows, in either layout.
    Table { rows: u64, cols: u64 },
    /// A cache of this geometry.
    Cache { kv_heads: u64, qk_dim: u64, v_dim: u64 },
}

/// Checks one step: ids, operands, grid, kernel.
pub fn check(plan: &Plan, step: &Step, report: &mut Report) {
    if step.kernel.index() >= plan.kernels.len() {
        report.add(&step.name, format!("there is no kernel {}", step.kernel));
    }
    if step.layer.is_some_and(|layer| layer >= plan.model.layers) {
        report.add(&step.name, "its layer is not one of the model's");
    }
    let Some(wants) = wants(&step.op) else {
        return report.add(&step.name, "the op's sizes are not possible");
    };
    // The runtime checks token ids against the model's vocabulary.
    if let StepOp::Embed { vocab, .. } = step.op
        && vocab != plan.model.vocab
    {
        report.add(&step.name, format!("a table of {vocab} rows for a vocabulary of {}", plan.model.vocab));
    }
    if let StepOp::Sample { .. } = step.op
        && !matches!(step.operands[..], [Operand::Buffer(from), Operand::Buffer(to)]
            if from == plan.logits && Some(to) == plan.sampled)
    {
        report.add(&step.name, "samples something else than the plan's logits");
    }
    if by_token(&step.op) && rows_of(plan, step) != Rows::Tokens {
        report.add(&step.name, "its rows are not the step's tokens, whose lists it reads");
    }
    let roles = step.op.signature();
    if roles.len() != step.operands.len() || roles.len() != wants.len() {
        return report.add(&step.name, format!("{} operands for {}", step.operands.len(), roles.len()));
    }
    let before = report.0.len();
    let rows = rows_of(plan, step);
    for ((operand, want), role) in step.operands.iter().zip(&wants).zip(&roles) {
        if !holds(plan, operand, want, rows) {
            report.add(&step.name, format!("operand `{}` is not what the op wants", role.name));
        }
    }
    if report.0.len() == before {
        let panels = step.operands.iter().find_map(|operand| match operand {
            Operand::Weight(id) => Some(plan.weights[id.index()].layout.panels()).filter(|n| *n > 0),
            _ => None,
        });
        if step.op.grid(panels.unwrap_or(0), rows) != step.grid {
            report.add(&step.name, "its grid is not the op's");
        }
    }
}

/// Whether row i of an op is token i of the pass, whose id, position or sequence it looks up.
fn by_token(op: &StepOp) -> bool {
    match op {
        StepOp::Embed { .. }
        | StepOp::QkvAppend { .. }
        | StepOp::Rope { .. }
        | StepOp::Append { .. }
        | StepOp::FullAttention { .. }
        | StepOp::OracleAttention { .. }
        | StepOp::WindowAttention { .. }
        | StepOp::SparseAttention { .. }
        | StepOp::HybridAttention { .. } => true,
        StepOp::RmsNorm { .. }
        | StepOp::Linear { .. }
        | StepOp::Add { .. }
        | StepOp::SiluMul { .. }
        | StepOp::Gate { .. }
        | StepOp::Router { .. }
        | StepOp::ExpertsUp { .. }
        | StepOp::ExpertsDown { .. }
        | StepOp::GatherRows { .. }
        | StepOp::Sample { .. } => false,
    }
}

/// The rows of the last tensor that the step writes; of any tensor where it writes none.
fn rows_of(plan: &Plan, step: &Step) -> Rows {
    let buffers = step.operands.iter().rev().filter_map(|operand| match operand {
        Operand::Buffer(id) => plan.buffers.get(id.index()),
        _ => None,
    });
    buffers.map(|buffer| buffer.rows).next().unwrap_or(Rows::Tokens)
}

fn holds(plan: &Plan, operand: &Operand, want: &Want, rows: Rows) -> bool {
    match (operand, want) {
        (Operand::Buffer(id), want) => {
            plan.buffers.get(id.index()).is_some_and(|b| buffer_holds(b, want, rows))
        }
        (Operand::Weight(id), want) => {
            plan.weights.get(id.index()).is_some_and(|w| weight_holds(w.elem, w.layout, want))
        }
        (Operand::Cache(id), Want::Cache { kv_heads, qk_dim, v_dim }) => {
            let same = |c: &Cache| (c.kv_heads, c.qk_dim, c.v_dim) == (*kv_heads, *qk_dim, *v_dim);
            plan.caches.get(id.index()).is_some_and(same)
        }
        _ => false,
    }
}

fn buffer_holds(b: &Buffer, want: &Want, rows: Rows) -> bool {
    match want {
        Want::Rows(width) => Some(b.width) == *width && b.elem == Elem::F32 && b.rows == rows,
        Want::TokenRows(width) => b.width == *width && b.elem == Elem::F32 && b.rows == Rows::Tokens,
        Want::Indices(width) => Some(b.width) == *width && b.elem == Elem::I32 && b.rows == rows,
        Want::Selection(shape) => b.selection == Some(*shape) && b.rows == rows,
        _ => false,
    }
}

fn weight_holds(elem: Elem, layout: Layout, want: &Want) -> bool {
    match (layout, want) {
        (Layout::Vector { len }, Want::Vector(n)) => len == *n && elem == Elem::F32,
        (Layout::Panels { count, out, inn, group }, Want::Panels { count: c, out: o, inn: i, group: g }) => {
            (count, Some(out), inn) == (*c, *o, *i) && Some(group) == g.or(*o)
        }
        (Layout::Tiles { count, out, inn }, Want::Panels { count: c, out: o, inn: i, .. }) => {
            (count, Some(out), inn) == (*c, *o, *i)
        }
        (Layout::Tiles { count: 1, out, inn }, Want::Table { rows, cols }) => (out, inn) == (*rows, *cols),
        (Layout::Rows { rows, cols }, Want::Table { rows: r, cols: c }) => (rows, cols) == (*r, *c),
        (Layout::Panels { count: 1, out, inn, group }, Want::Table { rows, cols }) => {
            (out, inn, group) == (*rows, *cols, *rows)
        }
        _ => false,
    }
}

fn product(a: u64, b: u64) -> Option<u64> {
    a.checked_mul(b)
}

/// Whether heads share out evenly and nothing is zero.
fn possible(s: &AttnShape) -> Option<()> {
    let sizes = [s.heads, s.kv_heads, s.qk_dim, s.v_dim];
    (sizes.iter().all(|n| (1..1 << 24).contains(n)) && s.heads % s.kv_heads == 0).then_some(())
}

/// Whether every KV head has a list of its own, which is not empty.
fn selects(shape: &AttnShape, select: &SelectShape) -> Option<()> {
    (select.kv_heads == shape.kv_heads && select.blocks > 0).then_some(())
}

fn cache(s: &AttnShape) -> Want {
    Want::Cache { kv_heads: s.kv_heads, qk_dim: s.qk_dim, v_dim: s.v_dim }
}

/// What each operand must be, in the signature's order; `None` where the op's own sizes are impossible.
fn wants(op: &StepOp) -> Option<Vec<Want>> {
    let rows = |n| Want::Rows(Some(n));
    let panels = |count, out, inn| Want::Panels { count, out: Some(out), inn, group: None };
    Some(match *op {
        StepOp::Embed { vocab, hidden } => vec![Want::Table { rows: vocab, cols: hidden }, rows(hidden)],
        StepOp::RmsNorm { groups, width, .. } => {
            vec![Want::Rows(product(groups, width)), Want::Vector(width), Want::Rows(product(groups, width))]
        }
        StepOp::Linear { inn, out, norm, epilogue } => {
            let mut list = vec![rows(inn)];
            list.extend(norm.map(|_| Want::Vector(inn)));
            list.push(panels(1, out, inn));
            match epilogue {
                Epilogue::Store => {}
                Epilogue::Residual => list.push(rows(out)),
                Epilogue::SwiGlu => list.push(panels(1, out, inn)),
            }
            list.push(rows(out));
            list
        }
        StepOp::QkvAppend { inn, shape, norm, qk_norm, rope, own_kv } => {
            possible(&shape)?;
            (rope.dims % 2 == 0 && (2..=shape.qk_dim).contains(&rope.dims)).then_some(())?;
            let project =
                |heads, dim| Want::Panels { count: 1, out: product(heads, dim), inn, group: Some(dim) };
            let mut list = vec![rows(inn)];
            list.extend(norm.map(|_| Want::Vector(inn)));
            list.push(project(shape.heads, shape.qk_dim));
            if own_kv {
                list.push(project(shape.kv_heads, shape.qk_dim));
                list.push(project(shape.kv_heads, shape.v_dim));
            }
            if qk_norm.is_some() {
                list.extend((0..1 + usize::from(own_kv)).map(|_| Want::Vector(shape.qk_dim)));
            }
            list.push(Want::Rows(product(shape.heads, shape.qk_dim)));
            list.extend(own_kv.then(|| cache(&shape)));
            list
        }
        StepOp::Rope { heads, dim, rope } => {
            (rope.dims % 2 == 0 && (2..=dim).contains(&rope.dims)).then_some(())?;
            vec![Want::Rows(product(heads, dim)), Want::Rows(product(heads, dim))]
        }
        StepOp::Append { kv_heads, qk_dim, v_dim } => vec![
            Want::Rows(product(kv_heads, qk_dim)),
            Want::Rows(product(kv_heads, v_dim)),
            Want::Cache { kv_heads, qk_dim, v_dim },
        ],
        StepOp::Add { width } | StepOp::SiluMul { width } => vec![rows(width), rows(width), rows(width)],
        StepOp::Gate { heads, v_dim, mode } => {
            let gate = match mode {
                GateMode::None => return None,
                GateMode::Head => Some(heads),
                GateMode::Elementwise => product(heads, v_dim),
            };
            vec![Want::Rows(product(heads, v_dim)), Want::Rows(gate), Want::Rows(product(heads, v_dim))]
        }
        StepOp::FullAttention { shape, sink } => attention(&shape, None, sink)?,
        StepOp::WindowAttention { shape, window, sink } => {
            (window > 0).then_some(())?;
            attention(&shape, None, sink)?
        }
        StepOp::OracleAttention { shape, sink, select } => {
            selects(&shape, &select)?;
            let mut list = attention(&shape, None, sink)?;
            list.push(Want::Selection(select));
            list
        }
        StepOp::SparseAttention { shape, select, sink } => {
            selects(&shape, &select)?;
            attention(&shape, Some(select), sink)?
        }
        StepOp::HybridAttention { shape, select, window, gate } => {
            (window > 0).then_some(())?;
            selects(&shape, &select)?;
            let mut list = attention(&shape, Some(select), true)?;
            let out = list.pop()?;
            list.extend([cache(&shape), Want::Vector(shape.heads)]);
            let gates = match gate {
                GateMode::None => None,
                GateMode::Head => Some(shape.heads),
                GateMode::Elementwise => product(shape.heads, shape.v_dim),
            };
            list.extend(gates.iter().flat_map(|n| [rows(*n), rows(*n)]));
            list.push(out);
            list
        }
        StepOp::Router { experts, active } => {
            (active > 0 && active <= experts).then_some(())?;
            vec![rows(experts), Want::Indices(Some(active)), rows(active)]
        }
        StepOp::ExpertsUp { experts, active, .. } | StepOp::ExpertsDown { experts, active, .. }
            if active == 0 || active > experts =>
        {
            return None;
        }
        StepOp::ExpertsUp { experts, active, inn, ffn } => vec![
            rows(inn),
            Want::Indices(Some(active)),
            panels(experts, ffn, inn),
            panels(experts, ffn, inn),
            Want::Rows(product(active, ffn)),
        ],
        StepOp::ExpertsDown { experts, active, out, ffn } => vec![
            Want::Rows(product(active, ffn)),
            Want::Indices(Some(active)),
            rows(active),
            panels(experts, out, ffn),
            rows(out),
            rows(out),
        ],
        StepOp::Sample { vocab } => vec![rows(vocab), Want::Indices(Some(1))],
        StepOp::GatherRows { width } => vec![Want::TokenRows(width), rows(width)],
    })
}

/// q, cache, selection, sink, out.
fn attention(shape: &AttnShape, select: Option<SelectShape>, sink: bool) -> Option<Vec<Want>> {
    possible(shape)?;
    let mut list = vec![Want::Rows(product(shape.heads, shape.qk_dim)), cache(shape)];
    list.extend(select.map(Want::Selection));
    list.extend(sink.then_some(Want::Vector(shape.heads)));
    list.push(Want::Rows(product(shape.heads, shape.v_dim)));
    Some(list)
}
