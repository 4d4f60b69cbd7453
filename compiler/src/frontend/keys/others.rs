//! `[moe]`, `[weights]`, `[tokenizer]`, `[target]`.

use hyc_plan::RouterRule;

use super::super::desc::{Ffn, LayerDesc, ModelDesc};
use super::model::{matrix, vector};
use super::{Default, Formula, Key, PLAIN, SectionKeys, Tensor, Type};

/// Routed experts in place of one feed-forward part.
pub const MOE: SectionKeys = SectionKeys {
    name: "moe",
    required: false,
    meaning: "Routed experts in place of `ffn`: in every layer, or in all but `dense`.",
    keys: &[
        Key {
            name: "experts",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "512",
            meaning: "Routed experts of a layer.",
            formula: Some(Formula {
                text: "E = the `active` experts of largest (W_router h)_e;  w = softmax of (W_router h)_e over E;  \
                       ffn(h) = sum_{e in E} w_e ffn_e(h) + ffn_shared(h),  each a SwiGLU",
                source: "Shazeer et al., arXiv 1701.06538, eqs. 1, 3 and 5, without noise",
            }),
            tensors: &[
                Tensor {
                    place: MOE_LAYERS,
                    present: moe,
                    ..matrix("model.layers.{i}.mlp.router.weight", &["experts", "hidden"])
                },
                Tensor {
                    place: MOE_LAYERS,
                    present: moe,
                    ..matrix(
                        "model.layers.{i}.mlp.experts.gate_proj.weight",
                        &["experts", "expert_ffn", "hidden"],
                    )
                },
                Tensor {
                    place: MOE_LAYERS,
                    present: moe,
                    ..matrix(
                        "model.layers.{i}.mlp.experts.up_proj.weight",
                        &["experts", "expert_ffn", "hidden"],
                    )
                },
                Tensor {
                    place: MOE_LAYERS,
                    present: moe,
                    ..matrix(
                        "model.layers.{i}.mlp.experts.down_proj.weight",
                        &["experts", "hidden", "expert_ffn"],
                    )
                },
            ],
        },
        Key {
            name: "active",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "8",
            meaning: "Experts that a token is sent to; at most `experts`.",
            ..PLAIN
        },
        Key {
            name: "expert_ffn",
            ty: Type::Integer(1),
            default: Default::Required,
            example: "512",
            meaning: "Width of an expert.",
            ..PLAIN
        },
        Key {
            name: "shared_ffn",
            ty: Type::Integer(0),
            default: Default::Value("0"),
            example: "512",
            meaning: "Width of the expert that every token is sent to beside the routed ones; 0: there is none.",
            tensors: &[
                Tensor {
                    place: SHARED,
                    present: shared,
                    ..matrix("model.layers.{i}.mlp.shared_expert.gate_proj.weight", &["shared_ffn", "hidden"])
                },
                Tensor {
                    place: SHARED,
                    present: shared,
                    ..matrix("model.layers.{i}.mlp.shared_expert.up_proj.weight", &["shared_ffn", "hidden"])
                },
                Tensor {
                    place: SHARED,
                    present: shared,
                    ..matrix("model.layers.{i}.mlp.shared_expert.down_proj.weight", &["hidden", "shared_ffn"])
                },
            ],
            ..PLAIN
        },
        Key {
            name: "router",
            ty: Type::Word(&["softmax", "sigmoid"]),
            default: Default::Value("\"softmax\""),
            example: "\"sigmoid\"",
            meaning: "What experts are scored by, s in the formulas: a softmax over all of them, or a sigmoid of each by itself.",
            formula: Some(Formula {
                text: "s = sigmoid(W_router h);  E = the `active` experts of largest s_e, or of largest s_e + b_e;  \
                       w_e = router_scale s_e / (1e-20 + sum_{e' in E} s_e')",
                source: "DeepSeek-V3, arXiv 2412.19437, eqs. 13 to 16",
            }),
            ..PLAIN
        },
        Key {
            name: "router_bias",
            ty: Type::Flag,
            default: Default::Value("false"),
            example: "true",
            meaning: "Whether each expert has a bias b that counts in the choice, and not in the weights. true is refused \
                      unless `router = \"sigmoid\"`.",
            tensors: &[Tensor {
                place: "layers with experts, with `router_bias = true`",
                present: |_, layer| matches!(layer.ffn, Ffn::Moe { rule: RouterRule { bias: true, .. }, .. }),
                ..vector("model.layers.{i}.mlp.router.choice_bias", &["experts"])
            }],
            ..PLAIN
        },
        Key {
            name: "renormalise",
            ty: Type::Flag,
            default: Default::Value("true"),
            example: "false",
            meaning: "Whether the weights of the chosen experts are divided by their sum. false: they are scores as they are, \
                      times `router_scale`.",
            formula: Some(Formula {
                text: "w_e = router_scale s_e,  s = softmax(W_router h) over all experts, or sigmoid(W_router h)",
                source: "Fedus et al., arXiv 2101.03961, eqs. 1 and 2; DeepSeek-V3, arXiv 2412.19437, eq. 15",
            }),
            ..PLAIN
        },
        Key {
            name: "router_scale",
            ty: Type::Positive,
            default: Default::Value("1.0"),
            example: "2.5",
            meaning: "What the weights of the chosen experts are multiplied by.",
            ..PLAIN
        },
        Key {
            name: "dense",
            ty: Type::Layers,
            default: Default::Otherwise("every layer has experts"),
            example: "[0]",
            meaning: "Layers without experts, whose feed-forward part is `ffn` of [model] wide.",
            ..PLAIN
        },
    ],
};

