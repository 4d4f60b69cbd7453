//! `[attention]`.

use super::super::desc::{AttentionKind, Gate, LayerDesc, ModelDesc};
use super::model::{ROPE, matrix, vector};
use super::{Default, Formula, Key, PLAIN, SectionKeys, Tensor, Type};

/// Which layers are full, and what the others select and see.
pub const ATTENTION: SectionKeys = SectionKeys {
    name: "attention",
    required: true,
    meaning: "Which layers are full, and what the layers after them select and see. A full layer is the oracle of \
              the sparse layers up to the next one: they reuse its selection, and most read its KV cache too.",
    keys: &[
        Key {
            name: "kind",
            ty: Type::Word(&["hysparse", "full", "swa"]),
            default: Default::Value("\"hysparse\""),
            example: "\"hysparse\"",
            meaning: "The family of the papers. \"full\": full attention in every layer. \"swa\": layers that are not full have the \
                      window branch and its sink alone, without gate or selection.",
            ..PLAIN
        },
        Key {
            name: "pattern",
            ty: Type::Text,
            default: Default::Needed("unless `full` is there; refused with `kind = \"full\"`"),
            example: "\"1:3\"",
            meaning: "\"F:S\": F full layers, then S sparse ones, and so on from layer 0; the last layer is full in \
                      any case.",
            ..PLAIN
        },
        Key {
            name: "full",
            ty: Type::Layers,
            default: Default::Needed("unless `pattern` is there; refused with `kind = \"full\"`"),
            example: "[0, 12, 24, 36, 48]",
            meaning: "The full layers, one by one. The first and the last layer of the model are among them, unless `kind = \
                      \"swa\"`.",
            ..PLAIN
        },
        Key {
            name: "no_rope",
            ty: Type::Layers,
            default: Default::Otherwise("every layer has RoPE"),
            example: "[3, 7]",
            meaning: "Layers whose queries and keys do not turn (NoPE). A sparse layer that reads the keys of its oracle is as that is.",
            formula: Some(Formula {
                text: "q = W_q x, k = W_k x, at every position",
                source: "Kazemnejad et al., arXiv 2305.19466",
            }),
            ..PLAIN
        },
        Key {
            name: "block",
            ty: Type::Multiple(8, 256),
            default: Default::Value("64"),
            example: "64",
            meaning: "Tokens of a block of the selection, which is also a page of the KV caches.",
            ..PLAIN
        },
        Key {
            name: "top_k",
            ty: Type::Integer(1),
            default: Default::Needed("with `kind = \"hysparse\"`, and refused with the others"),
            example: "1024",
            meaning: "Tokens that a query of a sparse layer selects, in whole blocks: a multiple of `block`. Ties go \
                      to the lower block; blocks after the query's own are never among them; with fewer blocks than \
                      that, all are taken.",
            formula: Some(Formula {
                text: "p_h(j) = exp(q_h . k_j / sqrt(d)) / (sum_{j' <= t} exp(q_h . k_j' / sqrt(d)) + exp(sink_h));  \
                       S(b) = max_{h in group} max_{j in block b, j <= t} p_h(j);  \
                       selected = the top_k / block blocks of largest S;  \
                       exp(sink_h) only with `full_sink`",
                source: "HySparse, arXiv 2602.03560, eq. 3",
            }),
            tensors: &[Tensor {
                place: "sparse layers of `kind = \"hysparse\"`, unless `sparse_sink = false`",
                present: |d, layer| selects(d, layer) && layer.attention.sink,
                ..vector("model.layers.{i}.self_attn.sink_select", &["heads"])
            }],
        },
        Key {
            name: "window",
            ty: Type::Integer(1),
            default: Default::Needed(
                "with a window branch; refused with `kind = \"full\"` and `window_branch = false`",
            ),
            example: "128",
            meaning: "Tokens that the window branch sees, the query's own among them.",
            formula: Some(Formula {
                text: "window_h = sum_{j > t - window} exp(q_h . k_j / sqrt(d)) v_j / (sum_{j > t - window} \
                       exp(q_h . k_j / sqrt(d)) + exp(sink_window_h))",
                source: "HySparse, arXiv 2602.03560",
            }),
            tensors: &[Tensor {
                place: "sparse layers with a window branch, unless `sparse_sink = false`",
                present: |d, layer| has_window(d, layer) && layer.attention.sink,
                ..vector("model.layers.{i}.self_attn.sink_window", &["heads"])
            }],
        },
        Key {
            name: "gate",
            ty: Type::Word(&["elementwise", "head", "none"]),
            default: Default::Value("\"elementwise\""),
            example: "\"head\"",
            meaning: "Gates on what the branches give: one per element, one per head, or none. Refused with \
                      `kind = \"swa\"`, and with \"full\" unless `full_gate = true`.",
            formula: Some(Formula {
                text: "out = W_o (sigmoid(W_gate_select h) * selected + sigmoid(W_gate_window h) * window)",
                source: "HySparse, arXiv 2602.03560",
            }),
            tensors: &[
                Tensor {
                    place: "sparse layers with `gate = \"elementwise\"`",
                    present: |d, layer| selects(d, layer) && layer.attention.gate == Gate::Elementwise,
                    ..matrix(
                        "model.layers.{i}.self_attn.gate_select.weight",
                        &["heads * v_head_dim", "hidden"],
                    )
                },
                Tensor {
                    place: "sparse layers with `gate = \"head\"`",
                    present: |d, layer| selects(d, layer) && layer.attention.gate == Gate::Head,
                    ..matrix("model.layers.{i}.self_attn.gate_select.weight", &["heads", "hidden"])
                },
                Tensor {
                    place: "sparse layers with a window branch and `gate = \"elementwise\"`",
                    present: |d, layer| gated_window(d, layer) && layer.attention.gate == Gate::Elementwise,
                    ..matrix(
                        "model.layers.{i}.self_attn.gate_window.weight",
                        &["heads * v_head_dim", "hidden"],
                    )
                },
                Tensor {
                    place: "sparse layers with a window branch and `gate = \"head\"`",
                    present: |d, layer| gated_window(d, layer) && layer.attention.gate == Gate::Head,
                    ..matrix("model.layers.{i}.self_attn.gate_window.weight", &["heads", "hidden"])
                },
            ],
        },
        Key {
            name: "sparse_kv",
            ty: Type::Word(&["shared", "own", "shared-both"]),
            default: Default::Value("\"shared\""),
            example: "\"own\"",
            meaning: "Whose K and V a sparse layer reads. \"shared\": the oracle's in the selected branch, its own \
                      in the window. \"own\": its own in both, kept whole. \"shared-both\": the oracle's in both. \
                      It decides whether the layer has `k_proj` and `v_proj`. Refused with `kind` \"full\" and \
                      \"swa\".",
            ..PLAIN
        },
        Key {
            name: "window_branch",
            ty: Type::Flag,
            default: Default::Value("true"),
            example: "false",
            meaning: "Whether sparse layers have a window branch beside the selected one. Refused with `kind` \
                      \"full\" and \"swa\".",
            ..PLAIN
        },
        Key {
            name: "full_gate",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "Gates on full layers too, as wide as `gate` says.",
            tensors: &[
                Tensor {
                    place: "full layers with `full_gate = true` and `gate = \"elementwise\"`",
                    present: |_, layer| is_full(layer) && layer.attention.gate == Gate::Elementwise,
                    ..matrix("model.layers.{i}.self_attn.gate.weight", &["heads * v_head_dim", "hidden"])
                },
                Tensor {
                    place: "full layers with `full_gate = true` and `gate = \"head\"`",
                    present: |_, layer| is_full(layer) && layer.attention.gate == Gate::Head,
                    ..matrix("model.layers.{i}.self_attn.gate.weight", &["heads", "hidden"])
                },
            ],
            ..PLAIN
        },
        Key {
            name: "sparse_heads",
            ty: Type::Integer(1),
            default: Default::Otherwise("`heads` of [model]"),
            example: "64",
            meaning: "Query heads of layers that are not full. Refused, as the four keys after it, where every layer is full.",
            ..PLAIN
        },
        Key {
            name: "sparse_kv_heads",
            ty: Type::Integer(1),
            default: Default::Otherwise("`kv_heads` of [model]"),
            example: "8",
            meaning: "KV heads of layers that are not full; divides their query heads. For `kind = \"swa\"`: a sparse layer has as \
                      many as its oracle, whose selection it reads.",
            ..PLAIN
        },
        Key {
            name: "sparse_qk_head_dim",
            ty: Type::Integer(1),
            default: Default::Otherwise("that of [model]"),
            example: "192",
            meaning: "Elements of a query and a key of layers that are not full, with `sparse_rope` beside it. For `kind = \"swa\"` \
                      and `sparse_kv = \"own\"`: other layers read their oracle's keys.",
            ..PLAIN
        },
        Key {
            name: "sparse_v_head_dim",
            ty: Type::Integer(1),
            default: Default::Otherwise("that of [model]"),
            example: "128",
            meaning: "Elements of a value of layers that are not full; for the same models.",
            ..PLAIN
        },
        Key {
            name: "sparse_rope",
            ty: Type::Table(&ROPE),
            default: Default::Otherwise("`rope` of [model]"),
            example: "{ theta = 10000.0 }",
            meaning: "Rotary embedding of layers that are not full, as a whole: nothing of `rope` is taken over; for the same models.",
            ..PLAIN
        },
        Key {
            name: "sparse_sink",
            ty: Type::Flag,
            default: Default::Value("true"),
            example: "false",
            meaning: "Whether the branches of layers that are not full have sinks. Refused with `kind = \"full\"`.",
            ..PLAIN
        },
        Key {
            name: "full_sink",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "A sink on full layers too. It is part of the probabilities that the selection ranks: a head \
                      with a large sink counts less in its group's maximum.",
            tensors: &[Tensor {
                place: "full layers with `full_sink = true`",
                present: |_, layer| is_full(layer) && layer.attention.sink,
                ..vector("model.layers.{i}.self_attn.sink", &["heads"])
            }],
            ..PLAIN
        },
    ],
};

/// Keys of heads that full layers do not have.
pub const SPARSE_HEADS: [&str; 5] =
    ["sparse_heads", "sparse_kv_heads", "sparse_qk_head_dim", "sparse_v_head_dim", "sparse_rope"];

fn is_full(layer: &LayerDesc) -> bool {
    matches!(layer.attention.kind, AttentionKind::Full { .. })
}

fn selects(_: &ModelDesc, layer: &LayerDesc) -> bool {
    matches!(layer.attention.kind, AttentionKind::Sparse { .. })
}

fn has_window(_: &ModelDesc, layer: &LayerDesc) -> bool {
    layer.attention.window().is_some()
}

fn gated_window(d: &ModelDesc, layer: &LayerDesc) -> bool {
    selects(d, layer) && has_window(d, layer)
}
