//! How much the selections of neighbouring tokens, of KV heads and of oracle layers overlap, in any artefact.
//!
//! `selection-overlap MODEL.hyc PLOT.svg [--contexts N,N] NAME=FILE ...`: FILE is text, or a safetensors file with `prompts`
//! (u16, 65535 fills the end). Prints a Markdown table by layer and KV head, and one of their means in units of what a token
//! selects; the plot has distinct blocks by neighbours.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyc_runtime::plan::{Operand, StepOp, ops};
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions, Tokenizer, Values};
use safetensors::SafeTensors;

/// Contexts, where nothing is said.
const CONTEXTS: [usize; 3] = [1024, 2048, 4096];
/// Neighbours of the table by layer and head, and of the plot.
const NEIGHBOURS: [usize; 3] = [8, 32, 64];
/// Neighbours of the means.
const MEANS: [usize; 6] = [2, 4, 8, 16, 32, 64];
/// Prompts of a source that are run, and tokens before each context's end that are looked at.
const PROMPTS: usize = 4;
const LAST: usize = 256;

type AnyError = Box<dyn std::error::Error>;

/// `[token][kv_head]` sets of blocks of one oracle layer.
type Selected = Vec<Vec<BTreeSet<i32>>>;

/// Sums of a measure.
#[derive(Default, Clone, Copy)]
struct Mean(f64, f64);

impl Mean {
    fn add(&mut self, x: f64) {
        self.0 += x;
        self.1 += 1.0;
    }

    fn get(self) -> f64 {
        self.0 / self.1.max(1.0)
    }
}

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, plot, sources @ ..] = &args[..] else {
        return Err("usage: selection-overlap MODEL.hyc PLOT.svg [--contexts N,N] NAME=FILE ...".into());
    };
    let (contexts, sources) = match sources {
        [flag, list, sources @ ..] if flag == "--contexts" => (self::contexts(list)?, sources),
        sources => (CONTEXTS.to_vec(), sources),
    };
    // SAFETY: whoever names the artefact asks for this program to be run.
    let model = Arc::new(unsafe { Model::load(model, &LoadOptions::default()) }?);
    let mut table = String::from(
        "| source | context | layer | KV head | distinct of 8 | of 32 | of 64 | (uniform) | other head | other layer |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut curves: BTreeMap<String, [Mean; 3]> = BTreeMap::new();
    let mut means = means_head();
    for source in sources {
        let (name, file) = source.split_once('=').ok_or("a source is NAME=FILE")?;
        let runs: Vec<_> = prompts(&model, file, contexts[contexts.len() - 1])?
            .iter()
            .map(|prompt| run(&model, prompt))
            .collect::<Result<_, _>>()?;
        for context in &contexts {
            // What a token selects does not depend on those behind it: each context is a beginning of the longest.
            let runs: Vec<_> = runs.iter().filter_map(|run| beginning(run, *context)).collect();
            if !runs.is_empty() {
                table.push_str(&rows(&model, name, *context, &runs, &mut curves));
                means.push_str(&means_row(&model, name, *context, &runs));
            }
        }
    }
    println!("{table}\n{means}");
    std::fs::write(plot, svg(&curves))?;
    Ok(())
}

/// Contexts, ascending.
fn contexts(list: &str) -> Result<Vec<usize>, AnyError> {
    let mut contexts: Vec<usize> = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
    contexts.sort_unstable();
    if contexts[0] < LAST {
        Err(format!("a context has {LAST} tokens at least").into())
    } else {
        Ok(contexts)
    }
}

/// The first tokens of a run, where it is about as long.
fn beginning(run: &BTreeMap<u32, Selected>, context: usize) -> Option<BTreeMap<u32, Selected>> {
    let length = run.values().next()?.len();
    let cut = |(layer, tokens): (&u32, &Selected)| (*layer, tokens[..context.min(length)].to_vec());
    (length + 32 >= context).then(|| run.iter().map(cut).collect())
}

