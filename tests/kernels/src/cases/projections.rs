//! Linears and QKV projections with every fusion.

use hyc_plan::*;

use super::{Limits, Store, spec, tensor, vector};

pub const EPILOGUES: [Epilogue; 3] = [Epilogue::Store, Epilogue::Residual, Epilogue::SwiGlu];

/// A linear.
pub fn linear(
    (out, in_features): (u64, u64),
    store: Store,
    norm: Option<f64>,
    epilogue: Epilogue,
    limits: Limits,
) -> KernelSpec {
    let mut operands = vec![tensor(in_features)];
    operands.extend(norm.map(|_| vector(in_features)));
    operands.push(store.matrix(1, out, in_features, out));
    match epilogue {
        Epilogue::Store => {}
        Epilogue::Residual => operands.push(tensor(out)),
        Epilogue::SwiGlu => operands.push(store.matrix(1, out, in_features, out)),
    }
    operands.push(tensor(out));
    spec(
        StepOp::Linear(ops::Linear { in_features, out_features: out, norm, epilogue, fp8_rows: None }),
        operands,
        limits,
    )
}

/// The same product, of rows of e4m3 in steps of so many rows.
pub fn of_fp8_rows(spec: &KernelSpec, least: u64) -> KernelSpec {
    let fp8_rows = Some(least);
    let op = match spec.op {
        StepOp::Linear(op) => StepOp::Linear(ops::Linear { fp8_rows, ..op }),
        StepOp::QkvAppend(op) => StepOp::QkvAppend(ops::QkvAppend { fp8_rows, ..op }),
        other => other,
    };
    KernelSpec { op, ..spec.clone() }
}

/// What varies in a QKV projection.
#[derive(Debug, Clone, Copy)]
pub struct Qkv {
    pub in_features: u64,
    pub shape: AttnShape,
    pub norm: Option<f64>,
    pub qk_norm: Option<f64>,
    pub rope: RopeSpec,
    pub own_kv: bool,
    pub gates: u64,
    pub store: Store,
    pub cache: CacheSpec,
}

/// Rotary embedding of so many elements, as it was trained.
pub fn rope(dims: u64) -> RopeSpec {
    RopeSpec::plain(640_000.0, dims)
}

/// The same in each way to see further.
pub fn scaled_ropes(dims: u64) -> [RopeSpec; 4] {
    let linear = RopeScaling::Linear { factor: 4.0 };
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 96.0 };
    let yarn = RopeScaling::Yarn { factor: 4.0, fast: 32.0, slow: 1.0, original: 384.0, magnitude: 1.375 };
    // Neither ascending nor of one sign of their logarithms.
    let list: Vec<f32> = (0..dims / 2).map(|i| [0.5, 1.0, 3.25][i as usize % 3] + i as f32 / 16.0).collect();
    let factors = RopeFactors::new(&list).expect("a few pairs");
    let factors = RopeScaling::Factors { factors, magnitude: 1.1875 };
    [linear, llama3, yarn, factors].map(|scaling| RopeSpec { scaling: Some(scaling), ..rope(dims) })
}

/// A QKV projection.
pub fn qkv(q: Qkv, limits: Limits) -> KernelSpec {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = q.shape;
    let mut operands = vec![tensor(q.in_features)];
    operands.extend(q.norm.map(|_| vector(q.in_features)));
    operands.push(q.store.matrix(1, heads * qk_dim, q.in_features, qk_dim));
    if q.own_kv {
        operands.push(q.store.matrix(1, kv_heads * qk_dim, q.in_features, qk_dim));
        operands.push(q.store.matrix(1, kv_heads * v_dim, q.in_features, v_dim));
    }
    operands.extend(q.qk_norm.map(|_| vector(qk_dim)));
    operands.extend(q.qk_norm.filter(|_| q.own_kv).map(|_| vector(qk_dim)));
    operands.extend((0..q.gates).map(|_| q.store.matrix(1, heads * v_dim, q.in_features, v_dim)));
    operands.push(tensor(heads * qk_dim));
    operands.extend((0..q.gates).map(|_| tensor(heads * v_dim)));
    operands.extend(q.own_kv.then_some(OperandSpec::Cache(q.cache)));
    let Qkv { in_features, shape, norm, qk_norm, rope, own_kv, gates, .. } = q;
    spec(
        StepOp::QkvAppend(ops::QkvAppend {
            in_features,
            shape,
            norm,
            qk_norm,
            rope,
            own_kv,
            gates,
            fp8_rows: None,
        }),
        operands,
        limits,
    )
}

/// An append of keys and values that other steps made.
pub fn append(shape: AttnShape, cache: CacheSpec, limits: Limits) -> KernelSpec {
    let AttnShape { kv_heads, qk_dim, v_dim, .. } = shape;
    let operands = vec![tensor(kv_heads * qk_dim), tensor(kv_heads * v_dim), OperandSpec::Cache(cache)];
    spec(StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim }), operands, limits)
}
