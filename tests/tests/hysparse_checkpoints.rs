//! HySparse checkpoints in MiMo-V2-Flash's naming (docs/hysparse-checkpoints.md), made of the golden models' own weights: through
//! `hyc import`, compiled and run they give PyTorch's logits.

#![allow(clippy::print_stdout)] // A test's output is captured.

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::path::Path;

use checkpoints::{changed, hyc, import, logits, said};
use hyc_tests::parity::tokens;
use hyc_tests::{golden_tensors, relative_error, root};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

/// What a golden model's tensors are called in such a checkpoint: what names end with.
const NAMES: [(&str, &str); 11] = [
    ("self_attn.sink", "self_attn.attention_sink_bias"),
    ("self_attn.sink_select", "self_attn.sparse_sink_bias"),
    ("self_attn.sink_window", "self_attn.window_sink_bias"),
    ("self_attn.gate.weight", "self_attn.gate_proj.weight"),
    ("self_attn.gate_select.weight", "self_attn.sparse_gate_proj.weight"),
    ("self_attn.gate_window.weight", "self_attn.window_gate_proj.weight"),
    ("mlp.router.weight", "mlp.gate.weight"),
    ("mlp.router.choice_bias", "mlp.gate.e_score_correction_bias"),
    ("mlp.shared_expert.gate_proj.weight", "mlp.shared_experts.gate_proj.weight"),
    ("mlp.shared_expert.up_proj.weight", "mlp.shared_experts.up_proj.weight"),
    ("mlp.shared_expert.down_proj.weight", "mlp.shared_experts.down_proj.weight"),
];

/// The configuration of a golden model.
fn config(name: &str) -> Map<String, Value> {
    let text = std::fs::read_to_string(root().join("tests/golden").join(name).join("model.toml")).unwrap();
    let doc: Value = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    let (model, attention, moe) = (&doc["model"], &doc["attention"], &doc["moe"]);
    let or = |value: &Value, other: Value| if value.is_null() { other } else { value.clone() };
    let layers = model["layers"].as_u64().unwrap();
    let is_full = |layer: u64| match attention["full"].as_array() {
        Some(full) => full.contains(&json!(layer)),
        // "1:3" in all of them.
        None => layer.is_multiple_of(4) || layer + 1 == layers,
    };
    let pattern: Vec<u8> = (0..layers).map(|layer| u8::from(!is_full(layer))).collect();
    let dim = or(&model["qk_head_dim"], model["head_dim"].clone());
    let turning = or(&model["rope"]["dims"], dim.clone()).as_f64().unwrap() / dim.as_f64().unwrap();
    let mut config = json!({
        "architectures": ["HySparseForCausalLM"], "model_type": "hysparse", "dtype": "bfloat16",
        "num_hidden_layers": layers, "hidden_size": model["hidden"], "num_attention_heads": model["heads"],
        "num_key_value_heads": model["kv_heads"], "head_dim": dim,
        "v_head_dim": or(&model["v_head_dim"], dim.clone()),
        "intermediate_size": or(&model["ffn"], json!(16)), "vocab_size": model["vocab"],
        "rms_norm_eps": or(&model["norm_eps"], json!(1e-6)), "rope_theta": model["rope"]["theta"],
        "partial_rotary_factor": turning, "use_qk_norm": or(&model["qk_norm"], json!(false)),
        "tie_word_embeddings": or(&model["tie_embeddings"], json!(false)),
        "hidden_act": "silu", "max_position_embeddings": doc["target"]["max_context"],
        "hybrid_layer_pattern": pattern, "sparse_block_size": attention["block"],
        "sparse_topk": attention["top_k"], "sliding_window": attention["window"],
        "attention_gate": or(&attention["gate"], json!("elementwise")),
        "sparse_kv": or(&attention["sparse_kv"], json!("shared")),
        "add_full_attention_gate": or(&attention["full_gate"], json!(false)),
        "add_full_attention_sink_bias": or(&attention["full_sink"], json!(false)),
    });
    if !moe.is_null() {
        let bias = moe["router_bias"] == json!(true);
        let shared = moe["shared_ffn"].as_u64().unwrap_or(0) / moe["expert_ffn"].as_u64().unwrap();
        let experts = json!({
            "n_routed_experts": moe["experts"], "num_experts_per_tok": moe["active"],
            "moe_intermediate_size": moe["expert_ffn"], "n_shared_experts": shared,
            "moe_layer_freq": vec![1; layers as usize], "scoring_func": or(&moe["router"], json!("softmax")),
            "topk_method": if bias { "noaux_tc" } else { "greedy" }, "norm_topk_prob": true,
            "routed_scaling_factor": moe["router_scale"], "n_group": 1, "topk_group": 1,
        });
        config.as_object_mut().unwrap().extend(experts.as_object().unwrap().clone());
    }
    config.as_object().unwrap().clone()
}

