//! `plan-memory`: one arena for all activations and selections.
//!
//! A value lives from the op that makes it to its last reader, both included: an op's operands and results
//! never share bytes, since a kernel runs on several threads. Largest first, each value takes the lowest
//! offset where nothing that lives at the same time lies. Weights and caches are not in the arena.

use std::collections::HashMap;

use hyc_ir::{Dim, Graph, ListsType, OpId, Sym, Type, ValueId};
use hyc_plan::{Elem, Rows, tensor};

use crate::error::PassError;
use crate::lifetimes::Lifetimes;

const PASS: &str = "plan-memory";

/// Offsets start at multiples of this many bytes: a cache line, and a vector of any width.
const ALIGN: u64 = 64;

/// Values that may live at once. A model has some tens; placing one looks at all that live with it.
const MAX_ALIVE: i64 = 4096;

/// Where a value lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The value.
    pub value: ValueId,
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// What its rows follow.
    pub rows: Rows,
    /// Elements of a row that mean something.
    pub width: u64,
    /// Execution places of its producer and its last reader.
    pub live: (usize, usize),
}

/// The arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arena {
    /// In the order of the values' producers.
    pub placements: Vec<Placement>,
    /// Bytes of the arena.
    pub bytes: u64,
    /// The most bytes that live at once: no arena can be smaller.
    pub peak: u64,
}

/// Places every tensor and selection.
pub fn run(graph: &Graph) -> Result<Arena, PassError> {
    let mut placements = lifetimes(graph)?;
    check_alive(graph, &placements)?;
    let mut order: Vec<usize> = (0..placements.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(placements[*i].bytes), placements[*i].live, *i));
    let mut placed = Lifetimes::new(graph.len());
    let mut bytes = 0;
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for i in order {
        let (live, size) = (placements[i].live, placements[i].bytes);
        taken.clear();
        placed
            .visit(live, |j| taken.push((placements[j].offset, placements[j].offset + placements[j].bytes)));
        taken.sort_unstable();
        let mut offset: u64 = 0;
        for (start, end) in &taken {
            if offset + size <= *start {
                break;
            }
            offset = offset.max(*end);
        }
        placements[i].offset = offset;
        bytes = bytes.max(offset + size);
        placed.insert(live, i);
    }
    let peak = peak(&placements);
    Ok(Arena { placements, bytes, peak })
}

fn lifetimes(graph: &Graph) -> Result<Vec<Placement>, PassError> {
    let place: HashMap<OpId, usize> = graph.ops().enumerate().map(|(i, id)| (id, i)).collect();
    let mut placements = Vec::new();
    let mut total: u64 = 0;
    for (id, start) in graph.ops().zip(0..) {
        for value in &graph.op(id).results {
            let Some((elem, rows, width)) = row(graph, id, *value)? else { continue };
            let max_rows = rows.count(graph.header.chunk, graph.header.max_outputs);
            let bytes = tensor::bytes(elem, max_rows, width);
            let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGN));
            let bytes = bytes.filter(|bytes| *bytes < 1 << 44);
            total = total.saturating_add(bytes.unwrap_or(u64::MAX));
            let (Some(bytes), true) = (bytes, total < 1 << 62) else {
                let name = graph.name(*value);
                return Err(PassError::at(PASS, graph, id, format!("%{name} would take more than 16 TiB"))
                    .help("make `chunk` or the model's widths smaller"));
            };
            let end = graph.uses(*value).iter().map(|(user, _)| place[user]).max().unwrap_or(start);
            placements.push(Placement {
                value: *value,
                offset: 0,
                bytes,
                rows,
                width,
                live: (start, end.max(start)),
            });
        }
    }
    Ok(placements)
}

fn check_alive(graph: &Graph, placements: &[Placement]) -> Result<(), PassError> {
    let mut change = vec![0i64; graph.len() + 1];
    for p in placements {
        change[p.live.0] += 1;
        change[p.live.1 + 1] -= 1;
    }
    let mut alive = 0;
    for (id, change) in graph.ops().zip(change) {
        alive += change;
        if alive > MAX_ALIVE {
            let message = format!("{alive} values are kept here at once, at most {MAX_ALIVE} can be");
            return Err(
                PassError::at(PASS, graph, id, message).help("read values sooner after they are made")
            );
        }
    }
    Ok(())
}

/// Elements, rows and width of a value in the arena; `None` for weights and caches.
fn row(graph: &Graph, id: OpId, value: ValueId) -> Result<Option<(Elem, Rows, u64)>, PassError> {
    match graph.ty(value) {
        Type::Weight { .. } | Type::Cache(_) => Ok(None),
        Type::Selection(s) => {
            Ok(Some((Elem::I32, Rows::Tokens, s.shape.kv_heads.saturating_mul(s.shape.blocks))))
        }
        Type::Lists(ListsType { selection, lists }) => {
            Ok(Some((Elem::I32, Rows::Tokens, lists.width(selection.shape).unwrap_or(u64::MAX))))
        }
        Type::Tensor { elem, dims } => match dims[..] {
            [Dim::Sym(Sym::Tokens), Dim::Const(width)] => Ok(Some((*elem, Rows::Tokens, width))),
            [Dim::Sym(Sym::Outputs), Dim::Const(width)] => Ok(Some((*elem, Rows::Outputs, width))),
            _ => {
                let message = format!(
                    "%{} is a {}: the arena holds rows of constant width only",
                    graph.name(value),
                    graph.ty(value)
                );
                Err(PassError::at(PASS, graph, id, message).help(
                    "attention probabilities are never kept: let no other op use them, so that fuse-topk can fuse",
                ))
            }
        },
    }
}

fn peak(placements: &[Placement]) -> u64 {
    let last = placements.iter().map(|p| p.live.1).max().unwrap_or(0);
    let mut change = vec![0i128; last + 2];
    for p in placements {
        change[p.live.0] += i128::from(p.bytes);
        change[p.live.1 + 1] -= i128::from(p.bytes);
    }
    let mut now = 0;
    let most = change.iter().map(|c| {
        now += c;
        now
    });
    most.max().unwrap_or(0) as u64
}
