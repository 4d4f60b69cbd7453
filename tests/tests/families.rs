//! Checkpoints as transformers writes them, through `hyc import`, compiled and run: the logits of transformers.

#![allow(clippy::print_stdout)] // A test's output is captured.

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::path::PathBuf;

use checkpoints::{changed, hyc, import, logits, said};
use hyc_tests::parity::tokens;
use hyc_tests::{Golden, relative_error, root};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

fn families() -> Vec<PathBuf> {
    let folder = root().join("tests/families");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// What is asked for beside a checkpoint, of those that need it.
const ARGS: [(&str, &[&str]); 1] = [("llama-longrope-long", &["--context", "256"])];

#[test]
fn every_family_gives_the_logits_of_transformers() {
    let families = families();
    assert!(families.len() >= 22, "{families:?}");
    for checkpoint in families {
        let folder = tempfile::tempdir().unwrap();
        let golden = Golden::open(&checkpoint.join("golden.safetensors"));
        let args = ARGS.iter().find(|(name, _)| checkpoint.ends_with(name)).map_or(&[][..], |(_, args)| args);
        let description = import(&checkpoint, folder.path(), args);
        let ours = logits(&description, folder.path(), &tokens(&golden));
        let (_, theirs) = golden.f32("logits").unwrap();
        let error = relative_error(&ours, &theirs);
        println!("{:16} {error:.2e}", checkpoint.file_name().unwrap().to_string_lossy());
        assert!(error < 3.4e-6, "{}: logits differ by {error:.2e}", checkpoint.display());
    }
}

/// What selects all blocks that there are sees what full attention sees.
#[test]
fn a_selection_of_everything_changes_nothing() {
    let checkpoint = root().join("tests/families/llama3");
    let golden = Golden::open(&checkpoint.join("golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let selecting = |top_k: &str| {
        let description =
            import(&checkpoint, folder.path(), &["--pattern", "1:1", "--top-k", top_k, "--block", "8"]);
        logits(&description, folder.path(), &tokens(&golden))
    };
    let (_, theirs) = golden.f32("logits").unwrap();
    let error = relative_error(&selecting("256"), &theirs);
    assert!(error < 2e-6, "{error:.2e}");
    let error = relative_error(&selecting("8"), &theirs);
    assert!(error > 1e-2, "a selection of one block changes nothing: {error:.2e}");
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    let rope = |kind: &str| json!({ "rope_type": kind, "rope_theta": 1e4, "factor": 2.0 });
    for (key, value, says) in [
        ("architectures", json!(["FalconForCausalLM"]), "class FalconForCausalLM cannot be imported yet"),
        ("architectures", json!([]), "has no `architectures`"),
        ("hidden_act", json!("gelu"), "`hidden_act` = \"gelu\": the feed-forward part is no SwiGLU"),
        ("attention_bias", json!(true), "`attention_bias` = true: products have biases"),
        ("quantization_config", json!({ "bits": 4 }), "weights are quantised"),
        ("num_attention_heads", json!(0), "`num_attention_heads` = 0: it must be a size"),
        ("hidden_size", json!(null), "has no `hidden_size`"),
        ("hidden_size", json!(24), "wrong shape"),
        ("num_hidden_layers", json!(4), "missing: `model.layers.3."),
        ("num_hidden_layers", json!(1 << 20), "`num_hidden_layers` = 1048576: it must be at most "),
        ("num_hidden_layers", json!(2), "not used by the model: `model.layers.2."),
        ("logit_scale", json!(0.5), "not known here"),
        ("rope_parameters", rope("ntk"), "`rope_parameters.rope_type` = \"ntk\": no such scaling"),
        ("rope_parameters", rope("longrope"), "has no `rope_parameters.short_factor`"),
        (
            "rope_parameters",
            json!({ "rope_type": "longrope", "short_factor": [1.0, 0.0], "long_factor": [1.0] }),
            "`rope_parameters.short_factor` = [1.0,0.0]: it must be a list of numbers above 0",
        ),
        (
            "rope_parameters",
            json!({ "rope_type": "longrope", "short_factor": vec![1.5; 129], "long_factor": [1.0] }),
            "it has 129 numbers, of which 128 can be listed",
        ),
        (
            "rope_parameters",
            json!({ "rope_type": "longrope", "short_factor": vec![1.5; 7], "long_factor": [1.0] }),
            "`rope_parameters.short_factor` = 7: it must have 8 numbers",
        ),
        ("rope_parameters", json!({ "rope_theta": 1e4, "mystery": 3 }), "`rope_parameters.mystery` = 3"),
        (
            "rope_parameters",
            json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.5 }),
            "a part of a head turns",
        ),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` = 0.5: a part of a head turns"),
        ("rope_parameters", json!({ "rope_type": "linear" }), "has no `rope_parameters.factor`"),
        ("rope_parameters", json!(3), "`rope_parameters` = 3: it must be a table"),
        (
            "layer_types",
            json!(["sliding_attention", "full_attention", "full_attention"]),
            "layers of several kinds",
        ),
    ] {
        let folder = changed("llama", |config| _ = config.insert(key.to_string(), value.clone()));
        let (code, out, err) = said(folder.path(), &[]);
        assert!(code == Some(3) && out.is_empty() && err.contains(says), "{key} = {value}: {code:?} {err}");
    }
}

#[test]
fn experts_that_cannot_be_expressed_are_refused_by_name() {
    for (key, value, says) in [
        ("norm_topk_prob", json!(1), "`norm_topk_prob` = 1: it must be true or false"),
        ("num_experts_per_tok", json!(7), "`num_experts_per_tok` = 7: it must be at most the 6 experts"),
        ("decoder_sparse_step", json!(2), "missing: `model.layers.0.mlp.gate_proj.weight`"),
        ("mlp_only_layers", json!([1]), "missing: `model.layers.1.mlp.gate_proj.weight`"),
        (
            "mlp_only_layers",
            json!([3]),
            "`mlp_only_layers` = [3]: it must be a list of layers, which are 0 to 2",
        ),
        ("num_experts_per_tok", json!(null), "has no `num_experts_per_tok`"),
        ("num_local_experts", json!(7), "wrong shape: `model.layers.0.mlp.router.weight`"),
    ] {
        let folder = changed("qwen3moe", |config| _ = config.insert(key.to_string(), value.clone()));
        let (code, out, err) = said(folder.path(), &[]);
        assert!(code == Some(3) && out.is_empty() && err.contains(says), "{key} = {value}: {code:?} {err}");
    }
    // transformers 4 calls them otherwise.
    let folder = changed("qwen3moe", |config| {
        let experts = config.remove("num_local_experts").unwrap();
        config.insert("num_experts".into(), experts);
    });
    assert_eq!(said(folder.path(), &[]).0, Some(0));
    // An expert that is missing, and one of another shape.
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let third = "model.layers.1.mlp.experts.3.up_proj.weight";
    let says = |put: Option<TensorView<'_>>, words: &str| {
        let mut views: Vec<_> = tensors.tensors().into_iter().filter(|(name, _)| name != third).collect();
        views.extend(put.map(|view| (third.to_string(), view)));
        let whole = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), whole).unwrap();
        let (code, _, err) = said(folder.path(), &[]);
        assert!(code == Some(3) && err.contains(words), "{code:?} {err}");
    };
    says(None, "part 3 of `model.layers.1.mlp.experts.up_proj.weight` is missing");
    says(Some(tensors.tensor("model.norm.weight").unwrap()), "what is stacked has one shape");
    // A number that is none, in the third expert's second row.
    let view = tensors.tensor(third).unwrap();
    let (shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
    data[4 * shape[1]..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = TensorView::new(safetensors::Dtype::F32, shape, &data).unwrap();
    let mut views: Vec<_> = tensors.tensors().into_iter().filter(|(name, _)| name != third).collect();
    views.push((third.to_string(), bad));
    let whole = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), whole).unwrap();
    let description = import(folder.path(), folder.path(), &[]);
    let output = hyc(&["check", "--weights", description.to_str().unwrap()]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && err.contains("NaN at matrix 3, row 1, column 0"), "{err}");
}

#[test]
fn files_that_are_missing_or_damaged_are_one_error() {
    let folder = changed("llama", |_| {});
    let path = |name: &str| folder.path().join(name);
    let says = |word: &str| {
        let (code, _, err) = said(folder.path(), &[]);
        assert!(code.is_some_and(|code| code != 0) && err.contains(word), "{word}: {code:?} {err}");
    };
    std::fs::write(path("model.safetensors.index.json"), r#"{ "weight_map": { "a": "b.safetensors" } }"#)
        .unwrap();
    says("b.safetensors");
    std::fs::remove_file(path("model.safetensors.index.json")).unwrap();
    std::fs::rename(path("model.safetensors"), path("pytorch_model.bin")).unwrap();
    says("pytorch_model.bin is a Python pickle");
    std::fs::remove_file(path("pytorch_model.bin")).unwrap();
    says("holds no safetensors files");
    std::fs::write(path("config.json"), "[1]").unwrap();
    says("is no JSON object");
    std::fs::remove_file(path("config.json")).unwrap();
    says("config.json");
}

/// transformers 4's names, tensors that are computed, a head that is the table, and how its makers sample.
#[test]
fn what_older_checkpoints_have_is_known() {
    let folder = changed("llama3", |config| {
        let mut rope = config.remove("rope_parameters").unwrap();
        let theta = rope.as_object_mut().unwrap().remove("rope_theta").unwrap();
        config.insert("rope_theta".into(), theta);
        config.insert("rope_scaling".into(), rope);
        config.insert("torch_dtype".into(), json!("float16"));
        config.remove("dtype");
    });
    let sampling = r#"{ "do_sample": true, "temperature": 0.6, "top_p": 0.9, "min_p": 0.0 }"#;
    std::fs::write(folder.path().join("generation_config.json"), sampling).unwrap();
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<(String, TensorView<'_>)> = tensors.tensors();
    views.push(("lm_head.weight".into(), tensors.tensor("model.embed_tokens.weight").unwrap()));
    let frequencies = tensors.tensor("model.norm.weight").unwrap();
    views.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), frequencies));
    let whole = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), whole).unwrap();

    let (code, text, notes) = said(folder.path(), &["--context", "64"]);
    assert_eq!(code, Some(0), "{notes}");
    for line in [
        "scaling = \"llama3\", factor = 4.0",
        "ignore = [\"*.rotary_emb.inv_freq\", \"lm_head.weight\"]",
        "dtype = \"f32\"",
        "temperature = 0.6\ntop_k = 50\ntop_p = 0.9",
        "max_context = 64",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        notes.contains("weights are f16") && notes.contains("`lm_head.weight`, which is left out"),
        "{notes}"
    );
    let (code, _, err) = said(folder.path(), &["--context", "257"]);
    assert!(code == Some(2) && err.contains("the checkpoint's is 256"), "{err}");
    let (code, _, err) =
        said(&root().join("tests/families/mistral-window"), &["--pattern", "1:1", "--top-k", "64"]);
    assert!(code == Some(2) && err.contains("every layer sees a window of 8 tokens"), "{err}");
}

/// Full layers by a pattern or one by one; the others select, or see a window.
#[test]
fn layers_that_are_not_full() {
    let checkpoint = root().join("tests/families/llama");
    for (args, lines) in [
        (
            &["--pattern", "1:1", "--top-k", "64"][..],
            "pattern = \"1:1\"\nblock = 64\ntop_k = 64\nsparse_kv = \"own\"\n",
        ),
        (&["--pattern", "0, 2", "--top-k", "64"], "full = [0, 2]\nblock = 64\ntop_k = 64\n"),
        (
            &["--pattern", "1:1", "--window", "12"],
            "kind = \"swa\"\npattern = \"1:1\"\nwindow = 12\nsparse_sink = false\n",
        ),
        (&["--pattern", "1", "--window", "12"], "kind = \"swa\"\nfull = [1]\n"),
    ] {
        let (code, text, err) = said(&checkpoint, args);
        assert!(code == Some(0) && text.contains(lines), "{args:?}: {text}{err}");
    }
    for (args, code, says) in [
        (&["--pattern", "0,1", "--top-k", "64"][..], 3, "the last layer must be full"),
        (&["--pattern", "1,2", "--top-k", "64"], 3, "layer 0 is sparse and has no oracle before it"),
        (&["--pattern", "0,2,9", "--top-k", "64"], 3, "layer 9 is out of range"),
        (&["--pattern", "0,x", "--top-k", "64"], 3, "\"0,x\" is no pattern for 3 layers"),
        (&["--pattern", "1:1", "--window", "0"], 3, "a window of 0 tokens sees nothing"),
        (&["--pattern", "1:1"], 2, "--top-k <TOKENS>|--window <TOKENS>"),
        (&["--pattern", "1:1", "--top-k", "64", "--window", "8"], 2, "cannot be used with"),
        (&["--window", "8"], 2, "--pattern"),
    ] {
        let (found, out, err) = said(&checkpoint, args);
        assert!(found == Some(code) && out.is_empty() && err.contains(says), "{args:?}: {found:?} {err}");
    }
}

/// What stands in the description is a string, whatever is in it.
#[test]
fn names_are_strings() {
    let checkpoint = root().join("tests/families/llama");
    for args in [&["--name", "a\"b"][..], &["--target", "x\ny"], &["--pattern", "\"", "--top-k", "64"]] {
        let (code, out, err) = said(&checkpoint, args);
        assert!(code.is_some_and(|code| code > 1) && out.is_empty(), "{args:?}: {code:?}");
        assert!(!err.contains("not valid TOML"), "{err}");
    }
}

/// Beyond the training's length frequencies follow that of a sequence: up to there the model is as it was.
#[test]
fn dynamic_scaling_is_imported_as_far_as_it_does_nothing() {
    let rope = json!({ "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128 });
    let folder = changed("llama", |config| _ = config.insert("rope_parameters".into(), rope));
    let (code, text, notes) = said(folder.path(), &[]);
    assert!(
        code == Some(0) && text.contains("max_context = 128") && notes.contains("beyond 128 tokens"),
        "{notes}"
    );
}

/// One list of factors is for contexts as long as those of training, the other for longer ones; which one it is is told.
#[test]
fn a_context_has_one_list_of_factors() {
    let at = |name: &str, context: Option<&str>| {
        let args: Vec<&str> = context.map(|n| vec!["--context", n]).unwrap_or_default();
        let (code, text, notes) = said(&root().join("tests/families").join(name), &args);
        assert_eq!(code, Some(0), "{notes}");
        let rope = text.lines().find(|line| line.starts_with("rope")).unwrap().to_string();
        let context = text.lines().find(|line| line.starts_with("max_context")).unwrap().to_string();
        (rope, context, notes)
    };
    let (rope, context, notes) = at("llama-longrope-short", None);
    // sqrt(1 + ln(256 / 64) / ln(64))
    assert!(rope.contains("attention_factor = 1.1547005383792517, factors = [1.0, 1.25, 0.8, "), "{rope}");
    assert!(
        context.ends_with("= 64") && notes.contains("`short_factor`, for a context of 64 tokens"),
        "{notes}"
    );
    let (longer, context, notes) = at("llama-longrope-short", Some("65"));
    assert!(longer.contains("factors = [1.0, 2.5, 1.8, 6.5, 12.0, 9.06, 31.0, 24.5]"), "{longer}");
    assert!(context.ends_with("= 65") && notes.contains("`long_factor` at every length"), "{notes}");
    let rope = at("qwen3-yarn-ramp", None).0;
    assert!(rope.contains("scaling = \"factors\"") && !rope.contains("yarn"), "{rope}");
}

/// Layers without RoPE are those that the configuration names, else every fourth, and they alone do not turn.
#[test]
fn layers_may_have_no_positions() {
    let line = |change: &dyn Fn(&mut Map<String, Value>)| {
        let (code, text, err) = said(changed("smollm3", change).path(), &[]);
        assert_eq!(code, Some(0), "{err}");
        text.lines().find(|line| line.starts_with("no_rope")).map(String::from)
    };
    assert_eq!(line(&|_| {}).unwrap(), "no_rope = [1]");
    let interval = |every: u64| {
        line(&move |config| {
            config.remove("no_rope_layers");
            config.insert("no_rope_layer_interval".into(), json!(every));
        })
    };
    assert_eq!(interval(3).unwrap(), "no_rope = [2]");
    assert_eq!(interval(4), None);
    for list in [json!([1, 0]), json!([1, 2, 1]), json!("none")] {
        let folder = changed("smollm3", |config| _ = config.insert("no_rope_layers".into(), list));
        let (code, _, err) = said(folder.path(), &[]);
        assert!(code == Some(3) && err.contains("it must be a list of 3 numbers, 0 or 1"), "{err}");
    }
    let folder = changed("llama", |config| _ = config.insert("no_rope_layers".into(), json!([1, 0, 1])));
    let (code, _, err) = said(folder.path(), &[]);
    assert!(code == Some(3) && err.contains("`no_rope_layers` = [1,0,1]"), "{err}");
    // A description without the line is another model.
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = root().join("tests/families/smollm3");
    let golden = Golden::open(&checkpoint.join("golden.safetensors"));
    let description = import(&checkpoint, folder.path(), &[]);
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text.replace("no_rope = [1]", "")).unwrap();
    let (_, theirs) = golden.f32("logits").unwrap();
    let error = relative_error(&logits(&description, folder.path(), &tokens(&golden)), &theirs);
    assert!(error > 1e-2, "{error:.2e}");
}

/// Fused projections are split, and of a head the part turns that the configuration says.
#[test]
fn fused_projections_and_parts_of_heads_are_read() {
    let (code, text, err) = said(&root().join("tests/families/phi3"), &[]);
    assert_eq!(code, Some(0), "{err}");
    for line in [
        "kind = \"full\"",
        "rope = { theta = 5000.0, dims = 12, scaling = \"factors\"",
        "\"model.layers.{i}.mlp.gate_up_proj.weight\" = [[\"model.layers.{i}.mlp.gate_proj.weight\", 48], ",
        "[\"model.layers.{i}.self_attn.k_proj.weight\", 16], [\"model.layers.{i}.self_attn.v_proj.weight\", 16]]",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let at = |key: &str, value: Value| {
        let folder = changed("phi3", |config| _ = config.insert(key.to_string(), value));
        let (code, text, err) = said(folder.path(), &[]);
        (code, text + &err)
    };
    let rope =
        |part: f64| json!({ "rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": part });
    assert_eq!(at("full_attn_mod", json!(1)).0, Some(0));
    let (code, text) = at("rope_parameters", rope(0.5));
    assert!(code == Some(0) && text.contains("rope = { theta = 5000.0, dims = 8 }"), "{text}");
    for (key, value, says) in [
        ("rope_parameters", rope(0.45), "7 elements of 16 cannot turn in pairs"),
        ("rope_parameters", rope(1.5), "24 elements of 16 cannot turn in pairs"),
        ("full_attn_mod", json!(2), "`full_attn_mod` = 2: some layers have other attention"),
        ("intermediate_size", json!(47), "is [96, 32], and its parts have 47 + 47 rows"),
    ] {
        let (code, err) = at(key, value);
        assert!(code == Some(3) && err.contains(says), "{says}: {code:?} {err}");
    }
    // A window within the contexts is one.
    let (code, text) = at("sliding_window", json!(32));
    assert!(code == Some(0) && text.contains("kind = \"swa\"") && text.contains("window = 32"), "{text}");
    // A number that is none, in the rows of the keys: they are those of the file.
    let folder = changed("phi3", |_| {});
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.1.self_attn.qkv_proj.weight";
    let view = tensors.tensor(name).unwrap();
    let (shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
    data[4 * (33 * shape[1] + 5)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = TensorView::new(safetensors::Dtype::F32, shape, &data).unwrap();
    let mut views: Vec<_> = tensors.tensors().into_iter().filter(|(other, _)| other != name).collect();
    views.push((name.to_string(), bad));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let description = import(folder.path(), folder.path(), &[]);
    let output = hyc(&["check", "--weights", description.to_str().unwrap()]);
    let err = String::from_utf8_lossy(&output.stderr);
    let says = "qkv_proj.weight` in ";
    assert!(err.contains(says) && err.contains("holds NaN at row 33, column 5"), "{err}");
}
