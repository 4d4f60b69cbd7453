//! What each op says of its operands and its sizes; attentions are in `attention.rs`.

use super::*;
use crate::elem::is_positive_f32;
use crate::roles::{Access, Kind, Reach, Stored};

pub(super) fn read(name: &'static str, kind: Kind) -> Role {
    Role { name, access: Access::Read, kind }
}

pub(super) fn write(name: &'static str, kind: Kind) -> Role {
    Role { name, access: Access::Write, kind }
}

/// A cache of KV heads, elements of a key and of a value.
pub(super) fn cache((kv_heads, qk_dim, v_dim): (u64, u64, u64), reach: Reach, stored: Stored) -> Kind {
    Kind::Cache { kv_heads, qk_dim, v_dim, reach, stored }
}

fn append(name: &'static str, sizes: (u64, u64, u64), stored: Stored) -> Role {
    Role { name, access: Access::Append, kind: cache(sizes, Reach::Nothing, stored) }
}

fn rows(width: u64) -> Kind {
    Kind::Rows(Some(width))
}

/// Rows that may lie in tiles.
fn tiles(width: u64) -> Kind {
    Kind::RowsOrTiles(Some(width))
}

/// The rows that a product reads: those that it normalises itself are f32.
fn product_input(width: u64, norm: Option<f64>) -> Role {
    read("x", if norm.is_some() { rows(width) } else { tiles(width) })
}

/// `count` slices of `width` of those.
pub(super) fn sliced_tiles(count: u64, width: u64) -> Kind {
    Kind::RowsOrTiles(count.checked_mul(width))
}

/// Rows of `count` slices of `width`.
pub(super) fn slices(count: u64, width: u64) -> Kind {
    Kind::Rows(count.checked_mul(width))
}

fn matrix(out: u64, in_features: u64) -> Kind {
    matrices(1, out, in_features)
}

fn matrices(count: u64, out: u64, in_features: u64) -> Kind {
    Kind::Matrices { count, out_features: Some(out), in_features, group: None }
}

/// The projection to `heads` heads of `dim`.
fn projection(heads: u64, dim: u64, in_features: u64) -> Kind {
    Kind::Matrices { count: 1, out_features: heads.checked_mul(dim), in_features, group: Some(dim) }
}

/// Gate logits for `heads` heads of `v_dim`; `each`: what those of every element are.
pub(super) fn gate(mode: GateMode, heads: u64, v_dim: u64, each: fn(u64, u64) -> Kind) -> Option<Kind> {
    match mode {
        GateMode::None => None,
        GateMode::Head => Some(rows(heads)),
        GateMode::Elementwise => Some(each(heads, v_dim)),
    }
}

/// Most heads, and most elements of a head.
const MOST: u64 = 1 << 24;

/// Heads that share out evenly.
pub(super) fn shares_out(s: &AttnShape) -> bool {
    let sizes = [s.heads, s.kv_heads, s.qk_dim, s.v_dim];
    sizes.iter().all(|n| (1..MOST).contains(n)) && s.heads % s.kv_heads == 0
}

fn normalises(eps: Option<f64>) -> bool {
    eps.as_ref().is_none_or(|eps| is_positive_f32(*eps))
}

/// Some experts of those that there are.
fn chooses(active: u64, experts: u64) -> bool {
    active > 0 && active <= experts
}

/// a, b and the result of an op on whole rows.
fn of_two_rows(width: u64) -> Vec<Role> {
    vec![read("a", rows(width)), read("b", rows(width)), write("out", rows(width))]
}

impl Op for Embed {
    const NAME: &'static str = "embed";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let Embed { vocab, hidden } = *self;
        vec![read("table", Kind::Table { rows: vocab, cols: hidden }), write("out", rows(hidden))]
    }
}

impl Op for RmsNorm {
    const NAME: &'static str = "rmsnorm";

