//! The arguments of `hyc compile`.

use std::path::PathBuf;

use clap::ValueEnum;
use hyc_plan::Plan;

use crate::assembler::Assembler;
use crate::commands::activations;
use crate::commands::destination::{TOKENIZER, WEIGHTS, Wish};
use crate::commands::dump_args::DumpArgs;
use crate::commands::names::NameArgs;
use crate::driver;
use crate::error::{Error, Result};
use crate::frontend::ModelDesc;
use crate::source::{Names, Weights};
use crate::words::place;

/// Compile a model into one file
///
/// Examples:
///   hyc compile model.toml                          writes NAME.hyc beside the model
///   hyc compile model.toml -o out/model.hyc
///   hyc compile --plan-only model.toml              sizes, chains and the KV table; no weights needed
///   hyc compile --print-ir-after=fuse-topk model.toml
///   hyc compile --print-ir-after-change --layers 12-13 model.toml     what changed these layers
///   hyc compile --dump-dir dumps model.toml         the graph after each pass, and what the last ones
///                                                   decided: 00-input.hyir to 12-plan.txt
///   hyc compile --emit dot --layers 0-1 model.toml  for Graphviz
///   hyc compile --emit graph model.toml -o g.hyir   a dump ...
///   hyc compile --plan-only g.hyir                  ... is accepted in place of a model.toml
///   hyc compile --emit obj model.toml -o m.o        an object to link into a program (see hyc-build)
///   hyc compile --emit mlir --plan-only model.toml  the graph in MLIR
///   hyc compile --target sm_90a --cubin model.toml  machine code for a GPU beside the PTX
///   hyc compile --all-variants --target sm_90a --no-weights model.toml -o all.hyc     for `hyc tune` on a GPU, whose
///   hyc compile --target sm_90a --table table.json model.toml                         table chooses kernels here
///   hyc compile --random-weights 1 model.toml       random weights, to measure speed
///   hyc compile --no-weights model.toml             none; a small file for `hyc bench --random-weights 1`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model.toml, or a graph dump
    pub input: PathBuf,
    /// Where to write; `-` is standard output for --emit. A link is followed; no file that is read is replaced
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Target kind; overrides the model's
    #[arg(long, value_name = "KIND")]
    pub target: Option<String>,
    /// Instructions that the code may use
    #[arg(long, value_enum, default_value = "native")]
    pub cpu: Cpu,
    /// What a GPU's products read of rows; overrides the model's, which is bf16 where it says nothing
    #[arg(long, value_enum, value_name = "TYPE")]
    pub activations: Option<activations::Word>,
    /// Store matrices in this format: int4, int8, fp8, ..., as `hyc explain weights.quantise` says; overrides the model's
    #[arg(long, value_name = "FORMAT")]
    pub quantise: Option<String>,
    /// Put code of all variants of each of a GPU's kernels into the file, for `hyc tune`
    #[arg(long, conflicts_with = "plan_only")]
    pub all_variants: bool,
    /// Let a GPU's blocks write down when they begin and end, for `hyc bench --timeline`: takes 64 MiB and a little time
    #[arg(long, conflicts_with = "plan_only")]
    pub clocks: bool,
    /// What `hyc tune` measured, to choose kernels by, in place of what hyc knows of itself
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// The GPU whose measurements count, as its driver names it; without it the usual card of the target
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// Stop at the plan: no weights are read and no code is generated
    #[arg(long)]
    pub plan_only: bool,
    /// Print the summary as JSON
    #[arg(long, conflicts_with_all = ["print_ir_after", "print_ir_after_all", "print_ir_after_change", "emit", "quiet"])]
    pub json: bool,
    #[command(flatten)]
    pub dumps: DumpArgs,
    /// Print one form of the model instead of writing an artefact
    #[arg(long, value_enum)]
    pub emit: Option<Emit>,
    /// Only this kernel of a GPU's, for `--emit mlir`, `llvm` and `ptx`
    #[arg(long, value_name = "NAME", requires = "emit")]
    pub kernel: Option<String>,
    /// How the symbols of `--emit obj` begin; without it as the model is called
    #[arg(long, value_name = "NAME", requires = "emit")]
    pub symbol: Option<String>,
    /// Put the weights into the object of `--emit obj`
    #[arg(long, requires = "emit")]
    pub embed_weights: bool,
    /// Random weights of this seed in place of the weight files
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    pub random_weights: Option<u64>,
    /// Leave the weights out; `hyc bench --random-weights` makes them up when it loads the artefact
    #[arg(long, conflicts_with_all = ["random_weights", "weights"])]
    pub no_weights: bool,
    /// Weight files for a dump, or in place of the model's (may be repeated)
    #[arg(long, value_name = "FILE")]
    pub weights: Vec<PathBuf>,
    #[command(flatten)]
    pub names: NameArgs,
    /// Tokenizer for a dump, or in place of the model's
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// For a GPU: put machine code beside the PTX, which needs NVIDIA's ptxas
    #[arg(long, conflicts_with_all = ["plan_only", "emit", "print_ir_after", "print_ir_after_all", "print_ir_after_change"])]
    pub cubin: bool,
    /// NVIDIA's assembler; without it the one on PATH
    #[arg(long, value_name = "PATH")]
    pub ptxas: Option<PathBuf>,
    /// No progress bar and no summary
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cpu {
    /// What this machine has
    Native,
    /// AVX2 and FMA (x86-64-v3)
    V3,
    /// SSE4.1 (every x86-64 since 2008)
    Baseline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The graph after the passes, as text
    Graph,
    /// The plan as JSON
    Plan,
    /// The graph in Graphviz's language
    Dot,
    /// Disassembly of the generated kernels
    Asm,
    /// A relocatable object with plan and code, for a program that links the runtime; --embed-weights puts the weights in
    Obj,
    /// The graph as a verified MLIR dialect; with --kernel a GPU's row-wise kernel
    Mlir,
    /// A GPU's kernels as LLVM gets them, before optimisation
    Llvm,
    /// A GPU's kernels as PTX
    Ptx,
    /// A GPU's kernels as machine code, through ptxas
    Cubin,
    /// A GPU's kernels disassembled, through ptxas and nvdisasm or cuobjdump
    Sass,
}

