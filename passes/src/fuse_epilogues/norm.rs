//! A norm whose every user is a product joins each of them.
//!
//! ```text
//! %h = rmsnorm(%x, @n) {eps = 1e-6}
//! %q = qkv_append(%h, @wq, ..)          =>  %q = qkv_append(%x, @n, @wq, ..) {norm = 1e-6}
//! %g = linear(%h, @wg)                      %g = fused_linear(%x, @n, @wg) {norm = 1e-6, epilogue = store}
//! ```
//! A row's norm costs little beside a product, so each user computes it again. Left alone where any user is
//! something else (the experts of a MoE read the normalised row itself), where the norm is over heads, and where several
//! users all read tiles, which the norm then writes once for all of them (`tile-rows`).

use hyc_ir::{Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::{Backend, Epilogue};

use crate::tile_rows::{can_lie, tiled};

/// Fuses norms. Returns the rewrites made.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> usize {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        let data = graph.op(id);
        let Op::RmsNorm(op::RmsNorm { eps }) = data.op else { continue };
        let (x, weight, normed) = (data.operands[0], data.operands[1], data.results[0]);
        let uses = graph.uses(normed);
        if uses.is_empty()
            || hands_over_tiles(graph, normed, &uses, backend)
            || !whole_row(graph, x, weight)
            || !uses.iter().all(|use_| takes_norm(graph, *use_))
        {
            continue;
        }
        for (user, _) in uses {
            let data = graph.op(user);
            let mut operands = data.operands.clone();
            operands[0] = x;
            operands.insert(1, weight);
            let op = match data.op {
                Op::QkvAppend(op) => Op::QkvAppend(op::QkvAppend { norm: Some(eps), ..op }),
                Op::FusedLinear(op) => Op::FusedLinear(op::FusedLinear { norm: Some(eps), ..op }),
                _ => {
                    let (norm, epilogue) = (Some(eps), Epilogue::Store);
                    Op::FusedLinear(op::FusedLinear { norm, epilogue, fp8_rows: None })
                }
            };
            graph.rewrite(user, op, operands);
        }
        graph.remove(id);
        changes += 1;
    }
    changes
}

/// Whether the normalised rows lie in tiles, or will, for several products. A single one packs them itself, and a kernel for one
/// row reads them as they are.
fn hands_over_tiles(graph: &Graph, normed: ValueId, uses: &[(OpId, usize)], backend: &dyn Backend) -> bool {
    let reads_tiles =
        |(user, operand): &(OpId, usize)| *operand == 0 && tiled(graph, *user, backend).is_some();
    uses.len() > 1 && can_lie(graph, normed) && uses.iter().all(reads_tiles)
}

fn takes_norm(graph: &Graph, (user, operand): (OpId, usize)) -> bool {
    operand == 0
        && matches!(
            graph.op(user).op,
            Op::Linear(op::Linear {})
                | Op::FusedLinear(op::FusedLinear { norm: None, .. })
                | Op::QkvAppend(op::QkvAppend { norm: None, .. })
        )
}

/// Whether the norm's weight is as long as a row (QK-norm's is as long as a head).
fn whole_row(graph: &Graph, x: ValueId, weight: ValueId) -> bool {
    match graph.ty(weight) {
        Type::Weight { dims, .. } => graph.ty(x).width() == dims.first().copied(),
        _ => false,
    }
}