const MOE_LAYERS: &str = "layers with experts: every one of a model with `[moe]`, but for `dense`";
const SHARED: &str = "layers with experts, where `shared_ffn` is above 0";

fn moe(_: &ModelDesc, layer: &LayerDesc) -> bool {
    matches!(layer.ffn, Ffn::Moe { .. })
}

fn shared(_: &ModelDesc, layer: &LayerDesc) -> bool {
    matches!(layer.ffn, Ffn::Moe { shared_ffn: 1.., .. })
}

const DTYPES: &[&str] = &["bf16", "f32"];
const KV_DTYPES: &[&str] = &["bf16", "f32", "int8", "fp8"];

/// Weight files.
pub const WEIGHTS: SectionKeys = SectionKeys {
    name: "weights",
    required: false,
    meaning: "Where the weights are, and what they become.",
    keys: &[
        Key {
            name: "files",
            ty: Type::Files,
            default: Default::Otherwise(
                "none: `--weights`, `--random-weights` or `--no-weights` says what to do",
            ),
            example: "[\"model.safetensors\"]",
            meaning: "safetensors files, a `.safetensors.index.json` for all files that it names, or GGUF files, found \
                      from the description's folder. Together they hold every tensor of the model once. Blocks of \
                      GGUF (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K) become the numbers that they stand for.",
            ..PLAIN
        },
        Key {
            name: "dtype",
            ty: Type::Word(DTYPES),
            default: Default::Value("\"bf16\""),
            example: "\"f32\"",
            meaning: "Element type of matrices in the artefact. Weights of norms, and sinks, are f32 in any case. \
                      An element that it would make infinite is an error.",
            ..PLAIN
        },
        Key {
            name: "quantise",
            ty: Type::Text,
            default: Default::Otherwise("matrices are of `dtype`"),
            example: "\"int4\"",
            meaning: "The format of all matrices but the embedding's table (which may be the head, too) and routers, and the head, \
                      which is int8 where this is four bits: f32, bf16, int8 and fp8 with a scale a row, int8(GROUP), fp8(GROUP), \
                      int4 and int4z in groups of 64, int4(GROUP), int4z(GROUP): so many input features of an output share a scale, \
                      and with z a least value, which are those of the least squared errors; a row's last group may be shorter. A \
                      processor takes any groups; a GPU those of 32, 64, 128, multiples of 256 and rows, one format for q, k, v and \
                      gates of a layer, and one for its gate and up.",
            ..PLAIN
        },
        Key {
            name: "formats",
            ty: Type::Formats,
            default: Default::Otherwise("as `quantise` says"),
            example: "{ \"lm_head.weight\" = \"bf16\" }",
            meaning: "The formats of some matrices, by the names that this page lists, with the patterns of `rename`; the first line \
                      that fits counts. A line that fits no matrix, or none but those of lines before it, is an error. What a GGUF file \
                      has in that very format is taken as it is, without a rounding: Q4_0 is int4(32), Q4_1 int4z(32), Q8_0 int8(32), \
                      which `hyc import --dtype stored` writes for each matrix. A block whose scale is not finite is an error, and so is \
                      one taken so whose scale is 0, unless its numbers are all alike. The embedding's table shares no \
                      scales.",
            ..PLAIN
        },
        Key {
            name: "rename",
            ty: Type::Renames,
            default: Default::Otherwise("tensors have the names that this page lists"),
            example: "{ \"h.{i}.ln.weight\" = \"model.layers.{i}.input_layernorm.weight\" }",
            meaning: "What tensors are called in the files, and what the model calls them. `{i}`, or another word \
                      in braces, stands for an integer, `*` for any text. A pattern that matches nothing is an \
                      error.",
            ..PLAIN
        },
        Key {
            name: "stack",
            ty: Type::Renames,
            default: Default::Otherwise("each tensor of the model is one of the files"),
            example: "{ \"model.layers.{i}.mlp.experts.{e}.up_proj.weight\" = \"model.layers.{i}.mlp.experts.up_proj.weight\" }",
            meaning: "Tensors of the files that are one of the model's, one after the other in the order of the integer \
                      that the new name has not: experts that a checkpoint holds each by itself. Its numbers go from 0 \
                      without a hole, and all have one shape and one element type.",
            ..PLAIN
        },
        Key {
            name: "split",
            ty: Type::Splits,
            default: Default::Otherwise("each tensor of the files is one of the model"),
            example: "{ \"*.gate_up_proj.weight\" = [[\"*.gate_proj.weight\", 96], [\"*.up_proj.weight\", 96]] }",
            meaning: "Tensors of the files whose rows are several of the model's, one after the other, with how many rows each \
                      of them has: projections that a checkpoint holds as one.",
            ..PLAIN
        },
        Key {
            name: "scale",
            ty: Type::Scales,
            default: Default::Otherwise("numbers are as they are in the files"),
            example: "{ \"layers.{i}.v_proj.weight\" = 0.707 }",
            meaning: "What the numbers of some tensors are multiplied by, by their names in the files, with the patterns of \
                      `rename`: a constant that a checkpoint's code has beside its weights. They are f32 then, which is \
                      rounded where `dtype` is \"bf16\".",
            ..PLAIN
        },
        Key {
            name: "ignore",
            ty: Type::Patterns,
            default: Default::Otherwise("every tensor of the files is used"),
            example: "[\"*.inv_freq\"]",
            meaning: "Tensors of the files that the model does not use, by their names in the files, with the \
                      patterns of `rename`. Other tensors that it does not use are an error.",
            ..PLAIN
        },
        Key {
            name: "interleaved",
            ty: Type::Patterns,
            default: Default::Otherwise("every head has its pairs in halves"),
            example: "[\"blk.{i}.attn_q.weight\"]",
            meaning: "Projections of queries and keys, by their names in the files, whose heads hold the two elements of \
                      a pair that turns side by side, as GGUF files of `llama` do. Their rows are put in halves. With \
                      `dims` of `rope` below the head's elements it is refused.",
            ..PLAIN
        },
    ],
};

