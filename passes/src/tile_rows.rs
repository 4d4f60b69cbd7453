//! `tile-rows`: rows that only kernels on tensor cores read lie in bf16 tiles, as the weights of their products do.
//!
//! ```text
//! %h = rmsnorm(%x, @n) : tensor<tokens x 4096 x f32>     %h = rmsnorm(%x, @n) : tensor<tokens x 4096 x bf16>
//! %q = qkv_append(%h, @wq, ..)                       =>  %q = qkv_append(%h, @wq, ..)
//! %g = linear(%h, @wg)                                   %g = linear(%h, @wg)
//! ```
//! Such a product multiplies bf16 in tiles. Rows that come as anything else it has to pack first, which is a launch and a way
//! through memory; so what makes rows for such products alone rounds them and places them. The back end says which ops do
//! so; a value stays as it is where one of its readers wants f32, or where its rows are not whole tiles.

use std::collections::HashMap;

use hyc_ir::{Dim, Graph, OpId, Type, ValueId};
use hyc_plan::tensor::can_tile;
use hyc_plan::{Backend, Elem, Kind, Layout};

use crate::error::PassError;
use crate::lower::{Lowered, lower};

/// Lays out rows. Returns how many values changed.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> Result<usize, PassError> {
    // How often each value is an operand or a result that may lie in tiles.
    let mut allowed: HashMap<ValueId, usize> = HashMap::new();
    for step in graph.ops().filter_map(|id| tiled(graph, id, backend)) {
        for (value, role) in step.operands.iter().zip(step.op.roles()) {
            if let Kind::RowsOrTiles(_) = role.kind {
                *allowed.entry(*value).or_default() += 1;
            }
        }
    }
    let mut changes = 0;
    for value in graph.values() {
        let Type::Tensor { elem: elem @ (Elem::F32 | Elem::Bf16), dims } = graph.ty(value).clone() else {
            continue;
        };
        let uses = graph.uses(value).len();
        let everywhere = uses > 0 && whole_tiles(&dims) && allowed.get(&value) == Some(&(uses + 1));
        // A dump may say bf16 where this back end wants rows.
        let wanted = if everywhere { Elem::Bf16 } else { Elem::F32 };
        if wanted != elem {
            graph.set_ty(value, Type::Tensor { elem: wanted, dims });
            changes += 1;
        }
    }
    Ok(changes)
}

/// The op as a step, where its kernels read and write tiles.
pub fn tiled(graph: &Graph, id: OpId, backend: &dyn Backend) -> Option<Lowered> {
    // What no step stands for is select-kernels' to refuse.
    let step = lower(graph, id, backend).ok()??;
    let layouts: Vec<Layout> = step.layouts.iter().map(|(_, layout)| *layout).collect();
    backend.tiles_rows(&step.op, &layouts).then_some(step)
}

/// Whether these are rows of whole tiles.
fn whole_tiles(dims: &[Dim]) -> bool {
    matches!(*dims, [Dim::Sym(_), Dim::Const(width)] if can_tile(width))
}

/// Whether the value is rows of whole tiles, in whatever order they are so far.
pub fn can_lie(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.ty(value), Type::Tensor { elem: Elem::F32 | Elem::Bf16, dims } if whole_tiles(dims))
}
