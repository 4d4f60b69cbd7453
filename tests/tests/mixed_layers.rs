//! A description whose layers differ, as no `model.toml` says it yet: its graph and its plan verify, and the generated
//! code computes what the interpreter does.

use std::path::Path;

use hyc::driver;
use hyc::frontend::{
    AttentionDesc, AttentionKind, Ffn, Gate, LayerDesc, ModelDesc, Rope, SparseKv, build_graph, parse_model,
};
use hyc::interp::Interpreter;
use hyc::source::Expected;
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::{Plan, RouterRule, Scores, StepOp, ops};
use hyc_runtime::{Session, SessionOptions};
use hyc_tests::{relative_error, root, with_made_up_weights};

/// A layer of `heads` and `kv_heads` with nothing beside them.
fn layer(kind: AttentionKind, heads: usize, kv_heads: usize) -> LayerDesc {
    let rope = Rope { theta: 640_000.0, dims: 20, scaling: None };
    let (qk_dim, v_dim) = (20, 12);
    let attention = AttentionDesc {
        kind,
        heads,
        kv_heads,
        qk_dim,
        v_dim,
        rope: Some(rope),
        qkv_bias: false,
        qk_norm: false,
        gate: Gate::None,
        sink: false,
    };
    LayerDesc { attention, ffn: Ffn::Dense { ffn: 56 } }
}

fn with(mut layer: LayerDesc, edit: impl FnOnce(&mut LayerDesc)) -> LayerDesc {
    edit(&mut layer);
    layer
}

/// Everything that may differ from layer to layer does.
fn mixed() -> ModelDesc {
    let text = std::fs::read_to_string(root().join("tests/golden/dense/model.toml")).unwrap();
    let mut desc =
        parse_model(Path::new("model.toml"), &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let full = |top_k| AttentionKind::Full { top_k };
    let sparse = |top_k, kv, window| AttentionKind::Sparse { top_k, kv, window };
    desc.layers = vec![
        with(layer(full(Some(32)), 6, 2), |l| l.attention.qk_norm = true),
        with(layer(sparse(32, SparseKv::Shared, Some(11)), 4, 2), |l| {
            l.attention.gate = Gate::Head;
            l.attention.sink = true;
        }),
        with(layer(AttentionKind::Window { window: 5 }, 3, 3), |l| {
            (l.attention.qk_dim, l.attention.v_dim) = (16, 24);
            l.attention.rope = Some(Rope { theta: 10_000.0, dims: 8, scaling: None });
            l.ffn = Ffn::Dense { ffn: 40 };
        }),
        with(layer(sparse(32, SparseKv::Own, None), 8, 2), |l| {
            (l.attention.qk_dim, l.attention.v_dim) = (24, 16);
            l.attention.qk_norm = true;
            let rule = RouterRule { scores: Scores::Sigmoid, bias: true, whole: true, scale: 0.5 };
            l.ffn = Ffn::Moe { experts: 5, active: 2, expert_ffn: 24, shared_ffn: 16, rule };
        }),
        // No oracle: the sparse layer after it listens to layer 0.
        with(layer(full(None), 2, 1), |l| {
            l.attention.gate = Gate::Elementwise;
            l.attention.sink = true;
        }),
        layer(sparse(32, SparseKv::SharedBoth, Some(30)), 2, 2),
        layer(full(Some(16)), 4, 4),
        with(layer(sparse(16, SparseKv::Shared, Some(3)), 12, 4), |l| l.attention.qk_norm = true),
        with(layer(AttentionKind::Window { window: 70 }, 6, 1), |l| {
            l.attention.gate = Gate::Elementwise;
            l.attention.sink = true;
        }),
    ];
    desc
}

/// (layer, query heads, KV heads, window) of every attention of a plan, in order.
fn attentions(plan: &Plan) -> Vec<(u32, u64, u64, Option<u64>)> {
    let attention = |step: &hyc_plan::Step| {
        let window = match step.op {
            StepOp::WindowAttention(ops::WindowAttention { window, .. })
            | StepOp::HybridAttention(ops::HybridAttention { window, .. }) => Some(window),
            _ => None,
        };
        let shape = step.op.attention()?;
        Some((step.layer?, shape.heads, shape.kv_heads, window))
    };
    plan.steps.iter().filter_map(attention).collect()
}

/// Logits of all positions of a prompt, fed in pieces of these lengths.
fn logits(session: &mut Session, pieces: &[usize]) -> Vec<f32> {
    session.set_all_logits(true);
    let id = session.add_sequence().expect("adds");
    let mut logits = Vec::new();
    let mut position = 0;
    for piece in pieces {
        let tokens: Vec<u32> = (position..position + piece).map(|i| (i * i * 31 + 7) as u32 % 97).collect();
        position += piece;
        session.feed(id, &tokens).expect("feeds");
        while session.pending(id).expect("is there") > 0 {
            for (_, row) in session.step().expect("steps").logits {
                logits.extend(row.expect("numbers"));
            }
        }
    }
    logits
}

#[test]
fn layers_that_differ_compile_and_run() {
    let desc = mixed();
    let graph = build_graph(&desc);
    hyc_ir::verify::verify(&graph).unwrap_or_else(|faults| panic!("{}", faults[0]));
    let names: Vec<String> = Expected::of_graph(&graph).into_iter().map(|tensor| tensor.name).collect();
    let normed = |i: &usize| names.contains(&format!("model.layers.{i}.self_attn.q_norm.weight"));
    assert_eq!((0..desc.layers.len()).filter(normed).collect::<Vec<_>>(), [0, 3, 7]);

    let level = CpuTarget::host().level;
    let mut lowered = driver::lower(graph, level, &mut |_| Ok(())).expect("lowers");
    let plan = &lowered.plan;
    plan.verify().unwrap_or_else(|faults| panic!("{}", faults[0]));
    let want = [
        (0, 6, 2, None),
        (1, 4, 2, Some(11)),
        (2, 3, 3, Some(5)),
        (3, 8, 2, None),
        (4, 2, 1, None),
        // Without sinks its branches are not fused.
        (5, 2, 2, None),
        (5, 2, 2, Some(30)),
        (6, 4, 4, None),
        (7, 12, 4, None),
        (7, 12, 4, Some(3)),
        (8, 6, 1, Some(70)),
    ];
    assert_eq!(attentions(plan), want);
    let chains: Vec<_> = plan.chains.iter().map(|chain| (chain.oracle, chain.sparse.clone())).collect();
    assert_eq!(chains, [(0, vec![1, 3, 5]), (6, vec![7])]);

    let code = driver::generate_code(&mut lowered.plan, level, false, &|| Ok(())).expect("generates code");
    let model = with_made_up_weights(&lowered.plan, &code.blob);
    let options = SessionOptions { threads: Some(1), max_sequences: Some(1), ..SessionOptions::default() };
    let interpreter = Session::with_kernels(model.clone(), Box::new(Interpreter), &options);
    let want = logits(&mut interpreter.expect("starts"), &[90, 1, 1]);
    for pieces in [&[90, 1, 1][..], &[3, 64, 24, 1]] {
        let got = logits(&mut Session::new(model.clone(), &options).expect("starts"), pieces);
        let error = relative_error(&got, &want);
        assert!(error < 1e-5, "{pieces:?}: logits differ by {error:.1e}");
    }
}
