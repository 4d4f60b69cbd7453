//! Changes that were once loaded, and ended in a crash, a hang or other text: each by its name.

use hyc_plan::{CachePolicy, Code, KernelId, KvCodec, Plan, Rows, StepOp, ops};

/// A name, and what it does to a plan.
pub type Directed = (&'static str, fn(&mut Plan));

fn rings(plan: &mut Plan, change: fn(&mut u64, &mut u64)) {
    for cache in &mut plan.caches {
        if let CachePolicy::Ring { window, pages } = &mut cache.policy {
            change(window, pages);
        }
    }
}

/// A chunk of `n` tokens, with everything that hangs on it in the plan.
fn chunk(plan: &mut Plan, n: u64) {
    let before = std::mem::replace(&mut plan.model.chunk, n);
    for buffer in &mut plan.buffers {
        buffer.offset *= n.div_ceil(before);
        if buffer.rows == Rows::Tokens {
            buffer.max_rows = n;
        }
    }
    plan.arena_bytes = plan.buffers.iter().map(|b| b.offset + b.bytes()).max().unwrap_or(0);
    let page = plan.model.page;
    for cache in &mut plan.caches {
        if let CachePolicy::Ring { window, pages } = &mut cache.policy {
            *pages = (*window + n).div_ceil(page) + 1;
        }
    }
}

/// Offset and bytes of a kernel of a processor.
fn place(p: &mut Plan, kernel: usize) -> (&mut u64, &mut u64) {
    match &mut p.kernels[kernel].code {
        Code::Host { offset, bytes, .. } => (offset, bytes),
        Code::Nvidia { .. } => panic!("kernel {kernel} is a GPU's"),
    }
}

/// All of them, for a plan that has a ring and a hybrid layer.
pub const DIRECTED: [Directed; 17] = [
    ("no scratch", |p| p.kernels.iter_mut().for_each(|k| k.scratch_bytes = 0)),
    ("much scratch", |p| p.kernels[1].scratch_bytes = 1 << 45),
    ("another kernel", |p| p.steps[9].kernel = KernelId(2)),
    ("entry + 64", |p| {
        let (offset, bytes) = place(p, 2);
        (*offset, *bytes) = (*offset + 64, *bytes - 64);
    }),
    ("two kernels' code swapped", |p| {
        let (a, b) = (*place(p, 1).0, *place(p, 2).0);
        (*place(p, 1).0, *place(p, 2).0) = (b, a);
    }),
    ("a longer context", |p| p.model.max_context = 400_000),
    ("the longest context", |p| p.model.max_context = i32::MAX as u64),
    ("many sequences", |p| p.model.max_batch = i32::MAX as u64),
    ("a large arena", |p| p.arena_bytes = 6 << 30),
    ("an impossible arena", |p| p.arena_bytes = 1 << 45),
    ("large rings", |p| rings(p, |_, pages| *pages = i32::MAX as u64)),
    ("small rings", |p| {
        rings(p, |window, pages| {
            *window = 1;
            *pages -= 1;
        });
    }),
    ("small rings and windows", |p| {
        let (chunk, page) = (p.model.chunk, p.model.page);
        for cache in &mut p.caches {
            if let CachePolicy::Ring { window, pages } = &mut cache.policy {
                (*window, *pages) = (1, (1 + chunk).div_ceil(page) + 1);
            }
        }
        for step in &mut p.steps {
            if let StepOp::HybridAttention(ops::HybridAttention { window, .. }) = &mut step.op {
                *window = 1;
            }
        }
    }),
    ("caches of bf16", |p| p.caches.iter_mut().for_each(|c| c.codec = KvCodec::Bf16)),
    ("a chunk of one", |p| chunk(p, 1)),
    ("a longer chunk", |p| chunk(p, 4 * p.model.chunk)),
    ("a wider page", |p| {
        p.model.page *= 2;
        p.caches.iter_mut().for_each(|c| c.page *= 2);
    }),
];
