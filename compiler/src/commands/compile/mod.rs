//! `hyc compile`.

mod checks;
mod forms;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use hyc_kernels::cpu::Level;
use hyc_plan::{Plan, TargetKind};

use self::forms::{object_of, render};
use super::activations;
use super::destination::{self, Destination, TOKENIZER, WEIGHTS, Wish};
use super::dump_args::DumpArgs;
use crate::assembler::Assembler;
use crate::driver::{self, Lowered};
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{MatrixFormat, ModelDesc, build_graph};
use crate::output::Target;
use crate::signal;
use crate::source::{Names, Weights};
use crate::summary::{self, Summary};
use crate::targets;
use crate::terminal;
use crate::text::{self, Text};
use crate::tuning;
use crate::words::place;
use crate::write::{self, Artefact};

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
    input: PathBuf,
    /// Where to write; `-` is standard output for --emit. A link is followed; no file that is read is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Target kind; overrides the model's
    #[arg(long, value_name = "KIND")]
    target: Option<String>,
    /// Instructions that the code may use
    #[arg(long, value_enum, default_value = "native")]
    cpu: Cpu,
    /// What a GPU's products read of rows; overrides the model's, which is bf16 where it says nothing
    #[arg(long, value_enum, value_name = "TYPE")]
    activations: Option<activations::Word>,
    /// Store matrices in this format: int4, int8, fp8, ..., as `hyc explain weights.quantise` says; overrides the model's
    #[arg(long, value_name = "FORMAT")]
    quantise: Option<String>,
    /// Put code of all variants of each of a GPU's kernels into the file, for `hyc tune`
    #[arg(long, conflicts_with = "plan_only")]
    all_variants: bool,
    /// Let a GPU's blocks write down when they begin and end, for `hyc bench --timeline`: takes 64 MiB and a little time
    #[arg(long, conflicts_with = "plan_only")]
    clocks: bool,
    /// What `hyc tune` measured, to choose kernels by, in place of what hyc knows of itself
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The GPU whose measurements count, as its driver names it; without it the usual card of the target
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Stop at the plan: no weights are read and no code is generated
    #[arg(long)]
    plan_only: bool,
    /// Print the summary as JSON
    #[arg(long, conflicts_with_all = ["print_ir_after", "print_ir_after_all", "print_ir_after_change", "emit", "quiet"])]
    json: bool,
    #[command(flatten)]
    dumps: DumpArgs,
    /// Print one form of the model instead of writing an artefact
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// Only this kernel of a GPU's, for `--emit mlir`, `llvm` and `ptx`
    #[arg(long, value_name = "NAME", requires = "emit")]
    kernel: Option<String>,
    /// How the symbols of `--emit obj` begin; without it as the model is called
    #[arg(long, value_name = "NAME", requires = "emit")]
    symbol: Option<String>,
    /// Put the weights into the object of `--emit obj`
    #[arg(long, requires = "emit")]
    embed_weights: bool,
    /// Random weights of this seed in place of the weight files
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    random_weights: Option<u64>,
    /// Leave the weights out; `hyc bench --random-weights` makes them up when it loads the artefact
    #[arg(long, conflicts_with_all = ["random_weights", "weights"])]
    no_weights: bool,
    /// Weight files for a dump, or in place of the model's (may be repeated)
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,
    #[command(flatten)]
    names: super::names::NameArgs,
    /// Tokenizer for a dump, or in place of the model's
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// For a GPU: put machine code beside the PTX, which needs NVIDIA's ptxas
    #[arg(long, conflicts_with_all = ["plan_only", "emit", "print_ir_after", "print_ir_after_all", "print_ir_after_change"])]
    cubin: bool,
    /// NVIDIA's assembler; without it the one on PATH
    #[arg(long, value_name = "PATH")]
    ptxas: Option<PathBuf>,
    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cpu {
    /// What this machine has
    Native,
    /// AVX2 and FMA (x86-64-v3)
    V3,
    /// SSE4.1 (every x86-64 since 2008)
    Baseline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
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

pub fn run(args: Args) -> Result<()> {
    let start = Instant::now();
    args.dumps.check(args.emit == Some(Emit::Graph), args.emit == Some(Emit::Dot))?;
    checks::tools(&args)?;
    checks::object(&args)?;
    signal::install(|| {});
    let mut input = driver::load_input(&args.input)?;
    if let Some(format) = &args.quantise {
        quantise(&mut input, format)?;
    }
    let style = args.dumps.style(&input.graph)?;
    let destination = Destination::new(&wish(&args), &input)?;
    let folder = destination::folder(args.dumps.dump_dir.as_deref(), &wish(&args), &input)?;
    if let Some(target) = &args.target {
        input.graph.header.target = targets::parse(target)?;
    }
    let level = match args.cpu {
        Cpu::Native => hyc_kernels::cpu::CpuTarget::host().level,
        Cpu::V3 => Level::V3,
        Cpu::Baseline => Level::Baseline,
    };
    checks::gpu(&args, input.graph.header.target)?;
    let text = text_of(&args, input.desc.as_ref(), input.graph.header.vocab)?;
    driver::choose_of(&mut input.graph, text.as_ref());
    let unnamed = text.as_ref().map_or(0, |text| text.settings.unnamed_ids());
    if unnamed > 0 {
        let who = match input.graph.header.target {
            TargetKind::Host => "",
            _ => "; for this the host chooses, which reads all logits of each step",
        };
        terminal::note(&format!(
            "note: the tokenizer has no token for {unnamed} ids between its others: they are never chosen{who}\n"
        ));
    }
    let table = args.table.as_deref().map(tuning::read).transpose()?;
    let activations = activations::of(args.activations, input.desc.as_ref(), input.graph.header.target);
    let options = driver::Options {
        level,
        activations,
        table: table.clone(),
        card: args.card.clone(),
        wanted: wanted(&args),
    };
    let names = args.names.or_of(input.desc.as_ref())?;
    let mut dumps = args.dumps.dumps(style.clone(), &input.graph);
    let lowered = driver::lower_dump(input.dump.as_ref(), input.graph, options.clone(), &mut |report| {
        dumps.take(report);
        signal::check("optimising the graph")
    })?;
    let (dumps, files) = dumps.done();
    if let (Some(folder), Some(files)) = (folder, files) {
        folder.write(&files)?;
    }
    if args.table.is_some() || args.card.is_some() {
        let path = args.table.as_deref();
        let table = table.unwrap_or_else(hyc_kernels::shipped);
        tuning::note_unused(&table, path, &lowered.plan, args.card.as_deref());
    }
    let target = match destination {
        Destination::Form(sink) => {
            let bytes = match args.emit {
                None => dumps.into_bytes(),
                Some(Emit::Obj) => {
                    object_of(&args, lowered, &options, (&names, text.as_ref()), input.desc.as_ref())?
                }
                Some(form) => render(&args, form, lowered, (&options, &style))?,
            };
            signal::check("making what was asked for")?;
            return sink.write(&bytes);
        }
        Destination::Summary => {
            let mut summary = Summary::of(&lowered.plan, &lowered.passes);
            summary.seconds = start.elapsed().as_secs_f64();
            return print_summary(&args, &summary);
        }
        Destination::Artefact(target) => target,
    };
    let desc = input.desc.as_ref();
    let weights = open_weights(&args, desc, &names, &lowered.plan)?;
    let mut summary = write_artefact(&args, lowered, &options, &weights, text.as_ref(), desc, &target)?;
    summary.seconds = start.elapsed().as_secs_f64();
    print_summary(&args, &summary)
}

/// Has the matrices of a description stored in a format. Errors: there is no such format; a dump.
fn quantise(input: &mut driver::Input, format: &str) -> Result<()> {
    let usage = |message: String| Error::new(ErrorKind::Usage, message);
    let format = MatrixFormat::parse(format).map_err(|fault| usage(format!("`--quantise`: {fault}")))?;
    let Some(desc) = &mut input.desc else {
        return Err(usage(
            "`--quantise` has no meaning for a dump, whose weights have their formats".to_string(),
        )
        .help("give the model.toml that it was made of"));
    };
    desc.weights.formats.all = Some(format);
    input.graph = build_graph(desc);
    Ok(())
}

/// The model's text: the description's, with the tokenizer that the arguments name.
fn text_of(args: &Args, desc: Option<&ModelDesc>, vocab: u64) -> Result<Option<Text>> {
    let mut tokenizer = desc.map(|desc| desc.tokenizer.clone()).unwrap_or_default();
    tokenizer.file = args.tokenizer.clone().or(tokenizer.file);
    text::read(&tokenizer, vocab)
}

/// The code that the arguments ask for.
fn wanted(args: &Args) -> driver::Wanted {
    driver::Wanted { all_variants: args.all_variants, clocks: args.clocks }
}

fn wish(args: &Args) -> Wish<'_> {
    let weights = args.weights.iter().map(|path| (WEIGHTS, path.as_path()));
    let tokenizer = args.tokenizer.iter().map(|path| (TOKENIZER, path.as_path()));
    let table = args.table.iter().map(|path| ("the table of measurements", path.as_path()));
    let tools = args.ptxas.iter().map(|path| ("the assembler", path.as_path())).chain(table);
    Wish {
        input: &args.input,
        output: args.output.as_deref(),
        form: args.emit.is_some() || args.dumps.prints(),
        plan_only: args.plan_only,
        files: weights.chain(tokenizer).chain(tools).collect(),
    }
}

