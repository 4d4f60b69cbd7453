//! `hyc import`.

use std::path::{Path, PathBuf};

use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{LoadOptions, Tokenizer};

use super::destination::keep_program;
use crate::compile;
use crate::error::{Error, ErrorKind, Result};
use crate::import::{self, Options, Seen, Selection};
use crate::oracles::{self, Reading, Selected};
use crate::output::{Kept, Sink, Target};
use crate::{input, signal, terminal};

/// Make a model.toml of a checkpoint
///
/// A folder as Hugging Face's transformers writes it, with config.json and safetensors, or a GGUF file. The
/// weights stay where they are; a GGUF file's tokenizer and chat template are written beside the description.
/// What a model.toml cannot express is refused by name.
///
/// Examples:
///   hyc import SmolLM2-135M -o smollm2.toml
///   hyc import SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.toml
///   hyc import SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.toml --dtype stored
///   hyc import SmolLM2-135M -o sparse.toml --pattern 1:3 --top-k 512 --block 16
///   hyc import SmolLM2-135M -o sparse.toml --pattern 0,1,2,3,14,29 --top-k 512 --block 16
///   hyc import SmolLM2-135M -o sparse.toml --pattern auto:9 --text book.txt --top-k 512 --block 16
///   hyc import SmolLM2-135M -o hybrid.toml --pattern 1:3 --window 512
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The checkpoint: a folder, or a GGUF file
    checkpoint: PathBuf,
    /// The description; `-` is standard output
    #[arg(short, long, value_name = "MODEL.toml")]
    output: PathBuf,
    /// The model's name; without it the folder's
    #[arg(long)]
    name: Option<String>,
    /// Most tokens of a sequence; without it as many as the checkpoint says
    #[arg(long, value_name = "TOKENS")]
    context: Option<u64>,
    /// Element type of matrices in the artefact; without it f32 for weights of f32 and f16, else bf16. `stored` keeps a GGUF
    /// file's matrices of Q4_0, Q4_1 and Q8_0 as they are, without a loss
    #[arg(long, value_name = "TYPE", value_parser = ["bf16", "f32", "stored"])]
    dtype: Option<String>,
    /// What the model is compiled for, as `kind` of [target]
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Leave the tokenizer out: the model takes and gives tokens alone
    #[arg(long)]
    no_tokenizer: bool,
    /// Which layers stay full: 1:3 is one full layer, then three others; or a list of layers; or auto:N, the N with whose
    /// selections the others' attention comes nearest to full attention on a text. With `--top-k` they select for those
    /// after them, which keep their own KV cache. The checkpoint was trained without: what that costs depends on the model
    #[arg(long, value_name = "FULL:SPARSE|LAYERS|auto:N", requires = "seen")]
    pattern: Option<String>,
    /// The text of `--pattern auto:N`, of UTF-8: as many tokens of it are run as `--context` says, and 16 times as many as a
    /// query selects at most. What suits short texts does not suit long ones
    #[arg(long, value_name = "FILE", requires = "pattern")]
    text: Option<PathBuf>,
    /// Tokens that a query of a sparse layer selects, in whole blocks
    #[arg(long, value_name = "TOKENS", requires = "pattern", group = "seen")]
    top_k: Option<u64>,
    /// Tokens that layers which are not full see, the last ones: hybrid SWA
    #[arg(long, value_name = "TOKENS", requires = "pattern", group = "seen")]
    window: Option<u64>,
    /// Tokens of a block of the selection, and of a page of the KV cache: 64 where nothing is said
    #[arg(long, value_name = "TOKENS")]
    block: Option<u64>,
}

pub fn run(args: Args) -> Result<()> {
    let mut kept = Kept::of_process();
    keep_program(&mut kept);
    kept.add("the checkpoint", &args.checkpoint);
    for entry in std::fs::read_dir(&args.checkpoint).into_iter().flatten().flatten() {
        kept.add("a file of the checkpoint", &entry.path());
    }
    if let Some(text) = &args.text {
        kept.add("the text", text);
    }
    let sink = Sink::new(Some(&args.output), &kept)?;
    let seen = args.top_k.map(Seen::TopK).or(args.window.map(Seen::Window));
    let mut options = Options {
        name: args.name.clone(),
        context: args.context,
        dtype: args.dtype.clone(),
        target: args.target.clone(),
        no_tokenizer: args.no_tokenizer,
        block: args.block,
        selection: None,
    };
    let pattern = match args.pattern.as_deref().map(|pattern| (pattern, automatic(pattern))) {
        Some((_, Some(count))) => Some(chosen(&args, &options, count?)?),
        Some((_, None)) if args.text.is_some() => {
            return Err(Error::new(ErrorKind::Usage, "`--text` is of `--pattern auto:N` alone")
                .help("leave `--text` away, or let the oracles be chosen"));
        }
        Some((pattern, None)) => Some(pattern.to_string()),
        None => None,
    };
    options.selection = pattern.zip(seen).map(|(pattern, seen)| Selection { pattern, seen });
    let at = Some(args.output.as_path()).filter(|path| *path != Path::new("-"));
    let imported = import::import(&args.checkpoint, at, &options)?;
    for (ending, content) in &imported.beside {
        Sink::new(Some(&args.output.with_extension(ending)), &kept)?.write(content.as_bytes())?;
    }
    sink.write(imported.text.as_bytes())?;
    for note in &imported.notes {
        terminal::note(&format!("note: {note}\n"));
    }
    Ok(())
}

