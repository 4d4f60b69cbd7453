//! `hyc eval`.

use std::path::PathBuf;

use hyc_runtime::{LoadOptions, Model, Tokenizer};

use crate::chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::{self, Gate, Report};
use crate::input;
use crate::signal;
use crate::terminal;
use crate::words;

/// Measure how well a model does on a text
///
/// Perplexity in windows that do not overlap; keys: numbers that are planted in the text at several depths, and asked for at
/// its end; recall: the share of a sparse layer's attention that falls into the blocks which its oracle selected, for tokens
/// that see more blocks than are selected. Recall is computed by the plan interpreter, on a processor.
///
/// Beside a reference, over the tokens that count for perplexity: the relative error of the logits
/// a from the reference's b, ||a - b|| / ||b||, as a mean over windows and of the worst token; the
/// KL divergence of the reference's next token q from the model's p, sum of q ln(q / p), in nats;
/// how often both choose the same token at temperature 0; and of the blocks B that the reference
/// selects for a token how many are among the model's A, |A ∩ B| / |B|, for tokens that see more
/// blocks than are selected.
///
/// Examples:
///   hyc eval model.hyc --text book.txt
///   hyc eval model.hyc --text book.txt --context 8192 --tokens 100000 --keys 10
///   hyc eval model.hyc --text book.txt --recall 1024
///   hyc eval int4.hyc --text book.txt --against f32.hyc    what a format costs
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
    /// An artefact of the same model, which may differ in formats, target and code: says how far the model is from it
    #[arg(long, value_name = "REFERENCE")]
    against: Option<PathBuf>,
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

/// A text as a model sees it.
struct Text {
    tokenizer: Option<Tokenizer>,
    /// The tokens that begin every text.
    begin: Vec<u32>,
    tokens: Vec<u32>,
}

impl Text {
    fn of(model: &Model, text: &str) -> Result<Text> {
        let tokenizer = Tokenizer::of(model)?;
        let (begin, tokens) = (tokenizer.encode("")?, tokenizer.encode_bare(text)?);
        Ok(Text { tokenizer: Some(tokenizer), begin, tokens })
    }

    /// Errors: the other model sees other tokens.
    fn check(&self, other: &Text, models: [&Model; 2]) -> Result<()> {
        let [a, b] = models.map(|model| words::place(model.path()));
        let what = if self.begin != other.begin {
            format!("{a} and {b} begin a text with other tokens")
        } else if self.tokens != other.tokens {
            let alike = self.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
            format!("the tokenizers of {a} and {b} give other tokens for this text, from token {alike} on")
        } else {
            return Ok(());
        };
        Err(Error::input(what).help("give artefacts with the same [tokenizer], or token ids (`--ids`)"))
    }
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    let show = !args.quiet && !args.json;
    let model = super::load(&args.model, &LoadOptions::default(), show)?;
    let reference = match &args.against {
        Some(path) => Some(super::load(path, &LoadOptions::default(), show)?),
        None => None,
    };
    if let Some(reference) = &reference {
        eval::fit(&model, reference)?;
    }
    let Text { tokenizer, begin, tokens } = match (&args.text, &args.ids) {
        (_, Some(ids)) => Text { tokenizer: None, begin: Vec::new(), tokens: input::token_ids(ids)? },
        (Some(path), None) => {
            let text = input::text(path)?;
            let ours = Text::of(&model, &text)?;
            if let Some(reference) = &reference {
                ours.check(&Text::of(reference, &text)?, [&model, reference])?;
            }
            ours
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
    let longest_reference = reference.as_ref().map_or(longest, |model| model.plan().model.max_context);
    let whose = if longest_reference < longest { "reference" } else { "model" };
    let longest = longest.min(longest_reference);
    let context = match args.context {
        Some(context) if context > longest => {
            let message =
                format!("a window of {context} tokens is longer than the {whose}'s context of {longest}");
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
    for model in [Some(&model), reference.as_ref()].into_iter().flatten().filter(|_| show) {
        eval::slow(model).iter().for_each(|note| terminal::note(note));
    }
    let counted = &tokens[..args.tokens.unwrap_or(usize::MAX).min(tokens.len())];
    let options = super::one_sequence(args.threads, &args.gpu, context);
    let mut session = super::session(&model, &options, show)?;
    let mut report = Report::default();
    let bar = terminal::progress(show, counted.len() as u64, "perplexity", terminal::TOKENS);
    let mut seen = |through| {
        bar.inc(through);
        signal::check("computing perplexity")
    };
    let (text, window) = ((&begin[..], counted), context as usize);
    match (&reference, &args.against) {
        (Some(reference), Some(path)) => {
            let mut theirs = super::session(reference, &options, show)?;
            let sessions = (&mut session, &mut theirs);
            let comparison = eval::compare(sessions, tokenizer.as_ref(), text, window, &mut seen)?;
            report.perplexity = Some(comparison.perplexity);
            report.against = Some((words::place(path), comparison));
        }
        _ => {
            report.perplexity =
                Some(eval::perplexity(&mut session, tokenizer.as_ref(), text, window, &mut seen)?);
        }
    }
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
