//! SwiGLU and residual sums join the product before them.
//!
//! ```text
//! silu_mul(linear(%h, @g), linear(%h, @u))   =>  fused_linear(%h, @g, @u) {epilogue = swiglu}
//! add(%x, linear(%y, @w))                    =>  fused_linear(%y, @w, %x) {epilogue = residual}
//! add(%x, experts_down(..))                  =>  experts_down(.., %x) {residual = true}
//! ```
//! Left alone where the product has another user.

use hyc_ir::{Graph, Op, OpId, ValueId, op};
use hyc_plan::Epilogue;

use crate::rewrite::{fuse, sole_producer};

/// Fuses SwiGLU. Returns the rewrites made.
pub fn swiglu(graph: &mut Graph) -> usize {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        if graph.op(id).op != (Op::SiluMul(op::SiluMul {})) {
            continue;
        }
        let [a, b] = graph.op(id).operands[..] else { continue };
        let (Some((gate, g)), Some((up, u))) = (sole_producer(graph, a), sole_producer(graph, b)) else {
            continue;
        };
        let both = g.op == (Op::Linear(op::Linear {}))
            && u.op == (Op::Linear(op::Linear {}))
            && g.operands[0] == u.operands[0];
        if !both || gate == up {
            continue;
        }
        let operands = vec![g.operands[0], g.operands[1], u.operands[1]];
        let results = graph.op(id).results.clone();
        let op = Op::FusedLinear(op::FusedLinear { norm: None, epilogue: Epilogue::SwiGlu, fp8_rows: None });
        changes += usize::from(fuse(graph, &[gate, up, id], op, operands, results));
    }
    changes
}

/// Fuses residual sums. Returns the rewrites made.
pub fn residual(graph: &mut Graph) -> usize {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        if graph.op(id).op != (Op::Add(op::Add {})) {
            continue;
        }
        let [a, b] = graph.op(id).operands[..] else { continue };
        // The later operand first: in `add(x, linear(..))` x may be a product that others use as well.
        changes += usize::from(fuse_residual(graph, id, b, a) || fuse_residual(graph, id, a, b));
    }
    changes
}

fn fuse_residual(graph: &mut Graph, add: OpId, product: ValueId, residual: ValueId) -> bool {
    let Some((id, data)) = sole_producer(graph, product) else { return false };
    let mut operands = data.operands.clone();
    operands.push(residual);
    let op = match data.op {
        Op::Linear(op::Linear {}) => {
            Op::FusedLinear(op::FusedLinear { norm: None, epilogue: Epilogue::Residual, fp8_rows: None })
        }
        Op::ExpertsDown(op::ExpertsDown { residual: false, shared }) => {
            Op::ExpertsDown(op::ExpertsDown { residual: true, shared })
        }
        _ => return false,
    };
    let results = graph.op(add).results.clone();
    fuse(graph, &[id, add], op, operands, results)
}