impl Args {
    /// The code that the arguments ask for.
    pub fn wanted(&self) -> driver::Wanted {
        driver::Wanted { all_variants: self.all_variants, clocks: self.clocks }
    }

    /// What is read, and where it goes.
    pub fn wish(&self) -> Wish<'_> {
        let weights = self.weights.iter().map(|path| (WEIGHTS, path.as_path()));
        let tokenizer = self.tokenizer.iter().map(|path| (TOKENIZER, path.as_path()));
        let table = self.table.iter().map(|path| ("the table of measurements", path.as_path()));
        let tools = self.ptxas.iter().map(|path| ("the assembler", path.as_path())).chain(table);
        Wish {
            input: &self.input,
            output: self.output.as_deref(),
            form: self.emit.is_some() || self.dumps.prints(),
            plan_only: self.plan_only,
            files: weights.chain(tokenizer).chain(tools).collect(),
        }
    }

    /// NVIDIA's assembler.
    pub fn assembler(&self) -> Assembler {
        Assembler { ptxas: self.ptxas.clone() }
    }

    /// The weights: those of the files, made up or none.
    pub fn open_weights(&self, desc: Option<&ModelDesc>, names: &Names, plan: &Plan) -> Result<Weights> {
        if self.no_weights {
            return Ok(Weights::Absent);
        }
        if let Some(seed) = self.random_weights {
            return Ok(Weights::Random { seed });
        }
        let files = match (self.weights.as_slice(), desc) {
            ([], Some(desc)) => desc.weights.files.as_slice(),
            (given, _) => given,
        };
        if files.is_empty() {
            return Err(Error::input(format!("{} names no weight files", place(&self.input)))
                .help("add `--weights FILE`, `--random-weights SEED`, `--no-weights`, or `--plan-only`"));
        }
        Weights::of_files(files, names, plan)
    }
}