/// How many oracles a pattern of `auto:N` asks for; `None`: it is another pattern. Errors: no such number.
fn automatic(pattern: &str) -> Option<Result<usize>> {
    let count = pattern.strip_prefix("auto")?;
    let number = count.strip_prefix(':').and_then(|count| count.trim().parse().ok());
    Some(number.filter(|count| *count > 1).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("\"{pattern}\" does not say how many layers select"))
            .help("write for example `--pattern auto:9`; 2 is the least: the first and the last layer are among them")
    }))
}

/// What is to be chosen by: the selection and the text. Errors: a flag that is missing or makes no sense beside `auto:N`.
fn chosen_by(args: &Args) -> Result<(Selected, &Path)> {
    let usage = |message: String, help: &str| Err(Error::new(ErrorKind::Usage, message).help(help));
    let (top_k, text) = match (args.top_k, &args.text) {
        (None, _) => {
            let help = "give `--top-k` in place of `--window`, or name the full layers";
            return usage("layers that see a window select nothing to choose by".into(), help);
        }
        (_, None) => {
            let message = "`--pattern auto:N` chooses by a text, and there is none";
            return usage(message.into(), "add `--text FILE`");
        }
        (Some(top_k), Some(text)) => (top_k as usize, text),
    };
    if args.no_tokenizer {
        let help = "leave `--no-tokenizer` away, or name the full layers";
        return usage("a text has no tokens without the tokenizer".into(), help);
    }
    let block = args.block.unwrap_or(import::BLOCK) as usize;
    if block == 0 || top_k == 0 || !top_k.is_multiple_of(block) {
        let message = format!("`--top-k {top_k}` is no whole number of blocks of {block}");
        return usage(message, "give a multiple of `--block`");
    }
    Ok((Selected { top_k, block }, text))
}

/// Tokens of a text that are run to choose by, in units of what a query selects, where the context has so many: what a
/// selection costs grows with the text, and which layers it costs most changes.
const TIMES: usize = 16;

/// The layers that select best for the others on a text, between commas. The checkpoint is compiled for this processor with
/// full attention, in a folder beside the description that is there for as long.
fn chosen(args: &Args, options: &Options, count: usize) -> Result<String> {
    let (selected, text) = chosen_by(args)?;
    signal::install(|| {});
    let text = input::text(text)?;
    let beside = args.output.parent().filter(|path| !path.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(beside).map_err(|e| Error::io("write into", beside, e))?;
    let description = folder.path().join("model.toml");
    // Layers are chosen by this processor, in bf16 where blocks are to stay.
    let dtype = options.dtype.clone().filter(|dtype| dtype != "stored");
    let plain = Options { selection: None, target: None, dtype, ..options.clone() };
    let checkpoint =
        std::path::absolute(&args.checkpoint).map_err(|e| Error::io("find", &args.checkpoint, e))?;
    let imported = import::import(&checkpoint, Some(&description), &plain)?;
    for (ending, content) in &imported.beside {
        write(&description.with_extension(ending), content)?;
    }
    write(&description, &imported.text)?;
    let artefact = folder.path().join("model.hyc");
    let compiled = compile::compile(&description, CpuTarget::host().level, &|| {
        signal::check("compiling the checkpoint")
    })?;
    let layers = compiled.plan.model.layers as usize;
    if count > layers {
        let message = format!("{count} layers cannot select: the model has {layers}");
        return Err(Error::new(ErrorKind::Usage, message).help("ask for fewer"));
    }
    let bar = terminal::progress(true, compiled.weight_bytes(), "packing", terminal::BYTES);
    compiled.write(&Target::new(&artefact, &Kept::default())?, &mut |bytes| {
        bar.inc(bytes);
        signal::check("packing the weights")
    })?;
    bar.finish_and_clear();
    let model = super::load(&artefact, &LoadOptions::default(), true)?;
    let tokenizer = Tokenizer::of(&model)?;
    let mut tokens = [tokenizer.encode("")?, tokenizer.encode_bare(&text)?].concat();
    tokens.truncate(selected.top_k.saturating_mul(TIMES).min(model.plan().model.max_context as usize));
    let bar = terminal::progress(true, tokens.len() as u64, "choosing", terminal::TOKENS);
    let readings = oracles::readings(&model, &tokens, selected, &mut |through| {
        bar.inc(through);
        signal::check("choosing the oracles")
    })?;
    bar.finish_and_clear();
    let oracles = readings.choose(count);
    let list: Vec<String> = oracles.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    let others = readings.of(&oracles).map_or(String::new(), |(mean, (layer, most))| {
        let (count, Reading { recall, error }) = (tokens.len(), mean);
        format!(
            "; on {count} tokens the others keep {recall:.4} of their attention in what those select, and what comes of it is \
             off by {error:.4} of its square, most in layer {layer}, {:.4}",
            most.error
        )
    });
    terminal::note(&format!("note: layers {list} select{others}\n"));
    Ok(list)
}

fn write(path: &Path, content: &str) -> Result<()> {
    std::fs::write(path, content).map_err(|e| Error::io("write", path, e))
}
