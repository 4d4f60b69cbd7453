//! `[model]`.

use super::super::desc::{Ffn, LayerDesc, ModelDesc};
use super::{Default, Dtype, Formula, Key, PLAIN, SectionKeys, Tensor, Type};

/// Sizes of the model and what is the same in all layers.
pub const MODEL: SectionKeys = SectionKeys {
    name: "model",
    required: true,
    meaning: "Sizes of the model, and what is the same in all its layers, or in its full ones where [attention] has keys for the others.",
    keys: &[
        Key {
            name: "name",
            ty: Type::Name,
            default: Default::Required,
            example: "\"my-model\"",
            meaning: "The model's name. Without `-o` the artefact is `NAME.hyc`.",
            ..PLAIN
        },
        Key {
            name: "layers",
            ty: Type::Between(1, hyc_plan::MAX_LAYERS as i64),
            default: Default::Required,
            example: "36",
            meaning: "Layers, each an attention and a feed-forward part. Layers are counted from 0.",
            formula: Some(Formula {
                text: "x = x + attention(RMSNorm(x));  x = x + ffn(RMSNorm(x))",
                source: "Xiong et al., arXiv 2002.04745 (pre-norm)",
            }),
            tensors: &[],
        },
        Key {
            name: "hidden",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "4096",
            meaning: "Width of the residual stream.",
            tensors: &[
                vector("model.layers.{i}.input_layernorm.weight", &["hidden"]),
                vector("model.layers.{i}.post_attention_layernorm.weight", &["hidden"]),
                Tensor { place: "every model", ..vector("model.norm.weight", &["hidden"]) },
            ],
            ..PLAIN
        },
        Key {
            name: "heads",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "32",
            meaning: "Query heads.",
            formula: Some(Formula {
                text: "out_h = sum_j softmax_j(q_h . k_j / sqrt(qk_head_dim)) v_j, over the tokens j that the layer sees",
                source: "Vaswani et al., arXiv 1706.03762, eq. 1",
            }),
            tensors: &[
                matrix("model.layers.{i}.self_attn.q_proj.weight", &["heads * qk_head_dim", "hidden"]),
                matrix("model.layers.{i}.self_attn.o_proj.weight", &["hidden", "heads * v_head_dim"]),
            ],
        },
        Key {
            name: "kv_heads",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "8",
            meaning: "KV heads; divides `heads`. `heads / kv_heads` query heads in a row share one, which is \
                      grouped-query attention (Ainslie et al., arXiv 2305.13245). A KV head is also what has one \
                      selection.",
            tensors: &[
                Tensor {
                    place: OWN_KV,
                    present: own_kv,
                    ..matrix(
                        "model.layers.{i}.self_attn.k_proj.weight",
                        &["kv_heads * qk_head_dim", "hidden"],
                    )
                },
                Tensor {
                    place: OWN_KV,
                    present: own_kv,
                    ..matrix("model.layers.{i}.self_attn.v_proj.weight", &["kv_heads * v_head_dim", "hidden"])
                },
            ],
            ..PLAIN
        },
        Key {
            name: "head_dim",
            ty: Type::Integer(1),
            default: Default::Needed("unless `qk_head_dim` and `v_head_dim` are both there"),
            example: "128",
            meaning: "Elements of a query, a key and a value.",
            ..PLAIN
        },
        Key {
            name: "qk_head_dim",
            ty: Type::Integer(1),
            default: Default::Otherwise("`head_dim`"),
            example: "192",
            meaning: "Elements of a query and a key, where a value has other ones.",
            ..PLAIN
        },
        Key {
            name: "v_head_dim",
            ty: Type::Integer(1),
            default: Default::Otherwise("`head_dim`"),
            example: "128",
            meaning: "Elements of a value, where a key has other ones.",
            ..PLAIN
        },
        Key {
            name: "ffn",
            ty: Type::Integer(1),
            default: Default::Needed("without `[moe]`, and with its `dense`; refused with `[moe]` alone"),
            example: "11008",
            meaning: "Width of the feed-forward part.",
            formula: Some(Formula {
                text: "ffn(h) = W_down (silu(W_gate h) * W_up h),  silu(z) = z / (1 + exp(-z))",
                source: "Shazeer, arXiv 2002.05202 (SwiGLU, without biases)",
            }),
            tensors: &[
                Tensor {
                    place: DENSE,
                    present: dense,
                    ..matrix("model.layers.{i}.mlp.gate_proj.weight", &["ffn", "hidden"])
                },
                Tensor {
                    place: DENSE,
                    present: dense,
                    ..matrix("model.layers.{i}.mlp.up_proj.weight", &["ffn", "hidden"])
                },
                Tensor {
                    place: DENSE,
                    present: dense,
                    ..matrix("model.layers.{i}.mlp.down_proj.weight", &["hidden", "ffn"])
                },
            ],
        },
        Key {
            name: "vocab",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "32000",
            meaning: "Entries of the vocabulary. Where the tokenizer has fewer, the others are never chosen.",
            tensors: &[Tensor {
                place: "every model",
                ..matrix("model.embed_tokens.weight", &["vocab", "hidden"])
            }],
            ..PLAIN
        },
        Key {
            name: "norm_eps",
            ty: Type::Positive,
            default: Default::Value("1e-6"),
            example: "1e-6",
            meaning: "eps of every RMSNorm.",
            formula: Some(Formula {
                text: "RMSNorm(x) = x / sqrt(mean(x^2) + norm_eps) * weight",
                source: "Zhang and Sennrich, arXiv 1910.07467, eq. 4",
            }),
            ..PLAIN
        },
        Key {
            name: "rope",
            ty: Type::Table(&ROPE),
            default: Default::Required,
            example: "{ theta = 640000.0 }",
            meaning: "Rotary embedding of queries and keys, in halves: element n turns with element n + dims/2. Keys \
                      are cached after it.",
            formula: Some(Formula {
                text: "(a_n, a_{n+dims/2}) turns by the angle position * theta^(-2n/dims), 0 <= n < dims/2",
                source: "Su et al., arXiv 2104.09864, eq. 15, with halves in place of neighbours",
            }),
            ..PLAIN
        },
        Key {
            name: "qk_norm",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "RMSNorm over each head of q and k, before RoPE; one weight for all heads of a layer.",
            tensors: &[
                Tensor {
                    place: "every layer with `qk_norm = true`",
                    present: |_, layer| layer.attention.qk_norm,
                    ..vector("model.layers.{i}.self_attn.q_norm.weight", &["qk_head_dim"])
                },
                Tensor {
                    place: "with `qk_norm = true`, layers with keys of their own",
                    present: |d, layer| layer.attention.qk_norm && own_kv(d, layer),
                    ..vector("model.layers.{i}.self_attn.k_norm.weight", &["qk_head_dim"])
                },
            ],
            ..PLAIN
        },
        Key {
            name: "qkv_bias",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "A bias on each projection to queries, keys and values, before QK-norm and RoPE.",
            tensors: &[
                Tensor {
                    place: "every layer with `qkv_bias = true`",
                    present: |_, layer| layer.attention.qkv_bias,
                    ..vector("model.layers.{i}.self_attn.q_proj.bias", &["heads * qk_head_dim"])
                },
                Tensor {
                    place: "with `qkv_bias = true`, layers with keys of their own",
                    present: |d, layer| layer.attention.qkv_bias && own_kv(d, layer),
                    ..vector("model.layers.{i}.self_attn.k_proj.bias", &["kv_heads * qk_head_dim"])
                },
                Tensor {
                    place: "with `qkv_bias = true`, layers with keys of their own",
                    present: |d, layer| layer.attention.qkv_bias && own_kv(d, layer),
                    ..vector("model.layers.{i}.self_attn.v_proj.bias", &["kv_heads * v_head_dim"])
                },
            ],
            ..PLAIN
        },
        Key {
            name: "tie_embeddings",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "The logits are products with the embedding table, and the files have no `lm_head.weight`.",
            tensors: &[Tensor {
                place: "models with `tie_embeddings = false`",
                present: |d, _| !d.tie_embeddings,
                ..matrix("lm_head.weight", &["vocab", "hidden"])
            }],
            ..PLAIN
        },
    ],
};

