//! Checkpoints whose layers are of several kinds, through `hyc import`: what it writes, and what it refuses.

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::path::Path;

use checkpoints::{changed, import, logits, said};
use hyc_tests::parity::tokens;
use hyc_tests::{Golden, relative_error, root};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

/// What is written of a checkpoint of transformers with another configuration.
fn written(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let (code, text, err) = said(changed(name, change).path(), &[]);
    assert_eq!(code, Some(0), "{err}");
    // Without the paths of its files.
    text.lines()
        .filter(|line| !line.starts_with("files") && !line.starts_with("name"))
        .map(|l| format!("{l}\n"))
        .collect()
}

/// What is said of one that is refused.
fn refused(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let (code, out, err) = said(changed(name, change).path(), &[]);
    assert!(code == Some(3) && out.is_empty(), "{code:?} {err}");
    err
}

fn set(key: &str, value: Value) -> impl FnOnce(&mut Map<String, Value>) {
    move |config| _ = config.insert(key.to_string(), value)
}

#[test]
fn layers_with_a_window_have_heads_of_their_own() {
    let text = written("mimo", |_| {});
    let wanted = "\
kind = \"swa\"
full = [0, 3]
window = 9
block = 64
sparse_kv_heads = 2
sparse_rope = { theta = 100.0, dims = 4 }
";
    assert!(text.contains(wanted), "{text}");
    for line in [
        "qk_head_dim = 12\nv_head_dim = 8\n",
        "rope = { theta = 5000.0, dims = 4 }",
        "\"model.layers.{i}.self_attn.attention_sink_bias\" = \"model.layers.{i}.self_attn.sink_window\"",
        "[weights.scale]\n\"model.layers.{i}.self_attn.v_proj.weight\" = 0.707\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // As its makers write it: a window counts the tokens before the query's own.
    let theirs = written("mimo", |config| {
        for key in ["layer_types", "mlp_layer_types", "rope_parameters", "rms_norm_eps"] {
            config.remove(key);
        }
        let more = json!({
            "hybrid_layer_pattern": [0, 1, 1, 0], "moe_layer_freq": [0, 0, 0, 0], "sliding_window": 8,
            "sliding_window_size": 8, "rope_theta": 5000, "swa_rope_theta": 100, "partial_rotary_factor": 0.334,
            "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 12, "swa_v_head_dim": 8,
            "add_swa_attention_sink_bias": true, "add_full_attention_sink_bias": false,
            "layernorm_epsilon": 1e-5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
            "routed_scaling_factor": null, "n_shared_experts": null, "attention_chunk_size": 128,
        });
        config.extend(more.as_object().unwrap().clone());
    });
    assert_eq!(theirs, text);
}

/// Another value of one of these keys is another model, or tensors that the files do not have.
#[test]
fn what_a_kind_has_counts() {
    let checkpoint = root().join("tests/families/mimo");
    let golden = Golden::open(&checkpoint.join("golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let description = import(&checkpoint, folder.path(), &[]);
    let text = std::fs::read_to_string(&description).unwrap();
    let (_, theirs) = golden.f32("logits").unwrap();
    for (from, to) in [
        ("sparse_rope = { theta = 100.0, dims = 4 }\n", ""),
        ("window = 9", "window = 8"),
        ("v_proj.weight\" = 0.707", "v_proj.weight\" = 0.5"),
    ] {
        std::fs::write(&description, text.replace(from, to)).unwrap();
        let error = relative_error(&logits(&description, folder.path(), &tokens(&golden)), &theirs);
        assert!(error > 1e-2, "{from}: {error:.2e}");
    }
    for (key, value, says) in [
        ("swa_num_key_value_heads", json!(4), "wrong shape: `model.layers.1.self_attn.k_proj.weight`"),
        ("swa_v_head_dim", json!(4), "wrong shape: `model.layers.1.self_attn.o_proj.weight`"),
        ("swa_num_key_value_heads", json!(3), "4 heads cannot be shared evenly by 3 KV heads"),
        ("add_full_attention_sink_bias", json!(true), "`model.layers.0.self_attn.attention_sink_bias`"),
        (
            "add_swa_attention_sink_bias",
            json!(false),
            "not used by the model: `model.layers.1.self_attn.attention_sink_bias`",
        ),
        ("partial_rotary_factor", json!("x"), "`partial_rotary_factor` = \"x\": it must be a number"),
        (
            "hybrid_layer_pattern",
            json!([0, 1]),
            "`hybrid_layer_pattern` = [0,1]: it must be a list of 4 numbers, 0 or 1",
        ),
        ("layer_types", json!(null), "has no `layer_types`"),
        ("layer_types", json!(["full_attention"]), "the model has 4 layers"),
        ("rope_parameters", json!({ "rope_theta": 1e4 }), "`rope_parameters.rope_theta` = 10000.0"),
        (
            "rope_parameters",
            json!({ "sliding_attention": { "rope_type": "ntk" } }),
            "`rope_parameters.sliding_attention.rope_type` = \"ntk\": no such scaling",
        ),
        ("mlp_layer_types", json!(null), "has no `mlp_layer_types`"),
    ] {
        let err = refused("mimo", set(key, value));
        assert!(err.contains(says), "{says}: {err}");
    }
}

/// Values that are multiplied by nothing are as they are; where nothing is said they are multiplied.
#[test]
fn values_are_multiplied_where_their_code_does() {
    for (change, scaled) in [(json!(null), None), (json!(1.0), None), (json!(0.5), Some("= 0.5"))] {
        let text = written("mimo", set("attention_value_scale", change));
        let line = text.lines().skip_while(|line| *line != "[weights.scale]").nth(1);
        assert_eq!(line.map(|line| &line[line.find(" = ").unwrap() + 1..]), scaled);
    }
    let text = written("mimo", |config| _ = config.remove("attention_value_scale"));
    assert!(text.contains("v_proj.weight\" = 0.707"), "{text}");
    let (_, _, notes) = said(&root().join("tests/families/mimo"), &["--dtype", "bf16"]);
    assert!(notes.contains("values are multiplied by 0.707"), "{notes}");
}

/// One name in the files is another one of the model's by the kind of its layer.
#[test]
fn layers_of_both_kinds_may_have_sinks() {
    let folder = changed("mimo", set("add_full_attention_sink_bias", json!(true)));
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views = tensors.tensors();
    for layer in [0, 3] {
        let sinks = tensors.tensor("model.layers.1.self_attn.attention_sink_bias").unwrap();
        views.push((format!("model.layers.{layer}.self_attn.attention_sink_bias"), sinks));
    }
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let (code, text, err) = said(folder.path(), &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(text.contains("full_sink = true\n"), "{text}");
    for (layer, name) in [(0, "sink"), (1, "sink_window"), (2, "sink_window"), (3, "sink")] {
        let at = format!("model.layers.{layer}.self_attn");
        assert!(text.contains(&format!("\"{at}.attention_sink_bias\" = \"{at}.{name}\"\n")), "{text}");
    }
}

/// Experts as transformers writes them, and as their makers did.
#[test]
fn experts_are_chosen_by_sigmoids() {
    let text = written("mimo-experts", |_| {});
    let wanted = "\
[moe]
experts = 6
active = 2
expert_ffn = 8
shared_ffn = 0
dense = [0]
router = \"sigmoid\"
router_bias = true
router_scale = 1.5
";
    assert!(text.contains(wanted) && text.contains("ffn = 24\n"), "{text}");
    for (theirs, ours) in [
        ("gate.weight", "router.weight"),
        ("gate.e_score_correction_bias", "router.choice_bias"),
        ("experts.{e}.up_proj.weight", "experts.up_proj.weight"),
    ] {
        let at = "model.layers.{i}.mlp";
        assert!(text.contains(&format!("\"{at}.{theirs}\" = \"{at}.{ours}\"\n")), "{text}");
    }
    let theirs = written("mimo-experts", |config| {
        config.remove("mlp_layer_types");
        let more = json!({
            "moe_layer_freq": [0, 1, 1, 1], "scoring_func": "sigmoid", "topk_method": "noaux_tc",
            "n_shared_experts": null, "hybrid_block_size": null,
        });
        config.extend(more.as_object().unwrap().clone());
    });
    assert_eq!(theirs, text);
    let one = written("mimo-experts", set("routed_scaling_factor", json!(null)));
    assert!(!one.contains("router_scale"), "{one}");
    let whole = written("mimo-experts", set("norm_topk_prob", json!(false)));
    assert!(whole.contains("renormalise = false\n"), "{whole}");
    let (_, _, notes) = said(&root().join("tests/families/mimo-experts"), &["--dtype", "bf16"]);
    assert!(notes.contains("routers in f32, which bf16 rounds"), "{notes}");
    for (key, value, says) in [
        ("n_group", json!(2), "`n_group` = 2: experts are chosen by groups first"),
        ("topk_group", json!(2), "`topk_group` = 2: experts are chosen by groups first"),
        ("scoring_func", json!("softmax"), "`scoring_func` = \"softmax\": experts are scored otherwise"),
        ("topk_method", json!("greedy"), "`topk_method` = \"greedy\": experts are not chosen so by sigmoids"),
        ("n_shared_experts", json!(1), "`n_shared_experts` = 1"),
        ("n_routed_experts", json!(null), "has no `n_routed_experts`"),
        ("num_experts_per_tok", json!(7), "`num_experts_per_tok` = 7: it must be at most the 6 experts"),
        ("routed_scaling_factor", json!(0), "`routed_scaling_factor` = 0: it must be a number above 0"),
        (
            "n_routed_experts",
            json!(5),
            "`model.layers.1.mlp.gate.weight`) is [6, 16], the model needs [5, 16]",
        ),
        ("mlp_layer_types", json!(["dense", "sparse"]), "the model has 4 layers"),
        (
            "mlp_layer_types",
            json!(["dense", "sparse", "hashed", "dense"]),
            "no layers of the kind \"hashed\" are known here",
        ),
    ] {
        let err = refused("mimo-experts", set(key, value));
        assert!(err.contains(says), "{says}: {err}");
    }
}

/// What a router's keys say counts: another value is another model.
#[test]
fn how_experts_are_weighed_counts() {
    for (name, changes) in [
        (
            "mimo-experts",
            &[
                ("router_scale = 1.5\n", ""),
                ("router_bias = true", "router_bias = true\nrenormalise = false"),
                ("active = 2", "active = 1"),
            ][..],
        ),
        ("qwen3moe-whole", &[("renormalise = false\n", "")]),
    ] {
        let checkpoint = root().join("tests/families").join(name);
        let golden = Golden::open(&checkpoint.join("golden.safetensors"));
        let folder = tempfile::tempdir().unwrap();
        let description = import(&checkpoint, folder.path(), &[]);
        let text = std::fs::read_to_string(&description).unwrap();
        let (_, theirs) = golden.f32("logits").unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}: {text}");
            std::fs::write(&description, text.replace(from, to)).unwrap();
            let error = relative_error(&logits(&description, folder.path(), &tokens(&golden)), &theirs);
            assert!(error > 1e-2, "{name}: {from}: {error:.2e}");
        }
    }
}

/// All that cannot be expressed stands in one error.
#[test]
fn what_is_missing_is_named_at_once() {
    let err = refused("mimo-experts", |config| {
        config.insert("n_group".into(), json!(2));
        config.insert("attention_bias".into(), json!(true));
        config.insert("quantization_config".into(), json!({ "quant_method": "fp8" }));
    });
    for line in [
        "`attention_bias` = true: products have biases\n",
        "`n_group` = 2: experts are chosen by groups first\n",
        "`quantization_config` = {\"quant_method\":\"fp8\"}: weights are quantised\n",
    ] {
        assert!(err.contains(line), "{line}: {err}");
    }
    assert_eq!(err.matches("error:").count(), 1, "{err}");
}

/// Which layers have the window: a list says it, else the first that have none, or those that do not turn.
#[test]
fn windows_are_where_the_family_has_them() {
    let attention = |name: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let text = written(name, change);
        let kept =
            |line: &&str| ["kind = \"", "full", "window", "no_rope"].iter().any(|key| line.starts_with(key));
        let lines: Vec<&str> = text
            .lines()
            .skip_while(|l| *l != "[attention]")
            .take_while(|l| *l != "[weights]")
            .filter(kept)
            .collect();
        lines.join(", ")
    };
    let without = |config: &mut Map<String, Value>| _ = config.remove("layer_types");
    assert_eq!(attention("qwen2-windows", &|_| {}), "kind = \"swa\", full = [0], window = 7");
    assert_eq!(attention("qwen2-windows", &without), "kind = \"swa\", full = [0], window = 7");
    // More layers without than there are.
    assert_eq!(attention("qwen3-windows", &without), "kind = \"full\"");
    assert_eq!(attention("qwen3-windows", &|_| {}), "kind = \"swa\", full = [0, 3], window = 11");
    let off = |config: &mut Map<String, Value>| {
        without(config);
        config.insert("use_sliding_window".into(), json!(false));
    };
    assert_eq!(attention("qwen3-windows", &off), "kind = \"full\"");
    let long = |config: &mut Map<String, Value>| _ = config.insert("sliding_window".into(), json!(256));
    assert_eq!(attention("qwen3-windows", &long), "kind = \"full\"");
    assert_eq!(attention("ministral", &|_| {}), "kind = \"swa\", full = [2], window = 11");
    assert_eq!(attention("ministral", &without), "kind = \"swa\", full = [], window = 11");
    let still = "kind = \"swa\", full = [0, 2], window = 7, no_rope = [1]";
    assert_eq!(attention("smollm3-windows", &|_| {}), still);
    assert_eq!(attention("smollm3-windows", &without), still);

    let err = refused("qwen3-windows", set("sliding_window", json!(null)));
    assert!(err.contains("some layers see a window, and nothing says of how many tokens"), "{err}");
    let err = refused(
        "qwen3-windows",
        set("layer_types", json!(["full_attention", "chunked_attention", "a", "b"])),
    );
    assert!(err.contains("no layers of the kind \"chunked_attention\" are known here"), "{err}");
    let err = refused(
        "mistral-window",
        set("layer_types", json!(["full_attention", "sliding_attention", "sliding_attention"])),
    );
    assert!(err.contains("layers of several kinds"), "{err}");
    let selecting = ["--pattern", "1:1", "--top-k", "64"];
    let (code, _, err) = said(Path::new(&root().join("tests/families/qwen3-windows")), &selecting);
    assert!(code == Some(2) && err.contains("some layers see a window of 11 tokens alone"), "{err}");
}

/// Families whose windows could be expressed, and what else they have that cannot.
#[test]
fn families_that_lack_something_are_refused_with_all_of_it() {
    for (class, what) in [
        ("GemmaForCausalLM", &["GeGLU", "count from 1", "embeddings"][..]),
        (
            "Gemma2ForCausalLM",
            &["GeGLU", "count from 1", "embeddings", "norms behind", "`query_pre_attn_scalar`", "soft caps"],
        ),
        (
            "Gemma3ForCausalLM",
            &["GeGLU", "count from 1", "embeddings", "norms behind", "`query_pre_attn_scalar`"],
        ),
        ("GptOssForCausalLM", &["biases of the output projection", "clamped", "MXFP4"]),
        ("Ministral3ForCausalLM", &["queries that grow"]),
    ] {
        let err = refused("llama", set("architectures", json!([class])));
        let lines: Vec<&str> = err.lines().skip_while(|line| !line.contains(class)).skip(1).collect();
        assert!(
            lines.len() > what.len() && what.iter().zip(&lines).all(|(what, line)| line.contains(what)),
            "{err}"
        );
    }
}

#[test]
fn layers_without_experts_are_read() {
    let text = written("qwen3moe-dense", |_| {});
    assert!(text.contains("ffn = 48\n") && text.contains("shared_ffn = 0\ndense = [0, 2, 3]\n"), "{text}");
}
