//! `hyc eval`.

use std::path::PathBuf;

use hyc_runtime::{LoadOptions, Tokenizer};

use crate::chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::{self, Gate, Report};
use crate::input;
use crate::signal;
use crate::terminal;

/// Measure how well a model does on a text
///
/// Perplexity in windows that do not overlap; keys: numbers that are planted in the text at several depths, and asked for at
/// its end; recall: the share of a sparse layer's attention that falls into the blocks which its oracle selected, for tokens
/// that see more blocks than are selected. Recall is computed by the plan interpreter, on a processor.
///
/// Examples:
///   hyc eval model.hyc --text book.txt
///   hyc eval model.hyc --text book.txt --context 8192 --tokens 100000 --keys 10
///   hyc eval model.hyc --text book.txt --recall 1024
///   hyc eval model.hyc --text book.txt --gate recall=0.9 --gate perplexity=12    exit code 1 where one fails
///   hyc eval model.hyc --text book.txt --no-gate    whatever the artefact says must hold
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// The text, of UTF-8
    #[arg(long, value_name = "FILE", required_unless_present = "ids")]
    text: Option<PathBuf>,
    /// Token ids in place of a text: a JSON list, or numbers between spaces, commas and newlines; for a model without a
    /// tokenizer, in which no key can be planted
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "keys"])]
    ids: Option<PathBuf>,
    /// Tokens of a window, and of the text that a key is planted in; without it those of the artefact's [eval], else the
    /// model's context, 2048 at most
    #[arg(long, value_name = "N")]
    context: Option<u64>,
    /// Tokens of the text that count for perplexity, from its beginning; without it all
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Plant this many keys, at as many depths
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    keys: u32,
    /// Recall over this many tokens of the text; a gate of it alone takes 512
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    recall: Option<u32>,
    /// What must hold (may be repeated): recall=LEAST of each layer, keys=LEAST share, perplexity=MOST; without it what
    /// the artefact's [eval] says
    #[arg(long, value_name = "NAME=NUMBER")]
    gate: Vec<Gate>,
    /// Nothing must hold, whatever the artefact says
    #[arg(long, conflicts_with = "gate")]
    no_gate: bool,
    #[command(flatten)]
    threads: super::ThreadArgs,
    #[command(flatten)]
    gpu: super::GpuArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// Tokens of a window, where nothing is said.
const CONTEXT: u64 = 2048;
/// Tokens that recall is computed over for a gate.
const RECALL: u32 = 512;
/// Keys that a gate of them alone plants.
const KEYS: u32 = 10;

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    let show = !args.quiet && !args.json;
    let model = super::load(&args.model, &LoadOptions::default(), show)?;
    let (tokenizer, begin, tokens) = match (&args.text, &args.ids) {
        (_, Some(ids)) => (None, Vec::new(), input::token_ids(ids)?),
        (Some(text), None) => {
            let (tokenizer, text) = (Tokenizer::of(&model)?, input::text(text)?);
            let (begin, tokens) = (tokenizer.encode("")?, tokenizer.encode_bare(&text)?);
            (Some(tokenizer), begin, tokens)
        }
        (None, None) => {
            return Err(Error::new(ErrorKind::Usage, "there is no text").help("give `--text FILE`"));
        }
    };
    let kept = model.eval_gates().unwrap_or_default();
    let gates = match args.no_gate || !args.gate.is_empty() {
        true => args.gate,
        false => eval::gates(&kept),
    };
    let longest = model.plan().model.max_context;
    let context = match args.context {
        Some(context) if context > longest => {
            let message =
                format!("a window of {context} tokens is longer than the model's context of {longest}");
            return Err(Error::new(ErrorKind::Usage, message)
                .help("give a smaller `--context`, or compile with a larger `max_context`"));
        }
        Some(context) => context,
        None => kept.context.unwrap_or(CONTEXT).min(longest),
    };
    let asks = |which: fn(&Gate) -> bool| gates.iter().any(which);
    let keys = if args.keys == 0 && asks(|gate| matches!(gate, Gate::Keys(_))) { KEYS } else { args.keys };
    if keys > 0 && tokenizer.is_none() {
        return Err(Error::new(ErrorKind::Usage, "a key is planted in a text, not between token ids")
            .help("give `--text` in place of `--ids`, or `--no-gate` where the artefact asks for keys"));
    }
    let recall = args.recall.or_else(|| asks(|gate| matches!(gate, Gate::Recall(_))).then_some(RECALL));
    // Before anything that takes long.
    if recall.is_some() {
        chosen::runs_here(&model)?;
    }
    if let Some(note) = eval::slow(&model).filter(|_| show) {
        terminal::note(&note);
    }
    let counted = &tokens[..args.tokens.unwrap_or(usize::MAX).min(tokens.len())];
    let mut session = super::session(&model, &super::one_sequence(args.threads, &args.gpu, context), show)?;
    let mut report = Report::default();
    let bar = terminal::progress(show, counted.len() as u64, "perplexity", terminal::TOKENS);
    report.perplexity = Some(eval::perplexity(
        &mut session,
        tokenizer.as_ref(),
        (&begin, counted),
        context as usize,
        &mut |through| {
            bar.inc(through);
            signal::check("computing perplexity")
        },
    )?);
    bar.finish_and_clear();
    if let Some(tokenizer) = tokenizer.as_ref().filter(|_| keys > 0) {
        let bar = terminal::progress(show, u64::from(keys) * context, "keys", terminal::TOKENS);
        report.keys = Some(eval::keys(
            &mut session,
            tokenizer,
            (&begin, &tokens),
            (context as usize, keys),
            &mut |through| {
                bar.inc(through);
                signal::check("looking for keys")
            },
        )?);
        bar.finish_and_clear();
    }
    if let Some(most) = recall {
        let text = [&begin[..], &tokens].concat();
        let chosen = chosen::observe(&model, &text, most as usize, &|| signal::check("computing recall"))?;
        report.recalls = Some(eval::recalls(&chosen));
    }
    if args.json {
        terminal::print(&super::json(report.json()))?;
    } else {
        terminal::print(&report.text())?;
    }
    report.hold(&gates)
}
