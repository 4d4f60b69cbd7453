//! `SparseAttention`, `WindowAttention` and `HybridAttention` on the tensor cores of `attend`: a block a (token, KV
//! head), its branches one after the other. Reference: `reference::attention`.

use hyc_ir::plan::{AttnShape, Extent, GateMode, KernelSpec, SelectShape, StepOp, When};

use super::attend::{Item, Pages, Reader, group, list, place};
use super::emit::{Emit, Float, Int, WARP};
use super::qkv::spec_cache;
use super::tensor::SHARED_SLACK;
use super::{Maker, stride};

/// Rows of a step whose blocks have eight warps.
const FEW: u64 = 32;

/// Which pages a branch reads.
#[derive(Clone, Copy)]
enum Source {
    /// Those that selection operand `.0` names.
    Listed(usize, SelectShape),
    /// Those of a window of this many tokens.
    Window(u64),
}

/// One softmax over one cache, gated.
#[derive(Clone, Copy)]
struct Branch {
    at: usize,
    source: Source,
    sink: Option<usize>,
    gate: Option<(usize, GateMode)>,
}

/// `SparseAttention`, `WindowAttention` and `HybridAttention`: one or two branches, summed.
pub fn by_query(k: &mut Maker<'_, '_>, shape: AttnShape) {
    let spec = k.spec;
    let branches = match spec.op {
        StepOp::WindowAttention { window, sink, .. } => {
            vec![Branch { at: 1, source: Source::Window(window), sink: sink.then_some(2), gate: None }]
        }
        StepOp::SparseAttention { select, sink, .. } => {
            vec![Branch { at: 1, source: Source::Listed(2, select), sink: sink.then_some(3), gate: None }]
        }
        StepOp::HybridAttention { select, window, gate, .. } => {
            let gates = |at| (gate != GateMode::None).then_some((at, gate));
            vec![
                Branch { at: 1, source: Source::Listed(2, select), sink: Some(3), gate: gates(6) },
                Branch { at: 4, source: Source::Window(window), sink: Some(5), gate: gates(7) },
            ]
        }
        _ => return,
    };
    let grid = [k.rows(shape.kv_heads, 1), Extent::fixed(1)];
    // Few rows are few blocks: more warps share the pages of each.
    let most = spec.max_rows;
    let few = FEW.min(most);
    query_launch(k, &branches, shape, "_few", (8, grid), super::dense::when(spec, 1, few));
    if most > FEW {
        query_launch(k, &branches, shape, "", (4, grid), super::dense::when(spec, FEW + 1, most));
    }
}

fn query_launch(
    k: &mut Maker<'_, '_>,
    branches: &[Branch],
    shape: AttnShape,
    part: &str,
    (warps, grid): (u64, [Extent; 2]),
    when: Option<When>,
) {
    let spec = k.spec;
    let out_at = spec.operands.len() - 1;
    // What warps leave for each other: their states of every head.
    let shared = Reader { shape, cache: spec_cache(spec, 1), at: 1, warps }.merge_bytes() + SHARED_SLACK;
    k.launch_early(part, grid, warps * WARP, when, shared, |e| {
        let item = Item::new(e, e.block_x(), shape.kv_heads);
        let reader = |at| Reader { shape, cache: spec_cache(spec, at), at, warps };
        let first = reader(branches[0].at);
        // What the step's context alone says is looked up before the inputs are there.
        let windows: Vec<_> = branches
            .iter()
            .map(|branch| {
                let early = matches!(branch.source, Source::Window(_));
                early.then(|| branch.pages(e, spec, &reader(branch.at), item))
            })
            .collect();
        e.wait_for_inputs();
        let q = first.query(e, spec, item);
        let memory = first.merge_memory(e);
        for (i, (branch, window)) in branches.iter().zip(windows).enumerate() {
            let r = reader(branch.at);
            let pages = window.unwrap_or_else(|| branch.pages(e, spec, &r, item));
            let state = r.run(e, item, &q, &pages, None);
            r.leave(e, &state, &memory);
            r.finish(e, item, &memory, branch.sink, &|e, h, element, y| {
                let y = branch.gated(e, spec, shape, item, h, element, y);
                let at = place(e, spec, shape, out_at, item, h, element);
                // The first branch's value was written by this thread.
                let y = if i > 0 { e.fadd(y, e.load(e.operand(out_at), at)) } else { y };
                e.store(e.operand(out_at), at, y.into());
            });
        }
    });
}

impl Branch {
    fn pages<'c>(&self, e: &Emit<'c>, spec: &KernelSpec, r: &Reader, item: Item<'c>) -> Pages<'c> {
        match self.source {
            Source::Listed(at, select) => {
                let list = list(e, spec, item, at, select);
                r.pages(e, item, (e.int(select.blocks), select.blocks), e.int(0), &|e, i| e.load_int(list, i))
            }
            Source::Window(width) => {
                let from = e.max(e.add_const(item.position, 1 - width as i64), e.int(0));
                let begin = e.div_rem(from, r.cache.page).0;
                let end = e.add_const(e.div_rem(item.position, r.cache.page).0, 1);
                let most = width.div_ceil(r.cache.page) + 1;
                r.pages(e, item, (e.sub(end, begin), most), from, &|e, i| e.add(begin, i))
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an element and where it stands")]
    fn gated<'c>(
        &self,
        e: &Emit<'c>,
        spec: &KernelSpec,
        shape: AttnShape,
        item: Item<'c>,
        h: Int<'c>,
        element: Int<'c>,
        y: Float<'c>,
    ) -> Float<'c> {
        let Some((at, mode)) = self.gate else { return y };
        let head = e.add(e.mul_const(item.kv_head, group(shape)), h);
        let column = match mode {
            GateMode::Head => head,
            _ => e.add(e.mul_const(head, shape.v_dim), element),
        };
        let at_row = e.wide(e.mul_const(item.row, stride(spec, at)));
        e.fmul(y, e.sigmoid(e.load(e.operand(at), e.add(at_row, e.wide(column)))))
    }
}
