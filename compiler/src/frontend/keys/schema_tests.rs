//! The JSON schema takes what the reader takes, and refuses much of what it refuses.

use serde_json::{Value, json};

use super::schema;
use super::tests::{bases, descriptions, parse, root, with};

/// Why `value` does not fit `schema`, of as much of draft 2020-12 as the schema uses; any other keyword panics.
fn misfits(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    let fits = |schema: &Value| misfits(schema, value, at).is_empty();
    let rules = schema.as_object().expect("a schema is an object");
    for (word, rule) in rules {
        let list = || rule.as_array().expect("a list").iter();
        let good = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "then" | "else" => true,
            "type" => match rule.as_str().expect("a type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                other => panic!("type {other}"),
            },
            "enum" => list().any(|word| word == value),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|x| x >= rule.as_f64().expect("a number")),
            "exclusiveMinimum" => value.as_f64().is_none_or(|x| x > rule.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|x| x <= rule.as_f64().expect("a number")),
            "multipleOf" => value.as_i64().is_none_or(|n| n % rule.as_i64().expect("an integer") == 0),
            // The one pattern is that of names.
            "pattern" => value.as_str().is_none_or(hyc_ir::text::is_model_name),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "required" => value
                .as_object()
                .is_none_or(|table| list().all(|key| table.contains_key(key.as_str().expect("a key")))),
            "allOf" => list().all(fits),
            "anyOf" => list().any(fits),
            "oneOf" => list().filter(|schema| fits(schema)).count() == 1,
            "not" => !fits(rule),
            "if" => schema.get(if fits(rule) { "then" } else { "else" }).is_none_or(fits),
            "items" => {
                let items = value.as_array().into_iter().flatten();
                items.for_each(|item| out.extend(misfits(rule, item, at)));
                true
            }
            "properties" => {
                for (key, schema) in rule.as_object().expect("properties") {
                    if let Some(inner) = value.get(key) {
                        out.extend(misfits(schema, inner, &format!("{at}.{key}")));
                    }
                }
                true
            }
            "additionalProperties" => match (value.as_object(), rule.as_bool()) {
                (Some(table), Some(false)) => table.keys().all(|key| rules["properties"].get(key).is_some()),
                (Some(table), None) => {
                    table.values().for_each(|inner| out.extend(misfits(rule, inner, at)));
                    true
                }
                _ => true,
            },
            other => panic!("the schema has a keyword {other}, which this check does not know"),
        };
        if !good {
            out.push(format!("{at}: {word} {rule}"));
        }
    }
    out
}

fn check(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    misfits(&schema(), &serde_json::to_value(table).unwrap(), "")
}

#[test]
fn every_description_of_the_repository_fits() {
    for path in descriptions() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(check(&text), [""; 0], "{}", path.display());
    }
}

/// One change at a time: the schema says the same as the reader.
#[test]
fn the_schema_agrees_with_the_reader() {
    let changes = [
        ("model", "ffn", None),
        ("model", "hidden", Some("0")),
        ("model", "hidden", Some("\"4\"")),
        ("model", "layers", Some("20000000")),
        ("model", "name", Some("\"a b\"")),
        ("model", "name", Some("\".a\"")),
        ("model", "nome", Some("1")),
        ("model", "head_dim", None),
        ("model", "v_head_dim", Some("4")),
        ("model", "rope", Some("{ theta = 0 }")),
        ("model", "rope", Some("{ dims = 4 }")),
        ("model", "rope", Some("{ theta = 5, dims = 4 }")),
        ("model", "qk_norm", Some("1")),
        ("model", "qkv_bias", Some("1")),
        ("attention", "kind", Some("\"full\"")),
        ("attention", "kind", Some("\"swa\"")),
        ("attention", "kind", Some("\"none\"")),
        ("attention", "pattern", None),
        ("attention", "full", Some("[0, 4]")),
        ("attention", "block", Some("12")),
        ("attention", "block", Some("264")),
        ("attention", "block", Some("16")),
        ("attention", "top_k", None),
        ("attention", "window", None),
        ("attention", "window_branch", Some("false")),
        ("attention", "gate", Some("\"head\"")),
        ("moe", "shared_ffn", Some("4")),
        ("moe", "experts", None),
        ("moe", "dense", Some("[0]")),
        ("moe", "router", Some("\"sigmoid\"")),
        ("moe", "router", Some("\"relu\"")),
        ("moe", "router_bias", Some("true")),
        ("moe", "router_bias", Some("false")),
        ("moe", "renormalise", Some("false")),
        ("moe", "router_scale", Some("2.5")),
        ("moe", "router_scale", Some("0")),
        ("attention", "sparse_heads", Some("6")),
        ("attention", "sparse_heads", Some("0")),
        ("weights", "scale", Some("{ a = 0.5 }")),
        ("weights", "scale", Some("{ a = 0 }")),
        ("weights", "files", Some("[]")),
        ("weights", "files", Some("[\"a\"]")),
        ("weights", "dtype", Some("\"f16\"")),
        ("tokenizer", "file", Some("[]")),
        ("sampling", "temperature", Some("0")),
        ("sampling", "temperature", Some("-0.5")),
        ("sampling", "top_k", Some("2.5")),
        ("sampling", "top_p", Some("1.01")),
        ("sampling", "repeat_penalty", Some("0.01")),
        ("sampling", "repeat_penalty", Some("0")),
        ("sampling", "penalty_window", Some("4096")),
        ("sampling", "penalty_window", Some("4097")),
        ("sampling", "seed", Some("9223372036854775807")),
        ("sampling", "seed", Some("-1")),
        ("tokenizer", "bos", Some("\"\"")),
        ("tokenizer", "bos", Some("-1")),
        ("tokenizer", "bos", Some("4294967296")),
        ("tokenizer", "eos", Some("[]")),
        ("tokenizer", "eos", Some("[2, \"</s>\"]")),
        ("tokenizer", "eos", Some("\"\"")),
        ("tokenizer", "eos", Some("[\"\"]")),
        ("tokenizer", "eos", Some("[[1]]")),
        ("tokenizer", "add_special", Some("true")),
        ("tokenizer", "add_special", Some("\"yes\"")),
        ("eval", "recall", Some("0.9")),
        ("eval", "recall", Some("1.1")),
        ("eval", "perplexity", Some("1")),
        ("eval", "perplexity", Some("0.9")),
        ("eval", "context", Some("0")),
        ("target", "kind", Some("\"cpu\"")),
        ("target", "max_context", Some("-1")),
        ("colour", "red", Some("1")),
    ];
    for base in bases() {
        assert_eq!(check(&base), [""; 0]);
        for (section, key, value) in changes {
            let text = with(&base, section, key, value);
            let (read, fits) = (parse(&text), check(&text));
            assert_eq!(read.is_ok(), fits.is_empty(), "{text}\nreader: {read:?}\nschema: {fits:?}");
        }
    }
}

/// A check that passes everything is none.
#[test]
fn the_check_can_fail() {
    let schema = json!({ "type": "object", "required": ["a"], "properties": { "a": { "minimum": 3 } } });
    assert_eq!(misfits(&schema, &json!({ "a": 3 }), "").len(), 0);
    assert_eq!(misfits(&schema, &json!({ "a": 2 }), "").len(), 1);
    assert_eq!(misfits(&schema, &json!({}), "").len(), 1);
    assert_eq!(misfits(&schema, &json!([]), "").len(), 1);
}

#[test]
fn the_committed_schema_is_up_to_date() {
    hyc_filetest::expect(&root().join("docs/model-toml.schema.json"), &format!("{:#}\n", schema()));
}
