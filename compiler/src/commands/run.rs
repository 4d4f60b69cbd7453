//! `hyc run`.

use std::path::PathBuf;
use std::time::Instant;

use hyc_runtime::{
    CancelToken, Event, Finish, GenerateOptions, Generated, LoadOptions, Sampling, Tokenizer, Verify,
    generate,
};
use serde_json::json;

use super::context::ContextArgs;
use super::prompt::{PromptArgs, unescape};
use super::sampling_args::{self, SamplingArgs};
use crate::error::Result;
use crate::signal;
use crate::terminal;

/// Stream a model's continuation of a prompt
///
/// Examples:
///   hyc run model.hyc --prompt "The kernel" -n 100
///   hyc run model.hyc --prompt-file question.txt --stop "\n\n"
///   hyc run model.hyc --prompt "Once" --temperature 0.8 --top-p 0.95 --seed 7
///   hyc run model.hyc --prompt "Once" --greedy
///   echo "The kernel" | hyc run model.hyc --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Prompt and text as they are: nothing is added to the prompt (such as the token that begins a text) or taken
    /// from it (its last newline), and special tokens are printed
    #[arg(long)]
    raw: bool,
    /// Most new tokens
    #[arg(short = 'n', long, default_value_t = 128)]
    max_new_tokens: usize,
    #[command(flatten)]
    context: ContextArgs,
    /// Stop before this text (may be repeated); \n, \r, \t, \u{HEX} and \\ are escapes
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = unescape)]
    stop: Vec<String>,
    /// Go on where the model ends its text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    threads: super::ThreadArgs,
    #[command(flatten)]
    gpu: super::GpuArgs,
    /// Do not check the weights' digests
    #[arg(long)]
    fast_load: bool,
    /// Random weights of this seed, for an artefact compiled with --no-weights
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    /// Print one JSON object instead of streaming text
    #[arg(long)]
    json: bool,
    /// No progress, no figures
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: Args) -> Result<()> {
    let cancel = CancelToken::new();
    let pulled = cancel.clone();
    signal::install(move || pulled.cancel());
    args.sampling.check()?;
    let start = Instant::now();
    let verify = if args.fast_load { Verify::Header } else { Verify::OnRead };
    let show = !args.quiet && !args.json;
    let load = LoadOptions { verify, random_weights: args.random_weights, ..LoadOptions::default() };
    let model = super::load(&args.model, &load, show)?;
    let choice = args.sampling.resolve(model.sampling_defaults())?;
    let tokenizer = Tokenizer::of(&model)?;
    let loaded = start.elapsed();
    let text = args.prompt.read(args.raw, args.quiet)?;
    let tokens = if args.raw { tokenizer.encode_bare(&text)? } else { tokenizer.encode(&text)? };
    let start = Instant::now();
    let room = args.context.room(tokens.len(), args.max_new_tokens, model.plan().model.max_context)?;
    let options = super::one_sequence(args.threads, &args.gpu, room.tokens);
    let mut session = super::session(&model, &options, show)?;
    let load_seconds = (loaded + start.elapsed()).as_secs_f64();
    let mut figures = Figures { load_seconds, ..Figures::new(tokens.len(), choice) };
    let bar = terminal::progress(show, tokens.len() as u64, "prefill", terminal::TOKENS);
    let mut broken = None;
    let options = GenerateOptions { max_new_tokens: room.new_tokens, ..options_of(&args, choice) };
    let done = generate(&mut session, &tokenizer, &tokens, &options, &cancel, &mut |event| {
        figures.note(&event);
        let shown = match event {
            Event::Prefill { done, total } => {
                bar.set_position(done);
                if done == total {
                    bar.finish_and_clear();
                }
                (done == total).then(|| text.clone())
            }
            Event::Text(text) => Some(text),
            Event::Token(_) | Event::End(_) => None,
        };
        if let (Some(text), false, None) = (shown, args.json, &broken) {
            broken = terminal::print(&text).err();
            if broken.is_some() {
                cancel.cancel();
            }
        }
    });
    bar.finish_and_clear();
    if let Some(error) = broken {
        return Err(error);
    }
    if !args.json && figures.prefill_seconds.is_some() {
        terminal::print("\n")?;
        if !args.quiet {
            terminal::note(&format!("\n{}\n", figures.line()));
        }
    }
    let done = done?;
    let done = Generated { finish: room.finish(done.finish), ..done };
    if args.json {
        terminal::print(&super::json(figures.json(&done, session.memory().total())?))?;
    }
    Ok(())
}

fn options_of(args: &Args, (sampling, seed): (Sampling, u64)) -> GenerateOptions {
    GenerateOptions {
        sampling: Some(sampling),
        seed: Some(seed),
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        show_special: args.raw,
        ..GenerateOptions::default()
    }
}

/// What is printed of a run beside its text.
struct Figures {
    load_seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    begin: Instant,
    /// Once the prompt is through.
    prefill_seconds: Option<f64>,
    /// How tokens are chosen, and the seed that repeats it.
    choice: (Sampling, u64),
}

impl Figures {
    fn new(prompt_tokens: usize, choice: (Sampling, u64)) -> Figures {
        Figures {
            load_seconds: 0.0,
            prompt_tokens,
            new_tokens: 0,
            begin: Instant::now(),
            prefill_seconds: None,
            choice,
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Prefill { done, total } if done == total => {
                self.prefill_seconds = Some(self.begin.elapsed().as_secs_f64());
                self.begin = Instant::now();
            }
            Event::Token(_) => self.new_tokens += 1,
            _ => {}
        }
    }

    fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill_seconds.unwrap_or(0.0).max(1e-9)
    }

    /// The first new token is the prefill's.
    fn decode_rate(&self) -> f64 {
        self.new_tokens.saturating_sub(1) as f64 / self.begin.elapsed().as_secs_f64().max(1e-9)
    }

    fn line(&self) -> String {
        format!(
            "{} prompt tokens at {:.0}/s, {} new at {:.0}/s, loaded in {:.2} s{}",
            self.prompt_tokens,
            self.prefill_rate(),
            self.new_tokens,
            self.decode_rate(),
            self.load_seconds,
            sampling_args::figure(&self.choice.0, self.choice.1)
        )
    }

    fn json(&self, done: &Generated, memory_bytes: u64) -> Result<serde_json::Value> {
        let finish = match done.finish {
            Finish::Length => "length",
            Finish::Stop => "stop",
            Finish::Context => "context",
        };
        let (sampling, seed) = (sampling_args::json(&self.choice.0)?, self.choice.1);
        Ok(json!({
            "text": done.text, "tokens": done.tokens, "prompt_tokens": self.prompt_tokens, "finish": finish,
            "load_seconds": self.load_seconds, "prefill_tokens_per_s": self.prefill_rate(),
            "decode_tokens_per_s": self.decode_rate(), "memory_bytes": memory_bytes,
            "sampling": sampling, "seed": seed,
        }))
    }
}
