//! A tokenizer.json and a chat template, two texts behind each other: they are refused with a sentence, or turn prompts
//! into tokens, tokens into text as it comes, and conversations into tokens of which the template's alone are special.
#![no_main]

use hyc_runtime::{ChatTemplate, Message, TextSettings, TextStream, Tokenizer};
use hyc_tests::tokenizers;

/// Entries of the model: as many as the seeds have.
const VOCAB: u64 = 4096;
/// Between the tokenizer and the template.
const MARK: &str = "\n---\n";
const PROMPTS: [&str; 4] = ["", "The kernel is", " \u{fdfa}語é ＜s＞\n<S>", "<s>a</s>"];

fn stream(tokenizer: &Tokenizer, tokens: &[u32]) {
    let (context, new) = tokens.split_at(tokens.len() / 2);
    let Ok(mut stream) = TextStream::new(tokenizer, context, &["END".to_string()], true) else { return };
    for token in new {
        if stream.push(*token).is_err() {
            return;
        }
    }
    let _ = stream.finish();
}

fn try_out(json: &str, template: &str) {
    let settings = TextSettings { chat_template: Some(template.to_string()), ..TextSettings::default() };
    let Ok(tokenizer) = Tokenizer::new(json.as_bytes(), VOCAB, settings) else { return };
    for prompt in PROMPTS {
        if let Ok(tokens) = tokenizer.encode(prompt) {
            let _ = tokenizer.decode(&tokens);
            stream(&tokenizer, &tokens);
        }
    }
    let any: Vec<u32> = (0..VOCAB as u32).step_by(61).collect();
    stream(&tokenizer, &any);
    let Ok(template) = ChatTemplate::of(&tokenizer) else { return };
    let messages: Vec<Message> = PROMPTS.iter().map(|prompt| Message::new("user", *prompt)).collect();
    let _ = template.encode(&tokenizer, &messages, true);
}

/// `HYC_SEEDS=FOLDER tokenizer`: writes what fuzzing starts from there, and ends.
fn seeds() {
    let Some(folder) = std::env::var_os("HYC_SEEDS") else { return };
    let folder = std::path::PathBuf::from(folder);
    let template =
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content | trim }}</s>{% endfor %}{{ bos_token }}";
    let all = [
        tokenizers::plain(),
        tokenizers::with_bos(),
        tokenizers::with_eos(),
        tokenizers::llama(),
        tokenizers::truncating(),
    ];
    for (at, json) in all.iter().enumerate() {
        std::fs::write(folder.join(at.to_string()), format!("{json}{MARK}{template}")).expect("room");
    }
    std::process::exit(0);
}

libfuzzer_sys::fuzz_target!(init: seeds(), |text: &str| {
    let (json, template) = text.split_once(MARK).unwrap_or((text, text));
    try_out(json, template);
});
