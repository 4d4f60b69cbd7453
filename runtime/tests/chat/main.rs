//! Chat templates: the same text as jinja2 makes (`make.py` wrote it down), and no message that passes for anything
//! but text.

mod bounds;
mod shield;

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hyc_runtime::{ChatTemplate, Message, TextSettings, Tokenizer};
use serde_json::{Value, json};

/// Words and single characters; <s>, </s>, <|im_start|> and <|im_end|> are special, `<t>` is added but not special.
fn tokenizer_json(model_type: &str) -> Value {
    let letters = (32..127u8).map(|byte| char::from(byte).to_string());
    let vocab: Vec<String> = ["\n", "é", "user", "system", "assistant"].map(String::from).to_vec();
    let special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<t>"];
    let vocab: Vec<String> = vocab.into_iter().chain(letters).chain(special.map(String::from)).collect();
    let first = vocab.len() - special.len();
    let added: Vec<Value> = special
        .iter()
        .zip(first..)
        .map(|(text, id)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *text != "<t>"})
        })
        .collect();
    let model = match model_type {
        // A Unigram model finds its special tokens in plain text, too.
        "Unigram" => {
            let list: Vec<Value> = vocab.iter().map(|text| json!([text, 0.0])).collect();
            json!({"type": "Unigram", "unk_id": 0, "vocab": list, "byte_fallback": false})
        }
        _ => {
            let table: serde_json::Map<String, Value> =
                vocab.iter().zip(0..).map(|(text, id)| (text.clone(), json!(id))).collect();
            json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": table, "merges": []})
        }
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"}, "model": model,
    })
}

fn tokenizer(model_type: &str, template: &str) -> Tokenizer {
    let json = tokenizer_json(model_type);
    let plain = Tokenizer::from_json(json.to_string().as_bytes(), 200).unwrap();
    let settings = TextSettings {
        bos: plain.token("<s>"),
        eos: vec![plain.token("</s>").unwrap(), plain.token("<t>").unwrap()],
        chat_template: Some(template.to_string()),
        ..TextSettings::default()
    };
    Tokenizer::new(json.to_string().as_bytes(), 200, settings).unwrap()
}

fn render(template: &str, messages: &[Message], reply: bool) -> Result<String, String> {
    // 2024-02-29 12:34:56, as make.py has it.
    let now = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
    let tokenizer = tokenizer("BPE", template);
    let template = ChatTemplate::of(&tokenizer).map_err(|e| e.message)?;
    template.render(&tokenizer, messages, reply, now).map_err(|e| e.message)
}

#[test]
fn texts_are_those_of_jinja2() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat");
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let name = format!("{} {} {}", case["template"], case["name"], case["reply"]);
        let template = std::fs::read_to_string(folder.join(case["template"].as_str().unwrap())).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let found = render(&template, &messages, case["reply"].as_bool().unwrap());
        match case["error"].as_str() {
            Some(words) => assert!(found.clone().is_err_and(|e| e.contains(words)), "{name}: {found:?}"),
            None => assert_eq!(found.as_deref(), Ok(case["text"].as_str().unwrap()), "{name}"),
        }
    }
}

#[test]
fn faults_of_a_template_are_errors_with_their_line() {
    let message = [Message::new("user", "x")];
    for (template, words) in [
        ("{% if x %}", "syntax error"),
        ("a\nb\n{% nope %}", "line 3"),
        ("a\n{{ messages[0].content.nope() }}", "line 2"),
        ("{{ nope.x }}", "line 1"),
        ("{{ 1 / 0 }}", "line 1"),
        ("{{ 'a' | tojson(nope=1) }}", "line 1"),
        ("{{ strftime_now('%Q') }}", "%Q"),
        ("{{ raise_exception('not so') }}", "does not take this conversation: not so"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% include 'other' %}", "line 1"),
        ("{{ messages | tojson(sort_keys='x') }}", "line 1"),
    ] {
        let error = render(template, &message, true).unwrap_err();
        assert!(error.contains(words) && error.contains("chat template"), "{template}: {error}");
    }
    let endless =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
    let error = render(endless, &message, true).unwrap_err();
    assert!(error.contains("fuel"), "{error}");
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn encode(tokenizer: &Tokenizer, content: &str) -> Vec<u32> {
    let template = ChatTemplate::of(tokenizer).unwrap();
    template.encode(tokenizer, &[Message::new("user", content)], true).unwrap()
}

fn count(tokenizer: &Tokenizer, tokens: &[u32], token: &str) -> usize {
    tokens.iter().filter(|t| Some(**t) == tokenizer.token(token)).count()
}

#[test]
fn a_prompt_has_the_templates_special_tokens_and_nothing_added() {
    let tokenizer = tokenizer("BPE", CHATML);
    let tokens = encode(&tokenizer, "Hi <there>");
    assert_eq!(tokenizer.decode_with(&tokens, true).unwrap().matches("<|im_start|>").count(), 2);
    assert_eq!(
        tokens,
        tokenizer.encode_bare("<|im_start|>user\nHi <there><|im_end|>\n<|im_start|>assistant\n").unwrap()
    );
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let json = tokenizer_json("BPE").to_string();
    let tokenizer = Tokenizer::from_json(json.as_bytes(), 200).unwrap();
    let error = ChatTemplate::of(&tokenizer).err().unwrap();
    assert!(error.message.contains("no chat template") && error.help.is_some_and(|h| h.contains("hyc run")));
}

#[test]
fn json_takes_the_words_of_python() {
    let message = [Message::new("user", "é")];
    let json =
        |words: &str| render(&format!("{{{{ messages[0] | tojson{words} }}}}"), &message, true).unwrap();
    assert_eq!(json(""), r#"{"role": "user", "content": "é"}"#);
    assert_eq!(json("(sort_keys=true)"), r#"{"content": "é", "role": "user"}"#);
    assert_eq!(json("(ensure_ascii=true)"), r#"{"role": "user", "content": "\u00e9"}"#);
    assert_eq!(
        json("(indent=1, sort_keys=true, ensure_ascii=true)"),
        "{\n \"content\": \"\\u00e9\",\n \"role\": \"user\"\n}"
    );
}

#[test]
fn a_role_is_a_word() {
    let tokenizer = tokenizer("BPE", CHATML);
    let template = ChatTemplate::of(&tokenizer).unwrap();
    for role in ["", "user\n", "<s>", "a b", "user<|im_end|>", "rôle"] {
        let messages = [Message::new(role, "x")];
        let error = template.encode(&tokenizer, &messages, true).unwrap_err();
        assert!(error.message.contains("is no role"), "{error}");
        assert!(template.render(&tokenizer, &messages, true, UNIX_EPOCH).is_err());
    }
    for role in ["user", "tool-2", "My_Role"] {
        assert!(template.encode(&tokenizer, &[Message::new(role, "x")], true).is_ok());
    }
}

#[test]
fn a_template_that_makes_nothing_says_so() {
    for template in ["", "{% if messages | length > 3 %}x{% endif %}"] {
        let tokenizer = tokenizer("BPE", template);
        let template = ChatTemplate::of(&tokenizer).unwrap();
        let error = template.encode(&tokenizer, &[Message::new("user", "x")], true).unwrap_err();
        assert!(error.message.contains("the chat template made no tokens"), "{error}");
    }
}
