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
        lists: None,
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

const LISTS: ListShape = ListShape { tile: 4, least: 2 };

/// The plan whose layer 1 reads page lists beside the selection.
fn listed(p: &mut Plan) {
    let b = |i| Operand::Buffer(BufferId(i));
    let width = LISTS.width(SELECT).unwrap();
    p.buffers.push(Buffer { selection: None, ..buffer("lists", 7, Rows::Tokens, width, Elem::I32) });
    p.arena_bytes = 8 * 1024;
    let op = ops::PageLists { select: SELECT, qk_dim: 8, v_dim: 8, lists: LISTS };
    let lists =
        step("L0.lists", Some(0), StepOp::PageLists(op), vec![Operand::Cache(CacheId(0)), b(3), b(7)]);
    p.steps.insert(3, lists);
    if let StepOp::SparseAttention(op) = &mut p.steps[4].op {
        op.lists = Some(LISTS);
    }
    p.steps[4].operands.insert(4, b(7));
    add_kernels(p);
}

/// Page lists are those of the very selection that is read.
#[test]
fn page_lists_provenance() {
    let mut valid = plan();
    listed(&mut valid);
    assert_eq!(valid.verify(), Ok(()));
    let broken = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            listed(p);
            change(p);
            add_kernels(p);
        });
    };
    let other = "L0.lists does not list the pages of the selection that is read";
    // Nobody makes them, or only later.
    broken("reads b7", |p| drop(p.steps.remove(3)));
    broken("reads b7", |p| p.steps.swap(3, 4));
    // The layer selects anew into the same place, behind the lists.
    broken(other, |p| p.steps.insert(4, p.steps[2].clone()));
    // A second selection is read beside the lists of the first.
    broken(other, |p| {
        p.arena_bytes = 9 * 1024;
        p.buffers.push(buffer("again", 8, Rows::Tokens, 2, Elem::I32));
        let mut again = p.steps[2].clone();
        again.operands[3] = Operand::Buffer(BufferId(8));
        p.steps.insert(3, again);
        p.steps[5].operands[2] = Operand::Buffer(BufferId(8));
    });
    // Of other tiles, or in steps of other sizes.
    broken(other, |p| {
        if let StepOp::SparseAttention(op) = &mut p.steps[4].op {
            op.lists = Some(ListShape { least: 1, ..LISTS });
        }
    });
    // Something else of that width.
    broken("operand `lists`", |p| p.steps[4].operands[4] = Operand::Buffer(BufferId(3)));
    broken("operand `lists`", |p| p.buffers[7].width += 16);
    broken("not possible", |p| {
        if let StepOp::PageLists(op) = &mut p.steps[3].op {
            op.lists.tile = 0;
        }
    });
}
