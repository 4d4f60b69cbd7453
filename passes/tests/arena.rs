//! plan-memory on random graphs: values that live at the same time never share bytes, every value has the
//! bytes that its buffer will have, and the arena is no smaller than what lives at once.

use hyc_ir::{Dim, Graph, Header, Op, OpData, SelectionType, Sym, Type, ValueId, op};
use hyc_passes::{Arena, plan_memory};
use hyc_plan::{Elem, Rows, SelectShape};
use proptest::prelude::*;

/// One op: widths of its results, whether they are selections, and which earlier values it reads.
#[derive(Debug, Clone)]
struct Draft {
    results: Vec<(u64, bool)>,
    reads: Vec<prop::sample::Index>,
    outputs: bool,
}

fn draft() -> impl Strategy<Value = Draft> {
    let results = prop::collection::vec((1u64..200, prop::bool::weighted(0.2)), 1..3);
    let reads = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (results, reads, prop::bool::weighted(0.2)).prop_map(|(results, reads, outputs)| Draft {
        results,
        reads,
        outputs,
    })
}

/// plan-memory looks at types and uses alone, so that any op does.
fn build(drafts: &[Draft], chunk: u64, max_outputs: u64) -> Graph {
    let header = Header {
        named: None,
        name: "random".to_string(),
        layers: 1,
        hidden: 16,
        vocab: 16,
        max_context: 64,
        max_batch: 1,
        chunk,
        max_outputs,
        target: hyc_plan::TargetKind::Host,
    };
    let mut graph = Graph::new(header);
    let mut made: Vec<ValueId> = Vec::new();
    for draft in drafts {
        let operands = match made.is_empty() {
            true => vec![],
            false => draft.reads.iter().map(|index| made[index.index(made.len())]).collect(),
        };
        let results: Vec<ValueId> =
            draft.results.iter().map(|result| graph.new_value("v", ty(*result, draft.outputs))).collect();
        made.extend(&results);
        graph.push(OpData {
            op: Op::Add(op::Add {}),
            operands,
            results,
            layer: None,
            chain: None,
            line: None,
        });
    }
    graph
}

fn ty((width, selection): (u64, bool), outputs: bool) -> Type {
    if selection {
        let shape = SelectShape { kv_heads: width, block: 64, blocks: 3 };
        return Type::Selection(SelectionType { shape, map: "pages".to_string() });
    }
    let rows = if outputs { Sym::Outputs } else { Sym::Tokens };
    Type::Tensor { elem: Elem::F32, dims: vec![Dim::Sym(rows), Dim::Const(width)] }
}

/// First and last place of a value, told anew from the graph's uses.
fn lifetime(graph: &Graph, value: ValueId) -> (usize, usize) {
    let index = |id| graph.ops().position(|other| other == id).unwrap();
    let start = index(graph.def(value).unwrap());
    let end = graph.uses(value).iter().map(|(user, _)| index(*user)).max();
    (start, end.unwrap_or(start))
}

fn check(graph: &Graph, arena: &Arena) {
    let mut lives = Vec::new();
    for p in &arena.placements {
        let rows = if p.rows == Rows::Tokens { graph.header.chunk } else { graph.header.max_outputs };
        assert!(p.bytes >= rows * p.width.next_multiple_of(16) * 4);
        assert!(p.offset % 64 == 0 && p.offset + p.bytes <= arena.bytes);
        lives.push((lifetime(graph, p.value), p));
    }
    let values: usize = graph.ops().map(|id| graph.op(id).results.len()).sum();
    assert_eq!(lives.len(), values);
    for (i, (a, p)) in lives.iter().enumerate() {
        for (b, q) in &lives[i + 1..] {
            let together = a.0 <= b.1 && b.0 <= a.1;
            let overlap = p.offset < q.offset + q.bytes && q.offset < p.offset + p.bytes;
            assert!(!(together && overlap), "{} and {}", graph.name(p.value), graph.name(q.value));
        }
    }
    let at = |place: usize| {
        let alive = lives.iter().filter(|((start, end), _)| (*start..=*end).contains(&place));
        alive.map(|(_, p)| p.bytes).sum::<u64>()
    };
    assert_eq!(arena.peak, (0..graph.len()).map(at).max().unwrap_or(0));
    assert!(arena.bytes >= arena.peak);
}

proptest! {
    #[test]
    fn values_that_live_together_lie_apart(
        drafts in prop::collection::vec(draft(), 1..60),
        chunk in 1u64..70,
        max_outputs in 1u64..70,
    ) {
        let graph = build(&drafts, chunk, max_outputs);
        check(&graph, &plan_memory(&graph).unwrap());
    }
}

#[test]
fn a_value_that_cannot_be_is_an_error() {
    let one = Draft { results: vec![(u64::MAX / 4, false)], reads: vec![], outputs: false };
    assert!(plan_memory(&build(std::slice::from_ref(&one), 64, 1)).is_err());
    let wide = Draft { results: vec![(1 << 32, false)], ..one };
    assert!(plan_memory(&build(&vec![wide; 2], 1 << 31, 1)).is_err());
}

#[test]
fn a_chain_of_equal_values_takes_two_of_them() {
    let link = Draft { results: vec![(16, false)], reads: vec![], outputs: false };
    let mut graph = build(&[link], 8, 1);
    for _ in 0..10 {
        let last = graph.op(graph.ops().next_back().unwrap()).results[0];
        let result = graph.new_value("v", ty((16, false), false));
        let op = OpData {
            op: Op::Add(op::Add {}),
            operands: vec![last, last],
            results: vec![result],
            layer: None,
            chain: None,
            line: None,
        };
        graph.push(op);
    }
    let arena = plan_memory(&graph).unwrap();
    assert_eq!((arena.bytes, arena.peak), (2 * 8 * 16 * 4, 2 * 8 * 16 * 4));
}