    fn roles(&self) -> Vec<Role> {
        let RmsNorm { groups, width, .. } = *self;
        vec![
            read("x", slices(groups, width)),
            read("weight", Kind::Vector(width)),
            write("out", sliced_tiles(groups, width)),
        ]
    }

    fn is_possible(&self) -> bool {
        is_positive_f32(self.eps)
    }
}

impl Op for Linear {
    const NAME: &'static str = "linear";

    fn roles(&self) -> Vec<Role> {
        let Linear { in_features, out_features: out, norm, epilogue, .. } = *self;
        let mut roles = vec![product_input(in_features, norm)];
        roles.extend(norm.map(|_| read("norm", Kind::Vector(in_features))));
        roles.push(read("weight", matrix(out, in_features)));
        roles.extend(match epilogue {
            Epilogue::Store => None,
            Epilogue::Residual => Some(read("residual", rows(out))),
            Epilogue::SwiGlu => Some(read("up", matrix(out, in_features))),
        });
        // What is added to is f32, as is the sum.
        let sum = epilogue == Epilogue::Residual;
        roles.push(write("out", if sum { rows(out) } else { tiles(out) }));
        roles
    }

    fn is_possible(&self) -> bool {
        normalises(self.norm) && self.fp8_rows != Some(0)
    }
}

impl Op for QkvAppend {
    const NAME: &'static str = "qkv_append";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let QkvAppend { in_features, shape, norm, qk_norm, own_kv, gates, .. } = *self;
        let AttnShape { heads, kv_heads, qk_dim, v_dim } = shape;
        let mut roles = vec![product_input(in_features, norm)];
        roles.extend(norm.map(|_| read("norm", Kind::Vector(in_features))));
        roles.push(read("wq", projection(heads, qk_dim, in_features)));
        if own_kv {
            roles.push(read("wk", projection(kv_heads, qk_dim, in_features)));
            roles.push(read("wv", projection(kv_heads, v_dim, in_features)));
        }
        if qk_norm.is_some() {
            roles.push(read("q_norm", Kind::Vector(qk_dim)));
            roles.extend(own_kv.then(|| read("k_norm", Kind::Vector(qk_dim))));
        }
        roles.extend(
            super::gates(gates).map(|(weight, _)| read(weight, projection(heads, v_dim, in_features))),
        );
        roles.push(write("q", slices(heads, qk_dim)));
        roles.extend(super::gates(gates).map(|(_, logits)| write(logits, sliced_tiles(heads, v_dim))));
        roles.extend(own_kv.then(|| append("cache", (kv_heads, qk_dim, v_dim), Stored::Plain)));
        roles
    }

    fn is_possible(&self) -> bool {
        let QkvAppend { shape, rope, norm, qk_norm, gates, fp8_rows, .. } = *self;
        let normalises = normalises(norm) && normalises(qk_norm) && fp8_rows != Some(0);
        shares_out(&shape) && rope.is_possible(shape.qk_dim) && normalises && gates <= GATES.len() as u64
    }
}

impl Op for Bias {
    const NAME: &'static str = "bias";

    fn roles(&self) -> Vec<Role> {
        let Bias { width } = *self;
        vec![read("x", rows(width)), read("weight", Kind::Vector(width)), write("out", rows(width))]
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let Rope { heads, dim, .. } = *self;
        vec![read("x", slices(heads, dim)), write("out", slices(heads, dim))]
    }

    fn is_possible(&self) -> bool {
        self.rope.is_possible(self.dim)
    }
}

impl Op for Append {
    const NAME: &'static str = "append";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let Append { kv_heads, qk_dim, v_dim } = *self;
        vec![
            read("k", slices(kv_heads, qk_dim)),
            read("v", slices(kv_heads, v_dim)),
            append("cache", (kv_heads, qk_dim, v_dim), Stored::Plain),
        ]
    }
}

