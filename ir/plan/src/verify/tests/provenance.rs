//! Each rule of selection provenance, broken once for each op that reads a selection.

use super::*;
use crate::ops;

/// The plan whose layer 1 reads with both branches, its window in layer 0's cache too.
fn hybrid(p: &mut Plan) {
    let op = StepOp::HybridAttention(ops::HybridAttention {
        shape: SHAPE,
        select: SELECT,
        window: 8,
        gate: GateMode::None,
    });
    let b = |i| Operand::Buffer(BufferId(i));
    let (cache, sink) = (Operand::Cache(CacheId(0)), Operand::Weight(WeightId(4)));
    p.steps[3] = step("L1.hybrid", Some(1), op, vec![b(1), cache, b(3), sink, cache, sink, b(4)]);
    add_kernels(p);
}

/// For each op that reads a selection.
#[test]
fn selection_provenance() {
    for reader in [|_: &mut Plan| (), hybrid] {
        let mut valid = plan();
        reader(&mut valid);
        assert_eq!(valid.verify(), Ok(()));
        let broken = |words: &str, change: fn(&mut Plan)| {
            broken(words, |p| {
                reader(p);
                change(p);
            });
        };
        // Another op's output lies over the list between its producer and its reader.
        broken("reads b3", |p| {
            let op = StepOp::Add(ops::Add { width: 16 });
            let b = |i| Operand::Buffer(BufferId(i));
            p.buffers.push(buffer("t", 3, Rows::Tokens, 16, Elem::F32));
            p.steps.insert(3, step("L0.add", Some(0), op, vec![b(0), b(2), b(7)]));
            add_kernels(p);
        });
        // Nobody makes it, or only later.
        broken("reads b3", |p| p.steps.swap(2, 3));
        broken("reads b3", |p| drop(p.steps.remove(2)));
        // Another shape than was made.
        broken("operand `sel`", |p| p.buffers[3].selection = Some(SelectShape { block: 16, ..SELECT }));
        broken("pages of 8", |p| {
            let wide = SelectShape { block: 16, ..SELECT };
            p.buffers[3].selection = Some(wide);
            for step in &mut p.steps {
                match &mut step.op {
                    StepOp::OracleAttention(ops::OracleAttention { select, .. })
                    | StepOp::SparseAttention(ops::SparseAttention { select, .. })
                    | StepOp::HybridAttention(ops::HybridAttention { select, .. }) => *select = wide,
                    _ => {}
                }
            }
        });
        // Layer 1 reads the blocks that layer 0 selected over its own cache in another layer's.
        broken("selected over cache c0", |p| {
            p.caches.push(Cache { name: "other".into(), ..p.caches[0].clone() });
            let mut append = p.steps[1].clone();
            append.operands[4] = Operand::Buffer(BufferId(7));
            append.operands[5] = Operand::Cache(CacheId(1));
            p.buffers.push(buffer("q2", 8, Rows::Tokens, 16, Elem::F32));
            p.arena_bytes = 9 * 1024;
            p.steps.insert(3, append);
            p.steps[4].operands[1] = Operand::Cache(CacheId(1));
        });
        broken("before its owner", |p| drop(p.steps.remove(1)));
        // A ring keeps no block that was selected.
        broken("reads more of cache c0 than", |p| {
            p.caches[0].policy = CachePolicy::Ring { window: 8, pages: 4 };
        });
    }
}
