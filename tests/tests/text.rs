//! `hyc run` with tokenizers of each kind over the trained model, and prompts from everywhere.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::hyc_binary;
use hyc_plan::text_settings::MAX_TEMPLATE_BYTES;
use hyc_tests::{root, tokenizers};
use serde_json::{Value, json};

fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).stdin(Stdio::null()).output().expect("runs")
}

fn ok(args: &[&str]) -> String {
    let output = hyc(args);
    assert!(output.status.success(), "hyc {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The likeliest token each time, whatever the model's own settings are.
const GREEDY: &[&str] = &["--greedy", "--repeat-penalty", "1"];

/// The trained model, compiled with a tokenizer, which has `files` beside it.
struct Compiled {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Compiled {
    fn new(tokenizer: &Value, files: &[(&str, Value)]) -> Compiled {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("tokenizer.json"), tokenizer.to_string()).unwrap();
        for (name, content) in files {
            std::fs::write(at(name), content.to_string()).unwrap();
        }
        let model = root().join("examples/tiny-hysparse/model.toml");
        let (tokenizer, path) = (at("tokenizer.json"), at("m.hyc"));
        let text = |path: &Path| path.to_str().unwrap().to_string();
        ok(&["compile", &text(&model), "--tokenizer", &text(&tokenizer), "-q", "-o", &text(&path)]);
        Compiled { _folder: folder, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// `hyc run --json` with greedy choice.
    fn run(&self, args: &[&str]) -> Value {
        let all = [&["run", self.path(), "--json"][..], GREEDY, args].concat();
        serde_json::from_str(&ok(&all)).expect("JSON")
    }

    /// Tokens of the prompt that standard input gives.
    fn piped(&self, input: &[u8], args: &[&str]) -> Output {
        let mut command = Command::new(hyc_binary());
        command.args(["run", self.path(), "--json", "-n", "1"]).args(GREEDY).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }
}

#[test]
fn the_post_processor_of_the_file_applies() {
    let model = Compiled::new(&tokenizers::with_bos(), &[]);
    assert_eq!(model.run(&["--prompt", "The kernel", "-n", "1"])["prompt_tokens"], 3);
    assert_eq!(model.run(&["--prompt", "The kernel", "-n", "1", "--raw"])["prompt_tokens"], 2);
    // With nothing but its first token a text can begin.
    assert_eq!(model.run(&["--prompt", "", "-n", "1"])["prompt_tokens"], 1);
}

/// The model has more rows of logits than this tokenizer has tokens: the others are never chosen, and a dump says so.
#[test]
fn what_the_tokenizer_cannot_name_is_never_chosen() {
    let mut few = tokenizers::plain();
    let vocab = few["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < 300);
    few["model"]["merges"].as_array_mut().unwrap().truncate(0);
    let between = |model: &Compiled, ids: std::ops::Range<u64>| {
        let hot = ["--temperature", "4", "--top-k", "0", "--seed", "3", "--ignore-eos"];
        let run = ["run", model.path(), "--json", "--prompt", "The kernel", "-n", "60"];
        let done: Value = serde_json::from_str(&ok(&[&run[..], &hot].concat())).unwrap();
        let tokens = done["tokens"].as_array().unwrap().clone();
        tokens.iter().filter(|token| ids.contains(&token.as_u64().unwrap())).count()
    };
    let model = Compiled::new(&few, &[]);
    assert_eq!(between(&model, 0..300), 60);
    assert!(between(&model, 260..295) > 0);
    assert!(between(&Compiled::new(&tokenizers::plain(), &[]), 0..300) < 30);
    // Ids between its tokens are never chosen, which is said.
    few["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .retain(|_, id| !(260..295).contains(&id.as_u64().unwrap()));
    let model = Compiled::new(&few, &[]);
    assert_eq!((between(&model, 0..300), between(&model, 260..295)), (60, 0));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("tokenizer.json"), few.to_string()).unwrap();
    let model = root().join("examples/tiny-hysparse/model.toml");
    let said = |args: &[&str]| {
        let out = path("m.hyc");
        let all = [&["compile", model.to_str().unwrap(), "-q", "-o", &out], args].concat();
        let output = hyc(&all);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let holes = said(&["--tokenizer", &path("tokenizer.json")]);
    assert!(
        holes.contains(
            "note: the tokenizer has no token for 35 ids between its others: they are never chosen\n"
        ),
        "{holes}"
    );
    assert_eq!(said(&[]), "");
}

#[test]
fn a_neighbour_asks_for_the_first_token_and_names_the_last() {
    let mut tokenizer = tokenizers::with_bos();
    tokenizer["post_processor"] = Value::Null;
    let config = json!({"bos_token": "<s>", "add_bos_token": true});
    let args = ["--prompt", "The kernel", "-n", "20"];
    let files = [("tokenizer_config.json", config)];
    let endless = Compiled::new(&tokenizer, &files).run(&args);
    assert_eq!((&endless["prompt_tokens"], &endless["finish"]), (&json!(3), &json!("length")));
    // One that the model is known to come to is the last from now on.
    let tokens = endless["tokens"].as_array().unwrap();
    let generation = json!({"eos_token_id": [tokens[9], 7]});
    let [config] = files;
    let model = Compiled::new(&tokenizer, &[config, ("generation_config.json", generation)]);
    let done = model.run(&args);
    let end = tokens.iter().position(|token| *token == tokens[9]).unwrap();
    assert_eq!((&done["tokens"], &done["finish"]), (&json!(tokens[..end]), &json!("stop")));
    let spelled = model.run(&["--prompt", "<s>The kernel", "-n", "1"]);
    assert_eq!(spelled["prompt_tokens"], 3);
}

#[test]
fn end_tokens_end_the_text_and_special_ones_are_hidden() {
    let model = Compiled::new(&tokenizers::with_eos(), &[]);
    let args = ["--prompt", "The kernel", "-n", "60"];
    let run = |more: &[&str]| model.run(&[&args[..], more].concat());
    let done = run(&[]);
    assert_eq!(done["finish"], "stop");
    let text = done["text"].as_str().unwrap().to_string();
    assert!(!text.contains("endoftext") && !text.is_empty(), "{text}");
    let on = run(&["--ignore-eos"]);
    assert_eq!((&on["finish"], on["tokens"].as_array().unwrap().len()), (&json!("length"), 60));
    assert!(on["text"].as_str().unwrap().starts_with(&text));
    assert!(!on["text"].as_str().unwrap().contains("endoftext"), "{on}");
    let raw = run(&["--ignore-eos", "--raw"]);
    assert!(raw["text"].as_str().unwrap().starts_with(&format!("{text}<|endoftext|>")), "{raw}");
    // A stop text that spells a special token is that token.
    let stopped = run(&["--ignore-eos", "--stop", "<|endoftext|>"]);
    assert_eq!((&stopped["finish"], &stopped["text"]), (&json!("stop"), &json!(text)));
}

#[test]
fn the_first_new_word_keeps_its_space() {
    let model = Compiled::new(&tokenizers::llama(), &[]);
    for (prompt, expected) in [
        ("if you want", "if you want to use"),
        ("The kernel is", "The kernel is aware of"),
        ("You can use the", "You can use the \"-n\""),
    ] {
        let text = ok(&[&["run", model.path(), "-q", "--prompt", prompt, "-n", "6"][..], GREEDY].concat());
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn settings_of_training_time_change_no_prompt() {
    let prompt =
        "The kernel is the part of the operating system that loads first and manages the memory of all";
    let args = ["--prompt", prompt, "-n", "5"];
    let (plain, baked) =
        (Compiled::new(&tokenizers::plain(), &[]), Compiled::new(&tokenizers::truncating(), &[]));
    let (plain, baked) = (plain.run(&args), baked.run(&args));
    assert_eq!((&plain["prompt_tokens"], &plain["tokens"]), (&json!(21), &baked["tokens"]));
    assert_eq!(baked["prompt_tokens"], 21);
}

#[test]
fn prompts_and_stops_are_what_they_say() {
    let model = Compiled::new(&tokenizers::plain(), &[]);
    let long = ["--prompt", "The kernel", "-n", "60"];
    for stop in ["\\n\\n", "\n\n", "\\u{A}\\n"] {
        let done = model.run(&[&long[..], &["--stop", stop]].concat());
        assert_eq!(done["finish"], "stop", "{stop:?}");
        assert!(!done["text"].as_str().unwrap().contains("\n\n"));
    }
    for text in ["- item one", "-5 degrees", "--- a/file", "--json", "-"] {
        model.run(&["--prompt", text, "-n", "1"]);
        model.run(&["--prompt", "The", "-n", "1", "--stop", text]);
    }
    for (stop, words) in
        [("\\begin", "\\b is no escape"), ("", "would end nothing"), ("a\\", "ends the text")]
    {
        let output = hyc(&["run", model.path(), "--prompt", "x", "--stop", stop]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(words), "{stop}: {text}");
    }

    let count = |output: Output| -> Value {
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        found["prompt_tokens"].clone()
    };
    let typed = model.run(&["--prompt", "The kernel", "-n", "1"])["prompt_tokens"].clone();
    let (one, two) = (typed.as_u64().unwrap() + 1, "\u{feff}The kernel\n");
    assert_eq!(count(model.piped(b"The kernel", &[])), typed);
    assert_eq!(count(model.piped(b"The kernel\n", &[])), typed);
    assert_eq!(count(model.piped(b"The kernel\r\n", &[])), typed);
    assert_eq!(count(model.piped(b"The kernel\n\n", &[])), json!(one));
    assert_eq!(count(model.piped(b"The kernel\n", &["--raw"])), json!(one));
    assert_eq!(count(model.piped(two.as_bytes(), &[])), typed);
    assert_eq!(count(model.piped(b"The kernel\n", &["--prompt-file", "-"])), typed);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), two).unwrap();
    assert_eq!(
        model.run(&["--prompt-file", file.path().to_str().unwrap(), "-n", "1"])["prompt_tokens"],
        typed
    );
    let output = model.piped(b"The \xff", &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && text.contains("byte 4"), "{text}");
}

/// The first Ctrl-C ends a run that waits for its prompt on standard input.
#[test]
fn ctrl_c_ends_the_wait_for_a_prompt() {
    let model = Compiled::new(&tokenizers::plain(), &[]);
    for args in [&[][..], &["--prompt-file", "-"]] {
        let mut command = Command::new(hyc_binary());
        command.args(["run", model.path(), "-q"]).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It waits once it sleeps in poll.
        let waits = || {
            let place = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
            place.starts_with("7 ") || place.starts_with("271 ")
        };
        // Where the system does not say what it sleeps in, ten seconds are enough to get there.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !waits() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        let input = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(input);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("cancelled while waiting for the prompt"), "{text}");
    }
}

/// One turn of a conversation in the style of ChatML.
const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chat(model: &Compiled, input: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(hyc_binary());
    command.args(["chat", model.path(), "-q", "-n", "8"]).args(GREEDY).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who refuses the model does not wait for a message.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_chat_answers_line_by_line() {
    let special = tokenizers::special(tokenizers::plain(), 4095, "<|im_end|>");
    let tokenizer = tokenizers::special(special, 4094, "<|im_start|>");
    let config = json!({"chat_template": CHATML, "eos_token": "<|im_end|>"});
    let model = Compiled::new(&tokenizer, &[("tokenizer_config.json", config)]);
    let say = |input: &str, args: &[&str]| {
        let (code, out, err) = chat(&model, input, args);
        assert_eq!(code, Some(0), "{input}: {err}");
        (out, err)
    };
    let (one, _) = say("The kernel", &[]);
    assert!(!one.trim().is_empty() && !one.contains("<|im"), "{one}");
    let (two, _) = say("The kernel\n\nThe compiler\n", &[]);
    assert!(two.starts_with(&one) && two.len() > one.len(), "{two}");
    // A new conversation knows nothing of the one before it.
    assert_eq!(say("The kernel\n/reset\nThe kernel\n/exit\nThe end", &[]).0, one.repeat(2));
    let (with, _) = say("The kernel", &["--system", "- Be brief."]);
    assert_eq!(say("/system - Be brief.\nThe kernel\n", &[]).0, with);
    // What was taken back was never said.
    assert_eq!(say("The kernel\n/undo\nThe kernel\n", &[]).0, one.repeat(2));
    let (undone, _) = say("The kernel\nWhat?\n/undo\nThe compiler\n", &[]);
    assert!(undone.starts_with(&one) && undone.ends_with(&two[one.len()..]), "{undone}\n{two}");
    assert_eq!(say("The kernel\n/retry\n", &[]).0, one.repeat(2), "the likeliest tokens are what they are");
    for command in ["/undo\n", "/retry\n", "The kernel\n/undo\n/retry\n"] {
        assert!(say(command, &["--system", "- Be brief."]).1.contains("there is no answer yet"), "{command}");
    }
    let (out, err) = say("/nope\n", &[]);
    assert!(out.is_empty() && err.contains("no command /nope"), "{err}");
    let (code, _, err) = chat(&model, "The kernel", &["--ctx", "5"]);
    assert!(code == Some(3) && err.contains("there is room for 5"), "{err}");

    let plain = Compiled::new(&tokenizers::plain(), &[]);
    let (code, _, err) = chat(&plain, "", &[]);
    assert!(code == Some(3) && err.contains("no chat template") && err.contains("hyc run"), "{err}");
}

/// A text that ends where its memory does says so, and --ctx with the whole context changes nothing.
#[test]
fn the_end_of_the_context_is_named() {
    let model = Compiled::new(&tokenizers::plain(), &[]);
    let run = |args: &[&str]| {
        let done = model.run(&[&["--prompt", "The kernel", "--ignore-eos"], args].concat());
        (done["finish"].as_str().unwrap().to_string(), done["tokens"].as_array().unwrap().len())
    };
    let is = |finish: &str, tokens: usize| (finish.to_string(), tokens);
    // Two tokens of prompt; the last new one takes no room.
    assert_eq!(run(&["--ctx", "10", "-n", "9"]), is("length", 9));
    assert_eq!(run(&["--ctx", "10", "-n", "10"]), is("context", 9));
    assert_eq!(run(&["--ctx", "10"]), is("context", 9));
    // The whole context, after a prompt that leaves little of it.
    let words = "The kernel ".repeat(2300);
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    let tokens = |text: &str| {
        std::fs::write(&prompt, text).unwrap();
        let done = model.run(&["--prompt-file", prompt.to_str().unwrap(), "-n", "1"]);
        done["prompt_tokens"].as_u64().unwrap()
    };
    let (one, two) = (tokens(&words[..11 * 10]), tokens(&words[..11 * 20]));
    let each = (two - one) as usize / 10;
    std::fs::write(&prompt, &words[..11 * (4600 / each)]).unwrap();
    let whole = |args: &[&str]| {
        let fixed = ["--prompt-file", prompt.to_str().unwrap(), "--ignore-eos", "-n", "100"];
        let done = model.run(&[&fixed[..], args].concat());
        (done["finish"].clone(), done["tokens"].clone())
    };
    let (finish, all) = whole(&[]);
    assert_eq!((finish, all), whole(&["--ctx", "4608"]));
    assert_eq!(whole(&[]).0, "context");
}

/// What compiles can be loaded: a template counts by the bytes that it has in the artefact.
#[test]
fn a_template_that_is_written_can_be_read() {
    let special = tokenizers::special(tokenizers::plain(), 4095, "<|im_end|>");
    let control = |count: usize| json!({ "chat_template": "\u{1}".repeat(count), "eos_token": "<|im_end|>" });
    let model = Compiled::new(&special, &[("tokenizer_config.json", control(MAX_TEMPLATE_BYTES))]);
    ok(&["inspect", model.path()]);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("tokenizer.json"), special.to_string()).unwrap();
    std::fs::write(at("tokenizer_config.json"), control(MAX_TEMPLATE_BYTES + 1).to_string()).unwrap();
    let tiny = root().join("examples/tiny-hysparse/model.toml");
    let args = ["compile", tiny.to_str().unwrap(), "--tokenizer", &at("tokenizer.json"), "-o", &at("m.hyc")];
    let output = hyc(&args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && text.contains("the chat template has"), "{text}");
}

#[test]
fn a_chat_says_why_an_answer_ended_and_takes_marks_and_faults_in_its_input() {
    let special = tokenizers::special(tokenizers::plain(), 4095, "<|im_end|>");
    let tokenizer = tokenizers::special(special, 4094, "<|im_start|>");
    let config = json!({"chat_template": CHATML});
    let model = Compiled::new(&tokenizer, &[("tokenizer_config.json", config)]);
    let (_, plain, err) = chat(&model, "The kernel\n", &[]);
    assert!(err.contains("as -n allows"), "{err}");
    // A byte order mark is no part of the first message.
    assert_eq!(chat(&model, "\u{feff}The kernel\n", &[]).1, plain);
    assert_eq!(chat(&model, "\u{feff}/exit\nThe kernel\n", &[]).1, "");
    let ends = |ctx: &str| chat(&model, "The kernel\n", &["--ctx", ctx, "--stop", "\\u{1F600}"]).2;
    let reasons: Vec<String> = (8..32).map(|ctx| ends(&ctx.to_string())).collect();
    let count = |words: &str| reasons.iter().filter(|text| text.contains(words)).count();
    // Too little for the prompt, then for the answer, then enough.
    assert!(count("there is room for") > 0 && count("as -n allows") > 0, "{reasons:?}");
    assert_eq!(count("the context is full"), 6, "{reasons:?}");
}

/// A Ctrl-C during the last token of an answer was meant for the answer: the chat goes on.
#[test]
fn a_ctrl_c_at_the_end_of_an_answer_does_not_end_the_chat() {
    let special = tokenizers::special(tokenizers::plain(), 4095, "<|im_end|>");
    let tokenizer = tokenizers::special(special, 4094, "<|im_start|>");
    let model = Compiled::new(&tokenizer, &[("tokenizer_config.json", json!({"chat_template": CHATML}))]);
    // One pass, which is the whole answer; the signal comes while it runs.
    let message = format!("{}\n", "The kernel ".repeat(110));
    let attempt = || {
        let mut command = Command::new(hyc_binary());
        command.args(["chat", model.path(), "-q", "-n", "1", "--threads", "1"]).args(GREEDY);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let tasks = format!("/proc/{}/task", child.id());
        let spent = || -> u64 {
            let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            let each = tasks.filter_map(|task| {
                let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
                stat.split_whitespace().next()?.parse::<u64>().ok()
            });
            each.sum()
        };
        // It waits for a line once it takes no more time.
        let (mut before, deadline) = (u64::MAX, Instant::now() + Duration::from_secs(10));
        while (before != spent() || before < 5_000_000) && Instant::now() < deadline {
            before = spent();
            std::thread::sleep(Duration::from_millis(150));
        }
        let mut input = child.stdin.take().unwrap();
        input.write_all(message.as_bytes()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        while spent() < before + 10_000_000 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        drop(input);
        child.wait_with_output().unwrap().status.code()
    };
    // Once too late is no fault: then it ends the wait for the next line.
    let codes: Vec<_> = (0..5).map(|_| attempt()).collect();
    assert!(codes.contains(&Some(0)), "{codes:?}");
}
