//! `hyc view`.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{LoadOptions, Model, Tokenizer, Verify};

use super::destination::{keep_model, keep_program};
use crate::chosen::{self, Chosen};
use crate::driver::{self, Input};
use crate::dump::Dump;
use crate::error::{Error, ErrorKind, Result};
use crate::input;
use crate::output::{Kept, Sink};
use crate::signal;
use crate::view::subject::{Stage, Subject, gpu_code, host_code};
use crate::view::{Beside, difference, page, profile};
use crate::words::place;

/// Show a model as a page for a browser
///
/// One file of HTML, which needs no network and nothing beside it: layers and who reads whose
/// selection and cache, what each pass changed, every op with its mathematics and origins, memory,
/// steps, kernels and their code. Weights are not needed. In the page `/` finds, and an address such
/// as page.html#L12.sel leads to a value.
///
/// Examples:
///   hyc view model.toml -o page.html
///   hyc view model.toml --compare full.toml -o page.html    differences first
///   hyc view model.hyc --run "Once upon" -o page.html       what the oracle layers choose for it
///   hyc view model.hyc --profile bench.json -o page.html    what `hyc bench --kernels --json` found
///   hyc view model.hyc --diff diff.json -o page.html        what `hyc diff --json` found
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model.toml, a graph dump or an artefact
    input: PathBuf,
    /// The page; `-` is standard output
    #[arg(short, long, value_name = "PAGE")]
    output: PathBuf,
    /// Times of kernels: what `hyc bench --kernels --json` printed of this model
    #[arg(long, value_name = "BENCH")]
    profile: Option<PathBuf>,
    /// How its code compares with the interpreter: what `hyc diff --json` printed of this model
    #[arg(long, value_name = "DIFF")]
    diff: Option<PathBuf>,
    /// Run this text through the artefact, and show which blocks its oracle layers choose
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["run_file", "run_ids"], allow_hyphen_values = true)]
    run: Option<String>,
    /// The same with a file's text
    #[arg(long, value_name = "FILE", conflicts_with = "run_ids")]
    run_file: Option<PathBuf>,
    /// The same with a file of token ids: a JSON list, or numbers between spaces, commas and newlines
    #[arg(long, value_name = "FILE")]
    run_ids: Option<PathBuf>,
    /// Tokens of the text that are run at most: the plan interpreter is slow
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    run_tokens: u32,
    /// Another model.toml, dump or artefact to set beside it
    #[arg(long, value_name = "OTHER")]
    compare: Option<PathBuf>,
}

/// What an artefact is called.
const ARTEFACT: &str = "artefact";
/// Most bytes of a profile.
const PROFILE_BYTES: u64 = 16 << 20;
/// Most bytes of a comparison.
const DIFF_BYTES: u64 = 1 << 20;

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    let own = given(&args.input)?;
    let beside = args.compare.as_deref().map(|path| given(path).map(|given| (path, given))).transpose()?;
    let mut kept = Kept::of_process();
    keep_program(&mut kept);
    keep_model(&mut kept, &args.input, own.as_ref());
    beside.iter().for_each(|(path, given)| keep_model(&mut kept, path, given.as_ref()));
    args.profile.iter().for_each(|path| kept.add("the profile", path));
    args.diff.iter().for_each(|path| kept.add("the comparison", path));
    args.run_file.iter().for_each(|path| kept.add("the text", path));
    args.run_ids.iter().for_each(|path| kept.add("the tokens", path));
    let sink = Sink::new(Some(&args.output), &kept)?;
    let model = subject(&args.input, own)?;
    let profile = match &args.profile {
        Some(path) => {
            let text = input::read("read the profile", path, PROFILE_BYTES)?;
            Some(profile::read(path, &text, &model.plan)?)
        }
        None => None,
    };
    let comparison = match &args.diff {
        Some(path) => {
            let text = input::read("read the comparison", path, DIFF_BYTES)?;
            Some(difference::read(path, &text, &model.plan)?)
        }
        None => None,
    };
    let chosen = chosen(&args, &model)?;
    let other = beside.map(|(path, given)| subject(path, given)).transpose()?;
    let page = page(&model, &Beside { profile, comparison, chosen, other });
    signal::check("making the page")?;
    sink.write(page.as_bytes())
}

