//! What `[tokenizer]` and the files beside the tokenizer come to.

use serde_json::{Value, json};

use super::*;

/// <s>, </s> and <|im_end|> are special: tokens 2, 3 and 4.
fn tokenizer() -> Value {
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": [special(2, "<s>"), special(3, "</s>"), special(4, "<|im_end|>")],
        "model": {"type": "WordLevel", "unk_token": "a",
            "vocab": {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "<|im_end|>": 4}},
    })
}

/// The same without tokens that are well known to end a text.
fn endless() -> Value {
    let text = tokenizer().to_string();
    serde_json::from_str(&text.replace("</s>", "</z>").replace("<|im_end|>", "<|z|>")).unwrap()
}

/// The settings of a tokenizer with these files beside it.
fn settings(files: &[(&str, &str)], edit: impl FnOnce(&mut TokenizerDesc)) -> Result<TextSettings> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer().to_string()).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut desc = TokenizerDesc::of(path);
    edit(&mut desc);
    read(&desc, 8).map(|text| text.unwrap().settings)
}

fn named(text: &str) -> TokenName {
    TokenName::Text(text.to_string())
}

#[test]
fn without_neighbours_the_well_known_end_tokens_hold() {
    let found = settings(&[], |_| {}).unwrap();
    assert_eq!(found, TextSettings { eos: vec![3, 4], ..TextSettings::default() });
}