/// The tokenizer.
pub const TOKENIZER: SectionKeys = SectionKeys {
    name: "tokenizer",
    required: false,
    meaning: "What turns text into tokens. Without it the artefact takes tokens alone.",
    keys: &[
        Key {
            name: "file",
            ty: Type::Text,
            default: Default::Otherwise("none"),
            example: "\"tokenizer.json\"",
            meaning: "tokenizer.json of Hugging Face's tokenizers, found from the description's folder; it is stored \
                      in the artefact. What of it is meant for training (truncation, padding, dropout) has no \
                      effect.",
            ..PLAIN
        },
        Key {
            name: "bos",
            ty: Type::Token,
            default: Default::Otherwise(
                "`bos_token` of tokenizer_config.json, else of special_tokens_map.json, else `bos_token_id` of \
                 generation_config.json, beside the tokenizer",
            ),
            example: "\"<s>\"",
            meaning: "The token that begins a text; `\"\"` is none. Where it is written here, a prompt begins with \
                      it, once, unless `add_special` is false.",
            ..PLAIN
        },
        Key {
            name: "eos",
            ty: Type::Tokens,
            default: Default::Otherwise(
                "`eos_token` of tokenizer_config.json, else of special_tokens_map.json, and `eos_token_id` of \
                 generation_config.json, all of them; where none is named, the well-known ones that the tokenizer \
                 says are special",
            ),
            example: "[\"</s>\", \"<|im_end|>\"]",
            meaning: "Tokens that end a text; `[]` is none. The first is `eos_token` of a chat template.",
            ..PLAIN
        },
        Key {
            name: "add_special",
            ty: Type::Switch,
            default: Default::Value("\"auto\""),
            example: "true",
            meaning: "What a prompt gets. \"auto\": the tokens of the tokenizer's own post-processor, and what \
                      `add_bos_token` and `add_eos_token` of tokenizer_config.json add to or take from them. true: \
                      `bos` in any case. false: nothing.",
            ..PLAIN
        },
        Key {
            name: "chat_template",
            ty: Type::Text,
            default: Default::Otherwise(
                "chat_template.jinja, else `chat_template` of tokenizer_config.json, beside the tokenizer",
            ),
            example: "\"{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}assistant:\"",
            meaning: "Jinja template, as transformers has it, that makes a prompt of a conversation (`hyc chat`); \
                      `\"\"` is none.",
            ..PLAIN
        },
        Key {
            name: "chat_template_file",
            ty: Type::Text,
            default: Default::Otherwise("none"),
            example: "\"chat_template.jinja\"",
            meaning: "The same in a file, found from the description's folder.",
            ..PLAIN
        },
    ],
};