/// The keys of `rope`.
pub const ROPE: SectionKeys = SectionKeys {
    name: "rope",
    required: true,
    meaning: "Rotary embedding.",
    keys: &[
        Key {
            name: "theta",
            ty: Type::Positive,
            default: Default::Required,
            example: "640000.0",
            meaning: "Base of the angles.",
            ..PLAIN
        },
        Key {
            name: "dims",
            ty: Type::Integer(1),
            default: Default::Otherwise("all elements of a head"),
            example: "64",
            meaning: "How many elements of each head turn, from the first; even.",
            ..PLAIN
        },
        Key {
            name: "scaling",
            ty: Type::Word(&["none", "linear", "llama3", "yarn", "factors"]),
            default: Default::Value("\"none\""),
            example: "\"llama3\"",
            meaning: "How the frequencies of training are changed for longer contexts. With f as a pair's: \"linear\": f / factor (Chen et \
                      al., arXiv 2306.15595, eq. 4). \"llama3\": with w = original_context f / 2 pi and s = (w - \
                      low_freq_factor) / (high_freq_factor - low_freq_factor), kept from 0 to 1, (1 - s) f / factor + \
                      s f. \"yarn\": Peng et al., arXiv 2309.00071, eqs. 17 to 22: f of the pairs that turn more than \
                      `beta_fast` times in original_context tokens, f / factor of those that turn less than `beta_slow` \
                      times, a ramp between; queries and keys grow by attention_factor. \"factors\": f / factors[n] of pair n; \
                      queries and keys grow by attention_factor.",
            ..PLAIN
        },
        Key {
            name: "factor",
            default: Default::Otherwise(
                "required with \"linear\", \"llama3\" and \"yarn\", and refused with others",
            ),
            example: "8.0",
            meaning: "How much longer contexts are than those of training.",
            ..NUMBER
        },
        Key {
            name: "original_context",
            default: Default::Otherwise("required with \"llama3\" and \"yarn\", and refused with others"),
            example: "8192",
            meaning: "Tokens of the training's contexts.",
            ..NUMBER
        },
        Key {
            name: "low_freq_factor",
            default: Default::Value("1.0"),
            example: "1.0",
            meaning: "Of \"llama3\": pairs that turn less often in original_context tokens are slowed by the whole factor.",
            ..NUMBER
        },
        Key {
            name: "high_freq_factor",
            default: Default::Value("4.0"),
            example: "4.0",
            meaning: "Of \"llama3\": pairs that turn more often are not slowed.",
            ..NUMBER
        },
        Key {
            name: "beta_fast",
            default: Default::Value("32.0"),
            example: "32.0",
            meaning: "Of \"yarn\": pairs that turn more often in original_context tokens are not slowed.",
            ..NUMBER
        },
        Key {
            name: "beta_slow",
            default: Default::Value("1.0"),
            example: "1.0",
            meaning: "Of \"yarn\": pairs that turn less often are slowed by the whole factor.",
            ..NUMBER
        },
        Key {
            name: "attention_factor",
            default: Default::Otherwise("0.1 ln(factor) + 1 with \"yarn\", 1 with \"factors\""),
            example: "1.2",
            meaning: "Of \"yarn\" and \"factors\": what queries and keys are multiplied by.",
            ..NUMBER
        },
        Key {
            name: "factors",
            ty: Type::Positives,
            default: Default::Otherwise("required with \"factors\", and refused with others"),
            example: "[1.0, 1.5]",
            meaning: "Of \"factors\": what the frequency of each pair is divided by, dims/2 numbers, at most 128. LongRoPE's \
                      lists and GGUF's `rope_freqs` are such.",
            formula: Some(Formula {
                text: "(a_n, a_{n+dims/2}) turns by the angle position * theta^(-2n/dims) / factors[n]",
                source: "Ding et al., arXiv 2402.13753, eq. 2, at one length",
            }),
            ..PLAIN
        },
    ],
};

const NUMBER: Key = Key { ty: Type::Positive, ..PLAIN };

const OWN_KV: &str = "full layers; sparse layers with KV of their own: `kind = \"swa\"`, `sparse_kv = \"own\"`, or \
                      \"shared\" with a window branch";
const DENSE: &str = "every layer of a model without `[moe]`, and those that its `dense` names";

fn own_kv(_: &ModelDesc, layer: &LayerDesc) -> bool {
    layer.attention.has_own_kv()
}

fn dense(_: &ModelDesc, layer: &LayerDesc) -> bool {
    matches!(layer.ffn, Ffn::Dense { .. })
}

/// A matrix of every layer.
pub const fn matrix(name: &'static str, shape: &'static [&'static str]) -> Tensor {
    Tensor { name, shape, dtype: Dtype::Matrix, place: "every layer", present: |_, _| true }
}

/// A vector of every layer.
pub const fn vector(name: &'static str, shape: &'static [&'static str]) -> Tensor {
    Tensor { dtype: Dtype::F32, ..matrix(name, shape) }
}
