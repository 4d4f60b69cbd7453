//! Text and tokens over hand-made tokenizers of each kind: what is added to a prompt, and that text that comes in
//! parts is the text of the whole.

mod common;

use common::Random;
use hyc_runtime::{TextSettings, TextStream, Tokenizer};
use serde_json::{Map, Value, json};

/// A tokenizer whose token i is the i-th of `vocab`; the last `special` of them are special.
fn tokenizer_json(vocab: &[String], special: usize, model: Value, decoder: Value) -> Value {
    let table: Map<String, Value> = vocab.iter().zip(0..).map(|(s, i)| (s.clone(), json!(i))).collect();
    let added: Vec<Value> = (vocab.len() - special..vocab.len())
        .map(|id| {
            json!({"id": id, "content": vocab[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let mut model = model;
    model["vocab"] = table.into();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder, "model": model,
    })
}

fn bpe(byte_fallback: bool) -> Value {
    json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": byte_fallback, "ignore_merges": false,
        "merges": []})
}

fn load(json: &Value) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes(), 400).unwrap()
}

/// GPT-2's printable stand-in for each byte.
fn byte_table() -> Vec<String> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let stand_in = |b: u32| {
        next += u32::from(!plain(b));
        if plain(b) { b } else { next - 1 }
    };
    (0..256u32).map(stand_in).filter_map(char::from_u32).map(String::from).collect()
}

/// Token b is byte b; 256 is "END" and the first byte of a character, 257 is special.
fn byte_level() -> Value {
    let mut vocab = byte_table();
    vocab.extend(["END\u{e2}".to_string(), "<|end|>".to_string()]);
    let mut json = tokenizer_json(
        &vocab,
        1,
        bpe(false),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
    );
    json["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json
}

fn words(list: &[&str], special: &[&str]) -> (Vec<String>, usize) {
    let bytes = ["<0xE2>", "<0x82>", "<0xAC>", "<0x41>", "<0xF0>", "<0x9F>", "<0xFF>"];
    let all = bytes.iter().chain(list).chain(special).map(ToString::to_string);
    (all.collect(), special.len())
}

/// Llama's: words with their spaces, single bytes, the first space of a text dropped.
fn llama() -> Value {
    let (vocab, special) = words(&["▁", "▁to", "▁use", "a", "▁▁", "é", "\u{fffd}"], &["<s>", "</s>"]);
    let decoders = json!([
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    ]);
    tokenizer_json(&vocab, special, bpe(true), json!({"type": "Sequence", "decoders": decoders}))
}

fn metaspace() -> Value {
    let (vocab, special) = words(&["▁", "▁to", "▁use", "a", "▁▁"], &["<s>"]);
    let decoder = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    tokenizer_json(&vocab, special, bpe(false), decoder)
}

fn word_piece() -> Value {
    let (vocab, special) = words(&["to", "##day", ".", "'", "##s", "use"], &["[SEP]"]);
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    tokenizer_json(&vocab, special, bpe(false), decoder)
}

fn suffixes() -> Value {
    let (vocab, special) = words(&["to</w>", "d", "ay</w>", "use</w>"], &["<end>"]);
    tokenizer_json(&vocab, special, bpe(false), json!({"type": "BPEDecoder", "suffix": "</w>"}))
}

fn plain() -> Value {
    let (vocab, special) = words(&["to", "use"], &["<end>"]);
    tokenizer_json(&vocab, special, bpe(false), Value::Null)
}

/// The parts of a text as they come, and whether a stop text ended it.
fn parts(
    tokenizer: &Tokenizer,
    context: &[u32],
    tokens: &[u32],
    stop: &[&str],
    special: bool,
) -> (Vec<String>, bool) {
    let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
    let mut stream = TextStream::new(tokenizer, context, &stop, special).unwrap();
    let mut parts = Vec::new();
    for token in tokens {
        let (part, ended) = stream.push(*token).unwrap();
        parts.push(part);
        if ended {
            return (parts, true);
        }
    }
    let (part, ended) = stream.finish().unwrap();
    parts.push(part);
    (parts, ended)
}

fn of_bytes(text: &str, stop: &[&str]) -> (Vec<String>, bool) {
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    parts(&load(&byte_level()), &[], &tokens, stop, false)
}

#[test]
fn parts_are_the_text_of_the_whole() {
    let mut random = Random(11);
    let all = [byte_level(), llama(), metaspace(), word_piece(), suffixes(), plain()];
    for (kind, json) in all.iter().enumerate() {
        let tokenizer = load(json);
        let count = json["model"]["vocab"].as_object().unwrap().len();
        for round in 0..600 {
            // Two tokens more than there are: a model's vocabulary may be larger.
            let few: Vec<u32> = (0..1 + random.below(6)).map(|_| random.below(count + 2) as u32).collect();
            let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| few[random.below(few.len())]).collect() };
            let (context, tokens) = (draw(round % 15), draw(round % 70));
            let special = round % 2 == 0;
            let text = |tokens: &[u32]| tokenizer.decode_with(tokens, special).unwrap();
            let whole = text(&[context.as_slice(), &tokens].concat());
            // Where the prompt ends inside a character, its text is not the beginning of the whole.
            let Some(expected) = whole.strip_prefix(&text(&context)) else { continue };
            let (parts, _) = parts(&tokenizer, &context, &tokens, &[], special);
            assert_eq!(parts.concat(), expected, "kind {kind}: {context:?} then {tokens:?}");
        }
    }
}