#[test]
fn neighbours_are_heard_in_their_order() {
    let config =
        r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true, "other": 1}"#;
    let found = settings(&[("tokenizer_config.json", config)], |_| {}).unwrap();
    let expected =
        TextSettings { bos: Some(2), eos: vec![3], add_bos: Some(true), ..TextSettings::default() };
    assert_eq!(found, expected);

    let generation = r#"{"bos_token_id": 4, "eos_token_id": [4, 3]}"#;
    let map = r#"{"bos_token": "<|im_end|>", "eos_token": {"content": "<|im_end|>", "lstrip": false}}"#;
    let all = [
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", map),
        ("generation_config.json", generation),
    ];
    assert_eq!(settings(&all, |_| {}).unwrap(), TextSettings { eos: vec![3, 4], ..expected });
    let found = settings(&all[1..], |_| {}).unwrap();
    assert_eq!((found.bos, found.eos, found.add_bos), (Some(4), vec![4, 3], None));
    let found = settings(&all[2..], |_| {}).unwrap();
    assert_eq!((found.bos, found.eos), (Some(4), vec![4, 3]));
    let found = settings(&[("generation_config.json", r#"{"eos_token_id": 3}"#)], |_| {}).unwrap();
    assert_eq!((found.bos, found.eos), (None, vec![3]));
    // null is a word, too: there is none.
    let null = [("tokenizer_config.json", r#"{"bos_token": null, "add_bos_token": false}"#), all[2]];
    let found = settings(&null, |_| {}).unwrap();
    assert_eq!((found.bos, found.eos, found.add_bos), (None, vec![4, 3], Some(false)));
}

#[test]
fn the_description_stands_above_its_neighbours() {
    let files = [(
        "tokenizer_config.json",
        r#"{"bos_token": "<nope>", "eos_token": "<nope>", "add_bos_token": true, "chat_template": "x"}"#,
    )];
    let ours = |desc: &mut TokenizerDesc| {
        desc.bos = Some(named("<s>"));
        desc.eos = Some(vec![TokenName::Id(4), named("</s>"), named("<|im_end|>")]);
        desc.chat_template = Some(TemplateSource::Text("y".into()));
    };
    let found = settings(&files, ours).unwrap();
    let expected = TextSettings {
        bos: Some(2),
        eos: vec![4, 3],
        add_bos: Some(true),
        chat_template: Some("y".into()),
        ..TextSettings::default()
    };
    assert_eq!(found, expected);
    let none = |desc: &mut TokenizerDesc| {
        desc.bos = Some(named(""));
        desc.eos = Some(vec![]);
        desc.chat_template = Some(TemplateSource::Text(String::new()));
    };
    assert_eq!(settings(&files, none).unwrap(), TextSettings::default());
}

#[test]
fn what_is_added_to_a_prompt() {
    let files = [(
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true}"#,
    )];
    let with = |add: AddSpecial, files: &[(&str, &str)]| {
        let found = settings(files, |desc| desc.add_special = add).unwrap();
        (found.post_process, found.add_bos, found.add_eos)
    };
    assert_eq!(with(AddSpecial::Auto, &files), (true, Some(false), Some(true)));
    assert_eq!(with(AddSpecial::Always, &files), (true, Some(true), Some(true)));
    assert_eq!(with(AddSpecial::Never, &files), (false, None, None));
    assert_eq!(with(AddSpecial::Always, &[]), (true, None, None));
    let named_here = settings(&files, |desc| desc.bos = Some(named("<s>"))).unwrap();
    assert_eq!(named_here.add_bos, Some(true));
}

#[test]
fn templates_are_found_and_parsed() {
    let template = |files: &[(&str, &str)]| settings(files, |_| {}).unwrap().chat_template;
    let own = ("tokenizer_config.json", r#"{"chat_template": "own"}"#);
    assert_eq!(template(&[own]).as_deref(), Some("own"));
    assert_eq!(template(&[own, ("chat_template.jinja", "file")]).as_deref(), Some("file"));
    let list =
        r#"{"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}"#;
    assert_eq!(template(&[("tokenizer_config.json", list)]).as_deref(), Some("b"));
    assert_eq!(template(&[]), None);
}

#[test]
fn faults_name_file_and_key() {
    let config = |text: &'static str| vec![("tokenizer_config.json", text)];
    let generation = |text: &'static str| vec![("generation_config.json", text)];
    for (files, words) in [
        (config("{"), ["tokenizer_config.json is no JSON object", "beside the tokenizer"]),
        (config("[]"), ["tokenizer_config.json is no JSON object", "move it away"]),
        (config(r#"{"bos_token": 1}"#), ["`bos_token` in", "must be a string"]),
        (config(r#"{"eos_token": {"text": "x"}}"#), ["`eos_token` in", "`content`"]),
        (config(r#"{"eos_token": "</S>"}"#), ["the tokenizer has no token `</S>`", "did you mean `</s>`?"]),
        (config(r#"{"bos_token": "<|something|>"}"#), ["no token `<|something|>`", "<|im_end|>"]),
        (config(r#"{"add_bos_token": "yes"}"#), ["`add_bos_token` in", "must be true or false"]),
        (config(r#"{"add_bos_token": true}"#), ["is true, but no file names", "`bos` under [tokenizer]"]),
        (config(r#"{"chat_template": 5}"#), ["`chat_template` in", "must be a template"]),
        (config(r#"{"chat_template": [{"name": "rag", "template": "a"}]}"#), ["named `default`", "`rag`"]),
        (config(r#"{"chat_template": "a\n{% if %}"}"#), ["`chat_template` in", "line 2"]),
        (generation(r#"{"eos_token_id": "2"}"#), ["`eos_token_id` in", "must be the number"]),
        (generation(r#"{"eos_token_id": [2, -1]}"#), ["`eos_token_id` in", "list of such"]),
        (generation(r#"{"eos_token_id": 7}"#), ["`eos_token_id` in", "no token 7"]),
        (generation(r#"{"eos_token_id": 4294967296}"#), ["`eos_token_id` in", "must be the number"]),
        (vec![("special_tokens_map.json", "null")], ["special_tokens_map.json", "no JSON object"]),
        (vec![("chat_template.jinja", "{{ x")], ["chat_template.jinja: ", "line 1"]),
    ] {
        let error = settings(&files, |_| {}).unwrap_err();
        let all = format!("{} / {}", error.message, error.help.unwrap_or_default());
        assert!(words.iter().all(|word| all.contains(word)), "{files:?}: {all}");
        assert_eq!(error.kind, crate::error::ErrorKind::Input);
    }
    let error = settings(&[], |desc| desc.eos = Some(vec![named("</z>")])).unwrap_err();
    assert!(error.message.contains("`eos` in [tokenizer]"), "{error}");
    let file =
        |desc: &mut TokenizerDesc| desc.chat_template = Some(TemplateSource::File("/nope.jinja".into()));
    assert!(settings(&[], file).unwrap_err().message.contains("no such file"));
    let many = vec![TokenName::Id(1); 3];
    assert_eq!(settings(&[], |desc| desc.eos = Some(many)).unwrap().eos, [1]);
}

/// What an error advises to write under [tokenizer] is enough: the neighbour's fault does not count any more.
#[test]
fn advice_that_is_followed_helps() {
    type Edit = fn(&mut TokenizerDesc);
    /// File, content, and what its error advises with what that is.
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, Edit)]);
    let (config, generation) = ("tokenizer_config.json", "generation_config.json");
    let bos: Edit = |desc| desc.bos = Some(named("<s>"));
    let no_bos: Edit = |desc| desc.bos = Some(named(""));
    let eos: Edit = |desc| desc.eos = Some(vec![TokenName::Id(3)]);
    let no_eos: Edit = |desc| desc.eos = Some(vec![]);
    let add: Edit = |desc| desc.add_special = AddSpecial::Always;
    let add_none: Edit = |desc| desc.add_special = AddSpecial::Never;
    let template: Edit = |desc| desc.chat_template = Some(TemplateSource::Text("y".into()));
    let in_file: Edit = |desc| {
        let path = desc.file.as_ref().unwrap().with_file_name("ours.jinja");
        std::fs::write(&path, "z").unwrap();
        desc.chat_template = Some(TemplateSource::File(path));
    };
    let long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
    let cases: &[Case<'_>] = &[
        (config, r#"{"bos_token": 1}"#, &[("`bos`", bos), ("`bos`", no_bos)]),
        (config, r#"{"eos_token": {"text": "x"}}"#, &[("`eos`", eos), ("`eos`", no_eos)]),
        (generation, r#"{"bos_token_id": "2"}"#, &[("`bos`", bos), ("`bos`", no_bos)]),
        (generation, r#"{"eos_token_id": -1}"#, &[("`eos`", eos), ("`eos`", no_eos)]),
        (config, r#"{"add_bos_token": "yes"}"#, &[("`bos`", bos), ("`add_special`", add), ("", add_none)]),
        (config, r#"{"add_eos_token": 1}"#, &[("`add_special = false`", add_none)]),
        (config, r#"{"add_bos_token": true}"#, &[("`bos`", bos), ("`add_special = false`", add_none)]),
        (
            config,
            r#"{"add_eos_token": true, "eos_token": null}"#,
            &[("`eos`", eos), ("`add_special = false`", add_none)],
        ),
        (
            config,
            r#"{"chat_template": 5}"#,
            &[("`chat_template`", template), ("`chat_template_file`", in_file)],
        ),
        (
            config,
            r#"{"chat_template": []}"#,
            &[("`chat_template`", template), ("`chat_template_file`", in_file)],
        ),
        (
            config,
            r#"{"chat_template": [{"name": "rag", "template": "a"}]}"#,
            &[("`chat_template_file`", in_file)],
        ),
        ("chat_template.jinja", &long, &[("`chat_template`", template), ("`chat_template_file`", in_file)]),
    ];
    for (file, text, ways) in cases {
        let no_end = text.contains("null");
        let settings = |edit: Edit| {
            settings(&[(file, text)], |desc| {
                if no_end {
                    std::fs::write(desc.file.as_ref().unwrap(), endless().to_string()).unwrap();
                }
                edit(desc);
            })
        };
        let error = settings(|_| {}).unwrap_err();
        let help = error.help.unwrap_or_default();
        for (word, edit) in *ways {
            assert!(help.contains(word) && help.contains("under [tokenizer]"), "{file}: {help}");
            let found = settings(*edit);
            assert!(found.is_ok(), "{file} {word}: {}", found.unwrap_err().message);
        }
    }
}

#[test]
fn large_files_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read_text(folder.path(), 9).unwrap_err().message.contains("is no file"));
    let path = folder.path().join("x");
    std::fs::write(&path, "0123456789").unwrap();
    assert!(read_text(&path, 9).unwrap_err().message.contains("larger than 9 bytes"));
    std::fs::write(&path, b"ab\xff").unwrap();
    assert!(read_text(&path, 9).unwrap_err().message.contains("byte 2"));
    std::fs::write(&path, "\u{feff}ab").unwrap();
    assert_eq!(read_text(&path, 9).unwrap().as_deref(), Some("ab"));
    assert_eq!(read_text(&folder.path().join("y"), 9).unwrap(), None);
}

#[test]
fn settings_without_a_tokenizer_are_refused() {
    assert_eq!(read(&TokenizerDesc::default(), 8).unwrap(), None);
    let desc = TokenizerDesc { bos: Some(named("<s>")), ..TokenizerDesc::default() };
    assert!(read(&desc, 8).unwrap_err().message.contains("names no `file`"));
}
