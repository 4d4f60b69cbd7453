//! The JSON schema of a description, for editors (draft 2020-12).

use serde_json::{Map, Value, json};

use super::MAX_SIZE;
use super::{Default, Key, SECTIONS, SPARSE_HEADS, SectionKeys, Type};

/// The schema. It takes every description that the reader takes; the reader alone knows how values fit each other.
pub fn schema() -> Value {
    let properties: Map<String, Value> = SECTIONS.iter().map(|s| (s.name.to_string(), table(s))).collect();
    let required: Vec<&str> = SECTIONS.iter().filter(|s| s.required).map(|s| s.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hyc model.toml",
        "description": "A HySparse language model for hyc",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        // The feed-forward part is one of two.
        "if": { "required": ["moe"], "properties": { "moe": { "not": { "required": ["dense"] } } } },
        "then": { "properties": { "model": { "not": { "required": ["ffn"] } } } },
        "else": { "properties": { "model": { "required": ["ffn"] } } },
    })
}

fn table(section: &SectionKeys) -> Value {
    let properties: Map<String, Value> = section.keys.iter().map(|k| (k.name.to_string(), key(k))).collect();
    let is_required = |key: &&Key| matches!(key.default, Default::Required);
    let required: Vec<&str> = section.keys.iter().filter(is_required).map(|key| key.name).collect();
    let mut value = json!({
        "type": "object", "description": section.meaning, "properties": properties,
        "required": required, "additionalProperties": false,
    });
    match section.name {
        "model" => {
            let all = |names: &[&str]| json!({ "required": names });
            value["anyOf"] = json!([all(&["head_dim"]), all(&["qk_head_dim", "v_head_dim"])]);
        }
        "attention" => value["allOf"] = json!(kinds()),
        "moe" => {
            // A softmax has no bias.
            let of_sigmoids =
                json!({ "required": ["router"], "properties": { "router": { "const": "sigmoid" } } });
            value["anyOf"] = json!([{ "properties": { "router_bias": { "const": false } } }, of_sigmoids]);
        }
        "tokenizer" => value["not"] = json!({ "required": ["chat_template", "chat_template_file"] }),
        _ => {}
    }
    value
}

fn key(key: &Key) -> Value {
    let mut value = match key.ty {
        Type::Integer(least) => json!({ "type": "integer", "minimum": least, "maximum": MAX_SIZE }),
        Type::Between(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Type::Multiple(of, most) => {
            json!({ "type": "integer", "minimum": of, "maximum": most, "multipleOf": of })
        }
        Type::Positive => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Type::Positives => {
            json!({ "type": "array", "items": { "type": "number", "exclusiveMinimum": 0 }, "minItems": 1 })
        }
        Type::Within(range) => {
            let kind = if range.whole { "integer" } else { "number" };
            // The f32 next to 0.01 is 0.01 for who reads it.
            let number = |x: f32| x.to_string().parse::<Value>().unwrap_or_default();
            json!({ "type": kind, "minimum": number(range.least), "maximum": number(range.most) })
        }
        Type::Seed => json!({ "type": "integer", "minimum": 0 }),
        Type::Flag => json!({ "type": "boolean" }),
        Type::Text => json!({ "type": "string" }),
        Type::Name => json!({ "type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$" }),
        Type::Word(words) => json!({ "enum": words }),
        Type::Files | Type::Patterns => {
            json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 })
        }
        Type::Renames | Type::Formats => {
            json!({ "type": "object", "additionalProperties": { "type": "string" } })
        }
        Type::Scales => {
            json!({ "type": "object", "additionalProperties": { "type": "number", "exclusiveMinimum": 0 } })
        }
        Type::Splits => {
            let part = json!({ "type": "array", "minItems": 2, "maxItems": 2 });
            let parts = json!({ "type": "array", "items": part, "minItems": 1, "maxItems": 16 });
            json!({ "type": "object", "additionalProperties": parts })
        }
        Type::Layers => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } })
        }
        Type::Token => json!({ "anyOf": [{ "type": "string" }, number()] }),
        Type::Tokens => {
            let token = json!({ "anyOf": [{ "type": "string", "not": { "const": "" } }, number()] });
            json!({ "anyOf": [token, { "type": "array", "items": token }] })
        }
        Type::Switch => json!({ "enum": [true, false, "auto"] }),
        Type::Table(section) => table(section),
    };
    value["description"] = json!(key.meaning);
    if let Default::Value(text) = key.default
        && let Some(default) = toml_value(text)
    {
        value["default"] = default;
    }
    value
}

/// The number of a token.
fn number() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
}

/// A TOML value as JSON.
fn toml_value(text: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// What each kind of attention needs and refuses.
fn kinds() -> Vec<Value> {
    let kind = |name: &str| json!({ "required": ["kind"], "properties": { "kind": { "const": name } } });
    let refuse = |keys: &[&str]| {
        let list: Vec<Value> = keys.iter().map(|key| json!({ "required": [key] })).collect();
        json!({ "not": { "anyOf": list } })
    };
    let one_list = json!({ "oneOf": [{ "required": ["pattern"] }, { "required": ["full"] }] });
    let mut full = vec!["pattern", "full", "top_k", "window", "sparse_kv", "window_branch"];
    full.extend(SPARSE_HEADS);
    let full = refuse(&full);
    let mut swa = refuse(&["top_k", "gate", "sparse_kv", "window_branch"]);
    swa["required"] = json!(["window"]);
    let no_window =
        json!({ "required": ["window_branch"], "properties": { "window_branch": { "const": false } } });
    let window = json!({
        "if": no_window, "then": refuse(&["window"]), "else": { "required": ["window"] },
        "required": ["top_k"],
    });
    vec![
        json!({ "if": kind("full"), "then": full, "else": one_list }),
        json!({ "if": kind("swa"), "then": swa }),
        json!({ "if": { "anyOf": [kind("full"), kind("swa")] }, "else": window }),
    ]
}