/// Llama's with all bytes: token b is byte b, 256 is a letter.
fn all_bytes() -> Tokenizer {
    let mut vocab: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    vocab.push("a".to_string());
    let decoders = json!([{"type": "ByteFallback"}, {"type": "Fuse"}]);
    load(&tokenizer_json(&vocab, 0, bpe(true), json!({"type": "Sequence", "decoders": decoders})))
}

#[test]
fn long_runs_of_bytes_are_their_text() {
    let tokenizer = all_bytes();
    let bytes = |text: &str| -> Vec<u32> {
        text.bytes().map(|byte| if byte == b'a' { 256 } else { u32::from(byte) }).collect()
    };
    let long = "語".repeat(65);
    for (context, text) in
        [("語".repeat(64), "語a"), ("語".to_string(), long.as_str()), (String::new(), &long)]
    {
        assert_eq!(parts(&tokenizer, &bytes(&context), &bytes(text), &[], false).0.concat(), text);
    }
    // A character that never ends is one U+FFFD for each byte.
    let (found, _) = parts(&tokenizer, &[], &bytes(&long)[..194], &[], false);
    assert_eq!(found.concat(), "語".repeat(64) + "\u{fffd}\u{fffd}");

    let mut random = Random(23);
    let letters = ["語", "é", "🦀", "a", "€"];
    for round in 0..300 {
        let few = 1 + random.below(letters.len());
        let mut draw = |count: usize| -> String { (0..count).map(|_| letters[random.below(few)]).collect() };
        let (context, text) = (draw(round % 150), draw(3 * round % 401));
        let (found, _) = parts(&tokenizer, &bytes(&context), &bytes(&text), &[], false);
        assert_eq!(found.concat(), text, "after {context}");
        // In the middle of characters, and with bytes that are no text: no panic, and an end of what is held back.
        let mut tokens = bytes(&text);
        tokens.extend((0..round % 9 * 50).map(|_| [0xff, 0x41, 0xe8, 0xaa, 256][random.below(5)]));
        for cut in 0..3.min(tokens.len()) {
            let mut before = bytes(&context);
            before.extend(&tokens[..cut]);
            let (found, _) = parts(&tokenizer, &before, &tokens[cut..], &[], false);
            assert!(found.iter().all(|part| part.len() < 3000));
        }
    }
}

