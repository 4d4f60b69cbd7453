//! `hyc compile`.

mod args;
mod checks;
mod forms;

use std::time::Instant;

use hyc_kernels::cpu::Level;
use hyc_plan::TargetKind;

pub use self::args::Args;
use self::args::{Cpu, Emit};
use self::forms::{generating, object_of, render};
use crate::commands::activations;
use crate::commands::destination::{self, Destination};
use crate::driver::{self, Lowered};
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{MatrixFormat, ModelDesc, build_graph};
use crate::output::Target;
use crate::signal;
use crate::source::Weights;
use crate::summary::{self, Summary};
use crate::targets;
use crate::terminal;
use crate::text::{self, Text};
use crate::tuning;
use crate::write::{self, Artefact};

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
    let destination = Destination::new(&args.wish(), &input)?;
    let folder = destination::folder(args.dumps.dump_dir.as_deref(), &args.wish(), &input)?;
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
        wanted: args.wanted(),
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
    let weights = args.open_weights(desc, &names, &lowered.plan)?;
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
        (true, TargetKind::Nvidia(arch)) => Some(args.assembler().cubin(&code.blob, arch.name())?),
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
    generating()?;
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