/// Ctrl-C between two kernels.
fn generating() -> Result<()> {
    signal::check("generating code")
}

fn assembler(args: &Args) -> Assembler {
    Assembler { ptxas: args.ptxas.clone() }
}

fn open_weights(args: &Args, desc: Option<&ModelDesc>, names: &Names, plan: &Plan) -> Result<Weights> {
    if args.no_weights {
        return Ok(Weights::Absent);
    }
    if let Some(seed) = args.random_weights {
        return Ok(Weights::Random { seed });
    }
    let files = match (args.weights.as_slice(), desc) {
        ([], Some(desc)) => desc.weights.files.as_slice(),
        (given, _) => given,
    };
    if files.is_empty() {
        return Err(Error::input(format!("{} names no weight files", place(&args.input)))
            .help("add `--weights FILE`, `--random-weights SEED`, `--no-weights`, or `--plan-only`"));
    }
    Weights::of_files(files, names, plan)
}

fn write_artefact(
    args: &Args,
    mut lowered: Lowered,
    options: &driver::Options,
    weights: &Weights,
    text: Option<&Text>,
    desc: Option<&ModelDesc>,
    target: &Target,
) -> Result<Summary> {
    let code = driver::generate_code(&mut lowered.plan, options.clone(), true, &generating)?;
    driver::check_plan(&lowered.plan)?;
    let cubin = match (args.cubin, lowered.plan.target.kind()) {
        (false, _) => None,
        (true, TargetKind::Host) => {
            return Err(Error::new(ErrorKind::Usage, "a processor has no cubin")
                .help("add `--target sm_90a`, or leave `--cubin` away"));
        }
        (true, TargetKind::Nvidia(arch)) => Some(assembler(args).cubin(&code.blob, arch.name())?),
    };
    let total = lowered.plan.weight_bytes();
    let bar = terminal::progress(!args.quiet && !args.no_weights, total, "packing", terminal::BYTES);
    let graph = lowered.graph.to_string();
    let artefact = Artefact {
        plan: &lowered.plan,
        code: &code.blob,
        cubin: cubin.as_deref(),
        graph: &graph,
        asm: &code.asm,
        text,
        sampling: desc.and_then(|desc| desc.sampling),
        eval: desc.and_then(|desc| desc.eval),
    };
    signal::check("generating code")?;
    let size = write::artefact(target, &artefact, weights, &mut |bytes| {
        bar.inc(bytes);
        signal::check("packing the weights")
    });
    // Also before an error is told.
    bar.finish_and_clear();
    let mut summary = Summary::of(&lowered.plan, &lowered.passes);
    summary.code_seconds = Some(code.seconds);
    summary.file = Some((target.path().to_path_buf(), size?));
    Ok(summary)
}

fn print_summary(args: &Args, summary: &Summary) -> Result<()> {
    if args.json {
        return terminal::print(&super::json(summary::json(summary)));
    }
    if args.quiet {
        return Ok(());
    }
    terminal::print(&summary::text(summary))
}