fn prompts(model: &Model, file: &str, longest: usize) -> Result<Vec<Vec<u32>>, AnyError> {
    let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
    if let Ok(tensors) = SafeTensors::deserialize(&bytes) {
        let view = tensors.tensor("prompts")?;
        let width = *view.shape().last().ok_or("prompts have no shape")?;
        let ids: Vec<u32> =
            view.data().chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
        let rows = ids.chunks(width).take(PROMPTS);
        let prompt = |row: &[u32]| row.iter().copied().filter(|id| *id != 65535).take(longest).collect();
        return Ok(rows.map(prompt).collect());
    }
    let tokens = Tokenizer::of(model)?.encode(std::str::from_utf8(&bytes)?)?;
    Ok(tokens.chunks_exact(longest).take(PROMPTS).map(<[u32]>::to_vec).collect())
}

/// The selections of every oracle layer over one prompt.
fn run(model: &Arc<Model>, prompt: &[u32]) -> Result<BTreeMap<u32, Selected>, AnyError> {
    let mut session =
        Session::new(model.clone(), &SessionOptions { max_sequences: Some(1), ..Default::default() })?;
    let id = session.add_sequence()?;
    session.feed(id, prompt)?;
    let mut selected: BTreeMap<u32, Selected> = BTreeMap::new();
    while session.pending(id)? > 0 {
        session.step_observed(&mut |step, engine| {
            let (StepOp::OracleAttention(ops::OracleAttention { select, .. }), Some(layer)) =
                (step.op, step.layer)
            else {
                return;
            };
            let Some(Operand::Buffer(at)) = step.operands.last() else { return };
            let Ok(Values::I32(list)) = engine.buffer(*at) else { return };
            let tokens = list.chunks((select.kv_heads * select.blocks) as usize);
            let sets = |token: &[i32]| {
                let heads = token.chunks(select.blocks as usize);
                heads.map(|head| head.iter().copied().filter(|block| *block >= 0).collect()).collect()
            };
            selected.entry(layer).or_default().extend(tokens.map(sets));
        })?;
    }
    Ok(selected)
}

fn select_shape(model: &Model) -> (usize, usize) {
    let shape = model.plan().steps.iter().find_map(|step| match step.op {
        StepOp::OracleAttention(ops::OracleAttention { select, .. }) => {
            Some((select.block as usize, select.blocks as usize))
        }
        _ => None,
    });
    shape.unwrap_or((1, 1))
}

/// Distinct blocks that `n` tokens choose uniformly at random, `kept` each of `visible`.
fn uniform(visible: f64, kept: usize, n: usize) -> f64 {
    visible * (1.0 - (1.0 - (kept as f64 / visible).min(1.0)).powi(n as i32))
}

/// Distinct blocks of each whole group of `n` neighbours among the last tokens.
fn distinct(tokens: &Selected, head: usize, n: usize) -> impl Iterator<Item = f64> {
    let first = tokens.len().saturating_sub(LAST);
    tokens[first..].chunks_exact(n).map(move |group| {
        let union: BTreeSet<i32> = group.iter().flat_map(|token| &token[head]).copied().collect();
        union.len() as f64
    })
}

fn means_head() -> String {
    let columns: Vec<String> = MEANS.iter().map(|n| format!(" of {n} (uniform) |")).collect();
    let line = "---|".repeat(MEANS.len());
    format!("| source | context | block | tokens kept |{}\n|---|---|---|---|{line}\n", columns.concat())
}

/// Means over layers, KV heads and runs, in units of the blocks that a token selects.
fn means_row(model: &Model, name: &str, context: usize, runs: &[BTreeMap<u32, Selected>]) -> String {
    let (block, kept) = select_shape(model);
    let mean = |n: usize| {
        let mut mean = Mean::default();
        for tokens in runs.iter().flat_map(BTreeMap::values) {
            (0..tokens[0].len()).flat_map(|head| distinct(tokens, head, n)).for_each(|d| mean.add(d));
        }
        let visible = (context as f64 / block as f64).ceil();
        format!(" {:.2} ({:.1}) |", mean.get() / kept as f64, uniform(visible, kept, n) / kept as f64)
    };
    let cells: Vec<String> = MEANS.iter().map(|n| mean(*n)).collect();
    format!("| {name} | {context} | {block} | {} |{}\n", block * kept, cells.concat())
}

