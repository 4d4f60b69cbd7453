//! `hyc inspect`.

use std::path::PathBuf;

use clap::ValueEnum;
use hyc_ir::Graph;
use hyc_passes::kv_table;
use hyc_plan::{CachePolicy, Plan};
use hyc_runtime::{KvRoom, MemoryPlan, Model, Verify};
use serde_json::json;

use crate::contents;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{bytes, table};
use crate::{provenance, selections, summary, terminal, variants};

/// Print a part of an artefact
///
/// Examples:
///   hyc inspect model.hyc             what is in it
///   hyc inspect model.hyc graph       the scheduled graph, as `hyc compile` takes it back
///   hyc inspect model.hyc plan        the steps, and which of them form slices
///   hyc inspect model.hyc kv          the KV caches and their bytes
///   hyc inspect model.hyc memory      what a session takes
///   hyc inspect model.hyc selections  who selects for which layers, and which blocks of which cache
///   hyc inspect model.hyc provenance  the rules that hold for each selection and cache; what aliases save
///   hyc inspect model.hyc kernels     the ways to compute each step, their times, and why one was chosen
///   hyc inspect model.hyc asm         disassembly
///   hyc inspect model.hyc ptx         a GPU's code
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// What to print
    #[arg(value_enum, default_value = "summary")]
    part: Part,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What it is and holds, chains, KV table
    Summary,
    /// The scheduled graph
    Graph,
    /// The steps with their operands, and slices
    Plan,
    /// The variants of each kernel, what is predicted and measured of them, and which was chosen for which rows
    Kernels,
    /// Each selection: its producer, consumers, blocks, page map, cache and bytes
    Selections,
    /// The rules that hold for each selection and cache, the aliases, and the bytes that they save
    Provenance,
    /// KV caches
    Kv,
    /// What a session takes
    Memory,
    /// Disassembly of the kernels
    Asm,
    /// A GPU's kernels as PTX
    Ptx,
}

pub fn run(args: Args) -> Result<()> {
    let model = Model::open_to_look(&args.model, Verify::Header)?;
    let text = if args.json { json_of(&model, args.part)? } else { text_of(&model, args.part)? };
    terminal::print(&text)
}

fn absent(what: &str) -> Error {
    Error::input(format!("this artefact has no {what}")).help("compile the model again with this build")
}

/// The graph in the artefact, whose rules all hold. Errors: it has none, or another text.
fn graph(model: &Model) -> Result<Graph> {
    let source = model.graph_text().ok_or_else(|| absent("graph"))?;
    let graph = hyc_ir::text::parse(source).map_err(|errors| {
        Error::input(format!("the graph in this artefact does not parse: {}", errors[0]))
            .help("compile the model again")
    })?;
    provenance::check(&graph)?;
    Ok(graph)
}

fn not_here(what: &str, part: &str, other: &str) -> Error {
    Error::input(format!("this artefact's target has no {what}"))
        .help(format!("ask for `{other}` instead of `{part}`"))
}

fn text_of(model: &Model, part: Part) -> Result<String> {
    let plan = model.plan();
    Ok(match part {
        Part::Summary => contents::text(model),
        Part::Graph => model.graph_text().ok_or_else(|| absent("graph"))?.to_string(),
        Part::Asm => match model.asm_text() {
            None if model.ptx().is_some() => return Err(not_here("disassembly", "asm", "ptx")),
            text => text.ok_or_else(|| absent("disassembly"))?.to_string(),
        },
        Part::Ptx => model.ptx().ok_or_else(|| not_here("PTX", "ptx", "asm"))?.to_string(),
        Part::Plan => hyc_passes::steps(plan),
        Part::Kernels => variants::text(plan),
        Part::Selections => selections::text(plan, &graph(model)?),
        Part::Provenance => provenance::text(plan, &graph(model)?),
        Part::Kv => format!("{}\n{}", summary::kv_text(&kv_table(plan)), caches(plan)),
        Part::Memory => memory(model),
    })
}

fn json_of(model: &Model, part: Part) -> Result<String> {
    let plan = model.plan();
    let value = match part {
        Part::Summary => contents::json(model),
        Part::Plan => {
            serde_json::to_value(plan).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?
        }
        Part::Graph | Part::Asm | Part::Ptx => {
            let name = match part {
                Part::Graph => "graph",
                Part::Asm => "asm",
                _ => "ptx",
            };
            json!({ name: text_of(model, part)? })
        }
        Part::Kernels => variants::json(plan),
        Part::Selections => selections::json(plan, &graph(model)?),
        Part::Provenance => provenance::json(plan, &graph(model)?),
        Part::Kv => json!({ "table": summary::kv_json(&kv_table(plan)), "caches": plan.caches }),
        Part::Memory => {
            let m = whole_session(model);
            json!({ "weights": m.weights, "arena": m.arena, "caches": m.caches, "scratch_a_thread": m.scratch })
        }
    };
    Ok(super::json(value))
}

fn caches(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .caches
        .iter()
        .map(|c| {
            let policy = match c.policy {
                CachePolicy::Growing => "growing".to_string(),
                CachePolicy::Ring { window, pages } => format!("ring of {window}, {pages} pages"),
            };
            let readers: Vec<String> = c.readers.iter().map(ToString::to_string).collect();
            vec![c.name.clone(), policy, bytes(c.token_bytes()), bytes(c.page_bytes()), readers.join(" ")]
        })
        .collect();
    table(&["cache", "keeps", "per token", "per page", "read by layers"], &rows)
}

fn whole_session(model: &Model) -> MemoryPlan {
    let m = &model.plan().model;
    let pages = m.max_batch * m.max_context.div_ceil(m.page);
    MemoryPlan::new(model, KvRoom::new(pages, m.max_batch), 1)
}

fn memory(model: &Model) -> String {
    let m = whole_session(model);
    let info = &model.plan().model;
    let rows = vec![
        vec!["weights, mapped".into(), bytes(m.weights)],
        vec!["activations".into(), bytes(m.arena)],
        vec![format!("KV caches, {} sequences of {}", info.max_batch, info.max_context), bytes(m.caches)],
        vec!["scratch, each thread".into(), bytes(m.scratch)],
        vec!["total with one thread".into(), bytes(m.total())],
    ];
    table(&["memory", "bytes"], &rows)
}