impl Op for QuantiseKv {
    const NAME: &'static str = "quantise_kv";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let QuantiseKv { kv_heads, qk_dim, v_dim } = *self;
        let sizes = (kv_heads, qk_dim, v_dim);
        vec![read("from", cache(sizes, Reach::Own, Stored::Plain)), append("cache", sizes, Stored::Scaled)]
    }

    fn is_possible(&self) -> bool {
        [self.kv_heads, self.qk_dim, self.v_dim].iter().all(|n| (1..MOST).contains(n))
    }
}

impl Op for Add {
    const NAME: &'static str = "add";

    fn roles(&self) -> Vec<Role> {
        of_two_rows(self.width)
    }
}

impl Op for SiluMul {
    const NAME: &'static str = "silu_mul";

    fn roles(&self) -> Vec<Role> {
        of_two_rows(self.width)
    }
}

impl Op for Gate {
    const NAME: &'static str = "gate";

    fn roles(&self) -> Vec<Role> {
        let Gate { heads, v_dim, mode } = *self;
        let mut roles = vec![read("x", slices(heads, v_dim))];
        roles.extend(gate(mode, heads, v_dim, slices).map(|kind| read("gate", kind)));
        roles.push(write("out", slices(heads, v_dim)));
        roles
    }

    fn is_possible(&self) -> bool {
        self.mode != GateMode::None
    }
}

impl Op for Router {
    const NAME: &'static str = "router";

    fn roles(&self) -> Vec<Role> {
        let Router { experts, active, rule } = *self;
        let mut roles = vec![read("logits", rows(experts))];
        roles.extend(rule.bias.then(|| read("bias", Kind::Vector(experts))));
        roles.extend([write("index", Kind::Experts { experts, active }), write("weight", rows(active))]);
        roles
    }

    fn is_possible(&self) -> bool {
        chooses(self.active, self.experts) && self.rule.is_possible()
    }
}

impl Op for ExpertsUp {
    const NAME: &'static str = "experts_up";

    fn roles(&self) -> Vec<Role> {
        let ExpertsUp { experts, active, in_features, ffn, shared } = *self;
        let mut roles = vec![
            read("x", tiles(in_features)),
            read("index", Kind::Experts { experts, active }),
            read("gate", matrices(experts, ffn, in_features)),
            read("up", matrices(experts, ffn, in_features)),
        ];
        if shared {
            roles.extend(["shared_gate", "shared_up"].map(|name| read(name, matrix(ffn, in_features))));
        }
        roles.push(write("h", sliced_tiles(active.saturating_add(u64::from(shared)), ffn)));
        roles
    }

    fn is_possible(&self) -> bool {
        chooses(self.active, self.experts)
    }
}

impl Op for ExpertsDown {
    const NAME: &'static str = "experts_down";

    fn roles(&self) -> Vec<Role> {
        let ExpertsDown { experts, active, out_features: out, ffn, shared } = *self;
        let mut roles = vec![
            read("h", sliced_tiles(active.saturating_add(u64::from(shared)), ffn)),
            read("index", Kind::Experts { experts, active }),
            read("weight", rows(active)),
            read("down", matrices(experts, out, ffn)),
        ];
        roles.extend(shared.then(|| read("shared_down", matrix(out, ffn))));
        roles.extend([read("residual", rows(out)), write("out", rows(out))]);
        roles
    }

    fn is_possible(&self) -> bool {
        chooses(self.active, self.experts)
    }
}

impl Op for GatherRows {
    const NAME: &'static str = "gather_rows";

    fn roles(&self) -> Vec<Role> {
        vec![read("x", Kind::TokenRows(self.width)), write("out", rows(self.width))]
    }
}

impl Op for Sample {
    const NAME: &'static str = "sample";

    fn roles(&self) -> Vec<Role> {
        vec![read("logits", rows(self.vocab)), write("token", Kind::Token)]
    }

    fn is_possible(&self) -> bool {
        chooses(self.choices(), self.vocab)
    }
}