#[test]
fn the_first_new_token_keeps_its_space() {
    let tokenizer = load(&llama());
    let id = |text: &str| tokenizer.token(text).unwrap();
    let (to, end) = (id("▁to"), id("</s>"));
    assert_eq!(parts(&tokenizer, &[id("▁use")], &[to], &[], false).0.concat(), " to");
    // A hidden token is no beginning of a text.
    assert_eq!(parts(&tokenizer, &[id("<s>"), id("a")], &[end, to, to], &[], false).0.concat(), " to to");
    assert_eq!(parts(&tokenizer, &[id("a"), end], &[to], &[], false).0.concat(), " to");
    assert_eq!(parts(&tokenizer, &[id("<s>")], &[to, to], &[], false).0.concat(), "to to");
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    assert_eq!(of_bytes("aé€x", &[]).0, ["a", "", "é", "", "", "€", "x", ""]);
    let tokenizer = load(&byte_level());
    // Bytes that begin no character are certain when the next one comes, and at the end.
    let (found, _) = parts(&tokenizer, &[], &[0xff, 0xff, 0x61, 0xe2], &[], false);
    assert_eq!(found, ["", "\u{fffd}", "\u{fffd}a", "", "\u{fffd}"]);
    // However long nothing is certain.
    let (found, _) = parts(&load(&llama()), &[], &vec![6; 5000], &[], false);
    assert_eq!(found.concat().chars().count(), 5000);
    assert!(found.iter().all(|part| part.len() < 1000));
}

#[test]
fn no_part_of_a_stop_string_is_shown() {
    let (parts, ended) = of_bytes("one END two", &["END"]);
    assert!(ended);
    assert_eq!(parts.concat(), "one ");
    let (parts, ended) = of_bytes("one ENough", &["END"]);
    assert!(!ended);
    assert_eq!(parts.concat(), "one ENough");
    let (parts, ended) = of_bytes("a €END", &["€E", "D"]);
    assert_eq!((parts.concat(), ended), ("a ".to_string(), true));
}

#[test]
fn a_stop_string_before_an_unfinished_character_is_not_shown() {
    let (found, ended) = parts(&load(&byte_level()), &[], &[u32::from(b'a'), 256], &["END"], false);
    assert_eq!((found.concat(), ended), ("a".to_string(), true));
}

#[test]
fn special_tokens_are_hidden_unless_asked_for() {
    let tokenizer = load(&byte_level());
    let tokens = [u32::from(b'a'), 257, u32::from(b'b')];
    assert_eq!(parts(&tokenizer, &[], &tokens, &[], false).0.concat(), "ab");
    assert_eq!(parts(&tokenizer, &[], &tokens, &[], true).0.concat(), "a<|end|>b");
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "ab");
}

/// A word-level tokenizer whose post-processor puts <s> first.
fn with_template() -> Value {
    let vocab: Vec<String> = ["a", "b", "<s>", "</s>"].iter().map(ToString::to_string).collect();
    let model = json!({"type": "WordLevel", "unk_token": "a"});
    let mut json = tokenizer_json(&vocab, 2, model, json!({"type": "Fuse"}));
    json["pre_tokenizer"] = json!({"type": "Whitespace"});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}}
    });
    json
}