/// A checkpoint of a golden model's weights, under the names that such checkpoints have.
fn checkpoint(name: &str, folder: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut config = config(name);
    change(&mut config);
    std::fs::write(folder.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let bytes = std::fs::read(root().join("tests/golden").join(name).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<(String, TensorView<'_>)> = Vec::new();
    for (own, view) in tensors.tensors() {
        let renamed = NAMES.iter().find_map(|(from, to)| Some(format!("{}{to}", own.strip_suffix(from)?)));
        let Some((layer, part)) = own.split_once(".experts.") else {
            views.push((renamed.unwrap_or(own), view));
            continue;
        };
        // Each expert by itself.
        let (shape, data) = (view.shape(), view.data());
        for (expert, rows) in data.chunks(data.len() / shape[0]).enumerate() {
            let start = rows.as_ptr() as usize - bytes.as_ptr() as usize;
            let rows = &bytes[start..start + rows.len()];
            let view = TensorView::new(view.dtype(), shape[1..].to_vec(), rows).unwrap();
            views.push((format!("{layer}.experts.{expert}.{part}"), view));
        }
    }
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Weights of bf16 are f32 as well, and caches then are, as they are in the golden models.
const F32: &[&str] = &["--dtype", "f32"];

#[test]
fn the_golden_models_come_out_of_checkpoints() {
    for name in [
        "dense",
        "wide",
        "own",
        "shared-both",
        "no-window",
        "block64",
        "full-sink",
        "head-gates",
        "moe-no-shared",
        "moe-sigmoid",
    ] {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(name, folder.path(), |_| {});
        let golden = golden_tensors(name);
        let description = import(folder.path(), folder.path(), F32);
        let ours = logits(&description, folder.path(), &tokens(&golden));
        let (_, theirs) = golden.f32("logits").unwrap();
        let error = relative_error(&ours, &theirs);
        println!("{name:16} {error:.2e}");
        assert!(error < 1e-5, "{name}: logits differ by {error:.2e}");
    }
}

/// Another value of one of these keys is another model.
#[test]
fn what_a_checkpoint_says_counts() {
    let changes: [(&str, &str, Value); 6] = [
        ("dense", "sparse_topk", json!(16)),
        ("dense", "sliding_window", json!(10)),
        ("dense", "rope_theta", json!(1e4)),
        ("moe-sigmoid", "routed_scaling_factor", json!(null)),
        ("moe-sigmoid", "norm_topk_prob", json!(false)),
        ("moe-sigmoid", "num_experts_per_tok", json!(2)),
    ];
    for (name, key, value) in changes {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(name, folder.path(), |config| _ = config.insert(key.to_string(), value));
        let golden = golden_tensors(name);
        let description = import(folder.path(), folder.path(), F32);
        let ours = logits(&description, folder.path(), &tokens(&golden));
        let (_, theirs) = golden.f32("logits").unwrap();
        let error = relative_error(&ours, &theirs);
        assert!(error > 1e-3, "{name}: {key} changes nothing: {error:.2e}");
    }
}

#[test]
fn what_cannot_be_expressed_is_one_error_that_names_it() {
    let cases: [(&str, &str, Value, &str); 29] = [
        ("dense", "hybrid_layer_pattern", json!(null), "has no `hybrid_layer_pattern`"),
        (
            "dense",
            "hybrid_layer_pattern",
            json!([0, 2]),
            "`hybrid_layer_pattern` = [0,2]: it must be a list of 6 numbers, 0 or 1",
        ),
        (
            "dense",
            "hybrid_layer_pattern",
            json!([1, 0, 1, 1, 1, 0]),
            "layer 0 is sparse, and no full layer before it selects",
        ),
        ("dense", "hybrid_layer_pattern", json!([0, 1, 1, 1, 0, 1]), "the last layer is sparse"),
        ("dense", "hybrid_layer_pattern", json!([0, 1, 1, 0, 0, 0]), "`model.layers.3.self_attn."),
        ("dense", "sparse_block_size", json!(12), "`sparse_block_size` = 12: it must be a multiple of 8"),
        ("dense", "sparse_block_size", json!(512), "`sparse_block_size` = 512: it must be a multiple of 8"),
        ("dense", "sparse_topk", json!(null), "has no `sparse_topk`"),
        (
            "dense",
            "sparse_topk",
            json!(20),
            "`sparse_topk` = 20: it must be a whole number of blocks of 8 tokens",
        ),
        ("dense", "sliding_window", json!(0), "`sliding_window` = 0: it must be a size"),
        ("dense", "sliding_window", json!(null), "not used by the model: `model.layers.1.self_attn."),
        ("dense", "sliding_window_size", json!(10), "`sliding_window_size` = 10"),
        (
            "dense",
            "attention_gate",
            json!("row"),
            "`attention_gate` = \"row\": it must be one of \"elementwise\", \"head\", \"none\"",
        ),
        (
            "dense",
            "attention_gate",
            json!("head"),
            "wrong shape: `model.layers.1.self_attn.gate_select.weight`",
        ),
        ("dense", "sparse_kv", json!("both"), "`sparse_kv` = \"both\": it must be one of"),
        (
            "no-window",
            "sparse_kv",
            json!("shared-both"),
            "`sparse_kv` = \"shared-both\": nothing else is shared",
        ),
        (
            "block64",
            "add_full_attention_gate",
            json!(true),
            "`add_full_attention_gate` = true: `attention_gate` is \"none\"",
        ),
        (
            "dense",
            "add_full_attention_sink_bias",
            json!(true),
            "`model.layers.{i}.self_attn.attention_sink_bias`",
        ),
        (
            "dense",
            "add_sparse_attention_sink_bias",
            json!(false),
            "not used by the model: `model.layers.1.self_attn.sparse_sink_bias`",
        ),
        ("dense", "attention_bias", json!(true), "`attention_bias` = true: products have biases"),
        ("dense", "attention_value_scale", json!(0.5), "`attention_value_scale` = 0.5"),
        ("dense", "swa_num_key_value_heads", json!(4), "`swa_num_key_value_heads` = 4"),
        ("moe-sigmoid", "n_group", json!(2), "`n_group` = 2: experts are chosen by groups first"),
        (
            "moe-sigmoid",
            "scoring_func",
            json!("relu"),
            "`scoring_func` = \"relu\": experts are scored otherwise",
        ),
        (
            "moe-sigmoid",
            "topk_method",
            json!("group_limited_greedy"),
            "`topk_method` = \"group_limited_greedy\": experts are not chosen so by sigmoids",
        ),
        (
            "moe-no-shared",
            "topk_method",
            json!("noaux_tc"),
            "`topk_method` = \"noaux_tc\": experts are not chosen so by a softmax",
        ),
        ("moe-sigmoid", "n_shared_experts", json!(0.5), "`n_shared_experts` = 0.5"),
        (
            "moe-sigmoid",
            "num_experts_per_tok",
            json!(8),
            "`num_experts_per_tok` = 8: it must be at most the 7 experts",
        ),
        (
            "moe-sigmoid",
            "moe_layer_freq",
            json!([1, 1, 2]),
            "`moe_layer_freq` = [1,1,2]: it must be a list of 3 numbers, 0 or 1",
        ),
    ];
    for (name, key, value, says) in cases {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(name, folder.path(), |config| _ = config.insert(key.to_string(), value.clone()));
        let (code, out, err) = said(folder.path(), &[]);
        assert!(code == Some(3) && out.is_empty() && err.contains(says), "{key} = {value}: {code:?} {err}");
        assert_eq!(err.matches("error").count(), 1, "{key} = {value}: {err}");
    }
}

/// What the checkpoint says no option says again; weights that are rounded are told of.
#[test]
fn options_and_notes() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint("moe-sigmoid", folder.path(), |_| {});
    for args in [&["--block", "8"][..], &["--pattern", "1:1", "--top-k", "64"]] {
        let (code, out, err) = said(folder.path(), args);
        assert!(
            code == Some(2) && out.is_empty() && err.contains("leave `--pattern` and `--block` out"),
            "{err}"
        );
    }
    let (code, text, notes) = said(folder.path(), &[]);
    assert!(code == Some(0) && !notes.contains("routers in f32"), "{notes}");
    for lines in [
        "full = [0, 2]\ntop_k = 16\nwindow = 11\n",
        "shared_ffn = 8\nrouter = \"sigmoid\"\nrouter_bias = true\nrouter_scale = 2.5\n",
    ] {
        assert!(text.contains(lines), "{lines}: {text}");
    }
    let description = import(folder.path(), folder.path(), &[]);
    let output = hyc(&["check", "--weights", description.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // MiMo's own is no HySparse, whatever it is called.
    let mimo =
        changed("mimo", |config| _ = config.insert("architectures".into(), json!(["HySparseForCausalLM"])));
    let (code, _, err) = said(mimo.path(), &[]);
    assert!(code == Some(3) && err.contains("`rope_parameters.full_attention`"), "{err}");
    // All layers full, and none with experts.
    checkpoint("full", folder.path(), |config| {
        config.insert("hybrid_layer_pattern".into(), json!([0, 0, 0, 0, 0, 0]));
        config.extend([("sparse_topk".into(), json!(16)), ("sliding_window".into(), json!(8))]);
    });
    let (code, text, err) = said(folder.path(), &[]);
    assert!(code == Some(0) && text.contains("kind = \"full\"") && !text.contains("[moe]"), "{text}{err}");
}