/// What is asked to be run.
enum Asked {
    Text(String),
    Tokens(Vec<u32>),
}

fn asked(args: &Args) -> Result<Option<Asked>> {
    Ok(match (&args.run, &args.run_file, &args.run_ids) {
        (Some(text), _, _) => Some(Asked::Text(text.clone())),
        (_, Some(path), _) => Some(Asked::Text(input::text(path)?)),
        (_, _, Some(path)) => Some(Asked::Tokens(input::token_ids(path)?)),
        (None, None, None) => None,
    })
}

/// What the oracle layers choose for what is asked for. Errors: no artefact, which alone has weights; a token that is none
/// of the model's.
fn chosen(args: &Args, subject: &Subject) -> Result<Option<Chosen>> {
    let Some(asked) = asked(args)? else { return Ok(None) };
    if subject.source != ARTEFACT {
        let message = format!("a {} has no weights to run a text with", subject.source);
        return Err(Error::new(ErrorKind::Usage, message).help("compile it, and view the artefact"));
    }
    let model = super::load(&args.input, &LoadOptions::default(), true)?;
    let tokens = match asked {
        Asked::Text(text) => Tokenizer::of(&model)?.encode(&text)?,
        Asked::Tokens(tokens) => tokens,
    };
    chosen::observe(&model, &tokens, args.run_tokens as usize, &|| signal::check("running the text"))
        .map(Some)
}

/// Reads a description or a dump; `None`: the file is an artefact. Errors: it is none of the three.
fn given(path: &Path) -> Result<Option<Input>> {
    if is_artefact(path)? { Ok(None) } else { driver::load_input(path).map(Some) }
}

/// The model, from its input or from an artefact.
fn subject(path: &Path, given: Option<Input>) -> Result<Subject> {
    match given {
        Some(input) => lowered(input),
        None => artefact(path),
    }
}

/// Whether a file begins as an artefact does: with a header of less than 4 GiB, which is JSON.
fn is_artefact(path: &Path) -> Result<bool> {
    let mut first = Vec::new();
    let file = input::open("read", path)?;
    file.take(9).read_to_end(&mut first).map_err(|e| Error::io("read", path, e))?;
    Ok(first.len() == 9 && first[4..8] == [0; 4] && first[8] == b'{')
}

/// A description or a dump, through all passes, with the code of a processor.
fn lowered(input: Input) -> Result<Subject> {
    let source = if input.desc.is_some() { "description" } else { "dump" };
    let mut stages = vec![Stage { name: "input", changes: 0, graph: input.graph.clone() }];
    let level = CpuTarget::host().level;
    let options = driver::Options::of(level, input.desc.as_ref());
    let mut lowered = driver::lower_dump(input.dump.as_ref(), input.graph, options, &mut |report| {
        if hyc_passes::rewrites(report.name) {
            stages.push(Stage { name: report.name, changes: report.changes, graph: report.graph.clone() });
        }
        signal::check("optimising the graph")
    })?;
    let code = match lowered.plan.target.is_host() {
        true => {
            let check = || signal::check("generating code");
            let code = driver::generate_code(&mut lowered.plan, level, true, &check)?;
            host_code(&lowered.plan, &code.asm)
        }
        false => HashMap::new(),
    };
    Ok(Subject { source, stages, plan: lowered.plan, code })
}

/// An artefact, of which nothing runs.
fn artefact(path: &Path) -> Result<Subject> {
    let model = Model::open_to_look(path, Verify::Header)?;
    let text = model.graph_text().ok_or_else(|| {
        Error::input(format!("{} holds no graph", place(path)))
            .help("compile the model again with this build")
    })?;
    let graph = Dump { path: path.to_path_buf(), text: text.to_string() }.any_graph()?;
    let plan = model.plan().clone();
    let code = match (model.ptx(), model.asm_text()) {
        (Some(ptx), _) => gpu_code(&plan, ptx),
        (None, Some(asm)) => host_code(&plan, asm),
        (None, None) => HashMap::new(),
    };
    Ok(Subject { source: ARTEFACT, stages: vec![Stage { name: "input", changes: 0, graph }], plan, code })
}
