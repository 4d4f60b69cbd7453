//! `hyc import`.

use std::path::{Path, PathBuf};

use super::destination::keep_program;
use crate::error::Result;
use crate::import::{self, Options, Selection};
use crate::output::{Kept, Sink};
use crate::terminal;

/// Make a model.toml of a checkpoint
///
/// A folder as Hugging Face's transformers writes it, with config.json and safetensors, or a GGUF file. The
/// weights stay where they are; a GGUF file's tokenizer and chat template are written beside the description.
/// What a model.toml cannot express is refused by name.
///
/// Examples:
///   hyc import SmolLM2-135M -o smollm2.toml
///   hyc import SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.toml
///   hyc import SmolLM2-135M -o sparse.toml --pattern 1:3 --top-k 512 --block 16
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
    /// Element type of matrices in the artefact; without it f32 for weights of f32 and f16, else bf16
    #[arg(long, value_name = "TYPE", value_parser = ["bf16", "f32"])]
    dtype: Option<String>,
    /// What the model is compiled for, as `kind` of [target]
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Leave the tokenizer out: the model takes and gives tokens alone
    #[arg(long)]
    no_tokenizer: bool,
    /// Let full layers select for those after them, which keep their own KV cache: 1:3 is one full layer, then
    /// three sparse ones. The checkpoint was trained without: what that costs depends on the model
    #[arg(long, value_name = "FULL:SPARSE", requires = "top_k")]
    pattern: Option<String>,
    /// Tokens that a query of a sparse layer selects, in whole blocks
    #[arg(long, value_name = "TOKENS", requires = "pattern")]
    top_k: Option<u64>,
    /// Tokens of a block of the selection, and of a page of the KV cache
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    block: u64,
}

pub fn run(args: Args) -> Result<()> {
    let mut kept = Kept::of_process();
    keep_program(&mut kept);
    kept.add("the checkpoint", &args.checkpoint);
    for entry in std::fs::read_dir(&args.checkpoint).into_iter().flatten().flatten() {
        kept.add("a file of the checkpoint", &entry.path());
    }
    let sink = Sink::new(Some(&args.output), &kept)?;
    let options = Options {
        name: args.name,
        context: args.context,
        dtype: args.dtype,
        target: args.target,
        no_tokenizer: args.no_tokenizer,
        block: args.block,
        selection: args.pattern.zip(args.top_k).map(|(pattern, top_k)| Selection { pattern, top_k }),
    };
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