/// What the model is compiled for.
pub const TARGET: SectionKeys = SectionKeys {
    name: "target",
    required: false,
    meaning: "What the model is compiled for. All of it is fixed in the artefact.",
    keys: &[
        Key {
            name: "kind",
            ty: Type::Word(&["cpu", "sm_90a"]),
            default: Default::Value("\"cpu\""),
            example: "\"cpu\"",
            meaning: "\"cpu\": x86-64. \"sm_90a\": NVIDIA's H100 and H200, with a build of `hyc` that has the \
                      feature `llvm`. `--target` overrides it.",
            ..PLAIN
        },
        Key {
            name: "activations",
            ty: Type::Word(&["bf16", "f32", "fp8"]),
            default: Default::Otherwise("`bf16` on a GPU"),
            example: "\"fp8\"",
            meaning: "What a GPU's products read of the rows that they multiply; a processor's always read f32. `bf16`: tensor \
                      cores multiply. `f32`: the same numbers as on a processor, and many times slower. `fp8` (E4M3): products by \
                      weights in fp8 with a scale a row round each row to fp8, with a scale of its own, in steps of 65 tokens and more; \
                      all else is as with `bf16`. `--activations` overrides it.",
            ..PLAIN
        },
        Key {
            name: "max_context",
            ty: Type::Integer(1),
            default: Default::Value("4096"),
            example: "4096",
            meaning: "Most tokens of a sequence, prompt and continuation; at least one block.",
            ..PLAIN
        },
        Key {
            name: "max_batch",
            ty: Type::Integer(1),
            default: Default::Value("4"),
            example: "4",
            meaning: "Most sequences at a time.",
            ..PLAIN
        },
        Key {
            name: "chunk",
            ty: Type::Integer(1),
            default: Default::Value("256"),
            example: "256",
            meaning: "Most tokens of a step, of all its sequences: a longer prompt takes several. Activations \
                      are as large as this.",
            ..PLAIN
        },
        Key {
            name: "max_outputs",
            ty: Type::Integer(1),
            default: Default::Otherwise("`max_batch`"),
            example: "4",
            meaning: "Most rows of logits of a step.",
            ..PLAIN
        },
        Key {
            name: "kv_dtype",
            ty: Type::Word(KV_DTYPES),
            default: Default::Otherwise("`dtype` of `[weights]`"),
            example: "\"int8\"",
            meaning: "What the KV caches store. `int8` and `fp8` (E4M3) are codes of 8 bits with an f32 scale for each \
                      token and KV head of the keys, and one of the values: the caches of full-attention layers, which sparse layers \
                      share, store them. A window's caches, which are small, store `dtype` of `[weights]` then.",
            ..PLAIN
        },
    ],
};