#[test]
fn a_prompt_gets_its_special_tokens_once() {
    let json = with_template();
    let mut bare = json.clone();
    bare["post_processor"] = Value::Null;
    let settings = TextSettings { bos: Some(2), eos: vec![3], ..TextSettings::default() };
    let check = |json: &Value, settings: TextSettings, text: &str, expected: &[u32]| {
        let tokenizer = Tokenizer::new(json.to_string().as_bytes(), 4, settings.clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text} with {settings:?}");
    };
    let with = |add_bos, add_eos| TextSettings { add_bos, add_eos, ..settings.clone() };
    check(&json, with(None, None), "a b", &[2, 0, 1]);
    check(&json, with(Some(true), None), "a b", &[2, 0, 1]);
    check(&json, with(Some(false), None), "a b", &[0, 1]);
    // One that is part of the text is the text's.
    check(&json, with(Some(false), None), "<s>a", &[2, 0]);
    check(&json, with(Some(true), Some(true)), "a", &[2, 0, 3]);
    check(&json, with(None, None), "", &[2]);
    check(&json, TextSettings { post_process: false, ..with(None, None) }, "a", &[0]);
    check(&bare, with(None, None), "a", &[0]);
    check(&bare, with(Some(true), None), "a", &[2, 0]);
    check(&bare, with(Some(true), None), "<s> a", &[2, 0]);
    check(&bare, with(Some(true), Some(true)), "", &[2, 3]);
    let tokenizer = Tokenizer::new(json.to_string().as_bytes(), 4, with(Some(true), Some(true))).unwrap();
    assert_eq!(tokenizer.encode_bare("a b").unwrap(), [0, 1]);
}

/// GPT-2's `<|endoftext|>` is both the first token and the last.
#[test]
fn one_token_that_is_both_ends_is_each_once() {
    let mut json = with_template();
    let check = |json: &Value, add_bos, add_eos, text: &str, expected: &[u32]| {
        let settings =
            TextSettings { bos: Some(2), eos: vec![2], add_bos, add_eos, ..TextSettings::default() };
        let tokenizer = Tokenizer::new(json.to_string().as_bytes(), 4, settings).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{add_bos:?} {add_eos:?} `{text}`");
    };
    check(&json, None, Some(false), "", &[2]);
    check(&json, None, Some(false), "a", &[2, 0]);
    check(&json, None, Some(true), "", &[2, 2]);
    check(&json, Some(true), Some(true), "", &[2, 2]);
    check(&json, Some(true), Some(false), "", &[2]);
    check(&json, Some(false), Some(false), "", &[]);
    let pieces = json["post_processor"]["single"].as_array_mut().unwrap();
    pieces.push(json!({"SpecialToken": {"id": "<s>", "type_id": 0}}));
    check(&json, None, Some(false), "", &[2]);
    check(&json, None, Some(false), "a", &[2, 0]);
    check(&json, Some(false), Some(false), "a", &[0]);
    check(&json, Some(false), None, "a", &[0, 2]);
    json["post_processor"] = Value::Null;
    check(&json, Some(true), Some(true), "", &[2, 2]);
}

#[test]
fn settings_of_another_tokenizer_are_refused() {
    let settings = TextSettings { eos: vec![1, 9], ..TextSettings::default() };
    let error = Tokenizer::new(with_template().to_string().as_bytes(), 10, settings).err().unwrap();
    assert!(error.message.contains("token 9"), "{error}");
}

#[test]
fn end_tokens_are_those_that_the_file_says_are_special() {
    let mut json = with_template();
    assert_eq!(load(&json).settings().eos, [3]);
    json["added_tokens"][1]["special"] = json!(false);
    assert_eq!(load(&json).settings().eos, [0; 0]);
}

#[test]
fn settings_of_training_time_have_no_effect() {
    let mut json = with_template();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
    assert_eq!(load(&json).encode("a b a b b").unwrap(), [2, 0, 1, 0, 1, 1]);
    assert_eq!(load(&json).encode("b").unwrap(), [2, 1]);

    let vocab: Vec<String> = ["a", "b", "ab", "abab"].iter().map(ToString::to_string).collect();
    let mut model = bpe(false);
    model["merges"] = json!([["a", "b"], ["ab", "ab"]]);
    model["dropout"] = json!(0.9);
    let tokenizer = load(&tokenizer_json(&vocab, 0, model, Value::Null));
    for _ in 0..20 {
        assert_eq!(tokenizer.encode("abab").unwrap(), [3]);
    }
}
