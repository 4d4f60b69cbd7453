//! What an op computes, in one line of mathematics. A row t of a step, a query head h of the group of KV head g, a block i
//! of B tokens; σ is the sigmoid, ⊙ the product element by element.

use hyc_ir::Op;
use hyc_ir::op::Router;
use hyc_plan::{Epilogue, GateMode};

/// The line.
pub fn formula(op: &Op) -> String {
    match op {
        Op::Weight(_) => "a tensor of the weight files".to_string(),
        Op::Cache(_) => "K, V of every token before this step".to_string(),
        Op::PriorSelection(_) => "the blocks that an earlier step selected".to_string(),
        Op::ChainSelection(_) => "I of the nearest oracle before this layer".to_string(),
        Op::ChainCache(_) => "K, V of the nearest oracle before this layer".to_string(),
        Op::KvShare(_) => "K′ = K, V′ = V".to_string(),
        Op::Embed(_) => "y_t = E[token_t]".to_string(),
        Op::RmsNorm(_) => "y = n ⊙ x / √(mean(x²) + ε)".to_string(),
        Op::Linear(_) => "y = W x".to_string(),
        Op::Rope(_) => "(y_i, y_{i+d/2}) = rotation by pos_t · θ^(−2i/d) of (x_i, x_{i+d/2})".to_string(),
        Op::Append(_) => "K[pos_t] = k_t, V[pos_t] = v_t".to_string(),
        Op::QuantiseKv(_) => {
            "K[pos_t]_h = k̂ s, V[pos_t]_h = v̂ s′: codes and a scale for each head of `from` at pos_t"
                .to_string()
        }
        Op::Attention(_) => "o = Σ_{j≤t} p_j v_j,  p = softmax_j(q · k_j / √d)".to_string(),
        Op::BlockMax(_) => "S_h(i) = max_{j ∈ block i} p_h(j)".to_string(),
        Op::GroupMax(_) => "S_g(i) = max_{h ∈ group g} S_h(i)".to_string(),
        Op::TopK(op) => format!("I_g = the {} blocks of largest S_g(i), ties to the lower block", op.blocks),
        Op::WindowAttention(op) => {
            format!("o = Σ_{{t−{} < j ≤ t}} p_j v_j,  p = softmax_j(q · k_j / √d)", op.window)
        }
        Op::SparseAttention(_) => {
            "o = Σ_{j ≤ t, j in a block of I_g} p_j v_j,  p = softmax_j(q · k_j / √d)".to_string()
        }
        Op::Gate(_) => "y = x ⊙ σ(g)".to_string(),
        Op::Add(_) => "y = a + b".to_string(),
        Op::Bias(_) => "y = x + b".to_string(),
        Op::SiluMul(_) => "y = silu(a) ⊙ b".to_string(),
        Op::Router(op) => router(op),
        Op::ExpertsUp(_) => "h_s = silu(G_e x) ⊙ (U_e x),  e = index_s".to_string(),
        Op::ExpertsDown(op) => {
            format!("y = {}Σ_s weight_s D_e h_s,  e = index_s", if op.residual { "r + " } else { "" })
        }
        Op::GatherRows(_) => "y_o = x[row of the o-th wanted logits]".to_string(),
        Op::Output(_) => "the step's logits".to_string(),
        Op::OracleAttention(op) => format!(
            "o = Σ_{{j≤t}} p_j v_j;  S_g(i) = max_{{h ∈ g}} max_{{j ∈ block i}} p_h(j);  I_g = the {} \
             blocks of largest S_g",
            op.blocks
        ),
        Op::HybridAttention(op) => hybrid(op.gate, op.window),
        Op::PageLists(_) => {
            "L_g(tile) = { (page of i, { t in tile : i ∈ I_g(t) }) }, by sequence and block".to_string()
        }
        Op::FusedLinear(op) => linear(op.norm.is_some(), op.epilogue) + &in_fp8(op.fp8_rows),
        Op::QkvAppend(op) => {
            let x = if op.norm.is_some() { "rms(x)" } else { "x" };
            let norm = if op.qk_norm.is_some() { "rms " } else { "" };
            let keys = format!(", K[pos_t] = rope({norm}W_k {x}), V[pos_t] = W_v {x}");
            let gates = ["", ", g = W_g {x}", ", g̃ = W_g̃ {x}, g′ = W_g′ {x}"];
            let gates = gates[op.gates.unwrap_or(0).min(2) as usize].replace("{x}", x);
            let keys = if op.own_kv { keys } else { String::new() };
            format!("q = rope({norm}W_q {x}){keys}{gates}{}", in_fp8(op.fp8_rows))
        }
    }
}

fn router(op: &Router) -> String {
    let s = if op.sigmoid { "σ(logits)" } else { "softmax(logits)" };
    let by = if op.bias { "s + b" } else { "s" };
    let weight = match (op.whole, op.scale) {
        (false, None) => "their s renormalised to sum 1".to_string(),
        (false, Some(scale)) => format!("their s renormalised to sum {scale}"),
        (true, None) => "with their s".to_string(),
        (true, Some(scale)) => format!("with {scale} s"),
    };
    format!("s = {s}; the {} experts of largest {by}, {weight}", op.active)
}

fn hybrid(gate: GateMode, window: u64) -> String {
    let sum = match gate {
        GateMode::None => "o = õ + o′",
        GateMode::Head | GateMode::Elementwise => "o = σ(g̃) ⊙ õ + σ(g′) ⊙ o′",
    };
    format!("{sum};  õ over the blocks I_g of the shared K, V, o′ over the last {window} tokens of its own")
}

fn in_fp8(rows: Option<u64>) -> String {
    rows.map_or(String::new(), |least| {
        format!(";  each row of the products in fp8, in steps of {least} and more")
    })
}

fn linear(norm: bool, epilogue: Epilogue) -> String {
    let x = if norm { "rms(x)" } else { "x" };
    match epilogue {
        Epilogue::Store => format!("y = W {x}"),
        Epilogue::Residual => format!("y = r + W {x}"),
        Epilogue::SwiGlu => format!("y = silu(W {x}) ⊙ (U {x})"),
    }
}