fn rows(
    model: &Model,
    name: &str,
    context: usize,
    runs: &[BTreeMap<u32, Selected>],
    curves: &mut BTreeMap<String, [Mean; 3]>,
) -> String {
    let (block, kept) = select_shape(model);
    let uniform = NEIGHBOURS.map(|n| uniform((context as f64 / block as f64).ceil(), kept, n));
    let layers: Vec<u32> = runs[0].keys().copied().collect();
    let mut out = String::new();
    for layer in &layers {
        let heads = runs[0][layer][0].len();
        for head in 0..heads {
            let mut means = [Mean::default(); 3];
            let (mut other_head, mut other_layer) = (Mean::default(), Mean::default());
            for run in runs {
                let tokens = &run[layer];
                let first = tokens.len().saturating_sub(LAST);
                for (i, n) in NEIGHBOURS.iter().enumerate() {
                    distinct(tokens, head, *n).for_each(|d| means[i].add(d));
                }
                for t in first..tokens.len() {
                    let shared = |other: &BTreeSet<i32>| {
                        let own = &tokens[t][head];
                        own.intersection(other).count() as f64 / own.len().max(1) as f64
                    };
                    (0..heads).filter(|h| *h != head).for_each(|h| other_head.add(shared(&tokens[t][h])));
                    layers
                        .iter()
                        .filter(|l| *l != layer)
                        .for_each(|l| other_layer.add(shared(&run[l][t][head])));
                }
            }
            let d = means.map(Mean::get);
            out.push_str(&format!(
                "| {name} | {context} | {layer} | {head} | {:.1} | {:.1} | {:.1} | {:.1} {:.1} {:.1} | {:.0} % | {:.0} % |\n",
                d[0],
                d[1],
                d[2],
                uniform[0],
                uniform[1],
                uniform[2],
                100.0 * other_head.get(),
                100.0 * other_layer.get()
            ));
            let curve = curves.entry(format!("{name}, {context}")).or_default();
            d.iter().zip(curve.iter_mut()).for_each(|(d, mean)| mean.add(*d));
            let random = curves.entry(format!("uniform, {context}")).or_default();
            uniform.iter().zip(random.iter_mut()).for_each(|(u, mean)| mean.add(*u));
        }
    }
    out
}

/// Distinct blocks by neighbours, one line per source and context.
fn svg(curves: &BTreeMap<String, [Mean; 3]>) -> String {
    let most = curves.values().flatten().map(|m| m.get()).fold(1.0, f64::max);
    let (x, y) = (|i: usize| 60.0 + 130.0 * i as f64, |v: f64| 330.0 - 290.0 * v / most);
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"560\" height=\"380\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"560\" height=\"380\" fill=\"white\"/>\n\
         <text x=\"60\" y=\"20\">distinct blocks chosen by neighbouring tokens (mean over layers and KV heads)</text>\n",
    );
    for (i, n) in NEIGHBOURS.iter().enumerate() {
        out.push_str(&format!("<text x=\"{}\" y=\"350\" text-anchor=\"middle\">{n} tokens</text>\n", x(i)));
    }
    for step in 0..=4 {
        let v = most * f64::from(step) / 4.0;
        out.push_str(&format!(
            "<line x1=\"50\" x2=\"330\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"44\" y=\"{1:.1}\" text-anchor=\"end\">{v:.0}</text>\n",
            y(v),
            y(v) + 4.0
        ));
    }
    for (i, (name, means)) in curves.iter().enumerate() {
        let hue = 360 * i / curves.len().max(1);
        let dash = if name.starts_with("uniform") { " stroke-dasharray=\"4 3\"" } else { "" };
        let points: Vec<String> =
            means.iter().enumerate().map(|(i, m)| format!("{:.1},{:.1}", x(i), y(m.get()))).collect();
        let colour = format!("hsl({hue},70%,40%)");
        out.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n\
             <text x=\"350\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            points.join(" "),
            60 + 18 * i
        ));
    }
    out + "</svg>\n"
}
