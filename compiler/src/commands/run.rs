//! `hyc run`.

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use hyc_runtime::{
    CancelToken, Event, Finish, GenerateOptions, LoadOptions, Sampling, SessionOptions, Tokenizer, Verify,
    generate,
};
use serde_json::json;

use super::signal;
use crate::error::{Error, ErrorKind, Result};
use crate::terminal;

/// Stream a model's continuation of a prompt
///
/// Examples:
///   hyc run model.hyc --prompt "The kernel" -n 100
///   hyc run model.hyc --prompt-file question.txt --stop "\n\n"
///   hyc run model.hyc --prompt "Once" --temperature 0.8 --top-p 0.95 --seed 7
///   echo "The kernel" | hyc run model.hyc --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// The prompt
    #[arg(short, long, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// Read the prompt from a file; without either it is read from standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Most new tokens
    #[arg(short = 'n', long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the k likeliest tokens; 0: all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the likeliest tokens up to this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep tokens at least this likely beside the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop before this text (may be repeated)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Threads
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    gpu: super::GpuArgs,
    /// Check the header alone when loading, not every byte
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
}

pub fn run(args: Args) -> Result<()> {
    let cancel = CancelToken::new();
    let pulled = cancel.clone();
    signal::install(move || pulled.cancel())?;
    check_range("temperature", args.temperature, 0.0, 100.0)?;
    check_range("top-p", args.top_p, f32::MIN_POSITIVE, 1.0)?;
    check_range("min-p", args.min_p, 0.0, 1.0)?;
    let start = Instant::now();
    let verify = if args.fast_load { Verify::Header } else { Verify::Full };
    let show = !args.quiet && !args.json;
    let load = LoadOptions { verify, random_weights: args.random_weights, ..LoadOptions::default() };
    let model = super::load(&args.model, &load, show)?;
    let tokenizer = Tokenizer::of(&model)?;
    let gpu = args.gpu.options();
    let options = SessionOptions { threads: args.threads, max_sequences: Some(1), max_tokens: None, gpu };
    let mut session = super::session(&model, &options, show)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let text = prompt(&args)?;
    let tokens = tokenizer.encode(&text)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
        },
        seed: args.seed,
        stop: args.stop.clone(),
        stop_tokens: vec![],
    };
    let bar = terminal::progress(show, tokens.len() as u64, "prefill", terminal::TOKENS);
    let mut times = (Instant::now(), 0.0);
    let mut broken = None;
    let done = generate(&mut session, &tokenizer, &tokens, &options, &cancel, &mut |event| match event {
        Event::Prefill { done, total } => {
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
                times = (Instant::now(), times.0.elapsed().as_secs_f64());
                if !args.json {
                    broken = broken.take().or(terminal::print(&text).err());
                }
            }
        }
        Event::Text(text) if !args.json => {
            broken = broken.take().or(terminal::print(&text).err());
            if broken.is_some() {
                cancel.cancel();
            }
        }
        _ => {}
    });
    bar.finish_and_clear();
    if let Some(error) = broken {
        return Err(error);
    }
    let done = done?;
    let decode_seconds = times.0.elapsed().as_secs_f64();
    let rate = done.tokens.len().saturating_sub(1) as f64 / decode_seconds.max(1e-9);
    let prefill_rate = tokens.len() as f64 / times.1.max(1e-9);
    if args.json {
        let finish = match done.finish {
            Finish::Length => "length",
            Finish::Stop => "stop",
            Finish::Context => "context",
        };
        let value = json!({
                "text": done.text, "tokens": done.tokens, "prompt_tokens": tokens.len(), "finish": finish,
                "load_seconds": load_seconds, "prefill_tokens_per_s": prefill_rate, "decode_tokens_per_s": rate,
                "memory_bytes": session.memory().total(),
        });
        return terminal::print(&format!("{value:#}\n"));
    }
    terminal::print("\n")?;
    if !args.quiet {
        terminal::note(&format!(
            "\n{} prompt tokens at {prefill_rate:.0}/s, {} new at {rate:.0}/s, loaded in {load_seconds:.2} s\n",
            tokens.len(),
            done.tokens.len()
        ));
    }
    Ok(())
}

fn check_range(name: &str, value: f32, least: f32, most: f32) -> Result<()> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("--{name} {value} is out of range"))
        .help(format!("give a number {} {most}", if least > 0.0 { "above 0, at most" } else { "from 0 to" })))
}

fn prompt(args: &Args) -> Result<String> {
    let bytes = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => return Ok(text.clone()),
        (None, Some(path)) => std::fs::read(path).map_err(|e| Error::io("read the prompt", path, e))?,
        (None, None) => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|e| Error::new(ErrorKind::Resource, format!("cannot read standard input: {e}")))?;
            bytes
        }
    };
    String::from_utf8(bytes).map_err(|_| Error::input("the prompt is not UTF-8 text"))
}
